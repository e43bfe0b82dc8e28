"""Adapters that make models of other libraries usable with `embed_texts` and `embed_images`.

Each library has a module of its own, and is imported only there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pickle import UnpicklingError

import torch
from torch import nn
from transformers import BatchFeature

from ..recipe import InputError

# Commands that install what each library needs, for messages.
INSTALL = {
    "open_clip": 'pip install "altclip[open-clip]", and the torchvision that pairs with your torch',
    "sentence_transformers": 'pip install "altclip[sentence-transformers]"',
    "m_clip": "pip install sentencepiece protobuf",
}


class AdaptedModel(nn.Module):
    """Base class with the attributes of transformers' models that embedding reads.

    Subclasses set `config`, and define `get_text_features` and `get_image_features`.
    """

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype


@dataclass(frozen=True)
class AdaptedTokenizer:
    """A library's own preparation of texts; options of transformers' tokenizers (`**_`) are ignored."""

    prepare: Callable[[list[str]], dict]
    model_max_length: int

    def __call__(self, texts: list[str], **_) -> BatchFeature:
        return BatchFeature(self.prepare(texts))


@dataclass(frozen=True)
class AdaptedImageProcessor:
    """A library's own preparation of PIL images."""

    prepare: Callable[[list], dict]

    def __call__(self, images: list, **_) -> BatchFeature:
        return BatchFeature(self.prepare(images))


@dataclass(frozen=True)
class AdaptedProcessor:
    """A tokenizer and an image processor, under the names that a `ProcessorMixin` gives them."""

    tokenizer: Callable
    image_processor: Callable


def load_adapted(library: str, name: str) -> tuple[AdaptedModel, AdaptedProcessor]:
    """Load `name` with the adapter of a library.

    Args:
        library: one of `INSTALL`.

    Raises:
        InputError: the library is not installed, or cannot load the model.
    """
    try:
        if library == "open_clip":
            from .from_open_clip import load
        elif library == "sentence_transformers":
            from .from_sentence_transformers import load
        else:
            from .from_m_clip import load  # here, since it imports `loading`, which imports this module
        model, processor = load(name)
    except ImportError as error:
        raise InputError(
            f"model '{library}:{name}' needs more than is installed ({error}): {INSTALL[library]}"
        ) from error
    except (OSError, ValueError, RuntimeError, UnpicklingError) as error:
        raise InputError(f"model '{library}:{name}' cannot be loaded: {error}") from error
    model.config.name_or_path = f"{library}:{name}"
    return model, processor
