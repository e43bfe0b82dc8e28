"""Files of translations on disk, compressed, or in a zip."""

import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple
from zipfile import BadZipFile, ZipFile

from common.errors import InputError, one_line
from common.files.archives import open_bounded, refuse_bombs
from common.files.endings import COMPRESSED, is_hidden
from common.files.text_files import decoded_lines

_MOST_MEMBERS = 100_000  # of a zip; CLDR's has about 10,000
# Errors of files that are damaged, encrypted, or packed in a way that Python cannot unpack.
_UNREADABLE = (OSError, EOFError, ValueError, BadZipFile, NotImplementedError, RuntimeError, zlib.error)


class Document(NamedTuple):
    """A file, or a member of a zip.

    - `path`: the file on disk.
    - `member`: the name within the zip; empty for a file.
    """

    path: str
    member: str = ""

    @property
    def name(self) -> str:
        """Return how messages name it: "memory.zip/de.po"."""
        return f"{self.path}/{self.member}" if self.member else self.path

    @property
    def plain(self) -> PurePosixPath:
        """Return its path without the ending of a compressed file: "a.tmx.gz" -> "a.tmx"."""
        path = PurePosixPath(Path(self.path).as_posix(), self.member)
        is_compressed = not self.member and path.suffix.lower() in COMPRESSED
        return path.with_suffix("") if is_compressed else path

    @property
    def suffix(self) -> str:
        """Return the ending that says what it holds, in lower case."""
        return self.plain.suffix.lower()

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """Open it to read bytes, unpacked.

        Raises:
            InputError: it is missing, damaged, encrypted, or unpacks to far more than it is, also while it is
                read.
        """
        try:
            if not self.member:
                with open_bounded(self.path) as file:
                    yield file
                return
            refuse_bombs([self.path])
            with ZipFile(self.path) as archive, archive.open(self.member) as file:
                yield file
        except InputError:
            raise
        except _UNREADABLE as error:
            raise InputError(
                f"dataset {self.name!r} cannot be read: {one_line(error)}: is it whole?"
            ) from error

    def lines(self) -> Iterator[str]:
        """Yield its lines in UTF-8, with or without a byte order mark, without their ends.

        Raises:
            InputError: as `open`, or a line is not UTF-8.
        """
        with self.open() as file:
            yield from decoded_lines(file, f"dataset {self.name!r}")


def documents_in(data: str) -> list[Document]:
    """List the file itself, the members of a zip, or the files of a folder and its subfolders.

    Hidden files are passed over, and so is what is neither a file nor a folder.

    Raises:
        InputError: a zip cannot be read, or has more than 100,000 files.
    """
    path = Path(data)
    if os.path.isdir(path):
        files = [file for file in sorted(path.rglob("*")) if not is_hidden(file.relative_to(path))]
        return [Document(str(file)) for file in files if file.is_file()]
    if not os.path.isfile(path):
        return []
    if path.suffix.lower() != ".zip":
        return [Document(data)]
    try:
        with ZipFile(path) as archive:
            members = sorted(archive.namelist())
    except (BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise InputError(f"dataset {data!r} is no zip that can be read: {one_line(error)}") from error
    if len(members) > _MOST_MEMBERS:
        raise InputError(
            f"dataset {data!r} has {len(members):,} files, more than {_MOST_MEMBERS:,}: unpack it, and name "
            "what is to be read"
        )
    kept = [name for name in members if not name.endswith("/") and not is_hidden(PurePosixPath(name))]
    return [Document(data, name) for name in kept]


__all__ = ["Document", "documents_in"]
