"""What of a model learns, and what is frozen."""

from torch import nn

IMAGE_PARTS = ("vision_model", "visual_projection")


def freeze_all_but(model: nn.Module, trainable: list[str]) -> None:
    """Let only the parameters learn that lie below one of the names in `trainable`.

    Raises:
        ValueError: a name is no part of the model.
    """
    parts = list(dict(model.named_children())) + [name for name, _ in model.named_parameters()]
    unknown = [name for name in trainable if name not in parts]
    if unknown:
        raise ValueError(
            f"trainable names {', '.join(unknown)}, which the model has not; its parts are {', '.join(dict(model.named_children()))}"
        )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(name == part or name.startswith(part + ".") for part in trainable))


def learns(model: nn.Module, *parts: str) -> bool:
    """Whether any parameter below one of the named parts is trained."""
    return any(
        parameter.requires_grad for part in parts for parameter in model.get_submodule(part).parameters()
    )


def eval_frozen_parts(model: nn.Module) -> None:
    """Put parts of which nothing is trained into eval mode: the Trainer puts the whole model into training mode at each step."""
    for name, part in model.named_children():
        if not learns(model, name):
            part.eval()


__all__ = ["IMAGE_PARTS", "eval_frozen_parts", "freeze_all_but", "learns"]
