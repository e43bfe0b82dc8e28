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


def test_texts_are_padded_to_the_longest_and_cut_at_77(processor):
    short = processor(text=["dog face", "key"], return_tensors="pt")
    assert short["input_ids"].shape[1] == max(
        len(processor.tokenizer(text)["input_ids"]) for text in ("dog face", "key")
    )
    long = processor(text=["dog face", "dog face and key " * 40], return_tensors="pt")
    assert long["input_ids"].shape == (2, 77)
    assert long["attention_mask"][0].sum() < 10
    assert processor(text="dog face and key " * 40, max_length=9, return_tensors="pt")["input_ids"].shape == (
        1,
        9,
    )
    assert processor(text=["key"], text_kwargs={"padding": "max_length"}, return_tensors="pt")[
        "input_ids"
    ].shape == (1, 77)
    for multiple in ({"pad_to_multiple_of": 8}, {"text_kwargs": {"pad_to_multiple_of": 8}}):
        assert processor(text=["dog face and key " * 40], return_tensors="pt", **multiple)[
            "input_ids"
        ].shape == (1, 72)


@pytest.mark.parametrize(
    "stated,expected", [(int(1e30), 77), (512, 77), (514, 77), (77, 77), (128, 126), (64, 62)]
)
def test_text_length(processor, stated, expected):
    """512 and more is what an encoder can read, not what a CLIP was trained with.

    Other numbers may be those of XLM-R's positions.
    """
    processor.tokenizer.model_max_length = stated
    assert text_length(processor.tokenizer) == expected
    assert processor(text=["key " * 200], return_tensors="pt")["input_ids"].shape == (1, expected)


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "PA", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB", "I", "F"]
)
def test_every_mode_becomes_rgb(processor, mode):
    image = (
        PICTURE.convert("L").convert(mode)
        if mode in ("LA", "PA", "I", "F")
        else PICTURE.convert("LAB" if mode == "LAB" else mode)
    )
    read = read_image(image)
    assert read.mode == "RGB"
    assert np.array_equal(np.asarray(read), np.asarray(image.convert("RGB")))
    assert processor(images=image, return_tensors="pt")["pixel_values"].shape == (1, 3, 32, 32)


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I"])
def test_16_bit_greys_keep_their_shades(tmp_path, mode):
    greys = np.arange(600, dtype=np.uint16).reshape(20, 30) * 109
    image = (
        Image.fromarray(greys)
        if mode == "I;16"
        else Image.fromarray(greys.astype(">u2" if mode == "I;16B" else np.int32))
    )
    assert image.mode == mode
    assert np.array_equal(np.asarray(read_image(image))[..., 0], greys >> 8)
    if mode == "I;16":
        image.save(tmp_path / "greys.png")
        assert np.array_equal(np.asarray(read_image(tmp_path / "greys.png"))[..., 2], greys >> 8)


def test_a_turned_photograph_is_put_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by a quarter
    PICTURE.save(tmp_path / "turned.png", exif=exif)
    upright = np.rot90(PIXELS, k=-1)
    for source in (
        tmp_path / "turned.png",
        str(tmp_path / "turned.png"),
        f"file://{tmp_path}/turned.png",
        Image.open(tmp_path / "turned.png"),
    ):
        assert np.array_equal(np.asarray(read_image(source)), upright)


def test_an_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert Image.open(tmp_path / "a.gif").n_frames == 2
    assert read_image(tmp_path / "a.gif").getpixel((0, 0)) == (255, 0, 0)


def test_arrays_and_tensors_equal_the_picture(processor):
    expected = processor(images=PICTURE, return_tensors="pt")["pixel_values"]
    channels_first = np.ascontiguousarray(PIXELS.transpose(2, 0, 1))
    for given in (PIXELS, channels_first, torch.from_numpy(channels_first)):
        torch.testing.assert_close(processor(images=[given], return_tensors="pt")["pixel_values"], expected)
    greys = PIXELS[..., 0]
    expected_greys = processor(images=Image.fromarray(greys), return_tensors="pt")["pixel_values"]
    for given in (greys, torch.from_numpy(greys), greys.astype(np.uint16) << 8):
        torch.testing.assert_close(
            processor(images=[given], return_tensors="pt")["pixel_values"], expected_greys
        )
    assert (
        processor(images=[[PICTURE, PICTURE], [PICTURE]], return_tensors="pt")["pixel_values"].shape[0] == 3
    )
    both = processor(images=np.stack([channels_first] * 2), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(both, expected.repeat(2, 1, 1, 1))


def test_base64_text():
    buffer = io.BytesIO()
    PICTURE.save(buffer, "PNG")
    for given in (
        base64.b64encode(buffer.getvalue()).decode(),
        "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode(),
    ):
        assert np.array_equal(np.asarray(read_image(given)), PIXELS)


@pytest.mark.parametrize(
    "bad,message",
    [
        (None, "it is a NoneType, not an image"),
        (b"GIF", "it is a bytes, not an image"),
        ({"bytes": b""}, "it is a dict, not an image"),
        (Image.new("RGB", (0, 4)), "its size is 0x4 pixels"),
        (np.zeros((0, 4, 3)), r"its shape is \(0, 4, 3\)"),
        ("no/such/file.png", "file does not exist: no/such/file.png"),
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


def test_transparency_is_composited_and_floats_are_scaled(processor):
    rgba = np.dstack([PIXELS, np.where(PIXELS[..., 0] > 127, 255, 0).astype(np.uint8)])
    for background, color in ((None, None), ("black", 0), ("white", 255)):
        processor.background = background
        flat = PIXELS if color is None else np.where(rgba[..., 3:] == 0, color, PIXELS).astype(np.uint8)
        expected = processor(images=Image.fromarray(flat), return_tensors="pt")["pixel_values"]
        for given in (Image.fromarray(rgba), rgba, rgba / 255, torch.from_numpy(rgba).permute(2, 0, 1) / 255):
            assert torch.equal(processor(images=given, return_tensors="pt")["pixel_values"], expected)


def test_transformers_way_to_give_floats(processor):
    """There one says `do_rescale=False`, and gets the pixels of the picture."""
    expected = processor(images=PICTURE, return_tensors="pt")["pixel_values"]
    floats = torch.from_numpy(PIXELS).permute(2, 0, 1) / 255
    for given in ({"do_rescale": False}, {"images_kwargs": {"do_rescale": False}}, {"do_rescale": True}, {}):
        assert torch.equal(
            processor(images=[floats, PIXELS / 255], return_tensors="pt", **given)["pixel_values"],
            expected.repeat(2, 1, 1, 1),
        )
    unscaled = processor(images=[PICTURE], do_rescale=False, return_tensors="pt")["pixel_values"]
    assert torch.equal(
        processor(images=[PIXELS], do_rescale=False, return_tensors="pt")["pixel_values"], unscaled
    )
    assert unscaled.max() > 100
    with pytest.raises(
        ValueError, match=r"do_rescale is False, and images\[1\] holds no floats within \[0, 1\] as others do"
    ):
        processor(images=[PIXELS / 255, PIXELS], do_rescale=False, return_tensors="pt")


def test_transformers_way_to_give_floats_may_be_saved(model):
    """Where the image processor itself states `do_rescale=False`, floats are still the picture's pixels, by
    every way in.
    """
    size = model.config.vision_config.image_size
    image_processor = CLIPImageProcessorPil(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}
    )
    processor = AltCLIPProcessor(image_processor, bert_tokenizer(model_max_length=30))
    floats = np.float32(PIXELS / 255)
    expected = processor(images=PICTURE, return_tensors="pt")["pixel_values"]
    vector = embed_images(model, processor, [PICTURE])
    model.resize_token_embeddings(len(processor.tokenizer), mean_resizing=False)
    parts = {"image_processor": image_processor, "tokenizer": processor.tokenizer}
    by_labels = AltCLIPZeroShotPipeline(model=model.eval(), **parts)
    scores = by_labels([PICTURE], ["dog", "key"])
    image_processor.do_rescale = False
    for given in ({}, {"do_rescale": False}, {"do_rescale": True}):
        assert torch.equal(processor(images=floats, return_tensors="pt", **given)["pixel_values"], expected)
    assert torch.equal(embed_images(model, processor, [floats]), vector)
    assert by_labels([floats], ["dog", "key"]) == scores
    assert processor(images=PICTURE, return_tensors="pt")["pixel_values"].max() > 100
    with pytest.raises(ValueError, match=r"images\[1\] holds no floats within"):
        embed_images(model, processor, [floats, PIXELS])


def test_the_caller_may_say_which_axis_holds_the_channels(processor):
    """Three rows of RGB, or three channels of three columns: the values do not tell."""
    image = PIXELS[:3]
    first, last = (np.moveaxis(image, 0, 2), image)
    for stated, meant in (("channels_first", first), ("channels_last", last)):
        expected = processor(images=Image.fromarray(np.ascontiguousarray(meant)), return_tensors="pt")[
            "pixel_values"
        ]
        for given in ({"input_data_format": stated}, {"images_kwargs": {"input_data_format": stated}}):
            for one in (image, torch.from_numpy(image)):
                assert torch.equal(
                    processor(images=[one], return_tensors="pt", **given)["pixel_values"], expected
                )


@pytest.mark.parametrize(
    "background,saved", [("white", "white"), ("#102030", "#102030"), ((1, 2, 3), [1, 2, 3]), (None, "none")]
)
def test_the_background_is_saved_and_loaded(model, processor, tmp_path, background, saved):
    model.save_pretrained(tmp_path)
    AltCLIPProcessor(processor.image_processor, processor.tokenizer, background=background).save_pretrained(
        tmp_path
    )
    config = json.loads((tmp_path / "processor_config.json").read_text())
    assert config["image_processor"]["background"] == saved
    assert "background" not in config
    loaded, expected = AutoProcessor.from_pretrained(tmp_path), read_background(background)
    assert loaded.background == expected
    assert AltCLIPProcessor.from_pretrained(tmp_path).background == expected
    assert AltCLIPProcessor.from_pretrained(tmp_path, background="red").background == (255, 0, 0)
    native = NativeProcessor.from_pretrained(tmp_path)  # which drops alpha
    assert type(native) is NativeProcessor
    ours, theirs = (one(images=PICTURE, return_tensors="pt")["pixel_values"] for one in (loaded, native))
    assert torch.equal(ours, theirs)


def test_a_processor_that_says_nothing_composites_on_white(processor, tmp_path):
    """As those of released checkpoints."""
    del processor.image_processor.background
    NativeProcessor(processor.image_processor, processor.tokenizer).save_pretrained(tmp_path)
    assert "background" not in (tmp_path / "processor_config.json").read_text()
    loaded = AltCLIPProcessor.from_pretrained(tmp_path)
    assert loaded.background == (255, 255, 255)
    clear = loaded(images=Image.new("RGBA", (32, 32)), return_tensors="pt")["pixel_values"]
    assert torch.equal(
        clear, loaded(images=Image.new("RGB", (32, 32), "white"), return_tensors="pt")["pixel_values"]
    )


def test_a_bad_background_is_refused(processor):
    with pytest.raises(ValueError, match="background is 'whit': give a color"):
        AltCLIPProcessor(processor.image_processor, processor.tokenizer, background="whit")
    with pytest.raises(ValueError, match="background is 'whit': give a color"):
        processor.background = "whit"
    assert processor.background == (255, 255, 255)
    processor.image_processor.background = 3
    with pytest.raises(ValueError, match="background is 3: give a color"):
        AltCLIPProcessor(processor.image_processor, processor.tokenizer)


def test_saved_and_loaded(model, processor, tmp_path):
    model.save_pretrained(tmp_path)
    processor.tokenizer.model_max_length = 60
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert type(loaded) is AltCLIPProcessor
    ours, theirs = (
        one(text=["key " * 99], images=PICTURE, return_tensors="pt") for one in (processor, loaded)
    )
    assert theirs["input_ids"].shape == (1, 58)
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_saved_alone_it_names_the_class_that_everybody_has(processor, tmp_path, run_python):
    assert processor.save_pretrained(tmp_path)
    assert isinstance(AutoProcessor.from_pretrained(tmp_path), NativeProcessor)
    code = "import sys; from transformers import AutoProcessor; "
    code += "print(type(AutoProcessor.from_pretrained(sys.argv[1])).__module__)"
    process = run_python("python", "-c", code, tmp_path, cwd=tmp_path, PYTHONPATH="", PYTHONSAFEPATH="1")
    assert process.stdout.strip() == "transformers.models.altclip.processing_altclip", process.stderr
