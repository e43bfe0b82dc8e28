"""Group the comparable results of a card's stages into tables."""

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from statistics import mean

from benchmarks.results import Result, format_table
from common.errors import InputError

from .joining import source_of
from .paths import public_path

_ALL_DIMENSIONS = "all"  # the column of embeddings that are not truncated


def _stage_label(result: Result, labels: Iterable[str]) -> str | None:
    """Return the label of a result's stage: its `model`, or the last part of that; None if neither is one."""
    for name in (result.model, result.model_name):
        if name in labels:
            return name
    return None


def table_metric(result: Result) -> str:
    """Return the metric that a card's tables show: text-to-image recall@1, or the task's main metric."""
    return "text_to_image_recall@1" if result.kind == "retrieval" else result.metric


@dataclass
class Section:
    """Comparable results: one task, one evaluation protocol, at most one result per stage and language.

    `variation` names what distinguishes the section from others of the same task, such as `first 100`. It is
    empty for most sections.
    """

    results: dict[tuple[str, str], Result] = field(default_factory=dict)
    """`{(label of the stage, language): result}`"""
    variation: str = ""

    @property
    def title(self) -> str:
        if self.variation:
            return f"{self.first.task}, {self.variation}"
        return self.first.task

    @property
    def first(self) -> Result:
        return next(iter(self.results.values()))

    def accepts(self, label: str, result: Result) -> bool:
        """Return whether a result is comparable with those here, and its cell of the table is free."""
        if self.results and _protocol(result) != _protocol(self.first):
            return False
        if (label, result.language) in self.results:
            return False
        for (_, language), other in self.results.items():
            if language == result.language and _items(other) != _items(result):
                return False
        return True

    def by_language(self, label: str) -> dict[str, Result]:
        """Return a stage's results by language."""
        results = {}
        for (stage, language), result in self.results.items():
            if stage == label:
                results[language] = result
        return results

    def has_intervals(self, label: str) -> bool:
        """Return whether each of a stage's results has the interval of what tables show."""
        metric = table_metric(self.first)
        return all(metric in result.intervals for result in self.by_language(label).values())

    def table(self, labels: list[str]) -> str:
        """Format a Markdown table of percentages: languages by stages, then the 95 % intervals.

        ```
        | language | stage1 | stage2 | 95 % of stage2 |
        |----------|--------|--------|----------------|
        | en       | 40.0   | 50.0   | 43.2 to 56.8   |
        | zh       |        | 60.0   |                |
        | mean     |        | 55.0   |                |
        ```

        Args:
            labels: of the stages. The last one decides which languages have a row.
        """
        metric = table_metric(self.first)
        # A card is of the last stage: languages that it was not evaluated in have no row.
        languages = list(self.by_language(labels[-1]))

        # A column of values for each stage that has any, and one of intervals for each stage that has those.
        by_stage = {}
        for label in labels:
            results = self.by_language(label)
            if results:
                by_stage[label] = results
        with_interval = [label for label, results in by_stage.items() if _has_intervals(results, metric)]
        interval_headings = [f"95 % of {label}" for label in with_interval]
        header = ["language", *by_stage, *interval_headings]

        rows = []
        for language in languages:
            row = [language]
            for results in by_stage.values():
                row.append(_format_value(results.get(language), metric))
            for label in with_interval:
                row.append(_format_interval(by_stage[label].get(language), metric))
            rows.append(row)

        if len(languages) > 1:
            means = [_format_mean(results, languages, metric) for results in by_stage.values()]
            no_intervals = [""] * len(with_interval)
            if any(means):
                rows.append(["mean", *means, *no_intervals])
        return format_table(header, rows)

    def remark(self) -> str:
        """Return the remark below the table: on languages with different images, and on what is no score."""
        if self.first.kind == "mixed_pool":
            return (
                "All languages are in one index. The preference of a language is its share among the wrong "
                "first answers in it and another one: 50 % is no preference."
            )
        for stage, _ in self.results:
            if _images_differ(self.by_language(stage).values()):
                return "No mean over languages that have different images."
        return ""


def _protocol(result: Result) -> list:
    """Return what must be equal for two results to share a table, whatever their language."""
    return [
        result.task,
        result.kind,
        result.metric,
        result.dataset,
        result.split,
        *_settings(result).values(),
        result.definition,
    ]


def _items(result: Result) -> list:
    """Return what must be equal for two results to share a row: images, captions or labels, and prompts."""
    return [result.data, result.n_rows, result.images, result.prompts]


def make_sections(results: list[Result], labels: list[str]) -> list[Section]:
    """Group results into sections, in the order of the results; drop sections without the last stage.

    Results of truncated embeddings are left to `make_truncated_sections`.

    Raises:
        InputError: two results of the same stage, protocol and items differ; or a value is not a fraction.
    """
    sections: list[Section] = []
    for result in results:
        label = _stage_label(result, labels)
        if label is None or result.truncate_dim is not None:
            continue
        _check_fractions(result)
        if not _is_duplicate(label, result, sections):
            section = _find_section(label, result, sections)
            section.results[label, result.language] = result

    sections = [section for section in sections if section.by_language(labels[-1])]
    _set_variations(sections)
    return sections


def make_truncated_sections(results: list[Result], label: str) -> list[Section]:
    """Group one stage's results of truncated embeddings into sections, next to those of whole embeddings.

    The labels in these sections are numbers of dimensions, such as `128`, and `all`;
    `labels_of_dims` returns them in the order of a table.

    Args:
        label: the stage's.

    Raises:
        InputError: as `make_sections`.
    """
    own = [result for result in results if _stage_label(result, [label]) is not None]
    truncated = [result for result in own if result.truncate_dim is not None]
    tasks = {result.whole_task for result in truncated}

    columns = []
    for result in own:
        if result.truncate_dim is None and result.task in tasks:
            columns.append(replace(result, model=_ALL_DIMENSIONS))
    for result in truncated:
        columns.append(
            replace(result, model=str(result.truncate_dim), task=result.whole_task, truncate_dim=None)
        )
    compared = []
    for section in make_sections(columns, labels_of_dims(truncated)):
        # A task may have been truncated under one protocol alone, such as with a limit.
        labels = {label for label, _ in section.results}
        if len(labels) > 1:
            compared.append(section)
    return compared


def labels_of_dims(results: list[Result]) -> list[str]:
    """Return the labels of `make_truncated_sections`, the fewest dimensions first and all of them last."""
    dims = {result.truncate_dim for result in results if result.truncate_dim is not None}
    return [*map(str, sorted(dims)), _ALL_DIMENSIONS]


def _check_fractions(result: Result) -> None:
    """Check that the values a card shows are fractions: no percentages, and no NaN from zero images."""
    for metric in (result.metric, table_metric(result)):
        value = result.metrics.get(metric)
        # NaN fails both comparisons, and None is no number.
        is_fraction = isinstance(value, int | float) and 0 <= value <= 1
        if not is_fraction:
            raise InputError(
                f"{source_of(result)} has the {metric} {value}, which is no fraction from 0 to 1: "
                "evaluate again, or delete it"
            )


def _is_duplicate(label: str, result: Result, sections: list[Section]) -> bool:
    """Return whether the sections hold this measurement already, as after an evaluation in two folders.

    Raises:
        InputError: they hold it with other values.
    """
    for section in sections:
        other = section.results.get((label, result.language))
        if other is not None and _same_measurement(other, result):
            if other.metrics != result.metrics:
                raise InputError(
                    f"{other.path} and {result.path} are of the same weights, task and language, and differ: "
                    "delete one"
                )
            return True
    return False


def _same_measurement(one: Result, other: Result) -> bool:
    """Return whether two results of the same language must have the same values."""
    if one.weights != other.weights:
        return False
    return _protocol(one) == _protocol(other) and _items(one) == _items(other)


def _find_section(label: str, result: Result, sections: list[Section]) -> Section:
    """Return the first section that accepts a result, or append a new one."""
    for section in sections:
        if section.accepts(label, result):
            return section
    sections.append(Section())
    return sections[-1]


def _set_variations(sections: list[Section]) -> None:
    """Set the variation of each section, so that no two sections have the same title.

    It names the section's limit, if it has one, and the settings that differ from others of the same task.
    """
    titles: list[str] = []
    for section in sections:
        result = section.first
        same_task = [other.first for other in sections if other.first.task == result.task]
        settings = _differing_settings(result, same_task)
        section.variation = ", ".join(settings)

        # If only images, captions or prompts differ, there is no more to show of them than a hash.
        if section.title in titles:
            section.variation = ", ".join(settings + _short_hashes(result))

        # Even the hashes may be equal or unknown.
        if section.title in titles:
            number = f"number {1 + len(titles)}"
            section.variation = ", ".join([*settings, number])
        titles.append(section.title)


def _differing_settings(result: Result, same_task: list[Result]) -> list[str]:
    """Describe the limit of a result and the settings that differ among results of its task."""
    described = []
    for name, value in _settings(result).items():
        if value is None:
            continue
        # As JSON, since a list of prompt templates or a dict of class names cannot be in a set.
        distinct = {json.dumps(_settings(other)[name], sort_keys=True) for other in same_task}
        if name == "limit" or len(distinct) > 1:
            described.append(_describe_setting(name, value))
    return described


def _short_hashes(result: Result) -> list[str]:
    """Return what identifies a result's items, `["data 0f3a9c1b", "prompts 77d1e02a"]`, as far as known."""
    hashes = []
    if result.data:
        hashes.append(f"data {result.data[:8]}")
    if result.prompts:
        hashes.append(f"prompts {result.prompts[:8]}")
    return hashes


def _settings(result: Result) -> dict:
    """Return the settings in which results of one task may differ, by the names that titles use."""
    return {
        "limit": result.limit,
        "dataset": result.dataset,
        "split": result.split,
        "revision": result.revision,
        "templates": result.templates,
        "class names": result.definition.get("class_names"),
    }


def _describe_setting(name: str, value) -> str:
    """Describe a setting for a title, without local paths and without long lists of prompt templates."""
    if name == "limit":
        return _describe_limit(value)
    if name == "revision":
        return f"revision {value[:8]}"
    if isinstance(value, str):  # "templates ours"
        return f"{name} {public_path(value)}"
    if isinstance(value, list):  # "80 templates, as 'a photo of {}'"
        return f"{len(value)} {name}, as {value[0]!r}"
    return f"{name} of {', '.join(value)}"  # a dict by language: "class names of en, zh"


def _describe_limit(limit: int) -> str:
    return f"first {limit}"


def _format_percent(fraction: float, limit: int | None = None) -> str:
    """Format a fraction as a percentage: `52.1`, or `52.1 (first 100)` if it is of part of the data."""
    percent = f"{100 * fraction:.1f}"
    if limit is not None:
        percent += f" ({_describe_limit(limit)})"
    return percent


def _format_value(result: Result | None, metric: str) -> str:
    if result is None:
        return ""
    return _format_percent(result.metrics[metric], result.limit)


def _format_interval(result: Result | None, metric: str) -> str:
    if result is None or metric not in result.intervals:
        return ""
    low, high = result.intervals[metric]
    return f"{_format_percent(low)} to {_format_percent(high)}"


def _format_mean(results: dict[str, Result], languages: list[str], metric: str) -> str:
    """Format the mean over languages; empty if one of them is missing or their images differ."""
    measured = [results[language] for language in languages if language in results]
    if len(measured) < len(languages) or _images_differ(measured):
        return ""
    fraction = mean(result.metrics[metric] for result in measured)
    return _format_percent(fraction, measured[0].limit)


def _has_intervals(results: dict[str, Result], metric: str) -> bool:
    return any(metric in result.intervals for result in results.values())


def _images_differ(results: Collection[Result]) -> bool:
    distinct = {result.images for result in results}
    return len(distinct) > 1


__all__ = [
    "Section",
    "labels_of_dims",
    "make_sections",
    "make_truncated_sections",
    "table_metric",
]
