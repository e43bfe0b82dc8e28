"""LoRA: the text tower learns low-rank updates of its linear layers, merged when the model is saved.

`adapter_output` saves them as an adapter instead.

An update is the product of two matrices, B of `(out, rank)` and A of `(rank, in)`, times `alpha / rank`; the
tower's own weights are frozen (Hu et al. 2021, arXiv 2106.09685). B begins at zero, so that the first step
sees the model as it was. The layers are peft's.
"""

from typing import TYPE_CHECKING

from torch import nn

from common.errors import InputError
from common.extras import of_extra

from .arguments import LowRankArguments
from .freezing import idle_parameters

if TYPE_CHECKING:  # an extra, which is imported only where it is needed
    from peft.tuners.lora import LoraModel

# Parts of an AltCLIP's text tower behind its encoder. They are small, and learn in full, as a dual encoder's
# `text_projection` does.
_HEAD = ("pre_LN", "transformation")


def add_low_rank(arguments: LowRankArguments, model: nn.Module) -> "LoraModel | None":
    """Give the linear layers of a model's text tower low-rank updates, and freeze its own weights.

    Other parts learn as before, and so does the head within an AltCLIP's text tower. The model is changed in
    place; its checkpoints hold the weights of the updates beside its own.

    Args:
        model: has `text_model`, of which some parameters learn.

    Returns:
        The updates, whose `merge_and_unload` adds them to the weights; None without `lora_rank`.

    Raises:
        InputError: peft is not installed, the tower has no linear layers (SqueezeBERT, of convolutions), or
            the rank is above the width of a layer.
    """
    if arguments.lora_rank is None:
        return None
    with of_extra("peft"):
        from peft import LoraConfig
        from peft.tuners.lora import LoraLayer, LoraModel

    text_model = model.text_model
    head = [name for name, _ in text_model.named_children() if name in _HEAD]
    learning = []
    for name in head:
        learning += [value for value in text_model.get_submodule(name).parameters() if value.requires_grad]

    # A layer that no embedding depends on would give its update no gradient.
    idle = set()
    for name in idle_parameters(model):
        if name.startswith("text_model."):
            idle.add(name.removeprefix("text_model.").rpartition(".")[0])

    config = LoraConfig(
        r=arguments.lora_rank,
        lora_alpha=arguments.lora_alpha,
        target_modules="all-linear",
        exclude_modules=[*head, *sorted(idle)] or None,
    )
    try:
        updates = LoraModel(text_model, config, "default")
    except ValueError as error:
        raise InputError(
            f"lora_rank is {arguments.lora_rank}, and peft can update no layer of this text tower, whose "
            "layers are not linear ones: leave it out"
        ) from error

    # peft has frozen all of the tower but the updates.
    for value in learning:
        value.requires_grad_(True)

    for name, layer in text_model.named_modules():
        if isinstance(layer, LoraLayer):
            width = min(layer.in_features, layer.out_features)
            if arguments.lora_rank > width:
                raise InputError(
                    f"lora_rank is {arguments.lora_rank}, and text_model.{name} has a width of {width}: "
                    f"give {width} or less"
                )
    return updates


__all__ = ["add_low_rank"]
