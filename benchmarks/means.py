"""Means over languages: of outcomes as of one, over all images where languages have the same, or over those that all of them have.

A language's images are those with a caption, or a class name, in it. They are known to be the same by the hash of all of them in a
result, or one by one by the digests in its outcomes. Of languages with different images there are two numbers that may not be taken
for one another, so that they have different names: `MEAN` is over all images, `SHARED_MEAN` over those that all languages have.
"""

import numpy as np
import pandas as pd
import torch

from .outcomes import ClassOutcomes, Outcomes, RetrievalOutcomes
from .results import Result
from .uncertainty import BLOCK_WEIGHTS

MEAN = "mean"
SHARED_MEAN = "mean of shared images"
MEANS = (MEAN, SHARED_MEAN)


class MeanOutcomes(Outcomes):
    """The mean of one model's outcomes over languages, as outcomes: an image is drawn in all languages at once, so that the interval
    knows that they share their images.

    Args:
        parts: the outcomes, one a language.
        units: the unit of each part `(shared images,)` that is of the first shared image, of the second and so on, see `units_of_all`;
            by default all of each part, in its order. Other units have no share in a metric. They stay among the candidates that a
            query is ranked among.
    """

    def __init__(self, parts: list[Outcomes], units: list[torch.Tensor] | None = None):
        self.parts = parts
        self.units = [torch.arange(part.n_units) for part in parts] if units is None else units

    @property
    def n_units(self) -> int:
        return len(self.units[0])

    @property
    def is_whole(self) -> bool:
        """Whether all images of every language have a share."""
        return all(len(units) == part.n_units for part, units in zip(self.parts, self.units))

    @property
    def items(self) -> dict[str, torch.Tensor]:
        items = {
            f"{name} of part {place}": values
            for place, part in enumerate(self.parts)
            for name, values in part.items.items()
        }
        return items | {f"units of part {place}": units for place, units in enumerate(self.units)}

    def differing(self, other: "MeanOutcomes") -> dict[str, torch.Tensor]:
        by_language = []
        for part, like, units in zip(self.parts, other.parts, self.units):
            by_language.append({name: differs[units] for name, differs in part.differing(like).items()})
        return {name: torch.stack([units[name] for units in by_language]).any(0) for name in by_language[0]}

    def score(self, weights: torch.Tensor) -> dict[str, torch.Tensor]:
        """Means of the parts' scores; arguments and result are theirs. A part's other units have the weight 0."""
        by_language = [self._score_part(part, units, weights) for part, units in zip(self.parts, self.units)]
        return {
            name: torch.stack([scores[name] for scores in by_language]).mean(0) for name in by_language[0]
        }

    def _score_part(
        self, part: Outcomes, units: torch.Tensor, weights: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """A part's scores, of as many resamples at a time as there is room for: it may have many more units than are shared."""
        blocks = []
        for block in weights.split(max(1, BLOCK_WEIGHTS // part.n_units)):
            of_part = block.new_zeros(len(block), part.n_units)
            of_part[:, units] = block
            blocks.append(part.score(of_part))
        return {name: torch.cat([scores[name] for scores in blocks]) for name in blocks[0]}


def share_images(results: list[Result]) -> bool:
    """Whether results in several languages are known to be of the same images in one order, by the hash of all of them: rows without a
    caption, and those of a class without a name, are left out of a language. One result is of its own, whether it says so or not.
    """
    images = {result.images for result in results}
    return len(results) == 1 or len(images) == 1 and None not in images


def units_of_all(outcomes: list[Outcomes]) -> list[torch.Tensor] | None:
    """The units of the images that all outcomes have, in the order of the first: `units[i][k]` is the unit of the k-th such image in
    `outcomes[i]`. None where a file of an earlier version, without digests, does not tell.

    An image that stands several times in a dataset is shared as often as every language has it: the first one of a language is that of
    another, the second one the second.
    """
    if any(len(part.digests) == 0 for part in outcomes):
        return None
    images = [_count_occurrences(part.digests.numpy()) for part in outcomes]
    in_all = np.ones(len(images[0]), dtype=bool)
    for others in images[1:]:
        in_all &= others.get_indexer(images[0]) >= 0
    shared = images[0][in_all]
    return [torch.from_numpy(own.get_indexer(shared)) for own in images]


def _count_occurrences(digests: np.ndarray) -> pd.MultiIndex:
    """Each image as its digest and how often it stood there before, a pair that no other image has."""
    series = pd.Series(digests)
    return pd.MultiIndex.from_arrays([series, series.groupby(series).cumcount()])


def explain_refusal(
    languages: list[str],
    outcomes: list[Outcomes],
    units: list[torch.Tensor] | None,
    mean: MeanOutcomes | None,
) -> str:
    """Why languages have no mean over all images, and of what the mean is that they have instead, if they have one.

    Args:
        units: as `units_of_all` gives them.
        mean: of these.
    """
    if units is None:
        return "no mean over languages, which are not known to be of the same images: evaluate again to know which all have."
    if len(units[0]) == 0:
        return "no mean over languages, which have no image in common."
    reason = f"no mean over all images, since the {len(languages)} languages have different ones"
    if mean is None:
        return f"{reason}."
    return f"{reason}; '{SHARED_MEAN}' is over the {mean.n_units:,} that all have{_candidates(languages, outcomes)}."


def list_refusals(task: str, refusals: dict[str, str], averaged: list[str]) -> list[str]:
    """A note for each reason in `{model: reason}`; with the models' names where others have another, or are among the `averaged`."""
    models: dict[str, list[str]] = {}
    for model, reason in refusals.items():
        models.setdefault(reason, []).append(model)
    if len(models) == 1 and not averaged:
        return [f"{task}: {reason}" for reason in models]
    return [f"{task}, {', '.join(own)}: {reason}" for reason, own in models.items()]


def _candidates(languages: list[str], outcomes: list[Outcomes]) -> str:
    """Among how many a language's queries are ranked: where these are few, more are found."""
    if isinstance(outcomes[0], RetrievalOutcomes):
        candidates, what = [part.n_units for part in outcomes], "images"
        whose = "; each of these, and each of its texts, is ranked among all of its language"
    elif isinstance(outcomes[0], ClassOutcomes):
        candidates, what = [part.n_classes for part in outcomes], "classes"
        whose = "; each of these is ranked among all classes of its language"
    else:
        return ""
    fewest, most = min(candidates), max(candidates)
    if fewest == most:
        return f"{whose}, {most:,} {what}"
    ends = [languages[candidates.index(number)] for number in (fewest, most)]
    return f"{whose}, from {fewest:,} {what} in {ends[0]} to {most:,} in {ends[1]}"
