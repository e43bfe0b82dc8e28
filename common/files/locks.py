"""Keep a second command from a folder in which one is at work, on every system."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import InputError


@contextmanager
def holding(path: Path, refusal: str) -> Iterator[None]:
    """Hold a lock on a file, which is made if it is not there.

    The system frees it when its holder ends, however that happens: `flock` on Linux and macOS, `LockFileEx`
    on Windows.

    Args:
        refusal: says what is in use, and what to do.

    Raises:
        InputError: another process holds it.
    """
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise InputError(refusal) from error
    try:
        yield
    finally:
        lock.release()


__all__ = ["holding"]
