"""Folders of images: pictures that `datasets` would skip silently are read, or reported.

`datasets` guesses splits from names: one `train station.png` among others, and it reads that picture alone,
and without its caption. A folder with `metadata.jsonl`, `.csv` or `.parquet` is therefore read as one split,
`train`, whatever its pictures are called. For folders without metadata, see `left_out_files`.
"""

import os
import warnings
from collections.abc import Iterable
from glob import escape
from pathlib import Path, PurePosixPath
from zipfile import ZipFile

from datasets import Dataset
from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

from ..errors import InputError
from ..images import is_refused, path_of
from .contents import contents_of
from .endings import PICTURES, files_below, is_hidden, suffix_of


def source_of(dataset: str, name: str | None = None) -> dict:
    """Return the arguments by which `load_dataset` finds a dataset, in a folder or on the Hub.

    Args:
        name: the configuration, where it has several.
    """
    if name is None and has_metadata(Path(dataset)):
        source = {"path": "imagefolder", "data_dir": escape(dataset), "data_files": {"train": ["**"]}}
        metadata = [Path(dataset, file) for file in ImageFolder.METADATA_FILENAMES]
        return source | {"description": contents_of(metadata)}
    return {"path": dataset, "name": name}


def has_metadata(folder: Path) -> bool:
    """Check whether one file beside a folder's pictures has their captions, and nothing says other splits."""
    if has_card_of_splits(folder):
        return False
    beside = any((folder / name).is_file() for name in ImageFolder.METADATA_FILENAMES)
    if not beside:
        return False
    # Metadata in a folder below may be another split's.
    names_below = (path.name for path in folder.rglob("metadata.*") if path.parent != folder)
    return not any(name in ImageFolder.METADATA_FILENAMES for name in names_below)


def has_card_of_splits(folder: Path) -> bool:
    """Check whether a folder's card says which files are of which split."""
    card = folder / "README.md"
    return card.is_file() and "configs:" in card.read_text("utf-8", errors="replace")


def paths_of(encoded: Dataset) -> list[str | None]:
    """Return the path of each undecoded image; None where its bytes lie in the row."""
    chunks = encoded.with_format("arrow")["image"][:].chunks
    return [path for chunk in chunks for path in chunk.field("path").to_pylist()]


def images_without_row(dataset: str, paths: Iterable[str | None]) -> list[str]:
    """Return the pictures of a folder, and of zips in it, that no row of its metadata names.

    The metadata of a picture lies beside it or above it. If it gives no row at all, it is another split's,
    and its pictures are not returned. Datasets of other forms have no such pictures.

    Args:
        paths: paths of the rows' pictures.
    """
    folder = Path(dataset).resolve()  # as `datasets` has it
    if not folder.is_dir() or has_card_of_splits(folder):
        return []
    metadata, pictures = _files_of_pictures(folder)
    if not metadata:
        return []

    in_rows = {_normal(path) for path in paths if path}
    # The metadata that were read; None is for pictures without any.
    read = {_metadata_of(path, metadata) for path in in_rows} | {None}
    without_row = []
    for path in pictures:
        if path not in in_rows and _metadata_of(path, metadata) in read:
            without_row.append(path)
    return without_row


def is_named_by_metadata(dataset: str) -> bool:
    """Check whether a dataset is a folder that has metadata anywhere, in a zip too."""
    folder = Path(dataset).resolve()
    if not folder.is_dir() or has_card_of_splits(folder):
        return False
    metadata, _ = _files_of_pictures(folder)
    return bool(metadata)


def _files_of_pictures(folder: Path) -> tuple[set[str], list[str]]:
    """Return the folders that have metadata, and all pictures, of a folder and the zips in it.

    A file in a zip has the path `zip://NAME::ZIP`, as `datasets` writes it.
    """
    metadata = set()
    for path in folder.rglob("metadata.*"):
        if path.name in ImageFolder.METADATA_FILENAMES:
            metadata.add(str(path.parent))
    pictures = [str(path) for path in files_below(folder, PICTURES)]

    for path in files_below(folder, {".zip"}):
        with ZipFile(path) as archive:
            names = [name for name in archive.namelist() if not is_hidden(PurePosixPath(name))]
        for name in names:
            if PurePosixPath(name).name in ImageFolder.METADATA_FILENAMES:
                metadata.add(f"zip://{_parent_of(name)}::{path}")
            if suffix_of(name) in PICTURES:
                pictures.append(f"zip://{name}::{path}")
    return metadata, pictures


def _metadata_of(path: str, metadata: set[str]) -> str | None:
    """Return the nearest folder with metadata at or above a picture; None where there is none.

    `zip://a/b/1.png::/data/c.zip` is looked for in `a/b`, in `a` and at the top of the zip, then in `/data`
    and `/`.
    """
    around = path
    if path.startswith("zip://"):
        inside, _, around = path.removeprefix("zip://").partition("::")
        while inside:
            inside = _parent_of(inside)
            if f"zip://{inside}::{around}" in metadata:
                return f"zip://{inside}::{around}"
    for parent in Path(around).parents:
        if str(parent) in metadata:
            return str(parent)
    return None


def _parent_of(name: str) -> str:
    """Return the folder of a file in a zip: `a/b.png` -> `a`; "" is the zip itself."""
    return name.rpartition("/")[0]


def _normal(path: str) -> str:
    """Return a row's path, in a zip or not, without `..` and doubled slashes."""
    return path if "://" in path else os.path.abspath(path)


def say_without_row(without_row: list[str], dataset: str) -> str:
    """Return a message with the number of pictures that no row names, and the first of them."""
    return (
        f"{len(without_row)} pictures of dataset {dataset!r} have no row in its metadata and are left out, "
        f"{without_row[0]} first"
    )


def warn_of_images_without_row(rows: Dataset, dataset: str) -> None:
    """Warn if a folder has pictures that no row of undecoded `image` names, since they are not evaluated."""
    without_row = images_without_row(dataset, paths_of(rows.select_columns(["image"])))
    if without_row:
        warnings.warn(say_without_row(without_row, dataset), stacklevel=4)


def refuse_missing(rows: Dataset, dataset: str) -> None:
    """Refuse rows of undecoded `image` whose files are missing, or outside, before any of them is read.

    Raises:
        InputError: a file is missing or lies outside of the dataset; the message counts them and names the
            first.
    """
    column = rows.select_columns(["image"]).with_format("arrow")["image"][:]
    missing = []
    outside = []
    for chunk in column.chunks:
        contents = chunk.field("bytes")
        for content in contents.filter(is_refused(contents)).to_pylist():
            outside.append(path_of({"bytes": content, "path": None}))
        paths = chunk.field("path").to_pylist()
        are_files = chunk.field("bytes").is_null().to_pylist()
        for path, is_file in zip(paths, are_files):
            # Paths in zips and on the Hub have a scheme, as in `zip://`.
            if is_file and path is not None and "://" not in path and not os.path.isfile(path):
                missing.append(path)
    if missing:
        raise InputError(
            f"dataset {dataset!r} names {len(missing)} of {len(rows)} pictures that are not there, "
            f"{missing[0]} first: put them there, or take them out of its metadata"
        )
    if outside:
        raise InputError(
            f"dataset {dataset!r} names {len(outside)} of {len(rows)} pictures that lie outside of it, "
            f"{outside[0]} first: put them inside, or add --allow_outside_images if you trust the data"
        )


__all__ = [
    "has_card_of_splits",
    "has_metadata",
    "is_named_by_metadata",
    "paths_of",
    "images_without_row",
    "refuse_missing",
    "say_without_row",
    "source_of",
    "warn_of_images_without_row",
]
