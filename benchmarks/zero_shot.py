"""Zero-shot classification: an image belongs to the class whose name, put into a sentence, lies nearest."""

from typing import TYPE_CHECKING

import torch
from datasets import Dataset
from transformers import PreTrainedModel, ProcessorMixin

from modeling_altclip import embed_images, embed_texts
from modeling_altclip.embedding import mean_of_prompts

from .metrics import top_k_accuracy
from .recipe import InputError

if TYPE_CHECKING:
    from accelerate import Accelerator


def build_classifier(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    class_names: list[str],
    templates: list[str] = ("{}",),
    *,
    accelerator: "Accelerator | None" = None,
) -> torch.Tensor:
    """One unit vector per class, shape `(classes, dim)`: the mean of its prompts' unit vectors, normalised again (CLIP 3.1.4)."""
    prompts = [template.format(name) for name in class_names for template in templates]
    return mean_of_prompts(embed_texts(model, processor, prompts, accelerator=accelerator), len(class_names))


def evaluate_zero_shot(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    rows: Dataset,
    class_names: dict[str, list[str]],
    templates: list[str] = ("{}",),
    *,
    image_embeds: torch.Tensor | None = None,
    accelerator: "Accelerator | None" = None,
) -> dict[str, dict[str, float]]:
    """Top-1 and top-5 accuracy per language on rows of `image` and `label`; the images are embedded once for all languages.

    Args:
        class_names: `{language: names}`, name `i` for label `i`.
        image_embeds: the images' unit vectors `(rows, dim)`, where they are known.
        accelerator: with several processes, each embeds its share.

    Raises:
        InputError: a language has fewer names than there are labels.
    """
    labels = torch.tensor(rows["label"])
    check_class_names(class_names, int(labels.max()) + 1)
    if image_embeds is None:
        image_embeds = embed_images(model, processor, rows["image"], show_progress=True, accelerator=accelerator)
    classifiers = {
        lang: build_classifier(model, processor, names, templates, accelerator=accelerator) for lang, names in class_names.items()
    }
    return {lang: {"n": len(labels)} | top_k_accuracy(image_embeds, classifier, labels) for lang, classifier in classifiers.items()}


def check_class_names(class_names: dict[str, list[str]], n_classes: int) -> None:
    """Every language must name every class."""
    for language, names in class_names.items():
        if len(names) < n_classes:
            raise InputError(f"language {language!r} has {len(names)} class names, but labels go up to {n_classes - 1}")
