"""Findings of a report in words: who leads each task, by how much, and in how many languages."""

from dataclasses import dataclass

from ..bootstrap import PairedDifference
from ..results import Result
from .comparison import SIGNIFICANT, Comparison, is_of_pool
from .formatting import format_percent, format_points, label, short_names
from .means import MEAN, MEANS, SHARED_MEAN


def describe_findings(comparison: Comparison) -> list[tuple[str, str]]:
    """Describe each task in words: who leads by its own metric, by how much, and in how many languages.

    Of a mixed pool it is told which languages each model prefers.

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

    heading = f"{task}, {label(metric, {})}"
    if is_of_pool(metric):
        described = [_describe_preferences(names[model], results) for model, results in by_model.items()]
        return heading, " ".join(described)

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
    return heading, " ".join(sentences)


def _describe_preferences(name: str, results: dict[str, Result]) -> str:
    """Describe how often languages get into each other's way in a mixed pool, and which a model prefers."""

    def mean_of(metric: str) -> str:
        values = [result.metrics[metric] for result in results.values()]
        return format_percent(sum(values) / len(values))

    of_images = _describe_range(results, "image_to_text_preference")
    of_texts = _describe_range(results, "text_to_text_preference")
    own = mean_of("text_to_text_preference")
    return (
        f"{name} puts a wrong text ahead of the right text in another language in "
        f"{mean_of('image_to_text_overtaken')} % of cases for images, and in "
        f"{mean_of('text_to_text_overtaken')} % for texts. "
        f"Of the wrong first answers to images, the share of a language is {of_images}. "
        f"Of those to texts, the share of the text's own language is {own} in the mean, {of_texts}. "
        "50 % is no preference."
    )


def _describe_range(results: dict[str, Result], metric: str) -> str:
    """Return `from 48.0 in en to 60.1 in zh; the intervals of 5 of 9 languages leave out 50 %`."""
    ordered = sorted(results.values(), key=lambda result: result.metrics[metric])
    lowest = _format_score(ordered[0], metric)
    highest = _format_score(ordered[-1], metric)
    words = f"from {lowest} to {highest}"
    ends = [result.intervals[metric] for result in ordered if metric in result.intervals]
    if not ends:
        return words
    n_apart = sum(not low <= 0.5 <= high for low, high in ends)
    return f"{words}; the intervals of {n_apart} of {len(ends)} languages leave out 50 %"


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

    mean = format_percent(whole.metrics[metric])
    score = f"{name} scores {mean} %{_format_interval(whole, metric)}"
    if whole is first:
        return f"{score} in {languages[0]}."
    return f"{score} in the mean of {len(languages)} languages, from {worst} to {best}."


def _describe_shared_mean(result: Result, metric: str) -> str:
    """Return `; in their mean on the 50 images that all have, 72.4 (68.1 to 76.0)`."""
    images = _on_shared(result.metrics["n"])
    mean = format_percent(result.metrics[metric])
    return f"; in their mean {images}, {mean}{_format_interval(result, metric)}"


@dataclass
class _Pair:
    """Leader of a task beside another model, in the languages that both were evaluated in."""

    comparison: Comparison
    leader: str
    model: str
    task: str
    metric: str
    languages: list[str]

    def differences(self) -> list[PairedDifference | None]:
        """Return the difference in each language, None where the items differ."""
        return [self._difference(language) for language in self.languages]

    def overall_difference(self) -> PairedDifference | None:
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

    def _difference(self, language: str) -> PairedDifference | None:
        return self.comparison.difference(self.leader, self.model, self.task, language, self.metric)


def _describe_pair(pair: _Pair, name: str) -> str:
    """Describe how far the leader is ahead of another model, called `name`."""
    each = pair.differences()
    if None in each:
        return f"{name} was evaluated on other items."

    sides = _describe_sides(each)
    whole = pair.overall_difference()
    if whole is None:
        words = f"Compared with {name} in {len(pair.languages)} languages, for which there is no mean"
        return f"{words}: significantly {sides or 'different in none of them'}."

    ends = f"{format_points(whole.low)} to {format_points(whole.high)}"
    if whole.p >= SIGNIFICANT:  # the test cannot tell them apart
        difference = f"{format_points(whole.difference)} points"
        sentence = f"It does not differ significantly from {name} {pair.place()} ({difference}, {ends})"
    else:
        side = "ahead of" if whole.difference > 0 else "behind"
        difference = f"{format_percent(abs(whole.difference))} points"
        sentence = f"It is {side} {name} by {difference} {pair.place()} ({ends})"

    if len(pair.languages) == 1:
        return f"{sentence}."
    if sides:
        return f"{sentence}; tested separately, {sides}."
    return f"{sentence}; no single language differs significantly."


def _describe_sides(differences: list[PairedDifference]) -> str:
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


def _on_shared(n: int) -> str:
    return f"on the {n:,} images that all have"


def _format_score(result: Result, metric: str) -> str:
    """Return `72.4 in en`."""
    return f"{format_percent(result.metrics[metric])} in {result.language}"


def _format_interval(result: Result, metric: str) -> str:
    """Return ` (68.1 to 76.0)`; nothing for a result without this interval."""
    if metric not in result.intervals:
        return ""
    low, high = result.intervals[metric]
    return f" ({format_percent(low)} to {format_percent(high)})"
