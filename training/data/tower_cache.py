"""Run a frozen tower once: its embeddings of a dataset are cached on disk.

Every later epoch, run and process reads them from there. `common.embedding_cache` writes the files.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from accelerate import PartialState
from datasets import Dataset
from PIL.Image import Image as PillowImage
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from common.embedding_cache import CachedColumn, cached_column
from common.errors import InputError
from common.fingerprints import prepared_images, settings, written
from modeling_altclip import AltCLIPDualEncoderConfig, embed_images
from modeling_altclip.embedding import encode_images, encode_texts

from ..teachers import BEFORE_PROJECTION, Space
from .examples import (
    CaptionExamples,
    TextOfExamples,
    caption_columns,
    caption_slices,
    has_text,
    split_lists,
)
from .images import SMALLEST_AREA, ImageViews

# Number of images decoded at a time: one by one took twice as long at 32 pixels, a whole part of the cache
# would take gigabytes.
_DECODED = 64


def teacher_embeddings(
    rows: Dataset,
    teacher: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    language: str = "en",
    *,
    space: Space = BEFORE_PROJECTION,
    cache_dir: str | None = None,
    dtype: str = "float32",
) -> CachedColumn:
    """Embed each row's caption in a language by the teacher, as the column `target`.

    Each distinct text is encoded and cached once. In a language other than English a row may lack its
    caption; it then gets the embedding of an empty text, which no example reads. See `cached_column` for the
    rest.

    Args:
        language: the one that the teacher reads: English, or any that a finished model knows.
        space: the one that the student learns in; see `training.teachers`.

    Raises:
        InputError: the rows have no captions in the language; a row has no English caption, which all
            examples of its other languages learn from; the teacher gives different texts one embedding; or
            as `cached_column`.

    Example:

    ```python
    >>> from datasets import load_dataset
    >>> from benchmarks import load_model
    >>> from training import teacher_embeddings
    >>> teacher, processor = load_model("outputs/miniature/teacher")
    >>> rows = load_dataset("outputs/miniature/dataset", split="validation")
    >>> teacher_embeddings(rows, teacher, processor.tokenizer)[[0, 1]]["target"].shape
    (2, 128)
    ```
    """
    if language not in rows.features["captions"]:
        raise InputError(
            f"captions have no {language!r} for the teacher to read: they have "
            f"{' '.join(rows.features['captions'])}"
        )
    n_missing = _count_missing(rows, language)
    if n_missing and language == "en":
        raise InputError(
            f"{n_missing} of {len(rows)} rows have no English caption for the teacher to read: filter them "
            "out of the dataset"
        )
    texts = TextOfRows(rows, language)
    forward = partial(space.of_teacher, teacher)

    def encode(rows: np.ndarray, view: int) -> torch.Tensor:
        embeddings = encode_texts(teacher, tokenizer, texts.take(rows).to_pylist(), forward)
        check_distinct(embeddings)
        return embeddings

    # Other weights, another configuration or tokenizer: each of these makes the cache anew.
    made_by = space.made_by(teacher) | {"tokenizer": written(tokenizer)}
    with on_device(teacher):
        return cached_column("target", "text", texts, encode, made_by, cache_dir=cache_dir, dtype=dtype)


def _count_missing(rows: Dataset, language: str) -> int:
    """Count the rows without a caption in a language.

    Raises:
        InputError: a row has several.
    """
    n_missing = 0
    for captions in caption_slices(rows):
        texts, *others = split_lists(captions[language])
        if others:
            raise InputError(
                f"a row has several captions in {language!r}, of which the teacher reads one: give one per "
                "row"
            )
        n_missing += len(texts) - int(has_text(texts).sum())
    return n_missing


class TextOfRows:
    """The caption of each row in a language, read as it is needed; "" where a row has none.

    It is the `RowKeys` of the cache.
    """

    def __init__(self, rows: Dataset, language: str):
        self._rows = rows.select_columns(["captions"])
        self._language = language

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, rows: np.ndarray) -> pa.Array:
        return self._first_texts(caption_columns(self._rows.select(rows)))

    def slices(self) -> Iterator[pa.Array]:
        return map(self._first_texts, caption_slices(self._rows))

    def _first_texts(self, captions: dict[str, pa.Array]) -> pa.Array:
        return pc.fill_null(split_lists(captions[self._language])[0], "")


def check_distinct(embeddings: torch.Tensor) -> None:
    """Check that embeddings `(texts, dim)` of different texts are not all equal: nothing could be learned.

    Raises:
        InputError: they are.
    """
    if len(embeddings) > 1 and (embeddings == embeddings[0]).all():
        raise InputError(
            f"the teacher gives {len(embeddings)} texts one embedding: its tokenizer is that of another "
            "model, or its "
            "text tower pools a token that all texts begin with"
        )


def image_embeddings(
    views: ImageViews,
    model: PreTrainedModel,
    processor: ProcessorMixin,
    *,
    cache_dir: str | None = None,
    dtype: str = "float32",
) -> CachedColumn:
    """Embed each row's image in all its views, as the column `image_embeds`.

    The embeddings are projected and of unit length. Images of equal bytes are encoded once. See
    `cached_column` for the rest.

    Example:

    ```python
    >>> from datasets import load_dataset
    >>> from benchmarks import load_model
    >>> from training import ImageViews, image_embeddings

    >>> model, processor = load_model("outputs/miniature/altclip")
    >>> rows = load_dataset("outputs/miniature/dataset", split="validation")
    >>> column = image_embeddings(ImageViews(rows, n_views=1), model, processor)
    >>> column[[0, 1]]["image_embeds"].shape
    (2, 128)
    ```
    """

    def encode(images: Iterator[PillowImage]) -> torch.Tensor:
        return embed_images(model, processor, images)

    made_by = {
        "weights": model.vision_model,
        # SigLIP's image tower ends in the shared space.
        "projection": dict(model.named_children()).get("visual_projection", nn.Identity()),
        "configuration": _configuration(model, "vision"),
        "preparation": _preparation(views, model, processor),
    }
    with on_device(model):
        return _cached_views("image_embeds", views, encode, made_by, cache_dir, dtype)


def pooled_images(
    views: ImageViews,
    model: PreTrainedModel,
    processor: ProcessorMixin,
    *,
    cache_dir: str | None = None,
    dtype: str = "float32",
) -> CachedColumn:
    """Embed each row's image in all its views by the tower alone, as the column `image_pooler_output`.

    The embeddings are the tower's pooled output `(rows, width)`, before the projection, which may learn.
    Images of equal bytes are encoded once. See `cached_column` for the rest.

    Example:

    ```python
    >>> from datasets import load_dataset
    >>> from benchmarks import load_model
    >>> from training import ImageViews, pooled_images

    >>> model, processor = load_model("outputs/miniature/altclip")
    >>> rows = load_dataset("outputs/miniature/dataset", split="validation")
    >>> column = pooled_images(ImageViews(rows, n_views=1), model, processor)
    >>> column[[0, 1]]["image_pooler_output"].shape
    (2, 128)
    ```
    """

    def forward(**inputs) -> torch.Tensor:
        return model.vision_model(**inputs).pooler_output

    def encode(images: Iterator[PillowImage]) -> torch.Tensor:
        return encode_images(model, processor.image_processor, images, forward)

    made_by = {
        "weights": model.vision_model,
        "configuration": _configuration(model, "vision"),
        "preparation": _preparation(views, model, processor),
    }
    with on_device(model):
        return _cached_views("image_pooler_output", views, encode, made_by, cache_dir, dtype)


def _preparation(views: ImageViews, model: PreTrainedModel, processor: ProcessorMixin) -> str:
    """Describe what becomes of images before the tower sees them."""
    crops = f", crops of {SMALLEST_AREA}" if views.n_views > 1 else ""
    return prepared_images(model, processor) + crops


def _cached_views(
    name: str,
    views: ImageViews,
    encode: Callable[[Iterator[PillowImage]], torch.Tensor],
    made_by: dict[str, nn.Module | str],
    cache_dir: str | None,
    dtype: str,
) -> CachedColumn:
    """Cache what `encode` makes of all views of each distinct image."""

    def read_images(rows: np.ndarray) -> Iterator[PillowImage]:
        for start in range(0, len(rows), _DECODED):
            yield from views[rows[start : start + _DECODED].tolist()]["image"]

    def encode_view(rows: np.ndarray, view: int) -> torch.Tensor:
        views.set_epoch(view)
        return encode(read_images(rows))

    digests = pa.array(views.digests, pa.large_string())
    return cached_column(
        name,
        "image",
        digests,
        encode_view,
        made_by,
        cache_dir=cache_dir,
        dtype=dtype,
        n_views=views.n_views,
    )


def pooled_texts(  # noqa: PLR0913  (the cache's options, by keyword)
    examples: CaptionExamples,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    *,
    cache_dir: str | None = None,
    dtype: str = "float32",
) -> CachedColumn:
    """Embed the text of each example by the tower alone, as the column `text_pooler_output`.

    The embeddings are the tower's pooled output `(examples, width)`, before the projection, which may learn.
    Each distinct text is encoded and cached once, in whatever languages it stands. See `cached_column` for
    the rest.

    Args:
        max_length: number of tokens at which texts are truncated.

    Example:

    ```python
    >>> from datasets import load_dataset
    >>> from benchmarks import load_model
    >>> from training import CaptionExamples, pooled_texts

    >>> model, processor = load_model("outputs/miniature/altclip")
    >>> rows = load_dataset("outputs/miniature/dataset", split="validation")
    >>> examples = CaptionExamples(rows, ["en", "zh"], "image")
    >>> column = pooled_texts(examples, model, processor.tokenizer, max_length=77)
    >>> column[[0, 1]]["text_pooler_output"].shape
    (2, 128)
    ```
    """
    texts = TextOfExamples(examples)

    def forward(**inputs) -> torch.Tensor:
        return model.text_model(**inputs).pooler_output

    def encode(rows: np.ndarray, view: int) -> torch.Tensor:
        return encode_texts(model, tokenizer, texts.take(rows).to_pylist(), forward, max_length=max_length)

    made_by = {
        "weights": model.text_model,
        "configuration": _configuration(model, "text"),
        "tokenizer": written(tokenizer),
        "length": str(max_length),
    }
    with on_device(model):
        return cached_column(
            "text_pooler_output", "text", texts, encode, made_by, cache_dir=cache_dir, dtype=dtype
        )


def _configuration(model: PreTrainedModel, side: str) -> str:
    """Describe the tower of a side, `text` or `vision`; in a dual encoder another part says how it pools."""
    configuration = settings(model.get_submodule(f"{side}_model"))
    if not isinstance(model.config, AltCLIPDualEncoderConfig):
        return configuration
    pooling = getattr(model.config, f"{side}_pooling")
    return f"{configuration} pooled by {pooling}"


@contextmanager
def on_device(model: PreTrainedModel) -> Iterator[None]:
    """Move a model to this process's device, and afterwards back to where it was."""
    home = model.device
    model.to(PartialState().device)
    try:
        yield
    finally:
        model.to(home)


__all__ = ["TextOfRows", "image_embeddings", "pooled_images", "pooled_texts", "teacher_embeddings"]
