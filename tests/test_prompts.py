"""Our prompt templates are complete, distinct and in their own script; a user's files and those of
clip-benchmark are read.
"""

import importlib.util
import json
import re
import sys
import unicodedata
import warnings
from itertools import combinations
from pathlib import Path

import pytest

from benchmarks.tasks.class_names import load_class_names, load_subset, named_classes
from benchmarks.tasks.templates import hash_prompts, load_templates
from benchmarks.tasks.text_lists import SETS, package_folder
from common.errors import InputError
from modeling_altclip.prompts_altclip import PROMPTS

# The scripts of languages that are not written in Latin letters, as Unicode's names of letters begin.
SCRIPTS = {
    "zh": "CJK",
    "ja": "HIRAGANA|KATAKANA|CJK",
    "ko": "HANGUL",
    "ru": "CYRILLIC",
    "uk": "CYRILLIC",
    "ar": "ARABIC",
    "th": "THAI",
    "hi": "DEVANAGARI",
    "bn": "BENGALI",
}
# A letter that most other languages of the script lack.
LETTERS_OF_ITS_OWN = {
    "ru": "ы",
    "uk": "і",
    "tr": "ı",
    "vi": "ộ",
    "pl": "ł",
    "de": "ß",
    "fr": "ê",
    "es": "ñ",
    "pt": "ã",
    "it": "è",
}
# The sets of each language: {"en": {"full": [...], "texture": [...], ...}, ...}
TEMPLATES = {language: json.loads((SETS / f"{language}.json").read_text("utf-8")) for language in PROMPTS}

# The same result as clip-benchmark's function, called as that is.
CLASSIFIER = """
import torch
from torch.nn.functional import normalize

def zero_shot_classifier(model, tokenizer, classnames, templates, device, amp=True):
    classes = []
    for name in classnames:
        texts = tokenizer([template.format(c=name) for template in templates])
        with torch.no_grad():
            embeds = normalize(model.encode_text(texts), dim=-1)
        classes.append(normalize(embeds.mean(dim=0), dim=0))
    return torch.stack(classes, dim=1)
"""
CLASSES = ["tench", "goldfish", " great white shark"]


# Lists of classes as clip-benchmark's code has them.
BUILDER = """
import torchvision

def build(name):
    if name:
        all_imagenet_wordnet_ids = ['n1', 'n2', 'n3']
        imagenet_a_wnids = ['n3', 'n1']
        imagenet_r_wnids = {'n2', 'n3'}
        other = set(imagenet_r_wnids)
"""


def bare(template):
    """Return a template's letters alone: "A photo of {c}." -> "a photo of"."""
    return re.sub(r"[\s\W_]+", " ", template.replace("{c}", "{}")).strip().lower()


def templates_in(sets):
    """Return the templates of all sets."""
    return [template for templates in sets.values() for template in templates]


@pytest.fixture
def clip_benchmark(tmp_path, monkeypatch):
    """Write a package with clip-benchmark's layout, which must not be imported; return its folder of data."""
    package = tmp_path / "clip_benchmark"
    datasets = package / "datasets"
    datasets.mkdir(parents=True)
    files = {
        "en_classnames": {"imagenet1k": CLASSES, "clevr_closest_object_distance": ["very near", "", "far"]},
        "cn_classnames": {"imagenet1k": ["丁鲷", "金鱼", "大白鲨"]},
        # Two classes have one name.
        "jp_classnames": {"imagenet1k": ["テンチ", "金魚", "金魚"]},
        "en_zeroshot_classification_templates": {
            "imagenet1k": ["a {c}.", "the {c}."],
            "food101": ["{c}, a food."],
        },
        "cn_zeroshot_classification_templates": {"imagenet1k": ["{c}的照片。"]},
        "babel_imagenet": {"KO": [[999, 1], ["휴지", "금붕어 "]]},
        "nllb_dist13b_prompts": {"KO": ["{} 의 사진."]},
    }
    for name, content in files.items():
        (datasets / f"{name}.json").write_text(json.dumps(content), "utf-8")
    (datasets / "builder.py").write_text(BUILDER)
    # Importing clip-benchmark would import torchvision: its files are read in place.
    (package / "__init__.py").write_text("raise AssertionError('imported')")
    (package / "metrics").mkdir()
    (package / "metrics/zeroshot_classification.py").write_text(CLASSIFIER)
    monkeypatch.syspath_prepend(tmp_path)
    # Another test of this process may have imported the package itself, which would be found in its place.
    for name in list(sys.modules):
        if name.partition(".")[0] == "clip_benchmark":
            monkeypatch.delitem(sys.modules, name)
    yield datasets
    assert "clip_benchmark" not in sys.modules


@pytest.fixture
def write(tmp_path):
    """Return a function that writes a user's JSON file, and returns its path."""

    def write(content, name="mine.json"):
        (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
        return str(tmp_path / name)

    return write


def test_every_language_has_the_same_sets_of_the_same_size():
    assert sorted(path.stem for path in SETS.glob("*")) == sorted(PROMPTS)
    assert len(PROMPTS) == 19
    english = {name: len(templates) for name, templates in TEMPLATES["en"].items()}
    for language, sets in TEMPLATES.items():
        assert {name: len(templates) for name, templates in sets.items()} == english, language
    assert english.pop("full") == 21
    assert set(english.values()) == {2}
    # 16 sets of two templates, next to the full set of 21.
    assert len(english) == 16


@pytest.mark.parametrize("language", PROMPTS)
def test_templates_are_distinct_and_in_their_own_script(language):
    templates = [*PROMPTS[language], *templates_in(TEMPLATES[language])]
    # Punctuation and case make no difference.
    assert len({bare(template) for template in templates}) == len(templates)
    for template in templates:
        assert template.count("{}") == template.count("{") == template.count("}") == 1
        assert template == template.strip()
        assert template == unicodedata.normalize("NFC", template)
        assert "  " not in template
        for letter in template:
            if letter.isalpha() and letter != "ー":  # its name begins with both scripts
                script = unicodedata.name(letter).split()[0]  # "LATIN SMALL LETTER A" -> "LATIN"
                assert re.fullmatch(SCRIPTS.get(language, "LATIN"), script), (template, letter)
    assert LETTERS_OF_ITS_OWN.get(language, "") in "".join(templates)


def test_no_file_holds_another_language():
    """Allow one template in common: Spanish and Italian, Russian and Ukrainian spell one alike."""
    files = {language: set(templates_in(sets)) for language, sets in TEMPLATES.items()}
    for one, other in combinations(files, 2):
        assert len(files[one] & files[other]) <= 1, (one, other)


@pytest.mark.skipif(not importlib.util.find_spec("clip_benchmark"), reason="clip-benchmark is not installed")
def test_no_template_is_of_clip_benchmark():
    theirs = set()
    datasets = package_folder("clip_benchmark") / "datasets"
    for pattern in ("*_zeroshot_classification_templates.json", "nllb_*.json"):
        for path in datasets.glob(pattern):
            templates = templates_in(json.loads(path.read_text("utf-8")))
            theirs |= {bare(template) for template in templates}
    assert len(theirs) > 5000
    for sets in TEMPLATES.values():
        assert [template for template in templates_in(sets) if bare(template) in theirs] == []


def test_our_sets_are_read():
    assert load_templates("simple", "fr") == list(PROMPTS["fr"])
    assert load_templates("full", "ja") == [*PROMPTS["ja"], *TEMPLATES["ja"]["full"]]
    assert load_templates("satellite", "de") == ["Ein Satellitenbild: {}.", "Ein Gelände aus der Luft: {}."]

    message = "en.json has no set of templates 'satelite': there are simple, full, texture, satellite"
    with pytest.raises(InputError, match=message):
        load_templates("satelite", "en")
    with pytest.raises(InputError, match="none are written in 'fi': choose from en zh es"):
        load_templates("full", "fi")


def test_templates_of_a_user_are_read(write):
    assert load_templates(["{}!"], "fi") == ["{}!"]
    assert load_templates("{}!", "fi") == ["{}!"]
    assert load_templates(write({"fi": ["Kuva: {}."]}), "fi") == ["Kuva: {}."]
    sets = write({"fi": {"food": ["Ruoka: {}."], "car": ["Auto: {}."]}})
    assert load_templates(f"{sets}:food", "fi") == ["Ruoka: {}."]


def test_a_bad_file_of_templates_is_refused(write):
    sets = write({"fi": {"food": ["Ruoka: {}."], "car": ["Auto: {}."]}})
    one_list = write({"fi": ["{}"]}, "one.json")
    # 狗 begins at byte 11.
    gbk = write({}, "gbk.json")
    Path(gbk).write_bytes('{"fi": ["{}狗"]}'.encode("gbk"))
    for which, message in {
        sets: "mine.json in 'fi' has no key None: there are food, car",
        f"{sets}:bird": "has no key 'bird': there are food, car",
        write({"sv": ["{}"]}, "sv.json"): "sv.json has no language 'fi': there are sv",
        f"{one_list}:food": "one list for 'fi', no 'food'",
        write("{", "bad.json"): "bad.json' is no JSON",
        gbk: "gbk.json' is not UTF-8, at byte 11: save it as UTF-8",
        write([], "list.json"): r"has to be a mapping \{language",
        "absent.json": "'absent.json' does not exist",
    }.items():
        with pytest.raises(InputError, match=message):
            load_templates(which, "fi")


def test_a_template_without_one_slot_is_refused():
    for template in ("no slot", "{} and {}", "{c}", "{} {", "{} {name}", 7):
        message = f"template {re.escape(repr(template))} of templates has to have"
        with pytest.raises(InputError, match=message):
            load_templates(["{}", template], "fi")
    with pytest.raises(InputError, match="templates: no prompt templates"):
        load_templates([], "fi")


def test_a_file_may_have_the_slot_of_clip_benchmark(write):
    assert load_templates(write({"fi": ["Kuva: {c}.", "{}!"]}), "fi") == ["Kuva: {}.", "{}!"]
    sets = write({"fi": {"food": ["{c}"]}}, "sets.json")
    assert load_templates(f"{sets}:food", "fi") == ["{}"]

    for template in ("{c} and {c}", "{c} and {}", "{c.__class__}", "{c} {", "{x}", "no slot", 7):
        message = f"template {re.escape(repr(template))} of mine.json has to have"
        with pytest.raises(InputError, match=message):
            load_templates(write({"fi": ["{c}", template]}), "fi")
    for templates, message in (
        (["x"], "template 'x'"),
        ([], "no prompt templates"),
        ("{c}", "'{c}' is not a list of prompt templates"),
    ):
        with pytest.raises(InputError, match=message):
            load_templates(write({"fi": templates}), "fi")


def test_clip_benchmark_is_read_and_not_imported(clip_benchmark):
    assert load_templates("clip_benchmark", "en") == ["a {}.", "the {}."]
    assert load_templates("clip_benchmark:imagenet1k", "zh") == ["{}的照片。"]
    assert load_templates("clip_benchmark:food101", "en") == ["{}, a food."]
    assert load_templates("clip_benchmark:babel_imagenet", "ko") == ["{} 의 사진."]
    names = load_class_names("clip_benchmark", ["en", "zh"], 3)
    assert names == {"en": ["tench", "goldfish", "great white shark"], "zh": ["丁鲷", "金鱼", "大白鲨"]}

    message = "clip_benchmark has no zeroshot_classification_templates in 'ja': there are zh, en"
    with pytest.raises(InputError, match=message):
        load_templates("clip_benchmark", "ja")
    with pytest.raises(InputError, match="cn_zero.*has no dataset 'food101': there are imagenet1k"):
        load_templates("clip_benchmark:food101", "zh")
    with pytest.raises(InputError, match="nllb.* has no language 'fi': there are KO"):
        load_templates("clip_benchmark:babel_imagenet", "fi")


def test_classes_without_a_name_are_listed(clip_benchmark, write):
    names = write({"en": ["cat"], "sv": ["katt", 7, " "], "da": [None], "fr": "chat"})
    with pytest.raises(InputError, match=r"'en' in en_classnames.json: 1 of 3 classes without a name: 1\. "):
        load_class_names("clip_benchmark:clevr_closest_object_distance", ["en"], 3)
    message = r"'en' in mine.json: 2 of 3 classes without a name: 1 \(dog\), 2 \(cow\)\. "
    with pytest.raises(InputError, match=message):
        load_class_names(names, ["en"], 3, dataset_names=["cat", "dog", "cow"])
    message = "29 of 30 classes without a name: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 19 more"
    with pytest.raises(InputError, match=message):
        load_class_names(names, ["en"], 30)
    with pytest.raises(InputError, match="2 of 3 classes without a name: 1, 2"):
        load_class_names(names, ["sv"])
    with pytest.raises(InputError, match="'da' in mine.json: no class has a name"):
        load_class_names(names, ["da"], 1)
    # An ideographic space, a space of no width and a byte order mark.
    for invisible in ("\u3000", "\u200b", "\ufeff"):
        with pytest.raises(InputError, match="1 of 2 classes without a name: 1"):
            load_class_names({"en": ["cat", invisible]}, ["en"])


def test_lists_of_names_that_do_not_fit_are_refused(write):
    names = write({"en": ["cat"], "fi": [f"luokka {number}" for number in range(14)], "fr": "chat"})
    message = "14 names for 2 classes; too many: 'luokka 2', .*, 'luokka 11' and 2 more"
    with pytest.raises(InputError, match=message):
        load_class_names(names, ["fi"], 2)
    with pytest.raises(InputError, match="'fr' in mine.json: 'chat' is no list of names"):
        load_class_names(names, ["fr"])
    with pytest.raises(InputError, match="mine.json has no language 'no'"):
        load_class_names(names, ["en", "no"], 1)


def test_names_may_come_from_the_dataset(write):
    names = load_class_names("dataset", ["en"], 2, dataset_names=["apple_pie", "soup"])
    assert names == {"en": ["apple pie", "soup"]}
    message = "'zh': the dataset names its classes in English only, if at all; give .* JSON file with {'zh': "
    with pytest.raises(InputError, match=message):
        load_class_names("dataset", ["en", "zh"], 2, dataset_names=["apple_pie", "soup"])
    with pytest.raises(InputError, match="'en': the dataset does not name its classes"):
        load_class_names("dataset", ["en"], 2)
    message = "class_names 'names.txt' is neither 'dataset', a .json file, 'clip_benchmark' nor 'altclip:"
    with pytest.raises(InputError, match=message):
        load_class_names("names.txt", ["en"])


def test_names_may_come_from_a_source_for_each_language(write):
    foods = write({"fi": {"foods": ["piirakka", None]}})
    each = {"en": "dataset", "fi": f"{foods}:foods", "sv": ["paj", "soppa"]}
    names = load_class_names(each, ["sv", "fi", "en"], 2, dataset_names=["pie", "soup"])
    assert names == {"sv": ["paj", "soppa"], "fi": ["piirakka", None], "en": ["pie", "soup"]}
    assert named_classes(names["fi"]) == [0]
    with pytest.raises(InputError, match="class_names has no class names in 'da': there are en, fi, sv"):
        load_class_names(each, ["da"])


def test_babel_imagenet_names_some_classes(clip_benchmark):
    names = load_class_names("clip_benchmark:babel_imagenet", ["ko"], 1000)["ko"]
    assert len(names) == 1000
    # The file lists the rows of ImageNet that have a Korean name, and then the names.
    assert named_classes(names) == [1, 999]
    assert names[1] == "금붕어"
    assert names[999] == "휴지"
    of_three = load_class_names("clip_benchmark:babel_imagenet", ["ko"], 3, subset=[0, 1, 999])
    assert of_three == {"ko": [None, "금붕어", "휴지"]}


def test_subsets_of_imagenet_are_those_of_clip_benchmark(clip_benchmark, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)  # not installed
    # Of n1 n2 n3, n3 and n1 are rows 2 and 0; rows are in ascending order.
    assert load_subset("imagenet_a") == [0, 2]
    assert load_subset("imagenet_r") == [1, 2]
    thousand = {"zh": ["丁鲷", "金鱼", "大白鲨", *map(str, range(997))]}
    assert load_class_names(thousand, ["zh"], 2, subset="imagenet_r") == {"zh": ["金鱼", "大白鲨"]}

    message = "'zh' in cn_classnames.json: 3 names, but imagenet_r is of ImageNet's 1,000"
    with pytest.raises(InputError, match=message):
        load_class_names("clip_benchmark", ["zh"], 2, subset="imagenet_r")
    with pytest.raises(InputError, match="'zh' in cn_classnames.json: 3 names, but the subset means row 7"):
        load_class_names("clip_benchmark", ["zh"], 2, subset=[0, 7])
    with pytest.raises(InputError, match="subset 'imagenet_v2' is neither 'imagenet_a' nor 'imagenet_r'"):
        load_subset("imagenet_v2")


def test_subsets_of_imagenet_are_read_from_timm_where_it_is_installed(tmp_path, monkeypatch):
    package = tmp_path / "packages/timm"
    (package / "data/_info").mkdir(parents=True)
    (package / "__init__.py").write_text("raise AssertionError('imported')")
    (package / "data/_info/imagenet_a_indices.txt").write_text("6\n11\n13")
    monkeypatch.syspath_prepend(tmp_path / "packages")
    assert load_subset("imagenet_a") == [6, 11, 13]


def test_equal_names_are_warned_of(clip_benchmark):
    message = r"'ja' in jp_classnames.json: 1 names are shared by several classes.*: '金魚' \(1, 2\)"
    with pytest.warns(UserWarning, match=message):
        load_class_names("clip_benchmark", ["ja"], 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_class_names("clip_benchmark", ["en"], 3)
        # Classes without a name share none.
        load_class_names({"fi": [None, "kala", None]}, ["fi"], 3)


@pytest.mark.parametrize(
    "load,argument", [(load_templates, "en"), (load_class_names, ["en"])], ids=["templates", "class names"]
)
def test_what_is_not_installed_says_how_to(monkeypatch, load, argument):
    monkeypatch.setitem(sys.modules, "clip_benchmark", None)
    message = "clip_benchmark is not installed.*: pip install --no-deps clip-benchmark==1.6.2"
    with pytest.raises(InputError, match=message):
        load("clip_benchmark", argument)


def test_the_hash_changes_with_what_was_asked():
    found = hash_prompts(["a {}", "the {}"], ["cat", None])
    assert re.fullmatch("[0-9a-f]{64}", found)
    assert hash_prompts(["a {}", "the {}"], ["cat", None]) == found
    # Another order of templates; a class called "None"; the same words, split elsewhere.
    others = {
        hash_prompts(["the {}", "a {}"], ["cat", None]),
        hash_prompts(["a {}", "the {}"], ["cat", "None"]),
        hash_prompts(["a {}", "the {}", "cat"], [None]),
    }
    assert len({found, *others}) == 4
