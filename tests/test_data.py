"""Captioned rows become (row, language) examples, and these become batches."""

import numpy as np
import pytest
import torch
from datasets import Dataset, load_dataset
from PIL import Image as PillowImage
from transformers import (
    AutoTokenizer,
    CLIPImageProcessor,
    ConvNextImageProcessor,
    EfficientNetImageProcessor,
    SiglipImageProcessor,
    ViTImageProcessor,
)

from training.data.examples import SAMPLE, CaptionExamples, Collator, prepare_images, unchanged_size
from training.parallel.caption_rows import CaptionRows
from training.parallel.pretraining import TranslationPairs

CAPTIONS = [
    {"en": "dog face", "zh": "狗脸"},
    {"en": "key", "zh": None},
    {"en": "dog face", "zh": ""},
    {"en": None, "zh": "钥匙"},
]


@pytest.fixture
def rows():
    targets = [[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [3.0, 0.0]]
    return Dataset.from_dict({"captions": CAPTIONS, "target": targets, "other": list("abcd")})


def with_zero_targets(captions):
    """Return a dataset of captions whose targets do not matter."""
    return Dataset.from_dict({"captions": captions, "target": [[0.0]] * len(captions)})


@pytest.fixture(scope="module")
def scenes(miniature):
    return load_dataset(str(miniature / "dataset"), split="train").select(range(40))


def test_every_filled_cell_is_an_example(rows):
    dataset = CaptionExamples(rows, ["en", "zh"], "target")
    examples = dataset.__getitems__(range(len(dataset)))
    assert [(item["text"], item["target"].tolist()) for item in examples] == [
        ("dog face", [0.0, 0.0]),
        ("狗脸", [0.0, 0.0]),
        ("key", [1.0, 0.0]),
        ("dog face", [2.0, 0.0]),
        ("钥匙", [3.0, 0.0]),
    ]
    assert dataset.skipped == {"empty": 3}  # None twice and "" once
    assert dataset[4]["text"] == "钥匙"
    assert len(dataset) == 5


def test_rows_of_equal_english_share_an_id(rows):
    examples = CaptionExamples(rows, ["en", "zh"], "target")
    # dog face, 狗脸, key, dog face, 钥匙
    ids = [example["row_id"] for example in examples.__getitems__(range(5))]
    assert ids[0] == ids[1] == ids[3]
    assert len({ids[0], ids[2], ids[4]}) == 3


def test_rows_without_english_are_not_taken_for_equal():
    captions = [{"en": None, "zh": "狗"}, {"en": "", "zh": "猫"}, {"en": None, "zh": "鱼"}]
    examples = CaptionExamples(with_zero_targets(captions), ["zh"], "target")
    ids = {example["row_id"] for example in examples.__getitems__(range(3))}
    assert len(ids) == 3


def test_equal_captions_without_english_and_equal_pictures_share_an_id():
    captions = [
        {"en": None, "zh": "狗"},
        {"en": "", "zh": "狗"},
        {"en": "cat", "zh": None},
        {"en": "a cat", "zh": "猫"},
        {"en": None, "zh": "猫"},
    ]
    rows = with_zero_targets(captions)
    # The first two share the Chinese caption and lack English. The last two share it, but one has English.
    assert CaptionExamples(rows, ["en", "zh"], "target").row_ids.tolist() == [0, 0, 2, 3, 4]

    # Rows 1 and 4 show the picture q, so that 4 joins 0 and 1; rows 2 and 3 show r.
    joined = CaptionExamples(rows, ["en", "zh"], "target", same=["p", "q", "r", "r", "q"]).row_ids
    assert len({joined[0], joined[1], joined[4]}) == 1
    assert joined[2] == joined[3] != joined[0]


THREE_ROWS = [{"en": "a dog", "zh": ["狗", "犬"]}, {"en": "a cat", "zh": ["猫"]}, {"en": None, "zh": []}]


def fingerprints(captions, languages=("zh",), same="pqr", weights=(1.0, 2.0, 1.0)):
    rows = Dataset.from_dict({"captions": captions, "target": [[0.0]] * 3, "weight": list(weights)})
    return CaptionExamples(rows, list(languages), "target", same=list(same)).fingerprints()


@pytest.mark.parametrize(
    "changed,given",
    [
        ("captions in zh", {"captions": [{"en": "a dog", "zh": ["狗", "狼"]}, *THREE_ROWS[1:]]}),
        ("captions in zh", {"captions": [{"en": "a dog", "zh": ["犬", "狗"]}, *THREE_ROWS[1:]]}),
        # The teacher reads English, whatever the languages are.
        ("captions in en", {"captions": [{"en": "a fox", "zh": ["狗", "犬"]}, *THREE_ROWS[1:]]}),
        (
            "captions in en captions in zh weights of rows",
            {"captions": [THREE_ROWS[1], THREE_ROWS[0], THREE_ROWS[2]]},
        ),
        ("images", {"same": "pqs"}),
        ("weights of rows", {"weights": (1.0, 3.0, 1.0)}),
    ],
    ids=["a caption", "their order", "English", "the order of rows", "an image", "a weight"],
)
def test_fingerprints_tell_what_differs(changed, given):
    before = fingerprints(THREE_ROWS)
    assert before == fingerprints(THREE_ROWS)
    now = fingerprints(**{"captions": THREE_ROWS} | given)
    differ = sorted(name for name in before if before[name] != now[name])
    assert " ".join(differ) == changed
    assert now.keys() == before.keys() == {"captions in en", "captions in zh", "images", "weights of rows"}


def test_rows_of_all_languages_have_the_fingerprints_of_their_captions():
    rows = Dataset.from_dict({"captions": THREE_ROWS, "target": [[0.0]] * 3})
    examples = CaptionExamples(rows, ["en", "zh"], "target")
    expected = examples.fingerprints()
    assert expected.keys() == {"captions in en", "captions in zh"}
    assert CaptionRows(examples).fingerprints() == expected
    one_each = [{"en": row["en"], "zh": "".join(row["zh"])} for row in THREE_ROWS]
    pairs = TranslationPairs(Dataset.from_dict({"captions": one_each}), ["en", "zh"], 0.5, seed=0)
    assert pairs.fingerprints()["captions in en"] == expected["captions in en"]
    assert pairs.fingerprints().keys() == expected.keys()


def test_collator_pads_cuts_and_encodes_equal_texts_once(rows, miniature):
    tokenizer = AutoTokenizer.from_pretrained(miniature / "text_encoder")
    examples = CaptionExamples(rows, ["en", "zh"], "target").__getitems__(range(5))
    texts = [example["text"] for example in examples]
    batch = Collator(tokenizer, max_length=4)(examples)
    assert len(batch["input_ids"]) == 4
    assert batch["input_ids"].shape[1] <= 4
    for row, text in zip(batch["text_rows"], texts):
        kept = batch["input_ids"][row][batch["attention_mask"][row].bool()].tolist()
        assert kept == tokenizer(text, truncation=True, max_length=4)["input_ids"]
    assert batch["target"][:, 0].tolist() == [0, 0, 1, 2, 3]
    assert batch["target"].dtype == torch.float32


def test_lengths_are_in_tokens(miniature):
    """Chinese characters make more tokens than English ones: by characters the order would differ."""
    tokenizer = AutoTokenizer.from_pretrained(miniature / "text_encoder")
    captions = [
        {"en": "dog face and key", "zh": "狗脸和钥匙"},
        {"en": None, "zh": "钥匙"},
        {"en": "key", "zh": None},
    ]
    examples = CaptionExamples(with_zero_targets(captions), ["en", "zh"], "target")
    texts = [example["text"] for example in examples.__getitems__(range(4))]
    lengths = dict(zip(texts, examples.lengths(tokenizer)))

    # Within a language, lengths are in proportion to characters.
    assert lengths["dog face and key"] / lengths["key"] == pytest.approx(16 / 3)
    assert lengths["狗脸和钥匙"] / lengths["钥匙"] == 2.5

    # In total, they are the number of tokens.
    for language, texts in (("en", ["dog face and key", "key"]), ("zh", ["狗脸和钥匙", "钥匙"])):
        n_tokens = sum(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)
        assert sum(lengths[text] for text in texts) == pytest.approx(n_tokens), language


def test_lengths_where_a_language_comes_late(miniature):
    """Sources may lie end to end, so that the first rows hold no text of a language."""
    tokenizer = AutoTokenizer.from_pretrained(miniature / "text_encoder")
    english = [{"en": "key", "zh": None}] * SAMPLE  # as many rows as are sampled at first
    chinese = [{"en": None, "zh": "狗脸和钥匙"}, {"en": None, "zh": "钥匙"}]
    examples = CaptionExamples(with_zero_targets(english + chinese), ["en", "zh"], "target")
    alone = CaptionExamples(with_zero_targets(chinese), ["zh"], "target")
    assert examples.lengths(tokenizer)[-2:].tolist() == alone.lengths(tokenizer).tolist() != [0, 0]


@pytest.mark.parametrize("side,edge", [(32, 32), (45, 32), (32, 40)])
def test_images_are_prepared_as_the_processor_does(scenes, side, edge):
    image_processor = CLIPImageProcessor(size={"shortest_edge": edge}, crop_size={"height": 32, "width": 32})
    images = [image.resize((side, 32)) for image in scenes[:4]["image"]]
    images.append(scenes[4]["image"])  # of another size than the others, except where side is 32
    expected = image_processor(images=images, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(
        prepare_images(images, image_processor)["pixel_values"], expected, atol=1e-6, rtol=1e-6
    )
    assert expected.shape == (5, 3, 32, 32)


PICTURES = [
    PillowImage.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    for seed in (0, 1)
]
SIZE_32 = {"height": 32, "width": 32}
CLIP_OPTIONS = {"size": {"shortest_edge": 32}, "crop_size": SIZE_32}
CHANGES_OF_CLIP = [
    {},
    {"do_normalize": False},
    {"do_rescale": False},
    {"do_rescale": False, "do_normalize": False},
    {"rescale_factor": 1 / 127},
    {"do_center_crop": False, "size": SIZE_32},
    {"do_resize": False},
    {"size": {"shortest_edge": 24}},
    {"size": {"shortest_edge": 48}},
    {"crop_size": {"height": 16, "width": 24}},
    {"crop_size": {"height": 48, "width": 48}},
    {"resample": 0},
    {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]},
    {"image_mean": 0.5, "image_std": 0.25},  # one for all channels
]
IMAGE_PROCESSORS = [CLIPImageProcessor(**CLIP_OPTIONS | change) for change in CHANGES_OF_CLIP]
IMAGE_PROCESSORS += [
    ViTImageProcessor(size=SIZE_32),
    ViTImageProcessor(size=SIZE_32, do_resize=False, do_center_crop=True, crop_size=SIZE_32),
    SiglipImageProcessor(size=SIZE_32),
    ConvNextImageProcessor(size={"shortest_edge": 32}),  # zooms in by 8/7 before it crops
    EfficientNetImageProcessor(size=SIZE_32),  # divides by the deviation twice
]


@pytest.mark.parametrize(
    "seen", [PICTURES, [picture.resize((48, 32)) for picture in PICTURES]], ids=["whole", "wide"]
)
@pytest.mark.parametrize(
    "image_processor",
    IMAGE_PROCESSORS,
    ids=[type(image_processor).__name__ for image_processor in IMAGE_PROCESSORS],
)
def test_training_prepares_images_as_every_processor_does(image_processor, seen):
    expected = image_processor(images=seen, return_tensors="pt")["pixel_values"]
    found = prepare_images(seen, image_processor)["pixel_values"]
    torch.testing.assert_close(found.float(), expected.float(), atol=1e-5, rtol=1e-5)


def test_the_fast_way_is_taken():
    assert unchanged_size(CLIPImageProcessor(**CLIP_OPTIONS)) == (32, 32)
    assert unchanged_size(ViTImageProcessor(size={"height": 16, "width": 32})) == (32, 16)
    assert unchanged_size(CLIPImageProcessor(**CLIP_OPTIONS, do_resize=False)) == (32, 32)
    assert unchanged_size(CLIPImageProcessor(**CLIP_OPTIONS, do_normalize=False)) is None
    assert unchanged_size(ConvNextImageProcessor(size={"shortest_edge": 32})) is None


@pytest.mark.parametrize(
    "background,color", [("white", (255, 255, 255)), ("blue", (0, 0, 255)), (None, (0, 90, 0))]
)
@pytest.mark.parametrize("side", [32, 40])
def test_training_composites_transparent_images(background, color, side):
    """Composite crops and palettes too, on the fast way (side 32) and on the processor's (40)."""
    # The left half is transparent.
    image = PillowImage.new("RGBA", (side, side), (200, 30, 60, 255))
    image.paste((0, 90, 0, 0), (0, 0, 16, side))

    # The same picture with one transparent color, and with a palette whose color 1 is transparent.
    flat = image.convert("RGB")
    keyed = flat.copy()
    keyed.info["transparency"] = keyed.getpixel((0, 0))
    palette = image.convert("P")
    palette.putpalette([200, 30, 60, 0, 90, 0])
    palette.putdata([int(alpha == 0) for alpha in image.getchannel("A").get_flattened_data()])
    palette.info["transparency"] = 1

    flat.paste(color, (0, 0, 16, side))
    image_processor = CLIPImageProcessor(**CLIP_OPTIONS, background=background or "none")
    for given in (image, keyed, palette):
        found = prepare_images([given, given.crop((8, 8, side - 8, side - 8))], image_processor)
        expected = prepare_images([flat, flat.crop((8, 8, side - 8, side - 8))], image_processor)
        assert torch.equal(found["pixel_values"], expected["pixel_values"])
