"""Texts and images to vectors, for any model with `get_text_features` and `get_image_features`: AltCLIP, CLIP, SigLIP."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from functools import partial
from itertools import islice
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import normalize
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from .images_altclip import background_of, find_images, needed_scaling, read_images
from .texts_altclip import check_texts, check_tokens, readable_tokens, text_options, tokenize, vocabulary_size
from .threads_altclip import lock_of_threads

if TYPE_CHECKING:
    from accelerate import Accelerator

# Of an iterator this many batches are looked at together: enough to sort texts by length, little enough to hold.
WINDOW = 64

# Of each model that embeds just now, by its id: how many threads it embeds for, and its modules' modes before.
IN_EVAL_MODE: dict[int, tuple[int, list[tuple[torch.nn.Module, bool]]]] = {}
SWITCHING_MODES = lock_of_threads()


class SkippedImage(NamedTuple):
    """An image that cannot be read: its index in what was given, its name (in a list the index), and why."""

    index: int
    name: int | str
    reason: str


class ImageEmbeddings(NamedTuple):
    """What `embed_images` gives with names: vectors `(images, projection_dim)`, names, and what was skipped."""

    embeddings: torch.Tensor | np.ndarray
    names: list[int] | list[str]
    skipped: list[SkippedImage]


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

    Threads may share the model and the processor.

    Args:
        texts: a list, or any iterable, of which 64 batches are held at a time.
        normalize_embeddings: to unit length; otherwise as the projection gives them.
        accelerator: with several processes, each encodes its share and gets all vectors; all have to call with the same texts.

    Returns:
        Vectors in the order given, float32 on the CPU, shape `(len(texts), projection_dim)`.

    Raises:
        ValueError: a text is not a string, or has no token or one that the model does not know; the message gives its index. Or there
            is none.
    """

    def forward(**inputs) -> torch.Tensor:
        return model.get_text_features(**inputs).pooler_output

    vectors = encode_texts(
        model,
        processor.tokenizer,
        texts,
        forward,
        batch_size=batch_size,
        show_progress=show_progress,
        accelerator=accelerator,
    )
    vectors = normalize(vectors, dim=-1) if normalize_embeddings else vectors
    return vectors.numpy() if convert_to_numpy else vectors


def embed_images(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    images: Iterable | str | Path,
    *,
    batch_size: int = 256,
    show_progress: bool = False,
    convert_to_numpy: bool = False,
    normalize_embeddings: bool = True,
    accelerator: "Accelerator | None" = None,
    return_names: bool = False,
    errors: str | None = None,
) -> torch.Tensor | np.ndarray | ImageEmbeddings:
    """Embed `images`: whatever `AltCLIPProcessor` reads, batch by batch, on the image processor's background.

    Args:
        images: a list, a `datasets` column or any iterable; or a folder or a glob such as `photos/**/*.jpg`,
            whose pictures are taken in the order of their names (see `find_images`).
        normalize_embeddings: as for `embed_texts`.
        accelerator: as for `embed_texts`.
        return_names: give an `ImageEmbeddings`: vectors, and the files' names below the folder, or indices.
        errors: what becomes of an image that cannot be read. "raise" refuses it; "skip" leaves it out, and
            lists it in the `ImageEmbeddings` that it gives. By default it is refused in a list, and in a folder
            skipped with a warning.

    Returns:
        Vectors in the order given, float32 on the CPU, `(images, projection_dim)`, or an `ImageEmbeddings`.

    Raises:
        ValueError: there is no image, or one cannot be read, or none can; the message gives index or name.
    """
    if errors not in (None, "raise", "skip"):
        raise ValueError(f"errors is {errors!r}: choose 'raise' or 'skip'")
    files = list(find_images(images).items()) if isinstance(images, str | Path) else None
    reasons = None if errors == "raise" or (errors is None and files is None) else {}
    background = background_of(processor.image_processor)

    def encode(batch: list[tuple]) -> torch.Tensor:
        names, batch = zip(*batch)
        needed = needed_scaling(processor.image_processor, batch, names)
        batch = read_images(batch, names, background=background, skipped=reasons)
        inputs = processor.image_processor(images=batch, return_tensors="pt", **needed)
        return model.get_image_features(**inputs.to(model.device, model.dtype)).pooler_output

    n_processes = 1 if accelerator is None else accelerator.num_processes
    names, windows = [], []
    with encoding(model, "images", images if files is None else files, show_progress) as bar:
        items = one_by_one(images) if files is None else files
        for start, window in in_windows(items, batch_size * n_processes, "images"):
            named = list(enumerate(window, start)) if files is None else window
            names += [name for name, _ in named]
            windows.append(encode_shared(named, encode, batch_size, accelerator, bar))
    vectors = torch.cat(windows)
    vectors = normalize(vectors, dim=-1) if normalize_embeddings else vectors
    embedded = leave_out(vectors, names, gather_reasons(reasons or {}, n_processes))
    if embedded.skipped and errors is None:
        warnings.warn(f"{summary_of(embedded.skipped, len(names))}. errors='skip' lists them", stacklevel=2)
    if convert_to_numpy:
        embedded = embedded._replace(embeddings=embedded.embeddings.numpy())
    return embedded if return_names or errors == "skip" else embedded.embeddings


def leave_out(vectors: torch.Tensor, names: list, reasons: dict[int | str, str]) -> ImageEmbeddings:
    """The vectors `(images, dim)` without those that stand for images which cannot be read, and the reasons.

    Raises:
        ValueError: no image can be read.
    """
    if not reasons:
        return ImageEmbeddings(vectors, names, [])
    unread = [(index, name) for index, name in enumerate(names) if name in reasons]
    skipped = [SkippedImage(index, name, reasons[name]) for index, name in unread]
    if len(skipped) == len(names):
        raise ValueError(summary_of(skipped, len(names)))
    is_kept = [name not in reasons for name in names]
    kept_names = [name for name, kept in zip(names, is_kept) if kept]
    return ImageEmbeddings(vectors[torch.tensor(is_kept)], kept_names, skipped)


def summary_of(skipped: list[SkippedImage], n_images: int) -> str:
    """How many images were skipped, and why the first of them was."""
    first = skipped[0]
    return f"{len(skipped)} of {n_images} images cannot be read, images[{first.name!r}] first: {first.reason}"


def gather_reasons(reasons: dict[int | str, str], n_processes: int) -> dict[int | str, str]:
    """Those of all processes, each of which has read its share."""
    if n_processes == 1:
        return reasons
    from accelerate.utils import gather_object

    return dict(gather_object(list(reasons.items())))


def one_by_one(images: Iterable) -> Iterable:
    """The items; where a sequence such as a column of `datasets` cannot decode one, its error."""
    if isinstance(images, list | tuple) or not isinstance(images, Sequence):
        return images

    def items() -> Iterator:
        for index in range(len(images)):
            try:
                yield images[index]
            except Exception as error:
                yield error

    return items()


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
    options = text_options(tokenizer, model) | tokenizer_kwargs

    n_tokens, n_ids = readable_tokens(model), vocabulary_size(model)

    def encode(batch: list[str], index_of: dict[str, int]) -> torch.Tensor:
        inputs = tokenize(tokenizer, batch, return_tensors="pt", **options)
        check_tokens(inputs, [f"texts[{index_of[text]}]" for text in batch], n_tokens, n_ids)
        return forward(**inputs.to(model.device))

    windows = []
    with encoding(model, "texts", texts, show_progress) as bar:
        for start, window in in_windows(texts, batch_size * WINDOW, "texts"):
            check_texts(window, "texts", start)
            index_of = {
                text: index for index, text in reversed(list(enumerate(window, start)))
            }  # the first of equal ones
            distinct = sorted(index_of, key=lambda text: (len(text), text))
            row_of = {text: row for row, text in enumerate(distinct)}
            vectors = encode_shared(
                distinct, partial(encode, index_of=index_of), batch_size, accelerator, bar
            )
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
    is_array = isinstance(items, np.ndarray | torch.Tensor) and items.ndim < 4
    if isinstance(items, str | Image.Image) or (is_array and unit == "images"):
        raise ValueError(f"{unit} is a single {type(items).__name__}: put it into a list")
    total = len(items) if isinstance(items, Sized) else None
    progress = tqdm(total=total, desc=f"Embedding {unit}", unit=unit[:-1], disable=not show_progress)
    with eval_mode(model), torch.inference_mode(), progress as bar:
        yield bar


@contextmanager
def eval_mode(model: PreTrainedModel) -> Iterator[None]:
    """Keep `model` in eval mode as long as any thread is in here; the last one out puts each module's own mode back."""
    with SWITCHING_MODES:
        n_threads, modes = IN_EVAL_MODE.get(id(model), (0, []))
        if n_threads == 0:
            modes = [(module, module.training) for module in model.modules()]
            model.eval()
        IN_EVAL_MODE[id(model)] = n_threads + 1, modes
    try:
        yield
    finally:
        with SWITCHING_MODES:
            n_threads, modes = IN_EVAL_MODE.pop(id(model))
            if n_threads > 1:
                IN_EVAL_MODE[id(model)] = n_threads - 1, modes
            else:
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
    items: list,
    encode: Callable[[list], torch.Tensor],
    batch_size: int,
    accelerator: "Accelerator | None",
    bar: tqdm,
) -> torch.Tensor:
    """Encode in batches. Of several processes each takes every n-th item, and all get the vectors of all, in order."""
    rank, n_processes = (
        (0, 1) if accelerator is None else (accelerator.process_index, accelerator.num_processes)
    )
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


__all__ = ["ImageEmbeddings", "SkippedImage", "embed_images", "embed_texts"]
