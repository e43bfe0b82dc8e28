"""From results to a report:

Tables in the papers' layouts, what is missing, and what the comparison says in words.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from .commands import evaluation_programs
from .comparison import SIGNIFICANT, Comparison, Number, is_rank
from .loading import find_language
from .means import MEAN, MEANS, SHARED_MEAN, list_refusals
from .prompts import OURS
from .recipe import InputError
from .results import Result, format_table, load_results
from .uncertainty import Difference

AXES = ("model", "task", "language", "metric")
GAP = "–"
LABELS = {
    "mean_recall": "mean recall",
    "accuracy@1": "top-1 accuracy",
    "accuracy@5": "top-5 accuracy",
    "mean_per_class": "mean per class",
    "mean_top1_top5": "mean of top-1 and top-5",
    "map_11_point": "11-point mAP",
    "roc_auc": "ROC AUC",
}
SHORT = {"text_to_image": "T2I", "image_to_text": "I2T"}
LEGEND = (
    "Percent ± half the width of the 95 % bootstrap interval over images; ±0.0 at 0 or 100 % says that these "
    "images all agree, and not that others would. **Bold**: the best of several models. "
    "≈: a paired bootstrap on the same images does not tell the model from the best (p ≥ 0.05, each pair by "
    "itself; fewer than six images on which they differ are never enough). "
    "°: measured on other items than the best, so not tested. "
    f"{GAP}: not measured."
)


@dataclass(kw_only=True)
class TableArguments:
    """What a report's tables look like. A number has a model, a task, a language and a metric: two of them
    are laid out in rows and columns, and there is a table for each of the others.
    """

    title: str = field(default="Results", metadata={"help": "Heading of the report."})
    about: str = field(default="", metadata={"help": "A paragraph below the heading."})
    metrics: list[str] | None = field(
        default=None, metadata={"help": "Metrics to show; each task's own by default."}
    )
    rows: str = field(default="model", metadata={"help": "model, task, language or metric."})
    columns: str = field(default="task", metadata={"help": "Another of them."})
    paper_model: str | None = field(
        default=None, metadata={"help": "Hold all models against this one's printed numbers: BAAI/AltCLIP."}
    )

    def __post_init__(self):
        for name in ("rows", "columns"):
            if getattr(self, name) not in AXES:
                raise InputError(f"{name} is {getattr(self, name)!r}: choose from {' '.join(AXES)}")
        if self.rows == self.columns:
            raise InputError(f"rows and columns are both {self.rows!r}: they must differ")
        if "metric" in (self.rows, self.columns) and not self.metrics:
            raise InputError("with metric in rows or columns, name the metrics")


@dataclass(kw_only=True)
class ReportArguments:
    """What to report on; the names are those of the scripts that evaluate, so that a recipe serves both."""

    output_dir: str = field(
        metadata={"help": "Where the report goes, and where the results are unless --results says otherwise."}
    )
    results: list[str] | None = field(
        default=None, metadata={"help": "Folders with results; output_dir by default."}
    )
    models: list[str] | None = field(
        default=None, metadata={"help": "Models, in the order to show them; all by default."}
    )
    tasks: list[str] | None = field(default=None, metadata={"help": "Tasks, likewise."})
    languages: list[str] | None = field(default=None, metadata={"help": "Languages, likewise."})


@dataclass
class Table:
    """Numbers in rows and columns; a number that was not measured is None."""

    heading: str
    corner: str
    columns: list[str]
    rows: list[tuple[str, list[Number | None]]]

    def to_markdown(self) -> str:
        rows = []
        for name, numbers in self.rows:
            rows.append([name, *map(cell, numbers)])
        return format_table([self.corner, *self.columns], rows)


def select_results(
    folders: Iterable[str], models: list[str] | None, tasks: list[str] | None, languages: list[str] | None
) -> tuple[list[Result], list[str]]:
    """Select results by model, task and language.

    Args:
        models, tasks, languages: those to select, all by default. A task is named as in its results, or by
        its YAML file.

    Returns:
        The results in the order of the names, and which of the names have no result.

    Raises:
        InputError: there is no result at all, or a folder does not exist.
    """
    results = []
    for folder in folders:
        if not Path(folder).is_dir():
            raise InputError(
                f"results folder {folder!r} does not exist: evaluate first, with {evaluation_programs()}"
            )
        results += load_results(Path(folder))
    if tasks is not None:
        tasks = [_task_name(task) for task in tasks]
    if languages is not None:
        available = _values(results, "language")
        languages = [find_language(language, available) or language for language in languages]
    requested = {"model": models, "task": tasks, "language": languages}

    kept = results
    for axis, names in requested.items():
        if names is not None:
            kept = [result for result in kept if getattr(result, axis) in names]
    if not kept:
        raise InputError(_nothing_found(folders, results, requested))

    # Without names the order is that of the results.
    order = {axis: names or _values(kept, axis) for axis, names in requested.items()}
    absent = []
    for axis, names in order.items():
        found = _values(kept, axis)
        absent += [name for name in names if name not in found]

    def place(result: Result) -> list[int]:
        return [names.index(getattr(result, axis)) for axis, names in order.items()]

    return sorted(kept, key=place), absent


def _task_name(task: str) -> str:
    """Return the name of a task that is given by its name or its YAML file."""
    return Path(task).stem if task.endswith((".yaml", ".yml")) else task


def _values(results: list[Result], axis: str) -> list[str]:
    """Return the distinct models, tasks or languages of results, in order."""
    return list(dict.fromkeys(getattr(result, axis) for result in results))


def _nothing_found(
    folders: Iterable[str], results: list[Result], requested: dict[str, list[str] | None]
) -> str:
    """Return the error of a selection without results: what was requested, and what is available."""
    wanted = "; ".join(f"{axis} {' '.join(names)}" for axis, names in requested.items() if names)
    message = f"no results in {' '.join(folders)} for {wanted or 'any model'}: evaluate first"
    if not results:
        return message
    available = [f"{axis} {' '.join(sorted(_values(results, axis)))}" for axis in requested]
    return f"{message}, or name what is there: {'; '.join(available)}"


def make_tables(comparison: Comparison, numbers: list[Number], arguments: TableArguments) -> list[Table]:
    """Lay numbers out in rows and columns, with a table for each combination of the other two axes.

    A model that lacks a number is shown with a gap. The metric stands in a table's heading, or where its
    tasks have several metrics, beside each task.
    """
    own_metrics = arguments.metrics is None  # each task's own: they do not tell numbers apart
    order = {axis: comparison.values(axis) for axis in ("model", "task", "language")}
    order["metric"] = [""] if own_metrics else arguments.metrics
    cells = {}
    for number in numbers:
        metric = "" if own_metrics else number.metric
        cells[number.model, number.task, number.language, metric] = number

    # With models in rows and tasks in columns, there is a table for each language and metric.
    others = [axis for axis in AXES if axis not in (arguments.rows, arguments.columns)]
    tables = []
    for section in product(*(order[axis] for axis in others)):
        fixed = dict(zip(others, section))
        in_section = {place: number for place, number in cells.items() if _lies_in(place, fixed)}
        if in_section:
            tables.append(_make_table(comparison, in_section, fixed, order, arguments))
    return tables


def _lies_in(place: tuple[str, ...], fixed: dict[str, str]) -> bool:
    """Say whether a number's `(model, task, language, metric)` has the values of a table's fixed axes."""
    return all(place[AXES.index(axis)] == value for axis, value in fixed.items())


def _make_table(
    comparison: Comparison,
    cells: dict[tuple[str, ...], Number],
    fixed: dict[str, str],
    order: dict[str, list[str]],
    arguments: TableArguments,
) -> Table:
    """Lay out the numbers of one table, `{(model, task, language, metric): number}`."""
    names = short_names(comparison.values("model"))
    metrics = list(dict.fromkeys(number.metric for number in cells.values()))
    titles = names | _title_of_shared_mean(cells.values())
    if arguments.metrics is None and len(metrics) > 1:
        for number in cells.values():
            titles[number.task] = f"{number.task}, {label(number.metric, {})}"

    row_values = _shown_values(arguments.rows, order, cells)
    column_values = _shown_values(arguments.columns, order, cells)
    rows = []
    for row in row_values:
        numbers = []
        for column in column_values:
            place = fixed | {arguments.rows: row, arguments.columns: column}
            numbers.append(cells.get(tuple(place[axis] for axis in AXES)))
        rows.append((label(row, titles), numbers))

    heading = [label(value, names) for axis, value in fixed.items() if value and axis != "metric"]
    if len(metrics) == 1:
        heading.append(label(metrics[0], {}))
    columns = [label(column, titles) for column in column_values]
    return Table(", ".join(heading), arguments.rows, columns, rows)


def _shown_values(axis: str, order: dict[str, list[str]], cells: dict[tuple[str, ...], Number]) -> list[str]:
    """Return the values of an axis that a table shows:

    Every model, and of the others those that have a number.
    """
    if axis == "model":
        return order[axis]
    found = {place[AXES.index(axis)] for place in cells}
    return [value for value in order[axis] if value in found]


def _title_of_shared_mean(numbers: Iterable[Number]) -> dict[str, str]:
    """Return the title `mean of 20 shared images`, where all means of a table are over equally many."""
    counts = {number.n for number in numbers if number.language == SHARED_MEAN}
    if len(counts) != 1:
        return {}
    return {SHARED_MEAN: f"mean of {counts.pop():,} shared images"}


def cell(number: Number | None) -> str:
    """Format a number as `72.4 ±1.4`, with the marks that `LEGEND` explains."""
    if number is None:
        return GAP
    value = format_value(number)
    if number.best:
        value = f"**{value}**"
    mark = ""
    if number.tied:
        mark = "≈"
    elif number.untested:
        mark = "°"
    parts = [value, format_half_width(number), mark]
    return " ".join(part for part in parts if part)


def format_value(number: Number) -> str:
    """Format a number as a percentage, or a rank as it is."""
    if is_rank(number.metric):
        return f"{number.value:g}"
    return f"{100 * number.value:.1f}"


def format_half_width(number: Number) -> str:
    """Format half the width of a number's interval, where it has one."""
    if number.interval is None:
        return ""
    low, high = number.interval
    half = (high - low) / 2
    if is_rank(number.metric):
        return f"±{half:g}"
    return f"±{100 * half:.1f}"


def count_gaps(comparison: Comparison, numbers: list[Number]) -> dict[str, tuple[int, int]]:
    """Return `{model: (numbers it lacks, numbers that any model has)}` of the models that lack some."""
    measured: dict[str, set] = {model: set() for model in comparison.values("model")}
    wanted = set()
    for number in numbers:
        place = number.task, number.language, number.metric
        measured[number.model].add(place)
        if number.language not in MEANS:
            wanted.add(place)
    lacking = {}
    for model, places in measured.items():
        n_missing = len(wanted - places)
        if n_missing:
            lacking[model] = n_missing, len(wanted)
    return lacking


def caveats(comparison: Comparison) -> list[str]:
    """Return notes on the items behind the numbers.

    They name tasks without a mean, models of which different weights were evaluated, models that were
    evaluated with other prompts, and class names that nobody has proofread.
    """
    names = short_names(comparison.values("model"))
    return [
        *_refused_means(comparison, names),
        *_other_weights(comparison, names),
        *_other_prompts(comparison, names),
        *_unread_class_names(comparison),
    ]


def _refused_means(comparison: Comparison, names: dict[str, str]) -> list[str]:
    """Return a note for each task of which some models have no mean over languages."""
    notes = []
    for task, refusals in comparison.refusals.items():
        reasons = {names[model]: reason for model, reason in refusals.items()}
        averaged = [name for model, name in names.items() if (model, task, MEAN) in comparison.results]
        notes += list_refusals(task, reasons, averaged)
    return notes


def _other_prompts(comparison: Comparison, names: dict[str, str]) -> list[str]:
    """Return a note for each task whose models were evaluated with different prompts."""
    prompts_of: dict[tuple[str, str], dict[str, str]] = {}
    for (model, task, language), result in comparison.results.items():
        if result.prompts is not None:
            prompts_of.setdefault((task, language), {})[model] = result.prompts

    # Languages in which the same models differ share a note.
    languages_of: dict[tuple[str, str, str], list[str]] = {}
    for (task, language), prompts in prompts_of.items():
        first, *rest = prompts
        differing = [names[model] for model in rest if prompts[model] != prompts[first]]
        if differing:
            models = task, names[first], ", ".join(differing)
            languages_of.setdefault(models, []).append(language)
    notes = []
    for (task, first, differing), languages in languages_of.items():
        notes.append(f"{task} in {', '.join(languages)}: asked with other prompts than {first}: {differing}.")
    return notes


def _unread_class_names(comparison: Comparison) -> list[str]:
    """Return a note for each language whose class names come with this package."""
    tasks_of: dict[str, set[str]] = {}
    for (_, task, language), result in comparison.results.items():
        if named_by_us(result):
            tasks_of.setdefault(language, set()).add(task)
    notes = []
    for language, tasks in tasks_of.items():
        where = f"{', '.join(sorted(tasks))} in {language}"
        notes.append(f"{where}: the names of classes are ours, by a language model, not proofread.")
    return notes


def _other_weights(comparison: Comparison, names: dict[str, str]) -> list[str]:
    """Return a note for each model whose weights changed between one result and another."""
    notes = []
    for model, name in names.items():
        # The beginning of the weights' hash -> task -> languages.
        measured: dict[str, dict[str, list[str]]] = {}
        for (of_model, task, language), result in comparison.results.items():
            if of_model == model and language not in MEANS:
                measured.setdefault(result.weights[:8], {}).setdefault(task, []).append(language)
        if len(measured) > 1:
            each = []
            for weights, languages_of in measured.items():
                tasks = [f"{task} in {' '.join(languages)}" for task, languages in languages_of.items()]
                each.append(f"{weights} ({', '.join(tasks)})")
            notes.append(
                f"{name} was measured with different weights, of which there is no mean: {'; '.join(each)}. "
                "Evaluate one of them on all."
            )
    return notes


def named_by_us(result: Result) -> bool:
    """Say whether the class names of a result come with this package."""
    source = result.definition.get("class_names")
    if isinstance(source, dict):
        source = source.get(result.language)
    return isinstance(source, str) and source.startswith(f"{OURS}:")


def describe(comparison: Comparison) -> list[tuple[str, str]]:
    """Describe each task in words: who leads by its own metric, by how much, and in how many languages
    surely.

    Returns:
        `(task and metric, sentences)` for each task.
    """
    return [_describe_task(comparison, task) for task in comparison.values("task")]


def _describe_task(comparison: Comparison, task: str) -> tuple[str, str]:
    """Describe one task:

    The model with the most languages leads, and among these the one with the best mean.
    """
    names = short_names(comparison.values("model"))
    of_task = {key: result for key, result in comparison.results.items() if key[1] == task}
    metric = next(iter(of_task.values())).metric
    by_model: dict[str, dict[str, Result]] = {}
    for (model, _, language), result in of_task.items():
        if language not in MEANS:
            by_model.setdefault(model, {})[language] = result

    def strength(model: str) -> tuple[int, float]:
        scores = [result.metrics[metric] for result in by_model[model].values()]
        return len(scores), sum(scores) / len(scores)

    leader = max(by_model, key=strength)
    sentences = [_describe_leader(comparison, names[leader], by_model[leader], metric)]
    for model, results in by_model.items():
        shared = [language for language in by_model[leader] if language in results]
        if model != leader and shared:
            pair = _Pair(comparison, leader, model, task, metric, shared)
            sentences.append(_describe_pair(pair, names[model]))
    return f"{task}, {label(metric, {})}", " ".join(sentences)


def _describe_leader(comparison: Comparison, name: str, results: dict[str, Result], metric: str) -> str:
    """Describe the scores of the leader: its mean over languages and its worst and best language."""
    languages = list(results)
    first = results[languages[0]]
    ordered = sorted(languages, key=lambda language: results[language].metrics[metric])
    worst, best = [
        f"{100 * results[language].metrics[metric]:.1f} in {language}"
        for language in (ordered[0], ordered[-1])
    ]
    whole = comparison.results.get((first.model, first.task, MEAN))
    if len(languages) == 1:
        whole = first

    if whole is None:
        words = f"In {len(languages)} languages {name} scores, in percent, from {worst} to {best}"
        shared = comparison.results.get((first.model, first.task, SHARED_MEAN))
        if shared is None:
            return f"{words}."
        return f"{words}{_describe_shared_mean(shared, metric)}."
    low, high = whole.intervals[metric]
    score = f"{name} scores {100 * whole.metrics[metric]:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
    if whole is first:
        return f"{score} in {languages[0]}."
    return f"{score} in the mean of {len(languages)} languages, from {worst} to {best}."


def _describe_shared_mean(result: Result, metric: str) -> str:
    low, high = result.intervals[metric]
    score = f"{100 * result.metrics[metric]:.1f} ({100 * low:.1f} to {100 * high:.1f})"
    return f"; in their mean {_on_shared(result.metrics['n'])}, {score}"


def _on_shared(n: int) -> str:
    return f"on the {n:,} images that all have"


@dataclass
class _Pair:
    """The leader of a task beside another model, in the languages that both were evaluated in."""

    comparison: Comparison
    leader: str
    model: str
    task: str
    metric: str
    languages: list[str]

    def differences(self) -> list[Difference | None]:
        """Return the difference in each language, None where the items differ."""
        return [self._difference(language) for language in self.languages]

    def overall_difference(self) -> Difference | None:
        """Return the difference over all languages, None where there is no mean."""
        if len(self.languages) == 1:
            return self._difference(self.languages[0])
        results = self.comparison.results
        both = [
            mean
            for mean in MEANS
            if (self.leader, self.task, mean) in results and (self.model, self.task, mean) in results
        ]
        if both and self.languages == self.comparison.languages_of(self.leader, self.task):
            return self._difference(both[0])
        return self.comparison.mean_difference(
            self.leader, self.model, self.task, self.languages, self.metric
        )

    def place(self) -> str:
        """Return the language, or of which mean the overall difference is."""
        if len(self.languages) == 1:
            return f"in {self.languages[0]}"
        mean = self.comparison.mean_outcomes(self.leader, self.task, self.languages)
        words = f"in the mean of {len(self.languages)} languages"
        return words if mean.is_whole else f"{words}, {_on_shared(mean.n_units)}"

    def _difference(self, language: str) -> Difference | None:
        return self.comparison.difference(self.leader, self.model, self.task, language, self.metric)


def _describe_pair(pair: _Pair, name: str) -> str:
    """Describe how far the leader is ahead of another model, called `name`."""
    each = pair.differences()
    if None in each:
        return f"{name} was measured on other items."
    sides = _describe_sides(each)
    whole = pair.overall_difference()
    if whole is None:
        beside = f"Beside {name} in {len(pair.languages)} languages, of which there is no mean"
        return f"{beside}, by itself each: {sides or 'in none can it be told'}."

    ends = f"{points(whole.low)} to {points(whole.high)}"
    if whole.p >= SIGNIFICANT:
        difference = f"{points(whole.difference)} points"
        sentence = f"It cannot be told from {name} {pair.place()} ({difference}, {ends})"
    else:
        side = "ahead of" if whole.difference > 0 else "behind"
        difference = f"{100 * abs(whole.difference):.1f} points"
        sentence = f"It is {side} {name} by {difference} {pair.place()} ({ends})"

    if len(pair.languages) == 1:
        return f"{sentence}."
    if sides:
        return f"{sentence}; by itself each, {sides}."
    return f"{sentence}; in no language by itself can it be told."


def _describe_sides(differences: list[Difference]) -> str:
    """Return `ahead in 3 of them and behind in 1 of them`, of the languages in which the models can be told
    apart.
    """
    significant = [one.difference for one in differences if one.p < SIGNIFICANT]
    n_ahead = sum(difference > 0 for difference in significant)
    n_behind = sum(difference < 0 for difference in significant)
    sides = []
    if n_ahead:
        sides.append(f"ahead in {n_ahead} of them")
    if n_behind:
        sides.append(f"behind in {n_behind} of them")
    return " and ".join(sides)


def points(fraction: float) -> str:
    """Format a difference of fractions in percentage points, with its sign."""
    return f"{100 * fraction:+.1f}".replace("-", "−")


def short_names(models: list[str]) -> dict[str, str]:
    """Return the last part of each model's path, where that is enough to tell the models apart.

    Of `m_clip:TEXT+IMAGE` it is the last part of the text model's.
    """
    last_parts = []
    for model in models:
        path = model.partition("+")[0] if ":" in model else model
        last_parts.append(Path(path).name)
    names = {}
    for model, last_part in zip(models, last_parts):
        is_unique = last_parts.count(last_part) == 1
        names[model] = last_part if is_unique else model
    return names


def label(value: str, names: dict[str, str]) -> str:
    """Return the title of a model, task, language or metric in a table."""
    direction, _, rest = value.partition("_recall@")
    if direction in SHORT:
        return f"{SHORT[direction]} R@{rest}"
    direction, _, rest = value.partition("_rank_p")
    if direction in SHORT:
        return f"{SHORT[direction]} rank, {rest}th percentile"
    return names.get(value) or LABELS.get(value, value)
