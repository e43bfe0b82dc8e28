"""Check output folders before work begins, and say in one line why something cannot be written."""

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from safetensors import SafetensorError
from torch import nn

from .errors import InputError
from .temporary import temporary_path
from .typed import shorten

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# torch.save, numpy and Rust keep no errno, and say this of a short write.
_FULL_MESSAGES = re.compile(
    "No space left|quota exceeded|File too large|PytorchStreamWriter failed|unexpected pos"
    r"|\d+ requested and \d+ written"
)
_ADVICE = "Make room, or give a folder on another disk; what was complete before is left as it was"
_REFUSED = {
    errno.EACCES: "this user may not write there",
    errno.EPERM: "this user may not write there",
    errno.EROFS: "it lies on a disk that is read-only",
    errno.EEXIST: "a file is where a folder has to be",
    errno.ENOTDIR: "a file is where a folder has to be",
    errno.EISDIR: "a folder is where a file has to be",
    errno.ENAMETOOLONG: "its name is too long",
}


def check_output_dir(output_dir: str | Path, argument: str = "output_dir") -> None:
    """Check that a folder can be made and written to, before work begins.

    A temporary file is written where the folder is, or will be, and removed: permissions alone would allow
    `/proc/x` to root.

    Raises:
        InputError: it is empty, which would be the working directory, or no name of a folder; it or a folder
            above it is a file, or cannot be written to.
    """
    if not str(output_dir).strip() or "\0" in str(output_dir):
        raise InputError(f"{argument} is {str(output_dir)!r}: give the name of a folder")
    existing = _nearest_existing(output_dir)
    if not existing.is_dir():
        is_itself = existing == Path(output_dir).absolute()
        where = "is a file" if is_itself else f"lies below {str(existing)!r}, which is a file"
        raise InputError(f"{argument} {str(output_dir)!r} {where}: give a folder, there already or not")
    longest = os.pathconf(existing, "PC_NAME_MAX") if hasattr(os, "pathconf") else 255
    if any(len(part.encode("utf-8", "surrogatepass")) > longest for part in Path(output_dir).parts):
        raise InputError(
            f"{argument} {shorten(str(output_dir))} has a name of more than {longest} bytes: shorten it"
        )
    try:
        _try_to_write(existing, makes_folder=existing != Path(output_dir).absolute())
    except OSError as error:
        if is_full(error):
            raise InputError(
                f"{argument} {str(output_dir)!r} cannot be written to, {format_bytes(free_bytes(existing))} "
                f"are free: {_ADVICE}"
            ) from error
        raise InputError(
            f"{argument} {str(output_dir)!r} cannot be written to, since {str(existing)!r} is read-only, "
            f"another user's or no folder of a disk ({error.strerror}): give another folder"
        ) from error


def check_new_output_dir(output_dir: str | Path) -> None:
    """Check like `check_output_dir`, and that the folder has no files.

    Raises:
        InputError: as `check_output_dir`, or it has some.
    """
    check_output_dir(output_dir)
    folder = Path(output_dir)
    if folder.exists() and any(folder.iterdir()):
        raise InputError(
            f"output_dir {str(output_dir)!r} is there already: give a new folder, or remove this one"
        )


def _try_to_write(folder: Path, *, makes_folder: bool) -> None:
    """Write a byte below a folder that is there, in a new folder if one is to be made, and remove both.

    Raises:
        OSError: a folder or file cannot be made, or not be written to.
    """
    with ExitStack() as removed:
        if makes_folder:
            folder = temporary_path(folder)
            folder.mkdir()
            removed.callback(folder.rmdir)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"0")


def check_not_input(output_dir: str, inputs: dict[str, str | None]) -> None:
    """Check that an output folder is none of the folders that are read, whose files it would replace.

    Args:
        inputs: by argument, paths or names on the Hub.

    Raises:
        InputError: it is one of them.
    """
    for argument, name_or_path in inputs.items():
        is_local = name_or_path is not None and Path(name_or_path).exists()
        if is_local and Path(name_or_path).resolve() == Path(output_dir).resolve():
            raise InputError(
                f"output_dir {output_dir!r} is {argument} as well, whose files would be replaced: give "
                "another folder"
            )


def check_free(output_dir: str | Path, n_bytes: int, what: str, argument: str = "output_dir") -> None:
    """Check that the disk of a folder has room.

    Args:
        n_bytes: what is going to be written at least.
        what: names it.

    Raises:
        InputError: it has not; the message gives both sizes.
    """
    free = free_bytes(output_dir)
    if free < n_bytes:
        raise InputError(
            f"{argument} {str(output_dir)!r} has {format_bytes(free)} free, and {what} needs "
            f"{format_bytes(n_bytes)}: make room, or give a folder on another disk"
        )


def free_bytes(folder: str | Path) -> int:
    """Return the free bytes of the disk on which a folder lies, or will lie."""
    return shutil.disk_usage(_nearest_existing(folder)).free


def format_bytes(n_bytes: int) -> str:
    """Write a size in the largest unit that it fills: 1_500_000_000 -> "1.50 GB", 999 -> "999 bytes"."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if n_bytes >= unit:
            return f"{n_bytes / unit:.2f} {name}"
    return f"{n_bytes} bytes"


def bytes_of_weights(model: nn.Module) -> int:
    """Return the size of a model's weights and buffers."""
    return sum(value.nbytes for value in model.state_dict().values())


@contextmanager
def saving(
    what: str,
    folder: str | Path,
    n_bytes: int,
    *,
    is_new: bool = False,
    advice: str = _ADVICE,
) -> Iterator[None]:
    """Turn a failure to write to a full disk into an error of one line that says how much is missing.

    Args:
        what: names what is saved.
        n_bytes: its size, at least.
        is_new: the folder held nothing before, and is removed where it is incomplete.
        advice: what to do.

    Raises:
        InputError: the disk is full, or the file is larger than the user may write.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if not is_full(error):
            raise
        if is_new:
            shutil.rmtree(folder, ignore_errors=True)
        free = free_bytes(folder)
        sizes = f"It needs {format_bytes(n_bytes)}, {format_bytes(free)} are free"
        if n_bytes > free:  # or else a limit of the user's is reached
            sizes += f", {format_bytes(n_bytes - free)} are missing"
        # `written_whole` knows one file, and its cause is the reason.
        reason = _reason(error.__cause__ or error)
        raise InputError(f"{what} could not be saved to {folder}: {reason}. {sizes}. {advice}") from error


def why_not_written(error: BaseException) -> str | None:
    """Describe in one line that something could not be written, and what to do; None for other errors."""
    where = _named_in(error)
    if is_full(error):
        return (
            f"{where} could not be written, since the disk is full or a limit is reached: {_reason(error)}. "
            f"{_ADVICE}"
        )
    if isinstance(error, OSError) and error.errno in _REFUSED:
        return f"{where} could not be opened or written, since {_REFUSED[error.errno]}: give another folder"
    return None


def is_full(error: BaseException | None) -> bool:
    """Return whether an error, or one that caused it, says that there is no room to write."""
    # The cause may be several errors down: safetensors and torch wrap what the system reports.
    while error is not None:
        if getattr(error, "errno", None) in _FULL or _FULL_MESSAGES.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _reason(error: BaseException) -> str:
    """Return what an error says, without the file and the number that an `OSError` adds."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).splitlines()[0]  # torch's goes on with its own stack


def _named_in(error: BaseException) -> str:
    """Return the file that an error names, if it does; of a copy, the new one."""
    path = getattr(error, "filename2", None) or getattr(error, "filename", None)
    return "a file" if path is None else repr(str(path))


def _nearest_existing(folder: str | Path) -> Path:
    """Return the folder, or the lowest one above it that exists."""
    existing = Path(folder).absolute()
    while not os.path.exists(existing):  # `Path.exists` raises an error for a name that is too long
        existing = existing.parent
    return existing


__all__ = [
    "bytes_of_weights",
    "check_free",
    "check_new_output_dir",
    "check_not_input",
    "check_output_dir",
    "format_bytes",
    "free_bytes",
    "is_full",
    "saving",
    "why_not_written",
]
