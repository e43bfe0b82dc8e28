"""Truncate embeddings to their first dimensions, and tell the numbers of dimensions a model was trained for.

Matryoshka representation learning (Kusupati et al. 2022, arXiv 2205.13147) trains the first dimensions of an
embedding to be an embedding themselves. A model that learned so states them in its configuration, as
`matryoshka_dims`; other models have no such entry, and truncating their embeddings costs more.
"""

import warnings
from collections.abc import Sequence
from numbers import Integral

import torch
from transformers import PreTrainedConfig


def check_dims(dims: Sequence[int], name: str) -> None:
    """Refuse numbers of dimensions that no embedding can be truncated to.

    Args:
        name: that of the argument, for the message.

    Raises:
        ValueError: there is none, one is no whole number from 1, or one is there twice.
    """
    if not isinstance(dims, list | tuple) or not dims or not all(map(_is_dim, dims)):
        raise ValueError(f"{name} is {dims!r}: give whole numbers from 1, such as 512 256 128")
    if len(set(dims)) < len(dims):
        raise ValueError(f"{name} is {dims!r}: give each number of dimensions once")


def trained_dims(config: PreTrainedConfig) -> list[int]:
    """Return the `matryoshka_dims` of a model's configuration; none if it has no such entry.

    Raises:
        ValueError: the entry is no list of distinct whole numbers from 1.

    Example:

    ```python
    >>> from modeling_altclip import AltCLIPConfig
    >>> from modeling_altclip.truncation_altclip import trained_dims

    >>> trained_dims(AltCLIPConfig(matryoshka_dims=[768, 256]))
    [768, 256]
    ```
    """
    # A configuration of any library may be without it, and is saved without it.
    dims = getattr(config, "matryoshka_dims", None)
    if dims is None:
        return []
    check_dims(dims, "matryoshka_dims of the model's configuration")
    return list(dims)


def truncate(embeddings: torch.Tensor, dim: int | None) -> torch.Tensor:
    """Return the first `dim` dimensions of embeddings `(..., width)`, not normalised; all of them for None.

    Raises:
        ValueError: the embeddings have fewer.
    """
    if dim is None:
        return embeddings
    width = embeddings.shape[-1]
    if dim > width:
        raise ValueError(f"truncate_dim is {dim}, and the embeddings have {width} dimensions: give no more")
    return embeddings[..., :dim]


class Truncation:
    """Truncates one batch of a model's embeddings after the other, and warns if it was not trained for that.

    Args:
        config: the model's configuration.
        dim: how many dimensions are left; None for all.

    Raises:
        ValueError: `dim` is no whole number from 1.
    """

    def __init__(self, config: PreTrainedConfig, dim: int | None):
        if dim is not None and not _is_dim(dim):
            raise ValueError(f"truncate_dim is {dim!r}: give a whole number from 1, or None for all")
        self.dim = dim
        self.trained = trained_dims(config)
        self.has_warned = False

    def __call__(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Return the first dimensions of embeddings `(batch, width)`.

        Raises:
            ValueError: they have fewer.
        """
        truncated = truncate(embeddings, self.dim)
        is_untrained = truncated.shape[-1] < embeddings.shape[-1] and self.dim not in self.trained
        if is_untrained and not self.has_warned:
            self.has_warned = True
            stated = ", ".join(map(str, self.trained)) or "none"
            warnings.warn(
                f"truncate_dim is {self.dim}, for which the model was not trained: similarities will be less "
                f"accurate (matryoshka_dims of its configuration: {stated})",
                stacklevel=2,
            )
        # A copy: a view would keep all dimensions in memory.
        return truncated.contiguous()


def _is_dim(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and value >= 1


__all__ = ["Truncation", "check_dims", "trained_dims", "truncate"]
