"""Complete the card of a data set: where its splits lie, what they hold, and its licence.

What `Dataset.push_to_hub` writes of a data set in memory is written here of files as they are, so that
caches, embeddings and images are pushed in the form in which they are used.
"""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
from datasets import (
    DatasetBuilder,
    DatasetInfo,
    Features,
    IterableDataset,
    SplitDict,
    SplitInfo,
    get_dataset_config_names,
)
from datasets.info import DatasetInfosDict
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCard, DatasetCardData
from tqdm.auto import tqdm

from benchmarks.results import format_table
from common.errors import InputError, one_line
from common.files.rows import find_builder
from common.files.whole_files import write_text
from common.files.yaml_files import YAMLError
from common.markdown import markdown_text

CARD = "README.md"
_ROWS = 1000  # in memory at once
_Answer = TypeVar("_Answer")


def complete_card(folder: Path, license: str | None) -> None:
    """Write the metadata that a data set's card lacks; make the card if there is none.

    All rows are read once, so that a file that nobody could read is found before it is pushed.

    Args:
        license: as the Hub names it; None leaves what the card says.

    Raises:
        InputError: the card cannot be read, `datasets` cannot read the files, or no licence is stated.
    """
    path = folder / CARD
    card = _read_card(path)
    _set_licence(card.data, license, path)
    if "configs" not in card.data:
        MetadataConfigs({"default": _find_files(folder)}).to_dataset_card_data(card.data)
        # From here on the card says what `datasets` would guess, and so it is read by the card.
        write_text(path, str(card))

    names = _ask_datasets(folder, lambda: get_dataset_config_names(str(folder)))
    infos = DatasetInfosDict({name: _read(folder, name) for name in names})
    infos.to_dataset_card_data(card.data)
    if not card.text.strip():
        card.text = _describe(folder, infos)
    write_text(path, str(card))


def _read_card(path: Path) -> DatasetCard:
    """Read a card; return one without text where there is none."""
    if not path.is_file():
        return DatasetCard(f"---\n{DatasetCardData()}\n---\n")
    try:
        return DatasetCard.load(path)
    except (ValueError, YAMLError) as error:
        raise InputError(
            f"the metadata of {str(path)!r} cannot be read ({one_line(error)}): correct the lines between "
            "its first two ---"
        ) from error


def _set_licence(metadata: DatasetCardData, license: str | None, path: Path) -> None:
    """Set the licence that is given; see that there is one.

    Raises:
        InputError: neither the card nor the caller states any; or both do, and they differ.
    """
    stated = metadata.get("license")
    if license is None and stated is None:
        raise InputError(
            f"the metadata of {str(path)!r} have no license: add --license, with an identifier of "
            "https://huggingface.co/docs/hub/repositories-licenses. Embeddings are under the terms of the "
            "data and the model that they were made of"
        )
    if license is not None and stated not in (None, license):
        raise InputError(
            f"license is {license!r}, and {str(path)!r} states {stated!r}: leave --license out, or correct "
            "the card"
        )
    metadata["license"] = stated or license


def _find_files(folder: Path) -> dict:
    """Return the files of each split as `datasets` finds them, for the `configs` of a card.

    `{"data_files": [{"split": "train", "path": ["data/*.parquet"]}]}`
    """
    files_of_split = _ask_datasets(folder, lambda: _find_builder(folder).config.data_files)
    data_files = []
    for split, files in files_of_split.items():
        names = sorted(Path(file).relative_to(folder.resolve()).as_posix() for file in files)
        data_files.append({"split": str(split), "path": _shorten(folder, names)})
    return {"data_files": data_files}


def _shorten(folder: Path, names: list[str]) -> list[str]:
    """Return a pattern in place of names, if it matches these files alone; a cache has thousands."""
    first = Path(names[0])
    pattern = (first.parent / f"*{first.suffix}").as_posix()
    matching = sorted(path.relative_to(folder).as_posix() for path in folder.glob(pattern))
    return [pattern] if matching == names else names


def _find_builder(folder: Path, configuration: str | None = None) -> DatasetBuilder:
    return find_builder(str(folder), path=str(folder), name=configuration)


def _read(folder: Path, configuration: str) -> DatasetInfo:
    """Read all rows of a configuration; return its columns, and the rows and bytes of its splits."""
    builder = _ask_datasets(folder, lambda: _find_builder(folder, configuration))
    stream = _ask_datasets(folder, builder.as_streaming_dataset)
    files = [Path(file) for files in builder.config.data_files.values() for file in files]
    splits = SplitDict(dataset_name=builder.dataset_name)
    features = None
    for split, rows in stream.items():
        counted, read = _ask_datasets(folder, partial(_count, rows, str(split)))
        splits.add(counted)
        features = features or read
    return DatasetInfo(
        features=features,
        splits=splits,
        download_size=sum(file.stat().st_size for file in files),
        dataset_size=sum(split.num_bytes for split in splits.values()),
    )


def _count(rows: IterableDataset, split: str) -> tuple[SplitInfo, Features]:
    """Count the rows of a split and their bytes; return also its columns."""
    tables: Iterable[pa.Table] = rows.with_format("arrow").iter(batch_size=_ROWS)
    info = SplitInfo(split)
    features = rows.features
    with tqdm(desc=f"Reading {split}", unit="row", leave=False) as bar:
        for table in tables:
            features = features or Features.from_arrow_schema(table.schema)
            info.num_examples += table.num_rows
            info.num_bytes += table.nbytes
            bar.update(table.num_rows)
    return info, features


def _ask_datasets(folder: Path, question: Callable[[], _Answer]) -> _Answer:
    """Return what `datasets` answers.

    Raises:
        InputError: it finds no data in the folder, or cannot read them; or a card names files outside of it.
    """
    try:
        return question()
    except InputError:
        raise
    except Exception as error:  # each of its readers raises its own
        raise InputError(
            f"datasets.load_dataset cannot read folder {str(folder)!r} ({one_line(error)}): give a folder of "
            "parquet, Arrow or other files that it reads, or correct configs in its README.md"
        ) from error


def _describe(folder: Path, infos: dict[str, DatasetInfo]) -> str:
    """Return the text of a card: the splits with their rows, and the columns."""
    splits = []
    columns = []
    for name, info in infos.items():
        for split in info.splits.values():
            splits.append([name, split.name, f"{split.num_examples:,}"])
        for column, feature in info.features.items():
            columns.append([name, column, feature])
    title = markdown_text(folder.resolve().name)
    tables = [
        format_table(["configuration", "split", "rows"], splits),
        format_table(["configuration", "column", "type"], columns),
    ]
    return "\n\n".join([f"\n# {title}", *tables]) + "\n"


__all__ = ["CARD", "complete_card"]
