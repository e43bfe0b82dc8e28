"""From results to a report: tables in the papers' layouts, gaps, caveats, and a summary in words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from .comparison import SIGNIFICANT, Comparison, Number, is_rank
from .loading import find_language
from .means import MEAN, MEANS, SHARED_MEAN, list_refusals
from .prompts import OURS
from .recipe import InputError
from .results import Result, format_table, load_results
from .uncertainty import Difference

_AXES = ("model", "task", "language", "metric")
GAP = "–"
_LABELS = {
    "mean_recall": "mean recall",
    "accuracy@1": "top-1 accuracy",
    "accuracy@5": "top-5 accuracy",
    "mean_per_class": "mean per class",
    "mean_top1_top5": "mean of top-1 and top-5",
    "map_11_point": "11-point mAP",
    "roc_auc": "ROC AUC",
}
_DIRECTIONS = {"text_to_image": "T2I", "image_to_text": "I2T"}
LEGEND = (
    "Percent ± half the width of the 95 % bootstrap interval over images; ±0.0 at 0 or 100 % says that these "
    "images all agree, and not that others would. **Bold**: the best of several models. ≈: a paired "
    "bootstrap on the same images does not tell the model from the best (p ≥ 0.05, each pair by itself; "
    "fewer than six images on which they differ are never enough). °: measured on other items than the best, "
    f"so not tested. {GAP}: not measured."
)


@dataclass(kw_only=True)
class TableArguments:
    """Layout of a report's tables.

    A number has a model, a task, a language and a metric. Two of them are laid out in rows and columns, and
    there is a table for each combination of the others.
    """

    title: str = field(default="Results", metadata={"help": "Heading of the report."})
    about: str = field(default="", metadata={"help": "A paragraph below the heading."})
    metrics: list[str] | None = field(
        default=None, metadata={"help": "Metrics to show; each task's own by default."}
    )
    rows: str = field(
        default="model", metadata={"help": "Axis of the rows: model, task, language or metric."}
    )
    columns: str = field(
        default="task", metadata={"help": "Axis of the columns: model, task, language or metric."}
    )

    def __post_init__(self):
        for name in ("rows", "columns"):
            axis = getattr(self, name)
            if axis not in _AXES:
                raise InputError(f"{name} is {axis!r}: choose from {' '.join(_AXES)}")
        if self.rows == self.columns:
            raise InputError(f"rows and columns are both {self.rows!r}: they must differ")
        if "metric" in (self.rows, self.columns) and not self.metrics:
            raise InputError("with metric in rows or columns, name the metrics")


@dataclass(kw_only=True)
class ReportArguments:
    """Results to report on. The names are those of the evaluation scripts, so that a recipe serves both."""

    output_dir: str = field(
        metadata={"help": "Where the report goes, and where the results are unless --results says otherwise."}
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
    paper_model: str | None = field(
        default=None,
        metadata={"help": "Compare all models with this one's published numbers, such as BAAI/AltCLIP."},
    )


@dataclass
class Table:
    """Numbers in rows and columns; a number that was not measured is None."""

    heading: str
    corner: str
    columns: list[str]
    rows: list[tuple[str, list[Number | None]]]

    def to_markdown(self) -> str:
        header = [self.corner, *self.columns]
        return format_table(header, [[name, *map(_cell, numbers)] for name, numbers in self.rows])


def select_results(
    folders: Iterable[str], models: list[str] | None, tasks: list[str] | None, languages: list[str] | None
) -> tuple[list[Result], list[str]]:
    """Read the results of the given models, tasks and languages (all by default).

    A task is given by its name, or by its YAML file.

    Returns:
        The results, in the order in which models, tasks and languages are given; and the given names without
        any result.

    Raises:
        InputError: there is no result at all, or a folder does not exist.
    """
    results = []
    for folder in folders:
        if not Path(folder).is_dir():
            raise InputError(
                f"results folder {folder!r} does not exist: evaluate first, "
                "with benchmarks/run_retrieval.py or run_zero_shot.py"
            )
        results += load_results(Path(folder))

    if tasks is not None:
        tasks = [_task_name(task) for task in tasks]
    if languages is not None:
        available = _distinct(results, "language")
        # The results may spell a language in another way. One without results keeps its spelling, to be
        # named.
        languages = [find_language(language, available) or language for language in languages]
    requested = {"model": models, "task": tasks, "language": languages}

    kept = [result for result in results if _is_requested(result, requested)]
    if not kept:
        raise InputError(_explain_no_results(folders, results, requested))

    order = {axis: names or _distinct(kept, axis) for axis, names in requested.items()}
    absent = []
    for axis, names in order.items():
        found = _distinct(kept, axis)
        absent += [name for name in names if name not in found]

    def position(result: Result) -> list[int]:
        return [names.index(getattr(result, axis)) for axis, names in order.items()]

    return sorted(kept, key=position), absent


def _task_name(name_or_file: str) -> str:
    is_file = name_or_file.endswith((".yaml", ".yml"))
    return Path(name_or_file).stem if is_file else name_or_file


def _distinct(results: Iterable[Result], axis: str) -> list[str]:
    """Return the models, tasks or languages of results, in their order."""
    return list(dict.fromkeys(getattr(result, axis) for result in results))


def _is_requested(result: Result, requested: dict[str, list[str] | None]) -> bool:
    for axis, names in requested.items():
        if names is not None and getattr(result, axis) not in names:
            return False
    return True


def _explain_no_results(
    folders: Iterable[str], results: list[Result], requested: dict[str, list[str] | None]
) -> str:
    wanted = "; ".join(f"{axis} {' '.join(names)}" for axis, names in requested.items() if names)
    message = f"no results in {' '.join(folders)} for {wanted or 'any model'}: evaluate first"
    if results:
        available = [f"{axis} {' '.join(sorted(_distinct(results, axis)))}" for axis in requested]
        message += f", or name what is there: {'; '.join(available)}"
    return message


def make_tables(comparison: Comparison, numbers: list[Number], arguments: TableArguments) -> list[Table]:
    """Lay numbers out in rows and columns, a table for each combination of the other axes' values.

    A model without a number is shown with a gap. The metric stands in a table's heading; where the tasks of a
    table have several metrics, it stands beside each task.
    """
    return _Pivot(comparison, arguments).make_tables(numbers)


class _Pivot:
    """Pivot from numbers with a model, a task, a language and a metric to tables of rows and columns."""

    def __init__(self, comparison: Comparison, arguments: TableArguments):
        self.rows = arguments.rows
        self.columns = arguments.columns
        # Rows of models and columns of tasks -> a table for each language and metric.
        self.section_axes = [axis for axis in _AXES if axis not in (self.rows, self.columns)]
        self.names = short_names(comparison.values("model"))

        # Tasks with metrics of their own share a table, so that the metric separates nothing: it is "" for
        # all.
        self.own_metrics = arguments.metrics is None
        self.values = {axis: comparison.values(axis) for axis in ("model", "task", "language")}
        self.values["metric"] = arguments.metrics or [""]

    def make_tables(self, numbers: list[Number]) -> list[Table]:
        """Make a table of each section that has numbers."""
        sections: dict[tuple[str, ...], list[Number]] = {}
        for number in numbers:
            section = tuple(self._value(number, axis) for axis in self.section_axes)
            sections.setdefault(section, []).append(number)

        tables = []
        for section in product(*[self.values[axis] for axis in self.section_axes]):
            if section in sections:
                tables.append(self._make_table(section, sections[section]))
        return tables

    def _make_table(self, section: tuple[str, ...], numbers: list[Number]) -> Table:
        cells = {}
        for number in numbers:
            cells[self._value(number, self.rows), self._value(number, self.columns)] = number

        metrics = list(dict.fromkeys(number.metric for number in numbers))
        titles = self._titles(numbers, metrics)
        columns = self._shown(self.columns, numbers)
        rows = []
        for row in self._shown(self.rows, numbers):
            rows.append((label(row, titles), [cells.get((row, column)) for column in columns]))

        column_titles = [label(column, titles) for column in columns]
        return Table(self._heading(section, metrics), self.rows, column_titles, rows)

    def _value(self, number: Number, axis: str) -> str:
        """Return a number's place on an axis."""
        return "" if axis == "metric" and self.own_metrics else getattr(number, axis)

    def _shown(self, axis: str, numbers: list[Number]) -> list[str]:
        """Return what a table shows of an axis: all models, or the values that have a number."""
        if axis == "model":
            return self.values["model"]
        measured = {self._value(number, axis) for number in numbers}
        return [value for value in self.values[axis] if value in measured]

    def _titles(self, numbers: list[Number], metrics: list[str]) -> dict[str, str]:
        """Return the titles of rows and columns that `label` does not know."""
        titles = self.names | _title_of_shared_mean(numbers)
        if self.own_metrics and len(metrics) > 1:
            for number in numbers:
                titles[number.task] = f"{number.task}, {label(number.metric, {})}"
        return titles

    def _heading(self, section: tuple[str, ...], metrics: list[str]) -> str:
        parts = []
        for axis, value in zip(self.section_axes, section):
            if value and axis != "metric":
                parts.append(label(value, self.names))
        if len(metrics) == 1:
            parts.append(label(metrics[0], {}))
        return ", ".join(parts)


def _title_of_shared_mean(numbers: Iterable[Number]) -> dict[str, str]:
    """Title the shared mean `mean of 20 shared images` where all means of a table are of 20 images."""
    counts = {number.n for number in numbers if number.language == SHARED_MEAN}
    if len(counts) != 1:
        return {}
    return {SHARED_MEAN: f"mean of {counts.pop():,} shared images"}


def _cell(number: Number | None) -> str:
    """Format a number as `72.4 ±1.4`, with the marks that `LEGEND` explains."""
    if number is None:
        return GAP
    value = format_value(number)
    parts = [f"**{value}**" if number.best else value, format_half_width(number)]
    if number.tied:
        parts.append("≈")
    elif number.untested:
        parts.append("°")
    return " ".join(part for part in parts if part)


def format_value(number: Number) -> str:
    """Format a fraction as a percentage with one decimal, a rank as it is."""
    return f"{number.value:g}" if is_rank(number.metric) else f"{100 * number.value:.1f}"


def format_half_width(number: Number) -> str:
    """Format half the width of the interval as `±1.4`; an empty string where there is no interval."""
    if number.interval is None:
        return ""
    low, high = number.interval
    half = (high - low) / 2
    return f"±{half:g}" if is_rank(number.metric) else f"±{100 * half:.1f}"


def count_gaps(comparison: Comparison, numbers: list[Number]) -> dict[str, tuple[int, int]]:
    """Count the numbers that each model lacks and others have, without means.

    Returns:
        `{model: (numbers it lacks, numbers that any model has)}` of the models that lack some.
    """
    wanted = set()
    measured: dict[str, set] = {}
    for number in numbers:
        if number.language not in MEANS:
            key = (number.task, number.language, number.metric)
            wanted.add(key)
            measured.setdefault(number.model, set()).add(key)

    lacking = {}
    for model in comparison.values("model"):
        n_lacking = len(wanted - measured.get(model, set()))
        if n_lacking:
            lacking[model] = (n_lacking, len(wanted))
    return lacking


def caveats(comparison: Comparison) -> list[str]:
    """List what a reader has to know about the items behind the numbers.

    Tasks without a mean over languages, models whose weights changed, models that were evaluated with other
    prompts, and class names that nobody has proofread.
    """
    names = short_names(comparison.values("model"))
    notes = _note_means(comparison, names)
    notes += _note_weights(comparison, names)
    notes += _note_prompts(comparison, names)
    notes += _note_class_names(comparison)
    return notes


def _note_means(comparison: Comparison, names: dict[str, str]) -> list[str]:
    """Explain which tasks have no mean over all images."""
    notes = []
    for task, refusals in comparison.refusals.items():
        averaged = [name for model, name in names.items() if (model, task, MEAN) in comparison.results]
        notes += list_refusals(task, {names[model]: reason for model, reason in refusals.items()}, averaged)
    return notes


def _note_weights(comparison: Comparison, names: dict[str, str]) -> list[str]:
    """Name the models whose weights changed between one result and another."""
    notes = []
    for model, name in names.items():
        # {"3f2a90cd": {"xm3600": ["en", "zh"]}, ...}
        measured: dict[str, dict[str, list[str]]] = {}
        for (of_model, task, language), result in comparison.results.items():
            if of_model == model and language not in MEANS:
                measured.setdefault(result.weights[:8], {}).setdefault(task, []).append(language)
        if len(measured) > 1:
            each = "; ".join(f"{weights} ({_list_tasks(tasks)})" for weights, tasks in measured.items())
            notes.append(
                f"{name} was measured with different weights, of which there is no mean: {each}. "
                "Evaluate one of them on all."
            )
    return notes


def _list_tasks(languages_of_task: dict[str, list[str]]) -> str:
    """`{"xm3600": ["en", "zh"]}` -> `xm3600 in en zh`."""
    return ", ".join(f"{task} in {' '.join(languages)}" for task, languages in languages_of_task.items())


def _note_prompts(comparison: Comparison, names: dict[str, str]) -> list[str]:
    """Name the models that were evaluated with other prompts than the first model of a task and language."""
    prompts_of: dict[tuple[str, str], dict[str, str]] = {}
    for (model, task, language), result in comparison.results.items():
        if result.prompts is not None:
            prompts_of.setdefault((task, language), {})[model] = result.prompts

    # One note for all languages in which the same models differ: {("imagenet", "ours", "theirs"): ["en",
    # "zh"]}.
    languages_of: dict[tuple[str, str, str], list[str]] = {}
    for (task, language), prompts in prompts_of.items():
        first, *others = prompts
        differing = [names[model] for model in others if prompts[model] != prompts[first]]
        if differing:
            key = (task, names[first], ", ".join(differing))
            languages_of.setdefault(key, []).append(language)

    notes = []
    for (task, first, differing), languages in languages_of.items():
        notes.append(f"{task} in {', '.join(languages)}: asked with other prompts than {first}: {differing}.")
    return notes


def _note_class_names(comparison: Comparison) -> list[str]:
    """Name the tasks and languages whose class names come with this package."""
    tasks_of: dict[str, set[str]] = {}
    for (_, task, language), result in comparison.results.items():
        if _has_our_class_names(result):
            tasks_of.setdefault(language, set()).add(task)

    notes = []
    for language, tasks in tasks_of.items():
        notes.append(
            f"{', '.join(sorted(tasks))} in {language}: the names of classes are ours, "
            "by a language model, not proofread."
        )
    return notes


def _has_our_class_names(result: Result) -> bool:
    names = result.definition.get("class_names")
    source = names.get(result.language) if isinstance(names, dict) else names
    return isinstance(source, str) and source.startswith(f"{OURS}:")


def describe(comparison: Comparison) -> list[tuple[str, str]]:
    """Describe each task by its own metric: who leads, by how much, and in how many languages for certain.

    Returns:
        `(task and metric, sentences)` of each task.
    """
    names = short_names(comparison.values("model"))
    found = []
    for task in comparison.values("task"):
        summary = _TaskSummary(comparison, task, names)
        found.append((f"{task}, {label(summary.metric, {})}", summary.describe()))
    return found


class _TaskSummary:
    """Sentences on one task: on the model that leads, and on each other model beside it.

    Attributes:
        results: `{model: {language: result}}`, without means.
        leader: the model with the most languages, and among these with the highest mean.
    """

    def __init__(self, comparison: Comparison, task: str, names: dict[str, str]):
        self.comparison = comparison
        self.task = task
        self.names = names
        self.metric = comparison.metric_of(task)
        self.results: dict[str, dict[str, Result]] = {}
        for (model, of_task, language), result in comparison.results.items():
            if of_task == task and language not in MEANS:
                self.results.setdefault(model, {})[language] = result
        self.leader = max(self.results, key=self._standing)

    def describe(self) -> str:
        sentences = [self._describe_leader()]
        for model, results in self.results.items():
            shared = [language for language in self.results[self.leader] if language in results]
            if model != self.leader and shared:
                sentences.append(self._describe_pair(model, shared))
        return " ".join(sentences)

    def _standing(self, model: str) -> tuple[int, float]:
        values = [result.metrics[self.metric] for result in self.results[model].values()]
        return len(values), sum(values) / len(values)

    def _describe_leader(self) -> str:
        name = self.names[self.leader]
        results = self.results[self.leader]
        values = {language: result.metrics[self.metric] for language, result in results.items()}
        if len(results) == 1:
            (language,) = results
            return f"{name} scores {self._score(results[language])} in {language}."

        ordered = sorted(values, key=values.get)
        lowest = f"{100 * values[ordered[0]]:.1f} in {ordered[0]}"
        highest = f"{100 * values[ordered[-1]]:.1f} in {ordered[-1]}"
        mean = self.comparison.results.get((self.leader, self.task, MEAN))
        if mean is not None:
            where = f"in the mean of {len(results)} languages"
            return f"{name} scores {self._score(mean)} {where}, from {lowest} to {highest}."

        sentence = f"In {len(results)} languages {name} scores, in percent, from {lowest} to {highest}"
        shared_mean = self.comparison.results.get((self.leader, self.task, SHARED_MEAN))
        if shared_mean is None:
            return f"{sentence}."
        score = self._score(shared_mean, unit="")
        return f"{sentence}; in their mean {_on_shared(shared_mean.metrics['n'])}, {score}."

    def _score(self, result: Result, unit: str = " %") -> str:
        """Format the score with its interval: `72.4 % (71.0 to 73.8)`."""
        low, high = result.intervals[self.metric]
        return f"{100 * result.metrics[self.metric]:.1f}{unit} ({100 * low:.1f} to {100 * high:.1f})"

    def _describe_pair(self, model: str, shared: list[str]) -> str:
        """Describe by how much the leader is ahead of another model in the languages that both have."""
        name = self.names[model]
        by_language = [self._difference(model, language) for language in shared]
        if None in by_language:
            return f"{name} was measured on other items."
        sides = _count_sides(by_language)
        overall = self._overall_difference(model, shared)
        if overall is None:
            return (
                f"Beside {name} in {len(shared)} languages, of which there is no mean, by itself each: "
                f"{sides or 'in none can it be told'}."
            )

        sentence = _describe_difference(overall, name, self._where(shared))
        if len(shared) == 1:
            return f"{sentence}."
        if sides:
            return f"{sentence}; by itself each, {sides}."
        return f"{sentence}; in no language by itself can it be told."

    def _difference(self, model: str, language: str) -> Difference | None:
        return self.comparison.difference(self.leader, model, self.task, language, self.metric)

    def _overall_difference(self, model: str, shared: list[str]) -> Difference | None:
        """Return the difference in the only language, or in the mean of several; None without a mean."""
        if len(shared) == 1:
            return self._difference(model, shared[0])
        if shared == self.comparison.languages_of(self.leader, self.task):
            # Both may have this mean already, among the results.
            for mean in MEANS:
                keys = {(self.leader, self.task, mean), (model, self.task, mean)}
                if keys <= self.comparison.results.keys():
                    return self._difference(model, mean)
        return self.comparison.mean_difference(self.leader, model, self.task, shared, self.metric)

    def _where(self, shared: list[str]) -> str:
        if len(shared) == 1:
            return f"in {shared[0]}"
        mean = self.comparison.mean_outcomes(self.leader, self.task, shared)
        words = f"in the mean of {len(shared)} languages"
        return words if mean.is_whole else f"{words}, {_on_shared(mean.n_units)}"


def _count_sides(differences: list[Difference]) -> str:
    """Count the significant differences of each side: `ahead in 3 of them and behind in 1 of them`."""
    significant = [one for one in differences if one.p < SIGNIFICANT]
    n_ahead = sum(one.difference > 0 for one in significant)
    n_behind = sum(one.difference < 0 for one in significant)
    sides = []
    if n_ahead:
        sides.append(f"ahead in {n_ahead} of them")
    if n_behind:
        sides.append(f"behind in {n_behind} of them")
    return " and ".join(sides)


def _describe_difference(difference: Difference, name: str, where: str) -> str:
    """Say that one model is ahead of, behind, or not told apart from the model `name`."""
    interval = f"{_points(difference.low)} to {_points(difference.high)}"
    if difference.p >= SIGNIFICANT:
        value = _points(difference.difference)
        return f"It cannot be told from {name} {where} ({value} points, {interval})"
    side = "ahead of" if difference.difference > 0 else "behind"
    return f"It is {side} {name} by {100 * abs(difference.difference):.1f} points {where} ({interval})"


def _on_shared(n: int) -> str:
    return f"on the {n:,} images that all have"


def _points(fraction: float) -> str:
    """`-0.0123` -> `−1.2`, with the minus sign of typography."""
    return f"{100 * fraction:+.1f}".replace("-", "−")


def short_names(models: list[str]) -> dict[str, str]:
    """Shorten each model to the last part of its path, where that is enough to tell the models apart.

    Of an adapter's model, `m_clip:TEXT+IMAGES`, it is the last part of TEXT.
    """
    last_parts = []
    for model in models:
        path = model.partition("+")[0] if ":" in model else model
        last_parts.append(Path(path).name)

    names = {}
    for model, last in zip(models, last_parts):
        names[model] = last if last_parts.count(last) == 1 else model
    return names


def label(value: str, names: dict[str, str]) -> str:
    """Return the title of a model, task, language or metric in a table.

    `text_to_image_recall@5` -> `T2I R@5`.
    """
    direction, _, depth = value.partition("_recall@")
    if direction in _DIRECTIONS:
        return f"{_DIRECTIONS[direction]} R@{depth}"
    direction, _, percent = value.partition("_rank_p")
    if direction in _DIRECTIONS:
        return f"{_DIRECTIONS[direction]} rank, {percent}th percentile"
    return names.get(value) or _LABELS.get(value, value)
