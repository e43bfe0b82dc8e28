"""Models side by side: every number with its interval, the mean over languages, and which models the best cannot be told from."""

from dataclasses import dataclass, replace

import torch
from tqdm import tqdm

from .means import MEAN, MEANS, SHARED_MEAN, MeanOutcomes, explain_refusal, share_images, units_of_all
from .outcomes import Outcomes
from .recipe import InputError
from .results import Result
from .uncertainty import Difference, compare, intervals

SIGNIFICANT = 0.05


@dataclass
class Number:
    """What a model scored by one metric on a task in a language: a fraction, or a rank.

    `interval` is its 95 % interval, None where there is none. Of several models on the same task and language one is `best`; `tied` says
    that the paired test does not tell a model from it (p of 5 % or more), `untested` that it was measured on other items, so that no
    pair can be formed. `n` is the number of images. `result` is where it stands; of a mean, that of its first language.
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


class Comparison:
    """Results of several models; paired tests are made when they are asked for, and once.

    Args:
        results: as `load_results` reads them, with their outcomes beside them.
        means: whether the mean over languages is wanted too, as language `mean`; of models with a result in every language of a task,
            all of the same weights on the same images. Where languages have different images there is the mean over those that all of
            them have instead, as language `mean of shared images`, if that is known and there are any. `refusals` says why by task and
            model, and `without_mean` are these tasks.

    Raises:
        InputError: there is no result, two are of the same model, task and language, or one has no outcomes.
    """

    def __init__(self, results: list[Result], *, means: bool):
        self.results: dict[tuple[str, str, str], Result] = {}
        self._outcomes: dict[tuple[str, str, str], Outcomes] = {}
        self._differences: dict[tuple, dict[str, Difference]] = {}
        self.refusals: dict[str, dict[str, str]] = {}
        for result in results:
            key = result.model, result.task, result.language
            if key in self.results:
                raise InputError(
                    f"{self.results[key].path} and {result.path} are of the same model, task and language: keep one"
                )
            self.results[key], self._outcomes[key] = result, result.outcomes()
        if not self.results:
            raise InputError(
                "no results: evaluate first, with benchmarks/run_retrieval.py or run_zero_shot.py, or give other results"
            )
        if means:
            for task in self.values("task"):
                self._add_means(task)

    @property
    def without_mean(self) -> list[str]:
        """The tasks whose languages are not known to be of the same images, of some model."""
        return list(self.refusals)

    def values(self, axis: str) -> list[str]:
        """The models, tasks or languages, in the order of the results; means come last of the languages."""
        place = ("model", "task", "language").index(axis)
        return sorted(dict.fromkeys(key[place] for key in self.results), key=_means_last)

    def numbers(self, metrics: list[str] | None = None) -> list[Number]:
        """All numbers, by `metrics` or by each task's own, with the best of each task, language and metric marked.

        Raises:
            InputError: no result has one of the metrics.
        """
        known = {name for result in self.results.values() for name in result.metrics}
        unknown = [name for name in metrics or [] if name not in known]
        if unknown:
            raise InputError(
                f"no result has the metric {', '.join(unknown)}: choose from {' '.join(sorted(known))}"
            )
        groups: dict[tuple[str, str, str], list[Number]] = {}
        for (model, task, language), result in self.results.items():
            for metric in metrics or [result.metric]:
                if metric in result.metrics:
                    ends = result.intervals.get(metric)
                    interval = tuple(ends) if ends else None
                    number = Number(
                        model,
                        task,
                        language,
                        metric,
                        result.metrics[metric],
                        interval,
                        result.metrics["n"],
                        result=result,
                    )
                    groups.setdefault((task, language, metric), []).append(number)
        for group in tqdm(groups.values(), desc="Paired tests", unit="column"):
            self._mark(group)
        return [number for group in groups.values() for number in group]

    def difference(self, model: str, other: str, task: str, language: str, metric: str) -> Difference | None:
        """By how much `model` is ahead of `other` on the same items, or None where the items are not the same."""
        left, right = (model, task, language), (other, task, language)
        languages = self.languages_of(model, task) if language in MEANS else [language]
        if any(
            not same_data(self.results[model, task, each], self.results[other, task, each])
            for each in languages
        ):
            return None
        if not same_items(self._outcomes[left], self._outcomes[right]):
            return None
        if (left, right) not in self._differences:
            self._differences[left, right] = compare(self._outcomes[left], self._outcomes[right])
        return self._differences[left, right][metric]

    def mean_difference(
        self, model: str, other: str, task: str, languages: list[str], metric: str
    ) -> Difference | None:
        """The same for the mean over `languages`, in each of which there is a difference; None where either has no such mean."""
        left, right = (self.mean_outcomes(name, task, languages) for name in (model, other))
        if left is None or right is None or not same_items(left, right):
            return None
        return compare(left, right)[metric]

    def mean_outcomes(self, model: str, task: str, languages: list[str]) -> MeanOutcomes | None:
        """One model's mean over these languages, on the images that all of them have; `is_whole` says whether these are all images.

        None where its weights changed between languages, where it is not known which images languages share, or where they share none.
        """
        units = self._units_of_all(model, task, languages)
        weights = {self.results[model, task, language].weights for language in languages}
        if units is None or len(units[0]) == 0 or len(weights) > 1:
            return None
        return MeanOutcomes([self._outcomes[model, task, language] for language in languages], units)

    def can_average(self, model: str, task: str, languages: list[str]) -> bool:
        """Whether one model, of the same weights, was measured on the same images in all these languages."""
        mean = self.mean_outcomes(model, task, languages)
        return mean is not None and mean.is_whole

    def languages_of(self, model: str, task: str) -> list[str]:
        """Those in which a model has a result, without means."""
        return [
            language
            for name, of_task, language in self.results
            if (name, of_task) == (model, task) and language not in MEANS
        ]

    def _units_of_all(self, model: str, task: str, languages: list[str]) -> list[torch.Tensor] | None:
        """By language, the units of the images that all languages have; None where that is not known."""
        outcomes = [self._outcomes[model, task, language] for language in languages]
        if share_images([self.results[model, task, language] for language in languages]):
            return [torch.arange(part.n_units) for part in outcomes]
        return units_of_all(outcomes)

    def _mark(self, group: list[Number]) -> None:
        if len(group) == 1:
            return
        best = (min if is_rank(group[0].metric) else max)(group, key=lambda number: number.value)
        best.best = True
        for number in group:
            if number is not best:
                difference = self.difference(
                    best.model, number.model, number.task, number.language, number.metric
                )
                number.untested = difference is None
                number.tied = difference is not None and difference.p >= SIGNIFICANT

    def _add_means(self, task: str) -> None:
        languages = list(dict.fromkeys(language for _, of_task, language in self.results if of_task == task))
        for model in self.values("model"):
            keys = [(model, task, language) for language in languages]
            if len(languages) < 2 or not self.results.keys() >= set(keys):
                continue
            outcomes = [self._outcomes[key] for key in keys]
            units = self._units_of_all(model, task, languages)
            mean = self.mean_outcomes(model, task, languages)
            if units is None or not MeanOutcomes(outcomes, units).is_whole:  # whatever the weights
                self.refusals.setdefault(task, {})[model] = explain_refusal(languages, outcomes, units, mean)
            if mean is not None:
                self._add_mean(MEAN if mean.is_whole else SHARED_MEAN, mean, self.results[keys[0]])

    def _add_mean(self, name: str, mean: MeanOutcomes, first: Result) -> None:
        """Add a mean as the result of a language; the rest is that of the first language's result."""
        whole = {"language": name, "metrics": mean.metrics(), "intervals": intervals(mean)}
        key = first.model, first.task, name
        self._outcomes[key] = mean
        self.results[key] = replace(first, **whole, data=None, images=None, prompts=None, path=None)


def _means_last(value: str) -> int:
    return 1 + MEANS.index(value) if value in MEANS else 0


def same_data(one: Result, other: Result) -> bool:
    """Whether two results of a task and language are of the same images and captions or labels: by the hashes of these, wherever they
    lay; by the data set's name, revision and split where a result has no hash.
    """
    if one.images is not None and other.images is not None and one.images != other.images:
        return False
    if one.data is not None and other.data is not None:
        return one.data == other.data
    return (one.dataset, one.revision, one.split) == (other.dataset, other.revision, other.split)


def same_items(one: Outcomes, other: Outcomes) -> bool:
    """Whether outcomes on the same data can be compared item by item; class names for other classes give its images other labels."""
    if type(one) is not type(other) or one.n_units != other.n_units:
        return False
    return all(torch.equal(values, other.items[name]) for name, values in one.items.items())


def is_rank(metric: str) -> bool:
    """Whether less is better."""
    return "_rank_" in metric
