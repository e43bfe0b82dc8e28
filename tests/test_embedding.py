"""embed_texts and embed_images keep the order, equal the plain forward, and name bad input."""

import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image
from PIL import Image as PillowImage
from transformers import SiglipConfig, SiglipModel

from modeling_altclip import (
    AltCLIPModel,
    AltCLIPZeroShotPipeline,
    ImageEmbeddings,
    embed_images,
    embed_texts,
)


@pytest.fixture
def model(config, processor):
    config.text_config.vocab_size = len(processor.tokenizer)
    torch.manual_seed(0)
    return AltCLIPModel(config)


def test_texts_come_back_in_order(model, processor):
    texts = ["key", "dog face and umbrella with rain drops", "key", "", "狗脸和钥匙", "bell"]
    embeds = embed_texts(model, processor, texts, batch_size=2)
    assert embeds.shape == (6, 20)
    assert embeds.dtype == torch.float32
    torch.testing.assert_close(embeds.norm(dim=-1), torch.ones(6))
    model.eval()
    for text, embed in zip(texts, embeds):
        plain = model.get_text_features(**processor.tokenizer([text], return_tensors="pt")).pooler_output[0]
        torch.testing.assert_close(embed, plain / plain.norm(), atol=1e-5, rtol=1e-5)


def test_equal_texts_are_encoded_once(model, processor, monkeypatch):
    n_encoded = 0
    plain = model.get_text_features

    def counted(**inputs):
        nonlocal n_encoded
        n_encoded += len(inputs["input_ids"])
        return plain(**inputs)

    monkeypatch.setattr(model, "get_text_features", counted)
    embed_texts(model, processor, ["key", "bell", "key", "key"])
    assert n_encoded == 2


def forwards(model, monkeypatch, name: str, inputs_name: str) -> list[tuple[int, ...]]:
    """Return the list that gets the shape of each batch that the model encodes from now on."""
    shapes = []
    plain = getattr(model, name)

    def recorded(**inputs):
        shapes.append(tuple(inputs[inputs_name].shape))
        return plain(**inputs)

    monkeypatch.setattr(model, name, recorded)
    return shapes


def test_batches_on_a_cpu_have_a_budget_of_tokens(model, processor, monkeypatch):
    shapes = forwards(model, monkeypatch, "get_text_features", "input_ids")
    texts = [" ".join(["key"] * n_words) + " 狗" * (n_words % 3) for n_words in range(1, 70)] * 4
    texts += [f"bell {number}" for number in range(300)]
    embeds = embed_texts(model, processor, texts)

    assert all(n_texts * n_tokens <= 1024 for n_texts, n_tokens in shapes)
    # The batches are full: with one more text of the next batch's length each would be over the budget.
    for (n_texts, _), (_, n_tokens) in pairwise(shapes):
        assert (n_texts + 1) * n_tokens > 1024
    # Texts are sorted by tokens, so that fewer than one in ten is padding.
    n_tokens = sum(len(processor.tokenizer(text)["input_ids"]) for text in dict.fromkeys(texts))
    assert sum(n_texts * longest for n_texts, longest in shapes) < 1.1 * n_tokens
    alone = embed_texts(model, processor, texts, batch_size=1)
    torch.testing.assert_close(embeds, alone, atol=1e-5, rtol=1e-5)


def test_a_text_over_the_budget_is_a_batch_of_its_own(model, processor, monkeypatch):
    monkeypatch.setattr("modeling_altclip.embedding._TOKENS_ON_CPU", 4)
    shapes = forwards(model, monkeypatch, "get_text_features", "input_ids")
    embed_texts(model, processor, ["key", "dog face and umbrella with rain drops", "bell"])
    assert [n_texts for n_texts, _ in shapes] == [1, 1, 1]


def test_batches_of_images_on_a_cpu_are_small(model, processor, monkeypatch):
    shapes = forwards(model, monkeypatch, "get_image_features", "pixel_values")
    images = [PillowImage.new("RGB", (32, 32), (number, 0, 0)) for number in range(35)]
    embed_images(model, processor, images)
    embed_images(model, processor, images[:3], batch_size=2)
    assert [shape[0] for shape in shapes] == [16, 16, 3, 2, 1]


def test_images_from_a_list_and_from_a_dataset_column(model, processor):
    images = [PillowImage.new("RGB", (40, 32), color) for color in ("red", "green", "blue")]
    column = Dataset.from_dict({"image": images}, features=Features({"image": Image()}))["image"]
    embeds = embed_images(model, processor, images, batch_size=2)
    of_column = embed_images(model, processor, column, batch_size=3)
    torch.testing.assert_close(embeds, of_column, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(embeds.norm(dim=-1), torch.ones(3))


def test_the_mode_of_every_module_is_kept(model, processor):
    """A frozen tower in a model that trains stays in eval mode."""
    model.train()
    model.vision_model.eval()
    before = {name: module.training for name, module in model.named_modules()}
    embed_texts(model, processor, ["key"])
    assert {name: module.training for name, module in model.named_modules()} == before
    assert len(set(before.values())) == 2


def test_siglip_is_padded_as_it_was_trained(processor):
    text = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 5000,
    }
    vision = {"image_size": 32, "patch_size": 8} | text
    siglip = SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).eval()
    processor.tokenizer.model_max_length = 64
    texts = processor.tokenizer(["key"], padding="max_length", max_length=64, return_tensors="pt")
    assert "attention_mask" in texts  # SigLIP attends to its padding, whatever the tokenizer states
    with torch.no_grad():
        features = siglip.get_text_features(texts["input_ids"]).pooler_output
    expected = torch.nn.functional.normalize(features, dim=-1)
    embeds = embed_texts(siglip, processor, ["key", "dog face and umbrella"])
    torch.testing.assert_close(embeds[:1], expected, atol=1e-5, rtol=1e-5)


def test_generators_are_read_a_window_at_a_time(model, processor):
    """Hold no more than 64 batches; the result is that of the list, whatever the windows."""
    # 35 distinct texts, of five lengths.
    texts = [f"key {number % 7} bell " * (number % 5 + 1) for number in range(700)]
    n_read = 0
    n_read_at_batch = []  # how many texts were read when each batch was encoded

    def stream():
        nonlocal n_read
        for text in texts:
            n_read += 1
            yield text

    plain = model.get_text_features

    def counted(**inputs):
        n_read_at_batch.append(n_read)
        return plain(**inputs)

    model.get_text_features = counted
    streamed = embed_texts(model, processor, stream(), batch_size=2)
    assert n_read_at_batch[0] == 128  # 64 batches of 2
    assert n_read_at_batch[-1] == 700
    torch.testing.assert_close(streamed, embed_texts(model, processor, texts), atol=1e-5, rtol=1e-5)


def test_images_from_a_generator_of_paths(model, processor, tmp_path):
    read = []
    for number, color in enumerate(("red", "green", "blue")):
        PillowImage.new("RGB", (32, 32), color).save(tmp_path / f"{number}.png")

    def stream():
        for number in range(3):
            read.append(number)
            yield tmp_path / f"{number}.png"

    embeds = embed_images(model, processor, stream(), batch_size=1, convert_to_numpy=True)
    images = [PillowImage.open(path) for path in sorted(tmp_path.glob("*.png"))]
    expected = embed_images(model, processor, images)
    assert isinstance(embeds, np.ndarray)
    assert np.allclose(embeds, expected, atol=1e-6)
    assert read == [0, 1, 2]


def test_half_precision_models_give_float32(model, processor):
    embeds = embed_texts(model.bfloat16(), processor, ["key", "bell"])
    assert embeds.dtype == torch.float32
    torch.testing.assert_close(embeds.norm(dim=-1), torch.ones(2))


def test_the_tqdm_bar_ends_at_the_number_of_texts(model, processor, capsys):
    embed_texts(model, processor, ["key", "bell", "key"] * 5, batch_size=2, show_progress=True)
    # The bar counts all texts, though only two are distinct and encoded.
    assert "15/15" in capsys.readouterr().err


def test_bad_input_is_named(model, processor):
    image = PillowImage.new("RGB", (32, 32))

    # One item of several; in a stream, one of a later window too.
    with pytest.raises(ValueError, match=r"texts\[1\] is None"):
        embed_texts(model, processor, ["key", None])
    # Windows hold 64 texts here, so that text 130 is in the third: indices go on from window to window.
    with pytest.raises(ValueError, match=r"texts\[130\] is 7"):
        embed_texts(model, processor, iter(["key"] * 130 + [7] + ["key"] * 69), batch_size=1)
    with pytest.raises(ValueError, match=r"images\[2\] cannot be read: it is a NoneType"):
        embed_images(model, processor, iter([image, image, None]), batch_size=1)

    # One item in the place of a list.
    with pytest.raises(ValueError, match="texts is a single str: put it into a list"):
        embed_texts(model, processor, "key")
    with pytest.raises(ValueError, match="images is a single Image: put it into a list"):
        embed_images(model, processor, image)
    for one in (np.zeros((32, 32, 3), np.uint8), torch.zeros(3, 32, 32), np.zeros((32, 32))):
        with pytest.raises(ValueError, match="images is a single .*: put it into a list"):
            embed_images(model, processor, one)

    # What is no list at all.
    for nothing in (None, 5):
        with pytest.raises(ValueError, match=f"texts is {nothing}: give a list of texts"):
            embed_texts(model, processor, nothing)
        with pytest.raises(ValueError, match=f"images is {nothing}: give a list of images"):
            embed_images(model, processor, nothing)

    # Nothing.
    with pytest.raises(ValueError, match="no texts to embed"):
        embed_texts(model, processor, [])
    with pytest.raises(ValueError, match="no texts to embed"):
        embed_texts(model, processor, iter([]))
    with pytest.raises(ValueError, match="no images to embed"):
        embed_images(model, processor, [])

    with pytest.raises(ValueError, match="images is 'no/such', and the file does not exist"):
        embed_images(model, processor, "no/such")
    with pytest.raises(ValueError, match="errors is 'ignore': choose 'raise' or 'skip'"):
        embed_images(model, processor, [image], errors="ignore")


NAMES = ["green.png", "more/blue.png", "red.png", "yellow.png"]


@pytest.fixture
def photos(tmp_path):
    """Write four pictures into a folder and one below it, and other files as they lie in folders."""
    (tmp_path / "photos/more").mkdir(parents=True)
    for name in NAMES:
        path = tmp_path / "photos" / name
        PillowImage.new("RGB", (40, 32), path.stem).save(path)
    for name in (".DS_Store", "notes.txt", "more/metadata.jsonl"):
        (tmp_path / "photos" / name).write_bytes(b"no picture")
    return tmp_path / "photos"


def test_a_folder_and_a_glob(model, processor, photos):
    expected = embed_images(model, processor, [photos / name for name in NAMES])
    for where in (photos, str(photos), f"{photos}/**/*.png"):
        assert torch.equal(embed_images(model, processor, where), expected)

    found = embed_images(model, processor, photos, return_names=True, batch_size=2, convert_to_numpy=True)
    assert isinstance(found, ImageEmbeddings)
    assert found.names == NAMES
    assert found.skipped == []
    assert isinstance(found.embeddings, np.ndarray)
    assert np.allclose(found.embeddings, expected, atol=1e-6)

    not_below = embed_images(model, processor, f"{photos}/*.png", return_names=True)
    assert not_below.names == ["green.png", "red.png", "yellow.png"]


@pytest.fixture
def broken(photos):
    """Add three files that cannot be read to the folder."""
    (photos / "empty.jpg").write_bytes(b"")
    (photos / "more/cut.png").write_bytes((photos / "red.png").read_bytes()[:-40])
    (photos / "more/drawing.svg").write_text("<svg/>")
    return photos


def test_bad_files_of_a_folder_are_skipped_with_a_warning(model, processor, broken):
    expected = embed_images(model, processor, [broken / name for name in NAMES])
    message = (
        r"3 of 7 images cannot be read, images\['empty.jpg'\] first: cannot identify.*errors='skip' lists"
    )
    with pytest.warns(UserWarning, match=message):
        found = embed_images(model, processor, broken)
    # Not bit by bit: grey images stand in the batch for the broken ones, and a product of more rows may have
    # another kernel.
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)

    # With errors="skip", they are listed without a warning.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for batch_size in (1, 3, 256):
            found = embed_images(model, processor, broken, errors="skip", batch_size=batch_size)
            torch.testing.assert_close(found.embeddings, expected, atol=1e-5, rtol=1e-5)
            assert found.names == NAMES
            # In the order of names: empty.jpg, green.png, more/blue.png, more/cut.png, more/drawing.svg, ...
            empty, cut, drawing = found.skipped
            assert (empty.index, empty.name) == (0, "empty.jpg")
            assert (cut.index, cut.name) == (3, "more/cut.png")
            assert (drawing.index, drawing.name) == (4, "more/drawing.svg")
            assert "truncated" in cut.reason
            assert "SVG is a drawing" in drawing.reason

    with pytest.raises(ValueError, match=r"images\['empty.jpg'\] cannot be read: cannot identify"):
        embed_images(model, processor, broken, errors="raise")
    message = r"2 of 2 images cannot be read, images\['cut.png'\] first: .*truncated"
    with pytest.raises(ValueError, match=message):
        embed_images(model, processor, f"{broken}/more/[cd]*", errors="skip")


@pytest.mark.parametrize("kind", [list, iter])
def test_bad_images_of_a_list_are_skipped_where_that_is_asked(model, processor, photos, kind):
    images = [
        photos / "red.png",
        None,
        photos / "gone.png",
        np.zeros((6, 6, 7)),  # seven channels
        PillowImage.new("RGB", (32, 32), "green"),
        "",
    ]
    found = embed_images(model, processor, kind(images), errors="skip", batch_size=2)
    expected = embed_images(model, processor, [images[0], images[4]])
    torch.testing.assert_close(found.embeddings, expected, atol=1e-5, rtol=1e-5)
    assert found.names == [0, 4]
    assert [skipped.index for skipped in found.skipped] == [1, 2, 3, 5]
    assert [skipped.name for skipped in found.skipped] == [1, 2, 3, 5]
    assert found.skipped[0].reason == "it is a NoneType, not an image, array, path or address"
    assert found.skipped[1].reason == f"file does not exist: {photos}/gone.png"
    with pytest.raises(ValueError, match=r"images\[1\] cannot be read: it is a NoneType"):
        embed_images(model, processor, kind(images))
    message = r"2 of 2 images cannot be read, images\[0\] first: it is a NoneType"
    with pytest.raises(ValueError, match=message):
        embed_images(model, processor, [None, None], errors="skip")


def test_bad_images_of_a_column(model, processor, photos):
    """`datasets` raises an error when it decodes a bad image."""
    images = [
        str(photos / "red.png"),
        None,
        {"bytes": b"no picture", "path": None},
        str(photos / "green.png"),
    ]
    column = Dataset.from_dict({"image": images}, features=Features({"image": Image()}))["image"]
    found = embed_images(model, processor, column, errors="skip", return_names=True)
    expected = embed_images(model, processor, [images[0], images[3]])
    torch.testing.assert_close(found.embeddings, expected, atol=1e-5, rtol=1e-5)
    assert found.names == [0, 3]
    assert [skipped.index for skipped in found.skipped] == [1, 2]
    column = Dataset.from_dict({"image": images[2:]}, features=Features({"image": Image()}))["image"]
    with pytest.raises(ValueError, match=r"images\[0\] cannot be read: cannot identify image file"):
        embed_images(model, processor, column)


def array(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def with_one(value):
    """Return an image of floats, of which one has this value."""
    image = array(3, 20, 20) / np.float32(255)
    image[0, 1, 1] = value
    return image


NOT_ONE_IMAGE = [
    array(2, 20, 20, 3),
    array(1, 20, 20, 3),
    torch.rand(2, 3, 20, 20),
    array(2, 2, 20, 20, 3),
    [array(20, 20, 3)],
    array(20),
    array(0, 20, 3),
    np.uint8(3),
    b"bytes",
    {"bytes": b"", "path": None},
    np.array([None, 1], dtype=object),
    array(20, 20, 3) * 1j,
    with_one(np.nan),
    with_one(np.inf),
    torch.from_numpy(with_one(-np.inf)),
    PillowImage.fromarray(with_one(np.nan)[0]),
]


@pytest.mark.parametrize("wrong", NOT_ONE_IMAGE, ids=range(len(NOT_ONE_IMAGE)))
def test_one_embedding_for_each_image_or_an_error_with_its_index(model, processor, wrong):
    """An array of two images in a list once gave two embeddings, so that all later ones moved up."""
    images = [array(20, 20, 3), wrong, array(20, 20)]
    classify = AltCLIPZeroShotPipeline(
        model=model, tokenizer=processor.tokenizer, image_processor=processor.image_processor
    )
    for given in (images, iter(images)):
        with pytest.raises(ValueError, match=r"images\[1\] cannot be read: it"):
            embed_images(model, processor, given)
    with pytest.raises(ValueError, match=r"images\[1\] cannot be read: it"):
        classify(images, ["key", "bell"])
    assert len(embed_images(model, processor, [images[0], images[2]])) == 2


def test_a_batch_of_arrays_names_the_image_that_is_not_finite(model, processor):
    batch = np.stack([with_one(0), with_one(np.nan)])
    for given in (batch, torch.from_numpy(batch)):
        with pytest.raises(ValueError, match=r"images\[1\] cannot be read: it has values that are infinite"):
            embed_images(model, processor, given)


def test_a_batch_in_one_array(model, processor):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 40, 32, 3), dtype=np.uint8)
    expected = embed_images(model, processor, [PillowImage.fromarray(image) for image in pixels])
    for batch in (pixels, torch.from_numpy(pixels), torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255):
        torch.testing.assert_close(embed_images(model, processor, batch), expected)


def test_transparent_images_are_embedded_on_the_background(model, processor):
    """Composite with every model, also where its processor has no such setting, as CLIP's."""
    image = PillowImage.new("RGBA", (40, 32), (200, 30, 60, 255))
    image.paste((0, 90, 0, 0), (0, 0, 20, 32))
    grounds = {None: (0, 90, 0), "white": (255, 255, 255), "#102030": (16, 32, 48)}
    for background, color in grounds.items():
        processor.background = background
        flat = image.convert("RGB")
        flat.paste(color, (0, 0, 20, 32))
        expected = embed_images(model, processor, [flat])
        for given in (image, np.asarray(image), torch.from_numpy(np.array(image)) / 255):
            torch.testing.assert_close(embed_images(model, processor, [given]), expected)

    # A processor without the setting composites on white.
    del processor.image_processor.background
    assert not torch.allclose(embed_images(model, processor, [image]), expected, atol=1e-3)
    flat.paste((255, 255, 255), (0, 0, 20, 32))
    expected = embed_images(model, processor, [flat])
    torch.testing.assert_close(embed_images(model, processor, [image]), expected)


@pytest.mark.parametrize("value", [torch.nan, -torch.inf])
def test_an_embedding_that_is_not_finite_is_refused_with_its_index(model, processor, value):
    with torch.no_grad():
        model.text_projection.weight.fill_(value)
        model.visual_projection.weight.fill_(value)
    image = PillowImage.new("RGB", (32, 32))
    with pytest.raises(ValueError, match=r"^the embedding of texts\[0\] is not finite: "):
        embed_texts(model, processor, ["key", "bell"])
    with pytest.raises(ValueError, match=r"^the embedding of images\[0\] is not finite: "):
        embed_images(model, processor, [image, image])


def test_one_embedding_that_is_not_finite_is_found_among_others(model, processor, monkeypatch):
    plain = model.get_text_features

    def spoilt(**inputs):
        outputs = plain(**inputs)
        outputs.pooler_output[0, 3] = -torch.inf  # of the shortest text, which comes first in the batch
        return outputs

    monkeypatch.setattr(model, "get_text_features", spoilt)
    with pytest.raises(ValueError, match=r"texts\[1\] is not finite"):
        embed_texts(model, processor, ["a dog", "key", "a bell"])


@pytest.mark.parametrize("batch_size", [0, -1, None, 1.5, "8"])
def test_a_batch_size_that_no_batch_has_is_refused(model, processor, batch_size):
    message = f"^batch_size is {batch_size!r}: give a whole number from 1$"
    with pytest.raises(ValueError, match=message):
        embed_texts(model, processor, ["key"], batch_size=batch_size)
    with pytest.raises(ValueError, match=message):
        embed_images(model, processor, [PillowImage.new("RGB", (32, 32))], batch_size=batch_size)
