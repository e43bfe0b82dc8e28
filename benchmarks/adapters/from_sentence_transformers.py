"""Models of sentence-transformers that read texts and images, or one of them beside another for the images.

sentence_transformers:sentence-transformers/clip-ViT-L-14
sentence_transformers:sentence-transformers/clip-ViT-B-32-multilingual-v1+sentence-transformers/clip-ViT-B-32
"""

import torch
from sentence_transformers import SentenceTransformer
from transformers import PreTrainedConfig
from transformers.modeling_outputs import BaseModelOutputWithPooling

from modeling_altclip.texts_altclip import ENCODER_LENGTH

from ..recipe import InputError
from . import AdaptedImageProcessor, AdaptedModel, AdaptedProcessor, AdaptedTokenizer


class SentenceTransformersConfig(PreTrainedConfig):
    """Its name alone."""

    model_type = "sentence_transformers"


class SentenceTransformersModel(AdaptedModel):
    """All modules of one `SentenceTransformer` for texts and of one, mostly the same, for images."""

    def __init__(self, text_encoder: SentenceTransformer, image_encoder: SentenceTransformer):
        super().__init__()
        self.config = SentenceTransformersConfig()
        self.text_encoder, self.image_encoder = text_encoder, image_encoder

    def get_text_features(self, **features) -> BaseModelOutputWithPooling:
        """`(batch, dim)` in `pooler_output`."""
        return BaseModelOutputWithPooling(pooler_output=embedding_of(self.text_encoder, features))

    def get_image_features(self, **features) -> BaseModelOutputWithPooling:
        """`(batch, dim)` in `pooler_output`."""
        return BaseModelOutputWithPooling(pooler_output=embedding_of(self.image_encoder, features))


def embedding_of(encoder: SentenceTransformer, features: dict) -> torch.Tensor:
    """Vectors `(batch, dim)` as `encode` gives them: cut at the width that the model's files state, if they do."""
    return encoder(features)["sentence_embedding"][:, : encoder.truncate_dim]


def load(name: str) -> tuple[SentenceTransformersModel, AdaptedProcessor]:
    """Load a folder or Hub id, or two of them as `TEXT+IMAGE`.

    Raises:
        InputError: the model for images reads none.
    """
    text_name, _, image_name = name.partition("+")
    text_encoder = SentenceTransformer(text_name, device="cpu").float()
    image_encoder = SentenceTransformer(image_name, device="cpu").float() if image_name else text_encoder
    if not image_encoder.supports("image"):
        raise InputError(
            f"{image_name or text_name} reads no images: add one that does, as in sentence_transformers:{text_name}+MODEL"
        )
    prompt = text_encoder.prompts.get(text_encoder.default_prompt_name)

    def prepare_texts(texts: list[str]) -> dict:
        return text_encoder.preprocess(texts, prompt=prompt)

    tokenizer = AdaptedTokenizer(prepare_texts, text_encoder.max_seq_length or ENCODER_LENGTH)
    model = SentenceTransformersModel(text_encoder, image_encoder)
    return model, AdaptedProcessor(tokenizer, AdaptedImageProcessor(image_encoder.preprocess))
