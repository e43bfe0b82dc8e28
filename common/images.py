"""Read, hash and decode undecoded images, `{"bytes", "path"}`, as `datasets` gives them."""

from datasets import Image
from datasets.utils.file_utils import xopen
from PIL import Image as PillowImage
from PIL import UnidentifiedImageError
from xxhash import xxh3_128

from modeling_altclip.images_altclip import check_encoded


def encoded_bytes(image: dict) -> bytes:
    """Return the encoded bytes of an image, which lie in the row or in a file.

    Raises:
        OSError: the file cannot be read.
    """
    if image["bytes"] is not None:
        return image["bytes"]
    with xopen(image["path"], "rb") as file:  # which also reads files within a zip
        return file.read()


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


__all__ = ["decode_image", "digest_of", "encoded_bytes", "why_unreadable"]
