"""The parts of an embedding cache: Arrow streams that hold a digest of their own bytes.

A part's schema metadata name the cache and the place in it that the part was written for, and the XXH3-128 of
the file, in which the digits of the digest itself are taken as zeros. So a flipped bit anywhere in the file,
a cut, and a part that was renamed or came from another cache are all found before Arrow reads a byte of it.
Parts of version 0.1 hold no digest; of these only the form is checked.
"""

import json
import mmap
import re
from pathlib import Path

import pyarrow as pa
from datasets import Dataset
from xxhash import xxh3_128

from .errors import InputError, one_line

_METADATA_KEY = b"altclip.part"
_ZEROS = b"0" * 32
_DIGEST = re.compile(rb'"xxh3_128": "([0-9a-f]{32})"')
# The schema stands first in the file; ours have under 2,000 bytes.
_HEAD_LENGTH = 64 * 1024


def part_bytes(table: pa.Table, path: Path, n_parts: int) -> bytearray:
    """Return the Arrow stream of a part, with its digest.

    Args:
        path: where the part will lie, `CACHE/data/part-00003.arrow`.
        n_parts: the number of parts of the whole cache.
    """
    written_for = {"cache": path.parent.parent.name, "part": path.name, "parts": n_parts}
    label = json.dumps(written_for | {"xxh3_128": _ZEROS.decode()})
    schema = table.schema.with_metadata(table.schema.metadata | {_METADATA_KEY: label.encode()})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_table(table.cast(schema))

    content = bytearray(sink.getvalue())
    start = _DIGEST.search(content).start(1)
    content[start : start + len(_ZEROS)] = xxh3_128(content).hexdigest().encode()
    return content


def open_part(path: Path) -> pa.Table:
    """Map a part into memory, after a check of all its bytes.

    Raises:
        InputError: the part is damaged, or was written for another place; the message says in which way.
    """
    _check_digest(path)
    return _read_table(path)


def find_damaged_parts(folder: str | Path) -> list[str]:
    """Check every part of a cache; return one line about each that is damaged, missing or out of place.

    Args:
        folder: the cache's folder, `CACHE_DIR/NAME-FINGERPRINT`, under the name that it was written with.

    Raises:
        InputError: the folder holds no part.

    Example:

    ```python
    >>> from common.arrow_parts import find_damaged_parts

    >>> find_damaged_parts("tests/fixtures/v0.1.0/cache/target-ac7c11db6e4cc8b2eda92b7b4cc234bc")
    []
    ```
    """
    paths = sorted(Path(folder, "data").glob("part-*.arrow"))
    if not paths:
        raise InputError(f"{folder} holds no parts of a cache: give a folder with data/part-00000.arrow")
    damages = []
    n_parts = len(paths)
    for path in paths:
        try:
            label = _check_digest(path)
            _read_table(path)
        except InputError as error:
            damages.append(str(error))
            continue
        if label is not None:
            n_parts = max(n_parts, label["parts"])

    for number in range(n_parts):
        path = Path(folder, f"data/part-{number:05d}.arrow")
        if not path.exists():
            damages.append(f"{path} is missing")
    return damages


def _read_table(path: Path) -> pa.Table:
    """Map a part into memory, and check its offsets and texts.

    Raises:
        InputError: it cannot be read.
    """
    # Without a digest, damaged bytes can raise any error on the way through Arrow's and datasets' parsers.
    try:
        table = Dataset.from_file(str(path)).data.table
        table.validate(full=True)
    except Exception as error:
        raise InputError(f"{path} cannot be read: {one_line(error)}") from error
    return table


def _check_digest(path: Path) -> dict | None:
    """Compare a part with its digest, and its label with its place.

    Returns:
        The label `{"cache": its folder, "part": its file, "parts": how many there are, …}`, or None if the
        part was written by version 0.1.

    Raises:
        InputError: they differ, or the file is empty.
    """
    if path.stat().st_size == 0:
        raise InputError(f"{path} is damaged: the file is empty")
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        head = content[:_HEAD_LENGTH]
        found = _DIGEST.search(head)
        if found is None and _METADATA_KEY not in head:
            return None
        if found is None:
            raise InputError(f"{path} is damaged: its digest cannot be read")
        # The parts of a map are not copied.
        with memoryview(content) as view:
            digest = xxh3_128(view[: found.start(1)])
            digest.update(_ZEROS)
            digest.update(view[found.end(1) :])
    if digest.hexdigest().encode() != found[1]:
        raise InputError(f"{path} is damaged: its bytes are not those that were written")

    start = head.rfind(b"{", 0, found.start())
    label = json.loads(head[start : head.find(b"}", start) + 1])
    is_in_place = label["cache"] == path.parent.parent.name and label["part"] == path.name
    if not is_in_place:
        raise InputError(f"{path} is out of place: it was written as {label['part']} of {label['cache']}")
    return label


__all__ = ["find_damaged_parts", "open_part", "part_bytes"]
