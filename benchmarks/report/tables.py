"""Contents of a report: tables in the papers' layouts, gaps, caveats, and findings in words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import NamedTuple

from ..bootstrap import Difference
from ..commands import evaluation_programs
from ..loading import find_language
from ..recipe import InputError
from ..results import Result, format_table, load_results
from ..tasks.prompt_lists import OURS
from .comparison import SIGNIFICANT, Comparison, Number, is_rank
from .means import MEAN, MEANS, SHARED_MEAN, list_refusals

GAP = "–"
# Titles of metrics; those of recalls and ranks follow from their names, see `label`.
_LABELS = {
    "mean_recall": "mean recall",
    "accuracy@1": "top-1 accuracy",
    "accuracy@5": "top-5 accuracy",
    "mean_per_class": "mean per class",
    "mean_top1_top5": "mean of top-1 and top-5",
    "map_11_point": "11-point mAP",
    "roc_auc": "ROC AUC",
}
_SHORT = {"text_to_image": "T2I", "image_to_text": "I2T"}
LEGEND = (
    "Percent ± half the width of the 95 % bootstrap interval over images; ±0.0 at 0 or 100 % says that these "
    "images all agree, and not that others would. **Bold**: the best of several models. "
    "≈: a paired bootstrap on the same images does not tell the model from the best (p ≥ 0.05, each pair by "
    "itself; fewer than six images on which they differ are never enough). "
    "°: measured on other items than the best, so not tested. "
    f"{GAP}: not measured."
)


class _Place(NamedTuple):
    """Place of a number in the tables. The metric is "" where each task is shown by its own."""

    model: str
    task: str
    language: str
    metric: str

    def lies_in(self, fixed: dict[str, str]) -> bool:
        """Check if the place is in the table with these values of its fixed axes."""
        return all(getattr(self, axis) == value for axis, value in fixed.items())


_AXES = _Place._fields


@dataclass(kw_only=True)
class TableArguments:
    """Layout of a report's tables.

    A number has a model, a task, a language and a metric. Two of these axes are laid out in rows and columns,
    and there is a table for each combination of the other two.
    """

    title: str = field(default="Results", metadata={"help": "Heading of the report."})
    about: str = field(default="", metadata={"help": "A paragraph below the heading."})
    metrics: list[str] | None = field(
        default=None, metadata={"help": "Metrics to show; each task's own by default."}
    )
    rows: str = field(
        default="model", metadata={"help": "Axis laid out in rows: model, task, language or metric."}
    )
    columns: str = field(
        default="task",
        metadata={"help": "Axis laid out in columns: one of the same names, but another than in rows."},
    )
    paper_model: str | None = field(
        default=None, metadata={"help": "Compare all models with this one's published numbers: BAAI/AltCLIP."}
    )

    def __post_init__(self):
        for name, axis in (("rows", self.rows), ("columns", self.columns)):
            if axis not in _AXES:
                raise InputError(f"{name} is {axis!r}: choose from {' '.join(_AXES)}")
        if self.rows == self.columns:
            raise InputError(f"rows and columns are both {self.rows!r}: they must differ")
        if "metric" in (self.rows, self.columns) and not self.metrics:
            raise InputError("with metric in rows or columns, name the metrics")


@dataclass(kw_only=True)
class ReportArguments:
    """Selection of results. Names are those of the evaluation scripts, so that a recipe serves both."""

    output_dir: str = field(
        metadata={"help": "Folder for the report, and with the results unless --results names others."}
    )
    results: list[str] | None = field(
        default=None, metadata={"help": "Folders with results; output_dir by default."}
    )
    models: list[str] | None = field(
        default=None, metadata={"help": "Models, in the order to show them; all by default."}
    )
    tasks: list[str] | None = field(
        default=None, metadata={"help": "Tasks, in the order to show them; all by default."}
    )
    languages: list[str] | None = field(
        default=None, metadata={"help": "Languages, in the order to show them; all by default."}
    )


@dataclass
class Table:
    """Numbers in rows and columns; a number that was not measured is None.

    `corner` is the title of the column with the names of the rows.
    """

    heading: str
    corner: str
    columns: list[str]
    rows: list[tuple[str, list[Number | None]]]

    def to_markdown(self) -> str:
        rows = []
        for name, numbers in self.rows:
            rows.append([name, *map(_format_cell, numbers)])
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
    results = _load_all(folders)
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

    # {"model": ["org/b", "org/a"], "task": [...], "language": [...]}; without names in the order of results.
    order = {axis: names or _values(kept, axis) for axis, names in requested.items()}
    absent = []
    for axis, names in order.items():
        found = _values(kept, axis)
        absent += [name for name in names if name not in found]

    def place(result: Result) -> list[int]:
        return [names.index(getattr(result, axis)) for axis, names in order.items()]

    return sorted(kept, key=place), absent


def _load_all(folders: Iterable[str]) -> list[Result]:
    """Load the results of all folders.

    Raises:
        InputError: a folder does not exist.
    """
    results = []
    for folder in folders:
        if not Path(folder).is_dir():
            raise InputError(
                f"results folder {folder!r} does not exist: evaluate first, with {evaluation_programs()}"
            )
        results += load_results(Path(folder))
    return results


def _task_name(task: str) -> str:
    """Return the name of a task that is given by its name or its YAML file."""
    return Path(task).stem if task.endswith((".yaml", ".yml")) else task


def _values(results: list[Result], axis: str) -> list[str]:
    """Return the distinct models, tasks or languages of results, in order."""
    return list(dict.fromkeys(getattr(result, axis) for result in results))


def _nothing_found(
    folders: Iterable[str], results: list[Result], requested: dict[str, list[str] | None]
) -> str:
    """Return the message for a selection without results: which names were requested, and which exist."""
    wanted = []  # ["model org/a org/b", "language en"]
    available = []  # of each axis, in the same form
    for axis, names in requested.items():
        available.append(" ".join([axis, *sorted(_values(results, axis))]))
        if names:
            wanted.append(" ".join([axis, *names]))

    selection = "; ".join(wanted) or "any model"
    message = f"no results in {' '.join(folders)} for {selection}: evaluate first"
    if not results:
        return message
    return f"{message}, or name what is there: {'; '.join(available)}"


def make_tables(comparison: Comparison, numbers: list[Number], arguments: TableArguments) -> list[Table]:
    """Lay numbers out in rows and columns, with a table for each combination of the other two axes.

    A model that lacks a number is shown with a gap. The metric stands in a table's heading, or where its
    tasks have several metrics, beside each task.
    """
    order = {axis: comparison.values(axis) for axis in ("model", "task", "language")}
    order["metric"] = [""] if arguments.metrics is None else arguments.metrics
    cells: dict[_Place, Number] = {}
    for number in numbers:
        metric = "" if arguments.metrics is None else number.metric
        cells[_Place(number.model, number.task, number.language, metric)] = number

    # With models in rows and tasks in columns, there is a table for each language and metric.
    others = [axis for axis in _AXES if axis not in (arguments.rows, arguments.columns)]
    tables = []
    for section in product(*(order[axis] for axis in others)):
        fixed = dict(zip(others, section))
        in_section = {place: number for place, number in cells.items() if place.lies_in(fixed)}
        if in_section:
            tables.append(_make_table(comparison, in_section, fixed, order, arguments))
    return tables


def _make_table(
    comparison: Comparison,
    cells: dict[_Place, Number],
    fixed: dict[str, str],
    order: dict[str, list[str]],
    arguments: TableArguments,
) -> Table:
    """Lay out the numbers of one table.

    Args:
        fixed: the values of the two axes that are the same in all cells.
        order: all values of each axis.
    """
    names = short_names(comparison.values("model"))
    metrics = list(dict.fromkeys(number.metric for number in cells.values()))
    titles = names | _title_of_shared_mean(cells.values())
    if arguments.metrics is None and len(metrics) > 1:
        # "imagenet, top-1 accuracy": the heading cannot name the metric.
        for number in cells.values():
            titles[number.task] = f"{number.task}, {label(number.metric, {})}"

    row_values = _shown_values(arguments.rows, order, cells)
    column_values = _shown_values(arguments.columns, order, cells)
    rows = []
    for row in row_values:
        numbers = []
        for column in column_values:
            place = _Place(**fixed, **{arguments.rows: row, arguments.columns: column})
            numbers.append(cells.get(place))
        rows.append((label(row, titles), numbers))

    heading = [label(value, names) for axis, value in fixed.items() if value and axis != "metric"]
    if len(metrics) == 1:
        heading.append(label(metrics[0], {}))
    columns = [label(column, titles) for column in column_values]
    return Table(", ".join(heading), arguments.rows, columns, rows)


def _shown_values(axis: str, order: dict[str, list[str]], cells: dict[_Place, Number]) -> list[str]:
    """Return the values of an axis that a table shows.

    These are all models, and of other axes the values that have a number.
    """
    if axis == "model":
        return order[axis]
    found = {getattr(place, axis) for place in cells}
    return [value for value in order[axis] if value in found]


def _title_of_shared_mean(numbers: Iterable[Number]) -> dict[str, str]:
    """Return the title `mean of 20 shared images`, where all means of a table are over equally many."""
    counts = {number.n for number in numbers if number.language == SHARED_MEAN}
    if len(counts) != 1:
        return {}
    return {SHARED_MEAN: f"mean of {counts.pop():,} shared images"}


def _format_cell(number: Number | None) -> str:
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
    return _format_percent(number.value)


def format_half_width(number: Number) -> str:
    """Format half the width of a number's interval, where it has one."""
    if number.interval is None:
        return ""
    low, high = number.interval
    half = (high - low) / 2
    if is_rank(number.metric):
        return f"±{half:g}"
    return f"±{_format_percent(half)}"


def count_gaps(comparison: Comparison, numbers: list[Number]) -> dict[str, tuple[int, int]]:
    """Return `{model: (numbers it lacks, numbers that any model has)}` of the models that lack some."""
    measured: dict[str, set] = {model: set() for model in comparison.values("model")}
    wanted = set()
    for number in numbers:
        place = (number.task, number.language, number.metric)
        measured[number.model].add(place)
        # A missing mean follows from a missing language, or has a note of its own.
        if number.language not in MEANS:
            wanted.add(place)

    lacking = {}
    for model, places in measured.items():
        n_missing = len(wanted - places)
        if n_missing:
            lacking[model] = (n_missing, len(wanted))
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
    # {(task, language): {model: hash of its prompts}}
    prompts_of: dict[tuple[str, str], dict[str, str]] = {}
    for (model, task, language), result in comparison.results.items():
        if result.prompts is not None:
            prompts_of.setdefault((task, language), {})[model] = result.prompts

    # Languages in which the same models differ share a note:
    # {(task, the first model, models with other prompts): [language, ...]}
    languages_of: dict[tuple[str, str, str], list[str]] = {}
    for (task, language), prompts in prompts_of.items():
        first, *rest = prompts
        differing = [names[model] for model in rest if prompts[model] != prompts[first]]
        if differing:
            key = (task, names[first], ", ".join(differing))
            languages_of.setdefault(key, []).append(language)

    notes = []
    for (task, first, differing), languages in languages_of.items():
        notes.append(
            f"{task} in {', '.join(languages)}: evaluated with other prompts than {first}: {differing}."
        )
    return notes


def _unread_class_names(comparison: Comparison) -> list[str]:
    """Return a note for each language whose class names come with this package."""
    tasks_of: dict[str, set[str]] = {}
    for (_, task, language), result in comparison.results.items():
        if _is_named_by_us(result):
            tasks_of.setdefault(language, set()).add(task)

    notes = []
    for language, tasks in tasks_of.items():
        where = f"{', '.join(sorted(tasks))} in {language}"
        notes.append(f"{where}: the class names are ours, written by a language model and not proofread.")
    return notes


def _other_weights(comparison: Comparison, names: dict[str, str]) -> list[str]:
    """Return a note for each model whose weights changed between one result and another."""
    notes = []
    for model, name in names.items():
        # {beginning of the weights' hash: {task: [language, ...]}}
        measured: dict[str, dict[str, list[str]]] = {}
        for (of_model, task, language), result in comparison.results.items():
            if of_model == model and language not in MEANS:
                measured.setdefault(result.weights[:8], {}).setdefault(task, []).append(language)
        if len(measured) < 2:
            continue

        each = []
        for weights, languages_of in measured.items():
            tasks = [f"{task} in {' '.join(languages)}" for task, languages in languages_of.items()]
            each.append(f"{weights} ({', '.join(tasks)})")
        notes.append(
            f"{name} was measured with different weights, of which there is no mean: {'; '.join(each)}. "
            "Evaluate one of them on all."
        )
    return notes


def _is_named_by_us(result: Result) -> bool:
    """Check if the class names of a result come with this package."""
    source = result.definition.get("class_names")  # "ours:imagenet", or {"en": "ours:imagenet", ...}
    if isinstance(source, dict):
        source = source.get(result.language)
    return isinstance(source, str) and source.startswith(f"{OURS}:")


def describe(comparison: Comparison) -> list[tuple[str, str]]:
    """Describe each task in words: who leads by its own metric, by how much, and in how many languages.

    Returns:
        `(task and metric, sentences)` for each task.
    """
    return [_describe_task(comparison, task) for task in comparison.values("task")]


def _describe_task(comparison: Comparison, task: str) -> tuple[str, str]:
    """Describe one task.

    The model with the most languages leads, and among these the one with the best mean.
    """
    names = short_names(comparison.values("model"))
    metric = comparison.metric_of(task)
    # {model: {language: result}}
    by_model: dict[str, dict[str, Result]] = {}
    for (model, of_task, language), result in comparison.results.items():
        if of_task == task and language not in MEANS:
            by_model.setdefault(model, {})[language] = result

    def count_and_mean(model: str) -> tuple[int, float]:
        scores = [result.metrics[metric] for result in by_model[model].values()]
        return len(scores), sum(scores) / len(scores)

    leader = max(by_model, key=count_and_mean)
    sentences = [_describe_leader(comparison, names[leader], by_model[leader], metric)]
    for model, results in by_model.items():
        shared = [language for language in by_model[leader] if language in results]
        if model != leader and shared:
            pair = _Pair(comparison, leader, model, task, metric, shared)
            sentences.append(_describe_pair(pair, names[model]))
    heading = f"{task}, {label(metric, {})}"
    return heading, " ".join(sentences)


def _describe_leader(comparison: Comparison, name: str, results: dict[str, Result], metric: str) -> str:
    """Describe the scores of the leader: its mean over languages and its worst and best language."""
    languages = list(results)
    first = results[languages[0]]
    ordered = sorted(languages, key=lambda language: results[language].metrics[metric])
    worst = _format_score(results[ordered[0]], metric)
    best = _format_score(results[ordered[-1]], metric)

    whole = comparison.results.get((first.model, first.task, MEAN))
    if len(languages) == 1:
        whole = first

    if whole is None:
        words = f"In {len(languages)} languages {name} scores, in percent, from {worst} to {best}"
        shared = comparison.results.get((first.model, first.task, SHARED_MEAN))
        if shared is None:
            return f"{words}."
        return f"{words}{_describe_shared_mean(shared, metric)}."

    mean = _format_percent(whole.metrics[metric])
    score = f"{name} scores {mean} % ({_format_interval(whole, metric)})"
    if whole is first:
        return f"{score} in {languages[0]}."
    return f"{score} in the mean of {len(languages)} languages, from {worst} to {best}."


def _format_score(result: Result, metric: str) -> str:
    """Return `72.4 in en`."""
    return f"{_format_percent(result.metrics[metric])} in {result.language}"


def _format_interval(result: Result, metric: str) -> str:
    """Return `68.1 to 76.0`."""
    low, high = result.intervals[metric]
    return f"{_format_percent(low)} to {_format_percent(high)}"


def _format_percent(fraction: float) -> str:
    """Return `72.4` for 0.724."""
    return f"{100 * fraction:.1f}"


def _describe_shared_mean(result: Result, metric: str) -> str:
    """Return `; in their mean on the 50 images that all have, 72.4 (68.1 to 76.0)`."""
    images = _on_shared(result.metrics["n"])
    mean = _format_percent(result.metrics[metric])
    return f"; in their mean {images}, {mean} ({_format_interval(result, metric)})"


def _on_shared(n: int) -> str:
    return f"on the {n:,} images that all have"


@dataclass
class _Pair:
    """Leader of a task beside another model, in the languages that both were evaluated in."""

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
        # The mean over all languages of the leader is already among the results.
        mean = self._common_mean()
        if mean and self.languages == self.comparison.languages_of(self.leader, self.task):
            return self._difference(mean)
        return self.comparison.mean_difference(
            self.leader, self.model, self.task, self.languages, self.metric
        )

    def _common_mean(self) -> str | None:
        """Return which mean both models have, the one over all images if they have both."""
        results = self.comparison.results
        for mean in MEANS:
            leader_has = (self.leader, self.task, mean) in results
            model_has = (self.model, self.task, mean) in results
            if leader_has and model_has:
                return mean
        return None

    def place(self) -> str:
        """Describe what the overall difference is over: a language, or a mean."""
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
        return f"{name} was evaluated on other items."

    sides = _describe_sides(each)
    whole = pair.overall_difference()
    if whole is None:
        beside = f"Beside {name} in {len(pair.languages)} languages, of which there is no mean"
        return f"{beside}, by itself each: {sides or 'in none can it be told'}."

    ends = f"{_format_points(whole.low)} to {_format_points(whole.high)}"
    if whole.p >= SIGNIFICANT:  # the test cannot tell them apart
        difference = f"{_format_points(whole.difference)} points"
        sentence = f"It does not differ significantly from {name} {pair.place()} ({difference}, {ends})"
    else:
        side = "ahead of" if whole.difference > 0 else "behind"
        difference = f"{_format_percent(abs(whole.difference))} points"
        sentence = f"It is {side} {name} by {difference} {pair.place()} ({ends})"

    if len(pair.languages) == 1:
        return f"{sentence}."
    if sides:
        return f"{sentence}; by itself each, {sides}."
    return f"{sentence}; no single language differs significantly."


def _describe_sides(differences: list[Difference]) -> str:
    """Describe in how many languages the models can be told apart.

    Returns:
        `ahead in 3 of them and behind in 1 of them`; empty if there is no significant difference.
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


def _format_points(fraction: float) -> str:
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

    # outputs/stage2 and old/stage2 keep their paths, beside org/altclip -> altclip.
    names = {}
    for model, last_part in zip(models, last_parts):
        is_unique = last_parts.count(last_part) == 1
        names[model] = last_part if is_unique else model
    return names


def label(value: str, names: dict[str, str]) -> str:
    """Return the title of a model, task, language or metric in a table.

    Args:
        names: titles by value; of others the title is the value, or that of a metric.
    """
    # text_to_image_recall@5 -> T2I R@5, image_to_text_rank_p50 -> I2T rank, 50th percentile
    direction, _, rest = value.partition("_recall@")
    if direction in _SHORT:
        return f"{_SHORT[direction]} R@{rest}"
    direction, _, rest = value.partition("_rank_p")
    if direction in _SHORT:
        return f"{_SHORT[direction]} rank, {rest}th percentile"
    return names.get(value) or _LABELS.get(value, value)
