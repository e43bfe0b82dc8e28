"""Codes of languages: one spelling, one way to match them, and a question for a country or a name."""

import json

import pytest
from datasets import Dataset, Features, Image, Translation, Value
from PIL import Image as PillowImage

from benchmarks.evaluation import EvaluationArguments, read_by, tasks_of
from benchmarks.tasks.class_names import load_class_names
from benchmarks.tasks.loading import load_task
from benchmarks.tasks.reading import read_rows
from benchmarks.tasks.templates import load_templates
from common.errors import InputError
from common.languages import check_languages
from modeling_altclip.languages_altclip import canonical, is_english, match_language, name_languages, spell
from modeling_altclip.prompts_altclip import PROMPTS, read_templates
from training.data.captions import find_form, read_captions, with_captions
from training.data.parallel_text import load_parallel_text
from training.translation.translating import TranslationArguments


@pytest.mark.parametrize(
    "code,spelled",
    [
        # A country has two letters, in capitals.
        ("zh-CN", "zh-CN"),
        ("zh_cn", "zh-CN"),
        ("PT_br", "pt-BR"),
        # A script has four letters, of which the first is a capital.
        ("zh_Hans", "zh-Hans"),
        ("zh_hant_tw", "zh-Hant-TW"),
        # A region may have three digits (Latin America), and a language three letters (Cantonese).
        ("ES-419", "es-419"),
        ("YUE", "yue"),
        # No codes: they stay as they are.
        ("chinese", "chinese"),
        ("A photo", "A photo"),
    ],
)
def test_codes_have_one_spelling(code, spelled):
    assert spell(code) == spelled == spell(spelled)


def test_data_is_kept_under_canonical_codes():
    # Codes of three letters and the former code of Hebrew get the code of two letters; scripts stay.
    given = ["en_US", "zh_Hans", "pt_BR", "zho_Hant", "jpn", "iw"]
    assert list(name_languages(given).values()) == ["en", "zh-Hans", "pt-BR", "zh-Hant", "ja", "he"]
    assert list(name_languages(["eng", "kr", "br"]).values()) == [
        "en",
        "kr",
        "br",
    ]  # Kanuri and Breton, where data has them
    # English of one country becomes `en`, which teachers read, but not where there is another English.
    assert list(name_languages(["en-US", "en_GB"]).values()) == ["en-US", "en-GB"]
    assert list(name_languages(["en", "en-GB"]).values()) == ["en", "en-GB"]
    assert canonical("eng_Latn") == "en-Latn"
    assert is_english("eng_Latn")
    # Middle English is a language of its own.
    assert not is_english("enm")
    with pytest.raises(ValueError, match="'zh_CN' and 'zh-cn' are both 'zh-CN': keep one"):
        name_languages(["zh_CN", "zh-cn"])
    with pytest.raises(ValueError, match="'cn' is a country's code and no language's: did you mean 'zh'"):
        name_languages(["en", "cn"])


@pytest.mark.parametrize(
    "asked,available,found",
    [
        # Another spelling of the same code.
        ("zh", "en zh", "zh"),
        ("ZH", "en zh", "zh"),
        ("zh-CN", "en zh_CN", "zh_CN"),
        # A code without country or script stands for one with them, and the other way round.
        ("zh", "en zh-CN", "zh-CN"),
        ("zh-CN", "en zh", "zh"),
        ("zh_Hans", "en zh", "zh"),
        ("zh", "zh zh-TW", "zh"),
        ("pt", "en pt_BR", "pt_BR"),
        ("en", "en-GB de", "en-GB"),
        # Three letters are found where data has them.
        ("de", "deu", "deu"),
        ("br", "br fr", "br"),  # where there is Breton, nobody is asked about Brazil
        ("eng", "eng deu", "eng"),
    ],
)
def test_what_is_asked_for_is_found(asked, available, found):
    assert match_language(asked, available.split()) == found
    assert check_languages([asked, found], available.split()) == [found]


# What is written in a command line -> what is mostly meant: countries, of which kr, se, in and br are codes
# of languages too (Korea and Kanuri, Sweden and Northern Sami, India and formerly Indonesian, Brazil and
# Breton); codes of three letters or out of use; and names.
SLIPS = {
    "cn": "zh",
    "jp": "ja",
    "kr": "ko",
    "cz": "cs",
    "ua": "uk",
    "gr": "el",
    "se": "sv",
    "dk": "da",
    "vn": "vi",
    "in": "hi",
}
SLIPS |= {
    "br": "pt",
    "iw": "he",
    "eng": "en",
    "zho": "zh",
    "chi": "zh",
    "deu": "de",
    "ger": "de",
    "jpn": "ja",
    "kor": "ko",
}
SLIPS |= {
    "fra": "fr",
    "fre": "fr",
    "spa": "es",
    "rus": "ru",
    "ara": "ar",
    "chinese": "zh",
    "Japanese": "ja",
    "JP": "ja",
    "zho_Hans": "zh-Hans",
}


@pytest.mark.parametrize("asked,meant", SLIPS.items())
def test_a_slip_is_asked_about_and_never_taken(asked, meant):
    with pytest.raises(
        InputError, match=f"no text in language {asked}: did you mean '{meant}'.*choose from en"
    ):
        check_languages(["en", asked], ["en", *dict.fromkeys(SLIPS.values())])


@pytest.mark.parametrize(
    "asked,available,message",
    [
        # Two scripts are equally near.
        ("zh", "zh-Hans zh-Hant", "it may be zh-Hans or zh-Hant: name one of them"),
        # The language in another country is not taken for the requested one.
        ("zh-TW", "en zh-CN", "did you mean 'zh-CN'"),
        ("pt-BR", "pt-PT", "did you mean 'pt-PT'"),
        ("xx", "en zh", "no text in language xx: choose from en zh"),
    ],
)
def test_what_is_not_there_is_refused(asked, available, message):
    with pytest.raises(InputError, match=message):
        check_languages([asked], available.split())


def test_prompts_are_found_by_any_spelling():
    for code in ("zh", "zh-CN", "zh_Hans", "ZH"):
        assert read_templates(code) == PROMPTS["zh"]
        assert load_templates("simple", code) == list(PROMPTS["zh"])
    assert read_templates("pt_BR") == PROMPTS["pt"]
    # hypothesis_template takes a sentence or a language: a slip must pass for neither.
    for slip, meant in (("cn", "zh"), ("jp", "ja"), ("chinese", "zh")):
        with pytest.raises(ValueError, match=f"hypothesis_template '{slip}' .* did you mean '{meant}'"):
            read_templates(slip)
        with pytest.raises(InputError, match=f"none are written in '{slip}': did you mean '{meant}'"):
            load_templates("simple", slip)
    with pytest.raises(ValueError, match="has no {} for the label"):
        read_templates("a photo")


def test_class_names_are_found_by_any_spelling(tmp_path):
    path = tmp_path / "names.json"
    path.write_text(json.dumps({"en": ["dog"], "zh_CN": ["狗"]}), "utf-8")
    assert load_class_names(str(path), ["en-GB", "zh"]) == {"en-GB": ["dog"], "zh": ["狗"]}
    # Class names of a dataset are identifiers: "red_dog" is read as "red dog".
    assert load_class_names("dataset", ["en-US"], dataset_names=["red_dog"]) == {"en-US": ["red dog"]}
    with pytest.raises(InputError, match="has no language 'cn': did you mean 'zh'"):
        load_class_names(str(path), ["cn"])


# Braces are doubled where they are YAML's own.
TASK = """kind: retrieval
dataset: {dataset}
split: train
metric: mean_recall
languages: [{languages}]
columns: {{captions: captions}}
"""


@pytest.fixture
def pictures(tmp_path):
    """A folder of two pictures with captions under keys as data has them."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    images = [PillowImage.new("RGB", (8, 8), (90 * number, 0, 0)) for number in range(2)]
    captions = [{"en_US": f"picture {number}", "zh_CN": f"图 {number}"} for number in range(2)]
    kinds = {"captions": {"en_US": Value("string"), "zh_CN": Value("string")}, "image": Image()}
    Dataset.from_dict({"captions": captions, "image": images}, Features(kinds)).to_parquet(
        folder / "train.parquet"
    )
    return folder


def test_tasks_take_any_spelling(pictures, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(TASK.format(dataset=pictures, languages="en, zh"), "utf-8")
    # The task says zh, the data zh_CN, the request zh-CN; the task's spelling names the result.
    assert read_rows(load_task(str(path)), ["zh-CN"])["captions"][:] == [{"zh": ["图 0"]}, {"zh": ["图 1"]}]
    (tmp_path / "other.yaml").write_text(TASK.format(dataset=pictures, languages="zh-CN"), "utf-8")
    arguments = EvaluationArguments(
        models=["m"], tasks=[str(path), str(tmp_path / "other.yaml")], languages=["en_US", "zh"]
    )
    assert [languages for _, languages in tasks_of(arguments, "retrieval")] == [["en", "zh"], ["zh-CN"]]
    arguments.languages = ["jp"]
    with pytest.raises(InputError, match="no text in language jp: did you mean 'ja'"):
        tasks_of(arguments, "retrieval")
    # A slip in the task's own file names the file.
    path.write_text(TASK.format(dataset=pictures, languages="en, cn"), "utf-8")
    with pytest.raises(
        InputError, match="mine.yaml', languages: 'cn' is a country's code .* did you mean 'zh'"
    ):
        load_task(str(path))
    # A model of English alone is evaluated in English of any country.
    arguments.english_only = ["m"]
    assert read_by("m", ["en-GB", "zh"], arguments) == ["en-GB"]


def captions_of(rows, languages=None):
    form = find_form(rows.features, "data", None, languages)
    return with_captions(rows.add_column("image", [0] * len(rows)), form, "data")["captions"][:]


def test_captions_of_any_form_get_canonical_codes():
    # One column with a text for each language.
    keys = Features({"captions": {"en-GB": Value("string"), "pt_BR": Value("string")}})
    rows = Dataset.from_dict({"captions": [{"en-GB": "a dog", "pt_BR": "um cão"}]}, keys)
    assert captions_of(rows) == [{"en": ["a dog"], "pt-BR": ["um cão"]}]
    # One caption a row, with its language next to it.
    rows = Dataset.from_dict({"text": ["a dog", "狗"], "language": ["en_US", "zh_Hans"]})
    assert captions_of(rows) == [{"en": ["a dog"], "zh-Hans": []}, {"en": [], "zh-Hans": ["狗"]}]
    # Translations as on the Hub.
    pair = Features({"translation": Translation(languages=["en", "zho"])})
    rows = Dataset.from_dict({"translation": [{"en": "a dog", "zho": "狗"}]}, pair)
    assert captions_of(rows) == [{"en": ["a dog"], "zh": ["狗"]}]
    # Texts alone: `--languages` names their language.
    rows = Dataset.from_dict({"text": ["狗"]})
    assert captions_of(rows, ["zh_CN"]) == [{"zh-CN": ["狗"]}]
    with pytest.raises(InputError, match="languages of '--languages': 'cn' is a country's code .*'zh'"):
        captions_of(rows, ["cn"])
    rows = Dataset.from_dict({"text": ["犬"], "language": ["jp"]})
    with pytest.raises(InputError, match="'jp' is a country's code .*did you mean 'ja'"):
        captions_of(rows)
    # Read row by row, as a stream is, a code is spelled by itself: English of one country keeps its country.
    form = find_form(rows.features, "data")
    assert read_captions({"text": "a dog", "language": "EN_us"}, form) == {"en-US": ["a dog"]}


@pytest.mark.parametrize(
    "header,names",
    [("en-US\tzh_CN", ["en", "zh-CN"]), ("EN\tPT_BR", ["en", "pt-BR"]), ("eng\tjpn", ["en", "ja"])],
)
def test_tables_and_pairs_of_files_get_canonical_codes(tmp_path, header, names):
    # A table, with a column that is no language.
    table = tmp_path / "pairs.tsv"
    table.write_text(f"URL\t{header}\nhttp\ta dog\t狗\n", "utf-8")
    rows, without = load_parallel_text(str(table), "train")
    assert rows["captions"][:] == [dict(zip(names, [["a dog"], ["狗"]]))]
    assert without == 0
    # Two files of lines, whose endings are the languages.
    languages = header.split("\t")
    for language, text in zip(languages, ("a dog", "狗")):
        (tmp_path / f"corpus.{language}").write_text(f"{text}\n", "utf-8")
    rows, _ = load_parallel_text(f"{tmp_path}/corpus.{{{','.join(languages)}}}", "train")
    assert rows["captions"][:] == [dict(zip(names, [["a dog"], ["狗"]]))]
    # JSON with the languages as keys.
    (tmp_path / "pairs.jsonl").write_text(
        json.dumps({"captions": dict(zip(languages, ["a dog", "狗"]))}) + "\n", "utf-8"
    )
    rows, _ = load_parallel_text(str(tmp_path / "pairs.jsonl"), "train")
    assert rows["captions"][:] == [dict(zip(names, [["a dog"], ["狗"]]))]


def test_columns_of_countries_and_two_kinds_of_english_are_asked_about(tmp_path):
    table = tmp_path / "pairs.csv"
    table.write_text("en,cn\na dog,狗\n", "utf-8")
    with pytest.raises(
        InputError, match="languages of '.*pairs.csv': 'cn' is a country's code .*did you mean 'zh'"
    ):
        load_parallel_text(str(table), "train")
    # Neither is the English that a teacher reads.
    table.write_text("en-US,en_GB\na truck,a lorry\n", "utf-8")
    with pytest.raises(
        InputError, match="have no English .* they have en-US en-GB; name one of en-US and en-GB en"
    ):
        load_parallel_text(str(table), "train")


def test_languages_to_translate_to_are_asked_about():
    with pytest.raises(InputError, match="'jp' is a country's code .*did you mean 'ja'"):
        TranslationArguments(
            dataset="d", splits=["s"], target_languages=["de", "jp"], output_dir="o", model_name_or_path="m"
        )
