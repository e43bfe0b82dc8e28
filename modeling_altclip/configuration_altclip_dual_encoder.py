"""Configuration of a CLIP made of any image encoder and any text encoder."""

from .versions_altclip import TRANSFORMERS  # noqa: F401, I001  (before names that older versions lack)

import math
import re

from transformers import AutoConfig, CLIPVisionConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .configuration_altclip import check_towers, take_over_dims

_POOLINGS = ("cls", "last", "mean", "pooler")
TEXT_HEADS = ("linear", "mlp")
# The classes of a text encoder that brings its own code, as transformers' `auto_map` names them.
TEXT_CLASSES = ("AutoConfig", "AutoModel")
_CLASS_IN_FOLDER = re.compile(r"[A-Za-z_]\w*\.[A-Za-z_]\w*")
# Types of models that compare texts with images, and whose image tower a student can take over.
DUAL_TEACHERS = (
    "altclip",
    "altclip_dual_encoder",
    "chinese_clip",
    "clip",
    "metaclip_2",
    "siglip",
    "siglip2",
    "tipsv2",
    "vision-text-dual-encoder",
)
# Networks of convolutions that can be image towers: their last states are a map, and they state its width in
# their own ways.
CONVOLUTIONAL = ("efficientnet", "resnet")
# The bias that SigLIPs begin with; a trained one is among the weights.
_SIGLIP_BIAS = -10.0
_WITH_BIAS = ("siglip", "siglip2")
# Those whose image tower ends in the shared space.
_WITHOUT_PROJECTION = ("siglip", "siglip2", "tipsv2")


class AltCLIPDualEncoderConfig(PreTrainedConfig):
    """Configuration of two towers, how each is pooled, and the space that they share.

    Args:
        text_config, vision_config: configurations of encoders that `AutoModel` builds.
        text_pooling, vision_pooling: how the last states become one embedding: `cls`, the first token's
            state; `last`, the last token's; `mean`, their mean, without padding; `pooler`, the output of the
            encoder's own pooler (CLIP's and SigLIP's image towers).
        projection_dim: the width of the shared space.
        projection_bias: whether the projections to it have biases: CLIP's have none, Krasner & Lanuzo's do.
        text_head: what projects texts: `linear`, one layer, or `mlp`, two of them with a GELU between.
        text_head_norm: whether a layer norm precedes it, as AltCLIP's `pre_LN` does.
        image_projection: whether images are projected. SigLIP's are not: its image tower ends in the space.
        logit_scale_init_value: the log of 1 / temperature.
        logit_bias_init_value: the number that is added to every logit, for a model of the sigmoid loss:
            SigLIP begins at -10, with a `logit_scale_init_value` of log 10. With None, the default, the model
            has no bias, and its loss is the contrastive one.
        text_auto_map: where the text encoder brings its own code, the classes of its configuration and its
            model, `{"AutoConfig": "module.Class", "AutoModel": "module.Class"}`, in files of the folder. The
            model sets it. A `text_config` that is read from such a folder is a plain `PreTrainedConfig`: no
            code runs before `AltCLIPDualEncoderModel.from_pretrained` is told `trust_remote_code=True`.
        matryoshka_dims: as in `AltCLIPConfig`.

    Raises:
        ValueError: a tower is left out, a pooling or head is unknown, a tower is no encoder of tokens or
            patches, images are not projected and of another width than `projection_dim`, the bias is not
            finite, or `text_auto_map` names anything but two classes in files of the folder.

    Example:

    ```python
    >>> from transformers import BertConfig, ViTConfig
    >>> from modeling_altclip import AltCLIPDualEncoderConfig

    >>> config = AltCLIPDualEncoderConfig(
    ...     text_config=BertConfig(), vision_config=ViTConfig(), text_pooling="mean"
    ... )
    >>> config.text_pooling, config.vision_pooling, config.projection_dim
    ('mean', 'cls', 512)
    ```
    """

    model_type = "altclip_dual_encoder"
    sub_configs_defaults = {
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="xlm-roberta"),
        "vision_config": SubConfigSpec(config_class=AutoConfig, model_type="vit"),
    }

    text_config: PreTrainedConfig | dict | None = None
    vision_config: PreTrainedConfig | dict | None = None
    text_pooling: str = "cls"
    vision_pooling: str = "cls"
    projection_dim: int = 512
    projection_bias: bool = False
    text_head: str = "linear"
    text_head_norm: bool = False
    image_projection: bool = True
    logit_scale_init_value: int | float = 2.6592
    logit_bias_init_value: int | float | None = None
    text_auto_map: dict | None = None
    initializer_factor: float = 1.0

    def __post_init__(self, **kwargs):
        check_towers(self.text_config, self.vision_config)
        for name in ("text_pooling", "vision_pooling"):
            pooling = getattr(self, name)
            if pooling not in _POOLINGS:
                raise ValueError(f"{name} is {pooling!r}: choose from {', '.join(_POOLINGS)}")
        if self.text_head not in TEXT_HEADS:
            raise ValueError(f"text_head is {self.text_head!r}: choose from {', '.join(TEXT_HEADS)}")
        bias = self.logit_bias_init_value
        if bias is not None and not math.isfinite(bias):
            raise ValueError(f"logit_bias_init_value is {bias}: give a number, such as -10, or None")
        if self.text_auto_map is not None:
            check_text_auto_map(self.text_auto_map)
            if isinstance(self.text_config, dict):
                self.text_config = PreTrainedConfig(**self.text_config)
        super().__post_init__(**kwargs)  # builds the towers' configurations of dicts
        check_widths(self.text_config, self.vision_config)
        width = width_of_states(self.vision_config)
        if not self.image_projection and width != self.projection_dim:
            raise ValueError(
                f"projection_dim is {self.projection_dim}, and the image tower, which nothing projects, is "
                f"{width} wide: give projection_dim={width}, or image_projection=True"
            )

    @classmethod
    def from_teacher(
        cls,
        teacher: PreTrainedConfig,
        text_config: PreTrainedConfig,
        *,
        text_pooling: str,
        text_head: str = "linear",
        text_head_norm: bool = False,
    ) -> "AltCLIPDualEncoderConfig":
        """Join the image side of a teacher with a text encoder, for `AltCLIPDualEncoderModel.from_teacher`.

        Raises:
            ValueError: the teacher is of a type that nothing can be taken over from.
        """
        check_teacher(teacher)
        vision_config = teacher.vision_config
        vision_pooling = "pooler"
        has_projection = teacher.model_type not in _WITHOUT_PROJECTION
        bias = _SIGLIP_BIAS if teacher.model_type in _WITH_BIAS else None
        if teacher.model_type == "altclip":
            # The tower is CLIP's, under a type that transformers builds within a whole AltCLIP alone.
            values = vision_config.to_dict() | {"model_type": CLIPVisionConfig.model_type}
            vision_config = CLIPVisionConfig.from_dict(values)
        if isinstance(teacher, cls):
            vision_pooling = teacher.vision_pooling
            has_projection = teacher.image_projection
            bias = teacher.logit_bias_init_value
        config = cls(
            text_config=text_config,
            vision_config=vision_config,
            text_pooling=text_pooling,
            vision_pooling=vision_pooling,
            projection_dim=teacher.projection_dim if has_projection else width_of_states(vision_config),
            projection_bias=isinstance(teacher, cls) and teacher.projection_bias,
            text_head=text_head,
            text_head_norm=text_head_norm,
            image_projection=has_projection,
            logit_bias_init_value=bias,
        )
        take_over_dims(config, teacher)
        return config

    def to_dict(self) -> dict:
        """Return what config.json holds: what is None and newer than the first files is left out."""
        values = super().to_dict()
        for name in ("logit_bias_init_value", "text_auto_map"):
            if values[name] is None:
                del values[name]
        if self.text_auto_map is not None:
            # A plain `PreTrainedConfig` has its type as an attribute, where transformers does not look.
            values["text_config"]["model_type"] = self.text_config.model_type
        return values

    def to_diff_dict(self) -> dict:
        """Return what config.json holds, of a text encoder with its own code all values.

        What its class has as defaults is not known where the code may not run.
        """
        values = super().to_diff_dict()
        if self.text_auto_map is not None:
            values["text_config"] = self.to_dict()["text_config"]
            values["text_config"].pop("_name_or_path", None)
        return values

    @classmethod
    def from_dict(cls, config_dict: dict, **kwargs) -> "AltCLIPDualEncoderConfig":
        """Build from the contents of a config.json, which has to describe both towers."""
        check_towers(config_dict.get("text_config") or {}, config_dict.get("vision_config") or {})
        return super().from_dict(config_dict, **kwargs)


def check_teacher(config: PreTrainedConfig) -> None:
    """Refuse a teacher of a type that nothing can be taken over from.

    Raises:
        ValueError: it is one.
    """
    if config.model_type not in DUAL_TEACHERS:
        raise ValueError(
            f"a {config.model_type!r} is no teacher whose image tower can be taken over: "
            f"give one of {', '.join(DUAL_TEACHERS)}"
        )


def check_text_auto_map(text_auto_map: dict[str, str]) -> None:
    """Refuse classes of a text encoder that are not in files of the folder.

    Raises:
        ValueError: one is named in another way than `module.Class`, or the names are not `TEXT_CLASSES`.
    """
    is_inside = isinstance(text_auto_map, dict) and set(text_auto_map) == set(TEXT_CLASSES)
    if is_inside:
        names = text_auto_map.values()
        is_inside = all(isinstance(name, str) and _CLASS_IN_FOLDER.fullmatch(name) for name in names)
    if not is_inside:
        raise ValueError(
            f"the text encoder's code has the classes {text_auto_map}: give AutoConfig and AutoModel, each "
            "as module.Class in a file of the folder"
        )


def check_widths(text_config: PreTrainedConfig, vision_config: PreTrainedConfig) -> None:
    """Refuse towers that are no encoders of tokens, patches or maps.

    Of a text model with a decoder (T5, NLLB) the encoder is the tower.

    Raises:
        ValueError: one states no width that is known, or the image tower has a decoder too. A text encoder
            whose code has not run is left for later.
    """
    if vision_config.is_encoder_decoder:
        raise ValueError(
            f"a {vision_config.model_type!r} is an encoder with a decoder, and cannot be an image tower: "
            "take an encoder alone"
        )
    width_of_states(vision_config)
    is_unread = type(text_config) is PreTrainedConfig
    if not is_unread and getattr(text_config, "hidden_size", None) is None:
        raise ValueError(
            f"a {text_config.model_type!r} states no hidden_size, and cannot be a text tower: take an "
            "encoder of tokens, such as an XLM-R or a BERT"
        )


def width_of_states(vision_config: PreTrainedConfig) -> int:
    """Return the width of an image encoder's last states: one a patch, or one at each place of a map.

    Raises:
        ValueError: it is of a kind whose width is not known.
    """
    if vision_config.model_type == "efficientnet":
        return vision_config.hidden_dim
    if vision_config.model_type in CONVOLUTIONAL:
        return vision_config.hidden_sizes[-1]
    width = getattr(vision_config, "hidden_size", None)
    if width is None:
        raise ValueError(
            f"a {vision_config.model_type!r} states no hidden_size, and cannot be an image tower: take an "
            f"encoder of patches, such as a ViT, a DINOv2 or a Swin, or one of {', '.join(CONVOLUTIONAL)}"
        )
    return width


__all__ = [
    "CONVOLUTIONAL",
    "DUAL_TEACHERS",
    "TEXT_CLASSES",
    "TEXT_HEADS",
    "AltCLIPDualEncoderConfig",
    "check_teacher",
    "check_text_auto_map",
    "check_widths",
    "width_of_states",
]
