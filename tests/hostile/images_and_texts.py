"""Images and texts that a caller gives."""

import base64
from functools import partial

import numpy as np
import torch
from PIL import Image

from common.models.loading import load_model
from modeling_altclip import embed_images

from ..test_bounds import EPS, header_of_png, jpeg_of, with_exif
from ..test_embedding import array, with_one
from .models import MODEL
from .place import Place, Row

UNREAD = "images[0] cannot be read: "


def rows(place: Place) -> list[Row]:
    return [*_texts(place), *_images(place), *_arrays(place)]


def _texts(place: Place) -> list[Row]:
    texts = {
        "a word of 10 MB": "x" * 10_000_000,
        "10 MB of spaces": " " * 10_000_000,
        "10 MB of unknown letters": "𓀀" * 10_000_000,
        "10 MB of words": "dog " * 2_500_000,
        "NUL": "a\0b",
    }
    rows = [Row(name, partial(place.processor, text=text), "input_ids") for name, text in texts.items()]
    return [*rows, Row("half of a character", partial(place.processor, text="\ud800"), "text[0] is")]


def _images(place: Place) -> list[Row]:
    folder = place.new_folder()
    files = {
        "photo.jpg": jpeg_of(4000, 3000),
        "large.jpg": jpeg_of(15_000, 10_000),
        "line.png": header_of_png(1, 400_000),
        "eps.jpg": EPS,
        "cut.jpg": jpeg_of(400, 300)[:2000],
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    Image.new("1", (13_000, 13_000)).save(folder / "bomb.png")
    bomb = base64.b64encode((folder / "bomb.png").read_bytes()).decode()

    images = {
        "PNG of 13,000 x 13,000": (str(folder / "bomb.png"), "more than 100,000,000"),
        "the same in base64": (bomb, "more than 100,000,000"),
        "PNG of 1 x 400,000": (str(folder / "line.png"), "one edge is more than 200 times"),
        "an EPS program called .jpg": (str(folder / "eps.jpg"), "EPS is a program"),
        "half of a JPEG": (str(folder / "cut.jpg"), "truncated"),
        "base64 of nothing": ("iVBORw0KGgo" * 50, ""),
        "/dev/zero": ("/dev/zero", ""),
        "EXIF of the wrong type": (with_exif([6]), ""),
    }
    rows = []
    for name, (image, expected) in images.items():
        rows.append(Row(name, partial(place.processor, images=image), expected or UNREAD))
    photos = [str(folder / "photo.jpg")] * 32
    large = partial(place.processor, images=str(folder / "large.jpg"))
    return [
        *rows,
        Row("JPEG of 150 megapixels", large, "pixel_values", is_long=True),
        Row(
            "32 photos of 12 megapixels",
            partial(place.processor, images=photos),
            "pixel_values",
            is_long=True,
        ),
    ]


def _arrays(place: Place) -> list[Row]:
    images = {
        "array of objects": np.empty((8, 8, 3), dtype=object),
        "tensor without values": torch.empty(3, 8, 8, device="meta"),
        "image of NaN": with_one(np.nan),
        "complex numbers": array(20, 20, 3) * 1j,
    }
    rows = [Row(name, partial(place.processor, images=image), UNREAD) for name, image in images.items()]
    model, processor = load_model(str(MODEL))
    embed = partial(embed_images, model, processor, [array(2, 20, 20, 3), array(2, 20, 20, 3)])
    return [
        *rows,
        Row("two arrays of 4 dimensions", embed, UNREAD),
        Row("floats of 100 megapixels", partial(_many_floats, place), "pixel_values", is_long=True),
    ]


def _many_floats(place: Place):
    return place.processor(images=np.zeros((10_000, 10_000, 3), dtype=np.float32))
