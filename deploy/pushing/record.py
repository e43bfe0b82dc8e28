"""Remember in a folder what was pushed from it, so that a change in the repository since then is noticed."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from common.errors import InputError
from common.files.json_files import read_json
from common.files.whole_files import write_text
from common.typed import check_types

from .files import RECORD


@dataclass(frozen=True)
class Pushed:
    """What a folder's last push into a repository left there: the commit, and the names of the files."""

    commit: str
    files: list[str] = field(default_factory=list)


def read_pushed(folder: Path, where: str) -> Pushed | None:
    """Return the last push into a repository, None if there was none.

    Args:
        where: the address of the repository and its branch.

    Raises:
        InputError: the record is damaged.
    """
    record = _read(folder)
    if where not in record:
        return None
    return Pushed(**record[where])


def write_pushed(folder: Path, where: str, pushed: Pushed) -> None:
    """Write down a push; arguments are those of `read_pushed`."""
    record = _read(folder) | {where: asdict(pushed)}
    write_text(folder / RECORD, json.dumps(record, indent=1) + "\n")


def _read(folder: Path) -> dict[str, dict]:
    path = folder / RECORD
    if not path.is_file():
        return {}
    record = read_json(path, "record")
    try:
        for pushed in record.values():
            check_types(pushed, Pushed, f"record {str(path)!r}")
            Pushed(**pushed)
    except (AttributeError, TypeError) as error:
        raise InputError(
            f"record {str(path)!r} is damaged: remove it, and give --parent_commit at the next push"
        ) from error
    return record


__all__ = ["Pushed", "read_pushed", "write_pushed"]
