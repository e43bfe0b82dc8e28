"""Zero-shot accuracies as an `evaluate` module: `evaluate.load("benchmarks/evaluate_modules/zero_shot_classification")`.

`evaluate` copies this file and nothing beside it, so that it imports none of our packages; its numbers are those of `benchmarks`.
"""

import evaluate
import torch
from datasets import Features, List, Value

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
    """Accuracies over images and over classes."""

    def _info(self) -> evaluate.MetricInfo:
        features = Features({"predictions": List(Value("float32")), "references": Value("int64")})
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=features,
            license="Apache-2.0",
        )

    def _compute(self, predictions: list, references: list) -> dict[str, float]:
        scores, labels = torch.tensor(predictions), torch.tensor(references)
        check(scores, labels)
        n_ahead = (scores >= scores.gather(1, labels[:, None])).sum(1) - 1
        first, five = ((n_ahead < k).double().mean().item() for k in (1, 5))
        hits = labels.bincount(weights=(n_ahead == 0).double())
        mean_per_class = (hits / labels.bincount()).nanmean().item()  # a class without images is no number
        return {
            "n": len(labels),
            "accuracy@1": first,
            "accuracy@5": five,
            "mean_per_class": mean_per_class,
            "mean_top1_top5": (first + five) / 2,
        }


def check(scores: torch.Tensor, labels: torch.Tensor) -> None:
    """Refuse what is no table of finite scores, and labels that are no class."""
    if scores.ndim != 2:
        raise ValueError(f"scores must be (items, classes), not {tuple(scores.shape)}")
    if not scores.isfinite().all():
        raise ValueError(f"a score of item {(~scores.isfinite()).nonzero()[0, 0]} is not finite")
    strange = ((labels < 0) | (labels >= scores.shape[1])).nonzero()[:, 0].tolist()
    if strange:
        label = labels[strange[0]]
        raise ValueError(
            f"item {strange[0]} has the label {label}, but the classes are the rows 0 to {scores.shape[1] - 1}"
        )
