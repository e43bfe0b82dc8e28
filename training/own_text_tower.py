"""Models of transformers that go on learning with the text tower that they have, such as a SigLIP 2.

What comes out is of the type that went in, with its own tokenizer, so that plain transformers loads it. Two
things are done for them that our own models do themselves: their texts go through `forward` without images,
and their processor is saved as it was, without the steps by which `load_model` canonicalizes texts.
"""

from types import MethodType

import torch
from torch import nn
from torch.nn.functional import normalize
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel, ProcessorMixin
from transformers.utils import ModelOutput

from common.errors import InputError
from common.models.kinds import WITH_OWN_TOWER, WITHOUT_TEXT_PROJECTION
from common.models.loading import load_processor
from modeling_altclip import AltCLIPOutput
from modeling_altclip.modeling_altclip_dual_encoder import rename_tower_weights

from .arguments import ContrastiveArguments, TeacherLearningArguments


def has_own_tower(config: PreTrainedConfig) -> bool:
    """Return whether this is a model of transformers, which keeps its text tower, and none of our types."""
    return WITH_OWN_TOWER.fits(config)


def let_encode_texts_alone(model: nn.Module) -> None:
    """Let `forward` of a model of transformers embed texts without images, and let it load its checkpoints.

    Our own models do both by themselves, and stay as they are. It has to be `forward`: gradients are averaged
    over processes, and shards gathered, only behind it. With `pixel_values` it is what it was.
    """
    if isinstance(model, PreTrainedModel) and has_own_tower(model.config):
        model.forward = MethodType(_forward, model)
        # The files of a VisionTextDualEncoder have other names for its weights than the model.
        model.register_load_state_dict_pre_hook(rename_tower_weights)


def _forward(  # noqa: PLR0913  (the inputs of our own models' forward)
    self: PreTrainedModel,
    input_ids: torch.Tensor | None = None,
    pixel_values: torch.Tensor | None = None,
    *,
    text_pooler_output: torch.Tensor | None = None,
    image_pooler_output: torch.Tensor | None = None,
    **others,
) -> ModelOutput:
    """Embed texts `(texts, tokens)`, or project the pooled outputs of one of the towers `(rows, width)`."""
    if pixel_values is not None:
        return type(self).forward(self, input_ids=input_ids, pixel_values=pixel_values, **others)
    if image_pooler_output is not None:
        features = _project(self, "visual_projection", image_pooler_output)
        return AltCLIPOutput(image_embeds=normalize(features, dim=-1))
    if text_pooler_output is not None:
        features = _project(self, "text_projection", text_pooler_output)
    else:
        features = self.get_text_features(input_ids=input_ids, **others).pooler_output
    return AltCLIPOutput(text_features=features, text_embeds=normalize(features, dim=-1))


def _project(model: PreTrainedModel, name: str, pooled: torch.Tensor) -> torch.Tensor:
    if model.config.model_type in WITHOUT_TEXT_PROJECTION:
        return pooled
    return model.get_submodule(name)(pooled)


def processor_to_save(name_or_path: str, model: PreTrainedModel, processor: ProcessorMixin) -> ProcessorMixin:
    """Return the processor that is saved beside a model: one of transformers' models as it was.

    It is loaded once more, since `processor` canonicalizes texts, and each call leaves its padding in a
    tokenizer.
    """
    if not has_own_tower(model.config):
        return processor
    return load_processor(name_or_path, argument="model_name_or_path")


def fit_trainable(arguments: ContrastiveArguments, model: nn.Module) -> None:
    """Leave `text_projection` out of the parts that are trained by default where the model has none."""
    has_projection = "text_projection" in dict(model.named_children())
    if arguments.trains_default_parts and not has_projection:
        arguments.trainable = [name for name in arguments.trainable if name != "text_projection"]


def check_own_tower(arguments: TeacherLearningArguments | ContrastiveArguments) -> None:
    """Check what an own text tower does not go with, before anything is loaded.

    Raises:
        InputError: texts of a SigLIP, which are all of one length, are to be grouped by length or truncated
            further; or the outputs of a tower that has none of its own are to be cached.
    """
    if arguments.model_name_or_path is None:
        return
    config = AutoConfig.from_pretrained(arguments.model_name_or_path, trust_remote_code=False)
    if config.model_type in WITHOUT_TEXT_PROJECTION:
        _check_padding(arguments, config)
    caches_towers = isinstance(arguments, ContrastiveArguments) and arguments.cache_towers
    if config.model_type == "chinese_clip" and caches_towers:
        raise InputError(
            "cache_towers is true, and the text tower of a 'chinese_clip' has no pooled output: "
            "add --cache_towers false"
        )


def _check_padding(
    arguments: TeacherLearningArguments | ContrastiveArguments, config: PreTrainedConfig
) -> None:
    """Check that nothing asks for other texts than those padded to all of a SigLIP's positions."""
    n_tokens = config.get_text_config().max_position_embeddings
    reads = f"a {config.model_type!r} reads every text padded to {n_tokens} tokens"
    if arguments.length_groups not in (None, 1):
        raise InputError(f"length_groups is {arguments.length_groups}, and {reads}: leave it out")
    if arguments.train_sampling_strategy == "group_by_length":
        raise InputError(f"train_sampling_strategy is group_by_length, and {reads}: leave it out")
    if arguments.max_text_length < n_tokens:
        raise InputError(f"max_text_length is {arguments.max_text_length}, and {reads}: leave it out")


__all__ = [
    "check_own_tower",
    "fit_trainable",
    "has_own_tower",
    "let_encode_texts_alone",
    "processor_to_save",
]
