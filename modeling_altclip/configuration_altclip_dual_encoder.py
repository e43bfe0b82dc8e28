"""Configuration of a CLIP made of any image encoder and any text encoder."""

from .versions_altclip import TRANSFORMERS  # noqa: F401, I001  (before names that older versions lack)

from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .configuration_altclip import check_towers

_POOLINGS = ("cls", "last", "mean", "pooler")


class AltCLIPDualEncoderConfig(PreTrainedConfig):
    """Configuration of two towers, how each is pooled, and the space that they share.

    Args:
        text_config, vision_config: configurations of encoders that `AutoModel` builds.
        text_pooling, vision_pooling: how the last states become one embedding: `cls`, the first token's
            state; `last`, the last token's; `mean`, their mean, without padding; `pooler`, the output of the
            encoder's own pooler (CLIP's and SigLIP's image towers).
        projection_dim: the width of the shared space.
        projection_bias: whether the projections to it have biases: CLIP's have none, Krasner & Lanuzo's do.
        logit_scale_init_value: the log of 1 / temperature.

    Raises:
        ValueError: a tower is left out, a pooling is unknown, or a tower is no encoder of tokens or patches.

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
    logit_scale_init_value: int | float = 2.6592
    initializer_factor: float = 1.0

    def __post_init__(self, **kwargs):
        check_towers(self.text_config, self.vision_config)
        for name in ("text_pooling", "vision_pooling"):
            pooling = getattr(self, name)
            if pooling not in _POOLINGS:
                raise ValueError(f"{name} is {pooling!r}: choose from {', '.join(_POOLINGS)}")
        super().__post_init__(**kwargs)  # builds the towers' configurations of dicts
        check_widths(self.text_config, self.vision_config)

    @classmethod
    def from_dict(cls, config_dict: dict, **kwargs) -> "AltCLIPDualEncoderConfig":
        """Build from the contents of a config.json, which has to describe both towers."""
        check_towers(config_dict.get("text_config") or {}, config_dict.get("vision_config") or {})
        return super().from_dict(config_dict, **kwargs)


def check_widths(*towers: PreTrainedConfig) -> None:
    """Refuse towers that are no encoders of tokens or patches.

    Raises:
        ValueError: one states no `hidden_size`, which convolutional networks lack, or has a decoder too.
    """
    for tower in towers:
        if tower.is_encoder_decoder:
            raise ValueError(
                f"a {tower.model_type!r} is an encoder with a decoder, and cannot be a tower: "
                "take an encoder alone"
            )
        if getattr(tower, "hidden_size", None) is None:
            raise ValueError(
                f"a {tower.model_type!r} states no hidden_size, as networks of convolutions do, "
                "and cannot be a tower: "
                "take an encoder of tokens or patches, such as a ViT, a DINOv2 or a Swin"
            )


__all__ = ["AltCLIPDualEncoderConfig"]
