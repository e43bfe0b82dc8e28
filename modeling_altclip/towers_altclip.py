"""Build and load the encoders that a dual encoder has as towers, and read what a teacher gives a student."""

from copy import deepcopy

import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForTextEncoding,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING

from .checkpoint_altclip import load_whole
from .configuration_altclip_dual_encoder import AltCLIPDualEncoderConfig, check_teacher
from .text_code_altclip import check_allowed, find_code, load_classes

# Classes of towers that transformers 5.23 has, and that `AutoModel` does not know, by model type. They are
# imported when a model has one.
_UNLISTED = {"metaclip_2_vision_model": "MetaClip2VisionModel"}


def load_text_config(name_or_path: str, *, trust_remote_code: bool = False) -> PreTrainedConfig:
    """Load the configuration of a text encoder, or of the model with a decoder that it is taken out of.

    Args:
        trust_remote_code: run the code that the encoder brings, if it brings any. Without it an encoder of a
            type that transformers knows is loaded as that.

    Raises:
        ValueError: the encoder is of no type of transformers, and its code is not allowed to run; or the code
            is not in its folder, see `text_code_altclip.load_classes`.
    """
    values, _ = PreTrainedConfig.get_config_dict(name_or_path)
    code = find_code(values)
    if code is None or (not trust_remote_code and values.get("model_type") in CONFIG_MAPPING):
        config = AutoConfig.from_pretrained(name_or_path, trust_remote_code=False)
    else:
        check_allowed(code, trust_remote_code)
        config_class, _ = load_classes(code, name_or_path)
        config = config_class.from_pretrained(name_or_path)
        del config.auto_map  # which says where the code was, and not where it will be
    config.name_or_path = ""  # it may be a folder of this machine, which has no place in config.json
    # Of T5 and its relatives encoders are published alone as well; their files deny the decoder.
    config.is_encoder_decoder = type(config)().is_encoder_decoder
    return config


def build_encoder(config: PreTrainedConfig) -> PreTrainedModel:
    """Build an untrained encoder; of a model with a decoder (T5, NLLB) the encoder alone.

    Raises:
        ValueError: it brings code of its own that has not run.
    """
    if type(config) is PreTrainedConfig:
        raise ValueError(
            f"the text encoder, a {config.model_type!r}, brings code of its own, which has not run: read the "
            "code in the model's folder, and load the model by from_pretrained with trust_remote_code=True"
        )
    if config.model_type in _UNLISTED:
        return getattr(transformers, _UNLISTED[config.model_type])._from_config(config)
    if not config.is_encoder_decoder:
        return AutoModel.from_config(config, trust_remote_code=False)
    # Without memory, and only to learn the class and the configuration of its encoder.
    with torch.device("meta"):
        encoder = AutoModel.from_config(config, trust_remote_code=False).get_encoder()
    return type(encoder)._from_config(encoder.config)


def load_encoder(name_or_path: str, config: PreTrainedConfig, pooling: str | None) -> PreTrainedModel:
    """Load a tower, which may lack its pooler unless the pooling is `pooler`.

    A pooling that is still None never becomes the pooler of a checkpoint that lacks it.

    Raises:
        ValueError: other weights are missing.
    """
    unread = () if pooling == "pooler" else ("pooler.",)
    # T5 and its relatives are also published as encoders alone, which these classes load.
    model_class = AutoModel
    if config.is_encoder_decoder and type(config) in MODEL_FOR_TEXT_ENCODING_MAPPING:
        model_class = AutoModelForTextEncoding
    model = load_whole(
        model_class, name_or_path, unread=unread, config=deepcopy(config), trust_remote_code=False
    )
    return model.get_encoder() if config.is_encoder_decoder else model


def set_dropout(config: PreTrainedConfig, dropout: float) -> None:
    """Set every dropout of an encoder, whatever its family calls them, apart from those of other heads.

    Whole layers are never dropped, as NLLB's are by default: in a step without it a layer would get no
    gradient, on which DDP stops.

    Raises:
        ValueError: `dropout` is above 0, and the encoder has none.
    """
    has_dropout = False
    for name, value in config.to_dict().items():
        is_dropout = "dropout" in name or name.endswith("pdrop")
        is_of_encoder = not name.startswith(("classifier", "summary"))
        if is_dropout and is_of_encoder and isinstance(value, float | int):
            setattr(config, name, dropout)
            has_dropout = True
        if name.endswith("layerdrop"):
            setattr(config, name, 0.0)
    if dropout > 0 and not has_dropout:
        raise ValueError(f"dropout is {dropout}, but a {config.model_type!r} has none: set it to 0")


def load_teacher(name_or_path: str, *, trust_remote_code: bool = False) -> PreTrainedModel:
    """Load a model whose image tower, and what follows it, a student takes over.

    Args:
        trust_remote_code: run the code that the text encoder of a dual encoder brings, if it brings any.

    Raises:
        ValueError: it is of a type that nothing can be taken over from, or not whole.
    """
    config = AutoConfig.from_pretrained(name_or_path, trust_remote_code=False)
    check_teacher(config)
    is_ours = isinstance(config, AltCLIPDualEncoderConfig)
    # TIPSv2's files may lack its temperature; its configuration has it.
    return load_whole(
        AutoModel,
        name_or_path,
        unread=("temperature",),
        trust_remote_code=trust_remote_code and is_ours,
    )


def image_encoder_of(teacher: PreTrainedModel) -> PreTrainedModel:
    """Return a teacher's image tower; that of a dual encoder without the pooling around it."""
    tower = teacher.get_submodule("vision_model")
    return tower.encoder if isinstance(teacher.config, AltCLIPDualEncoderConfig) else tower


def numbers_of(teacher: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Return the numbers `()` that make a logit of a cosine: `logit_scale`, and SigLIP's `logit_bias`.

    TIPSv2 divides by a temperature instead.
    """
    numbers = {}
    for name, number in teacher.named_parameters(recurse=False):
        number = number.detach().reshape(())
        if name == "temperature":
            name, number = "logit_scale", -number.log()
        numbers[name] = number
    return numbers


__all__ = [
    "build_encoder",
    "image_encoder_of",
    "load_encoder",
    "load_teacher",
    "load_text_config",
    "numbers_of",
    "set_dropout",
]
