"""AltCLIP's processor: a tokenizer and an image processor, as in transformers, for more kinds of input.

An input that cannot be read is refused with its index: a batch with a hole in it would shift every later
result.
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

from .checksums_altclip import PushesChecksums, check_files, keep_checksums
from .images_altclip import (
    DROP_ALPHA,
    WHITE,
    background_of,
    join_batches,
    needed_scaling,
    read_background,
    read_groups,
)
from .texts_altclip import TOKENIZING, check_texts, cut_texts, forget_calls, kept_tokens, needed_options
from .tokenizer_files_altclip import remember_files, restore_files

# Options of `from_pretrained` that say where files are. All others may change the tokenizer.
_OF_FILES = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
_WITHOUT_EFFECT = ("trust_remote_code", "_from_auto")
_AS_STATED = object()  # the default of `background`, where None drops alpha


class AltCLIPProcessor(PushesChecksums, NativeAltCLIPProcessor):
    """Turn texts and images into `input_ids`, `attention_mask` and `pixel_values`.

    The results are those of transformers' own processor, which does less in three places. A text longer than
    the model's text length is truncated, unless the call says how texts are truncated. Texts of several
    lengths are padded to the longest if `return_tensors="pt"` asks for tensors, unless the call says how they
    are padded. Images may be anything that `read_image` reads, with its two differences from transformers.

    Beside a model, the files name no processor class: plain transformers then builds its own by the model's
    type, and `AutoProcessor` builds this one if the package is imported. Saved alone they name transformers'
    class.

    Args:
        background: the color that transparent images are composited on: a name or hex code that
            `PIL.ImageColor` knows, or three integers from 0 to 255; None drops alpha, as `load_image` does.
            By default what `image_processor` states, or white. It is kept as an attribute of
            `image_processor`, so that it reaches pipelines and training, and is saved with it.

    Raises:
        ValueError: `background` is no such color.

    Example:

    ```python
    >>> from PIL import Image
    >>> from modeling_altclip import AltCLIPProcessor

    >>> processor = AltCLIPProcessor.from_pretrained("outputs/miniature/altclip")
    >>> images = [Image.new("RGB", (64, 64)), Image.new("RGB", (80, 60))]
    >>> inputs = processor(text=["a dog", "一只狗"], images=images, return_tensors="pt")
    >>> inputs["pixel_values"].shape
    torch.Size([2, 3, 32, 32])
    ```
    """

    def __init__(self, image_processor=None, tokenizer=None, background=_AS_STATED):
        super().__init__(image_processor, tokenizer)
        stated = getattr(image_processor, "background", WHITE)
        self.background = stated if background is _AS_STATED else background

    @property
    def background(self) -> tuple[int, int, int] | None:
        """Return red, green and blue of the background of transparent images; None if alpha is dropped."""
        return background_of(self.image_processor)

    @background.setter
    def background(self, background: str | Sequence[int] | None) -> None:
        read_background(background)  # refuses what is no color
        if background is None:
            background = DROP_ALPHA
        elif not isinstance(background, str):
            background = list(background)  # as it will be read from a file
        self.image_processor.background = background

    def __call__(self, images=None, text=None, **kwargs) -> BatchFeature:
        """Prepare texts, images or both, one or a list of each.

        Raises:
            ValueError: a text or an image cannot be read; the message gives its index.
        """
        if text is not None:
            _check_texts_and_pairs(text, kwargs)
            text = text if isinstance(text, str) else list(text)
        if images is not None:
            prepared_images, kwargs = self._prepare_images(images, kwargs)
        if text is None:
            return prepared_images if images is not None else super().__call__(**kwargs)

        # Counting tokens and tokenizing have to be one step: the tokenizer holds its padding and truncation
        # as state.
        with TOKENIZING:
            stated = self._merge_kwargs(
                self.valid_processor_kwargs, tokenizer_init_kwargs=self.tokenizer.init_kwargs, **kwargs
            )
            n_tokens = kept_tokens(self.tokenizer, stated["text_kwargs"])
            text = cut_texts(self.tokenizer, text, n_tokens)
            needed = {}
            pair = stated["text_kwargs"].get("text_pair")
            if pair is not None:
                needed["text_pair"] = cut_texts(self.tokenizer, pair, n_tokens)
            needed |= needed_options(self.tokenizer, text, stated["text_kwargs"] | needed)
            options = {name: value for name, value in kwargs.items() if name not in needed}
            options["text_kwargs"] = kwargs.get("text_kwargs", {}) | needed
            prepared = super().__call__(text=text, **options)
        if images is not None:
            prepared.update(prepared_images)
        return prepared

    def _prepare_images(self, images, options: dict) -> tuple[BatchFeature, dict]:
        """Read all images as RGB and prepare them, a group at a time; return with them the options."""
        images = _flat(images)
        images_kwargs = options.get("images_kwargs", {})
        stated = options | images_kwargs
        needed = needed_scaling(self.image_processor, images, do_rescale=stated.get("do_rescale"))
        if needed:
            options = {name: value for name, value in options.items() if name != "do_rescale"}
            options["images_kwargs"] = images_kwargs | needed
        prepared = []
        for group in read_groups(
            images, background=self.background, input_data_format=stated.get("input_data_format")
        ):
            prepared.append(super().__call__(images=group, **options))
        return join_batches(prepared), options

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """Load both parts; takes transformers' own arguments.

        Raises:
            ValueError: a file of the folder is not as its `checksums.json` says.
        """
        check_files(Path(pretrained_model_name_or_path, kwargs.get("subfolder") or ""), "settings")
        processor = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        if not args and kwargs.keys() <= {*_OF_FILES, *_WITHOUT_EFFECT}:
            options = {name: value for name, value in kwargs.items() if name in _OF_FILES}
            remember_files(processor.tokenizer, pretrained_model_name_or_path, **options)
        return processor

    def save_pretrained(self, save_directory, push_to_hub: bool = False, **kwargs) -> list[str]:
        """Save both parts, best after the model: with its type beside them, the files need to name no class.

        The image processor's settings are written twice: into `processor_config.json`, which transformers
        prefers, and into `preprocessor_config.json`, where transformers.js looks for them. The files do not
        state earlier calls, or how the parts were loaded. Files of a tokenizer that has not changed since
        `from_pretrained`, or since a training loaded it, are written byte for byte.
        """
        with keep_checksums(save_directory, of_processor=True):
            files = self._save_parts(Path(save_directory))
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", Path(save_directory).name), **kwargs)
        return files

    def _save_parts(self, folder: Path) -> list[str]:
        """Save both parts, and return the names of the files."""
        forget_calls(self.tokenizer)
        # transformers writes into both parts that this class reads the folder, and leaves it there: restore
        # them.
        parts = (self, self.image_processor)
        auto_maps = [deepcopy(vars(part).get("auto_map")) for part in parts]
        files = super().save_pretrained(folder)
        files += [path for path in restore_files(self.tokenizer, folder) if path not in files]
        for part, auto_map in zip(parts, auto_maps):
            vars(part).pop("auto_map", None)
            if auto_map is not None:
                part.auto_map = auto_map
        files += self.image_processor.save_pretrained(folder)

        image_settings = json.loads((folder / "preprocessor_config.json").read_text("utf-8"))
        _rewrite(folder / "processor_config.json", {"image_processor": image_settings})
        if (folder / "config.json").exists():
            for name in ("processor_config.json", "tokenizer_config.json"):
                _rewrite(folder / name, without="processor_class")
        return files


def _check_texts_and_pairs(text: str | Sequence[str], options: dict) -> None:
    """Refuse texts, and texts in the option `text_pair`, that no tokenizer reads.

    Raises:
        ValueError: see `check_texts`.
    """
    check_texts([text] if isinstance(text, str) else text, "text")
    pair = options.get("text_pair", options.get("text_kwargs", {}).get("text_pair"))
    if pair is not None:
        check_texts([pair] if isinstance(pair, str) else pair, "text_pair")


def _rewrite(path: Path, entries: dict | None = None, without: str | None = None) -> None:
    """Set `entries` of a JSON file, and drop the entry `without`."""
    content = json.loads(path.read_text("utf-8")) | (entries or {})
    content.pop(without, None)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _flat(images) -> list:
    """Flatten one image, a batch in one array, a list of either, or a list of lists to a list of images."""
    if isinstance(images, list | tuple):
        return [image for group in images for image in _flat(group)]
    if isinstance(images, np.ndarray | torch.Tensor) and images.ndim == 4:
        return list(images)
    return [images]


__all__ = ["AltCLIPProcessor"]
