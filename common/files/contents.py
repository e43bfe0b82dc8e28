"""Digests of files' contents, by which prepared rows are known.

`datasets` knows a local file by its path and time alone, and would give the old rows of a file that `cp -p`,
`rsync -t` or `tar` wrote over with another of the same time.
"""

import hashlib
import os
from collections.abc import Iterable
from glob import glob
from itertools import chain
from pathlib import Path

from xxhash import xxh3_128

from .endings import TEXTS, suffix_of

# The end of a file has the places, sizes and extreme values of columns (parquet, Arrow), the checksums of all
# members (zip), or the last members (tar).
_KNOWN_BY_END = {".arrow", ".parquet", ".tar", ".zip"}
_END_LENGTH = 1024 * 1024


def content_digest(path: str | Path) -> str:
    """Return the XXH3-128 of a file's bytes, 32 hexadecimal digits; each GB in memory takes 0.1 s."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, xxh3_128).hexdigest()


def contents_of(paths: Iterable[str | Path]) -> str:
    """Return a text that changes with the contents of local files, for the key of what `datasets` caches.

    It goes into a configuration's `description`, the one field that every builder takes and none reads.
    Tables of text are read whole. Of parquet and Arrow files and archives, which may have hundreds of GB, the
    size and the last MB are read. Images are not prepared, but read from their files. Files on the Hub are
    known by their revision.

    Args:
        paths: files, or patterns of files.
    """
    parts = []
    for path in chain.from_iterable(map(_files_of, paths)):
        if suffix_of(path) in TEXTS:
            parts.append(content_digest(path))
        if suffix_of(path) in _KNOWN_BY_END:
            parts.append(f"{os.path.getsize(path)} {_digest_of_end(path)}")
    return xxh3_128("\n".join(parts).encode()).hexdigest()


def _files_of(path: str | Path) -> list[str]:
    """Return the file itself, or the local files that a pattern such as `test/*.tar` stands for."""
    if os.path.isfile(path):
        return [str(path)]
    return sorted(filter(os.path.isfile, glob(str(path), recursive=True)))


def _digest_of_end(path: str | Path) -> str:
    """Return the XXH3-128 of a file's last MB."""
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - _END_LENGTH))
        return xxh3_128(file.read()).hexdigest()


__all__ = ["content_digest", "contents_of"]
