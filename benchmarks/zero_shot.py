"""Zero-shot classification: an image belongs to the class whose name, put into a sentence, lies nearest."""

import torch
from datasets import Dataset
from torch.nn.functional import normalize
from transformers import PreTrainedModel, ProcessorMixin

from modeling_altclip import embed_images, embed_texts

from .metrics import top_k_accuracy
from .recipe import InputError


def build_classifier(
    model: PreTrainedModel, processor: ProcessorMixin, class_names: list[str], templates: list[str] = ("{}",)
) -> torch.Tensor:
    """One unit vector per class, shape `(classes, dim)`: the mean of its prompts' unit vectors, normalised again (CLIP 3.1.4)."""
    prompts = [template.format(name) for name in class_names for template in templates]
    embeds = embed_texts(model, processor, prompts)
    return normalize(embeds.view(len(class_names), len(templates), -1).mean(1), dim=-1)


def evaluate_zero_shot(
    model: PreTrainedModel, processor: ProcessorMixin, rows: Dataset, class_names: dict[str, list[str]], templates: list[str] = ("{}",)
) -> dict[str, dict[str, float]]:
    """Top-1 and top-5 accuracy per language on rows of `image` and `label`; the images are embedded once for all languages.

    Args:
        class_names: `{language: names}`, name `i` for label `i`.

    Raises:
        InputError: a language has fewer names than there are labels.
    """
    labels = torch.tensor(rows["label"])
    for language, names in class_names.items():
        if len(names) <= labels.max():
            raise InputError(f"language {language!r} has {len(names)} class names, but labels go up to {labels.max()}")
    image_embeds = embed_images(model, processor, rows["image"], show_progress=True)
    return {
        language: {"n": len(labels)} | top_k_accuracy(image_embeds, build_classifier(model, processor, names, templates), labels)
        for language, names in class_names.items()
    }
