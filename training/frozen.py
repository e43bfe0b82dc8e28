"""A frozen tower is run once: what it makes of a dataset is kept on disk and read by every later epoch, run
and process.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from accelerate import PartialState
from datasets import Dataset
from transformers import CLIPModel, PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from benchmarks.column_cache import CachedColumn, cached_column
from benchmarks.encoder import prepared_images, settings, written
from benchmarks.recipe import InputError
from modeling_altclip import AltCLIPModel, embed_images
from modeling_altclip.embedding import encode_texts

from .data import caption_columns, has_text
from .views import SMALLEST_AREA, ImageViews

DECODED = (
    64  # images at a time: one by one took twice as long at 32 pixels, a whole part would take gigabytes
)


def teacher_vectors(
    rows: Dataset,
    teacher: CLIPModel | AltCLIPModel,
    tokenizer: PreTrainedTokenizerBase,
    language: str = "en",
    *,
    cache_dir: str | None = None,
    dtype: str = "float32",
) -> CachedColumn:
    """Embed each row's caption in a language by the teacher, as the column `target`.

    An embedding is the pooled output of the text tower, before its projection (paper 3.1). Each distinct text
    is encoded and cached once. In a language other than English a row may lack its caption; it then gets the
    embedding of an empty text, which no example reads. See `cached_column` for the rest.

    Args:
        language: that the teacher reads: English, or any that a finished AltCLIP knows.

    Raises:
        InputError: a row has no English caption, which all cells of its other languages learn from; the
            teacher gives different texts one vector; or as `cached_column`.

    Example:

    ```python
    >>> from datasets import load_dataset
    >>> from benchmarks import load_model
    >>> from training import teacher_vectors
    >>> teacher, processor = load_model("outputs/miniature/teacher")
    >>> rows = load_dataset("outputs/miniature/dataset", split="validation")
    >>> teacher_vectors(rows, teacher, processor.tokenizer)[[0, 1]]["target"].shape
    (2, 128)
    ```
    """
    if language not in rows.features["captions"]:
        raise InputError(
            f"captions have no {language!r} for the teacher to read: they have "
            f"{' '.join(rows.features['captions'])}"
        )
    texts = caption_columns(rows).field(language)
    n_missing = len(rows) - has_text(texts).sum()
    if n_missing and language == "en":
        raise InputError(
            f"{n_missing} of {len(rows)} rows have no English caption for the teacher to read: filter them "
            "out of the dataset"
        )
    texts = pc.fill_null(texts, "")

    def forward(**inputs) -> torch.Tensor:
        return teacher.text_model(**inputs).pooler_output

    def encode(rows: np.ndarray, view: int) -> torch.Tensor:
        vectors = encode_texts(teacher, tokenizer, texts.take(pa.array(rows)).to_pylist(), forward)
        check_distinct(vectors)
        return vectors

    tower = teacher.text_model
    made_by = {"weights": tower, "configuration": settings(tower), "tokenizer": written(tokenizer)}
    with on_device(teacher):
        return cached_column("target", "text", texts, encode, made_by, cache_dir=cache_dir, dtype=dtype)


def check_distinct(vectors: torch.Tensor) -> None:
    """Refuse vectors `(texts, dim)` of different texts that are all one: a teacher of these teaches nothing,
    by any loss.

    Raises:
        InputError: they are.
    """
    if len(vectors) > 1 and (vectors == vectors[0]).all():
        raise InputError(
            f"the teacher gives {len(vectors)} different texts one vector: its tokenizer is that of another "
            "model, or its "
            "text tower pools a token that all texts begin with"
        )


def image_vectors(
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
    >>> from training import ImageViews, image_vectors

    >>> model, processor = load_model("outputs/miniature/altclip")
    >>> rows = load_dataset("outputs/miniature/dataset", split="validation")
    >>> column = image_vectors(ImageViews(rows, n_views=1), model, processor)
    >>> column[[0, 1]]["image_embeds"].shape
    (2, 128)
    ```
    """

    def encode(rows: np.ndarray, view: int) -> torch.Tensor:
        views.set_epoch(view)
        chunks = (rows[start : start + DECODED].tolist() for start in range(0, len(rows), DECODED))
        return embed_images(model, processor, (image for chunk in chunks for image in views[chunk]["image"]))

    crops = f", crops of {SMALLEST_AREA}" if views.n_views > 1 else ""
    prepared = prepared_images(model, processor) + crops
    tower, projection = model.vision_model, model.visual_projection
    made_by = {
        "weights": tower,
        "projection": projection,
        "configuration": settings(tower),
        "preparation": prepared,
    }
    digests = pa.array(views.digests, pa.large_string())
    with on_device(model):
        return cached_column(
            "image_embeds",
            "image",
            digests,
            encode,
            made_by,
            cache_dir=cache_dir,
            dtype=dtype,
            n_views=views.n_views,
        )


@contextmanager
def on_device(model: PreTrainedModel) -> Iterator[None]:
    """The model on this process's device meanwhile."""
    home = model.device
    model.to(PartialState().device)
    try:
        yield
    finally:
        model.to(home)


__all__ = ["image_vectors", "teacher_vectors"]
