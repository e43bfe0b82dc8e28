"""Precision where an image has several labels, as a module of `evaluate`.

`evaluate.load("benchmarks/evaluate_modules/multilabel_precision")` copies this file and nothing beside it, so
that it imports none of our packages. It returns the numbers of `benchmarks`.
"""

import evaluate
import torch
from datasets import Features, List, Value

_DESCRIPTION = """
Mean average precision where an image shows several classes: images are ranked by their score for each class,
and the average precisions of the classes are averaged. `map_11_point` interpolates at the recalls 0, 0.1
to 1, as VOC2007 and CLIP's tables have it; `mean_average_precision` is the area below the steps, as in
scikit-learn. Equal scores enter together, so a model that scores all images alike has the share of images
that show a class. A class that no image shows is left out.
"""
_INPUTS = """
Args:
    predictions: for each image the scores of all classes `(images, classes)`.
    references: for each image whether it shows each class, 0 or 1 `(images, classes)`.

Returns:
    The fractions `map_11_point` and `mean_average_precision`, and `n` images.

Examples:
    >>> precision = evaluate.load("benchmarks/evaluate_modules/multilabel_precision")
    >>> precision.compute(predictions=[[0.9, 0.1], [0.6, 0.4]], references=[[1, 0], [0, 1]])["map_11_point"]
    1.0
"""
_CITATION = """
@article{everingham2010pascal,
    title = {The {PASCAL} Visual Object Classes ({VOC}) Challenge},
    author = {Everingham, Mark and Van Gool, Luc and Williams, Christopher K. I. and Winn, John and
        Zisserman, Andrew},
    journal = {International Journal of Computer Vision},
    volume = {88},
    pages = {303--338},
    year = {2010},
}
"""


class MultilabelPrecision(evaluate.Metric):
    """Average precision, in two ways, averaged over the classes that an image shows."""

    def _info(self) -> evaluate.MetricInfo:
        features = Features({"predictions": List(Value("float32")), "references": List(Value("bool"))})
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=features,
            license="Apache-2.0",
        )

    def _compute(self, predictions: list, references: list) -> dict[str, float]:
        scores = torch.tensor(predictions)
        targets = torch.tensor(references)
        _check(scores, targets)

        precisions = []
        for class_scores, class_targets in zip(scores.T, targets.T):
            if class_targets.any():  # precision is undefined for a class that no image shows
                precisions.append(_average_precisions(class_scores, class_targets))
        # Two columns even where no image shows any class: both means are then NaN.
        eleven, area = torch.tensor(precisions, dtype=torch.double).reshape(-1, 2).mean(0).tolist()
        return {"n": len(scores), "map_11_point": eleven, "mean_average_precision": area}


def _average_precisions(scores: torch.Tensor, targets: torch.Tensor) -> tuple[float, float]:
    """Compute the average precision of one class in two ways.

    Returns:
        The mean of the best precision at or beyond each of 11 recalls, and the area below the steps of
        precision over recall.
    """
    scores, order = scores.sort(descending=True)
    # Equal scores enter together. Scores [9, 7, 7, 5] -> last [True, False, True, True].
    last = torch.cat([scores.diff() != 0, torch.ones(1, dtype=torch.bool)])
    hits = targets[order].cumsum(0)[last].double()
    n_ranked = torch.arange(1, len(scores) + 1)[last]
    precision = hits / n_ranked

    gained = hits.diff(prepend=hits.new_zeros(1))
    area = (gained * precision).sum() / hits[-1]

    # A running maximum from the right: precision [1, .5, .6] -> [1, .6, .6].
    best_from_here = precision.flip(0).cummax(0).values.flip(0)
    # Recall 0.3 is reached where 10 hits >= 3 total: whole numbers, since 0.3 is no exact float.
    reached = torch.searchsorted(10 * hits, hits[-1] * torch.arange(11, dtype=torch.double))
    return best_from_here[reached].mean().item(), area.item()


def _check(scores: torch.Tensor, targets: torch.Tensor) -> None:
    """Check the scores and the targets.

    Raises:
        ValueError: shapes disagree, or a score is not finite.
    """
    if scores.ndim != 2 or scores.shape != targets.shape:
        shapes = f"{tuple(scores.shape)} and {tuple(targets.shape)}"
        raise ValueError(f"scores and targets must both be (images, classes), not {shapes}")
    not_finite = (~scores.isfinite()).nonzero()
    if len(not_finite):
        raise ValueError(f"a score of item {not_finite[0, 0]} is not finite")
