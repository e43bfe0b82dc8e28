"""Load models of sentence-transformers for texts and images, or one for texts and another for images.

sentence_transformers:sentence-transformers/clip-ViT-L-14
sentence_transformers:sentence-transformers/clip-ViT-B-32-multilingual-v1+sentence-transformers/clip-ViT-B-32
"""

import torch
from sentence_transformers import SentenceTransformer
from transformers import PreTrainedConfig
from transformers.modeling_outputs import BaseModelOutputWithPooling

from modeling_altclip.texts_altclip import ENCODER_LENGTH

from ..errors import InputError
from .adapter import AdaptedImageProcessor, AdaptedModel, AdaptedProcessor, AdaptedTokenizer


class _SentenceTransformersConfig(PreTrainedConfig):
    """A configuration that states its model type alone."""

    model_type = "sentence_transformers"


class _SentenceTransformersModel(AdaptedModel):
    """A `SentenceTransformer` for texts and one, mostly the same, for images."""

    def __init__(self, text_encoder: SentenceTransformer, image_encoder: SentenceTransformer):
        super().__init__()
        self.config = _SentenceTransformersConfig()
        self.text_encoder = text_encoder
        self.image_encoder = image_encoder

    def get_text_features(self, **features) -> BaseModelOutputWithPooling:
        """Return embeddings `(batch, dim)` in `pooler_output`."""
        return BaseModelOutputWithPooling(pooler_output=_embeddings_of(self.text_encoder, features))

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
    text_encoder = SentenceTransformer(text_name, device="cpu", trust_remote_code=False).float()
    image_encoder = text_encoder
    if image_name:
        image_encoder = SentenceTransformer(image_name, device="cpu", trust_remote_code=False).float()
    if not image_encoder.supports("image"):
        raise InputError(
            f"{image_name or text_name} reads no images: "
            f"add one that does, as in sentence_transformers:{text_name}+MODEL"
        )

    # Texts get the model's default prompt, as `encode` puts it before them.
    prompt = text_encoder.prompts.get(text_encoder.default_prompt_name)

    def prepare_texts(texts: list[str]) -> dict:
        return text_encoder.preprocess(texts, prompt=prompt)

    tokenizer = AdaptedTokenizer(prepare_texts, text_encoder.max_seq_length or ENCODER_LENGTH)
    image_processor = AdaptedImageProcessor(image_encoder.preprocess)
    model = _SentenceTransformersModel(text_encoder, image_encoder)
    return model, AdaptedProcessor(tokenizer, image_processor)
