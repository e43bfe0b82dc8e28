"""Our processor beside transformers' own: equal outputs in every form of call, and more only where that one
gives nothing usable.
"""

import json
from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AltCLIPProcessor as NativeProcessor
from transformers import (
    AutoImageProcessor,
    AutoProcessor,
    AutoTokenizer,
    CLIPImageProcessor,
    XLMRobertaTokenizer,
)

from modeling_altclip import AltCLIPProcessor
from modeling_altclip.texts_altclip import text_length

# SentencePiece's mark of a space, and the letters: a token for each character.
LETTERS = "▁abcdefghijklmnopqrstuvwxyz"
LONG = "a dog " * 40  # 242 tokens
PIXELS = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
CHANNELS_FIRST = np.ascontiguousarray(PIXELS.transpose(2, 0, 1))
PICTURE = Image.fromarray(PIXELS)


def tokenizer_of(folder, **stated):
    """Return a tokenizer whose pieces are letters.

    What is stated goes through its files, as with a tokenizer from the Hub.
    """
    special = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
    pieces = [(letter, -3.0) for letter in LETTERS]
    tokenizer = XLMRobertaTokenizer(vocab=[*special, *pieces, ("<mask>", 0.0)])
    tokenizer.save_pretrained(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | stated))
    return AutoTokenizer.from_pretrained(folder)


def both(folder, **stated):
    """Return our processor and transformers' own, each with parts of its own."""
    processors = []
    for processor_class in (AltCLIPProcessor, NativeProcessor):
        image_processor = CLIPImageProcessor(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
        )
        processors.append(processor_class(image_processor, tokenizer_of(folder, **stated)))
    return processors


def result(processor, **given):
    """Return the output of a call, or the error that it ends with."""
    try:
        return processor(**given)
    except Exception as error:
        return error


def assert_equal(ours, theirs):
    """Check that types, keys, order and bits are the same all the way down."""
    assert type(ours) is type(theirs)
    if isinstance(theirs, list | tuple):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs):
            assert_equal(one, other)
    elif isinstance(theirs, torch.Tensor):
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)
    elif isinstance(theirs, np.ndarray) and theirs.dtype == object:  # of arrays of several lengths
        assert_equal(list(ours), list(theirs))
    elif isinstance(theirs, np.ndarray):
        assert ours.dtype == theirs.dtype
        assert np.array_equal(ours, theirs)
    elif hasattr(theirs, "keys"):
        assert list(ours) == list(theirs)
        for key in theirs:
            assert_equal(ours[key], theirs[key])
    else:
        assert ours == theirs


def choices(**values):
    """Yield all combinations of options; None leaves one out."""
    for combination in product(*values.values()):
        yield {name: value for name, value in zip(values, combination) if value is not None}


def says_how_to_cut(options):
    """Return True if a call says how texts are cut: by a length, or that they are not."""
    if "truncation" in options:
        return options["truncation"] is False or "max_length" in options
    return "max_length" in options and "padding" not in options


# One text and several, empty ones, equal and unequal lengths, a tuple, a None, and more than 77 tokens.
TEXTS = [
    "a",
    "",
    "a dog",
    ["a"],
    ["", "a"],
    ["a dog", "a cat"],
    ["a", "a longer one"],
    [],
    ("a", "b"),
    ["a", None],
    LONG,
    [LONG, "a"],
]
# What a tokenizer_config.json may state.
STATED = [
    {},
    {"model_max_length": 77},
    {"model_max_length": 512},
    {"model_max_length": 40},
    {"padding_side": "left", "truncation_side": "left"},
    {"padding": "max_length", "max_length": 20, "truncation": True},
    {"padding": True},
    {"max_length": 10},
]


def most_tokens(token_ids):
    """Return the number of tokens of the longest text."""
    return max(len(ids) for ids in token_ids)


@pytest.mark.filterwarnings("ignore:`max_length` is ignored")
@pytest.mark.parametrize("stated", STATED, ids=str)
def test_texts_are_equal_where_ours_does_not_cut(tmp_path, stated):
    ours, theirs = both(tmp_path, **stated)
    longest = text_length(ours.tokenizer)
    n_equal = 0
    options = choices(
        return_tensors=(None, "pt", "np"),
        padding=(None, False, True, "max_length"),
        truncation=(None, False, True),
        max_length=(None, 5, 12, 90),
    )
    for text, given in product(TEXTS, options):
        expected = result(theirs, text=text, **given)
        if isinstance(expected, Exception):
            # Where transformers refuses, ours may do more.
            continue
        texts = [text] if isinstance(text, str) else text
        is_too_long = most_tokens(theirs.tokenizer(texts)["input_ids"]) > longest
        if is_too_long and not says_how_to_cut(stated | given):
            cut = rows(ours(text=text, **given))
            assert most_tokens(cut) <= max(longest, given.get("max_length", 0))
        else:
            assert_equal(ours(text=text, **given), expected)
            n_equal += 1
    # Of 1,728 calls: 12 texts with 144 combinations of options.
    assert n_equal > 500


@pytest.mark.parametrize(
    "given",
    [{}, {"return_tensors": "pt"}, {"return_tensors": "pt", "padding": True}, {"truncation": True}],
    ids=str,
)
def test_texts_are_tokenized_once(tmp_path, monkeypatch, given):
    ours, _ = both(tmp_path, model_max_length=77)
    calls = []
    encode = type(ours.tokenizer)._encode_plus

    def counted(tokenizer, *args, **kwargs):
        calls.append(args)
        return encode(tokenizer, *args, **kwargs)

    monkeypatch.setattr(type(ours.tokenizer), "_encode_plus", counted)
    for text in ("a dog", ["a dog", "a cat"], ["a", "a longer one"], LONG, [LONG, "a"]):
        calls.clear()
        ours(text=text, **given)
        assert len(calls) == 1


def rows(prepared):
    """Return the token ids of each text, also of one that was given alone."""
    ids = prepared["input_ids"]
    is_one = isinstance(ids, list) and not isinstance(ids[0], list)
    return [ids] if is_one else ids


# Options that the grid above leaves out.
RARE = [
    {"pad_to_multiple_of": 8},
    {"pad_to_multiple_of": 8, "padding": True},
    {"padding_side": "left", "padding": True},
    {"add_special_tokens": False},
    {"return_token_type_ids": True},
    {"return_attention_mask": False},
    {"return_special_tokens_mask": True},
    {"return_offsets_mapping": True},
    {"return_length": True},
    {"return_overflowing_tokens": True, "truncation": True, "max_length": 5, "stride": 1},
    {"is_split_into_words": True},
    {"truncation": "do_not_truncate"},
    {"padding": "do_not_pad"},
    {"verbose": False},
    {"text_kwargs": {"padding": "max_length", "max_length": 12}},
    {"text_kwargs": {"truncation": True}, "max_length": 5},
    {"text_kwargs": {"padding": True}, "padding": True},  # which both refuse
    {"common_kwargs": {"return_tensors": "np"}},
    {"images_kwargs": {"do_normalize": False}},
    {"unknown": True},
]


@pytest.mark.parametrize("given", RARE, ids=str)
def test_rarer_options_are_equal(tmp_path, given):
    ours, theirs = both(tmp_path, model_max_length=77)
    n_equal = 0
    for text, tensors in product(("a dog", "", ["a dog", "a cat"], ["a", "a longer one"]), (None, "pt")):
        options = given if tensors is None else given | {"return_tensors": tensors}
        expected = result(theirs, text=text, **options)
        if not isinstance(expected, Exception):
            assert_equal(ours(text=text, **options), expected)
            n_equal += 1
    assert n_equal or "padding" in given


def test_pairs_of_texts_are_equal(tmp_path):
    ours, theirs = both(tmp_path, model_max_length=77)
    for text, pair in (("a", "dog"), (["a", "a cat"], ["dog", "b"])):
        assert_equal(ours(text=text, text_pair=pair), theirs(text=text, text_pair=pair))
    assert ours(text=LONG, text_pair=LONG, return_tensors="pt")["input_ids"].shape == (1, 77)


PIXELS_TWICE = np.stack([PIXELS] * 2)

TENSOR = torch.from_numpy(CHANNELS_FIRST)

# Without alpha, which ours composites where transformers drops it.
PICTURES = {
    "picture": PICTURE,
    "grey": PICTURE.convert("L"),
    "palette": PICTURE.convert("P"),
    "black and white": PICTURE.convert("1"),
    "print": PICTURE.convert("CMYK"),
    "opaque": PICTURE.convert("RGBA"),
    "list": [PICTURE, PICTURE],
    "tuple": (PICTURE, PICTURE),
    "nested": [[PICTURE], [PICTURE, PICTURE]],
}

ARRAYS = {
    "array": PIXELS,
    "channels first": CHANNELS_FIRST,
    "list of arrays": [PIXELS, PIXELS],
    "nested arrays": [[PIXELS, PIXELS], [PIXELS]],
    "batch": PIXELS_TWICE,
    "list of batches": [PIXELS_TWICE, PIXELS_TWICE],
    "floats to 255": PIXELS.astype(np.float32),
    "integers": PIXELS.astype(np.int64),
    "one channel": PIXELS[..., :1],
}

TENSORS = {
    "tensor": TENSOR,
    "tensor, channels last": torch.from_numpy(PIXELS),
    "batch of tensors": torch.stack([TENSOR, TENSOR]),
    "float tensor to 255": TENSOR.float(),
}

IMAGES = PICTURES | ARRAYS | TENSORS
PREPARATIONS = [
    {},
    {"return_tensors": "pt"},
    {"return_tensors": "np"},
    {"do_resize": False},
    {"do_resize": False, "do_center_crop": False},
    {"do_normalize": False},
    {"do_rescale": False},
    {"do_convert_rgb": False},
    {"data_format": "channels_last"},
    {"input_data_format": "channels_last"},
    {"input_data_format": "channels_first"},
    {"size": {"height": 20, "width": 24}, "do_center_crop": False},
    {"crop_size": 16, "resample": 2},
    {"image_mean": [0, 0, 0], "image_std": [1, 1, 1]},
    {"rescale_factor": 1 / 127.5},
    {"images_kwargs": {"do_normalize": False}},
    {"text_kwargs": {"padding": True}},
]


@pytest.mark.parametrize("form", IMAGES)
def test_images_are_equal(tmp_path, form):
    """Compare without alpha and without floats within [0, 1].

    `test_processing.py` has these two, where ours differs.
    """
    ours, theirs = both(tmp_path)
    n_equal = 0
    for given in PREPARATIONS:
        expected = result(theirs, images=IMAGES[form], **given)
        if not isinstance(expected, Exception):
            assert_equal(ours(images=IMAGES[form], **given), expected)
            n_equal += 1
    # transformers refuses a few options for some forms.
    assert n_equal >= len(PREPARATIONS) - 3


def test_texts_and_images_together_are_equal(tmp_path):
    ours, theirs = both(tmp_path, model_max_length=77)
    all_options = [
        {},
        {"padding": True, "do_normalize": False},
        {"padding": "max_length", "images_kwargs": {"do_rescale": False}},
    ]
    n_equal = 0
    for text, tensors, given in product(("a dog", ["a"], ["a", "a cat"]), (None, "pt", "np"), all_options):
        expected = result(theirs, images=PICTURE, text=text, return_tensors=tensors, **given)
        if not isinstance(expected, Exception):
            assert_equal(ours(PICTURE, text, return_tensors=tensors, **given), expected)
            n_equal += 1
    assert n_equal > 0


def test_more_is_returned_where_theirs_gives_nothing_usable(tmp_path):
    ours, theirs = both(tmp_path, model_max_length=512)
    ragged = ["a", "a longer one"]
    with pytest.raises(ValueError, match="padding"):
        theirs(text=ragged, return_tensors="pt")
    padded = theirs(text=ragged, return_tensors="pt", padding=True)
    assert_equal(ours(text=ragged, return_tensors="pt"), padded)
    with pytest.raises(ValueError, match="padding"):
        ours(text=ragged, return_tensors="pt", padding=False)  # as it says
    assert ours(text=ragged, return_tensors="pt", max_length=5)["input_ids"].shape == (2, 5)

    assert len(theirs(text=LONG)["input_ids"]) == 242
    assert len(ours(text=LONG)["input_ids"]) == 77
    assert len(ours(text=LONG, truncation=True)["input_ids"]) == 77
    assert len(ours(text=LONG, truncation=False)["input_ids"]) == 242  # as it says
    assert len(ours(text=LONG, truncation=True, max_length=90)["input_ids"]) == 90  # as it says


def files_in(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("background", ["white", (1, 2, 3), None])
def test_saving_changes_nothing(tmp_path, background):
    ours, _ = both(tmp_path, model_max_length=77)
    ours.background = background
    before = ours.to_dict()
    ours.save_pretrained(tmp_path / "saved")
    assert ours.to_dict() == before

    loaded = AltCLIPProcessor.from_pretrained(tmp_path / "saved")
    assert loaded.to_dict() == before
    loaded.save_pretrained(tmp_path / "again")
    assert AltCLIPProcessor.from_pretrained(tmp_path / "again").to_dict() == before
    assert files_in(tmp_path / "saved") == files_in(tmp_path / "again")


def read_json(path):
    return json.loads(path.read_text())


@pytest.mark.parametrize("beside_a_model", [False, True])
def test_image_settings_are_saved_where_others_look_for_them(model, tmp_path, beside_a_model):
    """Save `preprocessor_config.json` for transformers.js; whoever reads the other file gets the same."""
    saved = tmp_path / "saved"
    ours, _ = both(tmp_path / "parts", model_max_length=77)
    ours.image_processor.image_mean = [0.1, 0.2, 0.3]
    ours.background = "black"
    if beside_a_model:
        model.save_pretrained(saved)
    names = {path.rsplit("/", 1)[1] for path in ours.save_pretrained(saved)}
    assert names == {"processor_config.json", "preprocessor_config.json"}

    ours.image_processor.save_pretrained(tmp_path / "alone")
    settings = read_json(saved / "preprocessor_config.json")
    assert settings == read_json(tmp_path / "alone/preprocessor_config.json")
    assert settings == read_json(saved / "processor_config.json")["image_processor"]

    # AutoProcessor needs a model's configuration to know the class.
    auto_classes = [AutoImageProcessor, AutoProcessor] if beside_a_model else [AutoImageProcessor]
    expected = ours(images=PICTURE, return_tensors="pt")["pixel_values"]
    for name in ("processor_config.json", "preprocessor_config.json"):
        for auto_class in auto_classes:
            loaded = auto_class.from_pretrained(saved)
            assert_equal(loaded(images=PICTURE, return_tensors="pt")["pixel_values"], expected)
        (saved / name).unlink()  # then the other one is read
