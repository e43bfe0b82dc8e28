"""Captions of every form are read to the same (row, language) examples."""

import pytest
from datasets import Dataset, Features, Image, Json, List, Translation, Value

from common.errors import InputError
from training.data.captions import find_form, read_captions, with_captions, with_image
from training.data.examples import CaptionExamples

from .test_training_images import encoded

TEXT = Value("string")
TEXTS = List(Value("string"))
# The captions of three rows, as most forms hold them; as forms of one language do; and with two of a
# language.
EXPECTED = [{"en": ["key"], "zh": ["钥匙"]}, {"zh": ["狗"]}, {}]
ONE = [{"en": ["key"]}, {"en": ["dog"]}, {}]
SEVERAL = [{"en": ["key", "a key"], "zh": ["钥匙"]}, {"zh": ["狗"]}, {}]


def pairs(*captions):
    return [{"language": language, "text": text} for language, text in captions]


SEVERAL_PAIRS = [
    pairs(("en", "key"), ("zh", "钥匙"), ("en", "a key")),
    pairs(("zh", "狗"), ("en", "")),
    [],
]
# As JSON, some with more keys.
JSON_PAIRS = [
    [{"language": "en", "text": "key"}, {"language": "zh", "text": "钥匙", "by": "a model"}],
    pairs(("zh", "狗")),
    [],
]
DICTS = [{"en": "key", "zh": "钥匙"}, {"en": None, "zh": "狗"}, {"en": "", "zh": None}]
# name: (columns, their features, languages given by the user, captions expected)
FORMS = {
    "dict": ({"captions": DICTS}, {"captions": {"en": TEXT, "zh": TEXT}}, None, EXPECTED),
    "dict of lists": (
        {
            "captions": [
                {"en": ["key", "", "a key"], "zh": ["钥匙"]},
                {"en": [], "zh": ["狗"]},
                {"en": None, "zh": None},
            ]
        },
        {"captions": {"en": TEXTS, "zh": TEXTS}},
        None,
        SEVERAL,
    ),
    "list of pairs": (
        {"captions": SEVERAL_PAIRS},
        {"captions": List({"language": TEXT, "text": TEXT})},
        None,
        SEVERAL,
    ),
    "two lists in a dict": (
        {
            "captions": [
                {"language": ["en", "zh"], "text": ["key", "钥匙"]},
                {"language": ["zh"], "text": ["狗"]},
                None,
            ]
        },
        {"captions": {"language": TEXTS, "text": TEXTS}},
        None,
        EXPECTED,
    ),
    "one pair": (
        {
            "captions": [
                {"language": "en", "text": "key"},
                {"language": "en", "text": "dog"},
                {"language": "zh", "text": ""},
            ]
        },
        {"captions": {"language": TEXT, "text": TEXT}},
        None,
        ONE,
    ),
    "two columns of lists": (
        {"captions": [["key", "钥匙", "a key"], ["狗"], []], "language": [["en", "zh", "en"], ["zh"], []]},
        {"captions": TEXTS, "language": TEXTS},
        None,
        SEVERAL,
    ),
    "text and language": (
        {"text": ["key", "狗", None], "language": ["en", "zh", "en"]},
        {"text": TEXT, "language": TEXT},
        None,
        [{"en": ["key"]}, {"zh": ["狗"]}, {}],
    ),
    "text in the language named": ({"caption": ["key", "dog", ""]}, {"caption": TEXT}, ["en"], ONE),
    "texts in the language named": (
        {"txt": [["key", "a key"], ["dog"], None]},
        {"txt": TEXTS},
        ["en"],
        [{"en": ["key", "a key"]}, {"en": ["dog"]}, {}],
    ),
    # Json() columns have no type for each key: what a row holds is found when it is read.
    "dicts of their own": (
        {"captions": [{"en": "key", "zh": ["钥匙"]}, {"zh": "狗", "en": " "}, {}]},
        {"captions": Json()},
        None,
        EXPECTED,
    ),
    "dict of cells of their own": (
        {"captions": [{"en": ["key", "a key"], "zh": "钥匙"}, {"en": None, "zh": "狗"}, None]},
        {"captions": {"en": Json(), "zh": TEXT}},
        None,
        SEVERAL,
    ),
    "list of pairs of their own": (
        {"captions": JSON_PAIRS},
        {"captions": List(Json())},
        None,
        EXPECTED,
    ),
    "Translation": ({"translation": DICTS}, {"translation": Translation(["en", "zh"])}, None, EXPECTED),
    # The fields of `json` count as columns, and `captions` comes before `txt`.
    "json of webdataset": (
        {"json": [{"captions": caption, "id": 1} for caption in DICTS], "txt": ["other"] * 3},
        {"json": {"captions": {"en": TEXT, "zh": TEXT}, "id": Value("int64")}, "txt": TEXT},
        None,
        EXPECTED,
    ),
}


def made(columns, features):
    images = [{"bytes": encoded(color), "path": None} for color in ("red", "green", "blue")]
    return Dataset.from_dict({"image": images, **columns}, features=Features({"image": Image(), **features}))


@pytest.mark.parametrize("columns,features,languages,expected", FORMS.values(), ids=FORMS)
def test_every_form_is_read_to_the_same(columns, features, languages, expected):
    """Read captions row by row, as from streams, and as the columns of a dataset that lies on the disk."""
    rows = made(columns, features)
    form = find_form(rows.features, "pictures", languages=languages)
    assert [read_captions(row, form) for row in rows] == expected

    given = with_captions(with_image(rows, "pictures"), form, "pictures")
    assert given.column_names == ["image", "captions"]
    available = list(given.features["captions"])
    assert available == sorted(set().union(*expected))

    dataset = CaptionExamples(given.cast_column("image", Image()), available, "image")
    expected_examples = []
    n_empty = 0
    for number, captions in enumerate(expected):
        for language in available:
            expected_examples += [(number, text) for text in captions.get(language, [])]
            n_empty += language not in captions
    assert dataset.skipped == {"empty": n_empty}

    # The color of an image tells the row that it is of.
    colors = [(255, 0, 0), (0, 128, 0), (0, 0, 255)]
    examples = []
    for item in dataset.__getitems__(range(len(dataset))):
        number = colors.index(item["image"].getpixel((0, 0)))
        examples.append((number, item["text"]))
    assert examples == expected_examples


def test_all_captions_of_an_image_share_its_id():
    captions = [
        {"en": ["key", "a key"], "zh": ["钥匙"]},
        {"en": ["a key"], "zh": []},
        {"en": ["key"], "zh": None},
    ]
    rows = made({"captions": captions}, {"captions": {"en": TEXTS, "zh": TEXTS}})
    examples = CaptionExamples(rows, ["zh", "en"], "image")
    # 钥匙, key and "a key" of row 0, "a key" of row 1, key of row 2
    # The first English caption is what rows are compared by: "key" in rows 0 and 2, "a key" in row 1 alone.
    ids = [example["row_id"] for example in examples.__getitems__(range(5))]
    assert ids[0] == ids[1] == ids[2] == ids[4] != ids[3]


def test_a_column_can_be_chosen():
    columns = {"caption": ["key", "dog", "bell"], "captions": ["a", "b", "c"]}
    rows = made(columns, {"caption": TEXT, "captions": TEXT})
    # Of the usual names of columns, `captions` comes before `caption`.
    by_default = find_form(rows.features, "pictures", None, ["en"])
    assert read_captions(rows[0], by_default) == {"en": ["a"]}
    chosen = find_form(rows.features, "pictures", "caption", ["en"])
    assert read_captions(rows[0], chosen) == {"en": ["key"]}


@pytest.mark.parametrize(
    "features,arguments,message",
    [
        (
            {"sound": TEXT},
            {},
            "has no column of captions: name the one of the texts by --text_column; it has image, sound",
        ),
        ({"text": TEXT}, {"text_column": "txet"}, "has no column 'txet'; it has image, text"),
        (
            {"captions": Value("int64")},
            {},
            r"column 'captions' of 'pictures' must hold texts, \{language: text\}",
        ),
        ({"text": TEXT}, {}, "no column 'language' says which: name it by --languages, which has none"),
        ({"text": TEXT}, {"languages": ["en", "zh"]}, "name it by --languages, which has en zh"),
    ],
)
def test_captions_that_cannot_be_read_are_refused(features, arguments, message):
    with pytest.raises(InputError, match=message):
        find_form(Features({"image": Image(), **features}), "pictures", **arguments)


def test_lists_of_unequal_length_are_refused():
    columns = {"captions": [["key"], ["dog", "bell"], []], "language": [["en"], ["en"], []]}
    rows = made(columns, {"captions": TEXTS, "language": TEXTS})
    with pytest.raises(InputError, match="a row has 1 languages, en, and 2 texts: fix it"):
        with_captions(rows, find_form(rows.features, "pictures"), "pictures")


def test_a_language_without_any_text_has_a_place():
    captions = [{"en": "key", "zh": None}] * 3
    rows = made({"captions": captions}, {"captions": {"en": TEXT, "zh": Value("null")}})
    given = with_captions(rows, find_form(rows.features, "pictures"), "pictures")
    assert CaptionExamples(given, ["en", "zh"], "image").skipped == {"empty": 3}


@pytest.mark.parametrize(
    "value", [{"en": 7}, {"en": {"a": "b"}}, {"en": ["a", 7]}, "a text", 7, [{"text": "a"}, "b"]], ids=repr
)
def test_what_is_no_text_is_refused(value):
    rows = made({"captions": [{"en": "a"}, value, {"en": "b"}]}, {"captions": Json()})
    message = "column 'captions' has .* in a row, (which is no text|and no {language: text})"
    with pytest.raises(InputError, match=message):
        with_captions(rows, find_form(rows.features, "pictures"), "pictures")


def test_the_one_column_of_images_is_found():
    rows = made({"txt": ["key"] * 3}, {"txt": TEXT}).rename_column("image", "jpg")
    found = with_image(rows, "pictures")
    assert found.column_names == ["image", "txt"]
    assert found[0]["image"]["bytes"] == encoded("red")

    encoded_images = list(rows.cast_column("jpg", Image(decode=False))["jpg"])
    both = rows.add_column("png", encoded_images, feature=Image())
    message = "has images in jpg and png: keep one of them; its columns are jpg, txt, png"
    with pytest.raises(InputError, match=message):
        with_image(both, "pictures")
    with pytest.raises(InputError, match="has no column image; its columns are txt"):
        with_image(rows.remove_columns("jpg"), "pictures")
