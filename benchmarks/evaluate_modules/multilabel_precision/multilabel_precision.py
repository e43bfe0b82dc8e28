"""Precision of several labels an image as an `evaluate` module: `evaluate.load("benchmarks/evaluate_modules/multilabel_precision")`."""

import evaluate
import torch
from datasets import Features, List, Value

from benchmarks.outcomes import MultilabelOutcomes

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
    """`MultilabelOutcomes.metrics`."""

    def _info(self) -> evaluate.MetricInfo:
        features = Features({"predictions": List(Value("float32")), "references": List(Value("bool"))})
        return evaluate.MetricInfo(
            description=DESCRIPTION, citation=CITATION, inputs_description=INPUTS, features=features, license="Apache-2.0"
        )

    def _compute(self, predictions: list, references: list) -> dict[str, float]:
        return MultilabelOutcomes(torch.tensor(predictions), torch.tensor(references)).metrics()
