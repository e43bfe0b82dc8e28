"""Load the rows of a dataset from a folder or the Hub, with errors that a user can act on."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from zipfile import BadZipFile

from datasets import Dataset, DatasetBuilder, Image, IterableDataset, load_dataset, load_dataset_builder
from datasets.exceptions import DatasetGenerationError
from datasets.packaged_modules.folder_based_builder.folder_based_builder import FolderBasedBuilderConfig
from datasets.packaged_modules.parquet.parquet import ParquetConfig
from pyarrow.dataset import ParquetFragmentScanOptions

from ..errors import InputError, one_line
from ..paths import check_folder
from .archives import refuse_bombs
from .contents import contents_of
from .endings import TEXTS, files_below
from .image_folders import source_of
from .json_files import refuse_repeated_keys
from .left_out_files import odd_endings, refuse_left_out
from .outside import keep_inside, refuse_outside_files, source_of_builder
from .tars import of_tars
from .yaml_files import YAMLError

# Errors of reading a dataset: of the Hub; of an unknown split or a text that is not UTF-8; of rows that
# cannot be read; of half a zip.
READING = (OSError, ValueError, DatasetGenerationError, BadZipFile)
# Errors of `datasets` where a card has other types than it expects.
_OF_CARDS = (AttributeError, KeyError, RecursionError, TypeError, YAMLError)
# By default the whole of a file of parquet is read ahead, and lies in memory: of a stream only the first rows
# are taken, and a corpus of 10 million rows is a GB.
_LITTLE_AHEAD = ParquetFragmentScanOptions(pre_buffer=False)
_WILDCARDS = set("*?[]")


def load_rows(
    dataset: str, split: str, columns: list[str], name: str | None = None, *, allow_outside: bool = False
) -> Dataset:
    """Load one split of a folder or Hub dataset that has all of `columns`.

    Args:
        name: the configuration, if the dataset has several.
        allow_outside: open images and data files outside of the dataset as well, see `outside`.

    Raises:
        InputError: no such folder, dataset or split, a column is missing, or there are no rows.
    """
    check_folder("dataset", dataset)
    with readable_rows(dataset, split):
        source = source_of(dataset, name)
        if source["path"] == dataset:
            files = files_of(dataset, name, split, allow_outside=allow_outside)
            source["data_files"] = files
            if files:
                source["description"] = contents_of(chain(*files.values()))
        rows = open_rows(dataset, split, allow_outside=allow_outside, **source)

    missing = [column for column in columns if column not in rows.column_names]
    if missing:
        raise InputError(
            f"dataset {dataset!r} has no column {', '.join(missing)}: it has {', '.join(rows.column_names)}"
        )
    return rows


@contextmanager
def readable_rows(dataset: str, split: str) -> Iterator[None]:
    """Turn a failure to load a split into an error that says what is wrong with the dataset.

    Raises:
        InputError: it cannot be loaded.
    """
    try:
        yield
    except InputError:
        raise
    except READING as error:
        raise InputError(
            f"dataset {dataset!r}, split {split!r} cannot be loaded: {what_is_wrong(dataset, error)}"
        ) from error


def what_is_wrong(dataset: str, error: Exception) -> str:
    """Describe why a dataset cannot be read; name a file that is not UTF-8, which `datasets` does not do."""
    folder = Path(dataset)
    if folder.is_dir():
        for path in files_below(folder, TEXTS):
            try:
                for _ in path.open(encoding="utf-8"):
                    pass
            except UnicodeDecodeError as wrong:
                return f"{path} is not UTF-8, {wrong}: save it as UTF-8"
        odd = odd_endings(folder)
        if odd:
            return odd

    said = one_line(error.__cause__ or error)
    if said.endswith("corresponds to no data!"):  # `Instruction "train[:0]" corresponds to no data!`
        return "it has no rows, give another split, or data"
    if said.startswith("BatchSize must be greater than 0"):  # `datasets` counts a parquet file's first rows
        return "one of its parquet files begins without rows: take it out, or give another split"
    if folder.is_dir() and _WILDCARDS & set(dataset):
        wildcards = " ".join(sorted(_WILDCARDS))
        said += f" (`datasets` takes {wildcards} in a folder's name for wildcards: rename it)"
    return said


def open_rows(
    dataset: str,
    split: str,
    *,
    streaming: bool = False,
    allow_outside: bool = False,
    image: str = "image",
    **source,
) -> Dataset | IterableDataset:
    """Open a split as `load_dataset` does, but with the reader of `tars` for tars of images.

    Images that lie outside of the dataset are replaced by the reason not to open them. Images of a stream are
    undecoded.

    Args:
        dataset: the folder or Hub id.
        allow_outside: as for `load_rows`.
        image: the column of images, whatever its type is, if it is there.
        source: arguments of `load_dataset`, as `source_of` returns them.

    Raises:
        InputError: as `find_builder` and `keep_inside`.
    """
    builder = find_builder(dataset, allow_outside=allow_outside, **source)
    rows = _open_rows(builder, split, streaming, source)
    return rows if allow_outside else keep_inside(rows, source_of_builder(dataset, builder), image)


def _open_rows(
    builder: DatasetBuilder, split: str, streaming: bool, source: dict
) -> Dataset | IterableDataset:
    tars = of_tars(builder)
    is_parquet = isinstance(builder.config, ParquetConfig)
    if is_parquet:
        # Set afterwards, so that the key by which `datasets` knows prepared rows is that of `load_dataset`.
        builder.config.fragment_scan_options = _LITTLE_AHEAD
    if streaming:
        return (tars or builder).as_streaming_dataset(split=split)
    if tars is None and not is_parquet:
        return load_dataset(**source, split=split)
    prepared = tars or builder
    prepared.download_and_prepare()
    return prepared.as_dataset(split=split)


def find_builder(dataset: str, *, allow_outside: bool = False, **source) -> DatasetBuilder:
    """Find the data files of a dataset, as `load_dataset_builder` does.

    Raises:
        InputError: its card names files outside of it, or as `refuse_bombs`.
    """
    # The builders of `datasets`, such as `imagefolder`, read no card.
    if source["path"] == dataset and not allow_outside:
        refuse_outside_files(dataset, source.get("revision"))
    try:
        builder = load_dataset_builder(**source)
    except _OF_CARDS as error:
        raise InputError(
            f"what README.md or dataset_infos.json of dataset {dataset!r} says about its files and columns "
            f"cannot be read: {one_line(error)}: fix or delete it"
        ) from error
    for paths in (builder.config.data_files or {}).values():
        refuse_bombs(map(str, paths))
    if isinstance(builder.config, FolderBasedBuilderConfig):
        # A stream from the Hub would decode the images, and so open them, before they are checked.
        builder.config.decode_num_threads = 0
    return builder


def files_of(
    dataset: str, name: str | None, split: str, *, allow_outside: bool = False
) -> dict[str, list[str]] | None:
    """List a folder's files of one split for `load_dataset`; None for a Hub dataset, which has a revision.

    Without the list, `datasets` caches a folder with a card under the card alone, and would give old rows
    after the files were written anew. Files of other splits are left out, unless `split` is a slice such as
    `train[:100]`, which only `datasets` can parse.

    Raises:
        InputError: as `find_builder`, `refuse_left_out` and `refuse_repeated_keys`.
    """
    if not Path(dataset).is_dir():
        return None
    builder = find_builder(dataset, allow_outside=allow_outside, path=dataset, name=name)
    files = builder.config.data_files
    by_split = {str(name): list(paths) for name, paths in files.items()}
    refuse_left_out(dataset, by_split)
    if split in by_split:
        by_split = {split: by_split[split]}
    refuse_repeated_keys(chain(*by_split.values()))
    return by_split


def rename_image(rows: Dataset | IterableDataset, column: str) -> Dataset | IterableDataset:
    """Return the same rows with the images of `column`, undecoded, in the column `image`."""
    # Before the column is renamed: renaming a stream's column decodes it and encodes it once more.
    rows = rows.cast_column(column, Image(decode=False))
    return rows if column == "image" else rows.rename_column(column, "image")


__all__ = [
    "READING",
    "files_of",
    "find_builder",
    "load_rows",
    "open_rows",
    "readable_rows",
    "rename_image",
    "what_is_wrong",
]
