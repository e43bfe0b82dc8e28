"""Write a file or a new folder under a temporary name, and give it its own when it is complete.

A reader finds the old file or the new one, whole and on the disk, whenever the writer is killed and however
many processes write the same file: each writes to a temporary name of its own, and the last to finish wins.
"""

import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from modeling_altclip.checksums_altclip import synchronize_folder

from ..output import format_bytes, free_bytes, is_full
from ..temporary import temporary_path


class _CountedFile(io.BufferedWriter):
    """A file that counts what it is given to write, of which a full disk may take none."""

    def __init__(self, path: Path):
        # With the mode that the umask leaves, as any new file.
        super().__init__(open(path, "wb", buffering=0))
        self.n_bytes = 0

    def write(self, content) -> int:
        self.n_bytes += memoryview(content).nbytes
        return super().write(content)


@contextmanager
def written_whole(path: str | Path, folder: Path | None = None) -> Iterator[BinaryIO]:
    """Open a file for writing that gets its name when it is complete, in place of an older one.

    Until then it is called `.HOST.PID.UUID.tmp`. After an error it is removed at once and the older file
    stays; after a kill it is removed by the next call with this `folder`.

    Args:
        folder: where the incomplete file lies, on the same disk; by default next to the complete one.

    Raises:
        OSError: the disk is full, or another error of writing. Of a full disk it says how much was to be
            written until then, and how much is free.
    """
    path = Path(path)
    folder = folder or path.parent
    temporary = temporary_path(folder)
    file = _CountedFile(temporary)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        synchronize_folder(path.parent)
    except OSError as error:
        if not is_full(error):
            raise
        n_bytes = file.n_bytes
        if temporary.exists():
            # numpy writes past `file`, by its descriptor.
            n_bytes = max(n_bytes, temporary.stat().st_size)
            temporary.unlink()
        free = format_bytes(free_bytes(folder))
        needed = f"It needs at least {format_bytes(n_bytes)}, {free} are free"
        reason = error.strerror or str(error)
        raise OSError(error.errno, f"{reason}. {needed}", str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file in UTF-8 as `written_whole` does, with line feeds on every system."""
    with written_whole(path) as file:
        file.write(text.encode())


@contextmanager
def whole_new_folder(folder: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside a new one, and give it that name at the end, and after no error.

    Args:
        folder: is not there, or empty.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(folder.parent)
    temporary.mkdir()
    try:
        yield temporary
        if folder.exists():
            folder.rmdir()  # Windows renames no folder onto another, not onto an empty one either
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


__all__ = ["whole_new_folder", "write_text", "written_whole"]
