"""How far a number would move had the benchmark drawn other images: bootstrap intervals, and a paired test between two models.

Units (an image with all its texts) are drawn with replacement, as many as there are; the interval holds the middle 95 % of the
metric over the resamples (Efron's percentile interval). What is drawn depends on the seed and the number of units alone, so two
models are measured on the same resamples.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from .outcomes import Outcomes
from .recipe import InputError

INTERVAL = (0.025, 0.975)
BLOCK_WEIGHTS = 2**18  # of one block of resamples: 2 MB, and a multiple of it for their texts


@dataclass
class Difference:
    """By how much one model's metric is higher, its 95 % interval, and how seldom chance would give it: `p`, two-sided."""

    difference: float
    low: float
    high: float
    p: float


def intervals(outcomes: Outcomes, n_resamples: int = 1000, seed: int = 0) -> dict[str, tuple[float, float]]:
    """95 % intervals of every metric of `outcomes.score`, in its units.

    A resample on which a metric is not defined (no image of a class) is left out of that metric's interval.

    Raises:
        InputError: `n_resamples` is below 40, of which the interval would have to leave out less than one at each end.
    """
    scores = _scores(outcomes, n_resamples, seed)
    return {name: _interval(values) for name, values in scores.items()}


def compare(
    first: Outcomes, second: Outcomes, n_resamples: int = 1000, seed: int = 0
) -> dict[str, Difference]:
    """How much higher each metric of `first` is than that of `second`, on the same items.

    `p` is twice the share of resamples whose difference is 0 or of the other sign, each side's count with one added, at most 1: the
    smallest level at which the percentile interval leaves out 0. It cannot fall below `2 / (n_resamples + 1)`; nor below that of an
    exact sign test in which all units that differ in the metric speak for one side, `2 * 0.5**units`: a resample draws from the units
    there are and knows of no others, so that for it one image would be enough. Of five units or fewer nothing is significant at 5 %.

    Raises:
        InputError: the two are not outcomes of the same items, or `n_resamples` is below 40.
    """
    _check_same_items(first, second)
    one, other, differing = first.metrics(), second.metrics(), first.differing(second)
    scores, others = (_scores(outcomes, n_resamples, seed) for outcomes in (first, second))
    differences = {}
    for name, values in scores.items():
        resampled = values - others[name]
        defined = resampled[~resampled.isnan()]
        rarer = min((defined <= 0).sum().item(), (defined >= 0).sum().item())
        p = min(1.0, max(2 * (rarer + 1) / (len(defined) + 1), 2 * 0.5 ** differing[name].sum().item()))
        differences[name] = Difference(one[name] - other[name], *_interval(defined), p)
    return differences


def resamples(n_units: int, n_resamples: int, seed: int) -> Iterator[torch.Tensor]:
    """Blocks `(some resamples, units)` of how often each unit was drawn; each resample draws `n_units`, whatever the block."""
    generator = torch.Generator().manual_seed(seed)
    block = max(1, BLOCK_WEIGHTS // n_units)
    for start in range(0, n_resamples, block):
        draws = [
            torch.randint(n_units, (n_units,), generator=generator)
            for _ in range(min(block, n_resamples - start))
        ]
        yield torch.stack([draw.bincount(minlength=n_units) for draw in draws])


def check_resamples(n_resamples: int) -> None:
    """A script can tell before it measures what `intervals` would refuse."""
    if n_resamples < 40:
        raise InputError(
            f"n_resamples is {n_resamples}: draw 40 at least for the ends of a 95 % interval, better 1000"
        )


def _scores(outcomes: Outcomes, n_resamples: int, seed: int) -> dict[str, torch.Tensor]:
    check_resamples(n_resamples)
    scores = {}
    for weights in resamples(outcomes.n_units, n_resamples, seed):
        for name, values in outcomes.score(weights).items():
            # As numbers: a small tensor kept between large ones that go keeps their memory too (1.7 GB for 50,000 images).
            scores.setdefault(name, []).extend(values.tolist())
    return {name: torch.tensor(values, dtype=torch.double) for name, values in scores.items()}


def _interval(values: torch.Tensor) -> tuple[float, float]:
    low, high = values.nanquantile(torch.tensor(INTERVAL, dtype=values.dtype)).tolist()
    return low, high


def _check_same_items(first: Outcomes, second: Outcomes) -> None:
    if type(first) is not type(second):
        raise InputError(
            f"{type(first).__name__} and {type(second).__name__} are outcomes of different tasks: compare like with like"
        )
    if first.n_units != second.n_units:
        raise InputError(
            f"the models were evaluated on {first.n_units} and {second.n_units} images: evaluate both on the same rows"
        )
    for name, values in first.items.items():
        if not torch.equal(values, second.items[name]):
            raise InputError(
                f"the models were evaluated on other items, their {name} differ: evaluate both on the same rows in one order"
            )
