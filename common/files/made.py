"""Record the files that a command made, so that it knows when repeated whether all are there and whole.

{"settings": {...}, "files": {"dataset/README.md": "5c1a...", ...}}
"""

import json
from collections.abc import Iterable
from pathlib import Path

from .contents import content_digest
from .json_files import read_json
from .whole_files import write_text


def is_made(record: Path, parts: Iterable[str], made_of: dict) -> bool:
    """Check that a record states what is to be made now, and that the files are as it states them.

    Args:
        record: the record's path, in the folder of the parts.
        parts: names of the folders that were made.
        made_of: all that the files depend on, such as settings and digests of code.
    """
    if not record.is_file():
        return False
    return read_json(record, "record") == made_of | {"files": _digest_files(record.parent, parts)}


def write_record(record: Path, parts: Iterable[str], made_of: dict) -> None:
    """Write the record of what was made; arguments are those of `is_made`.

    It is the last thing to do: what is interrupted before has no record.
    """
    content = made_of | {"files": _digest_files(record.parent, parts)}
    write_text(record, json.dumps(content, indent=1) + "\n")


def digest_sources(folder: Path, *patterns: str) -> dict[str, str]:
    """Return the digests of code and other sources in a folder, by their names.

    Args:
        patterns: of names, such as `*.py`.
    """
    paths = sorted(path for pattern in patterns for path in folder.glob(pattern))
    return {path.name: content_digest(path) for path in paths}


def _digest_files(folder: Path, parts: Iterable[str]) -> dict[str, str]:
    """Return the digest of each file in the parts, by its name in the folder."""
    digests = {}
    for part in parts:
        for path in sorted((folder / part).rglob("*")):
            if path.is_file():
                digests[path.relative_to(folder).as_posix()] = content_digest(path)
    return digests


__all__ = ["digest_sources", "is_made", "write_record"]
