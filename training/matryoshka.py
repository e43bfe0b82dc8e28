"""Matryoshka representation learning: the first dimensions of an embedding are trained as an embedding, too.

Kusupati et al. 2022 (arXiv 2205.13147) sum a loss over embeddings truncated to several numbers of dimensions,
each with the weight 1, and so does sentence-transformers' `MatryoshkaLoss`. Here a truncated embedding is
scaled to unit length again, and all of them share the temperature.

Stage 1 needs nothing of the kind. Its squared error is a sum over dimensions, so that every truncation is
trained already, and a student that equals its teacher can be truncated as its teacher can.
"""

import math
import warnings
from collections.abc import Callable, Sequence

import torch
from torch.nn.functional import normalize
from transformers import PreTrainedConfig

from common.errors import InputError
from common.models.kinds import width_of_embeddings
from modeling_altclip.truncation_altclip import check_dims, trained_dims, truncate


def matryoshka(
    loss: Callable[..., torch.Tensor], dims: Sequence[int], weights: Sequence[float] | None = None
) -> Callable[..., torch.Tensor]:
    """Make of a loss the weighted sum of that loss for embeddings truncated to each of `dims`.

    Args:
        loss: `(image_embeds, text_embeds, *others) -> scalar`, of unit embeddings `(rows, width)`, such as
            `contrastive_loss` or `sigmoid_loss`. What else it takes is the same for all dimensions.
        dims: numbers of dimensions, none above the width.
        weights: one for each of `dims`; 1 by default, as in the paper.

    Returns:
        A loss with the same arguments. For each of `dims` it takes the first dimensions of both embeddings,
        of unit length again; the full width is taken as it is.

    Raises:
        ValueError: the embeddings have fewer dimensions than one of `dims`; raised by the loss.

    Example:

    ```python
    >>> import torch
    >>> from training import contrastive_loss
    >>> from training.matryoshka import matryoshka

    >>> embeds = torch.eye(4)[:, [0, 1, 2, 3, 0, 1, 2, 3]] / 2**0.5  # the second half repeats the first
    >>> loss = matryoshka(contrastive_loss, dims=[8, 4])
    >>> loss(embeds, embeds, torch.tensor(1.0)) / contrastive_loss(embeds, embeds, torch.tensor(1.0))
    tensor(2.0000)
    ```
    """
    weights = weights or [1.0] * len(dims)

    def summed(image_embeds: torch.Tensor, text_embeds: torch.Tensor, *others, **named) -> torch.Tensor:
        total = 0.0
        for dim, weight in zip(dims, weights, strict=True):
            images = _first(image_embeds, dim)
            texts = _first(text_embeds, dim)
            total = total + weight * loss(images, texts, *others, **named)
        return total

    return summed


def _first(embeddings: torch.Tensor, dim: int) -> torch.Tensor:
    """Return the first dimensions of unit embeddings `(rows, width)`, of unit length."""
    if dim == embeddings.shape[1]:
        return embeddings
    return normalize(truncate(embeddings, dim), dim=-1)


def check_matryoshka(dims: list[int] | None, weights: list[float] | None) -> None:
    """Check the numbers of dimensions of a recipe, and that each has a weight if there are any.

    Raises:
        InputError: one is no whole number from 1 or is there twice, or weights do not belong to them or are
            not positive.
    """
    if dims is not None:
        try:
            check_dims(dims, "matryoshka_dims")
        except ValueError as error:
            raise InputError(error) from error
    if weights is None:
        return
    if dims is None or len(weights) != len(dims):
        n_dims = 0 if dims is None else len(dims)
        raise InputError(
            f"matryoshka_weights has {len(weights)} weights for {n_dims} matryoshka_dims: give one for each"
        )
    if not all(weight > 0 and math.isfinite(weight) for weight in weights):
        raise InputError(f"matryoshka_weights is {weights}: give positive numbers")


def check_widest(dims: list[int] | None, config: PreTrainedConfig) -> None:
    """Check that the widest of the numbers of dimensions is that of a model's embeddings.

    Raises:
        InputError: the embeddings have fewer dimensions, or more, of which the last would not learn.
    """
    if dims is None:
        return
    width = width_of_embeddings(config)
    if max(dims) > width:
        raise InputError(
            f"matryoshka_dims names {max(dims)}, and the model's embeddings have {width} dimensions: "
            "give no more"
        )
    if max(dims) < width:
        raise InputError(
            f"matryoshka_dims ends at {max(dims)}, and the model's embeddings have {width} dimensions, "
            f"of which the last would not learn: add {width}"
        )


def record_dims(config: PreTrainedConfig, dims: list[int] | None) -> None:
    """Record in a model's configuration the numbers of dimensions that it is now trained for.

    A training without them takes back what an earlier one has recorded, with a warning.

    Raises:
        InputError: as `check_widest`; or what an earlier one has recorded is no list of such numbers.
    """
    check_widest(dims, config)
    try:
        before = " ".join(map(str, trained_dims(config)))
    except ValueError as error:
        raise InputError(f"model_name_or_path: {error}") from error
    if dims is not None:
        config.matryoshka_dims = sorted(dims, reverse=True)
    elif before:
        warnings.warn(
            f"the model was trained for matryoshka_dims {before}, and this training is not: its "
            "configuration will state them no longer. To keep them, give the same",
            stacklevel=2,
        )
        del config.matryoshka_dims


__all__ = ["check_matryoshka", "check_widest", "matryoshka", "record_dims"]
