"""Zero-shot classification: an image belongs to the class whose name, in prompt templates, lies nearest."""

import torch

from common.errors import InputError

from .encoder import Encoder
from .metrics import class_ranks, class_scores
from .outcomes import ClassOutcomes, MultilabelOutcomes, Outcomes, ScoreOutcomes

_Names = list[str | None]
"""Name `i` of class `i`, or None where a language has none."""


def evaluate_zero_shot(
    encoder: Encoder,
    image_embeds: torch.Tensor,
    labels: list[int] | list[list[int]],
    class_names: dict[str, _Names],
    templates: dict[str, list[str]],
    metric: str = "accuracy@1",
) -> dict[str, Outcomes]:
    """Classify all images by the class names of each language.

    Args:
        image_embeds: the images' unit-length embeddings `(rows, dim)`, made by the same encoder.
        labels: class rows, one for each image or a list of them. Images of a class without a name in a
            language are skipped in that language.
        class_names: `{language: names}`, None for a class without a name.
        templates: `{language: prompt templates}` with `{}` where the name goes.
        metric: with `roc_auc` images are scored as the second of two classes; otherwise classes are ranked,
            or with several labels for an image scored.

    Returns:
        `{language: outcomes}`.

    Raises:
        InputError: a label is missing or negative, or no row has one; a language has fewer names than there
            are labels, or names none of the classes; several labels for an image, or `roc_auc`, and a class
            without a name; `roc_auc` and not two classes with images of both.

    Example:

    ```python
    >>> from PIL import Image
    >>> from benchmarks import CachedEncoder, evaluate_zero_shot, load_model

    >>> encoder = CachedEncoder(*load_model("outputs/miniature/altclip"))
    >>> image_embeds = encoder.images([Image.new("RGB", (32, 32), color) for color in ("red", "blue")])
    >>> names, templates = {"es": ["rojo", "azul"]}, {"es": ["una foto de {}."]}
    >>> evaluate_zero_shot(encoder, image_embeds, [0, 1], names, templates)["es"].ranks.shape
    torch.Size([2])
    ```
    """
    several = isinstance(labels[0], list)
    check_class_names(class_names, _count_classes(labels))
    if metric == "roc_auc":
        _check_two_classes(labels, class_names)

    outcomes = {}
    for language, names in class_names.items():
        classifier = encoder.classes([name for name in names if name is not None], templates[language])
        if several:
            _check_all_named(names, language, metric)
            targets = _targets_of(labels, len(names))
            outcomes[language] = MultilabelOutcomes(class_scores(image_embeds, classifier), targets)
        elif metric == "roc_auc":
            _check_all_named(names, language, metric)
            scores = class_scores(image_embeds, classifier)
            outcomes[language] = ScoreOutcomes(scores[:, 1] - scores[:, 0], torch.tensor(labels) == 1)
        else:
            outcomes[language] = _rank_classes(image_embeds, classifier, labels, names, language)
    return outcomes


def check_class_names(class_names: dict[str, _Names], n_classes: int) -> None:
    """Check that every language has an entry, a name or None, for every class.

    Raises:
        InputError: a language has fewer.
    """
    for language, names in class_names.items():
        if len(names) < n_classes:
            raise InputError(
                f"language {language!r} has {len(names)} class names, but labels go up to {n_classes - 1}"
            )


def _rank_classes(
    image_embeds: torch.Tensor, classifier: torch.Tensor, labels: list[int], names: _Names, language: str
) -> ClassOutcomes:
    """Rank the right class of each image among the classes that have a name; other images are skipped."""
    named = torch.tensor([name is not None for name in names])
    class_of_image = torch.tensor(labels)
    kept = named[class_of_image]
    if not kept.any():
        raise InputError(f"language {language!r} names none of the classes that the images have")
    # The classifier has rows for named classes only: names [ant, None, cat] -> class 2 is its row 1.
    row_of_class = named.cumsum(0) - 1
    own_rows = row_of_class[class_of_image[kept]]
    ranks = class_ranks(image_embeds[kept], classifier, own_rows)
    return ClassOutcomes(ranks, own_rows, len(classifier), rows=kept.nonzero()[:, 0])


def _targets_of(labels: list[list[int]], n_classes: int) -> torch.Tensor:
    """Mark the classes of each image: of two classes `[[0, 1], [1]]` -> `[[True, True], [False, True]]`."""
    targets = torch.zeros(len(labels), n_classes, dtype=torch.bool)
    for row, own in enumerate(labels):
        targets[row, own] = True
    return targets


def _count_classes(labels: list[int] | list[list[int]]) -> int:
    """Check that all labels are classes, and return how many classes there are at least.

    Raises:
        InputError: a label is None or negative, or no row has one.
    """
    highest = None
    for row, own in enumerate(labels):
        for label in own if isinstance(own, list) else [own]:
            if label is None or label < 0:
                raise InputError(
                    f"row {row} has the label {label}, which is no class: leave it out of the dataset"
                )
            highest = label if highest is None else max(highest, label)
    if highest is None:
        raise InputError(
            f"labels of all rows, 0 to {len(labels) - 1}, are empty: "
            "name the column that has classes in columns.labels of the task"
        )
    return 1 + highest


def _check_two_classes(labels: list[int], class_names: dict[str, _Names]) -> None:
    """Check that images of two classes are there, and two names in every language."""
    if set(labels) != {0, 1} or any(len(names) != 2 for names in class_names.values()):
        raise InputError(
            "roc_auc needs two classes with images of both, "
            f"not labels {sorted(set(labels))[:5]} and names {class_names}"
        )


def _check_all_named(names: _Names, language: str, metric: str) -> None:
    """Check that a metric which scores all classes has the names of all."""
    if None in names:
        raise InputError(
            f"language {language!r} has no name for class {names.index(None)}: {metric} needs them all"
        )
