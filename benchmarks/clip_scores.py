"""CLIP scores: how well pictures that were drawn fit their prompts."""

from collections.abc import Sequence

import torch
from PIL import Image
from transformers import PreTrainedModel, ProcessorMixin

from modeling_altclip import embed_images, embed_texts


def clip_scores(
    model: PreTrainedModel, processor: ProcessorMixin, pictures: Sequence[Image.Image], texts: Sequence[str]
) -> torch.Tensor:
    """Compute 100 times the cosine of each picture and its text (Hessel et al. 2021, arXiv 2104.08718).

    The paper multiplies by 2.5 and cuts below 0; torchmetrics' CLIPScore and this do not cut.

    Args:
        model: a model of images and texts, as `load_model` returns it with its processor.
        texts: one for each picture.

    Returns:
        Scores `(pictures,)`, float32.

    Raises:
        ValueError: there are more or fewer texts than pictures, or none.

    Example:

    ```python
    >>> from PIL import Image
    >>> from benchmarks import load_model
    >>> from benchmarks.clip_scores import clip_scores

    >>> model, processor = load_model("outputs/miniature/altclip")
    >>> picture = Image.open("outputs/miniature/altclip/example.png")
    >>> clip_scores(model, processor, [picture], ["a key"]).shape
    torch.Size([1])
    ```
    """
    if not pictures or len(pictures) != len(texts):
        raise ValueError(f"there are {len(pictures)} pictures and {len(texts)} texts: give one for each")
    image_embeds = embed_images(model, processor, list(pictures))
    text_embeds = embed_texts(model, processor, list(texts))
    return 100 * (image_embeds * text_embeds).sum(dim=1)


__all__ = ["clip_scores"]
