"""What models of other libraries have to look like for `embed_texts` and `embed_images`."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from transformers import BatchFeature
from transformers.modeling_outputs import BaseModelOutputWithPooling

from modeling_altclip.texts_altclip import CHARACTERS_PER_TOKEN


class AdaptedModel(nn.Module):
    """Base class with the attributes of transformers' models that embedding reads.

    Subclasses set `config`, and define `get_text_features`, and `get_image_features` if they read images.
    """

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype


class TwoModels(AdaptedModel):
    """A model whose texts one model embeds, and whose images another, in the same space.

    Args:
        texts: has `get_text_features`, and a configuration, which is this model's.
        images: has `get_image_features`.
    """

    def __init__(self, texts: nn.Module, images: nn.Module):
        super().__init__()
        self.config = texts.config
        self.texts = texts
        self.images = images

    def get_text_features(self, **inputs) -> BaseModelOutputWithPooling:
        """Return embeddings `(batch, dim)` in `pooler_output`."""
        return self.texts.get_text_features(**inputs)

    def get_image_features(self, **inputs) -> BaseModelOutputWithPooling:
        """Return embeddings `(batch, dim)` in `pooler_output`."""
        return self.images.get_image_features(**inputs)


@dataclass(frozen=True)
class AdaptedTokenizer:
    """A library's own preparation of texts; options of transformers' tokenizers (`**_`) are ignored.

    Texts are cut at 64 characters for each token that the model reads: no text that says something has fewer
    tokens, and a word of megabytes would take minutes.

    Attributes:
        settings: everything beside the weights that an embedding of a text depends on, for fingerprints.
    """

    prepare: Callable[[list[str]], dict]
    model_max_length: int
    settings: str

    def __call__(self, texts: list[str], **_) -> BatchFeature:
        length = CHARACTERS_PER_TOKEN[0] * self.model_max_length
        return BatchFeature(self.prepare([text[:length] for text in texts]))


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
