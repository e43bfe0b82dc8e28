"""Files of data in a folder that `datasets` would leave out without a word: refused, or told.

It reads one kind of files alone, that of which there are most; only files whose ending it knows, in small
letters; and where a name looks like a split's no others. Nor does it follow links to folders.
"""

import os
import warnings
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

from .endings import JSON, PICTURES, files_below, plain, suffix_of
from .json_files import holds_rows
from .picture_folders import has_card_of_splits
from .recipe import InputError

# What is read as one. A table of commas and one of tabs are, as parallel text.
KINDS = {
    "pictures": PICTURES,
    "tars": {".tar"},
    "parquet files": {".parquet"},
    "tables": {".csv", ".tsv"},
    "files of JSON": JSON,
    "files of text": {".txt"},
    "zips": {".zip"},  # last: they are read beside files of any other kind
}
UNREAD = {".avif", ".heic", ".heif", ".jxl"} - PICTURES
WITH_CAPTIONS = ("pictures", "tars", "zips")  # beside which a table may say what they say
ASIDE = ("pictures", "files of text")  # beside tables: illustrations, terms


def refuse_left_out(dataset: str, files: dict[str, Iterable[str]]) -> None:
    """Refuse a folder of which `datasets` would read a part alone. What may stand beside data gets a warning.

    Args:
        files: those that are read, of each split.

    Raises:
        InputError: it names a file that would be left out, and why.
    """
    folder = Path(dataset).resolve()  # as `datasets` has it
    if has_card_of_splits(folder):
        return
    split_of = {}
    for split, paths in files.items():
        for path in paths:
            split_of[os.path.abspath(path)] = str(split)
    has_pictures = any(suffix_of(path) in PICTURES for path in split_of)
    is_named = has_pictures and any(Path(path).name in ImageFolder.METADATA_FILENAMES for path in split_of)
    odd = odd_endings(folder, skip=PICTURES | UNREAD if is_named else set())
    if odd:
        raise InputError(f"dataset {dataset!r}: {odd}")
    refuse_links(folder)
    there = files_of_kinds(folder)
    read = _by_kind(map(Path, split_of))
    for kind, paths in there.items():
        left = [path for path in paths if str(path) not in split_of]
        beside_pictures = has_pictures and kind in ("tables", "files of JSON")
        if read[kind] and left and not beside_pictures and kind != "files of text":
            named = read[kind][0]
            name = str(named.relative_to(folder))
            raise InputError(
                f"dataset {dataset!r}: {len(left)} of {len(paths)} {kind} would be left out, since the name "
                f"of {name!r} is taken for that of the split {split_of[str(named)]!r}: rename it"
            )
    refuse_other_kinds(dataset, folder, there, read)


def files_of_kinds(folder: Path) -> dict[str, list[Path]]:
    """Return a folder's files of data by their kind; files of JSON only where they hold rows."""
    there = _by_kind(files_below(folder, set().union(*KINDS.values())))
    there["files of JSON"] = [
        path for path in there["files of JSON"] if suffix_of(path) != ".json" or holds_rows(path)
    ]
    return there


def _by_kind(paths: Iterable[Path]) -> dict[str, list[Path]]:
    """Group files by their kind, as their endings tell it."""
    groups = {kind: [] for kind in KINDS}
    for path in paths:
        for kind, endings in KINDS.items():
            if suffix_of(path) in endings:
                groups[kind].append(path)
    return groups


def refuse_other_kinds(
    dataset: str, folder: Path, there: dict[str, list[Path]], read: dict[str, list[Path]]
) -> None:
    """Refuse tables, parquet files, tars or zips of which none is read, since there are more files of another
    kind.

    Of pictures and texts beside tables, and of tables beside pictures, it is warned.
    """
    main = next((kind for kind in KINDS if read[kind]), None)  # pictures before the metadata that name them
    no_rows = main == "files of JSON" and not there[main]
    for kind, paths in there.items():
        if main is None or not paths or read[kind]:
            continue
        first = str(read[main][0].relative_to(folder))
        other = str(paths[0].relative_to(folder))
        message = (
            f"dataset {dataset!r} has {main}, such as {first!r}, and {kind}, such as {other!r}, "
            f"of which the {kind} ({len(paths)})"
        )
        if main in WITH_CAPTIONS or kind in ASIDE and not no_rows:
            if kind != "files of text" or main not in WITH_CAPTIONS:
                warnings.warn(f"{message} are not read", stacklevel=4)
        else:
            raise InputError(f"{message} would be left out: put each kind into a folder of its own")


def odd_endings(folder: Path, skip: Iterable[str] = ()) -> str | None:
    """Describe files of data whose endings `datasets` does not know; None where it knows all.

    Args:
        skip: endings that may be written in any letters.
    """
    there = files_of_kinds(folder) | {"files of text": [], "unread": files_below(folder, UNREAD)}
    odd = [
        path
        for path in chain(*there.values())
        if suffix_of(path) not in skip and not is_known(plain(path).suffix)
    ]
    if not odd:
        return None
    ending = plain(odd[0]).suffix
    remedy = f"call it {ending.lower()}"
    if ending.lower() in UNREAD:
        remedy = "convert it to PNG or JPEG"
    return (
        f"{len(odd)} files would be left out, {str(odd[0])!r} first, since `datasets` does not read the "
        f"ending {ending}: {remedy}"
    )


def is_known(ending: str) -> bool:
    """Return whether `datasets` reads files with this extension.

    Those of pictures it knows in capitals too, but not in mixed letters.
    """
    if ending.lower() in UNREAD:
        return False
    return ending.islower() or ending.isupper() and ending.lower() in PICTURES


def refuse_links(folder: Path) -> None:
    """Refuse a folder with a link to another one that has data;

    One to a folder that it lies in is passed over.
    """
    endings = set().union(*KINDS.values()) - {".txt", ".json"}
    for link in sorted(folder.rglob("*")):
        leads_elsewhere = (
            link.is_symlink() and link.is_dir() and not link.parent.resolve().is_relative_to(link.resolve())
        )
        found = files_below(link, endings) if leads_elsewhere else []
        if found:
            kind = next(kind for kind, endings in KINDS.items() if suffix_of(found[0]) in endings)
            raise InputError(
                f"{str(link)!r} is a link to a folder, whose {kind} would be left out: put the folder itself "
                "there"
            )


__all__ = ["odd_endings", "refuse_left_out"]
