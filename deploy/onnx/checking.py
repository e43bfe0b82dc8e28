"""Compare an exported folder with the model that it was made of, on a few texts and images."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from transformers import ProcessorMixin

from common.errors import InputError
from modeling_altclip import AltCLIPModel, embed_images, embed_texts
from modeling_altclip.images_altclip import background_of, read_images
from modeling_altclip.texts_altclip import text_options, tokenize

from .examples import draw_picture
from .runtime import OnnxAltCLIP, load_preparation, load_tokenizer

# Of unit embeddings and of pixel values.
_TOLERANCE = 1e-5
# Of several scripts and lengths, one of them longer than any model reads.
_TEXTS = [
    "a photo of a dog",
    "一张狗的照片。",
    "Две собаки играют в парке",
    "صورة كلب",
    "A",
    "the quick brown fox jumps over the lazy dog " * 60,
]


def check_inputs(folder: Path, record: dict, model: AltCLIPModel, processor: ProcessorMixin) -> None:
    """See that the files of a folder make the tokens and pixels of the processor, before graphs are traced.

    Args:
        record: what `begin_record` returns.

    Raises:
        InputError: they do not.
    """
    options = text_options(processor.tokenizer, model) | {"padding": False}
    expected_ids = tokenize(processor.tokenizer, _TEXTS, **options)["input_ids"]
    encodings = load_tokenizer(folder, record).encode_batch(_TEXTS)
    if [encoding.ids for encoding in encodings] != expected_ids:
        raise InputError(
            f"tokenizer.json does not give the tokens of the {type(processor.tokenizer).__name__}: a "
            "tokenizer that does more than this file says cannot be exported"
        )

    images = _images()
    image_processor = processor.image_processor
    read = read_images(images, background=background_of(image_processor))
    expected = image_processor(images=read, return_tensors="np")["pixel_values"]
    pixels = load_preparation(folder)(images)
    if pixels.shape != expected.shape or np.abs(pixels - expected).max() > _TOLERANCE:
        raise InputError(
            f"a {type(image_processor).__name__} with these settings prepares images otherwise than by "
            "resizing, cropping and normalising: it cannot be exported"
        )


def compare(folder: Path, dtypes: Sequence[str], model: AltCLIPModel, processor: ProcessorMixin) -> dict:
    """Compare the float32 towers with torch, and the other formats with float32.

    Returns:
        What the record says of it: `largest_difference` of unit embeddings to torch's, and by format the
        `smallest_cosine` of an embedding with its own in float32.

    Raises:
        InputError: embeddings differ from torch's by more than `_TOLERANCE`.
    """
    images = _images()
    exported = OnnxAltCLIP.from_folder(folder)
    texts = exported.embed_texts(_TEXTS)
    pictures = exported.embed_images(images)
    differences = {
        "texts": np.abs(texts - embed_texts(model, processor, _TEXTS, convert_to_numpy=True)).max(),
        "images": np.abs(pictures - embed_images(model, processor, images, convert_to_numpy=True)).max(),
    }
    for name, difference in differences.items():
        if difference > _TOLERANCE:
            raise InputError(
                f"embeddings of {name} differ by {difference:.1e} between torch and onnxruntime, more than "
                f"{_TOLERANCE:.0e}: a tower of this kind cannot be exported"
            )

    cosines = {}
    for dtype in dtypes:
        other = OnnxAltCLIP.from_folder(folder, dtype=dtype)
        of_texts = (texts * other.embed_texts(_TEXTS)).sum(axis=1).min()
        of_images = (pictures * other.embed_images(images)).sum(axis=1).min()
        cosines[dtype] = {"texts": float(of_texts), "images": float(of_images)}
    return {
        "largest_difference": {name: float(value) for name, value in differences.items()},
        "smallest_cosine": cosines,
    }


def _images() -> list[Image.Image]:
    """Draw images of several shapes, one of them grey and one of them transparent."""
    drawn = [draw_picture(*size) for size in ((40, 30), (300, 200), (31, 77), (500, 520))]
    transparent = drawn[1].copy()
    transparent.putalpha(drawn[1].convert("L"))
    return [*drawn, drawn[2].convert("L"), transparent]


__all__ = ["check_inputs", "compare"]
