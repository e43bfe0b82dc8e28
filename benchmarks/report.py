"""From results to a report: tables in the papers' layouts, what is missing, and what the comparison says in words."""

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
    "Percent ± half the width of the 95 % bootstrap interval over images; ±0.0 at 0 or 100 % says that these images all agree, and not "
    "that others would. **Bold**: the best of several models. ≈: a paired bootstrap on the same images does not tell the model from the "
    "best (p ≥ 0.05, each pair by itself; fewer than six images on which they differ are never enough). °: measured on other items than "
    f"the best, so not tested. {GAP}: not measured."
)


@dataclass(kw_only=True)
class TableArguments:
    """What a report's tables look like. A number has a model, a task, a language and a metric: two of them are laid out in rows and
    columns, and there is a table for each of the others.
    """

    title: str = field(default="Results", metadata={"help": "Heading of the report."})
    about: str = field(default="", metadata={"help": "A paragraph below the heading."})
    metrics: list[str] | None = field(
        default=None, metadata={"help": "Metrics to show; each task's own by default."}
    )
    rows: str = field(default="model", metadata={"help": "model, task, language or metric."})
    columns: str = field(default="task", metadata={"help": "Another of them."})

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
    paper_model: str | None = field(
        default=None, metadata={"help": "Hold all models against this one's printed numbers: BAAI/AltCLIP."}
    )


@dataclass
class Table:
    """Numbers in rows and columns; a number that was not measured is None."""

    heading: str
    corner: str
    columns: list[str]
    rows: list[tuple[str, list[Number | None]]]

    def to_markdown(self) -> str:
        return format_table(
            [self.corner, *self.columns], [[name, *map(cell, numbers)] for name, numbers in self.rows]
        )


def select_results(
    folders: Iterable[str], models: list[str] | None, tasks: list[str] | None, languages: list[str] | None
) -> tuple[list[Result], list[str]]:
    """Results of the given models, tasks and languages (all by default) in the order given, and which of those named have none. A task is
    named as in its results, or by its YAML file.

    Raises:
        InputError: there is none at all, or a folder does not exist.
    """
    results = []
    for folder in folders:
        if not Path(folder).is_dir():
            raise InputError(
                f"results folder {folder!r} does not exist: evaluate first, with benchmarks/run_retrieval.py or run_zero_shot.py"
            )
        results += load_results(Path(folder))
    tasks = tasks and [Path(task).stem if task.endswith((".yaml", ".yml")) else task for task in tasks]
    if languages is not None:
        there = list(dict.fromkeys(result.language for result in results))
        languages = [find_language(language, there) or language for language in languages]
    asked = {"model": models, "task": tasks, "language": languages}
    kept = [
        result
        for result in results
        if all(names is None or getattr(result, axis) in names for axis, names in asked.items())
    ]
    if not kept:
        wanted = "; ".join(f"{axis} {' '.join(names)}" for axis, names in asked.items() if names)
        there = "; ".join(
            f"{axis} {' '.join(sorted({getattr(result, axis) for result in results}))}" for axis in asked
        )
        others = f", or name what is there: {there}" if results else ""
        raise InputError(
            f"no results in {' '.join(folders)} for {wanted or 'any model'}: evaluate first{others}"
        )
    order = {
        axis: names or list(dict.fromkeys(getattr(result, axis) for result in kept))
        for axis, names in asked.items()
    }
    absent = [
        name
        for axis, names in order.items()
        for name in names
        if not any(getattr(result, axis) == name for result in kept)
    ]
    return sorted(
        kept, key=lambda result: [names.index(getattr(result, axis)) for axis, names in order.items()]
    ), absent


def make_tables(comparison: Comparison, numbers: list[Number], arguments: TableArguments) -> list[Table]:
    """Lay numbers out in rows and columns, a table for each of the axes' other values; a model that lacks one is shown with a gap. The
    metric stands in a table's heading, or where its tasks have several, beside each of them.
    """
    names, own = short_names(comparison.values("model")), arguments.metrics is None
    order = {axis: comparison.values(axis) for axis in AXES[:3]} | {"metric": arguments.metrics or [""]}
    cells = {
        tuple(getattr(number, axis) if axis != "metric" or not own else "" for axis in AXES): number
        for number in numbers
    }
    others = [axis for axis in AXES if axis not in (arguments.rows, arguments.columns)]
    tables = []
    for section in product(*(order[axis] for axis in others)):
        at = dict(zip(others, section))
        here = {
            place: number
            for place, number in cells.items()
            if all(place[AXES.index(axis)] == name for axis, name in at.items())
        }
        if here:
            shown = {
                axis: [
                    value
                    for value in order[axis]
                    if axis == "model" or any(place[AXES.index(axis)] == value for place in here)
                ]
                for axis in (arguments.rows, arguments.columns)
            }
            metrics = list(dict.fromkeys(number.metric for number in here.values()))
            titles = names | _title_of_shared_mean(here.values())
            if own and len(metrics) > 1:
                titles |= {
                    number.task: f"{number.task}, {label(number.metric, {})}" for number in here.values()
                }
            rows = []
            for row in shown[arguments.rows]:
                places = [
                    at | {arguments.rows: row, arguments.columns: column}
                    for column in shown[arguments.columns]
                ]
                rows.append(
                    (label(row, titles), [here.get(tuple(place[axis] for axis in AXES)) for place in places])
                )
            heading = [label(name, names) for axis, name in at.items() if name and axis != "metric"]
            heading += [label(metrics[0], {})] if len(metrics) == 1 else []
            columns = [label(column, titles) for column in shown[arguments.columns]]
            tables.append(Table(", ".join(heading), arguments.rows, columns, rows))
    return tables


def _title_of_shared_mean(numbers: Iterable[Number]) -> dict[str, str]:
    """`mean of 20 shared images`, where a table's are of equally many."""
    counts = {number.n for number in numbers if number.language == SHARED_MEAN}
    return {SHARED_MEAN: f"mean of {counts.pop():,} shared images"} if len(counts) == 1 else {}


def cell(number: Number | None) -> str:
    """`72.4 ±1.4`, with the marks that `LEGEND` explains."""
    if number is None:
        return GAP
    value, half_width = format_value(number), format_half_width(number)
    mark = "≈" if number.tied else "°" if number.untested else ""
    return " ".join(part for part in (f"**{value}**" if number.best else value, half_width, mark) if part)


def format_value(number: Number) -> str:
    return f"{number.value:g}" if is_rank(number.metric) else f"{100 * number.value:.1f}"


def format_half_width(number: Number) -> str:
    if number.interval is None:
        return ""
    half = (number.interval[1] - number.interval[0]) / 2
    return f"±{half:g}" if is_rank(number.metric) else f"±{100 * half:.1f}"


def count_gaps(comparison: Comparison, numbers: list[Number]) -> dict[str, tuple[int, int]]:
    """`{model: (numbers it lacks, numbers that any model has)}` of the models that lack some."""
    wanted = {
        (number.task, number.language, number.metric) for number in numbers if number.language not in MEANS
    }
    lacking = {}
    for model in comparison.values("model"):
        there = {(number.task, number.language, number.metric) for number in numbers if number.model == model}
        if wanted - there:
            lacking[model] = len(wanted - there), len(wanted)
    return lacking


def caveats(comparison: Comparison) -> list[str]:
    """What has to be known of the items behind the numbers: tasks without a mean, models that are several, models that were asked with
    other prompts, and names of classes that nobody has proofread.
    """
    names, spoken = short_names(comparison.values("model")), {}
    notes = []
    for task, refusals in comparison.refusals.items():
        averaged = [name for model, name in names.items() if (model, task, MEAN) in comparison.results]
        notes += list_refusals(task, {names[model]: reason for model, reason in refusals.items()}, averaged)
    notes += _other_weights(comparison, names)
    for (model, task, language), result in comparison.results.items():
        if result.prompts is not None:
            spoken.setdefault((task, language), {})[model] = result.prompts
    others: dict[tuple, list[str]] = {}
    for (task, language), prompts in spoken.items():
        first, *rest = prompts
        differing = [names[model] for model in rest if prompts[model] != prompts[first]]
        if differing:
            others.setdefault((task, names[first], ", ".join(differing)), []).append(language)
    for (task, first, differing), languages in others.items():
        notes.append(f"{task} in {', '.join(languages)}: asked with other prompts than {first}: {differing}.")
    unread: dict[str, set[str]] = {}
    for (_, task, language), result in comparison.results.items():
        if named_by_us(result):
            unread.setdefault(language, set()).add(task)
    for language, tasks in unread.items():
        notes.append(
            f"{', '.join(sorted(tasks))} in {language}: the names of classes are ours, by a language model, not proofread."
        )
    return notes


def _other_weights(comparison: Comparison, names: dict[str, str]) -> list[str]:
    """Models whose weights changed between one result and another."""
    notes = []
    for model, name in names.items():
        measured: dict[str, dict[str, list[str]]] = {}
        for (of_model, task, language), result in comparison.results.items():
            if of_model == model and language not in MEANS:
                measured.setdefault(result.weights[:8], {}).setdefault(task, []).append(language)
        if len(measured) > 1:
            where = [
                ", ".join(f"{task} in {' '.join(languages)}" for task, languages in tasks.items())
                for tasks in measured.values()
            ]
            each = "; ".join(f"{one} ({tasks})" for one, tasks in zip(measured, where))
            notes.append(
                f"{name} was measured with different weights, of which there is no mean: {each}. Evaluate one of them on all."
            )
    return notes


def named_by_us(result: Result) -> bool:
    """Whether the classes were asked for by names that come with this package."""
    names = result.definition.get("class_names")
    source = names.get(result.language) if isinstance(names, dict) else names
    return isinstance(source, str) and source.startswith(f"{OURS}:")


def describe(comparison: Comparison) -> list[tuple[str, str]]:
    """`(task and metric, sentences)`: who leads on a task by its own metric, by how much, and in how many languages that is certain."""
    names, found = short_names(comparison.values("model")), []
    for task in comparison.values("task"):
        by_model: dict[str, dict[str, Result]] = {}
        metric = next(result.metric for key, result in comparison.results.items() if key[1] == task)
        for (model, of_task, language), result in comparison.results.items():
            if of_task == task and language not in MEANS:
                by_model.setdefault(model, {})[language] = result
        means = {
            model: sum(result.metrics[metric] for result in results.values()) / len(results)
            for model, results in by_model.items()
        }
        leader = max(by_model, key=lambda model: (len(by_model[model]), means[model]))
        sentences = [_describe_leader(comparison, names[leader], by_model[leader], metric)]
        for model, results in by_model.items():
            shared = [language for language in by_model[leader] if language in results]
            if model != leader and shared:
                sentences.append(_describe_pair(comparison, leader, model, task, shared, metric, names))
        found.append((f"{task}, {label(metric, {})}", " ".join(sentences)))
    return found


def _describe_leader(comparison: Comparison, name: str, results: dict[str, Result], metric: str) -> str:
    languages = list(results)
    first = results[languages[0]]
    ordered = sorted(languages, key=lambda language: results[language].metrics[metric])
    ends = [
        f"{100 * results[language].metrics[metric]:.1f} in {language}"
        for language in (ordered[0], ordered[-1])
    ]
    whole = first if len(languages) == 1 else comparison.results.get((first.model, first.task, MEAN))
    if whole is None:
        words = f"In {len(languages)} languages {name} scores, in percent, from {ends[0]} to {ends[1]}"
        shared = comparison.results.get((first.model, first.task, SHARED_MEAN))
        return f"{words}{_describe_shared_mean(shared, metric)}." if shared else f"{words}."
    low, high = whole.intervals[metric]
    score = f"{name} scores {100 * whole.metrics[metric]:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
    if whole is first:
        return f"{score} in {languages[0]}."
    return f"{score} in the mean of {len(languages)} languages, from {ends[0]} to {ends[1]}."


def _describe_shared_mean(result: Result, metric: str) -> str:
    low, high = result.intervals[metric]
    score = f"{100 * result.metrics[metric]:.1f} ({100 * low:.1f} to {100 * high:.1f})"
    return f"; in their mean {_on_shared(result.metrics['n'])}, {score}"


def _on_shared(n: int) -> str:
    return f"on the {n:,} images that all have"


def _describe_pair(
    comparison: Comparison,
    leader: str,
    model: str,
    task: str,
    shared: list[str],
    metric: str,
    names: dict[str, str],
) -> str:
    each = [comparison.difference(leader, model, task, language, metric) for language in shared]
    if None in each:
        return f"{names[model]} was measured on other items."
    there = [
        mean for mean in MEANS if {(leader, task, mean), (model, task, mean)} <= comparison.results.keys()
    ]
    if len(shared) == 1:
        whole = each[0]
    elif there and shared == comparison.languages_of(leader, task):
        whole = comparison.difference(leader, model, task, there[0], metric)
    else:
        whole = comparison.mean_difference(leader, model, task, shared, metric)
    ahead = sum(one.p < SIGNIFICANT and one.difference > 0 for one in each)
    behind = sum(one.p < SIGNIFICANT and one.difference < 0 for one in each)
    sides = " and ".join(f"{side} in {n} of them" for side, n in (("ahead", ahead), ("behind", behind)) if n)
    if whole is None:
        by_itself = sides or "in none can it be told"
        return f"Beside {names[model]} in {len(shared)} languages, of which there is no mean, by itself each: {by_itself}."
    where = f"in {shared[0]}" if len(shared) == 1 else _where_is_mean(comparison, leader, task, shared)
    ends = f"{points(whole.low)} to {points(whole.high)}"
    if whole.p >= SIGNIFICANT:
        sentence = (
            f"It cannot be told from {names[model]} {where} ({points(whole.difference)} points, {ends})"
        )
    else:
        side = "ahead of" if whole.difference > 0 else "behind"
        sentence = f"It is {side} {names[model]} by {100 * abs(whole.difference):.1f} points {where} ({ends})"
    if len(shared) == 1:
        return f"{sentence}."
    return (
        f"{sentence}; by itself each, {sides}."
        if sides
        else f"{sentence}; in no language by itself can it be told."
    )


def _where_is_mean(comparison: Comparison, model: str, task: str, languages: list[str]) -> str:
    mean, words = (
        comparison.mean_outcomes(model, task, languages),
        f"in the mean of {len(languages)} languages",
    )
    return words if mean.is_whole else f"{words}, {_on_shared(mean.n_units)}"


def points(fraction: float) -> str:
    return f"{100 * fraction:+.1f}".replace("-", "−")


def short_names(models: list[str]) -> dict[str, str]:
    """The last part of each model's path, of an adapter's model that of its texts, where that is enough to tell them apart."""
    last = [Path(model.partition("+")[0] if ":" in model else model).name for model in models]
    return {model: name if last.count(name) == 1 else model for model, name in zip(models, last)}


def label(value: str, names: dict[str, str]) -> str:
    """How a model, task, language or metric is called in a table."""
    direction, _, rest = value.partition("_recall@")
    if direction in SHORT:
        return f"{SHORT[direction]} R@{rest}"
    direction, _, rest = value.partition("_rank_p")
    if direction in SHORT:
        return f"{SHORT[direction]} rank, {rest}th percentile"
    return names.get(value) or LABELS.get(value, value)
