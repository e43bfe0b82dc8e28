"""Teachers of texts alone: models of other libraries, beside which another model gives the image side.

Their targets are what the library itself returns for a text (`encode` of sentence-transformers, `encode_text`
of open_clip), with its own prompt, truncation and pooling, and of the length that it gives them: of a model
that ends with a normalization they have unit length, and otherwise the length that the projection gives them,
as the targets of other teachers.
"""

from functools import cache
from typing import NamedTuple

import torch
from transformers import AutoConfig, AutoImageProcessor, AutoModel, PreTrainedModel, ProcessorMixin

from common.errors import InputError
from common.models.adapter import AdaptedModel, AdaptedProcessor, AdaptedTokenizer, TwoModels
from common.models.kinds import TEACHER, readable
from common.models.libraries import source_of
from common.models.loading import load_model, load_texts
from modeling_altclip.embedding import encode_texts

from .arguments import TeacherLearningArguments


class Teacher(NamedTuple):
    """A loaded teacher of stage 1.

    - `model`: gives the targets.
    - `processor`: its tokenizer, and the image processor of the model whose image tower the student has.
    """

    model: PreTrainedModel | AdaptedModel
    processor: ProcessorMixin | AdaptedProcessor


def load_teacher(arguments: TeacherLearningArguments) -> Teacher:
    """Load the teacher, and the image processor of the model whose image tower the student has.

    Raises:
        InputError: one cannot be loaded.
    """
    if not arguments.has_text_teacher:
        model, processor = load_model(
            arguments.teacher_name_or_path,
            argument="teacher_name_or_path",
            trust_remote_code=arguments.trust_remote_code,
        )
        return Teacher(model, processor)
    model, tokenizer = load_texts(arguments.teacher_name_or_path, argument="teacher_name_or_path")
    image_model = getattr(arguments, arguments.image_side)
    with readable(arguments.image_side, image_model):
        image_processor = AutoImageProcessor.from_pretrained(image_model, trust_remote_code=False)
    return Teacher(model, AdaptedProcessor(tokenizer, image_processor))


def reference_of(arguments: TeacherLearningArguments, teacher: Teacher) -> Teacher:
    """Return the model whose English recall validation compares the student with.

    It is the teacher. One of texts alone gets the images of the model whose image tower the student has, if
    there is a validation.

    Raises:
        InputError: the projection of images is untrained, so that no recall means anything.
    """
    if not arguments.has_text_teacher or arguments.validation_split is None:
        return teacher
    image_model = getattr(arguments, arguments.image_side)
    if has_new_image_projection(arguments):
        raise InputError(
            f"validation_split is {arguments.validation_split!r}, and {arguments.image_side} {image_model!r} "
            "is an image encoder alone, whose projection stage 1 leaves untrained: leave out "
            "validation_split and eval_strategy, and validate stage 2"
        )
    images, _ = load_model(
        image_model, argument=arguments.image_side, trust_remote_code=arguments.trust_remote_code
    )
    return Teacher(TwoModels(teacher.model, images), teacher.processor)


def has_new_image_projection(arguments: TeacherLearningArguments) -> bool:
    """Return whether the student projects images by a new layer, which stage 1 does not train."""
    image_model = arguments.image_model_name_or_path
    if image_model is None:
        return False
    with readable("image_model_name_or_path", image_model):
        return not TEACHER.fits(AutoConfig.from_pretrained(image_model, trust_remote_code=False))


def describe_image_side(arguments: TeacherLearningArguments) -> str:
    """Say where the image side of a new student comes from, and what is left to stage 2."""
    image_model = getattr(arguments, arguments.image_side)
    if has_new_image_projection(arguments):
        return (
            f"{image_model} is an image encoder alone, so that its projection is new and UNTRAINED: stage 2 "
            "has to learn it, by --trainable visual_projection logit_scale, which runs both towers once"
        )
    return f"tower, projection and scale of {image_model}, whose embeddings share the space of the targets"


def parameters_of_text_teacher(name_or_path: str) -> int | None:
    """Return the number of parameters of a sentence encoder's transformer, by its configuration.

    Returns:
        None for models of open_clip, and sentence encoders without a transformer, which state no such
        configuration.
    """
    try:
        config = AutoConfig.from_pretrained(source_of(name_or_path), trust_remote_code=False)
        with torch.device("meta"):
            model = AutoModel.from_config(config, trust_remote_code=False)
    except (OSError, ValueError):
        return None
    return sum(parameter.numel() for parameter in model.parameters())


@cache
def width_of_text_teacher(name_or_path: str) -> int:
    """Load a teacher of texts alone, and return the width of its embeddings, which its library knows then.

    Raises:
        InputError: it cannot be loaded.
    """
    return width_of(*load_texts(name_or_path, argument="teacher_name_or_path"))


def width_of(model: AdaptedModel, tokenizer: AdaptedTokenizer) -> int:
    """Return the width of a model's embeddings of texts, by that of one text."""

    def forward(**inputs) -> torch.Tensor:
        return model.get_text_features(**inputs).pooler_output

    return encode_texts(model, tokenizer, ["a"], forward).shape[1]


__all__ = [
    "Teacher",
    "describe_image_side",
    "has_new_image_projection",
    "load_teacher",
    "parameters_of_text_teacher",
    "reference_of",
    "width_of",
    "width_of_text_teacher",
]
