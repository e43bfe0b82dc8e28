"""A frozen tower is run once: what it makes of a dataset becomes a column, kept on disk and read by every later epoch.

`datasets` keeps the column under a fingerprint of the rows and of the tower's weights. A second run reads it; a changed row
or weight makes a new one.
"""

from collections.abc import Callable

import numpy as np
from datasets import Dataset, Features, List, Value
from datasets.fingerprint import Hasher
from transformers import CLIPModel, PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from benchmarks.recipe import InputError
from modeling_altclip import embed_images
from modeling_altclip.embedding import encode_texts

from .data import caption_columns, has_text


def add_teacher_vectors(rows: Dataset, teacher: CLIPModel, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """Add `target`: the teacher's pooled end-of-text vector of each row's English caption, before its projection (paper 3.1).

    Raises:
        InputError: a row has no English caption, and the teacher reads nothing else.
    """
    if "en" not in rows.features["captions"]:
        raise InputError(f"captions have no English for the teacher to read: they have {' '.join(rows.features['captions'])}")
    n_missing = len(rows) - has_text(caption_columns(rows).field("en")).sum()
    if n_missing:
        raise InputError(f"{n_missing} of {len(rows)} rows have no English caption for the teacher to read: filter them out of the dataset")

    def forward(**inputs):
        return teacher.text_model(**inputs).pooler_output

    def encode(batch: dict) -> np.ndarray:
        return encode_texts(teacher, tokenizer, [caption["en"] for caption in batch["captions"]], forward).numpy()

    rows = rows.select_columns([column for column in ("captions", "weight") if column in rows.column_names])
    return _add_column(rows, "target", encode, teacher.text_model, tokenizer.backend_tokenizer.to_str())


def add_image_vectors(rows: Dataset, model: PreTrainedModel, processor: ProcessorMixin) -> Dataset:
    """Put `image_embeds`, the image tower's projected unit vectors, in the place of `image`."""

    def encode(batch: dict) -> np.ndarray:
        return embed_images(model, processor, batch["image"]).numpy()

    described = processor.image_processor.to_json_string()
    return _add_column(rows, "image_embeds", encode, model.vision_model, described, model.visual_projection).remove_columns("image")


def _add_column(rows: Dataset, column: str, encode: Callable, *made_by) -> Dataset:
    weights = [part if isinstance(part, str) else {name: value.numpy() for name, value in part.state_dict().items()} for part in made_by]
    return rows.map(
        lambda batch: {column: encode(batch)},
        batched=True,
        batch_size=8192,
        features=Features({**rows.features, column: List(Value("float32"))}),
        new_fingerprint=Hasher.hash([rows._fingerprint, column, weights]),
        desc=f"Encoding {column}",
    )
