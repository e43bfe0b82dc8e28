"""Zero-shot accuracies as an `evaluate` module: `evaluate.load("benchmarks/evaluate_modules/zero_shot_classification")`."""

import evaluate
import torch
from datasets import Features, List, Value

from benchmarks.metrics import ranks_in_scores
from benchmarks.outcomes import ClassOutcomes

DESCRIPTION = """
What share of images has its class first, or among the first five, by the scores of all classes; the mean of the two, which Kinetics
reports; and the accuracy of each class averaged (mean per class), which Caltech-101, Aircraft, Flowers and Pets report. A class that
scores as much as the right one counts as before it, so a model that scores all classes alike has 0.
"""
INPUTS = """
Args:
    predictions: for each image the scores of all classes `(images, classes)`.
    references: for each image the row of its class `(images,)`.

Returns:
    The fractions `accuracy@1`, `accuracy@5`, `mean_per_class` and `mean_top1_top5`, and `n` images.

Examples:
    >>> classification = evaluate.load("benchmarks/evaluate_modules/zero_shot_classification")
    >>> classification.compute(predictions=[[0.9, 0.1], [0.6, 0.4]], references=[0, 1])["accuracy@1"]
    0.5
"""
CITATION = """
@inproceedings{radford2021learning,
    title = {Learning Transferable Visual Models From Natural Language Supervision},
    author = {Radford, Alec and Kim, Jong Wook and Hallacy, Chris and Ramesh, Aditya and Goh, Gabriel and Agarwal, Sandhini and Sastry,
        Girish and Askell, Amanda and Mishkin, Pamela and Clark, Jack and Krueger, Gretchen and Sutskever, Ilya},
    booktitle = {Proceedings of the 38th International Conference on Machine Learning},
    year = {2021},
}
"""


class ZeroShotClassification(evaluate.Metric):
    """`ranks_in_scores` and `ClassOutcomes.metrics`."""

    def _info(self) -> evaluate.MetricInfo:
        features = Features({"predictions": List(Value("float32")), "references": Value("int64")})
        return evaluate.MetricInfo(
            description=DESCRIPTION, citation=CITATION, inputs_description=INPUTS, features=features, license="Apache-2.0"
        )

    def _compute(self, predictions: list, references: list) -> dict[str, float]:
        scores, labels = torch.tensor(predictions), torch.tensor(references)
        return ClassOutcomes(ranks_in_scores(scores, labels), labels, scores.shape[1]).metrics()
