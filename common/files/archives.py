"""Refuse archives that unpack to far more than they are: a zip of 2 MB may hold gigabytes of zeros."""

import os
from collections.abc import Iterable, Iterator
from io import BytesIO
from typing import IO
from zipfile import BadZipFile, ZipFile

from ..errors import InputError
from ..images import MOST_BYTES

# Zips of texts unpack to 3 to 30 times their size, and those of images to little more than it.
_MOST_TIMES = 200
_HARMLESS = 2**30  # bytes that any zip may unpack to


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
        if unpacked > max(_HARMLESS, _MOST_TIMES * os.path.getsize(path)):
            raise InputError(
                f"{path} has {os.path.getsize(path):,} bytes and unpacks to {unpacked:,}: "
                "if you trust it, unpack it yourself"
            )


def bounded_members(members: Iterable[tuple[str, IO[bytes]]]) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield the same `(name, file)` of an archive, each read up to `MOST_BYTES`.

    Raises:
        ValueError: a file has more.
    """
    for name, file in members:
        content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise ValueError(f"{name} has more than {MOST_BYTES:,} bytes")
        yield name, BytesIO(content)


__all__ = ["bounded_members", "refuse_bombs"]
