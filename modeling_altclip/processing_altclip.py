"""AltCLIP's processor: a tokenizer beside an image processor, with the padding and cutting that training used.

What it cannot read it refuses, naming the index; a batch with a hole in it would shift every later result.
"""

import json
from collections.abc import Sequence
from os.path import isfile
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
import torch
from PIL import Image, ImageOps
from transformers import AltCLIPProcessor as NativeAltCLIPProcessor
from transformers import BatchFeature, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.image_utils import load_image

TEXT_LENGTH = 77
ENCODER_LENGTH = 512
TRAINED_LENGTHS = {"chinese_clip": 52}  # its files state 512 alone


class AltCLIPProcessor(NativeAltCLIPProcessor):
    """Turns texts and images into `input_ids`, `attention_mask` and `pixel_values`.

    Texts are padded to the longest of the batch and cut at the model's text length, unless told otherwise. Images may be
    whatever `read_image` reads.

    Beside a model, the files name no processor class: plain transformers then gives its own by the model's type, and
    `AutoProcessor` gives this one where the package is imported. Saved alone they name transformers' class.
    """

    def __call__(self, images=None, text=None, **kwargs) -> BatchFeature:
        """Prepare texts, images or both, one or a list of each.

        Raises:
            ValueError: a text or an image cannot be read; the message gives its index.
        """
        if text is not None:
            text = [text] if isinstance(text, str) else text
            check_texts(text, "text")
            given = kwargs.get("text_kwargs", {})
            length = text_length(self.tokenizer)
            length -= length % (given.get("pad_to_multiple_of") or kwargs.get("pad_to_multiple_of") or 1)
            defaults = {"padding": True, "truncation": True, "max_length": length}
            kwargs["text_kwargs"] = {name: value for name, value in defaults.items() if name not in kwargs} | given
        if images is not None:
            images = images if isinstance(images, list | tuple) else [images]
            images = read_images([image for one in images for image in (one if isinstance(one, list | tuple) else [one])])
        return super().__call__(images=images, text=text, **kwargs)

    def save_pretrained(self, save_directory, push_to_hub: bool = False, **kwargs) -> list[str]:
        """Save both parts, best after the model: only then can its type tell the processor's class."""
        files = super().save_pretrained(save_directory)
        if Path(save_directory, "config.json").exists():
            for name in ("processor_config.json", "tokenizer_config.json"):
                path = Path(save_directory, name)
                config = json.loads(path.read_text("utf-8"))
                config.pop("processor_class", None)
                path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", "utf-8")
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", Path(save_directory).name), **kwargs)
        return files


def text_length(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig | None = None) -> int:
    """Tokens at which texts are cut: the least that the tokenizer and the model of `config` state, or 77 as in the paper.

    512, as XLM-R's tokenizers state, is as good as nothing: it is what the encoder can read, not what a CLIP was trained with.
    SigLIP 2's tokenizers state nothing, but the model has 64 positions. Encoders with relative positions have no number of them.
    """
    stated, trained = [tokenizer.model_max_length], TEXT_LENGTH
    if config is not None:
        stated.append(getattr(config.get_text_config(), "max_position_embeddings", ENCODER_LENGTH))
        trained = TRAINED_LENGTHS.get(config.model_type, TEXT_LENGTH)
    return min((length for length in stated if length < ENCODER_LENGTH), default=trained)


def check_texts(texts: Sequence[str], name: str, start: int = 0) -> None:
    """Refuse what is no list of strings, or is empty; `start` is the index of its first text."""
    if not isinstance(texts, list | tuple):
        raise ValueError(f"{name} is a {type(texts).__name__}: give a list of strings")
    if not texts:
        raise ValueError(f"{name} is empty: give at least one string")
    for index, text in enumerate(texts, start):
        if not isinstance(text, str):
            raise ValueError(f"{name}[{index}] is {text!r}, not a string: drop it or write it out")


def read_images(images: Sequence, indices: Sequence[int] | None = None, timeout: float | None = None) -> list:
    """Read every image with `read_image`; `indices` is what errors call them, if not 0, 1, 2.

    Raises:
        ValueError: there is none, or one cannot be read, for whatever reason; the message gives its index.
    """
    if len(images) == 0:
        raise ValueError("images is empty: give at least one image")
    read = []
    for index, image in zip(indices or range(len(images)), images):
        try:
            read.append(read_image(image, timeout))
        except Exception as error:
            raise ValueError(f"images[{index}] cannot be read: {error}") from error
    return read


def read_image(image, timeout: float | None = None):
    """An image as the image processor takes it: PIL images in RGB, upright; arrays and tensors as they are.

    Reads PIL images of every mode, paths, `file://` and `http(s)://` addresses and base64 text. An animation gives the frame
    it stands at, the first when it is just opened. Transparency is dropped, as transformers does. Greys of 16 bits are
    scaled, where PIL alone would clip them to white, and greys without a channel get three. `timeout`, in seconds, is for
    addresses.
    """
    if isinstance(image, str) and image.startswith("file://"):
        image = url2pathname(urlsplit(image).path)
    if isinstance(image, Path) or (isinstance(image, str) and isfile(image)):
        image = Image.open(image)
    if isinstance(image, Image.Image):
        if 0 in image.size:
            raise ValueError(f"its size is {image.width}x{image.height} pixels")
        return load_image(to_8_bits(image) if image.mode.startswith("I") else image)
    if isinstance(image, str):
        return load_image(image, timeout=timeout)
    if not isinstance(image, np.ndarray | torch.Tensor):
        raise ValueError(f"it is a {type(image).__name__}, not an image, array, path or address")
    if 0 in image.shape or not 2 <= len(image.shape) <= 4:
        raise ValueError(f"its shape is {tuple(image.shape)}")
    if isinstance(image, np.ndarray) and image.dtype == np.uint16:
        image = (image >> 8).astype(np.uint8)
    if image.ndim == 2:
        image = image[None].repeat(3, axis=0) if isinstance(image, np.ndarray) else image[None].expand(3, -1, -1)
    return image


def to_8_bits(image: Image.Image) -> Image.Image:
    """Greys of PIL's modes I;16 and I. The latter has 32 bits, and holds 8-bit or 16-bit greys, as its largest value tells."""
    pixels = np.asarray(ImageOps.exif_transpose(image))
    wide = image.mode != "I" or pixels.max() > 255
    return Image.fromarray((pixels >> 8 if wide else pixels).astype(np.uint8))


__all__ = ["AltCLIPProcessor", "check_texts", "read_image", "read_images", "text_length"]
