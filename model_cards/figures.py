"""From results to what a card shows: which are of the stages' weights, and which may stand in one table."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from statistics import mean

from benchmarks.commands import evaluation_programs
from benchmarks.recipe import InputError
from benchmarks.results import Result, format_table, model_name

from .paths import public_path
from .stages import is_hub_id


def join_to_weights(
    results: list[Result], stages: list[str], labels: list[str], weights: list[str]
) -> list[Result]:
    """Return the results that were measured on the stages' weights, each with its stage's label as `model`.

    What counts is the hash, whatever the folder was called when it was evaluated. Where several stages have
    the same weights, a result is of the one that it names, or of all of them.

    Args:
        stages: folders or Hub ids.
        labels: what the card calls them.
        weights: their `hash_weights`, of what lies there now.

    Raises:
        InputError: a result names a stage and is of other weights; or none is of the last stage's weights.
    """
    joined = []
    for result in results:
        same = [place for place, its in enumerate(weights) if its == result.weights]
        named = [place for place, stage in enumerate(stages) if _names(result.model, stage)]
        if named and not set(same) & set(named):
            raise InputError(_of_other_weights(result, stages[named[0]], weights[named[0]]))
        chosen = [place for place in same if place in named] or same
        joined += [replace(result, model=labels[place]) for place in chosen]
    if results and not any(result.model == labels[-1] for result in joined):
        raise InputError(
            f"none of the {len(results)} results is of the weights of {labels[-1]} ({weights[-1][:16]}): "
            f"evaluate {stages[-1]} with {evaluation_programs()}, "
            "or leave results out for a card without figures"
        )
    return joined


def _names(model: str, stage: str) -> bool:
    """Return whether a result's `model` means a stage: the same name, or a folder whose last part is alike,
    wherever it lies.
    """
    if model == stage:
        return True
    return model_name(model) == model_name(stage) and not (is_hub_id(model) and is_hub_id(stage))


def _of_other_weights(result: Result, stage: str, weights: str) -> str:
    where = result.path or f"a result of {result.task} in {result.language}"
    return (
        f"{where} is of other weights ({result.weights[:16]}) than {stage} has now ({weights[:16]}): "
        f"evaluate it again with {evaluation_programs()}, or move results of another model to a folder of "
        "their own"
    )


def stage_of(result: Result, labels: Iterable[str]) -> str | None:
    """Return the label of the stage that a result is of: its `model`, or the last part of that; None where it
    is of none.
    """
    return next((name for name in (result.model, result.model_name) if name in labels), None)


def shown(result: Result) -> str:
    """Return the metric of a card's tables: how often the first image found is the right one, or what the
    task is judged by.
    """
    return "text_to_image_recall@1" if result.kind == "retrieval" else result.metric


@dataclass
class Section:
    """Figures that may stand beside one another: of one task, asked in one way, of each stage and language at
    most one.

    `variation` says what sets these figures apart from others of that task's name, such as a limit; mostly
    nothing.
    """

    results: dict[tuple[str, str], Result] = field(default_factory=dict)
    """`{(label of the stage, language): result}`"""
    variation: str = ""

    @property
    def title(self) -> str:
        return f"{self.first.task}, {self.variation}" if self.variation else self.first.task

    @property
    def first(self) -> Result:
        return next(iter(self.results.values()))

    def takes(self, label: str, result: Result) -> bool:
        """Return whether a result was asked as those here were, of the same images and texts, and its place
        is free.
        """
        if self.results and asked(result) != asked(self.first):
            return False
        alike = [other for (_, language), other in self.results.items() if language == result.language]
        return (label, result.language) not in self.results and all(
            items(other) == items(result) for other in alike
        )

    def of(self, label: str) -> dict[str, Result]:
        """Return a stage's results by language."""
        return {language: result for (stage, language), result in self.results.items() if stage == label}

    def table(self, labels: list[str]) -> str:
        """Return a row for each language of the last stage, and one of means: what each stage scored, in
        percent, then 95 % intervals.
        """
        metric = shown(self.first)
        by_stage = {label: self.of(label) for label in labels if self.of(label)}
        languages = list(by_stage[labels[-1]])
        with_interval = [
            label
            for label, its in by_stage.items()
            if any(metric in result.intervals for result in its.values())
        ]
        rows = []
        for language in languages:
            values = [_value(its.get(language), metric) for its in by_stage.values()]
            rows.append(
                [
                    language,
                    *values,
                    *(_interval(by_stage[label].get(language), metric) for label in with_interval),
                ]
            )
        if len(languages) > 1:
            means = [_mean(its, languages, metric) for its in by_stage.values()]
            rows.append(["mean", *means, *("" for _ in with_interval)])
        return format_table(["language", *by_stage, *(f"95 % of {label}" for label in with_interval)], rows)

    def remark(self) -> str:
        """Return why a mean is missing below languages that all have a figure, or nothing."""
        stages = dict.fromkeys(stage for stage, _ in self.results)
        if any(len({result.images for result in self.of(stage).values()}) > 1 for stage in stages):
            return "No mean over languages that have different images."
        return ""


def asked(result: Result) -> list:
    """Return what has to be equal of two results in one table, whatever their language."""
    return [
        result.task,
        result.kind,
        result.metric,
        result.dataset,
        result.split,
        *_varied(result).values(),
        result.definition,
    ]


def items(result: Result) -> list:
    """Return what has to be equal of two results in one row: the images with their captions or labels, and
    the prompts.
    """
    return [result.data, result.n_rows, result.images, result.prompts]


def make_sections(results: list[Result], labels: list[str]) -> list[Section]:
    """Sort results into sections, the order of the results kept; only those with figures of the last stage.

    Raises:
        InputError: two results are of the same stage, asked alike of the same items, and differ; or a figure
            is no fraction.
    """
    sections: list[Section] = []
    for result in results:
        label = stage_of(result, labels)
        if label is not None:
            _check_fractions(result)
        if label is None or _is_known(label, result, sections):
            continue
        section = next((section for section in sections if section.takes(label, result)), None)
        if section is None:
            section = Section()
            sections.append(section)
        section.results[label, result.language] = result
    sections = [section for section in sections if section.of(labels[-1])]
    _tell_apart(sections)
    return sections


def _check_fractions(result: Result) -> None:
    """See that what a card shows of a result is a fraction: neither a percentage nor what came of no images,
    which is no number.
    """
    for metric in {result.metric, shown(result)}:
        value = result.metrics.get(metric)
        if not (isinstance(value, int | float) and 0 <= value <= 1):
            where = result.path or f"a result of {result.task} in {result.language}"
            raise InputError(
                f"{where} has the {metric} {value}, which is no fraction from 0 to 1: evaluate again, or "
                "delete it"
            )


def _is_known(label: str, result: Result, sections: list[Section]) -> bool:
    """Return whether the same figure is there already, as when a model was evaluated in two folders."""
    for section in sections:
        other = section.results.get((label, result.language))
        if (
            other is None
            or other.weights != result.weights
            or asked(other) != asked(result)
            or items(other) != items(result)
        ):
            continue
        if other.metrics != result.metrics:
            raise InputError(
                f"{other.path} and {result.path} are of the same weights, task and language, and differ: "
                "delete one"
            )
        return True
    return False


def _tell_apart(sections: list[Section]) -> None:
    """Give each section its variation: its limit where it has one, and all in which it differs from others of
    that task.
    """
    titles: list[str] = []
    for section in sections:
        namesakes = [other.first for other in sections if other.first.task == section.first.task]
        parts = []
        for what, value in _varied(section.first).items():
            differs = len({json.dumps(_varied(other)[what], sort_keys=True) for other in namesakes}) > 1
            if value is not None and (differs or what == "limit"):
                parts.append(_in_words(what, value))
        section.variation = ", ".join(parts)
        if (
            section.title in titles
        ):  # only images, captions or prompts differ, of which there are hashes alone
            hashes = {"data": section.first.data, "prompts": section.first.prompts}
            section.variation = ", ".join(
                parts + [f"{what} {value[:8]}" for what, value in hashes.items() if value]
            )
        if section.title in titles:
            section.variation = ", ".join([*parts, f"number {1 + len(titles)}"])
        titles.append(section.title)


def _varied(result: Result) -> dict:
    """Return the ways in which two results of one task's name may have been asked otherwise, by the words
    that a title has.
    """
    return {
        "limit": result.limit,
        "dataset": result.dataset,
        "split": result.split,
        "revision": result.revision,
        "templates": result.templates,
        "class names": result.definition.get("class_names"),
    }


def _in_words(what: str, value) -> str:
    """Return a setting as a title has it: no path of this machine, no list of eighty sentences."""
    if what == "limit":
        return _first_rows(value)
    if what == "revision":
        return f"revision {value[:8]}"
    if isinstance(value, str):
        return f"{what} {public_path(value)}"
    if isinstance(value, list):
        return f"{len(value)} {what}, as {value[0]!r}"
    return f"{what} of {', '.join(value)}"


def _first_rows(limit: int) -> str:
    return f"first {limit}"


def _value(result: Result | None, metric: str) -> str:
    """Return a figure in percent; one of part of the data with its limit beside it."""
    if result is None:
        return ""
    percent = f"{100 * result.metrics[metric]:.1f}"
    return percent if result.limit is None else f"{percent} ({_first_rows(result.limit)})"


def _interval(result: Result | None, metric: str) -> str:
    if result is None or metric not in result.intervals:
        return ""
    low, high = result.intervals[metric]
    return f"{100 * low:.1f} to {100 * high:.1f}"


def _mean(results: dict[str, Result], languages: list[str], metric: str) -> str:
    """Return the mean over languages, if each of them has a figure and all are of the same images."""
    there = [results[language] for language in languages if language in results]
    if len(there) < len(languages) or len({result.images for result in there}) > 1:
        return ""
    return _value(
        replace(there[0], metrics={metric: mean(result.metrics[metric] for result in there)}), metric
    )


__all__ = ["Section", "join_to_weights", "make_sections", "shown", "stage_of"]
