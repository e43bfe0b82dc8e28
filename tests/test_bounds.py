"""No input takes unbounded work: texts are cut before they are tokenized, images bounded before decoding."""

import base64
import io
import random
import re
import struct
import weakref
import zlib
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import EpsImagePlugin, Image
from transformers import BertTokenizer, CLIPImageProcessor

from benchmarks import encoder as encoder_module
from benchmarks.encoder import CachedEncoder, Encoder
from common.errors import InputError
from common.images import decode_image
from common.models.adapter import AdaptedTokenizer
from modeling_altclip import (
    AltCLIPModel,
    AltCLIPProcessor,
    AltCLIPZeroShotPipeline,
    embed_images,
    embed_texts,
    image_files_altclip,
    images_altclip,
)
from modeling_altclip.images_altclip import DeferredImage, read_image
from modeling_altclip.texts_altclip import cut_texts, tokenize
from training.data.examples import Collator
from training.data.images import read_picture
from training.miniature.scenes import read_concepts
from training.miniature.vocabulary import train_english_tokenizer, train_multilingual_tokenizer
from training.parallel.pretraining import MaskingCollator

MEGABYTES = 3_000_000  # characters
WORDS = "the quick brown fox jumps over a lazy dog 敏捷的棕色狐狸跳过懒狗 ภาพถ่ายของสุนัข кошка собака".split()
ALPHABETS = {
    "words": [*(f"{word} " for word in WORDS), "x", "\n", "."],
    "one word": list("abcdefghijklmnopqrstuvwxyzäß"),
    "one word of another script": list("敏捷的棕色狐狸跳过懒狗人大小中上下天"),
    "spaces": [" ", "  " * 50, "\t", "\u3000", "a", "dog"],
    "without width": ["\u200b", "\u200d" * 20, "\ufeff", "a", "dog", " "],
    "combining": ["e\u0301", "a\u0308\u0301", "o", "n\u0303", " "],
    "unknown": list("𝔘𝔫𝔨𓀀𓀁𒀀🜁🜂"),
    "unknown words": ["𓀀𓀁 ", "𒀀𒀀𒀀 ", "dog "],
}


@pytest.fixture(scope="module")
def tokenizers():
    sample = [" ".join(WORDS), "".join(ALPHABETS["one word"])]
    for words in read_concepts()["languages"].values():
        sample += words["names"]
    pieces = sorted({character for text in sample for character in text} - {" "})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *pieces, *(f"##{piece}" for piece in pieces)]
    return {
        "unigram": train_multilingual_tokenizer(sample, 1500),
        "bpe": train_english_tokenizer(sample, 1500),
        "wordpiece": BertTokenizer(
            vocab={token: number for number, token in enumerate(vocabulary)}, model_max_length=77
        ),
    }


def long_text(alphabet: str, n_characters: int, seed: int) -> str:
    """Return a text of at least so many random pieces of an alphabet."""
    drawn = random.Random(f"{alphabet} {seed}")
    pieces = []
    length = 0
    while length < n_characters:
        piece = drawn.choice(ALPHABETS[alphabet])
        pieces.append(piece)
        length += len(piece)
    return "".join(pieces)


@pytest.mark.parametrize("kind", ["unigram", "bpe", "wordpiece"])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("alphabet", list(ALPHABETS))
def test_the_kept_tokens_are_those_of_the_uncut_text(tokenizers, kind, side, alphabet):
    tokenizer = tokenizers[kind]
    tokenizer.truncation_side = side
    for seed in range(3):
        text = long_text(alphabet, 8_000, seed)
        for max_length in (16, 77):
            options = {"truncation": True, "max_length": max_length}
            expected = tokenizer(text, **options)["input_ids"]
            assert tokenize(tokenizer, text, **options)["input_ids"] == expected
            assert tokenize(tokenizer, [text, "dog"], **options)["input_ids"][0] == expected


@pytest.mark.parametrize("kind", ["unigram", "bpe", "wordpiece"])
def test_long_texts_are_cut_and_others_are_not(tokenizers, kind):
    tokenizer = tokenizers[kind]
    tokenizer.truncation_side = "right"
    long = "dog " * 10_000
    (short, cut) = cut_texts(tokenizer, ["x" * 64 * 77, long], 77)
    assert short == "x" * 64 * 77
    assert len(cut) <= 64 * 77
    assert long.startswith(cut)
    assert cut.endswith("dog")  # no word is cut in two
    assert cut_texts(tokenizer, long, None) == long


@pytest.mark.parametrize("first", [" " * 30_000, "\u200b" * 30_000, "𓀀" * 30_000])
def test_what_has_no_tokens_pushes_no_word_out(tokenizers, first):
    tokenizer = tokenizers["unigram"]
    tokenizer.truncation_side = "right"
    options = {"truncation": True, "max_length": 77}
    text = f"{first} dog"
    assert tokenize(tokenizer, text, **options)["input_ids"] == tokenizer(text, **options)["input_ids"]


@contextmanager
def texts_read(tokenizer):
    """Yield a list that gets every text that a tokenizer is given."""
    read = []

    class Recording(type(tokenizer)):
        def __call__(self, text, *pairs, **options):
            for given in (text, *pairs, options.get("text_pair") or []):
                read.extend([given] if isinstance(given, str) else given)
            return super().__call__(text, *pairs, **options)

    own_class = tokenizer.__class__
    tokenizer.__class__ = Recording
    yield read
    tokenizer.__class__ = own_class


@pytest.mark.parametrize(
    "text", ["x" * MEGABYTES, "𓀀" * MEGABYTES, " " * MEGABYTES, "dog " * (MEGABYTES // 4)]
)
def test_little_of_a_text_of_megabytes_is_tokenized(tokenizers, text):
    tokenizer = tokenizers["unigram"]
    with texts_read(tokenizer) as read:
        tokenize(tokenizer, text, truncation=True, max_length=77)
    assert 0 < sum(map(len, read)) < 3 * 4096 * 77


WORD = "dog" * (MEGABYTES // 3)
DOORS = {
    "processor": lambda processor, model: processor(text=[WORD, "cat"]),
    "processor, one text": lambda processor, model: processor(text=WORD, return_tensors="pt"),
    "processor, padded by number": lambda processor, model: processor(text=[WORD], padding="max_length"),
    "processor, pairs": lambda processor, model: processor(
        text=["cat"], text_pair=[WORD], return_tensors="pt"
    ),
    "embed_texts": lambda processor, model: embed_texts(model, processor, ["cat", WORD]),
    "pipeline": lambda processor, model: AltCLIPZeroShotPipeline(
        model=model, tokenizer=processor.tokenizer, image_processor=processor.image_processor
    )(Image.new("RGB", (8, 8)), [WORD, "cat"]),
    "encoder": lambda processor, model: Encoder(model, processor).classes([WORD, "cat"], ["a {}"]),
    "training": lambda processor, model: Collator(processor.tokenizer, 77).encode([WORD, "cat"]),
    "masked training": lambda processor, model: MaskingCollator(processor.tokenizer, 77, 0.5)(
        [{"texts": [WORD, WORD], "seed": 0}]
    ),
}


@pytest.fixture
def processor(tokenizers):
    size = {"height": 32, "width": 32}
    return AltCLIPProcessor(CLIPImageProcessor(size=size, crop_size=size), tokenizers["unigram"])


@pytest.mark.parametrize("door", list(DOORS))
def test_every_door_cuts_texts_first(processor, config, door):
    config.text_config.vocab_size = len(processor.tokenizer)
    model = AltCLIPModel(config).eval()
    with texts_read(processor.tokenizer) as read:
        DOORS[door](processor, model)
    assert any("dogdog" in text for text in read)
    assert max(map(len, read)) <= 64 * 77


def test_texts_that_are_not_truncated_are_not_cut(processor):
    text = "dog " * 2000
    ids = processor(text=text, truncation=False)["input_ids"]
    assert len(ids) >= 2000
    options = {"truncation": True, "max_length": 8, "return_overflowing_tokens": True}
    parts = tokenize(processor.tokenizer, text, **options)["input_ids"]
    assert sum(map(len, parts)) >= 2000


def test_texts_of_other_libraries_are_cut():
    given = []
    tokenizer = AdaptedTokenizer(lambda texts: given.extend(texts) or {}, model_max_length=77, settings="")
    tokenizer([WORD, "cat"])
    assert given == [WORD[: 64 * 77], "cat"]


def header_of_png(width: int, height: int) -> bytes:
    """Return a PNG whose pixels are missing: whatever decodes it gets another error."""
    parts = [b"\x89PNG\r\n\x1a\n"]
    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    for content in (b"IHDR" + size, b"IDAT" + bytes(300)):
        parts.append(struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content)))
    return b"".join(parts)


def jpeg_of(width: int, height: int) -> bytes:
    content = io.BytesIO()
    Image.linear_gradient("L").resize((width, height)).convert("RGB").save(content, "JPEG")
    return content.getvalue()


TOO_LARGE = {
    "bomb of pixels": (header_of_png(13_000, 13_000), "13000x13000 pixels, more than 100,000,000"),
    "line": (header_of_png(1, 400_000), "1x400000 pixels, and one edge is more than 200 times"),
    "row": (header_of_png(20_001, 100), "20001x100 pixels, and one edge is more than 200 times"),
    "more than Pillow opens": (header_of_png(50_000, 50_000), "too large: Image size"),
}
SHAPES_OF_ARRAYS = [(1, 400), (400, 1, 3), (3, 1, 400)]


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", list(TOO_LARGE))
@pytest.mark.parametrize("form", ["path", "data:", "base64", "opened"])
def test_images_are_refused_by_their_size_before_they_are_decoded(processor, tmp_path, name, form):
    content, message = TOO_LARGE[name]
    path = tmp_path / "image.png"
    path.write_bytes(content)
    if form == "opened":
        if name == "more than Pillow opens":
            return
        image = Image.open(path)
    else:
        text = base64.b64encode(
            content * 10
        ).decode()  # base64 of less than 255 characters is taken for a path
        image = {"path": str(path), "data:": f"data:image/png;base64,{text}", "base64": text}[form]
    with pytest.raises(ValueError, match=rf"images\[1\] cannot be read: .*{message}"):
        processor(images=[Image.new("RGB", (8, 8)), image])


@pytest.mark.parametrize("shape", SHAPES_OF_ARRAYS, ids=str)
@pytest.mark.parametrize("make", [np.zeros, torch.zeros], ids=["array", "tensor"])
def test_arrays_have_the_same_bounds(processor, shape, make):
    with pytest.raises(ValueError, match=r"images\[0\] cannot be read: .*more than 200 times.*MAX_ASPECT"):
        processor(images=[make(shape)])


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", list(TOO_LARGE))
def test_training_and_benchmarks_name_the_row(processor, config, name, tmp_path):
    content, message = TOO_LARGE[name]
    assert re.search(message, read_picture({"bytes": content, "path": None})[1])
    (tmp_path / "image.png").write_bytes(content)
    assert re.search(message, read_picture({"bytes": None, "path": str(tmp_path / "image.png")})[1])

    good = {"bytes": jpeg_of(8, 8), "path": None}
    rows = Dataset.from_dict({"image": [good, {"bytes": content, "path": None}]})
    rows = rows.cast_column("image", ImageFeature())
    encoder = CachedEncoder(AltCLIPModel(config).eval(), processor, cache_dir=str(tmp_path))
    with pytest.raises(InputError, match=rf"the image of row 1 .*{message}"):
        encoder.rows(rows)


def test_embed_images_skips_them_with_their_size(processor, config, tmp_path):
    (tmp_path / "bomb.png").write_bytes(header_of_png(1, 400_000))
    (tmp_path / "good.jpg").write_bytes(jpeg_of(8, 8))
    model = AltCLIPModel(config).eval()
    embedded = embed_images(model, processor, tmp_path, errors="skip")
    assert embedded.names == ["good.jpg"]
    assert "1x400000 pixels" in embedded.skipped[0].reason


@pytest.mark.parametrize("bound_of_pillow", [None, 4_000])
def test_a_jpeg_above_the_bound_is_decoded_at_half_its_edges(monkeypatch, tmp_path, bound_of_pillow):
    monkeypatch.setattr(image_files_altclip, "MAX_PIXELS", 10_000)
    monkeypatch.setattr(image_files_altclip, "MAX_JPEG_PIXELS", 30_000)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", bound_of_pillow)
    sizes = {(80, 50): (80, 50), (160, 120): (80, 60), (151, 121): (76, 61)}
    for size, expected in sizes.items():
        path = tmp_path / "photo.jpg"
        path.write_bytes(jpeg_of(*size))
        assert read_image(path).size == expected
    path.write_bytes(jpeg_of(200, 160))
    with pytest.raises(ValueError, match="200x160 pixels, more than 10,000: shrink it, or set MAX_PIXELS"):
        read_image(path)


def test_a_jpeg_below_the_bound_has_the_pixels_of_pillow(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(jpeg_of(301, 203))
    expected = np.asarray(Image.open(tmp_path / "photo.jpg").convert("RGB"))
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "photo.jpg")), expected)


def with_exif(orientation: object) -> Image.Image:
    image = Image.new("RGB", (8, 8))
    image.getexif()[0x0112] = orientation
    return image


def with_info(**info) -> Image.Image:
    image = Image.new("RGB", (8, 8))
    image.info |= info
    return image


UNREADABLE = {
    "base64": lambda: "iVBORw0KGgo" * 50,
    "EXIF list": lambda: with_exif([6]),
    "EXIF text": lambda: with_info(exif="text"),
    "EXIF junk": lambda: with_info(exif=b"Exif\0\0junk"),
    "XMP": lambda: with_info(xmp=7),
    "object": lambda: np.array([[None, 1], [2, 3]], dtype=object),
    "several objects": lambda: np.empty((1, 2, 2, 3), dtype=object),
    "bf16": lambda: torch.full((3, 8, 8), 1e9, dtype=torch.bfloat16),
    "meta": lambda: torch.empty(3, 8, 8, device="meta"),
    "sparse": lambda: torch.zeros(3, 8, 8).to_sparse(),
    "complex": lambda: np.zeros((8, 8), complex),
    "complex tensor": lambda: torch.zeros(3, 8, 8, dtype=torch.complex64),
    "no rows": lambda: np.zeros((0, 8, 3)),
    "no axes": lambda: np.array(3.0),
    "five axes": lambda: np.zeros((1, 1, 8, 8, 3), np.uint8),
    "texts": lambda: np.array([["a", "b"]]),
    "dates": lambda: np.zeros((8, 8), "datetime64[s]"),
    "records": lambda: np.zeros((8, 8), [("a", "u1")]),
    "infinite": lambda: np.full((8, 8), np.inf),
    "bytes": lambda: b"\x89PNG",
    "dict": lambda: {"bytes": b""},
    "None": lambda: None,
    "NUL": lambda: "a\0b",
    "surrogate": lambda: "\ud800",
    "data:": lambda: "data:image/png;base64,@@",
    "folder": lambda: "/",
}


@pytest.mark.parametrize("do_rescale", [True, False])
@pytest.mark.parametrize("name", list(UNREADABLE))
def test_what_is_no_image_is_refused_with_its_index(processor, name, do_rescale):
    processor.image_processor.do_rescale = do_rescale
    with pytest.raises(ValueError, match=r"images\[1\] cannot be read: ."):
        processor(images=[Image.new("RGB", (8, 8)), UNREADABLE[name]()])


@pytest.fixture
def photos(tmp_path):
    """Write photos of several sizes, and return their paths."""
    paths = []
    for number in range(12):
        path = tmp_path / f"{number:02d}.jpg"
        path.write_bytes(jpeg_of(300 + number, 200))
        paths.append(str(path))
    return paths


@pytest.mark.parametrize("return_tensors", ["pt", "np", None])
def test_groups_have_the_pixels_of_the_whole_batch(processor, photos, monkeypatch, return_tensors):
    together = processor(images=photos, text=["dog"], return_tensors=return_tensors)
    monkeypatch.setattr(images_altclip, "GROUP_PIXELS", 100_000)  # two photos
    calls = []
    call = processor.image_processor.__class__.__call__
    monkeypatch.setattr(
        processor.image_processor.__class__,
        "__call__",
        lambda self, images, *args, **options: (
            calls.append(len(images)) or call(self, images, *args, **options)
        ),
    )
    in_groups = processor(images=photos, text=["dog"], return_tensors=return_tensors)
    assert calls == [2] * 6
    assert in_groups.keys() == together.keys()
    assert type(in_groups["pixel_values"]) is type(together["pixel_values"])
    np.testing.assert_array_equal(np.stack(in_groups["pixel_values"]), np.stack(together["pixel_values"]))


@pytest.mark.parametrize("given", ["paths", "folder", "deferred"])
def test_few_photos_are_held_at_a_time_and_embeddings_stay(processor, config, photos, monkeypatch, given):
    model = AltCLIPModel(config).eval()
    expected = embed_images(model, processor, photos)
    monkeypatch.setattr(images_altclip, "GROUP_PIXELS", 100_000)
    n_held = []
    images_read = []
    to_rgb = images_altclip._to_rgb

    def recording(*args):
        image = to_rgb(*args)
        images_read.append(weakref.ref(image))
        n_held.append(sum(read() is not None for read in images_read))
        return image

    monkeypatch.setattr(images_altclip, "_to_rgb", recording)
    images = photos
    if given == "folder":
        images = Path(photos[0]).parent
    if given == "deferred":
        images = iter([DeferredImage(partial(read_image, photo)) for photo in photos])
    torch.testing.assert_close(embed_images(model, processor, images), expected, rtol=0, atol=0)
    assert len(n_held) >= len(photos)
    assert max(n_held) <= 5  # two groups of two, and one more from before they are converted


def test_an_image_of_a_late_group_is_named(processor, photos, monkeypatch):
    monkeypatch.setattr(images_altclip, "GROUP_PIXELS", 100_000)
    with pytest.raises(ValueError, match=r"images\[12\] cannot be read: file does not exist"):
        processor(images=[*photos, "missing.png"])


def test_benchmarks_hold_few_photos_at_a_time(processor, config, photos, monkeypatch, tmp_path):
    rows = Dataset.from_dict({"image": photos}).cast_column("image", ImageFeature())
    model = AltCLIPModel(config).eval()
    expected = CachedEncoder(model, processor, cache_dir=str(tmp_path / "one")).rows(rows)[0]
    monkeypatch.setattr(images_altclip, "GROUP_PIXELS", 100_000)
    n_decoded = []
    open_image = encoder_module._open_image

    def counting(*args):
        n_decoded.append("decoded")
        return open_image(*args)

    monkeypatch.setattr(encoder_module, "_open_image", counting)
    call = type(processor.image_processor).__call__

    def preparing(self, *args, **options):
        n_decoded.append("prepared")
        return call(self, *args, **options)

    monkeypatch.setattr(type(processor.image_processor), "__call__", preparing)
    found = CachedEncoder(model, processor, cache_dir=str(tmp_path / "two")).rows(rows)[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert n_decoded == ["decoded", "decoded", "prepared"] * 6


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"


def test_an_image_that_is_a_program_is_not_run(tmp_path, monkeypatch):
    """Pillow hands EPS to Ghostscript, whatever the ending of the file is."""
    started = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *arguments: started.append(arguments))
    path = tmp_path / "photo.jpg"
    path.write_bytes(EPS)
    inputs = [str(path), base64.b64encode(EPS).decode(), Image.open(io.BytesIO(EPS))]
    for image in inputs:
        with pytest.raises(ValueError, match="EPS is a program"):
            read_image(image)
    for row in ({"bytes": EPS, "path": None}, {"bytes": None, "path": str(path)}):
        with pytest.raises(ValueError, match="EPS is a program"):
            decode_image(row)
    assert not started
