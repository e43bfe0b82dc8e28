"""Bootstrap intervals of a metric under another draw of images, and a paired test between two models.

Units (an image with all its texts) are drawn with replacement, as many as there are. The interval holds the
middle 95 % of the metric over the resamples (Efron's percentile interval). The draws depend on the seed and
the number of units alone, so two models are measured on the same resamples.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from common.errors import InputError

from .outcomes import Outcomes

_INTERVAL = (0.025, 0.975)
BLOCK_WEIGHTS = 2**18  # weights in one block of resamples: 2 MB, and a multiple of that for their texts


@dataclass
class PairedDifference:
    """Difference of a metric between two models, its 95 % interval, and the two-sided `p` of the test."""

    difference: float
    low: float
    high: float
    p: float


def intervals(outcomes: Outcomes, n_resamples: int = 1000, seed: int = 0) -> dict[str, tuple[float, float]]:
    """Compute the 95 % intervals of every metric of `outcomes.score`, in its units.

    A resample on which a metric is not defined (no image of a class) is left out of that metric's interval.

    Returns:
        `{metric: (low, high)}`.

    Raises:
        InputError: `n_resamples` is below 40, of which the interval would have to leave out less than one at
            each end.

    Example:

    ```python
    >>> import torch
    >>> from benchmarks import intervals
    >>> from benchmarks.outcomes import ClassOutcomes

    >>> # Ten images of two classes, two of which are not recognised
    >>> ranks = torch.tensor([0, 0, 0, 0, 1, 0, 0, 0, 0, 1])
    >>> outcomes = ClassOutcomes(ranks, labels=torch.tensor([0, 1] * 5), n_classes=2)
    >>> intervals(outcomes)["accuracy@1"]
    (0.5, 1.0)
    ```
    """
    scores = _scores(outcomes, n_resamples, seed)
    return {name: _interval(values) for name, values in scores.items()}


def compare(
    first: Outcomes, second: Outcomes, n_resamples: int = 1000, seed: int = 0
) -> dict[str, PairedDifference]:
    """Compute by how much each metric of `first` is higher than that of `second`, on the same items.

    `p` is twice the share of resamples whose difference is 0 or of the other sign, with one added to the
    count, and at most 1. This is the smallest level at which the percentile interval leaves out 0, and at
    least `2 / (n_resamples + 1)`.

    `p` is also at least that of an exact sign test in which all units that differ in the metric speak for one
    side, `2 * 0.5**units`. A resample draws from the units there are and knows of no others, so that for the
    bootstrap alone one differing image would be enough. With five differing units or fewer nothing is
    significant at 5 %.

    Returns:
        `{metric: difference}`.

    Raises:
        InputError: the two are not outcomes of the same items, or `n_resamples` is below 40.

    Example:

    ```python
    >>> import torch
    >>> from benchmarks import compare
    >>> from benchmarks.outcomes import ClassOutcomes

    >>> # The first model recognises all of ten images, the second none
    >>> labels = torch.tensor([0, 1] * 5)
    >>> first = ClassOutcomes(torch.zeros(10, dtype=torch.long), labels, n_classes=2)
    >>> second = ClassOutcomes(torch.ones(10, dtype=torch.long), labels, n_classes=2)
    >>> accuracy = compare(first, second)["accuracy@1"]
    >>> accuracy.difference, round(accuracy.p, 3)
    (1.0, 0.002)
    ```
    """
    of_resamples = resampled_differences(first, second, n_resamples, seed)
    metrics = first.metrics()
    other_metrics = second.metrics()
    differing = first.differing(second)

    differences = {}
    for name, resampled in of_resamples.items():
        defined = resampled[~resampled.isnan()]
        p = _p_value(defined, n_differing=differing[name].sum().item())
        low, high = _interval(defined)
        differences[name] = PairedDifference(metrics[name] - other_metrics[name], low, high, p)
    return differences


def resampled_differences(
    first: Outcomes, second: Outcomes, n_resamples: int = 1000, seed: int = 0
) -> dict[str, torch.Tensor]:
    """Compute by how much each metric of `first` is higher than that of `second`, in each resample.

    The draws depend on the seed and the number of units alone: a mean over differences of several pairs is
    one over the same draws.

    Returns:
        `{metric: float64 (n_resamples,)}`, NaN where a metric is not defined on a resample.

    Raises:
        InputError: as `compare`.
    """
    _check_same_items(first, second)
    scores = _scores(first, n_resamples, seed)
    other_scores = _scores(second, n_resamples, seed)
    return {name: values - other_scores[name] for name, values in scores.items()}


def _p_value(resampled: torch.Tensor, n_differing: int) -> float:
    """Compute the two-sided p, as `compare` explains it, from the resampled differences of a metric."""
    n_not_above = (resampled <= 0).sum().item()
    n_not_below = (resampled >= 0).sum().item()
    bootstrap = 2 * (min(n_not_above, n_not_below) + 1) / (len(resampled) + 1)
    sign_test = 2 * 0.5**n_differing
    return min(1.0, max(bootstrap, sign_test))


def resamples(n_units: int, n_resamples: int, seed: int) -> Iterator[torch.Tensor]:
    """Draw resamples, in blocks `(some resamples, units)` of how often each unit was drawn.

    Each resample draws `n_units` units. The draws do not depend on the size of the blocks.
    """
    generator = torch.Generator().manual_seed(seed)
    block = max(1, BLOCK_WEIGHTS // n_units)
    for start in range(0, n_resamples, block):
        weights = []
        for _ in range(min(block, n_resamples - start)):
            draw = torch.randint(n_units, (n_units,), generator=generator)
            # Of three units [2, 0, 2] -> [1, 0, 2].
            weights.append(draw.bincount(minlength=n_units))
        yield torch.stack(weights)


def check_resamples(n_resamples: int) -> None:
    """Refuse a number of resamples that `intervals` would refuse, before a script measures anything.

    Raises:
        InputError: it is below 40.
    """
    if n_resamples < 40:
        raise InputError(
            f"n_resamples is {n_resamples}: draw 40 at least for the ends of a 95 % interval, better 1000"
        )


def _scores(outcomes: Outcomes, n_resamples: int, seed: int) -> dict[str, torch.Tensor]:
    """Compute every metric of every resample, float64 `{metric: (n_resamples,)}`."""
    check_resamples(n_resamples)
    scores = {}
    for weights in resamples(outcomes.n_units, n_resamples, seed):
        for name, values in outcomes.score(weights).items():
            # As numbers: a small tensor kept between large ones that are freed keeps their memory too (1.7 GB
            # for 50,000 images).
            scores.setdefault(name, []).extend(values.tolist())
    return {name: torch.tensor(values, dtype=torch.double) for name, values in scores.items()}


def _interval(values: torch.Tensor) -> tuple[float, float]:
    low, high = values.nanquantile(torch.tensor(_INTERVAL, dtype=values.dtype)).tolist()
    return low, high


def _check_same_items(first: Outcomes, second: Outcomes) -> None:
    if type(first) is not type(second):
        raise InputError(
            f"{type(first).__name__} and {type(second).__name__} are outcomes of different tasks: "
            "compare like with like"
        )
    if first.n_units != second.n_units:
        raise InputError(
            f"the models were evaluated on {first.n_units} and {second.n_units} images: "
            "evaluate both on the same rows"
        )
    for name, values in first.items.items():
        if not torch.equal(values, second.items[name]):
            raise InputError(
                f"the models were evaluated on other items, their {name} differ: "
                "evaluate both on the same rows in one order"
            )
