"""Whiten the embeddings of a frozen text encoder, so that all their directions count alike.

Embeddings of sentence encoders vary much in a few directions and little in all others, so that their cosines
tell little apart. Whitening (Su et al. 2021, arXiv 2103.15316) centres them and divides each principal
direction by its standard deviation. Ours rotates back afterwards, and it shrinks: the covariance of few texts
is a rough guess.
"""

import torch

from common.errors import InputError

from .alignment import LinearMap

# How much of the mean variance is added to that of every direction, times width / texts. From 143, 1,143 and
# 16,000 texts of 384 values, the best of several amounts was about this one each time.
_SHRINKAGE = 4.0


def fit_whitening(embeddings: torch.Tensor) -> LinearMap:
    """Fit the linear map that whitens embeddings, with a shrinkage that fits their number.

    With the covariance C of the embeddings, the mean `v` of its eigenvalues and s = 4 * width / texts, the
    weight is (C / v + s I)^(-1/2), and the mean of the embeddings becomes 0.

    Args:
        embeddings: `(texts, width)`.

    Raises:
        InputError: there are fewer than two texts, or they have one embedding; or a value is not finite.

    Example:

    ```python
    >>> import torch
    >>> from training.whitening import fit_whitening

    >>> embeddings = torch.randn(10_000, 2) * torch.tensor([10.0, 1.0]) + 5
    >>> whitened = fit_whitening(embeddings)(embeddings)
    >>> (whitened.std(0)[0] / whitened.std(0)[1]).round().item()
    1.0
    ```
    """
    values = embeddings.double()
    if not values.isfinite().all():
        raise InputError("an embedding of a text is not finite: the text encoder's weights are broken")
    n_texts, width = values.shape
    if n_texts < 2:
        raise InputError(f"{n_texts} text cannot be whitened: give captions, the more the better")
    mean = values.mean(0)
    covariance = torch.cov((values - mean).T).reshape(width, width)
    mean_variance = covariance.trace() / width
    if mean_variance == 0:
        raise InputError(f"all {n_texts:,} texts have one embedding, which cannot be whitened")

    eigenvalues, directions = torch.linalg.eigh(covariance / mean_variance)
    variances = eigenvalues.clamp(min=0) + _SHRINKAGE * width / n_texts
    weight = directions @ (variances.rsqrt()[:, None] * directions.T)
    return LinearMap(weight, -weight @ mean)


__all__ = ["fit_whitening"]
