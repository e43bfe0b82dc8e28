"""What models of other libraries have to look like for `embed_texts` and `embed_images`."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from transformers import BatchFeature


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
