"""Tell local paths from names on the Hub."""

import os
from pathlib import Path

from .errors import InputError


def check_folder(what: str, name_or_path: str) -> None:
    """Refuse a local path that does not exist, which would otherwise be looked up as a Hub id.

    It is a path if it is absolute, has not exactly one slash, or begins with a folder that exists here.

    Raises:
        InputError: it does not exist, or is empty, which would be the working directory.
    """
    if not name_or_path.strip():
        raise InputError(f"{what} is {name_or_path!r}: give a folder, or a Hub id like 'org/name'")
    path = Path(name_or_path)
    # Not the methods of Path, which raise an error for a name that is too long.
    looks_local = path.is_absolute() or len(path.parts) != 2 or os.path.isdir(path.parts[0])
    if looks_local and not os.path.exists(path):
        raise InputError(
            f"{what} {name_or_path!r} does not exist: "
            "give a folder that is there, or a Hub id like 'org/name'"
        )


__all__ = ["check_folder"]
