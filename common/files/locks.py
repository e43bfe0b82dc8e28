"""Keep a second command from a folder in which one is at work."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import InputError


@contextmanager
def holding(path: Path, refusal: str) -> Iterator[None]:
    """Hold a lock on a file, which is made if it is not there.

    The system frees it when its holder ends, however that happens.

    Args:
        refusal: says what is in use, and what to do.

    Raises:
        InputError: another process holds it.
    """
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(refusal) from error
        yield


__all__ = ["holding"]
