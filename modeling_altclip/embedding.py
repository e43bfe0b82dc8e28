"""Texts and images to vectors, for any model with `get_text_features` and `get_image_features`: AltCLIP, CLIP, SigLIP."""

from collections.abc import Callable, Sequence

import torch
from torch.nn.functional import normalize
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin


def embed_texts(
    model: PreTrainedModel, processor: ProcessorMixin, texts: Sequence[str], *, batch_size: int = 256, show_progress: bool = False
) -> torch.Tensor:
    """Embed `texts`, cut at the model's text length.

    Returns:
        Unit vectors in the order given, float32 on the CPU, shape `(len(texts), projection_dim)`.

    Raises:
        ValueError: a text is not a string, or there is none; the message gives its index.
    """

    def forward(**inputs) -> torch.Tensor:
        return model.get_text_features(**inputs).pooler_output

    vectors = encode_texts(model, processor.tokenizer, texts, forward, batch_size=batch_size, show_progress=show_progress)
    return normalize(vectors, dim=-1)


def embed_images(
    model: PreTrainedModel, processor: ProcessorMixin, images: Sequence, *, batch_size: int = 256, show_progress: bool = False
) -> torch.Tensor:
    """Embed `images`: PIL images or arrays, in a list or a `datasets` column, which is decoded batch by batch.

    Returns:
        Unit vectors in the order given, float32 on the CPU, shape `(len(images), projection_dim)`.

    Raises:
        ValueError: there is no image.
    """

    def forward(batch: list) -> torch.Tensor:
        pixel_values = processor.image_processor(images=batch, return_tensors="pt")["pixel_values"]
        return model.get_image_features(pixel_values=pixel_values.to(model.device, model.dtype)).pooler_output

    return normalize(_in_batches(model, forward, images, batch_size, "images", show_progress), dim=-1)


def encode_texts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    forward: Callable[..., torch.Tensor],
    *,
    batch_size: int = 256,
    show_progress: bool = False,
) -> torch.Tensor:
    """Vectors `(len(texts), dim)`, float32 on the CPU, of any `forward(input_ids=..., attention_mask=...) -> (batch, dim)`.

    Equal texts are encoded once, and texts of like length together, so that little is padded. `model` is the one that
    `forward` runs: it is in eval mode meanwhile.
    """
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"texts[{index}] is {text!r}, not a string: drop it or write it out")
    max_length = min(tokenizer.model_max_length, getattr(model.config, "text_config", model.config).max_position_embeddings)

    def encode(batch: list[str]) -> torch.Tensor:
        inputs = tokenizer(batch, padding=True, truncation=True, max_length=max_length, return_tensors="pt")
        return forward(**inputs.to(model.device))

    distinct = sorted(set(texts), key=lambda text: (len(text), text))
    row_of = {text: row for row, text in enumerate(distinct)}
    vectors = _in_batches(model, encode, distinct, batch_size, "texts", show_progress)
    return vectors[torch.tensor([row_of[text] for text in texts])]


def _in_batches(model, forward, items, batch_size, unit, show_progress):
    if len(items) == 0:
        raise ValueError(f"there are no {unit} to embed: the list is empty")
    training = model.training
    model.eval()
    starts = tqdm(range(0, len(items), batch_size), desc=f"Embedding {unit}", unit="batch", disable=not show_progress)
    with torch.inference_mode():
        batches = [forward(items[start : start + batch_size]).float().cpu() for start in starts]
    model.train(training)
    return torch.cat(batches)
