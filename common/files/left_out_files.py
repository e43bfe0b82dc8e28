"""Checks for data files in a folder that `datasets` would skip silently: they are refused or warned of.

`datasets` reads only the kind of files of which there are most; only files with known, lower-case endings;
and if a file's name looks like a split's, no files but such. It does not follow links to folders.
"""

import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

from ..errors import InputError
from .endings import JSON, PICTURES, files_below, plain, suffix_of
from .image_folders import has_card_of_splits
from .json_files import holds_rows

# Endings that are read together: a table may have commas or tabs, as in parallel text.
_KINDS = {
    "pictures": PICTURES,
    "tars": {".tar"},
    "parquet files": {".parquet"},
    "tables": {".csv", ".tsv"},
    "files of JSON": JSON,
    "files of text": {".txt"},
    "zips": {".zip"},  # last: they are read beside files of any other kind
}
_UNREAD = {".avif", ".heic", ".heif", ".jxl"} - PICTURES
_WITH_CAPTIONS = ("pictures", "tars", "zips")  # a table beside them may repeat their captions
_ASIDE = ("pictures", "files of text")  # beside tables: illustrations, terms


@dataclass
class _Found:
    """The data files of a folder by kind: all of them, and those that `datasets` reads."""

    folder: Path
    all: dict[str, list[Path]]
    read: dict[str, list[Path]]

    def relative(self, path: Path) -> str:
        return str(path.relative_to(self.folder))


def refuse_left_out(dataset: str, files: dict[str, Iterable[str]]) -> None:
    """Refuse a folder of which `datasets` reads only a part; warn of files that may stand beside data.

    Args:
        files: the files that are read, by split.

    Raises:
        InputError: a file would be left out; the message names it, and says why.
    """
    folder = Path(dataset).resolve()  # as `datasets` has it
    if has_card_of_splits(folder):
        return
    split_of = {}
    for split, paths in files.items():
        split_of |= {os.path.abspath(path): str(split) for path in paths}

    has_pictures = any(suffix_of(path) in PICTURES for path in split_of)
    has_metadata = any(Path(path).name in ImageFolder.METADATA_FILENAMES for path in split_of)
    # Metadata names its pictures, which are then read whatever their endings.
    skip = PICTURES | _UNREAD if has_pictures and has_metadata else set()
    odd = odd_endings(folder, skip)
    if odd:
        raise InputError(f"dataset {dataset!r}: {odd}")
    _refuse_links(folder)

    read = {}
    for kind, endings in _KINDS.items():
        read[kind] = [Path(path) for path in split_of if suffix_of(path) in endings]
    found = _Found(folder, all=_files_of_kinds(folder), read=read)
    _refuse_other_splits(dataset, found, split_of, has_pictures)
    _refuse_other_kinds(dataset, found)


def _files_of_kinds(folder: Path) -> dict[str, list[Path]]:
    """Return a folder's data files by kind; files of JSON only if they hold rows."""
    files = files_below(folder, set().union(*_KINDS.values()))
    by_kind = {}
    for kind, endings in _KINDS.items():
        by_kind[kind] = [path for path in files if suffix_of(path) in endings]
    by_kind["files of JSON"] = [
        path for path in by_kind["files of JSON"] if suffix_of(path) != ".json" or holds_rows(path)
    ]
    return by_kind


def _refuse_other_splits(dataset: str, found: _Found, split_of: dict[str, str], has_pictures: bool) -> None:
    """Refuse files that are skipped because the name of another of their kind is taken for a split's."""
    for kind, paths in found.all.items():
        may_stand_beside = kind == "files of text" or has_pictures and kind in ("tables", "files of JSON")
        left_out = [path for path in paths if str(path) not in split_of]
        if found.read[kind] and left_out and not may_stand_beside:
            named = found.read[kind][0]
            raise InputError(
                f"dataset {dataset!r}: {len(left_out)} of {len(paths)} {kind} would be left out, since the "
                f"name of {found.relative(named)!r} is taken for that of the split {split_of[str(named)]!r}: "
                "rename it"
            )


def _refuse_other_kinds(dataset: str, found: _Found) -> None:
    """Refuse tables, parquet files, tars or zips of which none is read, as others are more numerous.

    Pictures and texts beside tables, and tables beside pictures, are only warned of.
    """
    # Pictures come before the metadata that name them.
    main = next((kind for kind in _KINDS if found.read[kind]), None)
    if main is None:
        return
    has_no_rows = main == "files of JSON" and not found.all[main]
    for kind, paths in found.all.items():
        if not paths or found.read[kind]:
            continue
        first = found.relative(found.read[main][0])
        other = found.relative(paths[0])
        message = (
            f"dataset {dataset!r} has {main}, such as {first!r}, and {kind}, such as {other!r}, of which the "
            f"{kind} ({len(paths)})"
        )
        may_stand_beside = main in _WITH_CAPTIONS or kind in _ASIDE and not has_no_rows
        if not may_stand_beside:
            raise InputError(f"{message} would be left out: put each kind into a folder of its own")
        # Files of text beside pictures are too common to be worth a warning.
        if kind != "files of text" or main not in _WITH_CAPTIONS:
            warnings.warn(f"{message} are not read", stacklevel=4)


def odd_endings(folder: Path, skip: Iterable[str] = ()) -> str | None:
    """Describe data files whose endings `datasets` does not know, for a message; None if it knows all.

    Args:
        skip: lower-case endings that are accepted in any case.
    """
    files = _files_of_kinds(folder) | {"files of text": [], "unread": files_below(folder, _UNREAD)}
    odd = []
    for path in chain(*files.values()):
        if suffix_of(path) not in skip and not _is_known(plain(path).suffix):
            odd.append(path)
    if not odd:
        return None
    ending = plain(odd[0]).suffix
    is_unread = ending.lower() in _UNREAD
    remedy = "convert it to PNG or JPEG" if is_unread else f"call it {ending.lower()}"
    return (
        f"{len(odd)} files would be left out, {str(odd[0])!r} first, since `datasets` does not read the "
        f"ending {ending}: {remedy}"
    )


def _is_known(ending: str) -> bool:
    """Check whether `datasets` reads an ending: `.csv` but not `.CSV`, `.jpg` and `.JPG` but not `.Jpg`."""
    if ending.lower() in _UNREAD:
        return False
    return ending.islower() or ending.isupper() and ending.lower() in PICTURES


def _refuse_links(folder: Path) -> None:
    """Refuse links to other folders that hold data. A link to a folder above it is ignored."""
    endings = set().union(*_KINDS.values()) - {".txt", ".json"}
    for link in sorted(folder.rglob("*")):
        if not (link.is_symlink() and link.is_dir()):
            continue
        leads_up = link.parent.resolve().is_relative_to(link.resolve())
        found = [] if leads_up else files_below(link, endings)
        if found:
            ending = suffix_of(found[0])
            kind = next(kind for kind, of_kind in _KINDS.items() if ending in of_kind)
            raise InputError(
                f"{str(link)!r} is a link to a folder, whose {kind} would be left out: put the folder "
                "itself there"
            )


__all__ = ["odd_endings", "refuse_left_out"]
