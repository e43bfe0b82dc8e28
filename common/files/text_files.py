"""Read text files, whole or line by line, and name those that are not UTF-8."""

from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ..errors import InputError


def lines_of(path: str | Path, what: str = "file") -> Iterator[str]:
    """Yield the lines of a file in UTF-8, with or without a byte order mark, unpacked as by `open_bounded`.

    A line ends with a line feed, with or without a carriage return before it, and with nothing else: Python's
    own readers would also end one at a lone carriage return or at U+2028, which captions may have. The two
    files of a Moses pair would then go out of step.

    Args:
        what: what the file is, for the message.

    Raises:
        InputError: a line is not UTF-8, or as `open_bounded`.
    """
    # Imported here, since it imports pyarrow, which the text of a recipe does not need.
    from .archives import open_bounded

    with open_bounded(path) as file:
        yield from decoded_lines(file, f"{what} {str(path)!r}")


def decoded_lines(file: IO[bytes], name: str) -> Iterator[str]:
    """Yield the lines of a file that is open, as `lines_of` does.

    Args:
        name: of the file, for the message.

    Raises:
        InputError: a line is not UTF-8.
    """
    for number, line in enumerate(file, start=1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"{name} is not UTF-8, in line {number}: save it as UTF-8") from error
        yield text.removesuffix("\n").removesuffix("\r")


def read_text(path: Path, what: str) -> str:
    """Read a text file, with or without a byte order mark.

    Raises:
        InputError: it cannot be read, or has another encoding than UTF-8, as Excel writes it.
    """
    try:
        return path.read_text("utf-8-sig")
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{what} {str(path)!r} cannot be read: {reason}") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{what} {str(path)!r} is not UTF-8, at byte {error.start}: save it as UTF-8"
        ) from error


__all__ = ["decoded_lines", "lines_of", "read_text"]
