"""Means over languages, in the form of outcomes.

A mean is over all images where the languages have the same ones, or else over those that all languages have.
The images of a language are those with a caption, or a class name, in it. They are known to be the same by
the hash of all of them in a result, or one by one by the digests in its outcomes. The two kinds of means may
not be taken for one another, so that they have different names: `MEAN` is over all images, `SHARED_MEAN` over
those that all languages have.

In some tasks each language has images of its own. Their mean, over all images of all languages, is a `MEAN`
too.
"""

import numpy as np
import pandas as pd
import torch

from ..bootstrap import BLOCK_WEIGHTS
from ..outcomes import ClassOutcomes, Outcomes, RetrievalOutcomes
from ..results import Result

MEAN = "mean"
SHARED_MEAN = "mean of shared images"
MEANS = (MEAN, SHARED_MEAN)


class MeanOutcomes(Outcomes):
    """Mean of one model's outcomes over languages.

    A resample draws an image in all languages at once, so that the interval knows that they share their
    images.

    Args:
        parts: the outcomes, one for each language.
        units: of each part the units `(shared images,)` of the first shared image, the second one and so on,
            see `units_of_all`; by default all units of each part, in its order. Other units have no share in
            a metric, but stay among the candidates that a query is ranked among.
    """

    def __init__(self, parts: list[Outcomes], units: list[torch.Tensor] | None = None):
        self.parts = parts
        self.units = [torch.arange(part.n_units) for part in parts] if units is None else units

    @property
    def n_units(self) -> int:
        return len(self.units[0])

    @property
    def is_whole(self) -> bool:
        """Check if all images of every language have a share."""
        return all(len(units) == part.n_units for part, units in zip(self.parts, self.units))

    @property
    def items(self) -> dict[str, torch.Tensor]:
        items = {}
        for place, part in enumerate(self.parts):
            for name, values in part.items.items():
                items[f"{name} of part {place}"] = values
        # Two models may have the same items in each language and yet share other images.
        for place, units in enumerate(self.units):
            items[f"units of part {place}"] = units
        return items

    def differing(self, other: "MeanOutcomes") -> dict[str, torch.Tensor]:
        # {metric: [(shared images,) of the first language, of the second, ...]}
        by_metric: dict[str, list[torch.Tensor]] = {}
        for part, other_part, units in zip(self.parts, other.parts, self.units):
            for name, differs in part.differing(other_part).items():
                by_metric.setdefault(name, []).append(differs[units])
        # An image differs where it does in any language.
        return {name: torch.stack(differs).any(0) for name, differs in by_metric.items()}

    def score(self, weights: torch.Tensor) -> dict[str, torch.Tensor]:
        """Average the scores of the parts; arguments and result are theirs.

        Units of a part that are not shared have the weight 0.
        """
        # {metric: [(resamples,) of the first language, of the second, ...]}
        by_metric: dict[str, list[torch.Tensor]] = {}
        for part, units in zip(self.parts, self.units):
            for name, scores in self._score_part(part, units, weights).items():
                by_metric.setdefault(name, []).append(scores)
        return {name: torch.stack(scores).mean(0) for name, scores in by_metric.items()}

    def _score_part(
        self, part: Outcomes, units: torch.Tensor, weights: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Compute a part's scores, in blocks of resamples: it may have many more units than are shared."""
        by_metric: dict[str, list[torch.Tensor]] = {}
        for block in weights.split(max(1, BLOCK_WEIGHTS // part.n_units)):
            # Shared units [3, 0] of four, drawn [2, 1] times -> weights [1, 0, 0, 2] of the part's units.
            of_part = block.new_zeros(len(block), part.n_units)
            of_part[:, units] = block
            for name, scores in part.score(of_part).items():
                by_metric.setdefault(name, []).append(scores)
        return {name: torch.cat(scores) for name, scores in by_metric.items()}


class OwnImagesMean(MeanOutcomes):
    """Mean of one model's outcomes over languages that have images of their own.

    A unit is an image of one language. A resample draws from the images of all languages together, and a
    language that has none in it leaves its metrics undefined.
    """

    @property
    def n_units(self) -> int:
        return sum(part.n_units for part in self.parts)

    def differing(self, other: "OwnImagesMean") -> dict[str, torch.Tensor]:
        # {metric: [(images,) of the first language, of the second, ...]}
        by_metric: dict[str, list[torch.Tensor]] = {}
        for part, other_part in zip(self.parts, other.parts):
            for name, differs in part.differing(other_part).items():
                by_metric.setdefault(name, []).append(differs)
        return {name: torch.cat(differs) for name, differs in by_metric.items()}

    def score(self, weights: torch.Tensor) -> dict[str, torch.Tensor]:
        """Average the scores of the parts, each by the weights of its own images."""
        # {metric: [(resamples,) of the first language, of the second, ...]}
        by_metric: dict[str, list[torch.Tensor]] = {}
        of_parts = weights.split([part.n_units for part in self.parts], dim=1)
        for part, of_part in zip(self.parts, of_parts):
            is_drawn = of_part.sum(1) > 0
            # Parts have no score of nothing: it is computed of all images instead, and left out.
            some = of_part.where(is_drawn[:, None], 1)
            for name, scores in part.score(some).items():
                by_metric.setdefault(name, []).append(scores.where(is_drawn, torch.nan))
        return {name: torch.stack(scores).mean(0) for name, scores in by_metric.items()}


def share_images(results: list[Result]) -> bool:
    """Check if results in several languages are of the same images in one order, by the hash of all of them.

    A language lacks the rows without a caption, and those of a class without a name. One result shares its
    images with itself, even where it has no hash.
    """
    if len(results) == 1:
        return True
    images = {result.images for result in results}
    return len(images) == 1 and None not in images


def units_of_all(outcomes: list[Outcomes]) -> list[torch.Tensor] | None:
    """Find the units of the images that all outcomes have.

    An image that occurs several times in a dataset is shared as often as every language has it: the first
    occurrence in one language is the first one in another, the second one the second.

    Returns:
        `units[i][k]` is the unit in `outcomes[i]` of the k-th shared image, in the order of the first
        outcomes; None where a file of an earlier version has no digests.
    """
    if any(len(part.digests) == 0 for part in outcomes):
        return None
    images = [_count_occurrences(part.digests.numpy()) for part in outcomes]

    # Images 7 4 9 in the first language and 9 7 in the second -> shared [7, 9], units [[0, 2], [1, 0]].
    in_all = np.ones(len(images[0]), dtype=bool)
    for others in images[1:]:
        in_all &= others.get_indexer(images[0]) >= 0  # -1 is an image that the others lack
    shared = images[0][in_all]
    return [torch.from_numpy(own.get_indexer(shared)) for own in images]


def _count_occurrences(digests: np.ndarray) -> pd.MultiIndex:
    """Make a unique key of each image: `[7, 4, 7]` -> `[(7, 0), (4, 0), (7, 1)]`."""
    series = pd.Series(digests)
    return pd.MultiIndex.from_arrays([series, series.groupby(series).cumcount()])


def explain_refusal(
    languages: list[str],
    outcomes: list[Outcomes],
    units: list[torch.Tensor] | None,
    mean: MeanOutcomes | None,
) -> str:
    """Explain why languages have no mean over all images, and which images their other mean is over, if any.

    Args:
        units: as `units_of_all` gives them.
        mean: the mean of these outcomes and units.
    """
    if units is None:
        return (
            "no mean over languages: it is not recorded whether they have the same images. "
            "Evaluate again to record it."
        )
    if len(units[0]) == 0:
        return "no mean over languages, which have no image in common."
    reason = f"no mean over all images, because the {len(languages)} languages have different images"
    if mean is None:
        return f"{reason}."
    shared = f"'{SHARED_MEAN}' is over the {mean.n_units:,} images that all of them have"
    return f"{reason}; {shared}{_describe_candidates(languages, outcomes)}."


def list_refusals(task: str, refusals: dict[str, str], averaged: list[str]) -> list[str]:
    """Write a note for each reason in `{model: reason}`.

    A note names its models where others have another reason, or a mean, as those in `averaged`.
    """
    # {reason: [model, ...]}
    models_of: dict[str, list[str]] = {}
    for model, reason in refusals.items():
        models_of.setdefault(reason, []).append(model)
    if len(models_of) == 1 and not averaged:
        return [f"{task}: {reason}" for reason in models_of]
    notes = []
    for reason, models in models_of.items():
        notes.append(f"{task}, {', '.join(models)}: {reason}")
    return notes


def _describe_candidates(languages: list[str], outcomes: list[Outcomes]) -> str:
    """Describe among how many candidates a language's queries are ranked: among few, more are found.

    Returns:
        A clause to append; empty for outcomes that are not ranks.
    """
    if isinstance(outcomes[0], RetrievalOutcomes):
        counts = [part.n_units for part in outcomes]
        what = "images"
        whose = "; each is ranked among all candidates of its language"
    elif isinstance(outcomes[0], ClassOutcomes):
        counts = [part.n_classes for part in outcomes]
        what = "classes"
        whose = "; each is ranked among all classes of its language"
    else:
        return ""

    fewest = min(counts)
    most = max(counts)
    if fewest == most:
        return f"{whose}, {most:,} {what}"
    at_least = f"{fewest:,} {what} in {languages[counts.index(fewest)]}"
    at_most = f"{most:,} in {languages[counts.index(most)]}"
    return f"{whose}, from {at_least} to {at_most}"
