"""Read images of every kind as RGB, for processor, pipeline, embedding, training and evaluation.

The reader differs from transformers in two ways, on purpose. Transparent pixels are composited on a
background, white by default, where `load_image` drops alpha and shows whatever it hid. Floats within [0, 1]
are scaled as such, where image processors divide them by 255 once more.
"""

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageColor, ImageOps
from PIL.TiffImagePlugin import PHOTOMETRIC_INTERPRETATION
from transformers import BatchFeature

from .image_files_altclip import check_opened, check_size, open_image

# Images of one call are read and resized in groups of about so many pixels, 150 MB as RGB: 128 photos of 12
# megapixels would take gigabytes at once.
GROUP_PIXELS = 50_000_000
# Values of an array that are scaled at a time: doubles of all at once would take eight times the image.
_SCALED_VALUES = 4_000_000

WHITE = "white"
DROP_ALPHA = "none"  # None as it is written into a file: transformers does not save attributes that are None
_TRANSPARENT_MODES = (
    "1",
    "L",
    "P",
    "RGB",
    "LA",
    "PA",
    "RGBA",
    "RGBa",
)  # the first four by a palette or a key
_CHANNEL_AXES = {"channels_first": (0,), "channels_last": (2,)}


@dataclass(frozen=True)
class DeferredImage:
    """An image that is decoded when its group is read, see `read_groups`.

    Args:
        read: returns the image. Its errors are raised as they are.
    """

    read: Callable[[], Image.Image]


def read_background(background: str | Sequence[int] | None) -> tuple[int, int, int] | None:
    """Read the color that transparent images are composited on.

    Args:
        background: a name or hex code that `PIL.ImageColor` knows, three integers from 0 to 255, or None.

    Returns:
        Red, green and blue, or None for None and "none": alpha is dropped, as transformers does.

    Raises:
        ValueError: `background` is no such color.
    """
    if background is None or background == DROP_ALPHA:
        return None
    try:
        color = ImageColor.getrgb(background) if isinstance(background, str) else tuple(background)
    except (TypeError, ValueError):
        color = ()
    if len(color) != 3 or not all(isinstance(value, int) and 0 <= value <= 255 for value in color):
        raise ValueError(
            f"background is {background!r}: give a color that PIL.ImageColor knows, such as 'white', "
            "three integers from 0 to 255, or None to drop alpha as transformers does"
        )
    return color


def background_of(image_processor) -> tuple[int, int, int] | None:
    """Read the background that an image processor of any model states; return white if it states none.

    Raises:
        ValueError: as `read_background`.
    """
    return read_background(getattr(image_processor, "background", WHITE))


def needed_scaling(
    image_processor, images: Sequence, names: Sequence | None = None, do_rescale: bool | None = None
) -> dict[str, bool]:
    """Return the options that a call of an image processor needs once `images` have been read.

    `do_rescale=False` tells transformers that floats lie within [0, 1] already. The reader has turned them
    into 8 bits, which do have to be scaled.

    Args:
        images: the images of the call, before they are read.
        names: names of the images in errors, if not 0, 1, 2.
        do_rescale: the option of the call; by default what `image_processor` states.

    Raises:
        ValueError: `do_rescale` is False, and only some of the images are floats within [0, 1].
    """
    if do_rescale is None:
        do_rescale = getattr(image_processor, "do_rescale", True)  # those of other libraries state nothing
    if do_rescale is not False:
        return {}

    scaled = [_is_scaled(image) for image in images]
    if not any(scaled):
        return {}
    if not all(scaled):
        other = (names or range(len(images)))[scaled.index(False)]
        raise ValueError(
            f"do_rescale is False, and images[{other!r}] holds no floats within [0, 1] as others do: "
            "leave it out, or set it to True"
        )
    return {"do_rescale": True}


def _is_scaled(image) -> bool:
    """Check that an image is an array or tensor of floats within [0, 1]."""
    if isinstance(image, torch.Tensor):
        # Those without values, or without one shape, are refused when they are read.
        has_values = image.layout == torch.strided and not image.is_meta and not image.is_nested
        if not has_values or not image.is_floating_point():
            return False
        image = image.detach().double()  # torch has no maximum of 8-bit floats
    elif not isinstance(image, np.ndarray) or image.dtype.kind != "f":
        return False
    return 0 not in image.shape and bool(image.max() <= 1)


def read_images(
    images: Sequence,
    indices: Sequence[int | str] | None = None,
    timeout: float | None = None,
    background: str | Sequence[int] | None = WHITE,
    skipped: dict[int | str, str] | None = None,
    input_data_format: str | None = None,
) -> list[Image.Image]:
    """Read every image with `read_image`.

    Args:
        indices: names of the images in errors, if not 0, 1, 2.
        timeout, background, input_data_format: as for `read_image`.
        skipped: gets `{index: reason}` of images that cannot be read; a grey image takes the place of each.
            Without it they are refused.

    Raises:
        ValueError: there is no image, or one cannot be read, whatever the reason; the message gives its
            index.
    """
    if len(images) == 0:
        raise ValueError("images is empty: give at least one image")
    background = read_background(background)

    read = []
    for index, image in zip(indices or range(len(images)), images):
        if isinstance(image, DeferredImage):
            image = image.read()
        try:
            read.append(read_image(image, timeout, background, input_data_format))
        except Exception as error:
            if skipped is None:
                raise ValueError(f"images[{index!r}] cannot be read: {error}") from error
            skipped[index] = str(error) or type(error).__name__
            read.append(Image.new("RGB", (32, 32), "grey"))
    return read


def read_groups(
    images: Sequence, indices: Sequence[int | str] | None = None, **options
) -> Iterator[list[Image.Image]]:
    """Read images as `read_images` does, and yield them in order, in groups of about `GROUP_PIXELS` each.

    The images of a group are decoded when it is asked for, so that few are held at a time.

    Args:
        options: as for `read_images`.
    """
    if len(images) == 0:
        read_images(images)  # refuses them
    group = []
    n_pixels = 0
    for index, image in zip(indices or range(len(images)), images):
        group += read_images([image], [index], **options)
        n_pixels += group[-1].width * group[-1].height
        if n_pixels >= GROUP_PIXELS:
            yield group
            group = []
            n_pixels = 0
    if group:
        yield group


def join_batches(batches: list[BatchFeature]) -> BatchFeature:
    """Join what an image processor made of several groups to what it makes of all images at once."""
    if len(batches) == 1:
        return batches[0]
    joined = {}
    for name in batches[0]:
        joined[name] = _join([batch[name] for batch in batches])
    return BatchFeature(joined)


def _join(parts: list) -> torch.Tensor | np.ndarray | list:
    if isinstance(parts[0], torch.Tensor):
        return torch.cat(parts)
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)
    return [item for part in parts for item in part]


def read_image(
    image,
    timeout: float | None = None,
    background: str | Sequence[int] | None = WHITE,
    input_data_format: str | None = None,
) -> Image.Image:
    """Read an image as upright RGB with 8 bits a channel.

    Reads PIL images of every mode; paths, `file://` and `http(s)://` addresses, `data:` URLs and base64 text;
    arrays and tensors of one image, `(height, width)` or with 1 to 4 channels first or last: grey, grey and
    alpha, RGB, RGBA. If both ends could be channels, those of arrays are last and those of tensors first. An
    animation gives its current frame, which is the first when it has just been opened.

    Floats within [0, 1] are scaled as such. Unsigned integers of 16 bits, and values over 255 of other types,
    are scaled from 16 bits.

    Images of more than 100 megapixels, or with one edge more than 200 times the other, are refused before
    they are decoded. JPEGs of up to 300 megapixels at a path or an address are decoded at half their width
    and height.

    Args:
        timeout: seconds to wait for an address; by default 30.
        background: color that transparent pixels are composited on (see `read_background`); None drops alpha.
        input_data_format: the channels of arrays and tensors are first or last, `channels_first` or
            `channels_last`.

    Raises:
        ValueError: `image` is no image, has no pixels, too many, or values out of range. Errors of Pillow and
            of the network are left as they are.
    """
    background = read_background(background)
    if isinstance(image, Exception):
        raise image  # an item of a `datasets` column that could not be decoded
    if isinstance(image, str | Path):
        with open_image(str(image), timeout) as opened:
            return _to_rgb(opened, background)
    if isinstance(image, np.ndarray | torch.Tensor):
        image = _from_array(image, input_data_format)
    if not isinstance(image, Image.Image):
        raise ValueError(f"it is a {type(image).__name__}, not an image, array, path or address")
    return _to_rgb(image, background)


def _from_array(image: np.ndarray | torch.Tensor, input_data_format: str | None = None) -> Image.Image:
    """Make an image of mode L, LA, RGB or RGBA from an array or tensor.

    Raises:
        ValueError: its shape, type or values are not those of one image, or `input_data_format` is unknown.
    """
    if input_data_format is not None and input_data_format not in _CHANNEL_AXES:
        choices = ", ".join(_CHANNEL_AXES)
        raise ValueError(f"input_data_format is {input_data_format!r}: choose from {choices}")

    # Axes that may hold the channels, the likelier one first: arrays are mostly channels-last, tensors
    # -first.
    axes = (2, 0)
    if isinstance(image, torch.Tensor):
        axes = (0, 2)
        image = image.detach().cpu()
        if image.is_floating_point() and image.itemsize < 4:
            image = image.float()  # numpy has no bfloat16
        image = image.numpy()
    if input_data_format is not None:
        axes = _CHANNEL_AXES[input_data_format]

    if 0 in image.shape or image.ndim not in (2, 3):
        raise ValueError(f"its shape is {image.shape}: give one image, with 1 to 4 channels if any")
    if image.ndim == 3:
        image = np.moveaxis(image, _channel_axis(image.shape, axes), 2)
    check_size(image.shape[1], image.shape[0])
    pixels = _to_8_bits(image)
    if pixels.shape[2:] == (1,):
        pixels = pixels[..., 0]
    return Image.fromarray(np.ascontiguousarray(pixels))


def _channel_axis(shape: tuple[int, ...], axes: tuple[int, ...]) -> int:
    """Return the one of `axes` that holds the channels: one of 3 before one of 1, 2 or 4, else the first.

    `(3, 4, 4)` with axes `(2, 0)` -> 0, since three channels are likelier than four.

    Raises:
        ValueError: none of them has 1 to 4 channels.
    """
    for counts in ((3,), (1, 2, 4)):
        for axis in axes:
            if shape[axis] in counts:
                return axis
    if len(axes) == 1:
        raise ValueError(
            f"its shape is {shape}: axis {axes[0]}, where input_data_format says that channels are, "
            "has none of 1 to 4"
        )
    raise ValueError(f"its shape is {shape}: neither its first axis nor its last holds 1 to 4 channels")


def _to_8_bits(pixels: np.ndarray) -> np.ndarray:
    """Scale values of any type to 8 bits, by the range of the type, or of the values if that does not tell.

    Raises:
        ValueError: the values are no numbers, or out of range.
    """
    kind = pixels.dtype.kind  # numpy's letter: b for bool, i and u for integers, f for floats
    if pixels.dtype == np.uint8:
        return pixels
    if kind == "b":
        return pixels.astype(np.uint8) * 255
    if kind not in "iuf":
        raise ValueError(f"its values are of type {pixels.dtype}: give integers or floats")
    if not np.isfinite(pixels).all():
        raise ValueError("it has values that are infinite or no numbers")

    low, high = pixels.min().item(), pixels.max().item()
    # Resizing leaves floats a little above their range. Scaled by the next range, they would be nearly black.
    overshoots = kind == "f" and (1 < high < 2 or 255 < high < 510)
    if low < 0 or high > 65535 or overshoots:
        raise ValueError(
            f"its values lie within [{low}, {high}]: clip them to [0, 1], [0, 255] or [0, 65535]"
        )

    is_16_bits = kind == "u" and pixels.dtype.itemsize == 2
    scaled = np.empty(pixels.shape, np.uint8)
    n_rows = max(1, _SCALED_VALUES // pixels[0].size)
    for start in range(0, len(pixels), n_rows):
        rows = pixels[start : start + n_rows]
        if kind == "f" and high <= 1:
            rows = rows.astype(np.float64) * 255
        elif is_16_bits or high > 255:
            rows = rows // 256
        scaled[start : start + n_rows] = np.rint(rows)
    return scaled


def _to_rgb(image: Image.Image, background: tuple[int, int, int] | None) -> Image.Image:
    """Convert a PIL image of any mode to upright RGB, composited on the background where it is transparent.

    Raises:
        ValueError: it has no pixels, or values out of range.
    """
    if 0 in image.size:
        raise ValueError(f"its size is {image.width}x{image.height} pixels")
    check_opened(image)
    # Transposing drops the tags of a TIFF: read before it whether 0 stands for white.
    is_negative = image.format == "TIFF" and image.tag_v2.get(PHOTOMETRIC_INTERPRETATION) == 0
    image.load()
    try:
        image = ImageOps.exif_transpose(image)
    except (AttributeError, SyntaxError, TypeError, struct.error) as error:  # entries of another type
        raise ValueError(f"its EXIF data cannot be read: {error}") from error

    if image.mode == "F" or image.mode.startswith("I"):
        image = _grey_of_8_bits(image)
        if is_negative:
            image = ImageOps.invert(image)  # Pillow inverts only greys of 8 bits and fewer by itself
    if image.mode == "La":
        image = image.convert("LA")  # Pillow converts premultiplied grey to nothing else

    drops_alpha = background is None or image.mode not in _TRANSPARENT_MODES
    if drops_alpha or not image.has_transparency_data:
        opaque = image.convert("RGB")
        opaque.info.pop("transparency", None)  # or the image processor would composite it
        return opaque

    if "transparency" in image.info:
        image.info["transparency"] = _key_of_8_bits(image)
    ground = Image.new("RGBA", image.size, (*background, 255))
    return Image.alpha_composite(ground, image.convert("RGBA")).convert("RGB")


def _grey_of_8_bits(image: Image.Image) -> Image.Image:
    """Scale greys of PIL's modes I;16, I and F, which PIL would clip; add alpha if one is transparent."""
    pixels = np.asarray(image)
    shades = _to_8_bits(pixels)
    if "transparency" not in image.info:
        return Image.fromarray(shades)
    alpha = _to_8_bits(pixels != image.info["transparency"])
    return Image.fromarray(np.dstack([shades, alpha]))


def _key_of_8_bits(image: Image.Image) -> int | bytes | tuple[int, ...]:
    """Return the transparent shade or color in 8 bits; Pillow leaves it in the bits of the file."""
    key = image.info["transparency"]
    if isinstance(key, tuple) and max(key) > 255:
        return tuple(value >> 8 for value in key)
    if image.mode == "L" and 0 < key < 16:
        # Shades of 2 bits are multiples of 85 and those of 4 bits of 17: no pixel is as dark as such a key.
        divisor = np.gcd.reduce(np.unique(np.asarray(image)))
        if key < 4 and divisor % 85 == 0:
            return key * 85
        if divisor % 17 == 0:
            return key * 17
    return key


__all__ = [
    "DeferredImage",
    "background_of",
    "join_batches",
    "needed_scaling",
    "read_background",
    "read_groups",
    "read_image",
    "read_images",
]
