"""Keep what a dataset reads inside it: no row and no card makes us open a file or an address elsewhere.

A row may name its image by a path instead of holding its bytes, and `datasets` opens whatever that is: any
file of this machine, any address. Nobody has to notice, since images are opened late and by many readers.
Rows are therefore checked once, when a split is opened: an image that lies outside is replaced by the reason
not to open it, which `common.images` raises for whoever reads the image. The files that a card names are
checked before `datasets` looks for them.

Inside are the files below the dataset's folder, members of archives there, and, for a dataset on the Hub, the
files of its repository at its revision. A link counts by where it leads.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path, PurePath

import pyarrow as pa
import pyarrow.compute as pc
from datasets import (
    Dataset,
    DatasetBuilder,
    Image,
    IterableDataset,
    Json,
    LargeList,
    List,
    Value,
    concatenate_datasets,
    config,
)
from datasets.fingerprint import Hasher
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCard, DatasetCardData, hf_hub_download
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.repocard import REGEX_YAML_BLOCK

from ..errors import InputError, one_line
from ..images import refused_image
from .yaml_files import YAMLError, read_yaml, refuse_exploding

FLAG = "allow_outside_images"
# How `datasets` writes members of archives: `zip://a.png::/data/pictures.zip`.
_ARCHIVES = ("zip://", "tar://", "gzip://", "bz2://", "xz://", "lz4://", "zstd://")
_HUB = "hf://datasets/"
_CARDS = (config.REPOCARD_FILENAME, config.REPOYAML_FILENAME)  # that may name data files
# What `datasets` and PyYAML raise of a card with values of other types, or whose head is no YAML.
_UNREADABLE = (YAMLError, ValueError, TypeError, AttributeError, RecursionError)
_REASON = f"it lies outside of the dataset: put it inside, or add --{FLAG} if you trust the data"


class Source:
    """Where the files of one dataset may lie.

    Args:
        dataset: the folder or Hub id.
        files: its data files, as `datasets` has resolved them.
    """

    def __init__(self, dataset: str, files: list[str]):
        self.dataset = dataset
        self.files = files

    @cached_property
    def folders(self) -> set[str]:
        """The absolute paths of the folders below which images may lie."""
        addresses = [file for file in self.files if "://" in file]
        folders = {os.path.dirname(file) for file in set(self.files).difference(addresses)}
        if Path(self.dataset).is_dir():
            folders.add(self.dataset)
            folders |= _files_of_snapshot(Path(self.dataset))
        else:
            # Where the client of the Hub puts the files that it downloads from the repository.
            folders.add(
                os.path.join(HF_HUB_CACHE, repo_folder_name(repo_id=self.dataset, repo_type="dataset"))
            )
        if any(not file.startswith(_HUB) for file in addresses):
            folders.add(str(config.DOWNLOADED_DATASETS_PATH))  # of addresses that the user gave
        absolute = {os.path.abspath(folder) for folder in folders}
        return absolute | {os.path.realpath(folder) for folder in absolute}

    @cached_property
    def repositories(self) -> set[str]:
        """The beginnings of addresses of the repository at its revision: `hf://datasets/org/name@rev/`."""
        # hf://datasets/org/name@rev/data/a.parquet -> its first three parts behind the scheme
        return {
            _HUB + "/".join(file.removeprefix(_HUB).split("/")[:2]) + "/"
            for file in self.files
            if file.startswith(_HUB)
        }

    @cached_property
    def real_folders(self) -> dict[str, str]:
        """The real path of each folder of images that was looked at."""
        return {}

    def holds(self, path: str) -> bool:
        """Check, without opening anything, that an image lies inside: `/data/a.png`, `zip://a.png::/data/b.zip`."""
        *members, file = path.split("::")
        if not all(member.startswith(_ARCHIVES) for member in members):
            return False
        if "://" in file:
            in_repository = any(file.startswith(repository) for repository in self.repositories)
            return (in_repository and ".." not in file.split("/")) or file in self.files
        # By its name first: on Windows, looking at \\host\share would already be a request.
        return "\0" not in file and self._is_below(os.path.abspath(file)) and self._leads_inside(file)

    def _is_below(self, path: str) -> bool:
        return any(path.startswith(folder.rstrip(os.sep) + os.sep) for folder in self.folders)

    def _leads_inside(self, file: str) -> bool:
        """Check that no link on the way leads outside, and that it is no pipe or device."""
        folder, name = os.path.split(os.path.abspath(file))
        if folder not in self.real_folders:
            self.real_folders[folder] = os.path.realpath(folder)
        real = os.path.join(self.real_folders[folder], name)
        if os.path.islink(real):
            real = os.path.realpath(real)
        # A file that is missing is reported by whoever reads it.
        return self._is_below(real) and (os.path.isfile(real) or not os.path.exists(real))


def source_of_builder(dataset: str, builder: DatasetBuilder) -> Source:
    """Return where the files of a dataset may lie, from the data files that its builder has found."""
    files = []
    for paths in (builder.config.data_files or {}).values():
        files += map(str, paths)
    return Source(dataset, files)


def _files_of_snapshot(folder: Path) -> set[str]:
    """Return where the links of a folder in the Hub's cache lead: `snapshots/REVISION` to `blobs`."""
    blobs = folder.resolve().parent.parent / "blobs"
    is_snapshot = folder.resolve().parent.name == "snapshots" and blobs.is_dir()
    return {str(blobs)} if is_snapshot else set()


def keep_inside(
    rows: Dataset | IterableDataset, source: Source, image: str = "image"
) -> Dataset | IterableDataset:
    """Return the same rows, with the reason in place of each image that lies outside.

    Rows of a stream come with undecoded images, and rows without such an image as they are.

    Args:
        image: the column that readers take for images whatever its type is. JSON, CSV and plain parquet have
            texts or dicts there, which name files no less than images do; it is returned as images.

    Raises:
        InputError: that column holds nothing that could be an image.
    """
    if isinstance(rows, IterableDataset) and rows.features is None:
        rows = rows._resolve_features()  # from the first rows, as of CSV
    rows = _as_images(rows, source, image)
    if isinstance(rows, IterableDataset):
        return _stream_inside(rows, source)
    for column, kind in rows.features.items():
        if isinstance(kind, Image):
            outside = _find_outside(rows, column, source)
            if outside:
                rows = _refuse(rows, column, outside)
    return rows


def _as_images(rows: Dataset | IterableDataset, source: Source, column: str) -> Dataset | IterableDataset:
    """Return rows whose column is of undecoded images, if they have it and its type is another.

    Raises:
        InputError: its values cannot be images.
    """
    kind = (rows.features or {}).get(column)
    if kind is None or isinstance(kind, Image):
        return rows
    if not _may_be_image(kind):
        raise InputError(
            f"column {column!r} of dataset {source.dataset!r} holds {kind}: give images, their bytes or "
            "their paths"
        )
    return rows.cast_column(column, Image(decode=False))


def _may_be_image(kind) -> bool:
    """Check whether `datasets` reads values of a type as images: paths, bytes, both in a dict, or pixels."""
    if isinstance(kind, dict):
        return not {"bytes", "path"}.isdisjoint(kind)
    is_list = isinstance(kind, List | LargeList)
    while isinstance(kind, List | LargeList):
        kind = kind.feature
    if not isinstance(kind, Value):
        return not is_list and not isinstance(kind, dict)
    is_number = pa.types.is_integer(kind.pa_type) or pa.types.is_floating(kind.pa_type)
    return is_number == is_list and not pa.types.is_boolean(kind.pa_type)


def _find_outside(rows: Dataset, column: str, source: Source) -> frozenset[int]:
    """Return the numbers of the rows whose image lies outside."""
    outside = []
    start = 0
    for chunk in rows.select_columns([column]).with_format("arrow")[column][:].chunks:
        is_named = pc.and_(chunk.field("bytes").is_null(), chunk.field("path").is_valid())
        numbers = pc.indices_nonzero(is_named)
        paths = chunk.field("path").take(numbers)
        for number, path in zip(numbers.to_pylist(), paths.to_pylist()):
            if not source.holds(path):
                outside.append(start + number)
        start += len(chunk)
    return frozenset(outside)


def _refuse(rows: Dataset, column: str, outside: frozenset[int]) -> Dataset:
    """Return the rows with the reason in place of the images with the numbers `outside`."""
    undecoded = rows.select_columns([column]).cast_column(column, Image(decode=False))
    refused = undecoded.map(
        partial(_refuse_numbers, column=column, outside=outside),
        with_indices=True,
        features=undecoded.features,
        new_fingerprint=Hasher.hash([rows._fingerprint, column, sorted(outside)]),
        desc="Refusing images outside of the dataset",
    )
    images = refused.cast_column(column, rows.features[column])
    others = rows.remove_columns([column])
    together = concatenate_datasets([others, images], axis=1) if others.column_names else images
    return together.select_columns(rows.column_names)


def _refuse_numbers(row: dict, number: int, column: str, outside: frozenset[int]) -> dict:
    image = row[column]
    return {column: refused_image(image["path"], _REASON) if number in outside else image}


def _stream_inside(rows: IterableDataset, source: Source) -> IterableDataset:
    """Return a stream whose rows are checked as they come; no row of it decodes an image or a sound."""
    if rows.features is None:
        return rows  # of texts: only a type that is stated can be an image
    features = rows.features.copy()
    images = []
    for column, kind in rows.features.items():
        features[column] = _undecoded(kind)
        if isinstance(kind, Image):
            images.append(column)
        if features[column] != kind:
            rows = rows.cast_column(column, features[column])
    if not images:
        return rows
    # Given to `map` itself, the types would say that JSON is decoded already, and images too.
    return rows.map(partial(_check_row, columns=images, source=source)).cast(features)


def _check_row(row: dict, columns: list[str], source: Source) -> dict:
    return {column: _check_image(row[column], source) for column in columns}


def _check_image(image: dict | None, source: Source) -> dict | None:
    """Return an undecoded image as it may go on: itself, or the reason not to open it."""
    if image is None or image["path"] is None:
        return image
    if image["bytes"] is not None:
        # `datasets` drops the bytes of a stream's image where its path is a file, and later reads that file.
        name = PurePath(image["path"]).name
        return {"bytes": image["bytes"], "path": None if os.path.isfile(name) else name}
    return image if source.holds(image["path"]) else refused_image(image["path"], _REASON)


def _undecoded(kind):
    """Return the type of a column whose images and sounds are not decoded, also those in lists and dicts."""
    if isinstance(kind, dict):
        return {key: _undecoded(value) for key, value in kind.items()}
    if isinstance(kind, List):
        return List(_undecoded(kind.feature), length=kind.length)
    if isinstance(kind, LargeList):
        return LargeList(_undecoded(kind.feature))
    # JSON is decoded from its own text; all other types that are decoded may name a file.
    opens_files = getattr(kind, "decode", False) is True and not isinstance(kind, Json)
    return replace(kind, decode=False) if opens_files else kind


def refuse_outside_files(dataset: str, revision: str | None = None) -> None:
    """Refuse a dataset whose card names data files outside of it, before `datasets` looks for them.

    Raises:
        InputError: a file lies elsewhere; the message names it. Or the card cannot be read.
    """
    for name in _CARDS:
        card = _find_card(dataset, name, revision)
        if card is None:
            continue
        for pattern in _patterns_of(card, f"{name} of dataset {dataset!r}"):
            if not _stays_inside(pattern, dataset):
                raise InputError(
                    f"{name} of dataset {dataset!r} names {pattern!r}, which lies outside of it: take "
                    f"it out, or add --{FLAG} if you trust the data"
                )


def _find_card(dataset: str, name: str, revision: str | None) -> Path | None:
    """Return the path of a card, downloaded unless the dataset is a folder; None if there is none."""
    if Path(dataset).is_dir():
        card = Path(dataset, name)
        return card if card.is_file() else None
    try:
        return Path(hf_hub_download(dataset, name, repo_type="dataset", revision=revision))
    except (OSError, ValueError, HfHubHTTPError):
        return None  # the dataset cannot be loaded either, or only from the cache of `datasets`


def _patterns_of(card: Path, origin: str) -> list[str]:
    """Return the files and folders that the configurations in a card name, as patterns.

    Args:
        origin: the card, for messages.

    Raises:
        InputError: it cannot be read.
    """
    with _readable(origin):
        data = _data_of_card(card, origin)
        configurations = MetadataConfigs.from_dataset_card_data(data).values()
    patterns = []
    for settings in configurations:
        patterns += _texts_in(settings.get("data_files")) + _texts_in(settings.get("data_dir"))
    return patterns


def read_card(card: Path, origin: str) -> DatasetCardData | dict:
    """Read what the YAML of a dataset's card says.

    Args:
        origin: the card, for messages.

    Raises:
        InputError: it cannot be read.
    """
    with _readable(origin):
        return _data_of_card(card, origin)


@contextmanager
def _readable(origin: str) -> Iterator[None]:
    """Turn errors of reading a card into an `InputError`."""
    try:
        yield
    except InputError:
        raise
    except _UNREADABLE as error:
        raise InputError(
            f"the YAML of {origin} cannot be read: {one_line(error)}: fix or delete it"
        ) from error


def _data_of_card(card: Path, origin: str) -> DatasetCardData | dict:
    if card.suffix != ".md":
        return read_yaml(card, "card") or {}
    block = REGEX_YAML_BLOCK.search(card.read_text("utf-8"))
    if block:
        refuse_exploding(block.group(2), origin)
    return DatasetCard.load(card, ignore_metadata_errors=True).data


def _texts_in(files) -> list[str]:
    """Return the texts of a card's `data_files`: `[{"split": "train", "path": ["a", "b"]}]` -> a, b."""
    if isinstance(files, str):
        return [files]
    if isinstance(files, dict):
        return _texts_in(files["path"] if "path" in files else list(files.values()))
    texts = []
    for item in files if isinstance(files, list) else []:
        texts += _texts_in(item)
    return texts


def _stays_inside(pattern: str, dataset: str) -> bool:
    """Check that a pattern of files is relative to the dataset, or names its own repository on the Hub."""
    *members, file = pattern.split("::")
    if not all(member.startswith(_ARCHIVES) for member in members):
        return False
    own = f"{_HUB}{dataset}"
    if file.startswith((f"{own}/", f"{own}@")):
        return ".." not in file.split("/")
    if "://" in file or file.startswith(("~", "\\")):
        return False
    folder = os.path.abspath(dataset)
    path = os.path.abspath(os.path.join(folder, file))
    return path == folder or path.startswith(folder + os.sep)


__all__ = ["FLAG", "Source", "keep_inside", "read_card", "refuse_outside_files", "source_of_builder"]
