"""Comparison of models: numbers with intervals, means over languages, and paired tests against the best."""

from dataclasses import dataclass, replace

import torch
from tqdm import tqdm

from common.commands import evaluation_programs
from common.errors import InputError

from ..bootstrap import PairedDifference, compare, intervals
from ..outcomes import Outcomes
from ..results import Result
from ..tasks.checks import OWN_IMAGES
from .means import (
    MEAN,
    MEANS,
    SHARED_MEAN,
    MeanOutcomes,
    OwnImagesMean,
    explain_refusal,
    share_images,
    units_of_all,
)

SIGNIFICANT = 0.05  # level of the paired test


@dataclass
class Number:
    """Score of a model by one metric on a task in a language: a fraction, or a rank.

    `interval` is the 95 % interval, None where there is none. Of several models on the same task and language
    one is `best`, except in metrics of a mixed pool, see `is_of_pool`. `tied` says that the paired test does
    not tell a model from the best (p of 5 % or more), `untested` that it was evaluated on other items, so
    that no pair can be formed. `n` is the number of images. `result` is the result that has the number; for a
    mean, that of its first language. `languages` are those that a mean is over.
    """

    model: str
    task: str
    language: str
    metric: str
    value: float
    interval: tuple[float, float] | None
    n: int
    best: bool = False
    tied: bool = False
    untested: bool = False
    result: Result | None = None
    languages: tuple[str, ...] = ()


class Comparison:
    """Results of several models, and paired tests between them, computed on demand and once.

    Args:
        results: as `load_results` reads them, with their outcomes beside them.
        means: add the mean over languages as language `mean`, for models with a result in every language of a
            task, all of the same weights on the same images. Where languages have different images, the mean
            over the images that all of them have is added instead, as language `mean of shared images`, if
            these are known and there are any. Of a task in which each language has images of its own, the
            mean is over all of them.

    Attributes:
        results: `{(model, task, language): result}`, with means.
        refusals: `{task: {model: reason}}`, why there is no mean over all images.

    Raises:
        InputError: there is no result, two are of the same model, task and language, or one has no outcomes.
    """

    def __init__(self, results: list[Result], *, means: bool):
        self.results: dict[tuple[str, str, str], Result] = {}
        self.refusals: dict[str, dict[str, str]] = {}
        self._outcomes: dict[tuple[str, str, str], Outcomes] = {}
        # {(one result's key, another's key): {metric: difference}}, as they are requested
        self._differences: dict[tuple, dict[str, PairedDifference]] = {}
        for result in results:
            self._add(result)
        if not self.results:
            raise InputError(
                f"no results: evaluate first, with {evaluation_programs()}, or give other results"
            )
        if means:
            for task in self.values("task"):
                self._add_means(task)

    @property
    def without_mean(self) -> list[str]:
        """Return the tasks whose languages, for some model, are not known to have the same images."""
        return list(self.refusals)

    def values(self, axis: str) -> list[str]:
        """Return the models, tasks or languages in the order of the results, means after the languages."""
        place = ("model", "task", "language").index(axis)
        return sorted(dict.fromkeys(key[place] for key in self.results), key=_means_last)

    def metric_of(self, task: str) -> str:
        """Return a task's main metric."""
        return next(result.metric for key, result in self.results.items() if key[1] == task)

    def languages_of(self, model: str, task: str) -> list[str]:
        """Return the languages in which a model has a result on a task, without means."""
        return list(self.results_of(model, task))

    def results_of(self, model: str, task: str) -> dict[str, Result]:
        """Return a model's results on a task by language, without means."""
        found = {}
        for (of_model, of_task, language), result in self.results.items():
            if (of_model, of_task) == (model, task) and language not in MEANS:
                found[language] = result
        return found

    def numbers(self, metrics: list[str] | None = None) -> list[Number]:
        """Return all numbers, with the best of each task, language and metric marked.

        Args:
            metrics: each task's main one by default.

        Raises:
            InputError: no result has one of the metrics.
        """
        if metrics is not None:
            self._check_metrics(metrics)

        # The models of one task, language and metric are compared with one another.
        groups: dict[tuple[str, str, str], list[Number]] = {}
        for (_, task, language), result in self.results.items():
            for metric in metrics or [result.metric]:
                if metric in result.metrics:
                    number = _to_number(result, metric)
                    if language in MEANS:
                        number.languages = tuple(self.languages_of(result.model, task))
                    groups.setdefault((task, language, metric), []).append(number)

        numbers = []
        for group in tqdm(groups.values(), desc="Paired tests", unit="column"):
            self._mark(group)
            numbers += group
        return numbers

    def difference(
        self, model: str, other: str, task: str, language: str, metric: str
    ) -> PairedDifference | None:
        """Compute by how much `model` is ahead of `other` on the same items; None where the items differ."""
        # A mean was measured on the data of each of its languages.
        languages = self.languages_of(model, task) if language in MEANS else [language]
        for each in languages:
            one_result = self.results[model, task, each]
            other_result = self.results[other, task, each]
            if not _same_data(one_result, other_result):
                return None
        left = (model, task, language)
        right = (other, task, language)
        if not _same_items(self._outcomes[left], self._outcomes[right]):
            return None

        # One paired test computes the differences of all metrics.
        if (left, right) not in self._differences:
            self._differences[left, right] = compare(self._outcomes[left], self._outcomes[right])
        return self._differences[left, right][metric]

    def mean_difference(
        self, model: str, other: str, task: str, languages: list[str], metric: str
    ) -> PairedDifference | None:
        """Compute by how much `model` is ahead of `other` in the mean over `languages`.

        `difference` has to know a difference in each of them. None where either model has no such mean.
        """
        left = self.mean_outcomes(model, task, languages)
        right = self.mean_outcomes(other, task, languages)
        if left is None or right is None or not _same_items(left, right):
            return None
        return compare(left, right)[metric]

    def mean_outcomes(self, model: str, task: str, languages: list[str]) -> MeanOutcomes | None:
        """Return one model's mean over languages, on the images that all of them have.

        Its `is_whole` is True if these are all images. None where the weights changed between languages,
        where it is not known which images the languages share, or where they share none. Where each language
        has images of its own, the mean is over all of them.
        """
        weights = {self.results[model, task, language].weights for language in languages}
        if len(weights) > 1:
            return None
        outcomes = [self._outcomes[model, task, language] for language in languages]
        if self._has_own_images(model, task, languages[0]):
            return OwnImagesMean(outcomes)
        units = self._units_of_all(model, task, languages)
        if units is None or len(units[0]) == 0:
            return None
        return MeanOutcomes(outcomes, units)

    def can_average(self, model: str, task: str, languages: list[str]) -> bool:
        """Check that a model, of the same weights, was measured on the same images in all these languages."""
        mean = self.mean_outcomes(model, task, languages)
        return mean is not None and mean.is_whole

    def _has_own_images(self, model: str, task: str, language: str) -> bool:
        """Check that a task has images of its own in each language, by what a result says of its layout."""
        return self.results[model, task, language].definition.get("layout") in OWN_IMAGES

    def _add(self, result: Result) -> None:
        key = (result.model, result.task, result.language)
        if key in self.results:
            raise InputError(
                f"{self.results[key].path} and {result.path} are of the same model, task and language: "
                "keep one"
            )
        self.results[key] = result
        self._outcomes[key] = result.outcomes()

    def _check_metrics(self, metrics: list[str]) -> None:
        known = set()
        for result in self.results.values():
            known.update(result.metrics)
        unknown = [name for name in metrics if name not in known]
        if unknown:
            raise InputError(
                f"no result has the metric {', '.join(unknown)}: choose from {' '.join(sorted(known))}"
            )

    def _units_of_all(self, model: str, task: str, languages: list[str]) -> list[torch.Tensor] | None:
        """Return by language the units of the images that all languages have; None if these are not known."""
        results = [self.results[model, task, language] for language in languages]
        outcomes = [self._outcomes[model, task, language] for language in languages]
        if share_images(results):
            return [torch.arange(part.n_units) for part in outcomes]
        return units_of_all(outcomes)

    def _mark(self, group: list[Number]) -> None:
        """Mark the best of several numbers, and the others that the paired test does not tell from it."""
        metric = group[0].metric
        if len(group) == 1 or is_of_pool(metric):
            return
        best_of = min if is_rank(metric) else max
        best = best_of(group, key=lambda number: number.value)
        best.best = True
        for number in group:
            if number is best:
                continue
            found = self.difference(best.model, number.model, number.task, number.language, number.metric)
            number.untested = found is None
            number.tied = found is not None and found.p >= SIGNIFICANT

    def _add_means(self, task: str) -> None:
        """Add the mean over a task's languages, of each model that has a result in all of them."""
        of_task = [language for _, other_task, language in self.results if other_task == task]
        languages = list(dict.fromkeys(of_task))  # each once
        for model in self.values("model"):
            keys = [(model, task, language) for language in languages]
            # A mean over fewer languages would stand beside those over all of them.
            if len(languages) < 2 or not self.results.keys() >= set(keys):
                continue

            mean = self.mean_outcomes(model, task, languages)
            if not self._has_own_images(model, task, languages[0]):
                self._note_refusal(model, task, languages, mean)
            if mean is not None:
                name = MEAN if mean.is_whole else SHARED_MEAN
                self._add_mean(name, mean, first=self.results[keys[0]])

    def _note_refusal(self, model: str, task: str, languages: list[str], mean: MeanOutcomes | None) -> None:
        """Note why there is no mean over all images, where languages that could share them do not."""
        outcomes = [self._outcomes[model, task, language] for language in languages]
        units = self._units_of_all(model, task, languages)
        # Not `mean.is_whole`: a mean refused for its weights may still be over all images.
        if units is None or not MeanOutcomes(outcomes, units).is_whole:
            reason = explain_refusal(languages, outcomes, units, mean)
            self.refusals.setdefault(task, {})[model] = reason

    def _add_mean(self, name: str, mean: MeanOutcomes, first: Result) -> None:
        """Add a mean as the result of a language; other fields are those of the first language's result."""
        key = (first.model, first.task, name)
        self._outcomes[key] = mean
        self.results[key] = replace(
            first,
            language=name,
            metrics=mean.metrics(),
            intervals=intervals(mean),
            # These are of one language's items.
            data=None,
            images=None,
            prompts=None,
            path=None,
        )


def _to_number(result: Result, metric: str) -> Number:
    """Return the number of a result by one metric, without the marks that depend on other models."""
    ends = result.intervals.get(metric)
    return Number(
        model=result.model,
        task=result.task,
        language=result.language,
        metric=metric,
        value=result.metrics[metric],
        interval=tuple(ends) if ends else None,
        n=result.metrics["n"],
        result=result,
    )


def _means_last(value: str) -> int:
    """Return a key that sorts means after languages, models and tasks, which keep their order."""
    return 1 + MEANS.index(value) if value in MEANS else 0


def _same_data(one: Result, other: Result) -> bool:
    """Check that two results of a task and language are of the same images and captions or labels.

    They are compared by hash, wherever the data was read from; by the dataset's name, revision and split
    where a result has no hash.
    """
    if one.images is not None and other.images is not None and one.images != other.images:
        return False
    if one.data is not None and other.data is not None:
        return one.data == other.data
    return (one.dataset, one.revision, one.split) == (other.dataset, other.revision, other.split)


def _same_items(one: Outcomes, other: Outcomes) -> bool:
    """Check that outcomes on the same data can be compared item by item.

    They cannot where the class names were for other classes, which gives the images other labels.
    """
    if type(one) is not type(other) or one.n_units != other.n_units:
        return False
    return all(torch.equal(values, other.items[name]) for name, values in one.items.items())


def is_rank(metric: str) -> bool:
    """Check if a metric is a rank, of which less is better."""
    return "_rank_" in metric


def is_of_pool(metric: str) -> bool:
    """Check if a metric says how languages compete in a mixed pool.

    Neither more nor less is better: half is no preference, and a language that is preferred less is ahead of
    others less often.
    """
    return metric.endswith(("_preference", "_overtaken"))
