"""Inputs by which `int8` finds outliers of a model's activations: those of a validation set, or our own."""

from itertools import cycle
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.retrieval import texts_of
from common.errors import InputError

from .gate import Validation
from .runtime import load_preparation, load_tokenizer

_ROWS = 64  # of a validation set
# None of those on which formats are compared afterwards.
_TEXTS = [
    "a red apple on a wooden table",
    "Ein Hund läuft über die Wiese.",
    "Un gato negro duerme en la silla.",
    "一只鸟站在树枝上",
    "قطة سوداء على الكرسي",
    "The quick brown fox jumps over the lazy dog near the river bank.",
    "きれいな花",
    "красная машина стоит у дома",
    "hello",
    "une maison bleue au bord de la mer",
    "두 사람이 거리를 걷고 있다",
    "2 + 2 = 4, isn't it?",
]
_SIZES = ((64, 64), (240, 180), (90, 250))  # of pictures


def examples_of(
    folder: Path, record: dict, validation: Validation | None
) -> dict[str, list[dict[str, np.ndarray]]]:
    """Prepare inputs for both towers by a folder's own files, one text or picture each.

    Args:
        folder: has the files of tokenizer and image processor.
        record: what `begin_record` returns.

    Returns:
        `{tower: inputs}`, as onnxruntime takes them.

    Raises:
        InputError: a picture of the validation set cannot be read.
    """
    if validation is None:
        texts, pictures = _TEXTS, [draw_picture(*size) for size in _SIZES]
    else:
        texts, pictures = _take(validation)
    tokenizer = load_tokenizer(folder, record)
    prepare = load_preparation(folder)
    of_texts = []
    for text in texts:
        input_ids = np.array([tokenizer.encode(text).ids])
        of_texts.append({"input_ids": input_ids, "attention_mask": np.ones_like(input_ids)})
    try:
        of_pictures = [{"pixel_values": prepare([picture])} for picture in pictures]
    except ValueError as error:
        raise InputError(f"validation_dataset: {error}") from error
    return {"text_model": of_texts, "vision_model": of_pictures}


def _take(validation: Validation) -> tuple[list[str], list[Image.Image]]:
    """Return the first pictures of a validation set, and the captions of each in one language, in turns."""
    texts = []
    pictures = []
    rows = validation.rows.select(range(min(_ROWS, len(validation.rows))))
    for row, language in zip(rows, cycle(validation.languages)):
        texts += texts_of(row["captions"][language])
        pictures.append(row["image"])
    return texts or _TEXTS, pictures


def draw_picture(width: int, height: int) -> Image.Image:
    """Draw a picture of gradients and a pattern, in RGB."""
    rows, columns = np.mgrid[0:height, 0:width]
    channels = [rows * 255 // height, columns * 255 // width, (rows * columns) % 256]
    return Image.fromarray(np.stack(channels, axis=2).astype(np.uint8))


__all__ = ["draw_picture", "examples_of"]
