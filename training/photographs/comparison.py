"""Compare the models of the experiment on real pictures: a table by language, tests, and a plot.

A picture may lack a caption in a language. All figures of a language are on the pictures that have one there,
ranked among these alone: also the teacher's, which reads their English captions. So two columns of a row are
comparable, and two rows are not.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import torch

from benchmarks.bootstrap import PairedDifference, compare, intervals, resampled_differences
from benchmarks.multiple_tests import holm, lower_bounds
from benchmarks.outcomes import Outcomes
from benchmarks.report.means import share_images
from benchmarks.results import Result, format_table, load_results
from benchmarks.tasks.loading import load_task
from common.errors import InputError
from common.extras import of_extra
from common.figures import save_figure
from common.files.whole_files import write_text

from ..experiment import METRICS, mean_and_deviation
from .dictionary import BY_DICTIONARY, FOUND
from .experiment import LINEAR_HEAD, TEACHER, PhotographsArguments

with of_extra("plots"):
    from matplotlib.figure import Figure

_LEVEL = 0.05
_MISSING = "–"


class Column(NamedTuple):
    """A column of the table.

    - `title`: its header.
    - `model`: the name of its model, with the place of the seed.
    - `task`: the argument that names its retrieval task.
    """

    title: str
    model: str
    task: str = "retrieval"


COLUMNS = {
    "teacher": Column("English teacher, English captions", TEACHER, "english"),
    "before": Column("student before training", "before-{seed}"),
    "dictionary": Column("teacher, captions by dictionary", TEACHER, "dictionary"),
    "linear_head": Column("linear head", LINEAR_HEAD),
    "stage1": Column("stage 1", "stage1-{seed}"),
    "stage2": Column("stage 1 + 2", "stage2-{seed}"),
}
# Compared where it was trained, and no column: stage 2 on the same pictures with English captions alone.
_ENGLISH_ALONE = Column("stage 1 + 2, English captions alone", "stage2_english-{seed}")
_COLORS = {
    "teacher": "black",
    "before": "tab:gray",
    "dictionary": "tab:olive",
    "linear_head": "tab:cyan",
    "stage1": "tab:blue",
    "stage2": "tab:red",
}


class PictureMean(Outcomes):
    """Mean of outcomes over languages and seeds, in which a resample draws the pictures of the whole test.

    A picture is drawn in all languages at once, so that the mean's interval knows that they share pictures. A
    picture without a caption in a language has no share in that language.

    Args:
        parts: the outcomes, one for each language and seed, whose `rows` are pictures of the test.
        n_pictures: how many pictures the test has.
    """

    def __init__(self, parts: list[Outcomes], n_pictures: int):
        self.parts = parts
        self.n_pictures = n_pictures

    @property
    def n_units(self) -> int:
        return self.n_pictures

    @property
    def items(self) -> dict[str, torch.Tensor]:
        items = {}
        for place, part in enumerate(self.parts):
            items[f"rows of part {place}"] = part.rows
            for name, values in part.items.items():
                items[f"{name} of part {place}"] = values
        return items

    def differing(self, other: "PictureMean") -> dict[str, torch.Tensor]:
        differing = {}
        for part, other_part in zip(self.parts, other.parts):
            for name, differs in part.differing(other_part).items():
                of_pictures = differing.setdefault(name, torch.zeros(self.n_pictures, dtype=torch.bool))
                of_pictures[part.rows[differs]] = True
        return differing

    def score(self, weights: torch.Tensor) -> dict[str, torch.Tensor]:
        """Average the scores of the parts; arguments and result are those of `RetrievalOutcomes.score`."""
        # {metric: [(resamples,) of the first part, of the second, ...]}
        by_metric: dict[str, list[torch.Tensor]] = {}
        for part in self.parts:
            for name, scores in part.score(weights[:, part.rows]).items():
                by_metric.setdefault(name, []).append(scores)
        return {name: torch.stack(scores).mean(0) for name, scores in by_metric.items()}


@dataclass
class Score:
    """A score of a column in a language, or its mean over several, as fractions.

    Attributes:
        value: the mean over seeds.
        low, high: the ends of its 95 % interval under other draws of the pictures.
        seeds: the score of each seed; of one where the model has no seed.
    """

    value: float
    low: float
    high: float
    seeds: list[float]

    def to_cell(self) -> str:
        """Write the mean and its interval in percent: `28.9 (25.1 to 32.8)`.

        Several seeds have their standard deviation: `28.9 ± 0.4 (25.1 to 32.8)`.
        """
        percents = [100 * value for value in self.seeds]
        middle = mean_and_deviation(percents) if len(percents) > 1 else f"{percents[0]:.1f}"
        return f"{middle} ({100 * self.low:.1f} to {100 * self.high:.1f})"


class Results:
    """Results of all models, by column and language.

    Args:
        results: those below the folder of results.

    Raises:
        InputError: as `outcomes`, when they are asked for.
    """

    def __init__(self, results: Iterable[Result], arguments: PhotographsArguments):
        self.arguments = arguments
        self._results = {(result.model_name, result.task, result.language): result for result in results}
        self._outcomes: dict[Path, Outcomes] = {}

    def has(self, column: Column, language: str) -> bool:
        """Check whether there are results of a column in a language, of all seeds."""
        return all(key in self._results for key in self._keys(column, language))

    def n_pictures(self, language: str) -> int:
        """Return how many pictures have a caption in a language."""
        return self._find(COLUMNS["teacher"], language)[0].metrics["n"]

    def outcomes(self, column: Column, languages: list[str]) -> PictureMean:
        """Return the mean of a column over languages and seeds; one without seeds is there for each of them.

        Raises:
            InputError: a result is missing, or of other pictures than the teacher's.
        """
        parts = []
        for language in languages:
            found = self._find(column, language)
            reference = self._find(COLUMNS["teacher"], language)[0]
            for result in found:
                if result.kind == reference.kind and not share_images([reference, result]):
                    raise InputError(
                        f"{result.path} is of other pictures than {reference.path}: delete both, and "
                        "`evaluated` beside the results, and repeat the command"
                    )
                parts.append(self._load(result))
        return PictureMean(parts, found[0].n_rows)

    def score(self, column: Column, languages: list[str]) -> Score:
        """Return the mean recall of a column, over languages.

        Raises:
            InputError: as `outcomes`.
        """
        of_languages = self.outcomes(column, languages)
        return self._score(of_languages, METRICS["retrieval"], self._of_seeds(column, languages))

    def accuracy(self, column: Column) -> Score:
        """Return the top-1 accuracy of a column's model by the English names of the folders.

        Raises:
            InputError: a result is missing.
        """
        of_folders = column._replace(task="folders")
        found = self._find(of_folders, "en")
        parts = [self._load(result) for result in found]
        outcomes = PictureMean(parts, found[0].n_rows)
        return self._score(outcomes, METRICS["zero_shot"], self._of_seeds(of_folders, ["en"]))

    def _score(self, outcomes: PictureMean, metric: str, of_seeds: list[float]) -> Score:
        low, high = intervals(outcomes)[metric]
        return Score(outcomes.metrics()[metric], low, high, of_seeds)

    def _of_seeds(self, column: Column, languages: list[str]) -> list[float]:
        """Return the mean over languages of each seed; one mean for a model without seeds."""
        n_seeds = len(self.arguments.used_seeds) if "{seed}" in column.model else 1
        of_seeds = []
        for place in range(n_seeds):
            found = [self._find(column, language)[place] for language in languages]
            of_seeds.append(mean(result.metrics[METRICS[result.kind]] for result in found))
        return of_seeds

    def _keys(self, column: Column, language: str) -> list[tuple[str, str, str]]:
        task = load_task(getattr(self.arguments, column.task)).name
        seeds = self.arguments.used_seeds
        return [(column.model.format(seed=seed), task, language) for seed in seeds]

    def _find(self, column: Column, language: str) -> list[Result]:
        """Return a result for each seed."""
        found = []
        for key in self._keys(column, language):
            if key not in self._results:
                name, task, _ = key
                raise InputError(
                    f"there is no result of {name} on {task} in {language!r}: delete `evaluated` beside the "
                    "results and repeat the command"
                )
            found.append(self._results[key])
        return found

    def _load(self, result: Result) -> Outcomes:
        if result.path not in self._outcomes:
            self._outcomes[result.path] = result.outcomes()
        return self._outcomes[result.path]


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
        return self.adjusted <= _LEVEL


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
    tested = lower_bounds(torch.stack(resampled), -results.arguments.margin / 100, _LEVEL)
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


def score_table(results: Results) -> dict[str, dict[str, Score]]:
    """Compute the scores of all columns: in each language, and the means of two groups of languages.

    Returns:
        `{language or group: {column: score}}`, without a column where it has no results. English has no
            dictionary, and is in no group.
    """
    arguments = results.arguments
    groups = {language: [language] for language in arguments.trained}
    groups["trained, mean without en"] = arguments.trained[1:]
    groups |= {language: [language] for language in arguments.unseen}
    groups["never trained, mean"] = arguments.unseen
    table = {}
    for group, languages in groups.items():
        table[group] = {}
        for name, column in COLUMNS.items():
            if languages and all(results.has(column, language) for language in languages):
                table[group][name] = results.score(column, languages)
    return {group: columns for group, columns in table.items() if columns}


class _Verdict(NamedTuple):
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


def judge(results: Results) -> list[_Verdict]:
    """Test each claim by the results."""
    arguments = results.arguments
    foreign = arguments.trained[1:]
    stage1 = COLUMNS["stage1"]
    stage2 = COLUMNS["stage2"]

    verdicts = [_judge_reached(results)]
    if foreign:
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


def _judge_reached(results: Results) -> _Verdict:
    """Judge if stage 1 reaches its teacher's English in all trained languages."""
    arguments = results.arguments
    bounds = bound_losses(results, [("stage1", language) for language in arguments.trained])
    by_language = dict(zip(arguments.trained, bounds))
    within = [language for language, bound in by_language.items() if bound.p <= _LEVEL]
    worst = min(by_language, key=lambda language: by_language[language].difference)
    figures = (
        f"less than {arguments.margin:g} points below the teacher's English in {len(within)} of "
        f"{len(by_language)} trained languages{_listed(within)}; the worst is {worst}, "
        f"{_points(by_language[worst].difference)} (above {_points(by_language[worst].bound)})"
    )
    outcome = "shown" if len(within) == len(by_language) else "not shown"
    return _Verdict("Teacher learning reaches the teacher", outcome, figures, by_language)


def _judge_english(results: Results) -> _Verdict:
    """Judge if English is as good as the teacher's after both stages."""
    columns = ["stage1", "stage2"]
    bounds = bound_losses(results, [(column, "en") for column in columns])
    parts = []
    for column, bound in zip(columns, bounds):
        difference = f"{_points(bound.difference)} (above {_points(bound.bound)})"
        parts.append(f"{COLUMNS[column].title} {difference}")
    outcome = "shown" if all(bound.p <= _LEVEL for bound in bounds) else "not shown"
    figures = f"points above the teacher in English: {', '.join(parts)}"
    return _Verdict("English is kept", outcome, figures, dict(zip(columns, bounds)))


def _judge_difference(
    results: Results, claim: str, column: Column, reference: Column, languages: list[str]
) -> _Verdict:
    """Judge by the mean over languages if a column is above another, and name the languages that show it."""
    overall = difference_of_means(results, column, reference, languages)
    by_language = compare_languages(results, column, reference, languages)
    if overall.p > _LEVEL:
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
    return _Verdict(claim, outcome, figures, {"mean": overall, **by_language})


def _listed(languages: list[str]) -> str:
    return f" ({' '.join(languages)})" if languages else ""


def _points(fraction: float) -> str:
    """Write a difference of fractions in points with its sign: -0.0123 -> "-1.2"."""
    return f"{100 * fraction:+.1f}"


def _probability(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


@dataclass
class Comparison:
    """All that is found, as it is written to files.

    Attributes:
        arguments: of the experiment.
        table: `{language or group: {column: score}}`, see `score_table`.
        n_pictures: `{language: pictures with a caption}`.
        verdicts: one for each claim.
        accuracies: `{column: top-1 accuracy}` by the English names of the folders.
        found: `{language: share of the words that its dictionary has}`.
    """

    arguments: PhotographsArguments
    table: dict[str, dict[str, Score]]
    n_pictures: dict[str, int]
    verdicts: list[_Verdict]
    accuracies: dict[str, Score]
    found: dict[str, float]

    def to_markdown(self) -> str:
        """Write the verdicts and both tables."""
        parts = ["# Real pictures in many languages", "## What is shown", self._list_verdicts()]
        parts += ["## Retrieval", self._describe_table(), self._format_table()]
        parts += ["## Classification by the names of folders", self._format_accuracies()]
        return "\n\n".join(parts) + "\n"

    def to_json(self) -> str:
        """Write all figures, as fractions."""
        verdicts = {}
        for verdict in self.verdicts:
            tests = {name: asdict(test) for name, test in verdict.tests.items()}
            verdicts[verdict.claim] = {"outcome": verdict.outcome, "figures": verdict.figures, "tests": tests}
        table = {}
        for group, columns in self.table.items():
            table[group] = {name: asdict(score) for name, score in columns.items()}
        content = {
            "trained": self.arguments.trained,
            "unseen": self.arguments.unseen,
            "seeds": self.arguments.used_seeds,
            "n_pictures": self.n_pictures,
            "mean_recall": table,
            "accuracy@1": {name: asdict(score) for name, score in self.accuracies.items()},
            "words_found": self.found,
            "verdicts": verdicts,
        }
        return json.dumps(content, indent=1, ensure_ascii=False) + "\n"

    def _list_verdicts(self) -> str:
        lines = [f"- {verdict.claim}: **{verdict.outcome}**, {verdict.figures}." for verdict in self.verdicts]
        return "\n".join(lines)

    def _describe_table(self) -> str:
        seeds = self.arguments.used_seeds
        of_seeds = "of one seed"
        if len(seeds) > 1:
            of_seeds = f"the mean of {len(seeds)} seeds with their standard deviation"
        shares = self.found.values()
        words = ""
        if self.found:
            words = (
                f" The dictionaries, made of the same parallel text, have {mean(shares):.0%} of the words of "
                f"the captions, from {_least(self.found)} to {_most(self.found)}."
            )
        return (
            "Mean recall in percent (R@1, R@5 and R@10, text to image and image to text), "
            f"{of_seeds}, with its 95 % interval under other draws of the pictures. All columns of a row "
            "are on the pictures that have a caption in its language, n of them: compare columns, not rows. "
            f"Tests are paired, by {self.arguments.n_resamples:,} resamples of the pictures, and those of "
            f"several languages are significant at {_LEVEL:.0%} together by Holm's procedure.{words}"
        )

    def _format_table(self) -> str:
        rows = []
        for group, columns in self.table.items():
            is_trained = group in self.arguments.trained
            what = "trained" if is_trained else "never trained"
            n = self.n_pictures.get(group)
            label = f"{group}, {what}" if n else group
            cells = [columns[name].to_cell() if name in columns else _MISSING for name in COLUMNS]
            rows.append([label, n or "", *cells])
        titles = [column.title for column in COLUMNS.values()]
        return format_table(["language", "n", *titles], rows)

    def _format_accuracies(self) -> str:
        rows = [[COLUMNS[name].title, score.to_cell()] for name, score in self.accuracies.items()]
        return format_table(["", "top-1 accuracy by English names"], rows)


def _least(found: dict[str, float]) -> str:
    language = min(found, key=found.get)
    return f"{found[language]:.0%} in {language}"


def _most(found: dict[str, float]) -> str:
    language = max(found, key=found.get)
    return f"{found[language]:.0%} in {language}"


def compare_models(arguments: PhotographsArguments) -> Comparison:
    """Compute all figures from the results of all models.

    Raises:
        InputError: a result is missing, damaged or of other pictures.
    """
    results = Results(load_results(Path(arguments.output_dir, "results")), arguments)
    return Comparison(
        arguments=arguments,
        table=score_table(results),
        n_pictures={language: results.n_pictures(language) for language in arguments.languages},
        verdicts=judge(results),
        accuracies={
            name: results.accuracy(column) for name, column in COLUMNS.items() if name != "dictionary"
        },
        found=json.loads(arguments.folder(BY_DICTIONARY).joinpath(FOUND).read_text("utf-8")),
    )


def save_comparison(comparison: Comparison) -> None:
    """Write `photographs.md`, `photographs.json` and `photographs.png` into the output folder."""
    folder = Path(comparison.arguments.output_dir)
    write_text(folder / "photographs.md", comparison.to_markdown())
    write_text(folder / "photographs.json", comparison.to_json())
    plot_comparison(comparison, folder / "photographs.png")


def plot_comparison(comparison: Comparison, picture: Path) -> None:
    """Draw a line for each language, with a dot and an interval for each column."""
    groups = list(comparison.table)
    figure = Figure(figsize=(9, 1.5 + 0.42 * len(groups)), layout="constrained")
    axes = figure.subplots()
    for place, (name, column) in enumerate(COLUMNS.items()):
        # The dots of a language are a little apart, or their intervals would cover one another.
        offset = 0.12 * (place - (len(COLUMNS) - 1) / 2)
        rows = [row for row, group in enumerate(groups) if name in comparison.table[group]]
        scores = [comparison.table[groups[row]][name] for row in rows]
        values = [100 * score.value for score in scores]
        below = [100 * max(0, score.value - score.low) for score in scores]
        above = [100 * max(0, score.high - score.value) for score in scores]
        axes.errorbar(
            values,
            [row + offset for row in rows],
            xerr=[below, above],
            fmt="o",
            markersize=4,
            elinewidth=1,
            color=_COLORS[name],
            label=column.title,
        )
    _label_groups(axes, groups, comparison)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=8)
    save_figure(figure, picture, dpi=110)


def _label_groups(axes, groups: list[str], comparison: Comparison) -> None:
    labels = []
    for group in groups:
        n = comparison.n_pictures.get(group)
        labels.append(f"{group} ({n})" if n else group)
    axes.set_yticks(range(len(groups)), labels)
    for group, label in zip(groups, axes.get_yticklabels()):
        if group not in comparison.n_pictures:  # a mean
            label.set_fontweight("bold")
    axes.set_ylim(len(groups) - 0.4, -0.6)  # the first language is at the top
    # A stripe for every other language, since each has several dots.
    for row in range(0, len(groups), 2):
        axes.axhspan(row - 0.5, row + 0.5, color="black", alpha=0.05, linewidth=0)
    axes.set_xlim(left=0)
    axes.set_xlabel("mean recall in percent, with 95 % intervals; behind a language its number of pictures")
    axes.grid(axis="x", alpha=0.3)


__all__ = [
    "COLUMNS",
    "Column",
    "Comparison",
    "PictureMean",
    "Results",
    "Score",
    "bound_losses",
    "compare_languages",
    "compare_models",
    "difference_of_means",
    "judge",
    "plot_comparison",
    "save_comparison",
    "score_table",
]
