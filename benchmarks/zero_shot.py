"""Zero-shot classification: an image belongs to the class whose name, put into a sentence, lies nearest."""

import torch

from .encoder import Encoder
from .metrics import class_ranks
from .outcomes import ClassOutcomes, MultilabelOutcomes, Outcomes, ScoreOutcomes
from .recipe import InputError

Names = list[str | None]
"""Name `i` of class `i`, or None where a language has none."""


def evaluate_zero_shot(
    encoder: Encoder,
    image_embeds: torch.Tensor,
    labels: list[int] | list[list[int]],
    class_names: dict[str, Names],
    templates: dict[str, list[str]],
    metric: str = "accuracy@1",
) -> dict[str, Outcomes]:
    """Where each image's classes stand among all, in each language.

    Args:
        image_embeds: the images' unit vectors `(rows, dim)`, made by the same encoder.
        labels: class rows, one an image or a list of them. Images of a class without a name in a language are left out of that language.
        class_names: `{language: names}`.
        templates: `{language: sentences}` with `{}` where the name goes.
        metric: `roc_auc` asks how surely an image is of the second of two classes, not which is nearest.

    Raises:
        InputError: a label is missing or negative, or no row has one; a language has fewer names than there are labels, or names none
            of the classes; several labels an image, or `roc_auc`, and a class without a name; `roc_auc` and not two classes with images
            of both.
    """
    several = isinstance(labels[0], list)
    check_class_names(class_names, check_labels(labels))
    if metric == "roc_auc" and (
        set(labels) != {0, 1} or any(len(names) != 2 for names in class_names.values())
    ):
        raise InputError(
            f"roc_auc needs two classes with images of both, not labels {sorted(set(labels))[:5]} and names {class_names}"
        )
    outcomes = {}
    for language, names in class_names.items():
        classifier = encoder.classes([name for name in names if name is not None], templates[language])
        if several or metric == "roc_auc":
            if None in names:
                raise InputError(
                    f"language {language!r} has no name for class {names.index(None)}: {metric} needs them all"
                )
            scores = image_embeds @ classifier.T
        if several:
            targets = torch.zeros(len(labels), len(names), dtype=torch.bool)
            for row, own in enumerate(labels):
                targets[row, own] = True
            outcomes[language] = MultilabelOutcomes(scores, targets)
        elif metric == "roc_auc":
            outcomes[language] = ScoreOutcomes(scores[:, 1] - scores[:, 0], torch.tensor(labels) == 1)
        else:
            outcomes[language] = class_outcomes(
                image_embeds, classifier, torch.tensor(labels), names, language
            )
    return outcomes


def class_outcomes(
    image_embeds: torch.Tensor, classifier: torch.Tensor, labels: torch.Tensor, names: Names, language: str
) -> ClassOutcomes:
    """Ranks of the right classes, among those that have a name, of the images whose class has one."""
    named = torch.tensor([name is not None for name in names])
    kept = named[labels]
    if not kept.any():
        raise InputError(f"language {language!r} names none of the classes that the images have")
    own = (named.cumsum(0) - 1)[labels[kept]]
    return ClassOutcomes(
        class_ranks(image_embeds[kept], classifier, own), own, len(classifier), rows=kept.nonzero()[:, 0]
    )


def check_labels(labels: list[int] | list[list[int]]) -> int:
    """Every row's labels are classes; gives how many classes there are at least."""
    for row, own in enumerate(labels):
        for label in own if isinstance(own, list) else [own]:
            if label is None or label < 0:
                raise InputError(
                    f"row {row} has the label {label}, which is no class: leave it out of the dataset"
                )
    highest = max(
        (label for own in labels for label in (own if isinstance(own, list) else [own])), default=None
    )
    if highest is None:
        raise InputError(
            f"labels of all rows, 0 to {len(labels) - 1}, are empty: name the column that has classes in columns.labels of the task"
        )
    return 1 + highest


def check_class_names(class_names: dict[str, Names], n_classes: int) -> None:
    """Every language must name every class, or say that it has no name for it."""
    for language, names in class_names.items():
        if len(names) < n_classes:
            raise InputError(
                f"language {language!r} has {len(names)} class names, but labels go up to {n_classes - 1}"
            )
