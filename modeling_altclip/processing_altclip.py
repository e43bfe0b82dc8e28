"""AltCLIP's processor: a tokenizer beside an image processor, with the padding and cutting that training used.

What it cannot read it refuses, naming the index; a batch with a hole in it would shift every later result.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AltCLIPProcessor as NativeAltCLIPProcessor
from transformers import BatchFeature

from .images_altclip import DROP_ALPHA, WHITE, background_of, read_background, read_images
from .texts_altclip import TOKENIZING, check_texts, forget_calls, text_length

AS_STATED = object()  # None says that alpha is dropped


class AltCLIPProcessor(NativeAltCLIPProcessor):
    """Turns texts and images into `input_ids`, `attention_mask` and `pixel_values`.

    Texts are padded to the longest of the batch and cut at the model's text length, unless told otherwise. Images may be
    whatever `read_image` reads.

    Beside a model, the files name no processor class: plain transformers then gives its own by the model's type, and
    `AutoProcessor` gives this one where the package is imported. Saved alone they name transformers' class.

    Args:
        background: the color that transparent images are composited on: a name or hex code that
            `PIL.ImageColor` knows, or three integers from 0 to 255; None drops alpha, as `load_image` does.
            By default what `image_processor` states, or white. It is kept as an attribute of that, so that it
            reaches pipelines and training, and is saved with it.

    Raises:
        ValueError: `background` is no such color.
    """

    def __init__(self, image_processor=None, tokenizer=None, background=AS_STATED):
        super().__init__(image_processor, tokenizer)
        stated = getattr(image_processor, "background", WHITE)
        self.background = stated if background is AS_STATED else background

    @property
    def background(self) -> tuple[int, int, int] | None:
        """Red, green and blue that transparent images are composited on; None where alpha is dropped."""
        return background_of(self.image_processor)

    @background.setter
    def background(self, background: str | Sequence[int] | None) -> None:
        read_background(background)
        self.image_processor.background = DROP_ALPHA if background is None else background

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
            images = flat(images)
            options = kwargs.get("images_kwargs", {})
            keeps_range = options.get("do_rescale", kwargs.get("do_rescale")) is False
            if keeps_range and all(is_scaled(image) for image in images):
                # So one tells transformers that floats lie within [0, 1]. The reader sees it, gives 8 bits.
                kwargs.pop("do_rescale", None)
                kwargs["images_kwargs"] = options | {"do_rescale": True}
            images = read_images(images, background=self.background)
        if text is None:
            return super().__call__(images=images, **kwargs)
        with TOKENIZING:
            prepared = super().__call__(text=text, **kwargs)
        if images is not None:
            prepared.update(super().__call__(images=images, **kwargs))
        return prepared

    def save_pretrained(self, save_directory, push_to_hub: bool = False, **kwargs) -> list[str]:
        """Save both parts, best after the model: only then can its type tell the processor's class.

        The files say nothing of earlier calls, or of how the parts were loaded.
        """
        forget_calls(self.tokenizer)
        files = super().save_pretrained(save_directory)
        vars(self).pop("auto_map", None)  # set by saving, for the file; a processor that is read back has none
        if Path(save_directory, "config.json").exists():
            for name in ("processor_config.json", "tokenizer_config.json"):
                path = Path(save_directory, name)
                config = json.loads(path.read_text("utf-8"))
                config.pop("processor_class", None)
                path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", "utf-8")
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", Path(save_directory).name), **kwargs)
        return files


def flat(images) -> list:
    """One list of one image, of a list, of a list of lists, or of a batch in one array."""
    if isinstance(images, list | tuple):
        nested = [image if isinstance(image, list | tuple) else [image] for image in images]
        return [image for group in nested for image in group]
    if isinstance(images, np.ndarray | torch.Tensor) and images.ndim == 4:
        return list(images)
    return [images]


def is_scaled(image) -> bool:
    """Whether it is an array or tensor of floats within [0, 1]."""
    if not isinstance(image, np.ndarray | torch.Tensor) or 0 in image.shape:
        return False
    is_float = image.dtype.kind == "f" if isinstance(image, np.ndarray) else image.is_floating_point()
    return bool(is_float and image.max() <= 1)


__all__ = ["AltCLIPProcessor"]
