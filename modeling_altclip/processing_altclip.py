"""AltCLIP's processor: a tokenizer beside an image processor, with the padding and cutting that training used.

What it cannot read it refuses, naming the index; a batch with a hole in it would shift every later result.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
import torch
from PIL import Image, ImageOps
from transformers import AltCLIPProcessor as NativeAltCLIPProcessor
from transformers import BatchFeature, PreTrainedTokenizerBase
from transformers.image_utils import load_image

TEXT_LENGTH = 77
ENCODER_LENGTH = 512


class AltCLIPProcessor(NativeAltCLIPProcessor):
    """Turns texts and images into `input_ids`, `attention_mask` and `pixel_values`.

    Texts are padded to the longest of the batch and cut at the model's text length, unless told otherwise. Images may be
    whatever `read_image` reads.

    The files name no processor class: plain transformers then gives its own by the model's type, and `AutoProcessor` gives
    this one where the package is imported.
    """

    def __call__(self, images=None, text=None, **kwargs) -> BatchFeature:
        """Prepare texts, images or both, one or a list of each.

        Raises:
            ValueError: a text or an image cannot be read; the message gives its index.
        """
        if text is not None:
            check_texts([text] if isinstance(text, str) else text, "text")
            defaults = {"padding": True, "truncation": True, "max_length": text_length(self.tokenizer)}
            kwargs["text_kwargs"] = {name: value for name, value in defaults.items() if name not in kwargs} | kwargs.get("text_kwargs", {})
        if images is not None:
            images = read_images(images if isinstance(images, (list, tuple)) else [images])
        return super().__call__(images=images, text=text, **kwargs)

    def to_dict(self) -> dict:
        """What goes into processor_config.json."""
        return {name: value for name, value in super().to_dict().items() if name != "processor_class"}

    def save_pretrained(self, save_directory, push_to_hub: bool = False, **kwargs) -> None:
        """Save both parts; the tokenizer's file too is kept from naming a processor class."""
        super().save_pretrained(save_directory)
        path = Path(save_directory, "tokenizer_config.json")
        config = json.loads(path.read_text("utf-8"))
        config.pop("processor_class", None)
        path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", "utf-8")
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", Path(save_directory).name), **kwargs)


def text_length(tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens at which texts are cut: the tokenizer's `model_max_length`, or 77 as in the paper.

    XLM-R's tokenizers state 512 or nothing. That is what the encoder can read, not what a CLIP was trained with.
    """
    return tokenizer.model_max_length if tokenizer.model_max_length < ENCODER_LENGTH else TEXT_LENGTH


def check_texts(texts: Sequence[str], name: str, start: int = 0) -> None:
    """Refuse an empty list, and a list with something else than strings; `start` is the index of its first text."""
    if len(texts) == 0:
        raise ValueError(f"{name} is empty: give at least one string")
    for index, text in enumerate(texts, start):
        if not isinstance(text, str):
            raise ValueError(f"{name}[{index}] is {text!r}, not a string: drop it or write it out")


def read_images(images: Sequence, indices: Sequence[int] | None = None) -> list:
    """Read every image with `read_image`; `indices` is what errors call them, if not 0, 1, 2.

    Raises:
        ValueError: there is none, or one cannot be read; the message gives its index.
    """
    if len(images) == 0:
        raise ValueError("images is empty: give at least one image")
    read = []
    for index, image in zip(indices or range(len(images)), images):
        try:
            read.append(read_image(image))
        except (ValueError, OSError) as error:
            raise ValueError(f"images[{index}] cannot be read: {error}") from error
    return read


def read_image(image, timeout: float | None = None):
    """An image as the image processor takes it: PIL images in RGB, upright; arrays and tensors as they are.

    Reads PIL images of every mode, paths, `file://` and `http(s)://` addresses and base64 text. An animation gives its first
    frame. Transparency is dropped, as transformers does. 16-bit greys are scaled; PIL alone would clip them to white.
    `timeout`, in seconds, is for addresses.
    """
    if isinstance(image, Path):
        image = str(image)
    if isinstance(image, str):
        image = url2pathname(urlsplit(image).path) if image.startswith("file://") else image
        image = Image.open(image) if Path(image).is_file() else image
    if isinstance(image, Image.Image):
        if 0 in image.size:
            raise ValueError(f"its size is {image.width}x{image.height} pixels")
        return load_image(to_8_bits(image) if image.mode.startswith("I") else image)
    if isinstance(image, str):
        return load_image(image, timeout=timeout)
    if not isinstance(image, (np.ndarray, torch.Tensor)):
        raise ValueError(f"it is a {type(image).__name__}, not an image, array, path or address")
    if 0 in image.shape or not 2 <= len(image.shape) <= 4:
        raise ValueError(f"its shape is {tuple(image.shape)}")
    return image


def to_8_bits(image: Image.Image) -> Image.Image:
    """Greys of PIL's modes I;16 and I. The latter has 32 bits, and holds 8-bit or 16-bit greys, as its largest value tells."""
    pixels = np.asarray(ImageOps.exif_transpose(image))
    wide = image.mode != "I" or pixels.max() > 255
    return Image.fromarray((pixels >> 8 if wide else pixels).astype(np.uint8))


__all__ = ["AltCLIPProcessor", "check_texts", "read_image", "read_images", "text_length"]
