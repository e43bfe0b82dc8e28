"""AltCLIP's configuration: transformers' own, plus what its text tower needs to be a plain `XLMRobertaModel`."""

from .versions_altclip import TRANSFORMERS  # noqa: F401, I001  (before names that older versions lack)

from copy import deepcopy
from typing import ClassVar

from transformers import AltCLIPConfig as NativeAltCLIPConfig
from transformers import AltCLIPTextConfig as NativeAltCLIPTextConfig
from transformers import AltCLIPVisionConfig, CLIPConfig, PreTrainedConfig


class AltCLIPTextConfig(NativeAltCLIPTextConfig):
    """The text tower: an XLM-R encoder and the head that leads to `project_dim`, the width of the teacher's text tower.

    Args:
        normalize_tokens: whether the vectors of single tokens, `last_hidden_state`, pass `pre_LN`, as in transformers. The
            released AltDiffusion models were trained without (FlagAI's `modeling_berts.py`). The pooled vector always does.
    """

    normalize_tokens: bool = True

    # XLMRobertaModel asks for the first two, and diffusers' pipelines for the third: they then mask the padding of a prompt.
    # As class variables they stay out of config.json, which native transformers reads too.
    is_decoder: ClassVar[bool] = False
    add_cross_attention: ClassVar[bool] = False
    use_attention_mask: ClassVar[bool] = True

    def save_pretrained(self, save_directory, push_to_hub: bool = False, **kwargs) -> None:
        """Save that of a tower alone: it may be a pipeline's, where transformers' own class needs to be told of the masks."""
        alone = deepcopy(self)
        alone.use_attention_mask = True
        super(AltCLIPTextConfig, alone).save_pretrained(save_directory, push_to_hub, **kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict, **kwargs) -> "AltCLIPTextConfig":
        """Build from the contents of a config.json; what a tower alone says of masks, the class says itself."""
        return super().from_dict(
            {name: value for name, value in config_dict.items() if name != "use_attention_mask"}, **kwargs
        )


class AltCLIPConfig(NativeAltCLIPConfig):
    """Both towers, `projection_dim` (the width of the shared space) and `logit_scale_init_value` (the log of 1 / temperature).

    Saved under transformers' own `model_type`, so that a checkpoint needs no remote code.
    """

    sub_configs_defaults = {"vision_config": AltCLIPVisionConfig, "text_config": AltCLIPTextConfig}

    def __post_init__(self, **kwargs):
        check_towers(
            self.text_config or kwargs.get("text_config_dict"),
            self.vision_config or kwargs.get("vision_config_dict"),
        )
        super().__post_init__(**kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict, **kwargs) -> "AltCLIPConfig":
        """Build from the contents of a config.json, which has to describe both towers."""
        check_towers(
            config_dict.get("text_config") or config_dict.get("text_config_dict") or {},
            config_dict.get("vision_config") or config_dict.get("vision_config_dict") or {},
        )
        return super().from_dict(config_dict, **kwargs)

    @classmethod
    def from_native(cls, config: NativeAltCLIPConfig) -> "AltCLIPConfig":
        """The same configuration, where transformers' own class was given."""
        ours = cls.from_dict(config.to_dict())
        ours._attn_implementation = config._attn_implementation
        return ours

    @classmethod
    def from_teacher(
        cls,
        clip: CLIPConfig | NativeAltCLIPConfig,
        encoder: PreTrainedConfig,
        *,
        dropout: float | None = None,
    ) -> "AltCLIPConfig":
        """What `AltCLIPModel.from_teacher` makes of a teacher's configuration and an encoder's.

        Args:
            dropout: of the text tower; the encoder's own by default.
        """
        taught = (
            clip.text_config.hidden_size if isinstance(clip, CLIPConfig) else clip.text_config.project_dim
        )
        known = AltCLIPTextConfig().to_dict().keys() - {
            "_name_or_path"
        }  # a folder of this machine, and no concern of config.json
        text_config = {key: value for key, value in encoder.to_dict().items() if key in known}
        if dropout is not None:
            text_config |= {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
        return cls(
            text_config=text_config | {"project_dim": taught, "model_type": AltCLIPTextConfig.model_type},
            vision_config=clip.vision_config.to_dict() | {"model_type": "altclip_vision_model"},
            projection_dim=clip.projection_dim,
            logit_scale_init_value=clip.logit_scale_init_value,
        )


def check_towers(text_config, vision_config) -> None:
    """Refuse the description of a model that leaves a tower out; None for both asks for the defaults.

    Raises:
        ValueError: transformers takes XLM-R large, or CLIP's ViT-B/32, for a tower that is not described, and loading the
            weights of another model then fails on shapes (FlagAI issue 506).
    """
    if text_config is None and vision_config is None:
        return
    absent = [
        name for name, given in (("text_config", text_config), ("vision_config", vision_config)) if not given
    ]
    if absent:
        raise ValueError(
            f"{' and '.join(absent)} missing: the defaults of another model would take its place. Describe both towers."
        )


__all__ = ["AltCLIPConfig", "AltCLIPTextConfig"]
