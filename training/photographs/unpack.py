"""Unpack packages with Python alone: `.deb`, `.whl`, `.tgz` and `.tar.xz`, on every system.

A `.deb` is an `ar` archive of three members, the last of which is a tar of the files:

    !<arch>\\n
    debian-binary   0           0     0     100644  4         `\\n      header of 60 bytes, then 4 bytes
    control.tar.xz  ...
    data.tar.xz     ...

Only regular files are read. They are written by this module and not by the archives' libraries, below a
folder that they cannot leave.
"""

import io
import lzma
import shutil
import tarfile
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO
from zipfile import BadZipFile, ZipFile

import pyarrow as pa

from common.errors import InputError, one_line

_MAGIC = b"!<arch>\n"
_HEADER = 60  # bytes: name 16, time 12, owner 6, group 6, mode 8, size 10, end 2
_NAME = slice(0, 16)
_SIZE = slice(48, 58)
_END = slice(58, 60)
# What the libraries raise for damaged archives.
_DAMAGED = (tarfile.TarError, BadZipFile, lzma.LZMAError, zlib.error, EOFError, OSError, pa.ArrowInvalid)


def read_ar(file: IO[bytes]) -> Iterator[tuple[str, int]]:
    """Yield the name and the size of each member of an `ar` archive, with the file at its first byte.

    Args:
        file: it can be sought in, and stands at its beginning.

    Raises:
        InputError: it is no `ar` archive, or ends in the middle of one.
    """
    if file.read(len(_MAGIC)) != _MAGIC:
        raise InputError("it is no ar archive, which a .deb is")
    while header := file.read(_HEADER):
        size = header[_SIZE].strip()
        if len(header) < _HEADER or header[_END] != b"`\n" or not size.isdigit():
            raise InputError("its ar archive is damaged")
        start = file.tell()
        # "data.tar.xz/    " in the spelling of GNU
        name = header[_NAME].decode("ascii", errors="replace").rstrip().rstrip("/")
        yield name, int(size)
        # Members begin at even places.
        file.seek(start + int(size) + int(size) % 2)


def unpack(
    archive: Path,
    folder: Path,
    *,
    below: str,
    endings: Collection[str],
    is_wanted: Callable[[str], bool] = lambda name: True,
) -> list[Path]:
    """Write some files of a package into a folder, and return their paths, sorted.

    Args:
        archive: `.deb`, `.whl`, `.tgz` or `.tar.xz`.
        folder: it is made, and emptied if it was there.
        below: the folder in the archive, with a slash at its end, whose files are wanted. Their paths in
            `folder` are those below it.
        endings: of the wanted files, such as `.png`.
        is_wanted: tells by a path below `below` whether a file with such an ending is wanted.

    Raises:
        InputError: the archive cannot be read, has no such file, or has one whose path leads outside.
    """
    shutil.rmtree(folder, ignore_errors=True)
    written = []
    with _members(archive) as members:
        for name, file in members:
            if not name.startswith(below) or PurePosixPath(name).suffix not in endings:
                continue
            name = name.removeprefix(below)
            if not is_wanted(name):
                continue
            path = folder / _checked(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as target:
                shutil.copyfileobj(file, target)
            written.append(path)
    if not written:
        raise InputError(f"{archive} has no {' or '.join(sorted(endings))} below {below!r}")
    return sorted(written)


def read_member(archive: Path, name: str) -> bytes:
    """Read one file of a package.

    Raises:
        InputError: the archive cannot be read, or has no such file.
    """
    with _members(archive) as members:
        for member, file in members:
            if member == name:
                return file.read()
    raise InputError(f"{archive} has no {name!r}")


@contextmanager
def _members(archive: Path) -> Iterator[Iterator[tuple[str, IO[bytes]]]]:
    """Open a package as pairs of the path and the content of each regular file, in the archive's order.

    Raises:
        InputError: it is of no known kind, or damaged.
    """
    try:
        with archive.open("rb") as file:
            if archive.suffix == ".whl":
                yield _files_of_zip(file)
            elif archive.suffix == ".tgz":
                yield _files_of_tar(file, "r|gz")
            elif archive.name.endswith(".tar.xz"):
                yield _files_of_tar(file, "r|xz")
            elif archive.suffix == ".deb":
                yield _files_of_deb(file)
            else:
                raise InputError("give a .deb, .whl, .tgz or .tar.xz")
    except InputError as error:
        raise InputError(f"{archive} cannot be unpacked: {error}") from error
    except _DAMAGED as error:
        # The system's own errors, such as that of a full disk, have a number.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise InputError(f"{archive} cannot be unpacked: {one_line(error)}") from error


def _files_of_zip(file: IO[bytes]) -> Iterator[tuple[str, IO[bytes]]]:
    with ZipFile(file) as archive:
        for member in archive.infolist():
            if not member.is_dir():
                with archive.open(member) as content:
                    yield member.filename, content


def _files_of_tar(file: IO[bytes], mode: str) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield the regular files of a tar, which is read from its beginning to its end."""
    with tarfile.open(fileobj=file, mode=mode) as archive:
        for member in archive:
            if member.isfile():
                # "./usr/share/doc" -> "usr/share/doc"
                yield member.name.removeprefix("./"), archive.extractfile(member)


def _files_of_deb(file: IO[bytes]) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield the regular files that a Debian package installs.

    Raises:
        InputError: it has none, or in a compression that is not known.
    """
    for name, size in read_ar(file):
        if not name.startswith("data.tar"):
            continue
        stored = file.read(size)  # the largest has 160 MB
        if len(stored) < size:
            raise InputError("its ar archive is cut off")
        content = io.BytesIO(stored)
        compression = name.removeprefix("data.tar").removeprefix(".")
        if compression == "zst":  # which tarfile reads from Python 3.14 on
            yield from _files_of_tar(pa.input_stream(content, compression="zstd"), "r|")
        elif compression in ("", "gz", "xz"):
            yield from _files_of_tar(content, f"r|{compression}")
        else:
            raise InputError(f"it has {name}: give one in xz, zst or gz")
        return
    raise InputError("it has no data.tar")


def _checked(name: str) -> PurePosixPath:
    """Return a path in an archive that stays in the folder into which it is unpacked.

    Raises:
        InputError: it does not.
    """
    path = PurePosixPath(name)
    has_drive = ":" in name or "\\" in name  # C:\file on Windows
    if path.is_absolute() or ".." in path.parts or has_drive:
        raise InputError(f"it has a file at {name!r}, which is outside of the folder")
    return path


__all__ = ["read_ar", "read_member", "unpack"]
