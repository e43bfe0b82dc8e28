"""Class names: recipes have them in the languages they request; a list has to fit the labels."""

import importlib.util
import json
import re
import unicodedata
import warnings
from dataclasses import replace

import pytest
import yaml
from datasets import ClassLabel, Dataset, Features

from benchmarks.tasks.class_names import class_names_of, languages_of, load_class_names
from benchmarks.tasks.loading import load_task
from benchmarks.tasks.task import Task
from benchmarks.tasks.templates import load_templates
from benchmarks.tasks.text_lists import NAMES
from common.errors import InputError

from .conftest import ROOT

RECIPES = {
    path.stem: yaml.safe_load(path.read_text("utf-8"))
    for path in sorted((ROOT / "benchmarks/recipes").glob("*.yaml"))
}
KOREAN = json.loads((NAMES / "imagenet.json").read_text("utf-8"))["ko"]
needs_clip_benchmark = pytest.mark.skipif(
    not importlib.util.find_spec("clip_benchmark"), reason="clip-benchmark is not installed"
)


def zero_shot_tasks() -> list[tuple[str, str]]:
    """List the zero-shot tasks of each recipe, as ("paper_table_1", "imagenet")."""
    found = []
    for recipe, settings in RECIPES.items():
        for name in settings["tasks"]:
            if load_task(name).kind == "zero_shot":
                found.append((recipe, name))
    return found


def mine(**changes) -> Task:
    """Return a user's task whose label has names and which does not state the number of classes."""
    return replace(load_task("dtd"), dataset="a/b", n_classes=None, **changes)


def labelled(names: list[str]) -> Dataset:
    return Dataset.from_dict({"label": [0]}, Features({"label": ClassLabel(names=names)}))


@pytest.mark.parametrize("recipe,name", zero_shot_tasks())
@pytest.mark.filterwarnings("ignore:class names of")  # some lists of clip-benchmark call two classes the same
def test_every_recipe_has_names_and_sentences(recipe, name, miniature):
    task = load_task(name)
    source = task.class_names
    if "miniature" in task.suites:
        source = str(miniature / "dataset/class_names.json")
    if "clip_benchmark" in str(source) and importlib.util.find_spec("clip_benchmark") is None:
        pytest.skip("clip-benchmark is not installed, whose names the task reads")
    languages = RECIPES[recipe].get("languages") or languages_of(task, source)
    # Stand in for the English names that the data has.
    of_dataset = [f"class {label}" for label in range(task.n_classes)]
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
    message = "'zh': the dataset names its classes in English only, if at all; give .* with {'zh': "
    with pytest.raises(InputError, match=message):
        class_names_of(mine(), ["en", "zh"], None)
    assert class_names_of(mine(), ["en"], None) == {}


def test_names_in_another_order_are_warned_of():
    rows = labelled(["ant", "red_fox", "wren"])
    task = mine(class_names={"en": ["Ant", "Wren", "Red fox"]})
    message = "'en' are those of the dataset in another order: class 1 is 'red fox' there and 'wren' in"
    with pytest.warns(UserWarning, match=message):
        class_names_of(task, ["en"], rows)

    task = mine(class_names={"en": ["Ant", "Red fox", "wren"], "de": ["Ameise", "Fuchs", None]})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        class_names_of(task, ["en", "de"], rows)


def test_languages_are_those_of_the_file_that_have_the_key(tmp_path):
    path = tmp_path / "names.json"
    names = {"zh": {"pets": ["猫"], "food": ["饭"]}, "fr": {"pets": ["chat"]}, "en": {"food": ["rice"]}}
    path.write_text(json.dumps(names))
    assert languages_of(mine(), f"{path}:pets") == ["zh", "fr"]
    assert languages_of(mine(class_names=f"{path}:pets")) == ["zh", "fr"]
    # With a key that no language has, all are listed, and the names themselves are the error.
    assert languages_of(mine(), f"{path}:cars") == ["zh", "fr", "en"]
    with pytest.raises(InputError, match="in 'zh' has no key 'cars': there are pets, food"):
        class_names_of(mine(), languages_of(mine(), f"{path}:cars"), labelled(["cat"]), f"{path}:cars")

    path.write_text(json.dumps({"zh": ["猫"], "fr": ["chat"]}))
    assert languages_of(mine(), str(path)) == ["zh", "fr"]
    assert languages_of(mine(), "altclip:imagenet") == ["ko"]
    assert languages_of(mine(), "clip_benchmark:pets") == ["en"]
    assert languages_of(mine(), "absent.json:pets") == ["en"]


def test_korean_names_are_complete_distinct_and_in_hangul():
    without_spaces = {name.replace(" ", "") for name in KOREAN}
    assert len(KOREAN) == 1000
    assert len(without_spaces) == 1000
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
    meant = {  # in ImageNet-A and -R, too
        "goldfinch": "오색방울새",
        "flamingo": "홍학",
        "acorn": "도토리",
        "broom": "빗자루",
    }
    if len(pairs) > 200:
        meant |= {
            "tench": "텐치",
            "crane bird": "두루미",
            "construction crane": "크레인",
            "toilet paper": "두루마리 휴지",
        }
        assert names["ko"].index(meant["tench"]) == 0
        assert names["ko"].index(meant["crane bird"]) == 134
        assert names["ko"].index(meant["construction crane"]) == 517
        # English calls two classes missile; Korean has two words.
        missiles = [label for label, given in enumerate(names["en"]) if given == "missile"]
        assert missiles == [names["ko"].index("미사일"), 744]
    else:  # class 6 of each
        sixth = {"imagenet-a": ("vulture", "독수리"), "imagenet-r": ("goldfinch", "오색방울새")}[name]
        assert (names["en"][6], names["ko"][6]) == sixth
    assert {english: pairs[english] for english in meant} == meant


def letters_of(name):
    return re.sub(r"\W", "", name)


@needs_clip_benchmark
# It calls two classes a kettle, and two a wallet.
@pytest.mark.filterwarnings("ignore:class names of 'ko' in babel_imagenet")
def test_korean_names_are_in_order_throughout():
    """Compare with Babel-ImageNet, which names 648 of the classes in BabelNet's words.

    Names that are one row off agree with hardly any of them.
    """
    theirs = load_class_names("clip_benchmark:babel_imagenet", ["ko"], 1000)["ko"]
    ours = [letters_of(name) for name in KOREAN]
    theirs = [letters_of(name or "") for name in theirs]
    is_named = [name != "" for name in theirs]
    # Two names agree where one contains the other; a class without a name agrees with nothing.
    agree = [there != "" and (here in there or there in here) for here, there in zip(ours, theirs)]
    assert sum(agree) > 0.75 * sum(is_named)

    # And so within each 50 classes.
    for start in range(0, 1000, 50):
        window = slice(start, start + 50)
        share = sum(agree[window]) / sum(is_named[window])
        assert share > 0.5, (start, share)


def test_a_list_of_korean_names_that_lost_one_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.tasks.text_lists.NAMES", tmp_path)
    (tmp_path / "imagenet.json").write_text(json.dumps({"ko": KOREAN[1:]}))
    with pytest.raises(InputError, match=r"'ko' in imagenet.json: 1 of 1000 classes without a name: 999\."):
        class_names_of(load_task("imagenet"), ["ko"], None)
    monkeypatch.setattr("benchmarks.tasks.class_names.load_subset", lambda name: list(range(200)))
    with pytest.raises(InputError, match="999 names, but imagenet_a is of ImageNet's 1,000"):
        class_names_of(load_task("imagenet-a"), ["ko"], None)
    with pytest.raises(InputError, match="altclip has no classnames 'places': there are imagenet"):
        load_class_names("altclip:places", ["ko"])
    with pytest.raises(InputError, match="imagenet.json has no language 'th': there are ko"):
        load_class_names("altclip:imagenet", ["th"])
