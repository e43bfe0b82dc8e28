"""Outcomes: what came of each item of a task, in the form from which metrics, resamples of them and tests between models follow.

A unit is what a benchmark would draw if it were made again: an image, with all its texts. `score` takes weights
`(resamples, units)`, how often each unit was drawn, and gives every metric of every resample; `metrics` is that of each unit once.
Models are compared on equal units, and `items` is what has to be equal.
"""

import dataclasses
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar
from zipfile import BadZipFile

import numpy as np
import torch

from .metrics import (
    average_precision,
    interpolated_average_precision,
    mean_per_class_accuracy,
    percentiles,
    roc_auc,
)
from .recipe import InputError

DEPTHS = range(1, 11)
PERCENTS = (5, 25, 50, 75, 95)
SIX = [f"{direction}_recall@{k}" for direction in ("text_to_image", "image_to_text") for k in (1, 5, 10)]


@dataclass
class Outcomes:
    """What all kinds share: metrics from scores, and a file.

    A kind names two of its fields: `PER_UNIT` has an entry for each unit, and `ASKED` says what was asked of it. `rows` `(units,)` are
    the units' rows in the dataset, where some were left out; all of them by default. `digests` int64 `(units,)` tell the same image in
    another language's outcomes, see `shorten`; empty where that is not known, as in a file of an earlier version. `METRICS` are a
    kind's whose metrics all depend on the same.
    """

    PER_UNIT: ClassVar[str]
    ASKED: ClassVar[str]
    METRICS: ClassVar[tuple[str, ...]]

    rows: torch.Tensor | None = field(default=None, kw_only=True)
    digests: torch.Tensor | None = field(default=None, kw_only=True)

    def __post_init__(self):
        self.rows = torch.arange(self.n_units) if self.rows is None else self.rows
        self.digests = torch.empty(0, dtype=torch.long) if self.digests is None else self.digests
        self._check(rows=self.n_units)
        if len(self.digests):
            self._check(digests=self.n_units)

    @property
    def n_units(self) -> int:
        return len(getattr(self, self.PER_UNIT))

    @property
    def items(self) -> dict[str, torch.Tensor]:
        return {self.ASKED: getattr(self, self.ASKED)}

    def metrics(self) -> dict[str, float]:
        """Counts, and every metric of `score` on the items as they are."""
        scores = self.score(torch.ones(1, self.n_units))
        return self.counts() | {name: values.item() for name, values in scores.items()}

    def counts(self) -> dict[str, int]:
        return {"n": self.n_units}

    def differing(self, other: "Outcomes") -> dict[str, torch.Tensor]:
        """`{metric: bool (units,)}`: the units that may count otherwise in it than they do for another model."""
        differ = (
            (getattr(self, self.PER_UNIT) != getattr(other, self.PER_UNIT)).reshape(self.n_units, -1).any(1)
        )
        return dict.fromkeys(self.METRICS, differ)

    def save(self, path: Path) -> None:
        """Write the fields as arrays of one `.npz` file."""
        fields = {field.name: np.asarray(getattr(self, field.name)) for field in dataclasses.fields(self)}
        np.savez_compressed(path, kind=type(self).__name__, **fields)

    def _check(self, **lengths: int) -> None:
        """Each named tensor has one entry for each item."""
        for name, length in lengths.items():
            if len(getattr(self, name)) != length or length == 0:
                raise InputError(
                    f"{name} has {len(getattr(self, name))} entries for {length} items: give one for each, and one at least"
                )


@dataclass
class RetrievalOutcomes(Outcomes):
    """Ranks in both directions, from 0: `text_ranks` `(texts,)`, `image_ranks` `(images,)`.

    `text_to_image` is the image with which a text is drawn `(texts,)`; or `(pairs, 2)`, a text's row and an image's row in each, where
    a text may be of several. Such a text is drawn by the share that each of them has in it: as often as its images in the mean, so that
    it counts once where each of them does.
    """

    PER_UNIT, ASKED = "image_ranks", "text_to_image"

    text_ranks: torch.Tensor
    image_ranks: torch.Tensor
    text_to_image: torch.Tensor

    def __post_init__(self):
        texts, images = self._pairs
        self._check(text_ranks=len(texts.unique()), image_ranks=len(self.image_ranks))
        super().__post_init__()
        if images.min() < 0 or images.max() >= self.n_units:
            raise InputError(
                f"text_to_image must be rows from 0 to {self.n_units - 1}, of the {self.n_units} images that have ranks"
            )

    @property
    def _pairs(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows of texts, and of the image in each pair."""
        several = self.text_to_image.ndim == 2
        return (
            tuple(self.text_to_image.T)
            if several
            else (torch.arange(len(self.text_to_image)), self.text_to_image)
        )

    def counts(self) -> dict[str, int]:
        return {"n": self.n_units, "n_texts": len(self.text_ranks)}

    def differing(self, other: "RetrievalOutcomes") -> dict[str, torch.Tensor]:
        every, none, found = torch.arange(self.n_units), torch.zeros(self.n_units, dtype=torch.bool), {}
        for direction, ranks, others, (queries, images) in (
            ("text_to_image", self.text_ranks, other.text_ranks, self._pairs),
            ("image_to_text", self.image_ranks, other.image_ranks, (every, every)),
        ):
            differ = {f"recall@{k}": (ranks < k) != (others < k) for k in DEPTHS}
            differ |= {f"rank_p{percent}": ranks != others for percent in PERCENTS}
            found |= {
                f"{direction}_{name}": none.index_fill(0, images[one[queries]], True)
                for name, one in differ.items()
            }
        return found | {"mean_recall": torch.stack([found[name] for name in SIX]).any(0)}

    def score(self, weights: torch.Tensor) -> dict[str, torch.Tensor]:
        """Recall at depths 1 to 10 and percentiles of ranks, of both directions; `mean_recall` is that of depths 1, 5 and 10.

        Args:
            weights: `(resamples, images)`.

        Returns:
            `{metric: (resamples,)}`, recalls as fractions and percentiles as ranks from 0.
        """
        weights = weights.double()
        texts, images = self._pairs
        drawn_texts = weights[:, images]
        if self.text_to_image.ndim == 2:
            shares = 1 / texts.bincount().double()[texts]
            drawn_texts = weights.new_zeros(len(weights), len(self.text_ranks)).index_add(
                1, texts, drawn_texts * shares
            )
            drawn_texts = drawn_texts.round(
                decimals=9
            )  # nine ninths are more than one, and a percentile would be the next rank below
        recalls, ranks = {}, {}
        for direction, of_query, drawn in (
            ("text_to_image", self.text_ranks, drawn_texts),
            ("image_to_text", self.image_ranks, weights),
        ):
            found = drawn @ (of_query[:, None] < torch.tensor(DEPTHS)).double() / drawn.sum(1, keepdim=True)
            recalls |= {f"{direction}_recall@{k}": found[:, column] for column, k in enumerate(DEPTHS)}
            places = percentiles(of_query, PERCENTS, drawn)
            ranks |= {
                f"{direction}_rank_p{percent}": places[:, column] for column, percent in enumerate(PERCENTS)
            }
        return recalls | {"mean_recall": torch.stack([recalls[name] for name in SIX]).mean(0)} | ranks


@dataclass
class ClassOutcomes(Outcomes):
    """Of each image the rank, from 0, of its right class `(images,)`, and that class, `labels` `(images,)`, of `n_classes`."""

    PER_UNIT, ASKED = "ranks", "labels"

    ranks: torch.Tensor
    labels: torch.Tensor
    n_classes: int

    def __post_init__(self):
        self.n_classes = int(self.n_classes)
        self._check(ranks=len(self.labels))
        super().__post_init__()
        if self.labels.min() < 0 or self.labels.max() >= self.n_classes:
            raise InputError(
                f"labels must be rows from 0 to {self.n_classes - 1}, of the {self.n_classes} classes"
            )

    def differing(self, other: "ClassOutcomes") -> dict[str, torch.Tensor]:
        first, five = ((self.ranks < k) != (other.ranks < k) for k in (1, 5))
        return {
            "accuracy@1": first,
            "accuracy@5": five,
            "mean_per_class": first,
            "mean_top1_top5": first | five,
        }

    def score(self, weights: torch.Tensor) -> dict[str, torch.Tensor]:
        """`accuracy@1`, `accuracy@5`, their mean `mean_top1_top5`, and `mean_per_class` over the classes that were drawn.

        Arguments and result are those of `RetrievalOutcomes.score`.
        """
        weights = weights.double()
        found = weights @ (self.ranks[:, None] < torch.tensor([1, 5])).double() / weights.sum(1, keepdim=True)
        by_class = mean_per_class_accuracy(self.ranks, self.labels, weights)
        return {
            "accuracy@1": found[:, 0],
            "accuracy@5": found[:, 1],
            "mean_per_class": by_class,
            "mean_top1_top5": found.mean(1),
        }


@dataclass
class MultilabelOutcomes(Outcomes):
    """Of each image a score for every class, float32 `(images, classes)`, and whether it shows it: `targets`, bool, likewise."""

    PER_UNIT, ASKED = "scores", "targets"
    METRICS = "map_11_point", "mean_average_precision"

    scores: torch.Tensor
    targets: torch.Tensor

    def __post_init__(self):
        if self.scores.ndim != 2 or self.scores.shape != self.targets.shape or not len(self.scores):
            shapes = f"{tuple(self.scores.shape)} and {tuple(self.targets.shape)}"
            raise InputError(f"scores and targets must both be (images, classes), not {shapes}")
        super().__post_init__()

    def score(self, weights: torch.Tensor) -> dict[str, torch.Tensor]:
        """`map_11_point` and `mean_average_precision`: means over the classes that some drawn image shows.

        Arguments and result are those of `RetrievalOutcomes.score`.
        """
        columns = list(zip(self.scores.T, self.targets.T))
        means = {}
        for name, precision in zip(self.METRICS, (interpolated_average_precision, average_precision)):
            means[name] = torch.stack(
                [precision(scores, targets, weights) for scores, targets in columns]
            ).nanmean(0)
        return means


@dataclass
class ScoreOutcomes(Outcomes):
    """Of each image one score `(images,)`, and whether it is of the second of two classes: `targets`, bool `(images,)`."""

    PER_UNIT, ASKED = "scores", "targets"
    METRICS = ("roc_auc",)

    scores: torch.Tensor
    targets: torch.Tensor

    def __post_init__(self):
        self._check(scores=len(self.targets))
        super().__post_init__()

    def score(self, weights: torch.Tensor) -> dict[str, torch.Tensor]:
        """`roc_auc`, not a number for a resample of one class. Arguments and result are those of `RetrievalOutcomes.score`."""
        return {"roc_auc": roc_auc(self.scores, self.targets, weights)}


def shorten(digests: list[str]) -> torch.Tensor:
    """The first 64 bits of each hexadecimal digest, int64 `(digests,)`: eight bytes an image, and too many for two of a million other
    images to agree.
    """
    return torch.from_numpy(
        np.array([int(digest[:16], 16) for digest in digests], dtype=np.uint64).view(np.int64)
    )


def load_outcomes(path: Path) -> Outcomes:
    """Read what `save` wrote.

    Raises:
        InputError: the file does not exist, or is not whole.
    """
    if not Path(path).is_file():
        raise InputError(f"{str(path)!r} holds no outcomes: evaluate again to write it")
    kinds = {
        kind.__name__: kind for kind in (RetrievalOutcomes, ClassOutcomes, MultilabelOutcomes, ScoreOutcomes)
    }
    try:
        with np.load(path) as arrays:
            fields = {name: torch.from_numpy(arrays[name]) for name in arrays.files if name != "kind"}
            return kinds[str(arrays["kind"])](**fields)
    except (BadZipFile, zlib.error, EOFError, KeyError, ValueError) as error:
        raise InputError(
            f"{str(path)!r} cannot be read ({error}): delete it and evaluate again to write it"
        ) from error
