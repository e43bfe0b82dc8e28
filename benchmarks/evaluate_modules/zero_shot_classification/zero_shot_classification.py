"""Zero-shot classification accuracies as a module of `evaluate`.

`evaluate.load("benchmarks/evaluate_modules/zero_shot_classification")` copies this file and nothing beside
it, so that it imports none of our packages. It returns the numbers of `benchmarks`.
"""

import evaluate
import torch
from datasets import Features, List, Value

_DESCRIPTION = """
Accuracy at 1 and at 5: the share of images whose class scores highest, or among the five highest; the mean of
the two, which Kinetics reports; and the accuracy of each class averaged (mean per class), which Caltech-101,
Aircraft, Flowers and Pets report. Ties are ranked pessimistically, so a model that scores all classes alike
has 0.
"""
_INPUTS = """
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
_CITATION = """
@inproceedings{radford2021learning,
    title = {Learning Transferable Visual Models From Natural Language Supervision},
    author = {Radford, Alec and Kim, Jong Wook and Hallacy, Chris and Ramesh, Aditya and Goh, Gabriel and
        Agarwal, Sandhini and Sastry, Girish and Askell, Amanda and Mishkin, Pamela and Clark, Jack and
        Krueger, Gretchen and Sutskever, Ilya},
    booktitle = {Proceedings of the 38th International Conference on Machine Learning},
    year = {2021},
}
"""


class ZeroShotClassification(evaluate.Metric):
    """Accuracies over images and over classes."""

    def _info(self) -> evaluate.MetricInfo:
        features = Features({"predictions": List(Value("float32")), "references": Value("int64")})
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=features,
            license="Apache-2.0",
        )

    def _compute(self, predictions: list, references: list) -> dict[str, float]:
        scores = torch.tensor(predictions)
        labels = torch.tensor(references)
        _check(scores, labels)

        own_scores = scores.gather(1, labels[:, None])
        ranks = (scores >= own_scores).sum(1) - 1  # the own class is counted too
        first = (ranks < 1).double().mean().item()
        five = (ranks < 5).double().mean().item()

        hits = labels.bincount(weights=(ranks == 0).double())
        # A class without images is 0 / 0, and left out of the mean.
        mean_per_class = (hits / labels.bincount()).nanmean().item()
        return {
            "n": len(labels),
            "accuracy@1": first,
            "accuracy@5": five,
            "mean_per_class": mean_per_class,
            "mean_top1_top5": (first + five) / 2,
        }


def _check(scores: torch.Tensor, labels: torch.Tensor) -> None:
    """Check the scores and the labels.

    Raises:
        ValueError: the scores are no table, one is not finite, or a label is no class.
    """
    if scores.ndim != 2:
        raise ValueError(f"scores must be (items, classes), not {tuple(scores.shape)}")
    not_finite = (~scores.isfinite()).nonzero()
    if len(not_finite):
        raise ValueError(f"a score of item {not_finite[0, 0]} is not finite")

    is_outside = (labels < 0) | (labels >= scores.shape[1])
    outside = is_outside.nonzero()[:, 0].tolist()
    if outside:
        item = outside[0]
        raise ValueError(
            f"item {item} has the label {labels[item]}, "
            f"but the classes are the rows 0 to {scores.shape[1] - 1}"
        )
