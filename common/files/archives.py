"""Refuse files that unpack to far more than they are: a zip of 2 MB may hold gigabytes of zeros."""

import io
import lzma
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO
from zipfile import BadZipFile, ZipFile

import pyarrow as pa

from ..errors import InputError
from ..images import MOST_BYTES

# Texts unpack to 3 to 30 times their size, and images to little more than it.
_MOST_TIMES = 200
_HARMLESS = 2**30  # bytes that any file may unpack to
_CHUNK = 2**20


def refuse_bombs(paths: Iterable[str]) -> None:
    """Refuse zips that unpack to more than 1 GiB and to more than 200 times their size.

    Python unpacks no more of a member than its zip states, so that the stated sizes can be relied on. Other
    files, and addresses, are passed over.

    Raises:
        InputError: one does.
    """
    for path in paths:
        if not path.lower().endswith(".zip") or not os.path.isfile(path):
            continue
        try:
            with ZipFile(path) as archive:
                unpacked = sum(member.file_size for member in archive.infolist())
        except BadZipFile:
            continue  # whoever reads it says what is wrong
        if unpacked > _most_of(path):
            raise InputError(_said_of(path, f"{unpacked:,}"))


def _most_of(path: str) -> int:
    """Return the number of bytes that a file may unpack to."""
    return max(_HARMLESS, _MOST_TIMES * os.path.getsize(path))


def _said_of(path: str, unpacked: str) -> str:
    n_bytes = os.path.getsize(path)
    return f"{path} has {n_bytes:,} bytes and unpacks to {unpacked}: if you trust it, unpack it yourself"


def open_bounded(path: str | Path) -> io.BufferedReader:
    """Open a file to read, unpacked if its name ends in `.gz`, `.bz2`, `.xz` or `.zst`.

    It is read up to the bound of `refuse_bombs`.

    What a compressed file unpacks to is known only when it is unpacked, which is done in chunks.

    Raises:
        InputError: by the reader, when it is at the bound.
        OSError: it cannot be opened; or by the reader, when it is damaged.
    """
    return io.BufferedReader(_Bounded(str(path)), _CHUNK)


class _Bounded(io.RawIOBase):
    """Reads a file as `open_bounded` says."""

    def __init__(self, path: str):
        self.path = path
        # Arrow tells all others by the ending.
        self.file = lzma.open(path) if path.lower().endswith(".xz") else pa.input_stream(path)
        self.n_left = _most_of(path)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        try:
            content = self.file.read(len(buffer))
        except (EOFError, lzma.LZMAError) as error:
            raise OSError(f"{self.path} is damaged: {error}") from error
        self.n_left -= len(content)
        if self.n_left < 0:
            raise InputError(_said_of(self.path, f"more than {_most_of(self.path):,}"))
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        self.file.close()
        super().close()


def bounded_members(members: Iterable[tuple[str, IO[bytes]]], path: str) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield the same `(name, file)` of an archive, each read up to `MOST_BYTES`.

    Raises:
        ValueError: a file has more, or those of a local archive together exceed the bound of `refuse_bombs`.
    """
    n_left = _most_of(path) if os.path.isfile(path) else math.inf
    for name, file in members:
        content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise ValueError(f"{name} has more than {MOST_BYTES:,} bytes")
        n_left -= len(content)
        if n_left < 0:
            raise ValueError(_said_of(path, f"more than {_most_of(path):,}"))
        yield name, io.BytesIO(content)


__all__ = ["bounded_members", "open_bounded", "refuse_bombs"]
