"""Load models of sentence-transformers for texts and images, or one for texts and another for images.

A teacher of texts may read no images.

sentence_transformers:sentence-transformers/clip-ViT-L-14
sentence_transformers:sentence-transformers/clip-ViT-B-32-multilingual-v1+sentence-transformers/clip-ViT-B-32
"""

import json
import math
from importlib.metadata import version

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import InputModule, Module
from tokenizers import Tokenizer
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutputWithPooling

from modeling_altclip.texts_altclip import ENCODER_LENGTH

from ..errors import InputError
from ..fingerprints import saved_files, settings, written
from .adapter import AdaptedImageProcessor, AdaptedModel, AdaptedProcessor, AdaptedTokenizer


class _SentenceTransformersConfig(PreTrainedConfig):
    """A configuration that states its model type alone."""

    model_type = "sentence_transformers"


class _SentenceEncoder(AdaptedModel):
    """A `SentenceTransformer` for texts."""

    def __init__(self, text_encoder: SentenceTransformer):
        super().__init__()
        self.config = _SentenceTransformersConfig()
        self.text_encoder = text_encoder

    def get_text_features(self, **features) -> BaseModelOutputWithPooling:
        """Return embeddings `(batch, dim)` in `pooler_output`, as `encode` does."""
        return BaseModelOutputWithPooling(pooler_output=_embeddings_of(self.text_encoder, features))


class _SentenceTransformersModel(_SentenceEncoder):
    """A `SentenceTransformer` for texts and one, mostly the same, for images."""

    def __init__(self, text_encoder: SentenceTransformer, image_encoder: SentenceTransformer):
        super().__init__(text_encoder)
        self.image_encoder = image_encoder

    def get_image_features(self, **features) -> BaseModelOutputWithPooling:
        """Return embeddings `(batch, dim)` in `pooler_output`."""
        return BaseModelOutputWithPooling(pooler_output=_embeddings_of(self.image_encoder, features))


def _embeddings_of(encoder: SentenceTransformer, features: dict) -> torch.Tensor:
    """Compute embeddings `(batch, dim)` as `encode` does, truncated at the width that the model states."""
    return encoder(features)["sentence_embedding"][:, : encoder.truncate_dim]


def load(name: str) -> tuple[AdaptedModel, AdaptedProcessor]:
    """Load a folder or Hub id, or two of them as `TEXT+IMAGE`.

    Raises:
        InputError: the model for images does not read images.
    """
    text_name, _, image_name = name.partition("+")
    text_encoder = _load_encoder(text_name)
    image_encoder = text_encoder
    if image_name:
        image_encoder = _load_encoder(image_name)
    if not image_encoder.supports("image"):
        raise InputError(
            f"{image_name or text_name} reads no images: "
            f"add one that does, as in sentence_transformers:{text_name}+MODEL"
        )

    image_processor = AdaptedImageProcessor(image_encoder.preprocess)
    model = _SentenceTransformersModel(text_encoder, image_encoder)
    return model, AdaptedProcessor(_tokenizer_of(text_encoder), image_processor)


def load_texts(name: str) -> tuple[AdaptedModel, AdaptedTokenizer]:
    """Load the model of a folder or Hub id for texts alone, whether it reads images or not.

    Raises:
        InputError: two models are named, of which the second is for images.
    """
    text_name, plus, image_name = name.partition("+")
    if plus:
        raise InputError(f"it teaches texts alone: leave out +{image_name}")
    text_encoder = _load_encoder(text_name)
    return _SentenceEncoder(text_encoder), _tokenizer_of(text_encoder)


def _load_encoder(name: str) -> SentenceTransformer:
    return SentenceTransformer(name, device="cpu", trust_remote_code=False).float()


def _tokenizer_of(encoder: SentenceTransformer) -> AdaptedTokenizer:
    """Return the preparation of texts: they get the default prompt, as `encode` puts it before them."""
    prompt = encoder.prompts.get(encoder.default_prompt_name)

    def prepare_texts(texts: list[str]) -> dict:
        return encoder.preprocess(texts, prompt=prompt)

    # Some state no length, and static embeddings, which read every token, an infinite one.
    length = encoder.max_seq_length or math.inf
    n_tokens = length if math.isfinite(length) else ENCODER_LENGTH
    return AdaptedTokenizer(prepare_texts, n_tokens, _describe(encoder, prompt))


def _describe(encoder: SentenceTransformer, prompt: str | None) -> str:
    """Return all that an embedding of a text depends on beside the weights, as JSON.

    The modules' own settings have pooling and normalization, the tokenizer has lower-casing.
    """
    modules = []
    tokenizers = []
    configurations = []
    for module in encoder.modules():
        if isinstance(module, Module):
            modules.append([type(module).__name__, module.get_config_dict()])
        if isinstance(module, InputModule):
            tokenizers.append(_written(module.tokenizer))
        if isinstance(module, PreTrainedModel):
            configurations.append(settings(module))
    described = {
        "sentence-transformers": version("sentence-transformers"),
        "modules": modules,
        "configurations": configurations,
        "tokenizers": tokenizers,
        "prompt": prompt,
        "max_seq_length": encoder.max_seq_length,
        "truncate_dim": encoder.truncate_dim,
    }
    return json.dumps(described, sort_keys=True, default=str)


def _written(tokenizer) -> str:
    """Return a tokenizer of any of the library's kinds as text: transformers', a plain one, or of words."""
    if isinstance(tokenizer, PreTrainedTokenizerBase):
        return written(tokenizer)
    if isinstance(tokenizer, Tokenizer):
        return tokenizer.to_str()
    return json.dumps(saved_files(tokenizer.save), sort_keys=True)
