"""What the processor reads, and what it says of that which it cannot."""

import base64
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AltCLIPProcessor as NativeProcessor
from transformers import AutoProcessor, CLIPImageProcessorPil

from modeling_altclip import AltCLIPProcessor, AltCLIPZeroShotPipeline, embed_images
from modeling_altclip.images_altclip import read_background, read_image
from modeling_altclip.texts_altclip import text_length

from .test_any_model import bert_tokenizer

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
PICTURE = Image.fromarray(PIXELS)


# More than 77 tokens, the paper's length.
LONG = "dog face and key " * 40


def n_tokens(processor, text):
    return len(processor.tokenizer(text)["input_ids"])


def pixel_values(processor, images, **given):
    """Return the prepared images, of shape (n, 3, height, width)."""
    return processor(images=images, return_tensors="pt", **given)["pixel_values"]


def input_ids(processor, text, **given):
    """Return the token ids of texts, of shape (n, length)."""
    return processor(text=text, return_tensors="pt", **given)["input_ids"]


def test_texts_are_padded_to_the_longest_and_cut_at_77(processor):
    longest = max(n_tokens(processor, "dog face"), n_tokens(processor, "key"))
    assert input_ids(processor, ["dog face", "key"]).shape[1] == longest
    long = processor(text=["dog face", LONG], return_tensors="pt")
    assert long["input_ids"].shape == (2, 77)
    # The short text is padded, not filled.
    assert long["attention_mask"][0].sum() < 10

    assert input_ids(processor, LONG, max_length=9).shape == (1, 9)
    assert input_ids(processor, ["key"], text_kwargs={"padding": "max_length"}).shape == (1, 77)
    # The largest multiple of 8 below 77: tokenizers refuse to truncate at 77 and pad to multiples of 8.
    assert input_ids(processor, [LONG], pad_to_multiple_of=8).shape == (1, 72)
    assert input_ids(processor, [LONG], text_kwargs={"pad_to_multiple_of": 8}).shape == (1, 72)


# transformers' number for "states nothing", XLM-R's positions, the paper's length, and others.
@pytest.mark.parametrize(
    "stated,expected", [(int(1e30), 77), (512, 77), (514, 77), (77, 77), (128, 126), (64, 62)]
)
def test_the_length_of_texts_follows_what_the_tokenizer_states(processor, stated, expected):
    """Read 512 and more as what an encoder can read, not what a CLIP was trained with.

    Other numbers may be those of XLM-R's positions.
    """
    processor.tokenizer.model_max_length = stated
    assert text_length(processor.tokenizer) == expected
    assert input_ids(processor, ["key " * 200]).shape == (1, expected)


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "PA", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB", "I", "F"]
)
def test_every_mode_becomes_rgb(processor, mode):
    is_grey = mode in ("LA", "PA", "I", "F")  # modes of one shade
    image = PICTURE.convert("L").convert(mode) if is_grey else PICTURE.convert(mode)
    read = read_image(image)
    assert read.mode == "RGB"
    assert np.array_equal(np.asarray(read), np.asarray(image.convert("RGB")))
    assert pixel_values(processor, image).shape == (1, 3, 32, 32)


@pytest.mark.parametrize("mode,dtype", [("I;16", "<u2"), ("I;16B", ">u2"), ("I", "i4")])
def test_16_bit_greys_keep_their_shades(tmp_path, mode, dtype):
    # 0 to 65,291, nearly the whole range; the upper byte is the shade.
    greys = np.arange(600, dtype=np.uint16).reshape(20, 30) * 109
    image = Image.fromarray(greys.astype(dtype))
    assert image.mode == mode
    assert np.array_equal(np.asarray(read_image(image))[..., 0], greys >> 8)
    if mode == "I;16":
        image.save(tmp_path / "greys.png")
        assert np.array_equal(np.asarray(read_image(tmp_path / "greys.png"))[..., 2], greys >> 8)


def test_a_turned_photograph_is_put_upright(tmp_path):
    exif = Image.Exif()
    # EXIF's tag of the orientation.
    exif[0x0112] = 6  # the camera was turned by a quarter
    path = tmp_path / "turned.png"
    PICTURE.save(path, exif=exif)
    upright = np.rot90(PIXELS, k=-1)
    for source in (path, str(path), f"file://{path}", Image.open(path)):
        assert np.array_equal(np.asarray(read_image(source)), upright)


def test_an_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert Image.open(tmp_path / "a.gif").n_frames == 2
    assert read_image(tmp_path / "a.gif").getpixel((0, 0)) == (255, 0, 0)


def test_arrays_and_tensors_equal_the_picture(processor):
    expected = pixel_values(processor, PICTURE)
    channels_first = np.ascontiguousarray(PIXELS.transpose(2, 0, 1))
    for given in (PIXELS, channels_first, torch.from_numpy(channels_first)):
        torch.testing.assert_close(pixel_values(processor, [given]), expected)
    both = pixel_values(processor, np.stack([channels_first] * 2))
    torch.testing.assert_close(both, expected.repeat(2, 1, 1, 1))
    assert pixel_values(processor, [[PICTURE, PICTURE], [PICTURE]]).shape[0] == 3

    # Greys of 8 bits, and of 16 with the shade in the upper byte.
    greys = PIXELS[..., 0]
    expected = pixel_values(processor, Image.fromarray(greys))
    for given in (greys, torch.from_numpy(greys), greys.astype(np.uint16) << 8):
        torch.testing.assert_close(pixel_values(processor, [given]), expected)


@pytest.mark.parametrize(
    "bad,message",
    [
        (None, "it is a NoneType, not an image"),
        (b"GIF", "it is a bytes, not an image"),
        ({"bytes": b""}, "it is a dict, not an image"),
        (Image.new("RGB", (0, 4)), "its size is 0x4 pixels"),
        (np.zeros((0, 4, 3)), r"its shape is \(0, 4, 3\)"),
        ("no/such/file.png", "file does not exist: no/such/file.png"),
        # Nothing listens on port 9: the connection is refused at once, in the system's words.
        ("http://127.0.0.1:9/picture.png", ".*"),
        (__file__, "cannot identify image file"),
    ],
)
def test_an_image_that_cannot_be_read_is_named(processor, bad, message):
    with pytest.raises(ValueError, match=rf"images\[1\] cannot be read: {message}"):
        processor(images=[PICTURE, bad])


@pytest.mark.parametrize(
    "given,message",
    [
        ({"text": []}, "text is empty: give at least one string"),
        ({"text": ["key", None]}, r"text\[1\] is None, not a string"),
        ({"text": ["key", "bell", 7]}, r"text\[2\] is 7, not a string"),
        ({"text": [["key"]]}, r"text\[0\] is \['key'\], not a string"),
        ({"text": 5}, "text is a int: give a list of strings"),
        ({"text": (text for text in ["key"])}, "text is a generator: give a list of strings"),
        ({"images": []}, "images is empty: give at least one image"),
    ],
)
def test_bad_lists_are_refused(processor, given, message):
    with pytest.raises(ValueError, match=message):
        processor(**given)


def test_base64_is_read():
    buffer = io.BytesIO()
    PICTURE.save(buffer, "PNG")
    text = base64.b64encode(buffer.getvalue()).decode()
    for given in (text, f"data:image/png;base64,{text}"):
        assert np.array_equal(np.asarray(read_image(given)), PIXELS)


def test_transparency_is_composited_and_floats_are_scaled(processor):
    opacity = np.where(PIXELS[..., :1] > 127, 255, 0).astype(np.uint8)
    rgba = np.concatenate([PIXELS, opacity], axis=2)
    # One image as a picture, bytes, floats and a tensor of floats.
    forms = [Image.fromarray(rgba), rgba, rgba / 255, torch.from_numpy(rgba).permute(2, 0, 1) / 255]
    for background, flat in (
        # Without a background alpha is dropped.
        (None, PIXELS),
        ("black", np.where(opacity == 0, 0, PIXELS)),
        ("white", np.where(opacity == 0, 255, PIXELS)),
    ):
        processor.background = background
        expected = pixel_values(processor, Image.fromarray(flat.astype(np.uint8)))
        for given in forms:
            assert torch.equal(pixel_values(processor, given), expected)


def test_transformers_way_to_give_floats_works(processor):
    """Say `do_rescale=False` as one does in transformers, and get the pixels of the picture."""
    floats = torch.from_numpy(PIXELS).permute(2, 0, 1) / 255
    expected = pixel_values(processor, PICTURE).repeat(2, 1, 1, 1)
    for given in ({"do_rescale": False}, {"images_kwargs": {"do_rescale": False}}, {"do_rescale": True}, {}):
        assert torch.equal(pixel_values(processor, [floats, PIXELS / 255], **given), expected)

    unscaled = pixel_values(processor, [PICTURE], do_rescale=False)
    assert torch.equal(pixel_values(processor, [PIXELS], do_rescale=False), unscaled)
    # Pixels from 0 to 255, normalised as if they were from 0 to 1.
    assert unscaled.max() > 100
    message = r"do_rescale is False, and images\[1\] holds no floats within \[0, 1\] as others do"
    with pytest.raises(ValueError, match=message):
        processor(images=[PIXELS / 255, PIXELS], do_rescale=False, return_tensors="pt")


def test_transformers_way_to_give_floats_may_be_saved(model):
    """Let the image processor itself state `do_rescale=False`: floats are still the picture's pixels, by
    every way in.
    """
    size = model.config.vision_config.image_size
    image_processor = CLIPImageProcessorPil(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}
    )
    processor = AltCLIPProcessor(image_processor, bert_tokenizer(model_max_length=30))
    model.resize_token_embeddings(len(processor.tokenizer), mean_resizing=False)
    classify = AltCLIPZeroShotPipeline(
        model=model.eval(), image_processor=image_processor, tokenizer=processor.tokenizer
    )
    expected = pixel_values(processor, PICTURE)
    image_embeds = embed_images(model, processor, [PICTURE])
    scores = classify([PICTURE], ["dog", "key"])

    image_processor.do_rescale = False
    floats = np.float32(PIXELS / 255)
    for given in ({}, {"do_rescale": False}, {"do_rescale": True}):
        assert torch.equal(pixel_values(processor, floats, **given), expected)
    assert torch.equal(embed_images(model, processor, [floats]), image_embeds)
    assert classify([floats], ["dog", "key"]) == scores
    assert pixel_values(processor, PICTURE).max() > 100
    with pytest.raises(ValueError, match=r"images\[1\] holds no floats within"):
        embed_images(model, processor, [floats, PIXELS])


def test_the_caller_may_say_which_axis_holds_the_channels(processor):
    """Give three rows of RGB, or three channels of three columns: the values do not tell."""
    # Of shape (3, 30, 3).
    image = PIXELS[:3]
    for stated, meant in (("channels_first", np.moveaxis(image, 0, 2)), ("channels_last", image)):
        expected = pixel_values(processor, Image.fromarray(np.ascontiguousarray(meant)))
        for given in ({"input_data_format": stated}, {"images_kwargs": {"input_data_format": stated}}):
            assert torch.equal(pixel_values(processor, [image], **given), expected)
            assert torch.equal(pixel_values(processor, [torch.from_numpy(image)], **given), expected)


@pytest.mark.parametrize(
    "background,saved", [("white", "white"), ("#102030", "#102030"), ((1, 2, 3), [1, 2, 3]), (None, "none")]
)
def test_the_background_is_saved_and_loaded(model, processor, tmp_path, background, saved):
    model.save_pretrained(tmp_path)
    ours = AltCLIPProcessor(processor.image_processor, processor.tokenizer, background=background)
    ours.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "processor_config.json").read_text())
    assert config["image_processor"]["background"] == saved
    assert "background" not in config

    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert loaded.background == read_background(background)
    assert AltCLIPProcessor.from_pretrained(tmp_path).background == read_background(background)
    assert AltCLIPProcessor.from_pretrained(tmp_path, background="red").background == (255, 0, 0)
    native = NativeProcessor.from_pretrained(tmp_path)  # which drops alpha
    assert type(native) is NativeProcessor
    assert torch.equal(pixel_values(loaded, PICTURE), pixel_values(native, PICTURE))


def test_a_processor_that_says_nothing_composites_on_white(processor, tmp_path):
    """Load one like those of released checkpoints."""
    # Files of released checkpoints do not state one.
    del processor.image_processor.background
    NativeProcessor(processor.image_processor, processor.tokenizer).save_pretrained(tmp_path)
    assert "background" not in (tmp_path / "processor_config.json").read_text()
    loaded = AltCLIPProcessor.from_pretrained(tmp_path)
    assert loaded.background == (255, 255, 255)
    transparent = pixel_values(loaded, Image.new("RGBA", (32, 32)))
    assert torch.equal(transparent, pixel_values(loaded, Image.new("RGB", (32, 32), "white")))


def test_a_bad_background_is_refused(processor):
    with pytest.raises(ValueError, match="background is 'whit': give a color"):
        AltCLIPProcessor(processor.image_processor, processor.tokenizer, background="whit")
    with pytest.raises(ValueError, match="background is 'whit': give a color"):
        processor.background = "whit"
    assert processor.background == (255, 255, 255)
    processor.image_processor.background = 3
    with pytest.raises(ValueError, match="background is 3: give a color"):
        AltCLIPProcessor(processor.image_processor, processor.tokenizer)


def test_saved_alone_it_names_the_class_that_everybody_has(processor, tmp_path, run_python):
    assert processor.save_pretrained(tmp_path)
    assert isinstance(AutoProcessor.from_pretrained(tmp_path), NativeProcessor)
    code = "import sys; from transformers import AutoProcessor; "
    code += "print(type(AutoProcessor.from_pretrained(sys.argv[1])).__module__)"
    # A new interpreter that cannot import this package.
    process = run_python("python", "-c", code, tmp_path, cwd=tmp_path, PYTHONPATH="", PYTHONSAFEPATH="1")
    assert process.stdout.strip() == "transformers.models.altclip.processing_altclip", process.stderr


def test_a_loaded_processor_prepares_the_same(model, processor, tmp_path):
    model.save_pretrained(tmp_path)
    processor.tokenizer.model_max_length = 60
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert type(loaded) is AltCLIPProcessor
    found = loaded(text=["key " * 99], images=PICTURE, return_tensors="pt")
    # 60 less the two positions that XLM-R never reads.
    assert found["input_ids"].shape == (1, 58)
    for name, value in processor(text=["key " * 99], images=PICTURE, return_tensors="pt").items():
        assert torch.equal(found[name], value), name
