"""Models of other libraries behind the pair that `embed_texts` and `embed_images` take: a page each, its library imported there."""

from collections.abc import Callable
from dataclasses import dataclass
from pickle import UnpicklingError

import torch
from torch import nn
from transformers import BatchFeature

from ..recipe import InputError

INSTALL = {
    "open_clip": 'pip install "altclip[open-clip]", and the torchvision that pairs with your torch',
    "sentence_transformers": 'pip install "altclip[sentence-transformers]"',
    "m_clip": "pip install sentencepiece protobuf",
}


class AdaptedModel(nn.Module):
    """What transformers' models have beside their towers. Subclasses set `config`, and give both `get_..._features`."""

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype


@dataclass(frozen=True)
class AdaptedTokenizer:
    """A library's own preparation of texts; how transformers would pad and cut them (`**_`) is not asked."""

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
    """Both, under the names of a `ProcessorMixin`."""

    tokenizer: Callable
    image_processor: Callable


def load_adapted(library: str, name: str) -> tuple[AdaptedModel, AdaptedProcessor]:
    """Load `name` with the adapter of a library, one of `INSTALL`.

    Raises:
        InputError: the library is not installed, or cannot load the model.
    """
    try:
        if library == "open_clip":
            from .from_open_clip import load
        elif library == "sentence_transformers":
            from .from_sentence_transformers import load
        else:
            from .from_m_clip import load
        model, processor = load(name)
    except ImportError as error:
        raise InputError(
            f"model '{library}:{name}' needs more than is installed ({error}): {INSTALL[library]}"
        ) from error
    except (OSError, ValueError, RuntimeError, UnpicklingError) as error:
        raise InputError(f"model '{library}:{name}' cannot be loaded: {error}") from error
    model.config.name_or_path = f"{library}:{name}"
    return model, processor
