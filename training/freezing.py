"""Freeze parts of a model, and tell which parts learn."""

from collections.abc import Iterable

from torch import nn

from common.errors import InputError
from modeling_altclip import AltCLIPDualEncoderModel

IMAGE_PARTS = ("vision_model", "visual_projection")


def freeze_all_but(model: nn.Module, trainable: Iterable[str], freeze: Iterable[str] | None = None) -> None:
    """Freeze all parameters except those whose name, or whose part's name, is in `trainable`.

    Parameters that embeddings do not depend on stay frozen, see `idle_parameters`.

    Args:
        freeze: names of modules or parameters within the trainable parts that are frozen as well.

    Raises:
        InputError: a name is no part of the model, or of a part without weights that can learn; or `freeze`
            has a name that nothing trained has, or leaves nothing to train.

    Example:

    ```python
    >>> from modeling_altclip import AltCLIPModel
    >>> from training import freeze_all_but

    >>> model = AltCLIPModel.from_pretrained("outputs/miniature/altclip")
    >>> freeze_all_but(model, ["text_projection", "logit_scale"])
    >>> [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    ['logit_scale', 'text_projection.weight']
    ```
    """
    children = [name for name, _ in model.named_children()]
    parameters = [name for name, _ in model.named_parameters()]
    unknown = [name for name in trainable if name not in children + parameters]
    if unknown:
        # Beside the parts there are numbers, such as logit_scale.
        parts = children + [name for name in parameters if "." not in name]
        raise InputError(
            f"trainable names {', '.join(unknown)}, which the model has not; its parts are {', '.join(parts)}"
        )
    # SigLIP's image tower ends in the shared space: its projection is an identity.
    for part in trainable:
        if not any(_is_within(name, part) for name in parameters):
            raise InputError(f"trainable names {part}, which has no weights in this model: leave it out")
    idle = idle_parameters(model)
    for part in trainable:
        if part in idle:
            raise InputError(
                f"trainable names {part}, which no embedding of this model depends on: leave it out"
            )
    for name, parameter in model.named_parameters():
        is_trainable = any(_is_within(name, part) for part in trainable)
        parameter.requires_grad_(is_trainable and name not in idle)
    _freeze(model, list(freeze or []))


def _freeze(model: nn.Module, names: list[str]) -> None:
    """Freeze the parameters of these names, and those in modules of these names.

    Raises:
        InputError: nothing that is trained has such a name, or nothing is left.
    """
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    for frozen in names:
        if not any(_is_within(name, frozen) for name in trained):
            raise InputError(
                f"freeze names {frozen}, and no weights of that name are trained: give modules or parameters "
                f"as they are named in the model, such as {trained[0]}"
            )
    for name, parameter in model.named_parameters():
        if any(_is_within(name, frozen) for frozen in names):
            parameter.requires_grad_(False)
    if names and not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError(f"freeze names {' '.join(names)}, which leaves nothing to train: give fewer")


def idle_parameters(model: nn.Module) -> list[str]:
    """List the parameters that get no gradient, on which DDP stops: those of a dual encoder's towers, if any.

    CLIP, SigLIP and AltCLIP use all of theirs.
    """
    return model.idle_parameters() if isinstance(model, AltCLIPDualEncoderModel) else []


def _is_within(name: str, part: str) -> bool:
    """Return whether a parameter is the one of this name, or in the part of this name.

    "text_model.pre_LN.weight" is in "text_model", and "logit_scale" is a parameter itself.
    """
    return name == part or name.startswith(part + ".")


def learns(model: nn.Module, *parts: str) -> bool:
    """Return whether any parameter below one of the named parts is trained."""
    for part in parts:
        if any(parameter.requires_grad for parameter in model.get_submodule(part).parameters()):
            return True
    return False


def image_side_learns(model: nn.Module) -> bool:
    """Return whether any parameter of the image tower, or of a projection behind it, is trained."""
    children = dict(model.named_children())
    return learns(model, *[part for part in IMAGE_PARTS if part in children])


def eval_frozen_parts(model: nn.Module) -> None:
    """Put parts of which nothing is trained into eval mode.

    The Trainer puts the whole model into training mode at each step.
    """
    for name, part in model.named_children():
        if not learns(model, name):
            part.eval()


__all__ = [
    "IMAGE_PARTS",
    "eval_frozen_parts",
    "freeze_all_but",
    "idle_parameters",
    "image_side_learns",
    "learns",
]
