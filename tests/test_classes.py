"""Names of classes: every recipe has them in the languages it asks for, and a list that does not fit the labels is told."""

import importlib.util
import json
import re
import unicodedata
import warnings
from dataclasses import replace

import pytest
import yaml
from datasets import ClassLabel, Dataset, Features

from benchmarks.classes import class_names_of, languages_of
from benchmarks.prompts import NAMES, load_class_names, load_templates
from benchmarks.recipe import InputError
from benchmarks.task import Task, load_task

from .conftest import ROOT

RECIPES = {
    path.stem: yaml.safe_load(path.read_text("utf-8"))
    for path in sorted((ROOT / "benchmarks/recipes").glob("*.yaml"))
}
KOREAN = json.loads((NAMES / "imagenet.json").read_text("utf-8"))["ko"]
needs_clip_benchmark = pytest.mark.skipif(
    not importlib.util.find_spec("clip_benchmark"), reason="clip-benchmark is not installed"
)
ASKED = [
    (recipe, name)
    for recipe, asked in RECIPES.items()
    for name in asked["tasks"]
    if load_task(name).kind == "zero_shot"
]


def mine(**changes) -> Task:
    """A user's task whose label has names and which does not say how many classes there are."""
    return replace(load_task("dtd"), dataset="a/b", n_classes=None, **changes)


def labelled(names: list[str]) -> Dataset:
    return Dataset.from_dict({"label": [0]}, Features({"label": ClassLabel(names=names)}))


@pytest.mark.parametrize("recipe,name", ASKED)
@pytest.mark.filterwarnings("ignore:class names of")  # some lists of clip-benchmark call two classes the same
def test_every_recipe_has_names_and_sentences(recipe, name, miniature):
    task = load_task(name)
    source = str(miniature / "dataset/class_names.json") if "miniature" in task.suites else task.class_names
    if "clip_benchmark" in str(source) and importlib.util.find_spec("clip_benchmark") is None:
        pytest.skip("clip-benchmark is not installed, whose names the task reads")
    languages = RECIPES[recipe].get("languages") or languages_of(task, source)
    of_dataset = [
        f"class {label}" for label in range(task.n_classes)
    ]  # a stand-in for what the data says, in English
    names = load_class_names(
        source, languages, task.n_classes, dataset_names=of_dataset, subset=task.class_subset
    )
    assert list(names) == languages
    assert {len(listed) for listed in names.values()} == {task.n_classes}
    assert all(load_templates(task.templates, language) for language in languages)


def test_the_label_says_how_many_classes_there_are(tmp_path):
    (tmp_path / "names.json").write_text(json.dumps({"zh": ["猫", "狗", "牛", "羊"]}))
    rows, given = labelled(["cat", "dog", "cow"]), str(tmp_path / "names.json")
    with pytest.raises(InputError, match="4 names for 3 classes; too many: '羊'"):
        class_names_of(mine(), ["zh"], rows, given)
    with pytest.raises(InputError, match=r"1 of 5 classes without a name: 4\."):
        class_names_of(replace(mine(), n_classes=5), ["zh"], rows, given)
    assert class_names_of(mine(), ["en"], rows) == {"en": ["cat", "dog", "cow"]}


def test_before_rows_are_read_nothing_is_said_of_their_names():
    with pytest.raises(
        InputError,
        match="'zh': the dataset names its classes in English only, if at all; give .* with {'zh': ",
    ):
        class_names_of(mine(), ["en", "zh"], None)
    assert class_names_of(mine(), ["en"], None) == {}


def test_names_in_another_order_are_warned_of():
    rows = labelled(["ant", "red_fox", "wren"])
    with pytest.warns(
        UserWarning,
        match="'en' are those of the dataset in another order: class 1 is 'red fox' there and 'wren' in",
    ):
        class_names_of(mine(class_names={"en": ["Ant", "Wren", "Red fox"]}), ["en"], rows)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        class_names_of(
            mine(class_names={"en": ["Ant", "Red fox", "wren"], "de": ["Ameise", "Fuchs", None]}),
            ["en", "de"],
            rows,
        )


def test_languages_are_those_of_the_file_that_have_the_key(tmp_path):
    path = tmp_path / "names.json"
    path.write_text(
        json.dumps(
            {"zh": {"pets": ["猫"], "food": ["饭"]}, "fr": {"pets": ["chat"]}, "en": {"food": ["rice"]}}
        )
    )
    assert (
        languages_of(mine(), f"{path}:pets") == languages_of(mine(class_names=f"{path}:pets")) == ["zh", "fr"]
    )
    assert languages_of(mine(), f"{path}:cars") == ["zh", "fr", "en"]
    with pytest.raises(InputError, match="in 'zh' has no key 'cars': there are pets, food"):
        class_names_of(mine(), languages_of(mine(), f"{path}:cars"), labelled(["cat"]), f"{path}:cars")
    path.write_text(json.dumps({"zh": ["猫"], "fr": ["chat"]}))
    assert languages_of(mine(), str(path)) == ["zh", "fr"]
    assert languages_of(mine(), "altclip:imagenet") == ["ko"]
    assert languages_of(mine(), "clip_benchmark:pets") == languages_of(mine(), "absent.json:pets") == ["en"]


def test_korean_names_are_complete_distinct_and_in_hangul():
    assert len(KOREAN) == 1000 == len({name.replace(" ", "") for name in KOREAN})
    for name in KOREAN:
        assert re.search("[가-힣]", name), name
        assert not re.search("[^가-힣 ()]", re.sub("CD|모델 T|2인용", "", name)), name
        assert name == unicodedata.normalize("NFC", name.strip())


@needs_clip_benchmark
@pytest.mark.filterwarnings("ignore:class names of 'en'")  # it calls two classes missile, and two sunglasses
@pytest.mark.parametrize("name", ["imagenet", "imagenet-v2", "imagenet-a", "imagenet-r", "imagenet-sketch"])
def test_korean_names_stand_where_the_english_do(name):
    names = class_names_of(load_task(name), ["en", "ko"], None)
    pairs = dict(zip(names["en"], names["ko"], strict=True))
    meant = {
        "goldfinch": "오색방울새",
        "flamingo": "홍학",
        "acorn": "도토리",
        "broom": "빗자루",
    }  # in ImageNet-A and -R, too
    if len(pairs) > 200:
        meant |= {
            "tench": "텐치",
            "crane bird": "두루미",
            "construction crane": "크레인",
            "toilet paper": "두루마리 휴지",
        }
        assert [
            names["ko"].index(meant[crane]) for crane in ("tench", "crane bird", "construction crane")
        ] == [0, 134, 517]
        assert [label for label, given in enumerate(names["en"]) if given == "missile"] == [
            names["ko"].index("미사일"),
            744,
        ]
    else:  # class 6 of each
        sixth = {"imagenet-a": ("vulture", "독수리"), "imagenet-r": ("goldfinch", "오색방울새")}[name]
        assert (names["en"][6], names["ko"][6]) == sixth
    assert {english: pairs[english] for english in meant} == meant


@needs_clip_benchmark
@pytest.mark.filterwarnings(
    "ignore:class names of 'ko' in babel_imagenet"
)  # it calls two classes a kettle, and two a wallet
def test_korean_names_are_in_order_throughout():
    """Babel-ImageNet names 648 of the classes, with BabelNet's words; names one row off agree with hardly any of them."""
    theirs = load_class_names("clip_benchmark:babel_imagenet", ["ko"], 1000)["ko"]
    bare = [[re.sub(r"\W", "", name or "") for name in names] for names in (KOREAN, theirs)]
    agree = [bool(b) and (a in b or b in a) for a, b in zip(*bare)]
    shares = [
        sum(agree[start : start + 50]) / sum(map(bool, bare[1][start : start + 50]))
        for start in range(0, 1000, 50)
    ]
    assert sum(agree) > 0.75 * sum(map(bool, bare[1])), shares
    assert min(shares) > 0.5, shares


def test_a_list_of_korean_names_that_lost_one_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.prompts.NAMES", tmp_path)
    (tmp_path / "imagenet.json").write_text(json.dumps({"ko": KOREAN[1:]}))
    with pytest.raises(InputError, match=r"'ko' in imagenet.json: 1 of 1000 classes without a name: 999\."):
        class_names_of(load_task("imagenet"), ["ko"], None)
    monkeypatch.setattr("benchmarks.prompts.load_subset", lambda name: list(range(200)))
    with pytest.raises(InputError, match="999 names, but imagenet_a is of ImageNet's 1,000"):
        class_names_of(load_task("imagenet-a"), ["ko"], None)
    with pytest.raises(InputError, match="altclip has no classnames 'places': there are imagenet"):
        load_class_names("altclip:places", ["ko"])
    with pytest.raises(InputError, match="imagenet.json has no language 'th': there are ko"):
        load_class_names("altclip:imagenet", ["th"])
