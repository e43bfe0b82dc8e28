"""Folders of pictures: what `datasets` would leave out of them without a word is read, or told.

`datasets` guesses splits from names: one `train station.png` among others, and it reads that picture alone, without its
caption. A folder with `metadata.jsonl`, `.csv` or `.parquet` is therefore read as one split, `train`, whatever its pictures are called;
where there is none, and of other files of data, a name that hides others is refused.
"""

import os
import warnings
from collections.abc import Iterable
from glob import escape
from pathlib import Path

from datasets import Dataset
from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

from .recipe import InputError

PICTURES = {ending.lower() for ending in ImageFolder.EXTENSIONS}


def source_of(dataset: str, name: str | None = None) -> dict:
    """The arguments by which `load_dataset` finds a dataset, in a folder or on the Hub; `name` is its configuration."""
    if name is None and has_metadata(Path(dataset)):
        return {"path": "imagefolder", "data_dir": escape(dataset), "data_files": {"train": ["**"]}}
    return {"path": dataset, "name": name}


def has_metadata(folder: Path) -> bool:
    """Whether a folder's pictures have their captions in one file beside them, and no card or folder says other splits."""
    if has_card_of_splits(folder):
        return False
    beside = any((folder / name).is_file() for name in ImageFolder.METADATA_FILENAMES)
    below = (path.name for path in folder.rglob("metadata.*") if path.parent != folder)
    return beside and not any(name in ImageFolder.METADATA_FILENAMES for name in below)


def has_card_of_splits(folder: Path) -> bool:
    card = folder / "README.md"
    return card.is_file() and "configs:" in card.read_text("utf-8", errors="replace")


def pictures_below(folder: Path) -> list[Path]:
    """All pictures of a folder and of the folders in it, hidden ones aside, as `datasets` has it."""
    return files_below(folder, PICTURES)


def files_below(folder: Path, endings: set[str]) -> list[Path]:
    """The same of all files with one of these endings, whatever the case of its letters."""
    found = []
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith((".", "__")) for part in path.relative_to(folder).parts)
        if path.suffix.lower() in endings and not hidden and path.is_file():
            found.append(path)
    return found


def refuse_left_out(dataset: str, files: dict[str, Iterable[str]]) -> None:
    """Refuse a folder some of whose files of data are in no split, since a name among them looks like a split's.

    Those are pictures, tars and parquet files, and tables where they are no metadata of pictures. Pictures behind a link to a folder,
    which `datasets` does not follow, are refused too.

    Args:
        files: of each split.

    Raises:
        InputError: it names the file that was taken for a split.
    """
    folder = Path(os.path.abspath(dataset))
    if has_card_of_splits(folder):
        return
    taken = {os.path.abspath(path): str(split) for split, paths in files.items() for path in paths}
    endings = {"pictures": PICTURES, "tars": {".tar"}, "parquet files": {".parquet"}}
    if not any(Path(path).suffix.lower() in PICTURES for path in taken):
        endings |= {"tables": {".csv"}, "tables of tabs": {".tsv"}, "files of JSON": {".jsonl"}}
    refuse_links(folder)
    for what, of_it in endings.items():
        there = files_below(folder, of_it)
        n_left = sum(str(path) not in taken for path in there)
        named = [path for path in there if str(path) in taken]
        if n_left and named:
            split = taken[str(named[0])]
            raise InputError(
                f"dataset {dataset!r}: {n_left} of {len(there)} {what} would be left out, since the name of "
                f"{str(named[0].relative_to(folder))!r} is taken for that of the split {split!r}: rename it"
            )


def refuse_links(folder: Path) -> None:
    """Refuse a folder with a link to another one that has pictures; one to a folder that it lies in is passed over."""
    for link in sorted(folder.rglob("*")):
        leads_elsewhere = link.is_symlink() and link.is_dir() and not link.parent.resolve().is_relative_to(link.resolve())
        if leads_elsewhere and pictures_below(link):
            raise InputError(f"{str(link)!r} is a link to a folder, whose pictures would be left out: put the folder itself there")


def paths_of(encoded: Dataset) -> list[str | None]:
    """The path of each undecoded image, where it has one."""
    chunks = encoded.with_format("arrow")["image"][:].chunks
    return [path for chunk in chunks for path in chunk.field("path").to_pylist()]


def pictures_without_row(dataset: str, paths: Iterable[str | None]) -> list[str]:
    """The pictures of a folder with metadata that no row of it names; there are none in datasets of other forms.

    Args:
        paths: of the rows' pictures.
    """
    folder = Path(dataset)
    if not (folder.is_dir() and has_metadata(folder)):
        return []
    in_rows = {os.path.abspath(path) for path in paths if path}
    return [str(path) for path in pictures_below(folder) if os.path.abspath(path) not in in_rows]


def warn_of_pictures_without_row(rows: Dataset, dataset: str) -> None:
    """Warn where a folder has pictures that no row of undecoded `image` names: they are not evaluated."""
    without_row = pictures_without_row(dataset, paths_of(rows.select_columns(["image"])))
    if without_row:
        count = f"{len(without_row)} pictures of dataset {dataset!r}"
        warnings.warn(f"{count} have no row in its metadata and are left out, {without_row[0]} first", stacklevel=4)


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
            f"dataset {dataset!r} names {len(missing)} of {len(rows)} pictures that are not there, {missing[0]} first: "
            "put them there, or take them out of its metadata"
        )


__all__ = [
    "has_metadata",
    "paths_of",
    "pictures_without_row",
    "refuse_left_out",
    "refuse_missing",
    "source_of",
    "warn_of_pictures_without_row",
]
