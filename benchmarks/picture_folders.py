"""Folders of pictures: what `datasets` would leave out of them without a word is read, or told.

`datasets` guesses splits from names: one `train station.png` among others, and it reads that picture alone,
without its caption. A folder with `metadata.jsonl`, `.csv` or `.parquet` is therefore read as one split,
`train`, whatever its pictures are called; where there is none, see `left_out`.
"""

import os
import warnings
from collections.abc import Iterable
from glob import escape
from pathlib import Path, PurePosixPath
from zipfile import ZipFile

from datasets import Dataset
from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

from .endings import PICTURES, files_below, is_hidden, suffix_of
from .recipe import InputError


def source_of(dataset: str, name: str | None = None) -> dict:
    """Return the arguments by which `load_dataset` finds a dataset, in a folder or on the Hub.

    `name` is its configuration.
    """
    if name is None and has_metadata(Path(dataset)):
        return {"path": "imagefolder", "data_dir": escape(dataset), "data_files": {"train": ["**"]}}
    return {"path": dataset, "name": name}


def has_metadata(folder: Path) -> bool:
    """Return whether a folder's images have their captions in one file beside them, and no card or folder
    names other splits.
    """
    if has_card_of_splits(folder):
        return False
    beside = any((folder / name).is_file() for name in ImageFolder.METADATA_FILENAMES)
    below = (path.name for path in folder.rglob("metadata.*") if path.parent != folder)
    return beside and not any(name in ImageFolder.METADATA_FILENAMES for name in below)


def has_card_of_splits(folder: Path) -> bool:
    card = folder / "README.md"
    return card.is_file() and "configs:" in card.read_text("utf-8", errors="replace")


def pictures_below(folder: Path) -> list[Path]:
    """Find all images of a folder and its subfolders, without hidden ones, as `datasets` does."""
    return files_below(folder, PICTURES)


def paths_of(encoded: Dataset) -> list[str | None]:
    """Return the path of each undecoded image, where it has one."""
    chunks = encoded.with_format("arrow")["image"][:].chunks
    return [path for chunk in chunks for path in chunk.field("path").to_pylist()]


def pictures_without_row(dataset: str, paths: Iterable[str | None]) -> list[str]:
    """Find images of a folder, and of its zips, that no row of its metadata names.

    Datasets of other forms have none.

    A picture is looked for in the metadata beside it or above it. Those of metadata of which no row is given
    are another split's.

    Args:
        paths: of the rows' pictures.
    """
    folder = Path(dataset).resolve()  # as `datasets` has it
    if not folder.is_dir() or has_card_of_splits(folder):
        return []
    metadata, pictures = files_of_pictures(folder)
    if not metadata:
        return []
    in_rows = {normal(path) for path in paths if path}
    read = {metadata_of(path, metadata) for path in in_rows} | {None}
    return [path for path in pictures if path not in in_rows and metadata_of(path, metadata) in read]


def is_named_by_metadata(dataset: str) -> bool:
    """Return whether a dataset is a folder with metadata anywhere, in a zip too."""
    folder = Path(dataset).resolve()
    return folder.is_dir() and not has_card_of_splits(folder) and bool(files_of_pictures(folder)[0])


def files_of_pictures(folder: Path) -> tuple[set[str], list[str]]:
    """Find the folders that have metadata, and all images, of a folder and its zips.

    What a zip has as `zip://NAME::ZIP`.
    """
    metadata = {
        str(path.parent) for path in folder.rglob("metadata.*") if path.name in ImageFolder.METADATA_FILENAMES
    }
    pictures = list(map(str, pictures_below(folder)))
    for path in files_below(folder, {".zip"}):
        with ZipFile(path) as archive:
            names = [name for name in archive.namelist() if not is_hidden(PurePosixPath(name))]
        metadata |= {
            f"zip://{parent_of(name)}::{path}"
            for name in names
            if PurePosixPath(name).name in ImageFolder.METADATA_FILENAMES
        }
        pictures += [f"zip://{name}::{path}" for name in names if suffix_of(name) in PICTURES]
    return metadata, pictures


def metadata_of(path: str, metadata: set[str]) -> str | None:
    """Find the nearest folder at or above an image, in its zip or around it, that has metadata.

    None where there is none.
    """
    inside, _, around = (
        path.removeprefix("zip://").partition("::") if path.startswith("zip://") else ("", "", path)
    )
    while inside:
        inside = parent_of(inside)
        if f"zip://{inside}::{around}" in metadata:
            return f"zip://{inside}::{around}"
    return next((str(parent) for parent in Path(around).parents if str(parent) in metadata), None)


def parent_of(name: str) -> str:
    """Return the folder of a file in a zip, "" for the zip itself."""
    return name.rpartition("/")[0]


def normal(path: str) -> str:
    """Normalize a row's path, in a zip or not: no `..`, no doubled slashes."""
    return path if "://" in path else os.path.abspath(path)


def say_without_row(without_row: list[str], dataset: str) -> str:
    """Say how many pictures no row names, and the first of them."""
    return (
        f"{len(without_row)} pictures of dataset {dataset!r} have no row in its metadata and are left out, "
        f"{without_row[0]} first"
    )


def warn_of_pictures_without_row(rows: Dataset, dataset: str) -> None:
    """Warn where a folder has pictures that no row of undecoded `image` names: they are not evaluated."""
    without_row = pictures_without_row(dataset, paths_of(rows.select_columns(["image"])))
    if without_row:
        warnings.warn(say_without_row(without_row, dataset), stacklevel=4)


def refuse_missing(rows: Dataset, dataset: str) -> None:
    """Refuse rows of undecoded `image` of which a file is not there, before any of them is read.

    Raises:
        InputError: it counts them and names the first.
    """
    column = rows.select_columns(["image"]).with_format("arrow")["image"][:]
    missing = []
    for chunk in column.chunks:
        for path, content in zip(chunk.field("path").to_pylist(), chunk.field("bytes").is_null().to_pylist()):
            if content and path is not None and "://" not in path and not Path(path).is_file():
                missing.append(path)
    if missing:
        raise InputError(
            f"dataset {dataset!r} names {len(missing)} of {len(rows)} pictures that are not there, "
            f"{missing[0]} first: "
            "put them there, or take them out of its metadata"
        )


__all__ = [
    "has_card_of_splits",
    "has_metadata",
    "is_named_by_metadata",
    "paths_of",
    "pictures_below",
    "pictures_without_row",
    "refuse_missing",
    "say_without_row",
    "source_of",
    "warn_of_pictures_without_row",
]
