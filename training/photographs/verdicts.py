"""Judge each claim of the experiment on real pictures by paired tests.

Tests of several languages are one family: their p-values are corrected by Holm's procedure.
"""

from dataclasses import asdict, dataclass
from typing import NamedTuple

import torch

from benchmarks.bootstrap import PairedDifference, compare, resampled_differences
from benchmarks.multiple_tests import holm, lower_bounds

from ..experiment import METRICS
from .scores import COLUMNS, Column, Results

LEVEL = 0.05
# Compared where it was trained, and no column: stage 2 on the same pictures with English captions alone.
_ENGLISH_ALONE = Column("stage 1 + 2, English captions alone", "stage2_english-{seed}")


@dataclass
class Bound:
    """How far a column is above another in a language, tested against the margin.

    Attributes:
        difference: as a fraction.
        bound: what the difference is above, together with those of all languages that are tested.
        p: one-sided, corrected by Holm's procedure.
    """

    difference: float
    bound: float
    p: float


@dataclass
class Difference(PairedDifference):
    """A paired difference in a language, with its two-sided `p` corrected by Holm's procedure, `adjusted`."""

    adjusted: float

    @property
    def is_shown(self) -> bool:
        return self.adjusted <= LEVEL


def bound_losses(results: Results, pairs: list[tuple[str, str]]) -> list[Bound]:
    """Test of columns in languages that each is less than the margin below the teacher's English.

    All are one family of tests; see `benchmarks.multiple_tests.lower_bounds`.

    Args:
        pairs: a column and a language for each test.

    Returns:
        One bound for each pair.
    """
    metric = METRICS["retrieval"]
    resampled = []
    differences = []
    for column, language in pairs:
        first = results.outcomes(COLUMNS[column], [language])
        teacher = results.outcomes(COLUMNS["teacher"], [language])
        differences.append(first.metrics()[metric] - teacher.metrics()[metric])
        resampled.append(resampled_differences(first, teacher, results.arguments.n_resamples)[metric])
    tested = lower_bounds(torch.stack(resampled), -results.arguments.margin / 100, LEVEL)
    return [Bound(*values) for values in zip(differences, tested.bounds, tested.p_values)]


def compare_languages(
    results: Results, column: Column, reference: Column, languages: list[str]
) -> dict[str, Difference]:
    """Test in each language, two-sided, that two columns differ; all languages are one family of tests.

    Returns:
        `{language: difference}`.
    """
    found = [difference_of_means(results, column, reference, [language]) for language in languages]
    adjusted = holm([difference.p for difference in found])
    differences = {}
    for language, difference, p in zip(languages, found, adjusted):
        differences[language] = Difference(**asdict(difference), adjusted=p)
    return differences


def difference_of_means(
    results: Results, column: Column, reference: Column, languages: list[str]
) -> PairedDifference:
    """Compare the means of two columns over languages, whose pictures are drawn together."""
    first = results.outcomes(column, languages)
    second = results.outcomes(reference, languages)
    return compare(first, second, results.arguments.n_resamples)[METRICS["retrieval"]]


class Verdict(NamedTuple):
    """What the tests say of a claim.

    - `claim`: a claim of the paper, or of ours.
    - `outcome`: `shown`, `not shown`, or `the opposite is shown`.
    - `figures`: those that it rests on, in points.
    - `tests`: the tests, by language or column.
    """

    claim: str
    outcome: str
    figures: str
    tests: dict[str, Bound | PairedDifference]


def judge(results: Results) -> list[Verdict]:
    """Test each claim by the results."""
    arguments = results.arguments
    foreign = arguments.trained[1:]
    stage1 = COLUMNS["stage1"]
    stage2 = COLUMNS["stage2"]

    verdicts = [_judge_reached(results)]
    if foreign:
        claim = "Teacher learning lifts other languages"
        verdicts.append(_judge_difference(results, claim, stage1, COLUMNS["before"], foreign))
        claim = "Contrastive learning lifts retrieval"
        verdicts.append(_judge_difference(results, claim, stage2, stage1, foreign))
    verdicts.append(_judge_english(results))
    if arguments.unseen:
        claim = "Languages that were never trained follow, with stage 1 above the linear head"
        verdicts.append(_judge_difference(results, claim, stage1, COLUMNS["linear_head"], arguments.unseen))
    if foreign:
        claim = "Stage 1 is above a translation of the query by a dictionary"
        verdicts.append(_judge_difference(results, claim, stage1, COLUMNS["dictionary"], foreign))
    if foreign and arguments.full:
        claim = "Parallel captions in stage 2 are above English captions alone"
        verdicts.append(_judge_difference(results, claim, stage2, _ENGLISH_ALONE, foreign))
    return verdicts


def _judge_reached(results: Results) -> Verdict:
    """Judge if stage 1 reaches its teacher's English in all trained languages."""
    arguments = results.arguments
    bounds = bound_losses(results, [("stage1", language) for language in arguments.trained])
    by_language = dict(zip(arguments.trained, bounds))
    within = [language for language, bound in by_language.items() if bound.p <= LEVEL]
    worst = min(by_language, key=lambda language: by_language[language].difference)
    figures = (
        f"less than {arguments.margin:g} points below the teacher's English in {len(within)} of "
        f"{len(by_language)} trained languages{_listed(within)}; the worst is {worst}, "
        f"{_points(by_language[worst].difference)} (above {_points(by_language[worst].bound)})"
    )
    outcome = "shown" if len(within) == len(by_language) else "not shown"
    return Verdict("Teacher learning reaches the teacher", outcome, figures, by_language)


def _judge_english(results: Results) -> Verdict:
    """Judge if English is as good as the teacher's after both stages."""
    columns = ["stage1", "stage2"]
    bounds = bound_losses(results, [(column, "en") for column in columns])
    parts = []
    for column, bound in zip(columns, bounds):
        difference = f"{_points(bound.difference)} (above {_points(bound.bound)})"
        parts.append(f"{COLUMNS[column].title} {difference}")
    outcome = "shown" if all(bound.p <= LEVEL for bound in bounds) else "not shown"
    figures = f"points above the teacher in English: {', '.join(parts)}"
    return Verdict("English is kept", outcome, figures, dict(zip(columns, bounds)))


def _judge_difference(
    results: Results, claim: str, column: Column, reference: Column, languages: list[str]
) -> Verdict:
    """Judge by the mean over languages if a column is above another, and name the languages that show it."""
    overall = difference_of_means(results, column, reference, languages)
    by_language = compare_languages(results, column, reference, languages)
    if overall.p > LEVEL:
        outcome = "not shown"
    else:
        outcome = "shown" if overall.difference > 0 else "the opposite is shown"

    shown = [language for language, difference in by_language.items() if difference.is_shown]
    gains = [language for language in shown if by_language[language].difference > 0]
    losses = [language for language in shown if by_language[language].difference < 0]
    interval = f"{_points(overall.low)} to {_points(overall.high)}, p {_probability(overall.p)}"
    figures = (
        f"{_points(overall.difference)} points in the mean of {len(languages)} languages ({interval}); "
        f"tested one by one, {len(gains)} gain{_listed(gains)} and {len(losses)} lose{_listed(losses)}"
    )
    return Verdict(claim, outcome, figures, {"mean": overall, **by_language})


def _listed(languages: list[str]) -> str:
    return f" ({' '.join(languages)})" if languages else ""


def _points(fraction: float) -> str:
    """Write a difference of fractions in points with its sign: -0.0123 -> "-1.2"."""
    return f"{100 * fraction:+.1f}"


def _probability(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


__all__ = ["LEVEL", "Verdict", "bound_losses", "compare_languages", "difference_of_means", "judge"]
