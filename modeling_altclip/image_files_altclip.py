"""Find images, and open them within bounds before they are decoded: files, addresses and base64 text."""

import base64
import binascii
import os
import re
from glob import glob
from io import BytesIO
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname, urlopen

from PIL import Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from .addresses_altclip import fetch

# Bounds of an image, which are looked at before it is decoded: a PNG of 20 KB can hold 500 MB of pixels, and
# an image 1 pixel wide is enlarged to gigabytes. Set them to other numbers to read larger images.
MAX_PIXELS = 100_000_000
MAX_ASPECT = 200  # the longer edge through the shorter one
MAX_JPEG_PIXELS = 300_000_000  # JPEGs are decoded at half their width and height if above `MAX_PIXELS`

_UNREAD_EXTENSIONS = (
    ".svg",
    ".svgz",
    ".heic",
    ".heif",
    ".jxl",
)  # images that Pillow cannot read: refused by name
_ADDRESSES = ("http://", "https://", "file://", "data:")
_BASE64 = re.compile(r"[A-Za-z0-9+/=\s]+")
_WILDCARD = re.compile(r"[*?[]")
_LONGEST_NAME = 255  # characters of a path; a longer string of base64's alphabet was meant as an image
_SHOWN = 1000  # characters of a string in an error


def check_size(width: int, height: int) -> None:
    """Refuse an image of more than `MAX_PIXELS`, or longer than `MAX_ASPECT` times its width.

    Raises:
        ValueError: it is such an image. The message has no index, which `read_images` adds.
    """
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"its size is {width}x{height} pixels, more than {MAX_PIXELS:,}: shrink it, or set MAX_PIXELS of "
            f"{__name__}"
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ValueError(
            f"its size is {width}x{height} pixels, and one edge is more than {MAX_ASPECT} times the other: "
            f"crop it, or set MAX_ASPECT of {__name__}"
        )


def check_opened(image: Image.Image) -> None:
    """Refuse an image before it is decoded: one that is a program, or too large; see `check_size`.

    Raises:
        ValueError: it is such an image.
    """
    if image.format == "EPS":
        raise ValueError("EPS is a program, which Pillow has Ghostscript run: render it to a PNG first")
    check_size(*image.size)


def check_encoded(content: bytes) -> None:
    """Refuse encoded bytes of an image as `check_opened` does, before it is decoded.

    Raises:
        ValueError: it is refused. Bytes that are no image pass, since decoding them says more.
    """
    try:
        opened = Image.open(BytesIO(content))
    except Image.DecompressionBombError as error:
        raise ValueError(f"it is too large: {error}") from error
    except Exception:
        return
    with opened:
        check_opened(opened)


def open_image(source: str, timeout: float | None = None) -> Image.Image:
    """Open the image at a path, an address or a `data:` URL, or in base64 text.

    Raises:
        ValueError: there is no file there, or it is a folder or an SVG. Errors of Pillow and of the network
            are left as they are.
    """
    longest = max(len(address) for address in _ADDRESSES)
    scheme = source[:longest].lower()  # base64 text may be long: only its start is lowered
    if scheme.startswith(("http://", "https://")):
        return _open_bounded(BytesIO(fetch(source, timeout)))
    if scheme.startswith("data:"):
        with urlopen(source) as response:
            return _open_bounded(BytesIO(response.read()))

    path = url2pathname(urlsplit(source).path) if scheme.startswith("file://") else source
    if os.path.isdir(path):
        raise ValueError(f"it is a folder, not a file: {path}")
    if not os.path.isfile(path):
        return _open_base64(path)
    try:
        return _open_bounded(path)
    except UnidentifiedImageError as error:
        if path.lower().endswith((".svg", ".svgz")):
            raise ValueError(f"SVG is a drawing, without pixels: render it to a PNG first: {path}") from error
        raise


def _open_bounded(source: str | BytesIO) -> Image.Image:
    """Open an image without decoding it; a JPEG above `MAX_PIXELS` at half its width and height.

    Raises:
        ValueError: it is too large, see `check_size`. Other errors of Pillow are left as they are.
    """
    try:
        opened = Image.open(source)
    except Image.DecompressionBombError as error:
        opened = _open_jpeg(source, error)
    width, height = opened.size
    if opened.format == "JPEG" and MAX_PIXELS < width * height <= MAX_JPEG_PIXELS:
        # The decoder leaves out the finest details, which takes a quarter of the memory. Smaller images are
        # not shrunk so, since their pixels would be others than those of transformers.
        opened.draft(None, (width // 2, height // 2))
    check_opened(opened)
    return opened


def _open_jpeg(source: str | BytesIO, error: Exception) -> Image.Image:
    """Open a JPEG of more pixels than `Image.open` allows.

    Args:
        error: why `Image.open` refuses it.

    Raises:
        ValueError: it is no JPEG.
    """
    try:
        return JpegImageFile(source)
    except SyntaxError:
        raise ValueError(f"it is too large: {error}") from error


def _open_base64(text: str) -> Image.Image:
    """Open an image in base64 text.

    Raises:
        ValueError: `text` holds no image, or one that is too large. If it is short or has other characters,
            it was meant as a path, and the message says so.
    """
    try:
        content = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise _no_image_in(text) from error
    try:
        return _open_bounded(BytesIO(content))
    except UnidentifiedImageError as error:
        raise _no_image_in(text) from error


def _no_image_in(text: str) -> ValueError:
    if len(text) <= _LONGEST_NAME or not _BASE64.fullmatch(text):
        return ValueError(f"file does not exist: {text[:_SHOWN]}")
    return ValueError(f"it is neither a file nor an image in base64: {text[:_SHOWN]}")


def find_images(where: str | Path) -> dict[str, str]:
    """Find the images in a folder and its subfolders, or those that match a glob such as `photos/**/*.jpg`.

    Images are recognised by their extension: those that Pillow reads, and a few that it does not, such as
    SVG. Hidden files and folders are left out, links to folders are followed.

    Returns:
        `{name: path}`, sorted by name. A name is the path below the folder, or below the part of a glob
        before its wildcards, with `/`.

    Raises:
        ValueError: there is no such folder, or no image in it.
    """
    where = str(where)
    is_base64 = len(where) > _LONGEST_NAME and _BASE64.fullmatch(where)
    if where.lower().startswith(_ADDRESSES) or is_base64 or os.path.isfile(where):
        raise ValueError("images is a single file or address: put it into a list")

    if os.path.isdir(where):
        root = where
        paths = _files_below(where)
    elif _WILDCARD.search(where):
        # photos/**/*.jpg -> photos
        root = os.path.dirname(_WILDCARD.split(where)[0]) or "."
        paths = _matches(where, root)
    else:
        raise ValueError(f"images is {where!r}, and the file does not exist: give a folder, a glob or a list")

    formats = Image.registered_extensions()
    readable = [extension for extension, name in formats.items() if name in Image.OPEN]
    extensions = (*readable, *_UNREAD_EXTENSIONS)
    images = [path for path in paths if path.lower().endswith(extensions) and os.path.isfile(path)]
    if not images:
        raise ValueError(f"images is {where!r}, and none of its {len(paths)} files is a picture by its name")
    names = [Path(os.path.relpath(path, root)).as_posix() for path in images]
    return dict(sorted(zip(names, images)))


def _files_below(folder: str) -> list[str]:
    """List the files in a folder and its subfolders that are not hidden; follow links to folders once."""
    paths = []
    for parent, folders, files in os.walk(folder, followlinks=True):
        shown = [name for name in folders if not name.startswith(".")]
        # `os.walk` goes on into the folders that are left in this list.
        folders[:] = [name for name in shown if not _leads_back(os.path.join(parent, name), folder)]
        paths += [os.path.join(parent, name) for name in files if not name.startswith(".")]
    return paths


def _matches(pattern: str, root: str) -> list[str]:
    """List the paths that match a glob, without those behind a link back to a parent folder."""
    paths = []
    for path in glob(pattern, recursive=True):
        parent = os.path.dirname(path) or "."
        if not _leads_back(parent, root):
            paths.append(path)
    return paths


def _leads_back(folder: str, root: str) -> bool:
    """Check for a link on the way from `root` to `folder` that leads to a folder further up the same way."""
    passed = [os.path.realpath(root)]
    for part in Path(os.path.relpath(folder, root)).parts:
        root = os.path.join(root, part)
        if os.path.realpath(root) in passed:
            return True
        passed.append(os.path.realpath(root))
    return False


__all__ = ["check_encoded", "check_opened", "check_size", "find_images", "open_image"]
