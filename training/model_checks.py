"""Check the models that a stage starts from.

All of them are checked by their configurations, before the first one is loaded.
"""

from transformers import AutoConfig

from common.errors import InputError
from common.models.kinds import (
    ALTCLIP,
    DUAL_ENCODER,
    FINISHED,
    IMAGE_ENCODER,
    IMAGE_SIDE,
    MASKED,
    TEACHER,
    TEXT_ENCODER,
    TEXT_TOWER,
    TRAINABLE,
    TWO_TOWERS,
    Kind,
    check_kind,
    check_vocabulary,
    load_tokenizer,
    readable,
)
from common.models.libraries import source_of
from modeling_altclip import AltCLIPDualEncoderConfig
from modeling_altclip.text_code_altclip import lacks_text_code

from .adapter_output import check_base
from .arguments import (
    AlignmentArguments,
    ContrastiveArguments,
    DiffusionArguments,
    StageArguments,
    TeacherArguments,
    TeacherLearningArguments,
)
from .own_text_tower import check_own_tower
from .parallel.pretraining import TextPretrainingArguments
from .parallel.trainer import ParallelArguments

# By stage and argument, the kind of model that is needed; an argument may be None.
_KINDS = {
    TeacherArguments: {"model_name_or_path": TRAINABLE},
    # A finished model is its own teacher where no other is given: by its own argument it is refused.
    TeacherLearningArguments: {
        "model_name_or_path": FINISHED,
        "teacher_name_or_path": TEACHER,
        "text_encoder_name_or_path": TEXT_TOWER,
    },
    ContrastiveArguments: {"model_name_or_path": FINISHED, "teacher_name_or_path": TWO_TOWERS},
    ParallelArguments: {
        "image_encoder_name_or_path": IMAGE_ENCODER,
        "text_encoder_name_or_path": TEXT_ENCODER,
    },
    DiffusionArguments: {"model_name_or_path": ALTCLIP},
    TextPretrainingArguments: {"text_encoder_name_or_path": MASKED},
}
# Of stage 1, where the teacher is a model of another library, which that library checks when it loads it.
# Its targets are embeddings, as dual encoders learn them; an AltCLIP learns what comes before the projection.
_WITH_TEXT_TEACHER = {
    "image_model_name_or_path": IMAGE_SIDE,
    "text_encoder_name_or_path": TEXT_TOWER,
    "model_name_or_path": DUAL_ENCODER,
}


# Of an alignment of images: encoders alone, or an image tower that is taken out of a CLIP.
_TO_ALIGN = {"image_model_name_or_path": IMAGE_ENCODER, "teacher_name_or_path": TEXT_TOWER}


def _kinds_of(arguments: StageArguments) -> dict[str, Kind]:
    """Return the kind of model that each argument needs."""
    if isinstance(arguments, AlignmentArguments):
        if arguments.aligns_images:
            return _TO_ALIGN
        if not arguments.has_text_teacher:
            return _KINDS[TeacherLearningArguments]
    if isinstance(arguments, TeacherLearningArguments) and arguments.has_text_teacher:
        return _WITH_TEXT_TEACHER
    return _KINDS[type(arguments)]


def check_models(arguments: StageArguments) -> None:
    """Check that every model that the arguments name exists and is of the kind that its argument needs.

    Raises:
        InputError: one is not; the message names the argument, the kind found and the kind needed. Or the
            training would change what an adapter leaves as it is, or the model does not go with the other
            arguments, see `check_own_tower`.
    """
    for argument, kind in _kinds_of(arguments).items():
        name_or_path = getattr(arguments, argument)
        if name_or_path is not None:
            if kind == IMAGE_SIDE:
                _check_without_code(argument, name_or_path)
            name_or_path = source_of(name_or_path)
            check_kind(argument, name_or_path, kind, trust_remote_code=arguments.trust_remote_code)
    if arguments.saves_adapter:
        config = AutoConfig.from_pretrained(arguments.model_name_or_path, trust_remote_code=False)
        check_base(arguments, config)
    if isinstance(arguments, TeacherLearningArguments | ContrastiveArguments):
        check_own_tower(arguments)


def _check_without_code(argument: str, name_or_path: str) -> None:
    """Refuse a dual encoder whose text encoder brings code, which an image tower does not need.

    Raises:
        InputError: it is such a model, or cannot be read.
    """
    with readable(argument, name_or_path):
        config = AutoConfig.from_pretrained(name_or_path, trust_remote_code=False)
    if isinstance(config, AltCLIPDualEncoderConfig) and lacks_text_code(config):
        raise InputError(
            f"{argument} {name_or_path!r} has a text encoder that brings code of its own, which does not run "
            "for an image tower: give the model that its image tower was taken from"
        )


def check_tokenizers(arguments: StageArguments) -> None:
    """Check that every model that the arguments name has an embedding for each token of its tokenizer.

    Call `check_models` first.

    Raises:
        InputError: one has fewer embeddings, which the message counts, or has no tokenizer.
    """
    for argument, kind in _kinds_of(arguments).items():
        name_or_path = getattr(arguments, argument)
        # An image encoder reads no texts, and has no tokenizer.
        if name_or_path is not None and kind not in (IMAGE_ENCODER, IMAGE_SIDE):
            name_or_path = source_of(name_or_path)
            config = check_kind(argument, name_or_path, kind, trust_remote_code=arguments.trust_remote_code)
            check_vocabulary(argument, name_or_path, config, load_tokenizer(argument, name_or_path))


__all__ = ["check_models", "check_tokenizers"]
