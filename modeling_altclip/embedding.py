"""Embed texts and images with any model that has `get_text_features` and `get_image_features`.

AltCLIP, CLIP and SigLIP are such models.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import normalize
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from .image_files_altclip import find_images
from .images_altclip import background_of, join_batches, needed_scaling, read_groups
from .reading_altclip import canonicalize, text_reading
from .texts_altclip import (
    check_texts,
    check_tokens,
    count_tokens,
    longest_cut,
    readable_tokens,
    text_options,
    tokenize,
    vocabulary_size,
)
from .threads_altclip import lock_of_threads
from .truncation_altclip import Truncation

if TYPE_CHECKING:
    from accelerate import Accelerator

# Batches of an iterator that are held at once: enough to sort texts by length, and little enough to hold.
_WINDOW = 64
# A batch on a CPU: enough for fast matrix products, and so little that what a layer computes stays in the
# cache. Larger batches take more time for each text and image (measured), and memory.
_TOKENS_ON_CPU = 1024  # padding included
_IMAGES_ON_CPU = 16

# For each model that is embedding now, by its id: the number of threads that embed with it, and the mode
# that each of its modules had before.
_IN_EVAL_MODE: dict[int, tuple[int, list[tuple[torch.nn.Module, bool]]]] = {}
_SWITCHING_MODES = lock_of_threads()


class SkippedImage(NamedTuple):
    """An image that cannot be read, as `embed_images` lists it.

    Attributes:
        index: its index in the input, from 0.
        name: its file name below a folder; in a list the index.
        reason: why it cannot be read.

    Example:

    ```python
    >>> from transformers import AutoModel, AutoProcessor
    >>> from modeling_altclip import embed_images

    >>> model = AutoModel.from_pretrained("outputs/miniature/altclip")
    >>> processor = AutoProcessor.from_pretrained("outputs/miniature/altclip")
    >>> images = ["outputs/miniature/altclip/example.png", "missing.png"]
    >>> embedded = embed_images(model, processor, images, errors="skip")
    >>> [image.index for image in embedded.skipped]
    [1]
    ```
    """

    index: int
    name: int | str
    reason: str


class ImageEmbeddings(NamedTuple):
    """Embeddings of the images that can be read, with their names, and the images that are skipped.

    Attributes:
        embeddings: `(images, projection_dim)`, float32 on the CPU.
        names: the names of these images, as in `SkippedImage`.
        skipped: the images that cannot be read, in the order of the input.

    Example:

    ```python
    >>> from transformers import AutoModel, AutoProcessor
    >>> from modeling_altclip import embed_images

    >>> model = AutoModel.from_pretrained("outputs/miniature/altclip")
    >>> processor = AutoProcessor.from_pretrained("outputs/miniature/altclip")
    >>> images = ["outputs/miniature/altclip/example.png", "missing.png"]
    >>> embedded = embed_images(model, processor, images, errors="skip")
    >>> embedded.embeddings.shape, embedded.names, len(embedded.skipped)
    (torch.Size([1, 128]), [0], 1)
    ```
    """

    embeddings: torch.Tensor | np.ndarray
    names: list[int] | list[str]
    skipped: list[SkippedImage]


def embed_texts(  # noqa: PLR0913  (keyword options that users set one by one)
    model: PreTrainedModel,
    processor: ProcessorMixin,
    texts: Iterable[str],
    *,
    batch_size: int = 256,
    show_progress: bool = False,
    convert_to_numpy: bool = False,
    normalize_embeddings: bool = True,
    truncate_dim: int | None = None,
    accelerator: "Accelerator | None" = None,
) -> torch.Tensor | np.ndarray:
    """Embed `texts`, truncated at the model's text length.

    Equal texts are encoded once, and texts of equally many tokens share a batch. Threads may share the model
    and the processor.

    Args:
        texts: a list, or any iterable, of which 64 batches are held at a time.
        batch_size: the most texts of a batch. On a CPU a batch of several texts has 1,024 tokens at most.
        normalize_embeddings: scale embeddings to unit length; otherwise they are the projection's outputs.
        truncate_dim: return the first dimensions of embeddings only, so many, of unit length again. A model
            states those that it was trained for as `matryoshka_dims` of its configuration; others raise a
            warning.
        accelerator: with several processes, each encodes its share and gets all embeddings; all have to call
            with the same texts.

    Returns:
        Embeddings in the order of the input, float32 on the CPU, shape `(len(texts), projection_dim)`, or
            `(len(texts), truncate_dim)`.

    Raises:
        ValueError: there is no text; or one is not a string, has no token, or has a token that the model does
            not know; or its embedding is not finite. The message gives its index. Or `truncate_dim` is no
            whole number from 1 to the width of embeddings.

    Example:

    ```python
    >>> from transformers import AutoModel, AutoProcessor
    >>> from modeling_altclip import embed_texts

    >>> model = AutoModel.from_pretrained("outputs/miniature/altclip")
    >>> processor = AutoProcessor.from_pretrained("outputs/miniature/altclip")
    >>> embed_texts(model, processor, ["a dog", "一只狗"]).shape
    torch.Size([2, 128])
    ```
    """
    truncation = Truncation(model.config, truncate_dim)

    def forward(**inputs) -> torch.Tensor:
        return truncation(model.get_text_features(**inputs).pooler_output)

    embeddings = encode_texts(
        model,
        processor.tokenizer,
        texts,
        forward,
        batch_size=batch_size,
        show_progress=show_progress,
        accelerator=accelerator,
    )
    _check_embeddings(embeddings, "texts", range(len(embeddings)))
    if normalize_embeddings:
        embeddings = normalize(embeddings, dim=-1)
    return embeddings.numpy() if convert_to_numpy else embeddings


def _check_embeddings(embeddings: torch.Tensor, what: str, names: Sequence[int | str]) -> None:
    """Refuse embeddings `(items, dim)` that answer every question with NaN.

    Raises:
        ValueError: a value is NaN or infinite; the message names the first item.
    """
    is_finite = embeddings.isfinite().all(dim=1)
    if not is_finite.all():
        first = is_finite.long().argmin().item()
        raise ValueError(
            f"the embedding of {what}[{names[first]!r}] is not finite: the model diverged, or half precision "
            "overflowed. Take an earlier checkpoint, or load the model in float32"
        )


def embed_images(  # noqa: PLR0913  (keyword options that users set one by one)
    model: PreTrainedModel,
    processor: ProcessorMixin,
    images: Iterable | str | Path,
    *,
    batch_size: int = 256,
    show_progress: bool = False,
    convert_to_numpy: bool = False,
    normalize_embeddings: bool = True,
    truncate_dim: int | None = None,
    accelerator: "Accelerator | None" = None,
    return_names: bool = False,
    errors: str | None = None,
) -> torch.Tensor | np.ndarray | ImageEmbeddings:
    """Embed `images`, which may be anything that `AltCLIPProcessor` reads, batch by batch.

    Transparent images are composited on the image processor's background.

    Args:
        images: a list, a `datasets` column or any iterable; or a folder or a glob such as `photos/**/*.jpg`,
            whose images are taken in the order of their names (see `find_images`).
        batch_size: the most images of a batch; on a CPU it is 16 at most.
        normalize_embeddings, truncate_dim, accelerator: as for `embed_texts`.
        return_names: return an `ImageEmbeddings`: embeddings, and file names below the folder, or indices.
        errors: "raise" refuses an image that cannot be read; "skip" leaves it out, and returns an
            `ImageEmbeddings` that lists it. By default it is refused in a list, and skipped with a warning in
            a folder.

    Returns:
        Embeddings in the order of the input, float32 on the CPU, `(images, projection_dim)` or
        `(images, truncate_dim)`, or an `ImageEmbeddings`.

    Raises:
        ValueError: there is no image, or one cannot be read, or none can, or an embedding is not finite; the
            message gives index or name. Or `batch_size` is no whole number from 1, or `truncate_dim` none
            from 1 to the width of embeddings.

    Example:

    ```python
    >>> from transformers import AutoModel, AutoProcessor
    >>> from modeling_altclip import embed_images

    >>> model = AutoModel.from_pretrained("outputs/miniature/altclip")
    >>> processor = AutoProcessor.from_pretrained("outputs/miniature/altclip")
    >>> embed_images(model, processor, ["outputs/miniature/altclip/example.png"]).shape
    torch.Size([1, 128])
    ```
    """
    truncation = Truncation(model.config, truncate_dim)

    def forward(**inputs) -> torch.Tensor:
        return truncation(model.get_image_features(**inputs).pooler_output)

    loop = _Loop(batch_size, show_progress, accelerator)
    embedded = _embed_images(
        model, processor.image_processor, images, forward, errors, normalize_embeddings, loop
    )
    if embedded.skipped and errors is None:
        n_images = len(embedded.names) + len(embedded.skipped)
        warnings.warn(f"{_summary_of(embedded.skipped, n_images)}. errors='skip' lists them", stacklevel=2)
    if convert_to_numpy:
        embedded = embedded._replace(embeddings=embedded.embeddings.numpy())
    return embedded if return_names or errors == "skip" else embedded.embeddings


@dataclass
class _Loop:
    """How `embed_images` goes through its images."""

    batch_size: int
    show_progress: bool
    accelerator: "Accelerator | None"


def _embed_images(
    model: PreTrainedModel,
    image_processor: Callable,
    images: Iterable | str | Path,
    forward: Callable[..., torch.Tensor],
    errors: str | None,
    normalize_embeddings: bool,
    loop: _Loop,
) -> ImageEmbeddings:
    """Embed images as `embed_images` does, without its warning."""
    if errors not in (None, "raise", "skip"):
        raise ValueError(f"errors is {errors!r}: choose 'raise' or 'skip'")
    _check_batch_size(loop.batch_size)
    batch_size = min(loop.batch_size, _IMAGES_ON_CPU) if _is_on_cpu(model) else loop.batch_size
    files = list(find_images(images).items()) if isinstance(images, str | Path) else None
    refuses = errors == "raise" or (errors is None and files is None)
    reasons = None if refuses else {}  # {name: reason} of skipped images
    encode = _image_encoder(model, image_processor, forward, reasons)

    n_processes = 1 if loop.accelerator is None else loop.accelerator.num_processes
    names = []
    windows = []
    with _encoding(model, "images", images if files is None else files, loop.show_progress) as bar:
        for window in _named_windows(images, files, batch_size * n_processes):
            names += [name for name, _ in window]
            in_batches = partial(_by_number, batch_size=batch_size)
            windows.append(_encode_shared(window, encode, in_batches, loop.accelerator, bar))
    embeddings = torch.cat(windows)

    _check_embeddings(embeddings, "images", names)
    if normalize_embeddings:
        embeddings = normalize(embeddings, dim=-1)
    return _leave_out(embeddings, names, _gather_reasons(reasons or {}, n_processes))


def _image_encoder(
    model: PreTrainedModel,
    image_processor: Callable,
    forward: Callable[..., torch.Tensor],
    reasons: dict[int | str, str] | None,
) -> Callable[[list[tuple]], torch.Tensor]:
    """Return a function that encodes a batch of `(name, image)` to embeddings `(batch, dim)`.

    Args:
        reasons: gets `{name: reason}` of images that cannot be read; None refuses them.
    """
    background = background_of(image_processor)

    def encode(batch: list[tuple]) -> torch.Tensor:
        names, images = zip(*batch)
        needed = needed_scaling(image_processor, images, names)
        prepared = []
        for group in read_groups(images, names, background=background, skipped=reasons):
            prepared.append(image_processor(images=group, return_tensors="pt", **needed))
        inputs = join_batches(prepared)
        return forward(**inputs.to(model.device, model.dtype))

    return encode


def _named_windows(
    images: Iterable, files: list[tuple[str, str]] | None, size: int
) -> Iterator[list[tuple[int | str, object]]]:
    """Yield windows of `(name, image)`: the file's name and path, or the index and the image."""
    if files is not None:
        for _, window in _in_windows(files, size, "images"):
            yield window
    else:
        for start, window in _in_windows(_one_by_one(images), size, "images"):
            yield list(enumerate(window, start))


def _leave_out(embeddings: torch.Tensor, names: list, reasons: dict[int | str, str]) -> ImageEmbeddings:
    """Drop the embeddings of images that cannot be read, and list these images with their reasons.

    Args:
        embeddings: of all images `(images, dim)`; a skipped image has that of a placeholder.

    Raises:
        ValueError: no image can be read.
    """
    if not reasons:
        return ImageEmbeddings(embeddings, names, [])

    skipped = []
    kept_names = []
    for index, name in enumerate(names):
        if name in reasons:
            skipped.append(SkippedImage(index, name, reasons[name]))
        else:
            kept_names.append(name)
    if not kept_names:
        raise ValueError(_summary_of(skipped, len(names)))

    is_kept = torch.tensor([name not in reasons for name in names])
    return ImageEmbeddings(embeddings[is_kept], kept_names, skipped)


def _summary_of(skipped: list[SkippedImage], n_images: int) -> str:
    """Say how many images were skipped, and why the first of them was."""
    first = skipped[0]
    return f"{len(skipped)} of {n_images} images cannot be read, images[{first.name!r}] first: {first.reason}"


def _gather_reasons(reasons: dict[int | str, str], n_processes: int) -> dict[int | str, str]:
    """Collect the reasons of all processes, each of which has read its own share of the images."""
    if n_processes == 1:
        return reasons
    from accelerate.utils import gather_object

    return dict(gather_object(list(reasons.items())))


def _one_by_one(images: Iterable) -> Iterable:
    """Return the images, with the error in place of one that a sequence cannot decode.

    A column of `datasets` decodes an image when it is indexed. An iteration would end with the first error.
    """
    if isinstance(images, list | tuple) or not isinstance(images, Sequence):
        return images

    def items() -> Iterator:
        for index in range(len(images)):
            try:
                yield images[index]
            except Exception as error:
                yield error

    return items()


def encode_images(
    model: PreTrainedModel,
    image_processor: Callable,
    images: Iterable,
    forward: Callable[..., torch.Tensor],
    *,
    batch_size: int = 256,
) -> torch.Tensor:
    """Encode images with any `forward(pixel_values=...) -> (batch, dim)`.

    Args:
        model: the model that `forward` runs; it is in eval mode meanwhile.

    Returns:
        What `forward` returns, float32 on the CPU, `(images, dim)`. See `embed_images` for the rest.
    """
    loop = _Loop(batch_size, show_progress=False, accelerator=None)
    embedded = _embed_images(
        model, image_processor, images, forward, errors="raise", normalize_embeddings=False, loop=loop
    )
    return embedded.embeddings


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
    """Encode texts with any `forward(input_ids=..., attention_mask=...) -> (batch, dim)`.

    Args:
        model: the model that `forward` runs; it is in eval mode meanwhile.
        tokenizer_kwargs: override how texts are padded and truncated.

    Returns:
        Embeddings `(len(texts), dim)`, float32 on the CPU. See `embed_texts` for the rest.
    """
    options = text_options(tokenizer, model) | tokenizer_kwargs
    is_canonical = text_reading(model).is_canonical
    n_characters = longest_cut(tokenizer, options) if is_canonical else None
    n_tokens = readable_tokens(model)
    n_ids = vocabulary_size(model)

    _check_batch_size(batch_size)
    most_tokens = _TOKENS_ON_CPU if _is_on_cpu(model) else math.inf

    def as_read(texts: list[str]) -> list[str]:
        return [canonicalize(text[:n_characters]) for text in texts] if is_canonical else texts

    def encode(batch: list[str], index_of: dict[str, int]) -> torch.Tensor:
        names = [f"texts[{index_of[text]}]" for text in batch]
        inputs = tokenize(tokenizer, as_read(batch), return_tensors="pt", **options)
        check_tokens(inputs, names, n_tokens, n_ids)
        return forward(**inputs.to(model.device))

    windows = []
    with _encoding(model, "texts", texts, show_progress) as bar:
        for start, window in _in_windows(texts, batch_size * _WINDOW, "texts"):
            check_texts(window, "texts", start)

            # Deduplicate, and sort by tokens: texts of one batch need little padding (length bucketing).
            # window ["a dog", "cat", "a dog"] -> distinct ["cat", "a dog"] -> rows [1, 0, 1]
            index_of = _first_indices(window, start)
            lengths = dict(zip(index_of, count_tokens(tokenizer, as_read(list(index_of)), options)))
            distinct = sorted(index_of, key=lambda text: (lengths[text], text))
            row_of = {text: row for row, text in enumerate(distinct)}
            rows = torch.tensor([row_of[text] for text in window])

            encode_batch = partial(encode, index_of=index_of)
            in_batches = partial(_by_tokens, lengths=lengths, batch_size=batch_size, most_tokens=most_tokens)
            embeddings = _encode_shared(distinct, encode_batch, in_batches, accelerator, bar)
            windows.append(embeddings[rows])
            bar.update(len(window) - len(distinct))
    return torch.cat(windows)


def _is_on_cpu(model: PreTrainedModel) -> bool:
    return model.device.type == "cpu"


def _check_batch_size(batch_size: int) -> None:
    """Refuse a number of items that no batch has.

    Raises:
        ValueError: it is no whole number from 1.
    """
    if not isinstance(batch_size, Integral) or batch_size < 1:
        raise ValueError(f"batch_size is {batch_size!r}: give a whole number from 1")


def _first_indices(texts: list[str], start: int) -> dict[str, int]:
    """Map each text to the index of its first occurrence, where `texts[0]` has the index `start`."""
    index_of = {}
    for index, text in enumerate(texts, start):
        index_of.setdefault(text, index)
    return index_of


def mean_of_prompts(embeddings: torch.Tensor, n_labels: int) -> torch.Tensor:
    """Average the normalised embeddings of each label's prompts and normalise the mean (CLIP, section 3.1.4).

    Args:
        embeddings: of all prompts `(labels x prompts, dim)`, grouped by label.

    Returns:
        One unit embedding for each label `(labels, dim)`.
    """
    by_label = normalize(embeddings, dim=-1).view(n_labels, -1, embeddings.shape[-1])
    return normalize(by_label.mean(dim=1), dim=-1)


@contextmanager
def _encoding(model: PreTrainedModel, unit: str, items: Iterable, show_progress: bool) -> Iterator[tqdm]:
    """Enter eval mode without gradients, with a progress bar; restore each module's mode afterwards.

    Raises:
        ValueError: `items` is one item, not several, or no item at all.
    """
    if not isinstance(items, Iterable) and not isinstance(items, Image.Image):
        raise ValueError(f"{unit} is {items!r}: give a list of {unit}")
    is_single_array = isinstance(items, np.ndarray | torch.Tensor) and items.ndim < 4
    if isinstance(items, str | Image.Image) or (is_single_array and unit == "images"):
        raise ValueError(f"{unit} is a single {type(items).__name__}: put it into a list")
    total = len(items) if isinstance(items, Sized) else None
    progress = tqdm(total=total, desc=f"Embedding {unit}", unit=unit[:-1], disable=not show_progress)
    with _eval_mode(model), torch.inference_mode(), progress as bar:
        yield bar


@contextmanager
def _eval_mode(model: PreTrainedModel) -> Iterator[None]:
    """Keep `model` in eval mode while any thread is in here; the last one restores each module's mode."""
    with _SWITCHING_MODES:
        n_threads, modes = _IN_EVAL_MODE.get(id(model), (0, []))
        if n_threads == 0:
            modes = [(module, module.training) for module in model.modules()]
            model.eval()
        _IN_EVAL_MODE[id(model)] = n_threads + 1, modes
    try:
        yield
    finally:
        with _SWITCHING_MODES:
            n_threads, modes = _IN_EVAL_MODE.pop(id(model))
            if n_threads > 1:
                _IN_EVAL_MODE[id(model)] = n_threads - 1, modes
            else:
                # Not `model.train()`: a frozen tower may have been in eval mode beside one that trains.
                for module, training in modes:
                    module.training = training


def _in_windows(items: Iterable, size: int, name: str) -> Iterator[tuple[int, list]]:
    """Yield `(index of the first item, items)`: a list as a whole, an iterable `size` items at a time.

    Raises:
        ValueError: there is no item.
    """
    if isinstance(items, list | tuple) and items:
        yield 0, list(items)
        return

    iterator = iter(items)
    start = 0
    while window := list(islice(iterator, size)):
        yield start, window
        start += len(window)
    if start == 0:
        raise ValueError(f"there are no {name} to embed: the list is empty")


def _by_number(items: list, batch_size: int) -> Iterator[list]:
    """Yield `batch_size` items at a time."""
    for start in range(0, len(items), batch_size):
        yield items[start : start + batch_size]


def _by_tokens(
    texts: list[str], lengths: dict[str, int], batch_size: int, most_tokens: float
) -> Iterator[list[str]]:
    """Yield batches of texts that have `most_tokens` at most when they are padded, or a single text.

    Args:
        texts: the shortest first.
        lengths: the number of tokens of each.
        batch_size: the most texts of a batch.
    """
    batch = []
    for text in texts:
        # The text is the longest of the batch so far: all others would be padded to its length.
        n_padded = lengths[text] * (len(batch) + 1)
        if batch and (n_padded > most_tokens or len(batch) == batch_size):
            yield batch
            batch = []
        batch.append(text)
    yield batch


def _encode_shared(
    items: list,
    encode: Callable[[list], torch.Tensor],
    in_batches: Callable[[list], Iterator[list]],
    accelerator: "Accelerator | None",
    bar: tqdm,
) -> torch.Tensor:
    """Encode items in batches, shared between processes; each returns the embeddings of all, in order.

    Args:
        encode: encodes a batch, one row `(dim,)` for each of its items.
        in_batches: takes the items of a process apart, in order.
    """
    rank = 0
    n_processes = 1
    if accelerator is not None:
        rank = accelerator.process_index
        n_processes = accelerator.num_processes

    # Each process takes every n-th item. Gathering needs equal shares: a short one gets the last item too.
    # 5 items, 2 processes -> shares [0 2 4] and [1 3 4]
    n_rows = math.ceil(len(items) / n_processes)
    share = (items[rank::n_processes] + items[-1:])[:n_rows]

    # All processes cut their shares where the last process has to, since a sharded model has to run equally
    # often in each.
    of_last = (items[n_processes - 1 :: n_processes] + items[-1:])[:n_rows]
    encoded = []
    n_left = len(items)
    start = 0
    for batch in in_batches(of_last):
        encoded.append(encode(share[start : start + len(batch)]).float().cpu())
        start += len(batch)
        n_done = min(n_processes * len(batch), n_left)
        bar.update(n_done)
        n_left -= n_done
    embeddings = torch.cat(encoded)
    if n_processes == 1:
        return embeddings

    # Restore the order of the items:
    # [0 2 4 1 3 4] -> by process [[0 2 4], [1 3 4]] -> transposed [0 1 2 3 4 4] -> [0 1 2 3 4]
    gathered = accelerator.gather(embeddings.to(accelerator.device)).cpu()
    by_process = gathered.view(n_processes, n_rows, -1)
    return by_process.transpose(0, 1).flatten(0, 1)[: len(items)]


__all__ = ["ImageEmbeddings", "SkippedImage", "embed_images", "embed_texts"]
