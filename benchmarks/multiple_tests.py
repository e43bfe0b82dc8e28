"""Test of many differences whether they are above a margin, by Holm's procedure, and bounds that agree.

Sources: Holm 1979, *A simple sequentially rejective multiple test procedure*, Scandinavian Journal of
Statistics 6, 65-70; Strassburger & Bretz 2008, *Compatible simultaneous lower confidence bounds for the Holm
procedure and other Bonferroni-based closed tests*, Statistics in Medicine 27, 4914-4927.
"""

import math
from dataclasses import dataclass

import torch

from common.errors import InputError


@dataclass
class LowerBounds:
    """Outcome of many one-sided tests, in the order of the differences.

    Attributes:
        p_values: adjusted by `holm`: at most `level` where a difference is shown to be above the margin.
        bounds: with probability `1 - level` all differences are above theirs.
    """

    p_values: list[float]
    bounds: list[float]


def holm(p_values: list[float]) -> list[float]:
    """Adjust p-values of several tests, so that one that is at most 5 % is significant among all of them.

    The probability that any true hypothesis is rejected is then at most 5 %, however the tests depend on each
    other.

    Returns:
        One for each test, in their order.

    Raises:
        InputError: there is none, or one is no probability.

    Example:

    ```python
    >>> from benchmarks.multiple_tests import holm

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03, 0.005])]
    [0.03, 0.06, 0.06, 0.02]
    ```
    """
    if not p_values:
        raise InputError("p_values is empty: give one for each test")
    for p in p_values:
        if not 0 <= p <= 1:
            raise InputError(f"p_values has {p}: give probabilities")

    adjusted = [0.0] * len(p_values)
    by_size = sorted(range(len(p_values)), key=p_values.__getitem__)
    largest = 0.0
    # The smallest of four is multiplied by 4, the next by 3, and none may fall below one before it.
    for n_before, place in enumerate(by_size):
        n_left = len(p_values) - n_before
        largest = max(largest, min(1.0, n_left * p_values[place]))
        adjusted[place] = largest
    return adjusted


def p_above(resampled: torch.Tensor, margin: float) -> float:
    """Compute the one-sided p of the hypothesis that a difference is at most `margin`.

    It is the share of resamples whose difference is at most `margin`, with one added to both counts.

    Args:
        resampled: the difference in each resample `(resamples,)`, see `resampled_differences`.
    """
    n_not_above = (resampled <= margin).sum().item()
    return (n_not_above + 1) / (len(resampled) + 1)


def check_resamples_for(n_tests: int, n_resamples: int, level: float = 0.05) -> None:
    """Refuse a number of resamples by which `lower_bounds` could show nothing, before anything is measured.

    Raises:
        InputError: the smallest p, `1 / (n_resamples + 1)`, is not significant among `n_tests`.
    """
    needed = math.ceil(n_tests / level - 1 - 1e-9)
    if n_resamples < needed:
        raise InputError(
            f"n_resamples is {n_resamples}: draw {needed} at least, or the smallest p is not significant "
            f"among {n_tests} tests"
        )


def lower_bound(resampled: torch.Tensor, level: float) -> float:
    """Return the one-sided lower bound of a difference: the largest margin up to which `p_above` is `level`.

    Raises:
        InputError: as `check_resamples_for`, of one test.
    """
    check_resamples_for(1, len(resampled), level)
    # p is at most `level` if no more than this number of resamples is at most the margin.
    n_allowed = math.floor(level * (len(resampled) + 1) + 1e-9) - 1
    # Of [-3, -2, 0, 1] one may be at most the margin: below -2 that holds for any margin.
    return resampled.sort().values[n_allowed].item()


def lower_bounds(resampled: torch.Tensor, margin: float, level: float = 0.05) -> LowerBounds:
    """Test for each of many differences that it is above `margin`, and compute bounds that say the same.

    The tests are corrected by `holm`. The bounds invert that procedure (Strassburger & Bretz): where some
    tests are not significant, the bounds of these are at the level divided by their number, and all that is
    known of a significant one is that it is above the margin, which is its bound. Where all are significant,
    each has its bound at the level divided by the number of tests, or the margin if that is higher.

    Args:
        resampled: the difference in each resample `(tests, resamples)`. The same resamples of all tests are
            not required.
        margin: in the unit of the differences, such as -0.02 for 2 points.

    Raises:
        InputError: as `check_resamples_for`.

    Example:

    ```python
    >>> import torch
    >>> from benchmarks.multiple_tests import lower_bounds

    >>> # Two differences, in 99 resamples each: around 0.01, and around -0.02
    >>> spread = torch.linspace(-0.01, 0.01, 99)
    >>> tested = lower_bounds(torch.stack([spread + 0.01, spread - 0.02]), margin=-0.02)
    >>> [round(p, 2) for p in tested.p_values]
    [0.02, 0.51]
    >>> [round(bound, 3) for bound in tested.bounds]
    [-0.02, -0.029]
    ```
    """
    n_tests = len(resampled)
    check_resamples_for(n_tests, resampled.shape[1], level)
    p_values = holm([p_above(differences, margin) for differences in resampled])
    n_open = sum(p > level for p in p_values)

    bounds = []
    for differences, p in zip(resampled, p_values):
        if n_open == 0:
            bounds.append(max(margin, lower_bound(differences, level / n_tests)))
        elif p > level:
            bounds.append(lower_bound(differences, level / n_open))
        else:
            bounds.append(margin)
    return LowerBounds(p_values, bounds)


__all__ = ["LowerBounds", "check_resamples_for", "holm", "lower_bound", "lower_bounds", "p_above"]
