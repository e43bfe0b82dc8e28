"""Precision of several labels an image as an `evaluate` module: `evaluate.load("benchmarks/evaluate_modules/multilabel_precision")`.

`evaluate` copies this file and nothing beside it, so that it imports none of our packages; its numbers are those of `benchmarks`.
"""

import evaluate
import torch
from datasets import Features, List, Value

DESCRIPTION = """
Mean average precision where an image shows several classes: images are ranked by their score for each class, and the average precisions
of the classes are averaged. `map_11_point` interpolates at the recalls 0, 0.1 to 1, as VOC2007 and CLIP's tables have it;
`mean_average_precision` is the area below the steps, as in scikit-learn. Equal scores enter together, so a model that scores all images
alike has the share of images that show a class. A class that no image shows is left out.
"""
INPUTS = """
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
CITATION = """
@article{everingham2010pascal,
    title = {The {PASCAL} Visual Object Classes ({VOC}) Challenge},
    author = {Everingham, Mark and Van Gool, Luc and Williams, Christopher K. I. and Winn, John and Zisserman, Andrew},
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
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=features,
            license="Apache-2.0",
        )

    def _compute(self, predictions: list, references: list) -> dict[str, float]:
        scores, targets = torch.tensor(predictions), torch.tensor(references)
        check(scores, targets)
        of_classes = [
            average_precisions(*columns) for columns in zip(scores.T, targets.T) if columns[1].any()
        ]
        eleven, area = torch.tensor(of_classes, dtype=torch.double).reshape(-1, 2).mean(0).tolist()
        return {"n": len(scores), "map_11_point": eleven, "mean_average_precision": area}


def average_precisions(scores: torch.Tensor, targets: torch.Tensor) -> tuple[float, float]:
    """Of one class: the mean of the best precision at 11 recalls or beyond, and the area below the steps of precision over recall."""
    scores, order = scores.sort(descending=True)
    last = torch.cat([scores.diff() != 0, torch.ones(1, dtype=torch.bool)])  # equal scores enter together
    hits = targets[order].cumsum(0)[last].double()
    precision = hits / torch.arange(1, len(scores) + 1)[last]
    gained = hits.diff(prepend=hits.new_zeros(1))
    area = (gained * precision).sum() / hits[-1]
    best_from_here = precision.flip(0).cummax(0).values.flip(0)
    # A hit is counted in whole numbers, and 0.3 is none: 10 hits >= 3 total.
    reached = torch.searchsorted(10 * hits, hits[-1] * torch.arange(11, dtype=torch.double))
    return best_from_here[reached].mean().item(), area.item()


def check(scores: torch.Tensor, targets: torch.Tensor) -> None:
    """Refuse tables of other shapes, and scores that are not finite."""
    if scores.ndim != 2 or scores.shape != targets.shape:
        raise ValueError(
            f"scores and targets must both be (images, classes), not {tuple(scores.shape)} and {tuple(targets.shape)}"
        )
    if not scores.isfinite().all():
        raise ValueError(f"a score of item {(~scores.isfinite()).nonzero()[0, 0]} is not finite")
