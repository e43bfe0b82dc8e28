"""M-CLIP's text towers (Carlsson et al. 2022) beside the CLIP that they were taught by.

    m_clip:M-CLIP/XLM-Roberta-Large-Vit-B-32+openai/clip-vit-base-patch32
    m_clip:M-CLIP/XLM-Roberta-Large-Vit-B-16Plus+open_clip:ViT-B-16-plus-240/laion400m_e32

The `multilingual_clip` package is not needed: it fails on transformers 5. It also downloads the weights of the encoder that a tower
began with; here its configuration is enough. That package never cuts a text; here it is cut at 77 tokens, as for every model.
"""

import json
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import cached_file

from modeling_altclip.modeling_altclip_dual_encoder import pool

from ..kinds import load_tokenizer
from ..loading import load_model
from ..recipe import InputError
from . import AdaptedModel, AdaptedProcessor


class MCLIPConfig(PreTrainedConfig):
    """Its name alone."""

    model_type = "m_clip"


class MCLIPModel(AdaptedModel):
    """The mean of an encoder's last states through one linear layer, and another model's images."""

    def __init__(self, encoder: nn.Module, width: int, dim: int, image_model: nn.Module):
        super().__init__()
        self.config = MCLIPConfig()
        self.transformer, self.LinearTransformation = encoder, nn.Linear(width, dim)
        self.image_model = image_model

    def get_text_features(self, attention_mask: torch.Tensor, **inputs) -> BaseModelOutputWithPooling:
        """`(batch, dim)` in `pooler_output`."""
        states = self.transformer(attention_mask=attention_mask, **inputs).last_hidden_state
        return BaseModelOutputWithPooling(
            pooler_output=self.LinearTransformation(pool(states, attention_mask, "mean"))
        )

    def get_image_features(self, **inputs) -> BaseModelOutputWithPooling:
        """As the image model gives them."""
        return self.image_model.get_image_features(**inputs)


def load(name: str) -> tuple[MCLIPModel, AdaptedProcessor]:
    """Load `TEXT+IMAGE`: an M-CLIP folder or Hub id, and any model that `load_model` takes.

    Raises:
        InputError: no image model is named, or the weights are not those of the tower.
    """
    text_name, plus, image_name = name.partition("+")
    if not plus:
        raise InputError(
            f"it has no images: add the CLIP that taught it, as in m_clip:{name}+openai/clip-vit-base-patch32"
        )
    stated = json.loads(Path(cached_file(text_name, "config.json")).read_text("utf-8"))
    absent = [key for key in ("modelBase", "transformerDimensions", "numDims") if key not in stated]
    if absent:
        raise InputError(f"the config.json of {text_name} is not M-CLIP's: it has no {', '.join(absent)}")
    image_model, image_side = load_model(image_name)
    encoder = AutoModel.from_config(AutoConfig.from_pretrained(stated["modelBase"]))
    model = MCLIPModel(encoder, stated["transformerDimensions"], stated["numDims"], image_model)
    weights = torch.load(cached_file(text_name, "pytorch_model.bin"), map_location="cpu", weights_only=True)
    weights = {
        key: value for key, value in weights.items() if not key.endswith("position_ids")
    }  # a buffer of transformers 4
    differing = model.load_state_dict(weights, strict=False)
    missing = [key for key in differing.missing_keys if not key.startswith("image_model.")]
    if missing or differing.unexpected_keys:
        raise InputError(
            f"the weights of {text_name} are not M-CLIP's: missing are {missing[:3]}, unknown {differing.unexpected_keys[:3]}"
        )
    tokenizer = load_tokenizer("models", text_name)
    return model.float(), AdaptedProcessor(tokenizer, image_side.image_processor)
