"""Texts and images to vectors, for any model with `get_text_features` and `get_image_features`: AltCLIP, CLIP, SigLIP."""

from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from itertools import islice
from math import ceil
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import normalize
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from .processing_altclip import check_texts, read_images, text_length

if TYPE_CHECKING:
    from accelerate import Accelerator

# Of an iterator this many batches are looked at together: enough to sort texts by length, little enough to hold.
WINDOW = 64


def embed_texts(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    texts: Iterable[str],
    *,
    batch_size: int = 256,
    show_progress: bool = False,
    convert_to_numpy: bool = False,
    normalize_embeddings: bool = True,
    accelerator: "Accelerator | None" = None,
) -> torch.Tensor | np.ndarray:
    """Embed `texts`, cut at the model's text length. Equal texts are encoded once, texts of like length together.

    Args:
        texts: a list, or any iterable, of which 64 batches are held at a time.
        normalize_embeddings: to unit length; otherwise as the projection gives them.
        accelerator: with several processes, each encodes its share and gets all vectors; all have to call with the same texts.

    Returns:
        Vectors in the order given, float32 on the CPU, shape `(len(texts), projection_dim)`.

    Raises:
        ValueError: a text is not a string, or there is none; the message gives its index.
    """

    def forward(**inputs) -> torch.Tensor:
        return model.get_text_features(**inputs).pooler_output

    vectors = encode_texts(
        model, processor.tokenizer, texts, forward, batch_size=batch_size, show_progress=show_progress, accelerator=accelerator
    )
    vectors = normalize(vectors, dim=-1) if normalize_embeddings else vectors
    return vectors.numpy() if convert_to_numpy else vectors


def embed_images(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    images: Iterable,
    *,
    batch_size: int = 256,
    show_progress: bool = False,
    convert_to_numpy: bool = False,
    normalize_embeddings: bool = True,
    accelerator: "Accelerator | None" = None,
) -> torch.Tensor | np.ndarray:
    """Embed `images`: whatever `AltCLIPProcessor` reads, in a list, a `datasets` column or any iterable, read batch by batch.

    Args:
        normalize_embeddings: as for `embed_texts`.
        accelerator: as for `embed_texts`.

    Returns:
        Vectors in the order given, float32 on the CPU, shape `(len(images), projection_dim)`.

    Raises:
        ValueError: an image cannot be read, or there is none; the message gives its index.
    """

    def encode(batch: list[tuple]) -> torch.Tensor:
        indices, batch = zip(*batch)
        inputs = processor.image_processor(images=read_images(batch, indices), return_tensors="pt")
        return model.get_image_features(**inputs.to(model.device, model.dtype)).pooler_output

    n_processes = 1 if accelerator is None else accelerator.num_processes
    with encoding(model, "images", images, show_progress) as bar:
        windows = [
            encode_shared(list(enumerate(window, start)), encode, batch_size, accelerator, bar)
            for start, window in in_windows(images, batch_size * n_processes, "images")
        ]
    vectors = torch.cat(windows)
    vectors = normalize(vectors, dim=-1) if normalize_embeddings else vectors
    return vectors.numpy() if convert_to_numpy else vectors


def encode_texts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Iterable[str],
    forward: Callable[..., torch.Tensor],
    *,
    batch_size: int = 256,
    show_progress: bool = False,
    accelerator: "Accelerator | None" = None,
    **tokenizer_kwargs,
) -> torch.Tensor:
    """Vectors `(len(texts), dim)`, float32 on the CPU, of any `forward(input_ids=..., attention_mask=...) -> (batch, dim)`.

    `model` is the one that `forward` runs: it is in eval mode meanwhile. `tokenizer_kwargs` override how texts are padded and
    cut. See `embed_texts` for the rest.
    """
    padding = "max_length" if "siglip" in model.config.model_type else True  # SigLIP was trained with padding that it attends to
    options = {"padding": padding, "truncation": True, "max_length": text_length(tokenizer, model.config)} | tokenizer_kwargs

    def encode(batch: list[str]) -> torch.Tensor:
        inputs = tokenizer(batch, return_tensors="pt", **options)
        return forward(**inputs.to(model.device))

    windows = []
    with encoding(model, "texts", texts, show_progress) as bar:
        for start, window in in_windows(texts, batch_size * WINDOW, "texts"):
            check_texts(window, "texts", start)
            distinct = sorted(set(window), key=lambda text: (len(text), text))
            row_of = {text: row for row, text in enumerate(distinct)}
            vectors = encode_shared(distinct, encode, batch_size, accelerator, bar)
            windows.append(vectors[torch.tensor([row_of[text] for text in window])])
            bar.update(len(window) - len(distinct))
    return torch.cat(windows)


def mean_of_prompts(vectors: torch.Tensor, n_labels: int) -> torch.Tensor:
    """One unit vector a label `(labels, dim)`: the mean of its prompts' unit vectors, normalised again (CLIP 3.1.4).

    Args:
        vectors: of all prompts `(labels x prompts, dim)`, a label's one after the other.
    """
    return normalize(normalize(vectors, dim=-1).view(n_labels, -1, vectors.shape[-1]).mean(dim=1), dim=-1)


@contextmanager
def encoding(model: PreTrainedModel, unit: str, items: Iterable, show_progress: bool) -> Iterator[tqdm]:
    """The state in which vectors are made: eval mode, no gradients, a progress bar. Each module's mode is put back afterwards.

    Raises:
        ValueError: `items` is one item, not several.
    """
    if isinstance(items, str | Image.Image):
        raise ValueError(f"{unit} is a single {type(items).__name__}: put it into a list")
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    total = len(items) if isinstance(items, Sized) else None
    try:
        with torch.inference_mode(), tqdm(total=total, desc=f"Embedding {unit}", unit=unit[:-1], disable=not show_progress) as bar:
            yield bar
    finally:
        for module, training in modes:
            module.training = training


def in_windows(items: Iterable, size: int, name: str) -> Iterator[tuple[int, list]]:
    """`(index of the first, items)` of the whole list, or of `size` items of an iterable at a time.

    Raises:
        ValueError: there is no item.
    """
    if isinstance(items, list | tuple) and items:
        yield 0, list(items)
        return
    iterator, start = iter(items), 0
    while window := list(islice(iterator, size)):
        yield start, window
        start += len(window)
    if start == 0:
        raise ValueError(f"there are no {name} to embed: the list is empty")


def encode_shared(
    items: list, encode: Callable[[list], torch.Tensor], batch_size: int, accelerator: "Accelerator | None", bar: tqdm
) -> torch.Tensor:
    """Encode in batches. Of several processes each takes every n-th item, and all get the vectors of all, in order."""
    rank, n_processes = (0, 1) if accelerator is None else (accelerator.process_index, accelerator.num_processes)
    n_rows = ceil(len(items) / n_processes)
    share = (items[rank::n_processes] + items[-1:])[:n_rows]  # gathering takes equal shares
    vectors = []
    for start in range(0, n_rows, batch_size):
        vectors.append(encode(share[start : start + batch_size]).float().cpu())
        bar.update(min(n_processes * batch_size, len(items) - n_processes * start))
    vectors = torch.cat(vectors)
    if n_processes == 1:
        return vectors
    gathered = accelerator.gather(vectors.to(accelerator.device)).cpu()
    return gathered.view(n_processes, n_rows, -1).transpose(0, 1).flatten(0, 1)[: len(items)]


__all__ = ["embed_images", "embed_texts"]
