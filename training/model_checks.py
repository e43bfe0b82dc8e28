"""Check the models that a stage starts from.

All of them are checked by their configurations, before the first one is loaded.
"""

from common.models.kinds import (
    ALTCLIP,
    IMAGE_ENCODER,
    MASKED,
    OURS,
    TEACHER,
    TEXT_ENCODER,
    TEXT_TOWER,
    TRAINABLE,
    TWO_TOWERS,
    check_kind,
    check_vocabulary,
    load_tokenizer,
)

from .arguments import (
    ContrastiveArguments,
    DiffusionArguments,
    StageArguments,
    TeacherArguments,
    TeacherLearningArguments,
)
from .parallel.pretraining import TextPretrainingArguments
from .parallel.trainer import ParallelArguments

# By stage and argument, the kind of model that is needed; an argument may be None.
_KINDS = {
    TeacherArguments: {"model_name_or_path": TRAINABLE},
    TeacherLearningArguments: {
        "teacher_name_or_path": TEACHER,
        "text_encoder_name_or_path": TEXT_TOWER,
        "model_name_or_path": OURS,
    },
    ContrastiveArguments: {"model_name_or_path": OURS, "teacher_name_or_path": TWO_TOWERS},
    ParallelArguments: {
        "image_encoder_name_or_path": IMAGE_ENCODER,
        "text_encoder_name_or_path": TEXT_ENCODER,
    },
    DiffusionArguments: {"model_name_or_path": ALTCLIP},
    TextPretrainingArguments: {"text_encoder_name_or_path": MASKED},
}


def check_models(arguments: StageArguments) -> None:
    """Check that every model that the arguments name exists and is of the kind that its argument needs.

    Raises:
        InputError: one is not; the message names the argument, the kind found and the kind needed.
    """
    for argument, kind in _KINDS[type(arguments)].items():
        name_or_path = getattr(arguments, argument)
        if name_or_path is not None:
            check_kind(argument, name_or_path, kind, trust_remote_code=arguments.trust_remote_code)


def check_tokenizers(arguments: StageArguments) -> None:
    """Check that every model that the arguments name has an embedding for each token of its tokenizer.

    Call `check_models` first.

    Raises:
        InputError: one has fewer embeddings, which the message counts, or has no tokenizer.
    """
    for argument, kind in _KINDS[type(arguments)].items():
        name_or_path = getattr(arguments, argument)
        # An image encoder reads no texts, and has no tokenizer.
        if name_or_path is not None and kind != IMAGE_ENCODER:
            config = check_kind(argument, name_or_path, kind, trust_remote_code=arguments.trust_remote_code)
            check_vocabulary(argument, name_or_path, config, load_tokenizer(argument, name_or_path))


__all__ = ["check_models", "check_tokenizers"]
