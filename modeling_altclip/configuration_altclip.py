"""AltCLIP's configuration: transformers' own, and what a plain `XLMRobertaModel` as text tower needs."""

from .versions_altclip import TRANSFORMERS  # noqa: F401, I001  (before names that older versions lack)

from copy import deepcopy
from typing import ClassVar

from transformers import AltCLIPConfig as NativeAltCLIPConfig
from transformers import AltCLIPTextConfig as NativeAltCLIPTextConfig
from transformers import AltCLIPVisionConfig, CLIPConfig, PreTrainedConfig


class AltCLIPTextConfig(NativeAltCLIPTextConfig):
    """Configuration of the text tower: XLM-R and a head to `project_dim`, the teacher's width.

    Args:
        project_dim: the teacher's width.
        normalize_tokens: whether the states of single tokens, `last_hidden_state`, pass `pre_LN`, as in
            transformers. The released AltDiffusion models were trained without it (FlagAI's
            `modeling_berts.py`). The pooled token always passes it.

    Example:

    ```python
    >>> from modeling_altclip import AltCLIPTextConfig, AltCLIPTextModel

    >>> config = AltCLIPTextConfig(vocab_size=1000, hidden_size=64, num_hidden_layers=2, project_dim=32)
    >>> AltCLIPTextModel(config).transformation
    Linear(in_features=64, out_features=32, bias=True)
    ```
    """

    normalize_tokens: bool = True

    # XLMRobertaModel reads the first two, and diffusers' pipelines the third: they then mask the padding of a
    # prompt. As class variables they stay out of config.json, which native transformers reads too.
    is_decoder: ClassVar[bool] = False
    add_cross_attention: ClassVar[bool] = False
    use_attention_mask: ClassVar[bool] = True

    def save_pretrained(self, save_directory, push_to_hub: bool = False, **kwargs) -> None:
        """Save the configuration of a tower alone.

        The tower may be a pipeline's, where transformers' own class finds `use_attention_mask` only in the
        file.
        """
        alone = deepcopy(self)
        alone.use_attention_mask = True
        super(AltCLIPTextConfig, alone).save_pretrained(save_directory, push_to_hub, **kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict, **kwargs) -> "AltCLIPTextConfig":
        """Build from the contents of a config.json, but for `use_attention_mask`, which the class states."""
        stated = {name: value for name, value in config_dict.items() if name != "use_attention_mask"}
        return super().from_dict(stated, **kwargs)


class AltCLIPConfig(NativeAltCLIPConfig):
    """Configuration of both towers, and of the space that they share (Chen et al. 2023, section 3.1).

    It is saved under transformers' own `model_type`, so that a checkpoint needs no remote code.

    Args:
        text_config, vision_config: configurations of the towers, or dicts of their values.
        projection_dim: the width of the shared space.
        logit_scale_init_value: the log of 1 / temperature.
        matryoshka_dims: the numbers of dimensions that embeddings were trained to be truncated to; a model
            without such a training has no entry.

    Raises:
        ValueError: one tower is described and the other is left out.

    Example:

    ```python
    >>> from modeling_altclip import AltCLIPConfig, AltCLIPModel

    >>> # A model of the size of the miniature, with random weights
    >>> config = AltCLIPConfig.from_pretrained("outputs/miniature/altclip")
    >>> model = AltCLIPModel(config)
    >>> model.config.projection_dim
    128
    ```
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
        """Return the same configuration as an instance of this class."""
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
        """Join the configurations of a teacher and an encoder, for `AltCLIPModel.from_teacher`.

        Args:
            dropout: the text tower's dropout; by default the encoder's own.
        """
        if isinstance(clip, CLIPConfig):
            teacher_width = clip.text_config.hidden_size
        else:
            teacher_width = clip.text_config.project_dim

        # The name is a folder of this machine, which has no place in config.json.
        known = AltCLIPTextConfig().to_dict().keys() - {"_name_or_path"}
        text_config = {key: value for key, value in encoder.to_dict().items() if key in known}
        text_config |= {"project_dim": teacher_width, "model_type": AltCLIPTextConfig.model_type}
        if dropout is not None:
            text_config |= {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
        config = cls(
            text_config=text_config,
            vision_config=clip.vision_config.to_dict() | {"model_type": "altclip_vision_model"},
            projection_dim=clip.projection_dim,
            logit_scale_init_value=clip.logit_scale_init_value,
        )
        take_over_dims(config, clip)
        return config


def take_over_dims(config: PreTrainedConfig, teacher: PreTrainedConfig) -> None:
    """Record a teacher's `matryoshka_dims`, if it has any, in the configuration of its student.

    A text tower that learns the teacher's embeddings learns their first dimensions, too.
    """
    dims = teacher.to_dict().get("matryoshka_dims")
    if dims is not None:
        config.matryoshka_dims = dims


def check_towers(text_config, vision_config) -> None:
    """Refuse a configuration that leaves out one tower. None for both stands for the defaults.

    transformers takes XLM-R large, or CLIP's ViT-B/32, for a tower that is left out, and loading the weights
    of another model then fails on shapes (FlagAI issue 506).

    Raises:
        ValueError: a tower is left out.
    """
    if text_config is None and vision_config is None:
        return

    absent = []
    if not text_config:
        absent.append("text_config")
    if not vision_config:
        absent.append("vision_config")
    if absent:
        raise ValueError(
            f"{' and '.join(absent)} missing: the defaults of another model would take its place. "
            "Describe both towers."
        )


__all__ = ["AltCLIPConfig", "AltCLIPTextConfig"]
