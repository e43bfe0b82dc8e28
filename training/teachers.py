"""What stage 1 compares: the targets that a teacher gives, and what a student makes of the translations.

An `altclip` student learns what its teacher has before the projection, as in the paper (3.1), and takes over
the projection too. A dual encoder learns the teacher's `get_text_features`, whatever the teacher is made of,
by a head of its own; and so do models of transformers, by the text tower that they have. All read texts as
`modeling_altclip.texts_altclip.text_options` says: SigLIP in 64 padded tokens, a CLIP without padding that it
would see.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import NamedTuple

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from common.errors import InputError
from common.fingerprints import settings
from common.models.kinds import WITHOUT_TEXT_PROJECTION, width_of_embeddings
from modeling_altclip import AltCLIPConfig, AltCLIPDualEncoderConfig, AltCLIPOutput
from modeling_altclip.modeling_altclip import TEACHERS, TEXT_ENCODERS
from modeling_altclip.pooling_altclip import default_image_pooling
from modeling_altclip.text_code_altclip import text_auto_map_of
from modeling_altclip.towers_altclip import build_encoder, set_dropout

from .freezing import IMAGE_PARTS


class Space(NamedTuple):
    """The space in which a student is compared with its teacher.

    Attributes:
        parts: the parts of a student that lead into it: all that stage 1 trains.
        of_teacher: encodes tokens by a teacher to its targets `(texts, dim)`.
        of_student: takes the embeddings `(texts, dim)` out of a student's outputs.
        made_by: returns what a teacher's targets depend on beside its tokenizer, for the cache's fingerprint.
    """

    parts: tuple[str, ...]
    of_teacher: Callable[..., torch.Tensor]
    of_student: Callable[[AltCLIPOutput], torch.Tensor]
    made_by: Callable[[PreTrainedModel], dict[str, nn.Module | str]]


def _pooled(teacher: PreTrainedModel, **inputs) -> torch.Tensor:
    return teacher.text_model(**inputs).pooler_output


def _pooled_of(outputs: AltCLIPOutput) -> torch.Tensor:
    return outputs.text_model_output.pooler_output


def _pooled_by(teacher: PreTrainedModel) -> dict[str, nn.Module | str]:
    return {"weights": teacher.text_model, "configuration": settings(teacher.text_model)}


def _projected(teacher: PreTrainedModel, **inputs) -> torch.Tensor:
    return teacher.get_text_features(**inputs).pooler_output


def _projected_of(outputs: AltCLIPOutput) -> torch.Tensor:
    return outputs.text_features


def _projected_by(teacher: PreTrainedModel) -> dict[str, nn.Module | str]:
    """Return all parts of a teacher but those of images, and its whole configuration.

    Of another library's model everything else that counts is stated by its tokenizer.
    """
    parts = {}
    for name, part in teacher.named_children():
        if name not in IMAGE_PARTS:
            parts[name] = part
    return {"weights": nn.ModuleDict(parts), "configuration": settings(teacher)}


BEFORE_PROJECTION = Space(("text_model",), _pooled, _pooled_of, _pooled_by)
SHARED = Space(("text_model", "text_projection"), _projected, _projected_of, _projected_by)
# SigLIP's text tower ends there.
_SHARED_BY_TOWER = SHARED._replace(parts=("text_model",))


def space_of(student: PreTrainedConfig) -> Space:
    """Return the space that a student of this configuration learns in."""
    if isinstance(student, AltCLIPConfig):
        return BEFORE_PROJECTION
    return _SHARED_BY_TOWER if student.model_type in WITHOUT_TEXT_PROJECTION else SHARED


def width_of_targets(student: PreTrainedConfig) -> int:
    """Return the number of values of a target."""
    if isinstance(student, AltCLIPConfig):
        return student.text_config.project_dim
    return width_of_embeddings(student)


def join(  # noqa: PLR0913  (two models and the options of the recipe, which callers give by name)
    teacher: PreTrainedConfig,
    encoder: PreTrainedConfig,
    *,
    text_pooling: str | None = None,
    text_head: str | None = None,
    text_head_norm: bool = False,
    stated_pooling: str | None = None,
    dropout: float | None = None,
    has_text_teacher: bool = False,
) -> PreTrainedConfig:
    """Return the configuration of the student that a teacher and a text encoder make.

    A CLIP and an XLM-R make an `altclip`, which plain transformers loads, unless a pooling or a head is asked
    for, of which it has its own, or the XLM-R is of its folder's code; all others make a dual encoder.

    Args:
        text_pooling, text_head, text_head_norm, dropout: as in `TeacherLearningArguments`.
        stated_pooling: the pooling that the encoder's files state.
        has_text_teacher: another model teaches texts, and `teacher` gives its image side alone. Targets are
            then embeddings in the shared space, which a dual encoder learns.

    Raises:
        InputError: the teacher has no image tower that can be taken over, or the encoder no dropout.
    """
    is_pair = teacher.model_type in TEACHERS and encoder.model_type in TEXT_ENCODERS
    brings_code = text_auto_map_of(encoder) is not None
    has_own_head = text_pooling is None and text_head is None and not text_head_norm
    if is_pair and has_own_head and not has_text_teacher and not brings_code:
        return AltCLIPConfig.from_teacher(teacher, encoder, dropout=dropout)

    argument = "image_model_name_or_path" if has_text_teacher else "teacher_name_or_path"
    with _joinable(argument):
        return AltCLIPDualEncoderConfig.from_teacher(
            teacher,
            _with_dropout(encoder, dropout),
            # Without weights the kind of the encoder is not known; none of these adds any.
            text_pooling=text_pooling or stated_pooling or "mean",
            text_head=text_head or "linear",
            text_head_norm=text_head_norm,
        )


def join_image_encoder(  # noqa: PLR0913  (as `join`)
    image_encoder: PreTrainedConfig,
    encoder: PreTrainedConfig,
    projection_dim: int,
    *,
    text_pooling: str | None = None,
    text_head: str | None = None,
    text_head_norm: bool = False,
    stated_pooling: str | None = None,
    dropout: float | None = None,
) -> PreTrainedConfig:
    """Return the configuration of the student that an image encoder alone and a text encoder make.

    Args:
        projection_dim: width of the teacher's embeddings of texts, to which a new layer projects images.
        text_pooling, text_head, text_head_norm, stated_pooling, dropout: as for `join`.

    Raises:
        InputError: an encoder is no tower of patches or tokens, or the text encoder has no dropout.
    """
    with _joinable("image_model_name_or_path"):
        # Shapes alone, which tell whether it has a class token.
        with torch.device("meta"):
            vision_pooling = default_image_pooling(build_encoder(image_encoder))
        return AltCLIPDualEncoderConfig(
            text_config=_with_dropout(encoder, dropout),
            vision_config=image_encoder,
            text_pooling=text_pooling or stated_pooling or "mean",
            vision_pooling=vision_pooling,
            projection_dim=projection_dim,
            text_head=text_head or "linear",
            text_head_norm=text_head_norm,
        )


def _with_dropout(encoder: PreTrainedConfig, dropout: float | None) -> PreTrainedConfig:
    """Return a copy of an encoder's configuration with another dropout, if one is given."""
    encoder = deepcopy(encoder)
    if dropout is not None:
        set_dropout(encoder, dropout)
    return encoder


@contextmanager
def _joinable(argument: str) -> Iterator[None]:
    """Turn errors of joining two models into an `InputError` that names their arguments."""
    try:
        yield
    except ValueError as error:
        raise InputError(f"{argument} and text_encoder_name_or_path make no student: {error}") from error


__all__ = [
    "BEFORE_PROJECTION",
    "SHARED",
    "Space",
    "join",
    "join_image_encoder",
    "space_of",
    "width_of_targets",
]
