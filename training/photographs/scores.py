"""Scores of the experiment on real pictures, by column and language, with intervals over pictures.

A picture may lack a caption in a language. All figures of a language are on the pictures that have one there,
ranked among these alone: also the teacher's, which reads their English captions. So two columns of a row are
comparable, and two rows are not.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import torch

from benchmarks.bootstrap import intervals
from benchmarks.outcomes import Outcomes
from benchmarks.report.means import share_images
from benchmarks.results import Result
from benchmarks.tasks.loading import load_task
from common.errors import InputError

from ..experiment import METRICS, mean_and_deviation
from .experiment import LINEAR_HEAD, TEACHER, PhotographsArguments


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
    "before": Column("before stage 1", TEACHER),
    "dictionary": Column("teacher, captions by dictionary", TEACHER, "dictionary"),
    "linear_head": Column("linear head", LINEAR_HEAD),
    "stage1": Column("stage 1", "stage1-{seed}"),
    "stage2": Column("stage 1 + 2", "stage2-{seed}"),
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


__all__ = ["COLUMNS", "Column", "PictureMean", "Results", "Score", "score_table"]
