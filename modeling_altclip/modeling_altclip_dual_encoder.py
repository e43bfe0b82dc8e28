"""A CLIP made of any image encoder and any text encoder, under a model type of its own.

Everything but the towers is `AltCLIPModel`'s. Plain transformers does not know the type, and so never half-loads it.
"""

import json
from copy import deepcopy

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import cached_file

from .checkpoint_altclip import load_whole
from .configuration_altclip_dual_encoder import AltCLIPDualEncoderConfig
from .modeling_altclip import AltCLIPModel

# Image towers whose pooler was trained with a text tower, and holds what is to be compared with texts.
POOLER_OF_ITS_OWN = ("clip_vision_model", "siglip_vision_model")


class PooledTower(nn.Module):
    """An encoder and the way its last states become one vector, `pooler_output` of shape `(batch, hidden_size)`."""

    def __init__(self, config: PreTrainedConfig, pooling: str):
        super().__init__()
        self.config, self.pooling = config, pooling
        self.encoder = without_idle_parts(AutoModel.from_config(config), pooling)

    def forward(self, attention_mask: torch.Tensor | None = None, **inputs) -> BaseModelOutputWithPooling:
        """Encode `input_ids` or `pixel_values`. Inputs that are None or False are left out: not every encoder knows them."""
        inputs = {name: value for name, value in inputs.items() if value is not None and value is not False}
        if attention_mask is not None:
            inputs["attention_mask"] = attention_mask
        outputs = self.encoder(**inputs)
        pooled = outputs.pooler_output if self.pooling == "pooler" else pool(outputs.last_hidden_state, attention_mask, self.pooling)
        return BaseModelOutputWithPooling(
            last_hidden_state=outputs.last_hidden_state,
            pooler_output=pooled,
            hidden_states=outputs.get("hidden_states"),
            attentions=outputs.get("attentions"),
        )

    def get_input_embeddings(self) -> nn.Module:
        return self.encoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.encoder.set_input_embeddings(value)


def pool(states: torch.Tensor, attention_mask: torch.Tensor | None, pooling: str) -> torch.Tensor:
    """States `(batch, tokens, width)` to vectors `(batch, width)`: the first one, or the mean of those that are not padding."""
    if pooling == "cls":
        return states[:, 0]
    if attention_mask is None:
        return states.mean(dim=1)
    weights = attention_mask[..., None].to(states.dtype)
    return (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


def without_idle_parts(encoder: PreTrainedModel, pooling: str) -> PreTrainedModel:
    """Drop a pooler that nobody reads (BERT's, ViT's), and freeze a mask token that no image has (DINOv2's).

    A parameter that gets no gradient would stop distributed training.
    """
    if pooling != "pooler" and "pooler" in dict(encoder.named_children()):
        encoder.pooler = None
    for name, parameter in encoder.named_parameters():
        if name.endswith("mask_token"):
            parameter.requires_grad_(False)
    return encoder


class AltCLIPDualEncoderModel(AltCLIPModel):
    """`AltCLIPModel` with any `AutoModel` for each tower; `config.text_pooling` and `vision_pooling` say how they are pooled."""

    config_class = AltCLIPDualEncoderConfig
    base_model_prefix = "altclip_dual_encoder"
    key_mapping = {}

    def __init__(self, config: AltCLIPDualEncoderConfig):
        super(AltCLIPModel, self).__init__(config)
        self.text_model = PooledTower(config.text_config, config.text_pooling)
        self.vision_model = PooledTower(config.vision_config, config.vision_pooling)
        self.visual_projection = nn.Linear(config.vision_config.hidden_size, config.projection_dim, bias=config.projection_bias)
        self.text_projection = nn.Linear(config.text_config.hidden_size, config.projection_dim, bias=config.projection_bias)
        self.logit_scale = nn.Parameter(torch.tensor(float(config.logit_scale_init_value)))
        self.post_init()
        whole = {part for tower in (self.text_model, self.vision_model) for part in tower.encoder._no_split_modules or ()}
        self._no_split_modules = sorted(whole)

    @classmethod
    def from_teacher(cls, *_, **__):
        """Not for these towers.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("a teacher's towers make an AltCLIPModel: call that class's from_teacher, or from_towers here")

    @classmethod
    def from_towers(
        cls,
        vision_name_or_path: str,
        text_name_or_path: str,
        *,
        projection_dim: int = 512,
        projection_bias: bool = False,
        vision_pooling: str | None = None,
        text_pooling: str | None = None,
    ) -> "AltCLIPDualEncoderModel":
        """Put two encoders side by side. They keep their weights; both projections are new and start random.

        Args:
            vision_name_or_path: an image encoder (ViT, DINOv2), or a CLIP or SigLIP, whose image tower is taken.
            text_name_or_path: a text encoder (XLM-R, mE5, BERT, ModernBERT).
            projection_dim, projection_bias: as in the configuration.
            vision_pooling: by default `pooler` for the image towers of CLIP and SigLIP, and else `cls`.
            text_pooling: by default what the checkpoint's sentence-transformers files say (mE5: the mean), and else `cls`.

        Raises:
            ValueError: a checkpoint is not whole.
        """
        vision_config = AutoConfig.from_pretrained(vision_name_or_path)
        vision_config = getattr(vision_config, "vision_config", vision_config)
        text_config = AutoConfig.from_pretrained(text_name_or_path)
        vision_pooling = vision_pooling or ("pooler" if vision_config.model_type in POOLER_OF_ITS_OWN else "cls")
        text_pooling = text_pooling or stated_pooling(text_name_or_path)
        text_config.name_or_path = vision_config.name_or_path = ""  # a folder of this machine, and no concern of config.json
        config = AltCLIPDualEncoderConfig(
            text_config=text_config,
            vision_config=vision_config,
            text_pooling=text_pooling,
            vision_pooling=vision_pooling,
            projection_dim=projection_dim,
            projection_bias=projection_bias,
        )
        model = cls(config)
        for tower, name_or_path in ((model.vision_model, vision_name_or_path), (model.text_model, text_name_or_path)):
            unread = () if tower.pooling == "pooler" else ("pooler.",)
            encoder = load_whole(AutoModel, name_or_path, unread=unread, config=deepcopy(tower.config))
            tower.encoder.load_state_dict(without_idle_parts(encoder, tower.pooling).state_dict())
        return model


def stated_pooling(name_or_path: str) -> str:
    """The pooling that the checkpoint's sentence-transformers files ask for, in either of their spellings; without them, `cls`."""
    path = cached_file(name_or_path, "1_Pooling/config.json", _raise_exceptions_for_missing_entries=False)
    if path is None:
        return "cls"
    with open(path, encoding="utf-8") as file:
        stated = json.load(file)
    spelled_out = [name for name, on in stated.items() if name.startswith("pooling_mode_") and on]
    names = [name.removeprefix("pooling_mode_").removesuffix("_token").removesuffix("_tokens") for name in spelled_out]
    return stated.get("pooling_mode") or names[0]


__all__ = ["AltCLIPDualEncoderModel"]
