"""Load M-CLIP's text towers (Carlsson et al. 2022) with the CLIP that taught them.

    m_clip:M-CLIP/XLM-Roberta-Large-Vit-B-32+openai/clip-vit-base-patch32
    m_clip:M-CLIP/XLM-Roberta-Large-Vit-B-16Plus+open_clip:ViT-B-16-plus-240/laion400m_e32

The `multilingual_clip` package is not needed: it fails on transformers 5. It also downloads the weights of
the encoder that a tower was initialised with; its configuration is enough here. That package never truncates
a text; here texts are truncated at 77 tokens, as for every model.
"""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import cached_file

from modeling_altclip.modeling_altclip_dual_encoder import pool

from ..errors import InputError
from .adapter import AdaptedModel, AdaptedProcessor
from .kinds import load_tokenizer


class _MCLIPConfig(PreTrainedConfig):
    """A configuration that states its model type alone."""

    model_type = "m_clip"


class _MCLIPModel(AdaptedModel):
    """A text encoder, mean-pooled and projected by one linear layer, beside another model for images."""

    def __init__(self, encoder: nn.Module, width: int, dim: int, image_model: nn.Module):
        super().__init__()
        self.config = _MCLIPConfig()
        # Named as in M-CLIP's checkpoints.
        self.transformer = encoder
        self.LinearTransformation = nn.Linear(width, dim)
        self.image_model = image_model

    def get_text_features(self, attention_mask: torch.Tensor, **inputs) -> BaseModelOutputWithPooling:
        """Return embeddings `(batch, dim)` in `pooler_output`."""
        states = self.transformer(attention_mask=attention_mask, **inputs).last_hidden_state
        pooled = pool(states, attention_mask, "mean")
        return BaseModelOutputWithPooling(pooler_output=self.LinearTransformation(pooled))

    def get_image_features(self, **inputs) -> BaseModelOutputWithPooling:
        """Return the image model's own output."""
        return self.image_model.get_image_features(**inputs)


def load(name: str, load_image_model: Callable[[str], tuple]) -> tuple[AdaptedModel, AdaptedProcessor]:
    """Load `TEXT+IMAGE`: an M-CLIP folder or Hub id, and any model that `load_image_model` loads.

    Raises:
        InputError: no image model is named, or the weights are not those of the tower.
    """
    text_name, plus, image_name = name.partition("+")
    if not plus:
        raise InputError(
            f"it has no images: add the CLIP that taught it, as in m_clip:{name}+openai/clip-vit-base-patch32"
        )
    settings = json.loads(Path(cached_file(text_name, "config.json")).read_text("utf-8"))
    absent = [key for key in ("modelBase", "transformerDimensions", "numDims") if key not in settings]
    if absent:
        raise InputError(f"the config.json of {text_name} is not M-CLIP's: it has no {', '.join(absent)}")

    image_model, image_side = load_image_model(image_name)
    config = AutoConfig.from_pretrained(settings["modelBase"], trust_remote_code=False)
    encoder = AutoModel.from_config(config, trust_remote_code=False)
    model = _MCLIPModel(encoder, settings["transformerDimensions"], settings["numDims"], image_model)

    weights = torch.load(cached_file(text_name, "pytorch_model.bin"), map_location="cpu", weights_only=True)
    # `position_ids` is a buffer of transformers 4.
    weights = {key: value for key, value in weights.items() if not key.endswith("position_ids")}
    differing = model.load_state_dict(weights, strict=False)
    missing = [key for key in differing.missing_keys if not key.startswith("image_model.")]
    if missing or differing.unexpected_keys:
        raise InputError(
            f"the weights of {text_name} are not M-CLIP's: "
            f"missing are {missing[:3]}, unknown {differing.unexpected_keys[:3]}"
        )
    tokenizer = load_tokenizer("models", text_name)
    return model.float(), AdaptedProcessor(tokenizer, image_side.image_processor)
