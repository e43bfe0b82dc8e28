"""Read tars that are compressed by Zstandard, which neither Python nor `datasets` can read.

This is a module of its own, because `datasets` replaces `open` and `os.path` in the modules of its builders
where they stream: there, a look at the first bytes would begin a download.
"""

import os
import tarfile
from collections.abc import Iterator
from typing import IO

import pyarrow as pa

_FIRST_BYTES = b"\x28\xb5\x2f\xfd"


def is_zstandard(path: str) -> bool:
    """Check by its first bytes that a local file is compressed by Zstandard; an address never is."""
    if not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        return file.read(len(_FIRST_BYTES)) == _FIRST_BYTES


class ZstandardTar:
    """The files of a tar, as often as they are asked for, as `iter_archive` gives those of other tars.

    Args:
        path: of the tar on the disk.
    """

    def __init__(self, path: str):
        self.path = path

    def __iter__(self) -> Iterator[tuple[str, IO[bytes]]]:
        with pa.OSFile(self.path, "rb") as packed, pa.CompressedInputStream(packed, "zstd") as unpacked:
            with tarfile.open(fileobj=unpacked, mode="r|") as tar:
                for member in tar:
                    is_hidden = os.path.basename(member.name).startswith((".", "__"))
                    if member.isreg() and not is_hidden:
                        yield member.name, tar.extractfile(member)


__all__ = ["ZstandardTar", "is_zstandard"]
