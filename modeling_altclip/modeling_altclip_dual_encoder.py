"""A CLIP made of any image encoder and any text encoder, under a model type of its own.

Everything but the towers is `AltCLIPModel`'s. Plain transformers does not know the type, and so never half-loads it.
"""

import warnings
from copy import deepcopy
from inspect import signature

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import PrefixChange, WeightRenaming, WeightTransform
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .checkpoint_altclip import load_whole, rename_weights
from .configuration_altclip_dual_encoder import AltCLIPDualEncoderConfig, check_widths
from .modeling_altclip import AltCLIPModel
from .pooling_altclip import (
    POOLED_BY_NORM,
    check_image_encoder,
    check_modality,
    check_states,
    check_text_encoder,
    default_image_pooling,
    default_text_pooling,
    pool,
    positions_of,
    stated_pooling,
    unread_modules,
)
from .texts_altclip import positions_before_texts

# What a model of transformers gathers from its parts when it is built. The second are plans by the names of modules.
SETTINGS_OF_PARTS = (
    "_no_split_modules",
    "_skip_keys_device_placement",
    "_keep_in_fp32_modules",
    "_keep_in_fp32_modules_strict",
)
PLANS_OF_PARTS = ("_tp_plan", "_ep_plan")
ALWAYS_POOLED = ("squeezebert", "layoutlm")  # text encoders that fail without their pooler


class PooledTower(nn.Module):
    """An encoder and the way its last states become one vector, `pooler_output` of shape `(batch, hidden_size)`.

    The whole model looks at its own parts alone for what they ask of a device map, a dtype or parallelism: the tower hands on
    what its encoder asks for.
    """

    def __init__(self, config: PreTrainedConfig, pooling: str):
        super().__init__()
        self.config, self.pooling = config, pooling
        self.encoder = without_idle_parts(AutoModel.from_config(config), pooling)
        self.counts_padding = counts_padding(self.encoder)
        self.positions_before = positions_before_texts(self.encoder)
        self._supports_sdpa = self.encoder._supports_sdpa
        for name in SETTINGS_OF_PARTS:
            setattr(self, name, getattr(self.encoder, name))
        for name in PLANS_OF_PARTS:
            setattr(
                self, name, {f"encoder.{part}": plan for part, plan in getattr(self.encoder, name).items()}
            )

    def forward(self, attention_mask: torch.Tensor | None = None, **inputs) -> BaseModelOutputWithPooling:
        """Encode `input_ids` or `pixel_values`. Inputs that are None or False are left out: not every encoder knows them."""
        inputs = {name: value for name, value in inputs.items() if value is not None and value is not False}
        if attention_mask is not None:
            inputs["attention_mask"] = attention_mask
            if self.counts_padding and attention_mask.ndim == 2:
                inputs.setdefault(
                    "position_ids",
                    positions_of(attention_mask) + first_position(self.encoder).to(attention_mask.device),
                )
            elif self.positions_before > 0 and "inputs_embeds" in inputs and attention_mask.ndim == 2:
                # By tokens XLM-R leaves padding out, which embeddings do not tell.
                inputs.setdefault("position_ids", positions_of(attention_mask) + self.positions_before)
        outputs = self.encoder(**inputs)
        pooled = (
            outputs.pooler_output
            if self.pooling == "pooler"
            else pool(outputs.last_hidden_state, attention_mask, self.pooling)
        )
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


def counts_padding(encoder: PreTrainedModel) -> bool:
    """Whether an encoder numbers positions from the left, padding included, unless it is told them: as BERT and GPT-2, not as XLM-R."""
    return "position_ids" in signature(encoder.forward).parameters and positions_before_texts(encoder) == 0


def first_position(encoder: PreTrainedModel) -> torch.Tensor:
    """The position `()` that an encoder gives a text's first token: 0 for most, but 2 in Nyströmformer, YOSO and MRA."""
    for name, positions in encoder.named_buffers():
        if name.endswith("position_ids"):
            return positions.flatten()[0]
    return torch.tensor(0)


def without_idle_parts(encoder: PreTrainedModel, pooling: str) -> PreTrainedModel:
    """Drop a pooler that nobody reads (BERT's, ViT's), and freeze what cannot be dropped: the head that SigLIP and AIMv2 pool with,
    the last norm of CLIP's image tower, or a pooler that is always called, where another pooling is asked for; and a mask token that
    no image has (DINOv2's).

    A parameter that gets no gradient would stop distributed training.
    """
    if (
        pooling != "pooler"
        and "pooler" in dict(encoder.named_children())
        and encoder.config.model_type not in ALWAYS_POOLED
    ):
        encoder.pooler = None
    idle = [".head.", ".pooler."]
    if encoder.config.model_type in POOLED_BY_NORM:
        idle.append(".post_layernorm.")
    for name, parameter in encoder.named_parameters():
        is_unread_head = pooling != "pooler" and any(part in f".{name}" for part in idle)
        if is_unread_head or name.endswith("mask_token"):
            parameter.requires_grad_(False)
    return encoder


class AltCLIPDualEncoderModel(AltCLIPModel):
    """`AltCLIPModel` with any `AutoModel` for each tower; `config.text_pooling` and `vision_pooling` say how they are pooled."""

    config_class = AltCLIPDualEncoderConfig
    base_model_prefix = "altclip_dual_encoder"
    native_class = None
    key_mapping = {}
    _no_split_modules = []  # the towers name theirs

    def __init__(self, config: AltCLIPDualEncoderConfig):
        super(AltCLIPModel, self).__init__(config)
        self.text_model = PooledTower(config.text_config, config.text_pooling)
        self.vision_model = PooledTower(config.vision_config, config.vision_pooling)
        self.visual_projection = nn.Linear(
            config.vision_config.hidden_size, config.projection_dim, bias=config.projection_bias
        )
        self.text_projection = nn.Linear(
            config.text_config.hidden_size, config.projection_dim, bias=config.projection_bias
        )
        self.logit_scale = nn.Parameter(torch.tensor(float(config.logit_scale_init_value)))
        self.post_init()
        self.register_load_state_dict_pre_hook(rename_tower_weights)

    def save_pretrained(self, *args, save_original_format: bool = True, **kwargs) -> None:
        """Save the towers' weights under the names that each tower's own `save_pretrained` gives them.

        Those are the names of the Hub, and stay as they are; inside, they change with transformers' version. Either is read.
        A tower whose weights transformers fuses (a mixture of experts) keeps the names from inside.
        """
        self._weight_conversions = None  # else transformers gives back the names that it read
        super().save_pretrained(
            *args, save_original_format=save_original_format and not fuses_weights(self), **kwargs
        )

    @classmethod
    def from_teacher(cls, *_, **__):
        """Not for these towers.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            "a teacher's towers make an AltCLIPModel: call that class's from_teacher, or from_towers here"
        )

    def enable_input_require_grads(self) -> None:
        """Let gradients reach what the towers' embeddings give, as checkpointing and adapters need it.

        transformers takes that for one tensor, and fails on Swin, whose embeddings give the size of the image beside it.
        """

        def require_grads(module: nn.Module, inputs: tuple, output: torch.Tensor | tuple) -> None:
            states = output[0] if isinstance(output, tuple) else output
            states.requires_grad_(True)

        self._require_grads_hooks = []
        for tower in (self.text_model, self.vision_model):
            hook = tower.get_input_embeddings().register_forward_hook(require_grads)
            self._require_grads_hooks.append(hook)

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
            vision_name_or_path: an image encoder (ViT, DINOv2, Swin), or a CLIP or SigLIP, whose image tower is taken.
            text_name_or_path: a text encoder (XLM-R, mE5, BERT, ModernBERT, Qwen3).
            projection_dim, projection_bias: as in the configuration.
            vision_pooling: by default `pooler` for the image towers of CLIP, its kin (Chinese-CLIP, MLCD) and SigLIP, `cls` for
                those with a class token, and else `mean`.
            text_pooling: by default what the checkpoint's sentence-transformers files say (mE5: the mean); without them `last`
                for encoders that read from left to right, and else `cls`.

        Raises:
            ValueError: a checkpoint is not whole, or no tower of tokens or patches, or reads something else; or a pooling does not suit
                its tower.
        """
        vision_config = AutoConfig.from_pretrained(vision_name_or_path)
        vision_config = getattr(vision_config, "vision_config", vision_config)
        text_config = AutoConfig.from_pretrained(text_name_or_path)
        text_config.name_or_path = vision_config.name_or_path = (
            ""  # a folder of this machine, and no concern of config.json
        )
        check_widths(text_config, vision_config)
        text_pooling = text_pooling or stated_pooling(text_name_or_path)
        image_encoder = load_encoder(vision_name_or_path, vision_config, vision_pooling)
        text_encoder = load_encoder(text_name_or_path, text_config, text_pooling)
        check_modality(image_encoder, vision_name_or_path, "image")
        check_modality(text_encoder, text_name_or_path, "text")
        check_states(text_encoder)
        if text_pooling is None:
            text_pooling = default_text_pooling(text_encoder)
        else:
            check_text_encoder(text_encoder, text_pooling)
        config = AltCLIPDualEncoderConfig(
            text_config=text_config,
            vision_config=vision_config,
            text_pooling=text_pooling,
            vision_pooling=vision_pooling or default_image_pooling(image_encoder),
            projection_dim=projection_dim,
            projection_bias=projection_bias,
        )
        check_image_encoder(image_encoder, config.vision_pooling)
        unread = unread_modules(text_name_or_path)
        if unread:
            warnings.warn(
                f"{text_name_or_path} has more than an encoder and its pooling; left out: {', '.join(unread)}",
                stacklevel=2,
            )
        model = cls(config)
        for tower, encoder in ((model.vision_model, image_encoder), (model.text_model, text_encoder)):
            tower.encoder.load_state_dict(without_idle_parts(encoder, tower.pooling).state_dict())
        return model


def tower_conversions(model: AltCLIPDualEncoderModel) -> list[WeightTransform]:
    """What transformers does to the towers' weights between a file and the model."""
    conversions = get_model_conversion_mapping(model, add_legacy=False)
    # A prefix is one of whole checkpoints, with which a tower was read, and never of ours.
    return [conversion for conversion in conversions if not isinstance(conversion, PrefixChange)]


def fuses_weights(model: AltCLIPDualEncoderModel) -> bool:
    """Whether transformers makes some of the model's weights of several in a file, so that names alone do not tell them."""
    names = [name for name, _ in model.named_parameters()]
    for conversion in tower_conversions(model):
        if isinstance(conversion, WeightRenaming):
            continue
        split = conversion.reverse_transform()
        if any(split.rename_source_key(name)[1] is not None for name in names):
            return True
    return False


def rename_tower_weights(model: AltCLIPDualEncoderModel, state_dict: dict, prefix: str, *_) -> None:
    """Before `load_state_dict`: take the names in files too. So a trainer reads them that goes on from a checkpoint."""
    renamings = [
        conversion for conversion in tower_conversions(model) if isinstance(conversion, WeightRenaming)
    ]

    def new_name(name: str) -> str:
        for renaming in renamings:
            name, _ = renaming.rename_source_key(name)
        return name

    rename_weights(state_dict, prefix, new_name)


def load_encoder(name_or_path: str, config: PreTrainedConfig, pooling: str | None) -> PreTrainedModel:
    """Load a tower with all that its pooling reads: one that is not stated yet never is a pooler that the checkpoint lacks."""
    unread = () if pooling == "pooler" else ("pooler.",)
    return load_whole(AutoModel, name_or_path, unread=unread, config=deepcopy(config))


__all__ = ["AltCLIPDualEncoderModel"]
