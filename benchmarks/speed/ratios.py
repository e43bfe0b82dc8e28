"""Summarize the costs of repeats: medians, and ratios of a peer's cost to ours, by round."""

from dataclasses import dataclass
from statistics import median

from .comparisons import Comparison
from .side_by_side import OURS

_UNITS = ("cpu", "wall", "memory")


@dataclass(frozen=True)
class Ratio:
    """A peer's cost over ours, one for each round of turns: above 1 we cost less.

    Attributes:
        median: of the rounds.
        least, most: of the rounds.
    """

    median: float
    least: float
    most: float


@dataclass(frozen=True)
class Outcome:
    """What came of a comparison with one peer.

    Attributes:
        ours, theirs: their costs by unit, see `typical`.
        ratios: by unit, as far as both are known.
        costs: of each repeat, by side.
        operations: of our matrix products in a repeat; None if they were not counted.
    """

    comparison: Comparison
    peer: str
    ours: dict[str, float | None]
    theirs: dict[str, float | None]
    ratios: dict[str, Ratio]
    costs: dict[str, list[dict]]
    operations: int | None = None


def summarize(
    comparison: Comparison, costs: dict[str, list[dict]], operations: int | None = None
) -> list[Outcome]:
    """Summarize what `run_comparison` and `count_operations` return, one outcome for each peer."""
    outcomes = []
    for peer in comparison.peers:
        ours = typical(costs[OURS], children=comparison.children)
        theirs = typical(costs[peer], children=comparison.children)
        known = [unit for unit in _UNITS if ours[unit] and theirs[unit] is not None]
        ratios = {unit: ratio_of(costs[OURS], costs[peer], unit) for unit in known}
        of_both = {side: costs[side] for side in (OURS, peer)}
        outcomes.append(Outcome(comparison, peer, ours, theirs, ratios, of_both, operations))
    return outcomes


def typical(repeats: list[dict], *, children: bool) -> dict[str, float | None]:
    """Return the median of the repeats' times, and the largest of their memory; None if that is not known.

    A repeat may reuse memory that an earlier one has freed, so the largest is what the work takes.
    """
    cpu = median(repeat["cpu"] for repeat in repeats)
    wall = median(repeat["wall"] for repeat in repeats)
    memory = [repeat["memory"] for repeat in repeats]
    # The work of child processes takes no memory of the process that was watched.
    is_known = not children and None not in memory
    return {"cpu": cpu, "wall": wall, "memory": max(memory) if is_known else None}


def ratio_of(ours: list[dict], theirs: list[dict], unit: str) -> Ratio:
    """Return the ratios of the repeats that stood next to each other; of memory, that of the largest."""
    if unit == "memory":
        ratio = max(repeat[unit] for repeat in theirs) / max(repeat[unit] for repeat in ours)
        return Ratio(ratio, ratio, ratio)
    of_rounds = [their[unit] / our[unit] for our, their in zip(ours, theirs, strict=True)]
    return Ratio(median(of_rounds), min(of_rounds), max(of_rounds))
