"""AltCLIP's configuration: transformers' own, plus what its text tower needs to be a plain `XLMRobertaModel`."""

from typing import ClassVar

from transformers import AltCLIPConfig as NativeAltCLIPConfig
from transformers import AltCLIPTextConfig as NativeAltCLIPTextConfig
from transformers import AltCLIPVisionConfig


class AltCLIPTextConfig(NativeAltCLIPTextConfig):
    """The text tower: an XLM-R encoder and the head that leads to `project_dim`, the width of the teacher's text tower."""

    # XLMRobertaModel asks for both. As class variables they stay out of config.json, which native transformers reads too.
    is_decoder: ClassVar[bool] = False
    add_cross_attention: ClassVar[bool] = False


class AltCLIPConfig(NativeAltCLIPConfig):
    """Both towers, `projection_dim` (the width of the shared space) and `logit_scale_init_value` (the log of 1 / temperature).

    Saved under transformers' own `model_type`, so that a checkpoint needs no remote code.
    """

    sub_configs_defaults = {"vision_config": AltCLIPVisionConfig, "text_config": AltCLIPTextConfig}


__all__ = ["AltCLIPConfig", "AltCLIPTextConfig"]
