"""AltCLIP's processor: a tokenizer beside an image processor, as in transformers, that reads what that one cannot.

What it cannot read it refuses, naming the index; a batch with a hole in it would shift every later result.
"""

from .versions_altclip import TRANSFORMERS  # noqa: F401, I001  (before names that older versions lack)

import json
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from transformers import AltCLIPProcessor as NativeAltCLIPProcessor
from transformers import BatchFeature

from .images_altclip import DROP_ALPHA, WHITE, background_of, needed_scaling, read_background, read_images
from .texts_altclip import TOKENIZING, check_texts, forget_calls, needed_options

AS_STATED = object()  # None says that alpha is dropped


class AltCLIPProcessor(NativeAltCLIPProcessor):
    """Turns texts and images into `input_ids`, `attention_mask` and `pixel_values`.

    It gives what transformers' own gives, and more in three places. A text longer than the model's text length is cut, unless
    the call says how texts are cut. Texts of several lengths are padded to the longest where `return_tensors="pt"` asks for
    tensors, unless it says how they are padded. Images may be whatever `read_image` reads, in its two differences too.

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
        if background is None:
            background = DROP_ALPHA
        # A list, as it will be read from a file.
        self.image_processor.background = background if isinstance(background, str) else list(background)

    def __call__(self, images=None, text=None, **kwargs) -> BatchFeature:
        """Prepare texts, images or both, one or a list of each.

        Raises:
            ValueError: a text or an image cannot be read; the message gives its index.
        """
        if text is not None:
            check_texts([text] if isinstance(text, str) else text, "text")
            text = text if isinstance(text, str) else list(text)
            pair = kwargs.get("text_pair", kwargs.get("text_kwargs", {}).get("text_pair"))
            if pair is not None:
                check_texts([pair] if isinstance(pair, str) else pair, "text_pair")
        if images is not None:
            images = flat(images)
            options = kwargs.get("images_kwargs", {})
            stated = kwargs | options
            needed = needed_scaling(self.image_processor, images, do_rescale=stated.get("do_rescale"))
            if needed:
                kwargs.pop("do_rescale", None)
                kwargs["images_kwargs"] = options | needed
            images = read_images(
                images, background=self.background, input_data_format=stated.get("input_data_format")
            )
        if text is None:
            return super().__call__(images=images, **kwargs)
        with TOKENIZING:
            stated = self._merge_kwargs(
                self.valid_processor_kwargs, tokenizer_init_kwargs=self.tokenizer.init_kwargs, **kwargs
            )
            needed = needed_options(self.tokenizer, text, stated["text_kwargs"])
            text_kwargs = kwargs.get("text_kwargs", {}) | needed
            others = {name: value for name, value in kwargs.items() if name not in needed}
            prepared = super().__call__(text=text, **others | {"text_kwargs": text_kwargs})
        if images is not None:
            prepared.update(super().__call__(images=images, **kwargs))
        return prepared

    def save_pretrained(self, save_directory, push_to_hub: bool = False, **kwargs) -> list[str]:
        """Save both parts, best after the model: only then can its type tell the processor's class.

        The image processor's settings are written twice: into `processor_config.json`, which transformers prefers, and into
        `preprocessor_config.json`, where transformers.js looks for them. The files say nothing of earlier calls, or of how the
        parts were loaded.
        """
        forget_calls(self.tokenizer)
        # transformers notes down in both that this class reads the folder, and leaves the note there.
        noted = (self, self.image_processor)
        notes = [deepcopy(vars(part).get("auto_map")) for part in noted]
        files = super().save_pretrained(save_directory)
        for part, note in zip(noted, notes):
            vars(part).pop("auto_map", None)
            if note is not None:
                part.auto_map = note
        files += self.image_processor.save_pretrained(save_directory)

        folder = Path(save_directory)
        image_settings = json.loads((folder / "preprocessor_config.json").read_text("utf-8"))
        rewrite(folder / "processor_config.json", {"image_processor": image_settings})
        if (folder / "config.json").exists():
            for name in ("processor_config.json", "tokenizer_config.json"):
                rewrite(folder / name, without="processor_class")
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", folder.name), **kwargs)
        return files


def rewrite(path: Path, entries: dict | None = None, without: str | None = None) -> None:
    """Set `entries` of a file of JSON, and drop the one that is called `without`."""
    content = json.loads(path.read_text("utf-8")) | (entries or {})
    content.pop(without, None)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")


def flat(images) -> list:
    """One list of one image, of a batch in one array, of a list of either, or of a list of lists."""
    if isinstance(images, list | tuple):
        return [image for group in images for image in flat(group)]
    if isinstance(images, np.ndarray | torch.Tensor) and images.ndim == 4:
        return list(images)
    return [images]


__all__ = ["AltCLIPProcessor"]
