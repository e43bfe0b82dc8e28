"""Image-text retrieval: find the image a sentence describes among all of them, and the other way round."""

from typing import TYPE_CHECKING

import torch
from datasets import Dataset
from transformers import PreTrainedModel, ProcessorMixin

from modeling_altclip import embed_images, embed_texts

from .metrics import retrieval_recall

if TYPE_CHECKING:
    from accelerate import Accelerator


def evaluate_retrieval(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    rows: Dataset,
    languages: list[str],
    *,
    image_embeds: torch.Tensor | None = None,
    accelerator: "Accelerator | None" = None,
) -> dict[str, dict[str, float]]:
    """Recall per language on rows of `image` and `captions`; the images are embedded once for all languages.

    Args:
        image_embeds: the images' unit vectors `(rows, dim)`, where they are known.
        accelerator: with several processes, each embeds its share.

    Returns:
        `{language: retrieval_recall(...)}`, with the number of images under `n`. Rows without a caption in a language are
        left out of that language's images too.
    """
    if image_embeds is None:
        image_embeds = embed_images(model, processor, rows["image"], show_progress=True, accelerator=accelerator)
    scores = {}
    for language in languages:
        captions = [caption[language] for caption in rows["captions"]]
        kept = [row for row, caption in enumerate(captions) if caption]
        text_embeds = embed_texts(model, processor, [captions[row] for row in kept], accelerator=accelerator)
        recall = retrieval_recall(image_embeds[torch.tensor(kept)], text_embeds, torch.arange(len(kept)))
        scores[language] = {"n": len(kept)} | recall
    return scores
