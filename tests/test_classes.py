"""Names of classes: every recipe has them in the languages it asks for, and a list that does not fit the labels is told."""

import importlib.util
import json
import warnings
from dataclasses import replace

import pytest
import yaml
from datasets import ClassLabel, Dataset, Features

from benchmarks.classes import class_names_of, languages_of
from benchmarks.prompts import load_class_names, load_templates
from benchmarks.recipe import InputError
from benchmarks.task import Task, load_task

from .conftest import ROOT

RECIPES = {path.stem: yaml.safe_load(path.read_text("utf-8")) for path in sorted((ROOT / "benchmarks/recipes").glob("*.yaml"))}
ASKED = [(recipe, name) for recipe, asked in RECIPES.items() for name in asked["tasks"] if load_task(name).kind == "zero_shot"]


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
    if str(source).startswith("clip_benchmark") and importlib.util.find_spec("clip_benchmark") is None:
        pytest.skip("clip-benchmark is not installed, whose names the task reads")
    languages = RECIPES[recipe].get("languages") or languages_of(task, source)
    of_dataset = [f"class {label}" for label in range(task.n_classes)]  # a stand-in for what the data says, in English
    names = load_class_names(source, languages, task.n_classes, dataset_names=of_dataset, subset=task.class_subset)
    assert list(names) == languages and {len(listed) for listed in names.values()} == {task.n_classes}
    assert all(load_templates(task.templates, language) for language in languages)


def test_the_label_says_how_many_classes_there_are(tmp_path):
    (tmp_path / "names.json").write_text(json.dumps({"zh": ["猫", "狗", "牛", "羊"]}))
    rows, given = labelled(["cat", "dog", "cow"]), str(tmp_path / "names.json")
    with pytest.raises(InputError, match="4 names for 3 classes; too many: '羊'"):
        class_names_of(mine(), ["zh"], rows, given)
    with pytest.raises(InputError, match=r"1 of 5 classes without a name: 4\."):
        class_names_of(replace(mine(), n_classes=5), ["zh"], rows, given)
    assert class_names_of(mine(), ["en"], rows) == {"en": ["cat", "dog", "cow"]}


def test_names_in_another_order_are_warned_of():
    rows = labelled(["ant", "red_fox", "wren"])
    with pytest.warns(UserWarning, match="'en' are those of the dataset in another order: class 1 is 'red fox' there and 'wren' in"):
        class_names_of(mine(class_names={"en": ["Ant", "Wren", "Red fox"]}), ["en"], rows)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        class_names_of(mine(class_names={"en": ["Ant", "Red fox", "wren"], "de": ["Ameise", "Fuchs", None]}), ["en", "de"], rows)


def test_languages_are_those_of_the_file_that_have_the_key(tmp_path):
    path = tmp_path / "names.json"
    path.write_text(json.dumps({"zh": {"pets": ["猫"], "food": ["饭"]}, "fr": {"pets": ["chat"]}, "en": {"food": ["rice"]}}))
    assert languages_of(mine(), f"{path}:pets") == languages_of(mine(class_names=f"{path}:pets")) == ["zh", "fr"]
    assert languages_of(mine(), f"{path}:cars") == ["zh", "fr", "en"]
    with pytest.raises(InputError, match="in 'zh' has no key 'cars': there are pets, food"):
        class_names_of(mine(), languages_of(mine(), f"{path}:cars"), labelled(["cat"]), f"{path}:cars")
    path.write_text(json.dumps({"zh": ["猫"], "fr": ["chat"]}))
    assert languages_of(mine(), str(path)) == ["zh", "fr"]
    assert languages_of(mine(), "clip_benchmark:pets") == languages_of(mine(), "absent.json:pets") == ["en"]
