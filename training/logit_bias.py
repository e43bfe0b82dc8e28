"""The bias that a model adds to its logits: the sigmoid loss needs one, and the contrastive loss has none."""

import math

import torch
from torch import nn

from common.errors import InputError
from modeling_altclip import AltCLIPDualEncoderModel

# Where a new scale and bias begin, as in SigLIP (Zhai et al. 2023, arXiv 2303.15343): with these nearly all
# pairs count as wrong, as they are, and the first steps need not correct them all.
FIRST_LOGIT_SCALE = math.log(10)
_FIRST_LOGIT_BIAS = -10.0


def logit_bias_of(model: nn.Module) -> nn.Parameter | None:
    """Return the bias of a SigLIP, or of a dual encoder of the sigmoid loss; None for a model without one.

    It is `()`, and in a SigLIP `(1,)`.
    """
    for name, parameter in model.named_parameters():
        # Within a wrapper, such as peft's, it has a prefix.
        if name.rpartition(".")[2] == "logit_bias":
            return parameter
    return None


def check_loss(model: nn.Module, loss: str) -> None:
    """Check that a model has a bias if its loss is `sigmoid`, and none if it is `contrastive`.

    Raises:
        InputError: it has not, or has one. A softmax ignores a bias, and a model that keeps it would still be
            read as one of the sigmoid loss.
    """
    has_bias = logit_bias_of(model) is not None
    if loss == "sigmoid" and not has_bias:
        raise InputError(
            f"loss is sigmoid, and a model of the type {model.config.model_type!r} without a logit_bias "
            "cannot learn by it: give a dual encoder or a SigLIP, or leave out loss"
        )
    if loss == "contrastive" and has_bias:
        raise InputError(
            f"loss is contrastive, and the {model.config.model_type!r} has a logit_bias, which the sigmoid "
            "loss alone trains: give --loss sigmoid, or save a dual encoder after set_logit_bias(None)"
        )


@torch.no_grad()
def fit_to_loss(model: nn.Module, loss: str) -> str | None:
    """Give a dual encoder the bias that its loss needs; a bias that is there is kept.

    With a new bias, the scale begins anew as well: at CLIP's scale of up to 100 a bias of -10 would leave
    wrong pairs with logits far above zero.

    Args:
        loss: `contrastive` or `sigmoid`.

    Returns:
        What was changed, for a log line; None if nothing was.

    Raises:
        InputError: the model does not suit the loss, see `check_loss`.
    """
    if loss == "sigmoid" and isinstance(model, AltCLIPDualEncoderModel) and model.logit_bias is None:
        model.set_logit_bias(_FIRST_LOGIT_BIAS)
        model.logit_scale.fill_(FIRST_LOGIT_SCALE)
        return "The model has no bias: for the sigmoid loss it gets one of -10, and its scale begins at 10."
    check_loss(model, loss)
    return None


__all__ = ["FIRST_LOGIT_SCALE", "check_loss", "fit_to_loss", "logit_bias_of"]
