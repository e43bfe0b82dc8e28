"""Read, hash and decode undecoded images, `{"bytes", "path"}`, as `datasets` gives them."""

import json

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Image
from datasets.utils.file_utils import xopen
from PIL import Image as PillowImage
from PIL import UnidentifiedImageError
from xxhash import xxh3_128

from modeling_altclip.addresses_altclip import MOST_BYTES
from modeling_altclip.image_files_altclip import check_encoded

# How the bytes of an image begin that is not to be opened; the reason follows. No image begins so.
_REFUSED = b"\0not opened: "
_SHOWN = 1000  # characters of the path of such an image that are kept for messages


def is_refused(contents: pa.Array) -> pa.Array:
    """Return a mask of those undecoded images, given by their `bytes`, that no reader opens."""
    # Only offsets are looked at for most of them: their bytes may be gigabytes on the disk.
    is_short = pc.less(pc.binary_length(contents), 10 * _SHOWN)
    short = pc.if_else(is_short, contents, pa.scalar(None, contents.type))
    return pc.fill_null(pc.starts_with(short, pattern=_REFUSED), False)


def refused_image(path: str, reason: str) -> dict:
    """Return an undecoded image that no reader opens: its bytes tell its path and the reason instead.

    It has no path of its own: `datasets` drops the bytes of images whose path is a file.
    """
    return {"bytes": _REFUSED + json.dumps([path[:_SHOWN], reason]).encode(), "path": None}


def path_of(image: dict) -> str | None:
    """Return the path of an undecoded image, for messages; None if it has none."""
    if image["bytes"] is not None and image["bytes"].startswith(_REFUSED):
        return _path_and_reason(image["bytes"])[0]
    return image["path"]


def _path_and_reason(content: bytes) -> tuple[str, str]:
    path, reason = json.loads(content.removeprefix(_REFUSED))
    return path, reason


def encoded_bytes(image: dict) -> bytes:
    """Return the encoded bytes of an image, which lie in the row or in a file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not to be opened, or larger than `MOST_BYTES`.
    """
    content = image["bytes"]
    if content is None and image["path"] is None:
        raise ValueError("it has neither bytes nor a path")
    if content is None:
        with xopen(image["path"], "rb") as file:  # which also reads files within a zip
            content = file.read(MOST_BYTES + 1)
    if content.startswith(_REFUSED):
        raise ValueError(_path_and_reason(content)[1])
    if len(content) > MOST_BYTES:
        raise ValueError(f"its file has more than {MOST_BYTES:,} bytes: save the image smaller")
    return content


def digest_of(content: bytes) -> str:
    """Return the XXH3-128 of an image's encoded bytes: equal images have one, wherever they lie."""
    return xxh3_128(content).hexdigest()


def decode_image(image: dict) -> PillowImage.Image:
    """Decode an image by Pillow, with its transparency.

    Raises:
        Exception: it cannot be decoded. Decoders raise anything for damaged files, `OSError`, `SyntaxError`,
            `struct.error` and others; `why_unreadable` puts it into words. A ValueError says that it is too
            large, before it is decoded.
    """
    content = encoded_bytes(image)
    check_encoded(content)
    return Image().decode_example({"bytes": content, "path": None})


def why_unreadable(error: Exception) -> str:
    """Describe why an image cannot be read: `OSError: image file is truncated`."""
    if isinstance(error, UnidentifiedImageError):
        return "Pillow knows no such format"  # Pillow's own message has an address in memory
    if type(error) is ValueError:
        return str(error)  # a sentence of ours or of Pillow's
    return f"{type(error).__name__}: {error}"


__all__ = [
    "MOST_BYTES",
    "decode_image",
    "digest_of",
    "encoded_bytes",
    "is_refused",
    "path_of",
    "refused_image",
    "why_unreadable",
]
