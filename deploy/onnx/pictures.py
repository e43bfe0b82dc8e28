"""Read pictures and prepare their pixels as the model's image processor does, by numpy and Pillow alone.

Nothing here may import torch or transformers, nor `modeling_altclip`, which imports both. `read_picture`
reads what files and PIL hold as `modeling_altclip.images_altclip` does, and `Preparation` does the steps of
transformers' image processors; `tests/test_onnx_runtime.py` compares both.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor, ImageOps

# Bounds of a picture, which are looked at before it is decoded, as everywhere in this package.
MAX_PIXELS = 100_000_000
_MAX_ASPECT = 200  # the longer edge through the shorter one

_DROP_ALPHA = "none"  # how an image processor's file says that alpha is dropped
_GREYS_OF_16_BITS = ("I", "F")


def read_picture(picture: Image.Image | str | Path, background: Sequence[int] | None) -> Image.Image:
    """Read a picture as upright RGB with 8 bits a channel.

    Args:
        picture: a path, or an image of PIL.
        background: red, green and blue of what transparent pixels stand on; None drops alpha.

    Raises:
        ValueError: it is neither of the two, or has no pixels, too many, or greys of 16 bits. Errors of
            Pillow are left as they are.
    """
    if isinstance(picture, str | Path):
        with Image.open(picture) as opened:
            return _to_rgb(opened, background)
    if not isinstance(picture, Image.Image):
        raise ValueError(
            f"it is a {type(picture).__name__}: give a path or an image of PIL, Image.fromarray(array)"
        )
    return _to_rgb(picture, background)


def _to_rgb(picture: Image.Image, background: Sequence[int] | None) -> Image.Image:
    """Convert a picture of any mode, but for greys of 16 bits, to upright RGB on a background."""
    _check_size(picture)
    picture.load()
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith(_GREYS_OF_16_BITS):
        raise ValueError(f"it has greys of 16 bits, mode {picture.mode}: convert it to 8 bits first")
    if picture.mode == "La":
        picture = picture.convert("LA")  # Pillow converts premultiplied grey to nothing else

    if background is None or not picture.has_transparency_data:
        return picture.convert("RGB")
    ground = Image.new("RGBA", picture.size, (*background, 255))
    return Image.alpha_composite(ground, picture.convert("RGBA")).convert("RGB")


def _check_size(picture: Image.Image) -> None:
    """Refuse a picture before it is decoded: one that is a program, empty, or too large.

    Raises:
        ValueError: it is such a picture.
    """
    if picture.format == "EPS":
        raise ValueError("EPS is a program, which Pillow has Ghostscript run: render it to a PNG first")
    width, height = picture.size
    if width * height == 0:
        raise ValueError(f"its size is {width}x{height} pixels")
    if width * height > MAX_PIXELS:
        raise ValueError(f"its size is {width}x{height} pixels, more than {MAX_PIXELS:,}: shrink it")
    if max(width, height) > _MAX_ASPECT * min(width, height):
        raise ValueError(
            f"its size is {width}x{height}, one edge more than {_MAX_ASPECT} times the other: crop it"
        )


@dataclass(frozen=True)
class Preparation:
    """The steps of an image processor, as its `preprocessor_config.json` states them.

    Attributes:
        settings: the content of that file.
        background: red, green and blue of what transparent pixels stand on; None drops alpha.
    """

    settings: dict
    background: tuple[int, int, int] | None

    @classmethod
    def from_settings(cls, settings: dict) -> "Preparation":
        """Read the steps from the content of `preprocessor_config.json`.

        Raises:
            ValueError: a size is stated in a form that is not known.
        """
        background = settings.get("background", "white")
        if background == _DROP_ALPHA:
            background = None
        elif isinstance(background, str):
            background = ImageColor.getrgb(background)
        if settings.get("do_resize") and not _is_known_size(settings["size"]):
            raise ValueError(f"size is {settings['size']}: shortest_edge, or height and width, are known")
        return cls(settings, None if background is None else tuple(background))

    def __call__(
        self, pictures: Sequence[Image.Image | str | Path], names: Sequence | None = None
    ) -> np.ndarray:
        """Prepare pictures.

        Args:
            names: names of the pictures in errors, if not 0, 1, 2.

        Returns:
            `pixel_values`, float32 `(pictures, 3, height, width)`.

        Raises:
            ValueError: a picture cannot be read; the message gives its name.
        """
        prepared = []
        for name, picture in zip(names or range(len(pictures)), pictures):
            try:
                read = read_picture(picture, self.background)
            except Exception as error:  # decoders raise whatever they like
                raise ValueError(f"images[{name!r}] cannot be read: {error}") from error
            prepared.append(self._prepare(read))
        return np.stack(prepared)

    def _prepare(self, picture: Image.Image) -> np.ndarray:
        """Do the steps on one RGB picture; return `(3, height, width)`."""
        settings = self.settings
        if settings.get("do_resize"):
            width, height = _new_size(picture.size, settings["size"])
            picture = picture.resize((width, height), Image.Resampling(settings["resample"]))
        pixels = np.asarray(picture)
        if settings.get("do_center_crop"):
            pixels = _center_crop(pixels, settings["crop_size"]["height"], settings["crop_size"]["width"])

        # Rescaled in doubles and normalised in floats, as transformers does.
        if settings.get("do_rescale"):
            pixels = pixels.astype(np.float64) * settings["rescale_factor"]
        pixels = pixels.astype(np.float32)
        if settings.get("do_normalize"):
            mean = np.array(settings["image_mean"], np.float32)
            std = np.array(settings["image_std"], np.float32)
            pixels = (pixels - mean) / std
        return pixels.transpose(2, 0, 1)


def _is_known_size(size: dict) -> bool:
    stated = {name for name, value in size.items() if value is not None}
    return stated in ({"shortest_edge"}, {"height", "width"})


def _new_size(old: tuple[int, int], size: dict) -> tuple[int, int]:
    """Return the width and height that a picture is resized to."""
    shortest = size.get("shortest_edge")
    if shortest is None:
        return size["width"], size["height"]
    width, height = old
    longest = int(shortest * max(old) / min(old))
    return (shortest, longest) if width <= height else (longest, shortest)


def _center_crop(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Cut `height` x `width` out of the middle of `(rows, columns, 3)`; what is smaller stands on black."""
    pixels = _pad(pixels, height, width)
    rows, columns, _ = pixels.shape
    top = (rows - height) // 2
    left = (columns - width) // 2
    return pixels[top : top + height, left : left + width]


def _pad(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Add black around pixels of less than `height` x `width`, the larger half above and on the left."""
    missing = (max(height - pixels.shape[0], 0), max(width - pixels.shape[1], 0))
    around = [(ceil(n / 2), n // 2) for n in missing]
    return np.pad(pixels, [*around, (0, 0)])


__all__ = ["MAX_PIXELS", "Preparation", "read_picture"]
