"""Name what is incomplete so that a killed run's left-overs are known, and remove them."""

import os
import re
import shutil
import time
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import psutil

from .processes import host

_DAY = 24 * 60 * 60  # seconds
# The temporary name says whose it is, and not of which file: names of files may be as long as names can be.
# Earlier versions began it with a finished folder's name, which now counts to the host, or with a cache's,
# target-FINGERPRINT; the oldest then named no writer.
_CACHE = r".+-[0-9a-f]{32}"
_WRITER = r"\.(?P<host>.+)\.(?P<pid>\d+)"
_TEMPORARY = re.compile(rf"(({_CACHE})?{_WRITER}|{_CACHE})\.[0-9a-f]{{32}}\.tmp")


def temporary_path(folder: Path) -> Path:
    """Return a new path in a folder for an incomplete file or folder, which the caller makes and removes.

    What killed runs left under such names in the folder is removed.
    """
    _remove_abandoned(folder)
    return folder / f".{host()}.{os.getpid()}.{uuid4().hex}.tmp"


def _remove_abandoned(folder: Path) -> None:
    """Remove what killed runs left at a `temporary_path`: of this host's dead processes, or of yesterday.

    Other machines may write to the folder at the same time. Whether their processes still live is unknown, so
    that only the age of their files counts.
    """
    for path in folder.glob("*.tmp"):
        name = _TEMPORARY.fullmatch(path.name)
        if name is None:
            continue  # not a file of ours
        is_dead = name["host"] == host() and not psutil.pid_exists(int(name["pid"]))
        # Another process may have removed it meanwhile, or it belongs to another user.
        with suppress(FileNotFoundError, PermissionError):
            if is_dead or time.time() - path.stat().st_mtime > _DAY:
                remove = shutil.rmtree if path.is_dir() else os.unlink
                remove(path)


__all__ = ["temporary_path"]
