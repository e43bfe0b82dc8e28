"""Outcomes: per-item results of a task, from which metrics, resamples and paired tests are computed.

A unit is what a benchmark would draw if it were made again: an image, with all its texts. `score` takes
weights `(resamples, units)`, how often each unit was drawn, and gives every metric of every resample;
`metrics` is that of each unit drawn once. Models are compared on equal units, and `items` is what has to be
equal.
"""

import dataclasses
import io
import math
import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar
from zipfile import BadZipFile, ZipFile, ZipInfo

import numpy as np
import torch

from common.errors import InputError
from common.files.whole_files import written_whole
from common.images import digest_of

from .metrics import (
    average_precision,
    interpolated_average_precision,
    mean_per_class_accuracy,
    percentiles,
    roc_auc,
)

DEPTHS = range(1, 11)  # k of recall@k
# Bounds of what is read from a file. Scores of 1,000,000 images for 100 classes have 400 MB, and ImageNet-21k
# has 21,841 classes. Resamples of the accuracies of more classes would take gigabytes.
_MOST_BYTES = 1_000_000_000
_MOST_CLASSES = 100_000
_PERCENTS = (5, 25, 50, 75, 95)
NDCG = "text_to_image_ndcg@10"
# The recalls of which `mean_recall` is the mean: text_to_image_recall@1, ..., image_to_text_recall@10.
SIX = [f"{direction}_recall@{k}" for direction in ("text_to_image", "image_to_text") for k in (1, 5, 10)]


@dataclass
class Outcomes:
    """Base class of the outcomes of all kinds of tasks: metrics from scores, and a file.

    Class attributes:
        PER_UNIT: name of the field with the results, one entry for each unit.
        RIGHT_ANSWERS: name of the field with the right answers.
        METRICS: names of the metrics, of a kind whose metrics all depend on the same results.
        DTYPES: dtypes of those tensors that may have one only.

    Attributes:
        rows: LongTensor `(units,)`, the units' rows in the dataset, where some were skipped; all by default.
        digests: int64 `(units,)`, by which an image is found in another language's outcomes, see `shorten`;
            empty where they are not known, as in a file of an earlier version.
    """

    PER_UNIT: ClassVar[str]
    RIGHT_ANSWERS: ClassVar[str]
    METRICS: ClassVar[tuple[str, ...]]
    DTYPES: ClassVar[dict[str, torch.dtype]] = {"rows": torch.long, "digests": torch.long}

    rows: torch.Tensor | None = field(default=None, kw_only=True)
    digests: torch.Tensor | None = field(default=None, kw_only=True)

    def __post_init__(self):
        if self.rows is None:
            self.rows = torch.arange(self.n_units)
        if self.digests is None:
            self.digests = torch.empty(0, dtype=torch.long)

        self._check_tensors()
        self._check(rows=self.n_units)
        self._check_rows(rows=None)
        if len(self.digests):
            self._check(digests=self.n_units)

    @property
    def n_units(self) -> int:
        return len(getattr(self, self.PER_UNIT))

    @property
    def items(self) -> dict[str, torch.Tensor]:
        """Return what has to be equal in two models' outcomes for them to be compared."""
        return {self.RIGHT_ANSWERS: getattr(self, self.RIGHT_ANSWERS)}

    def metrics(self) -> dict[str, float]:
        """Return counts, and every metric of `score` with each unit drawn once."""
        scores = self.score(torch.ones(1, self.n_units))
        return self.counts() | {name: values.item() for name, values in scores.items()}

    def counts(self) -> dict[str, int]:
        """Return the number of images as `n`."""
        return {"n": self.n_units}

    def score(self, weights: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute every metric of every resample.

        Args:
            weights: `(resamples, units)`, how often each unit was drawn.

        Returns:
            `{metric: (resamples,)}`.
        """
        raise NotImplementedError

    def differing(self, other: "Outcomes") -> dict[str, torch.Tensor]:
        """Return for each metric the units that may count differently for another model.

        Returns:
            `{metric: bool (units,)}`.
        """
        unequal = getattr(self, self.PER_UNIT) != getattr(other, self.PER_UNIT)
        # A unit of several values, such as the scores of all classes, differs where any of them does.
        differ = unequal.reshape(self.n_units, -1).any(1)
        return dict.fromkeys(self.METRICS, differ)

    def save(self, path: Path) -> str:
        """Write the fields as arrays of one `.npz` file, and return the file's XXH3-128."""
        names = [field.name for field in dataclasses.fields(self)]
        fields = {name: np.asarray(getattr(self, name)) for name in names}
        buffer = io.BytesIO()
        # The class's name tells `load_outcomes` which outcomes these are.
        np.savez_compressed(buffer, kind=type(self).__name__, **fields)
        with written_whole(path) as file:
            file.write(buffer.getbuffer())
        return digest_of(buffer.getvalue())

    def _check_tensors(self) -> None:
        """Check dtypes, that there are one dimension or two, and that values are finite."""
        for name, value in vars(self).items():
            if not isinstance(value, torch.Tensor):
                continue
            dtype = self.DTYPES.get(name, value.dtype)
            if value.dtype != dtype or value.ndim not in (1, 2):
                raise InputError(
                    f"{name} is of {value.dtype} in {value.ndim} dimensions: give {dtype} in 1 or 2"
                )
            if not value.isfinite().all():
                raise InputError(f"{name} has values that are not finite: the model diverged")

    def _check_rows(self, **bounds: int | None) -> None:
        """Check that the values of each named tensor are from 0 up to a bound, which is excluded."""
        for name, bound in bounds.items():
            values = getattr(self, name)
            if values.ndim != 1 or values.min() < 0 or (bound is not None and values.max() >= bound):
                upto = "" if bound is None else f" to {bound - 1}"
                raise InputError(f"{name} must be a list of numbers from 0{upto}")

    def _check(self, **lengths: int) -> None:
        """Check that each named tensor has as many entries as given, and at least one."""
        for name, length in lengths.items():
            n_entries = len(getattr(self, name))
            if n_entries != length or length == 0:
                raise InputError(
                    f"{name} has {n_entries} entries for {length} items: give one for each, and one at least"
                )


@dataclass
class RetrievalOutcomes(Outcomes):
    """Ranks in both directions, from 0.

    Attributes:
        text_ranks: LongTensor `(texts,)`, the rank of each text's image.
        image_ranks: LongTensor `(images,)`, the rank of each image's best text.
        text_to_image: LongTensor `(texts,)`, the image with which a text is drawn; or `(pairs, 2)`, the row
            of a text and the row of an image in each pair, where a text may describe several images. A text
            of several images is drawn as often as they are on average, so that it counts once where each of
            them does.
    """

    PER_UNIT = "image_ranks"
    RIGHT_ANSWERS = "text_to_image"
    DTYPES = Outcomes.DTYPES | {"text_to_image": torch.long}

    text_ranks: torch.Tensor
    image_ranks: torch.Tensor
    text_to_image: torch.Tensor

    def __post_init__(self):
        if self.text_to_image.ndim == 2 and self.text_to_image.shape[1] != 2:
            raise InputError(f"text_to_image has {self.text_to_image.shape[1]} columns: give text and image")
        texts, images = self._pairs
        # Every text is in some pair, so that the texts of the pairs are all texts.
        self._check(text_ranks=len(texts.unique()), image_ranks=len(self.image_ranks))
        super().__post_init__()
        self._check_rows(text_ranks=None, image_ranks=None)
        if texts.min() < 0 or texts.max() >= len(self.text_ranks):
            raise InputError(f"text_to_image must name texts from 0 to {len(self.text_ranks) - 1}")
        if images.min() < 0 or images.max() >= self.n_units:
            raise InputError(
                f"text_to_image must be rows from 0 to {self.n_units - 1}, "
                f"of the {self.n_units} images that have ranks"
            )

    @property
    def _pairs(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the row of the text, and of the image, in each pair."""
        if self.text_to_image.ndim == 2:
            return tuple(self.text_to_image.T)
        # [4, 4, 7] -> [0, 1, 2], [4, 4, 7]
        return torch.arange(len(self.text_to_image)), self.text_to_image

    @property
    def _has_ndcg(self) -> bool:
        return self.text_to_image.ndim == 1

    def counts(self) -> dict[str, int]:
        return {"n": self.n_units, "n_texts": len(self.text_ranks)}

    def differing(self, other: "RetrievalOutcomes") -> dict[str, torch.Tensor]:
        texts, images = self._pairs
        differing = {}

        # A text that differs makes each of its images differ: by pair, then by image.
        for name, differs in _differing_ranks(self.text_ranks, other.text_ranks).items():
            of_images = torch.zeros(self.n_units, dtype=torch.bool)
            differing[f"text_to_image_{name}"] = of_images.index_fill(0, images[differs[texts]], True)
        for name, differs in _differing_ranks(self.image_ranks, other.image_ranks).items():
            differing[f"image_to_text_{name}"] = differs

        differing["mean_recall"] = torch.stack([differing[name] for name in SIX]).any(0)
        if self._has_ndcg:
            deepest = DEPTHS[-1]  # beyond it all ranks count the same
            differs = self.text_ranks.clamp(max=deepest) != other.text_ranks.clamp(max=deepest)
            differing[NDCG] = torch.zeros(self.n_units, dtype=torch.bool)
            differing[NDCG][images[differs[texts]]] = True
        return differing

    def score(self, weights: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute recall at depths 1 to 10 and percentiles of ranks, of both directions.

        `mean_recall` is the mean of the recalls at depths 1, 5 and 10. Where each text has one image there is
        also `text_to_image_ndcg@10`, the main metric of mteb. That of images, which may have several texts,
        would need the ranks of all of them.

        Args:
            weights: `(resamples, images)`, how often each image was drawn.

        Returns:
            `{metric: (resamples,)}`, recalls as fractions and percentiles as ranks from 0.
        """
        weights = weights.double()
        drawn_texts = self._weigh_texts(weights)
        recalls = _recalls("text_to_image", self.text_ranks, drawn_texts)
        recalls |= _recalls("image_to_text", self.image_ranks, weights)
        recalls["mean_recall"] = torch.stack([recalls[name] for name in SIX]).mean(0)
        if self._has_ndcg:
            recalls[NDCG] = _ndcg(self.text_ranks, drawn_texts)

        ranks = _rank_percentiles("text_to_image", self.text_ranks, drawn_texts)
        ranks |= _rank_percentiles("image_to_text", self.image_ranks, weights)
        return recalls | ranks

    def _weigh_texts(self, weights: torch.Tensor) -> torch.Tensor:
        """Return how often each text was drawn, `(resamples, texts)`, from that of the images."""
        texts, images = self._pairs
        if self.text_to_image.ndim == 1:  # each text is drawn with its one image
            return weights[:, images]
        # Of a text with three images each drawn image has a third. The thirds are summed over the text's
        # pairs.
        shares = 1 / texts.bincount().double()[texts]
        zeros = weights.new_zeros(len(weights), len(self.text_ranks))
        drawn = zeros.index_add(1, texts, weights[:, images] * shares)
        # Nine ninths add up to more than one, and a percentile would be the next rank below.
        return drawn.round(decimals=9)


def _differing_ranks(ranks: torch.Tensor, others: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return for each metric of a direction the queries that count differently: `{name: bool (queries,)}`."""
    # Ranks 2 and 3 count differently in recall@3 alone, and in every percentile.
    differing = {f"recall@{k}": (ranks < k) != (others < k) for k in DEPTHS}
    differing |= {f"rank_p{percent}": ranks != others for percent in _PERCENTS}
    return differing


def _recalls(direction: str, ranks: torch.Tensor, drawn: torch.Tensor) -> dict[str, torch.Tensor]:
    """Compute the recalls of one direction from ranks `(queries,)` and weights `(resamples, queries)`."""
    found = (ranks[:, None] < torch.tensor(DEPTHS)).double()  # (queries, depths)
    recalls = drawn @ found / drawn.sum(1, keepdim=True)
    return {f"{direction}_recall@{k}": values for k, values in zip(DEPTHS, recalls.T)}


def _ndcg(ranks: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
    """Compute nDCG@10 of queries with one right answer each; arguments are those of `_recalls`.

    An answer of rank 0, the first, gains 1 / log2(2) = 1, which is the gain of the ideal ranking, and one of
    rank r gains 1 / log2(r + 2).
    """
    # Counts are whole numbers, and their sums exact: the result does not depend on how many resamples are
    # computed at once, as that of a product with the gains would.
    counts = drawn @ (ranks[:, None] == torch.arange(len(DEPTHS))).double()  # (resamples, depths)
    gains = sum(of_rank / math.log2(rank + 2) for rank, of_rank in enumerate(counts.T))
    return gains / drawn.sum(1)


def _rank_percentiles(direction: str, ranks: torch.Tensor, drawn: torch.Tensor) -> dict[str, torch.Tensor]:
    """Compute the percentiles of the ranks of one direction; arguments are those of `_recalls`."""
    places = percentiles(ranks, _PERCENTS, drawn)
    return {f"{direction}_rank_p{percent}": values for percent, values in zip(_PERCENTS, places.T)}


@dataclass
class PoolOutcomes(Outcomes):
    """How one language fares in a pool of texts in several, see `mixed_pool`.

    The three columns of `image_counts` and `text_counts` add up what came of a unit's queries and each other
    language: a wrong text in this language was ahead of the right text in the other one; the first answer in
    the two languages was wrong, with the right text in one of them alone; and that answer was in this
    language, which counts twice, and once where two wrong texts tie.

    Attributes:
        image_ranks: LongTensor `(images,)`, the rank of each image's best text in this language among the
            wrong texts of all languages, at most 10.
        image_counts: LongTensor `(images, 3)`, of the image as a query.
        text_counts: LongTensor `(images, 3)`, of the image's texts in this language as queries.
        n_texts: LongTensor `(images,)`, how many these are.
        pool: int64 `(languages,)`, numbers of the languages in the pool, see `number_languages`.
    """

    PER_UNIT = "image_ranks"
    RIGHT_ANSWERS = "n_texts"
    DTYPES = Outcomes.DTYPES | {
        "image_ranks": torch.long,
        "image_counts": torch.long,
        "text_counts": torch.long,
        "n_texts": torch.long,
        "pool": torch.long,
    }

    image_ranks: torch.Tensor
    image_counts: torch.Tensor
    text_counts: torch.Tensor
    n_texts: torch.Tensor
    pool: torch.Tensor

    def __post_init__(self):
        self._check(image_counts=self.n_units, text_counts=self.n_units, n_texts=self.n_units)
        super().__post_init__()
        self._check_rows(image_ranks=None, n_texts=None)
        if self.n_texts.min() < 1:
            raise InputError("n_texts has a 0: every image in the pool has a text")
        if self.pool.ndim != 1 or len(self.pool) < 2:
            raise InputError(f"pool has the shape {tuple(self.pool.shape)}: give two languages or more")
        _check_pool_counts("image_counts", self.image_counts, 2 * self.n_others)
        _check_pool_counts("text_counts", self.text_counts, self.n_others * self.n_texts)

    @property
    def n_others(self) -> int:
        return len(self.pool) - 1

    @property
    def items(self) -> dict[str, torch.Tensor]:
        return super().items | {"pool": self.pool}

    def counts(self) -> dict[str, int]:
        """Return the number of images as `n`, and that of texts in the whole pool as `n_texts`."""
        return {"n": self.n_units, "n_texts": int(self.n_texts.sum()) * len(self.pool)}

    def differing(self, other: "PoolOutcomes") -> dict[str, torch.Tensor]:
        differing = {}
        for name, differs in _differing_ranks(self.image_ranks, other.image_ranks).items():
            if name.startswith("recall"):
                differing[f"image_to_text_{name}"] = differs
        for direction in ("image_to_text", "text_to_text"):
            unequal = self._counts_of(direction) != other._counts_of(direction)
            differing[f"{direction}_overtaken"] = unequal[:, 0]
            differing[f"{direction}_preference"] = unequal[:, 1:].any(1)
        return differing

    def score(self, weights: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute recall at depths 1 to 10 in the whole pool, and of both kinds of queries `overtaken` and
        `preference`.

        A preference of nothing, where no first answer is wrong, is 0.5. Arguments and result are those of
        `RetrievalOutcomes.score`.
        """
        weights = weights.double()
        scores = _recalls("image_to_text", self.image_ranks, weights)
        n_queries = {"image_to_text": torch.ones(self.n_units), "text_to_text": self.n_texts}
        for direction, of_unit in n_queries.items():
            # Each query is asked once for each other language.
            n_asked = weights @ of_unit.double() * self.n_others
            overtaken, wrong, halves = (weights @ self._counts_of(direction).double()).unbind(1)
            share = halves / (2 * wrong).clamp(min=1)
            scores[f"{direction}_overtaken"] = overtaken / n_asked
            scores[f"{direction}_preference"] = torch.where(wrong > 0, share, 0.5)
        return scores

    def _counts_of(self, direction: str) -> torch.Tensor:
        return self.image_counts if direction == "image_to_text" else self.text_counts


def _check_pool_counts(name: str, counts: torch.Tensor, n_asked: int | torch.Tensor) -> None:
    """Check that counts are of some of `n_asked`: wrong first answers, some in this language, some ahead."""
    if counts.ndim != 2 or counts.shape[1] != 3:
        raise InputError(f"{name} has the shape {tuple(counts.shape)}: give (images, 3)")
    overtaken, wrong, halves = counts.unbind(1)
    is_possible = (0 <= overtaken) & (overtaken <= wrong) & (wrong <= n_asked)
    is_possible &= (0 <= halves) & (halves <= 2 * wrong)
    if not is_possible.all():
        unit = int((~is_possible).nonzero()[0, 0])
        raise InputError(f"{name} of item {unit} are {counts[unit].tolist()}, which no query can have")


def number_languages(language: str, languages: list[str]) -> torch.Tensor:
    """Number the languages of a pool by their codes, int64 `(languages,)`: this one, then the others.

    The others are in the order of their codes, so that a pool is the same in whichever order they were given.
    """
    others = sorted(other for other in languages if other != language)
    return shorten([digest_of(code.encode()) for code in [language, *others]])


@dataclass
class ClassOutcomes(Outcomes):
    """Ranks of the right classes, from 0.

    Attributes:
        ranks: LongTensor `(images,)`, the rank of each image's class among all classes.
        labels: LongTensor `(images,)`, that class.
        n_classes: number of classes.
    """

    PER_UNIT = "ranks"
    RIGHT_ANSWERS = "labels"
    DTYPES = Outcomes.DTYPES | {"labels": torch.long}

    ranks: torch.Tensor
    labels: torch.Tensor
    n_classes: int

    def __post_init__(self):
        self.n_classes = int(self.n_classes)  # read from a file it is a tensor
        if not 0 < self.n_classes <= _MOST_CLASSES:
            raise InputError(f"n_classes is {self.n_classes}: give 1 to {_MOST_CLASSES:,}")
        self._check(ranks=len(self.labels))
        super().__post_init__()
        self._check_rows(ranks=None)
        if self.labels.min() < 0 or self.labels.max() >= self.n_classes:
            raise InputError(
                f"labels must be rows from 0 to {self.n_classes - 1}, of the {self.n_classes} classes"
            )

    def differing(self, other: "ClassOutcomes") -> dict[str, torch.Tensor]:
        # Of a rank it counts only if it is below 1, and if it is below 5.
        first = (self.ranks < 1) != (other.ranks < 1)
        five = (self.ranks < 5) != (other.ranks < 5)
        return {
            "accuracy@1": first,
            "accuracy@5": five,
            "mean_per_class": first,
            "mean_top1_top5": first | five,
        }

    def score(self, weights: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute `accuracy@1`, `accuracy@5`, their mean `mean_top1_top5`, and `mean_per_class`.

        Arguments and result are those of `RetrievalOutcomes.score`.
        """
        weights = weights.double()
        found = (self.ranks[:, None] < torch.tensor([1, 5])).double()  # (images, 2)
        accuracies = weights @ found / weights.sum(1, keepdim=True)
        return {
            "accuracy@1": accuracies[:, 0],
            "accuracy@5": accuracies[:, 1],
            "mean_per_class": mean_per_class_accuracy(self.ranks, self.labels, weights),
            "mean_top1_top5": accuracies.mean(1),
        }


@dataclass
class MultilabelOutcomes(Outcomes):
    """Scores of all classes, where an image may show several.

    Attributes:
        scores: float32 `(images, classes)`.
        targets: bool `(images, classes)`, True where the image shows the class.
    """

    PER_UNIT = "scores"
    RIGHT_ANSWERS = "targets"
    METRICS = ("map_11_point", "mean_average_precision")
    DTYPES = Outcomes.DTYPES | {"targets": torch.bool}

    scores: torch.Tensor
    targets: torch.Tensor

    def __post_init__(self):
        if self.scores.ndim != 2 or self.scores.shape != self.targets.shape or not len(self.scores):
            shapes = f"{tuple(self.scores.shape)} and {tuple(self.targets.shape)}"
            raise InputError(f"scores and targets must both be (images, classes), not {shapes}")
        super().__post_init__()

    def score(self, weights: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute `map_11_point` and `mean_average_precision`.

        They are means over the classes that some drawn image shows.

        Arguments and result are those of `RetrievalOutcomes.score`.
        """
        by_class = list(zip(self.scores.T, self.targets.T))
        means = {}
        for name, precision in zip(self.METRICS, (interpolated_average_precision, average_precision)):
            precisions = [precision(scores, targets, weights) for scores, targets in by_class]
            means[name] = torch.stack(precisions).nanmean(0)  # NaN is a class that no drawn image shows
        return means


@dataclass
class ScoreOutcomes(Outcomes):
    """Scores of the second of two classes.

    Attributes:
        scores: float32 `(images,)`.
        targets: bool `(images,)`, True where the image is of the second class.
    """

    PER_UNIT = "scores"
    RIGHT_ANSWERS = "targets"
    METRICS = ("roc_auc",)
    DTYPES = Outcomes.DTYPES | {"targets": torch.bool}

    scores: torch.Tensor
    targets: torch.Tensor

    def __post_init__(self):
        if self.scores.ndim != 1 or self.targets.ndim != 1:
            raise InputError("scores and targets must both be (images,)")
        self._check(scores=len(self.targets))
        super().__post_init__()

    def score(self, weights: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute `roc_auc`, NaN for a resample of one class.

        Arguments and result are those of `RetrievalOutcomes.score`.
        """
        return {"roc_auc": roc_auc(self.scores, self.targets, weights)}


def shorten(digests: list[str]) -> torch.Tensor:
    """Return the first 64 bits of each hexadecimal digest, int64 `(digests,)`.

    They take eight bytes an image. Two of a million different images agree with a probability of 3e-8.
    """
    first_bits = [int(digest[:16], 16) for digest in digests]
    # torch has no arithmetic for uint64; the same bits as int64 serve to compare.
    return torch.from_numpy(np.array(first_bits, dtype=np.uint64).view(np.int64))


def load_outcomes(path: Path, digest: str | None = None) -> Outcomes:
    """Read what `save` wrote.

    Args:
        digest: the XXH3-128 that the file had when it was written; by default it is not compared.

    Raises:
        InputError: the file does not exist, is not complete, was changed, or has arrays of another kind,
            shape or dtype.

    Example:

    ```python
    >>> import torch
    >>> from benchmarks import load_outcomes
    >>> from benchmarks.outcomes import RetrievalOutcomes

    >>> # Three images with a text each; the rank of the right one is 0 but once
    >>> outcomes = RetrievalOutcomes(torch.tensor([0, 1, 0]), torch.tensor([0, 0, 0]), torch.arange(3))
    >>> _ = outcomes.save("outputs/dogs.npz")
    >>> round(load_outcomes("outputs/dogs.npz").metrics()["text_to_image_recall@1"], 3)
    0.667
    ```
    """
    if not Path(path).is_file():
        raise InputError(f"{str(path)!r} holds no outcomes: evaluate again to write it")
    try:
        content = Path(path).read_bytes()
        if digest is not None and digest_of(content) != digest:
            raise InputError("it is not the file that was written with its result")
        kind, arrays = _read_arrays(content)
        return kind(**{name: torch.from_numpy(array) for name, array in arrays.items()})
    except _DAMAGES as error:
        raise InputError(
            f"{str(path)!r} cannot be read ({error}): delete it and evaluate again to write it"
        ) from error


# What zip files and arrays raise that are damaged, or were made to be.
_DAMAGES = (
    BadZipFile,
    zlib.error,
    struct.error,
    OSError,
    EOFError,
    LookupError,
    ValueError,
    TypeError,
    RuntimeError,
    OverflowError,
)


def _read_arrays(content: bytes) -> tuple[type[Outcomes], dict[str, np.ndarray]]:
    """Read the kind of outcomes, and its arrays, from an `.npz` file.

    `np.load` would allocate whatever size an array's header states.

    Raises:
        Exception: one of `_DAMAGES`.
    """
    kinds = {
        kind.__name__: kind
        for kind in (RetrievalOutcomes, PoolOutcomes, ClassOutcomes, MultilabelOutcomes, ScoreOutcomes)
    }
    with ZipFile(io.BytesIO(content)) as archive:
        members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
        n_bytes = sum(member.file_size for member in members.values())
        if n_bytes > _MOST_BYTES:
            raise ValueError(f"its arrays have {n_bytes:,} bytes, and at most {_MOST_BYTES:,} are read")
        name = str(_read_array(archive, members.pop("kind")))
        if name not in kinds:
            raise ValueError(f"its kind is {name[:40]!r}")
        names = {field.name for field in dataclasses.fields(kinds[name])}
        arrays = {}
        for name_of_field, member in members.items():
            if name_of_field not in names:
                raise ValueError(f"its array {name_of_field[:40]!r} belongs to no {name}")
            arrays[name_of_field] = _read_array(archive, member)
    return kinds[name], arrays


def _read_array(archive: ZipFile, member: ZipInfo) -> np.ndarray:
    """Read one array of numbers or letters, whose header has to state the size that it has."""
    with archive.open(member) as file:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError(f"{member.filename!r} is in a form that is never written")
        shape, in_columns, dtype = np.lib.format.read_array_header_1_0(file)
        values = file.read()
    if dtype.kind not in "biufU" or math.prod(shape) * dtype.itemsize != len(values):
        raise ValueError(f"{member.filename!r} is no array of {dtype} and {shape}")
    order = "F" if in_columns else "C"
    # A copy, since memory of bytes is read-only.
    return np.frombuffer(values, dtype).reshape(shape, order=order).copy()
