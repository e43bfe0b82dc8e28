"""Every public corpus is read from a small copy in its layout, by its name, in all its forms."""

from dataclasses import replace
from functools import partial

import pytest
import yaml
from datasets import Dataset, Image, Value

from common.errors import InputError
from training import load_parallel_text, load_source
from training.arguments import ContrastiveArguments, TeacherLearningArguments
from training.data import examples
from training.data.loading import load_image_rows, stream_images
from training.data.preview import first_captions
from training.data.sources import loading, reading
from training.data.sources.loading import all_source_names, find_source
from training.data.sources.source import IMAGES, TEXTS

from .replicas import number_of
from .source_replicas import N, write_source

SOURCES = {name: load_source(name) for name in all_source_names()}
OF_TEXTS = [name for name, source in SOURCES.items() if source.layout in TEXTS and not source.refused]
OF_IMAGES = [name for name, source in SOURCES.items() if source.layout in IMAGES]

# A source of a user's own, as its YAML gives it.
OWN = {
    "layout": "pairs",
    "dataset": "corpus",
    "splits": {"train": "train"},
    "configs": {"de": "en-de", "zh-CN": "en-zh"},
    "columns": {"english": "english", "translation": "non_english"},
    "kind": "human",
}


@pytest.fixture
def at_replica(tmp_path, monkeypatch):
    """Return a function that writes a copy of a source, and lets its name stand for the copy."""

    def write(name, languages):
        folder = tmp_path / "replica"
        source = SOURCES[name]
        write_source(source, folder, languages)
        original = loading._make_source

        def local(given, path):
            return replace(original(given, path), dataset=str(folder), revision=None)

        monkeypatch.setattr(loading, "_make_source", local)
        return folder

    return write


def two_languages(source) -> list[str]:
    """Return the first and the last language beside English."""
    others = [language for language in source.languages if language != "en"]
    return list(dict.fromkeys([others[0], others[-1]]))


def stage1(dataset, languages, **flags) -> TeacherLearningArguments:
    return TeacherLearningArguments(
        dataset=str(dataset),
        languages=languages,
        output_dir="unused",
        teacher_name_or_path="a/b",
        text_encoder_name_or_path="a/c",
        **flags,
    )


def stage2(dataset, folder, **flags) -> ContrastiveArguments:
    return ContrastiveArguments(
        dataset=dataset, output_dir=str(folder / "out"), model_name_or_path="a/b", **flags
    )


def pairs_of(rows) -> set[tuple]:
    """Return `(language, text, English text)` of each text."""
    found = set()
    for captions in rows["captions"][:]:
        (english,) = captions["en"]
        for language, texts in captions.items():
            found |= {(language, text, english) for text in texts if language != "en"}
    return found


@pytest.mark.parametrize("name", OF_TEXTS)
def test_every_corpus_of_texts_loads_by_its_name(name, at_replica):
    languages = two_languages(SOURCES[name])
    at_replica(name, languages)
    rows, n_without_english = load_parallel_text(name, "train", languages=["en", *languages])
    assert n_without_english == 0
    assert list(rows.features["captions"]) == ["en", *languages]

    found = pairs_of(rows)
    assert {language for language, _, _ in found} == set(languages)
    for language, text, english in found:
        number = english.removeprefix("en ")
        assert text == f"{language} {number}"
    # A row a pair; in some layouts a row has both languages, or one of them in turn.
    of_one = [text for language, text, _ in found if language == languages[0]]
    layout = SOURCES[name].layout
    assert len(of_one) == (N // len(languages) if layout == "language_column" else N)


@pytest.mark.parametrize("name", ["opus-100", "ccmatrix", "m-clip-captions", "laion-coco-nllb"])
def test_a_dry_run_reads_the_first_rows(name, at_replica):
    languages = two_languages(SOURCES[name])
    at_replica(name, languages)
    texts, described = first_captions(stage1(name, languages))
    assert {text.split()[0] for text in texts} == set(languages)
    assert described == f"captions in {' '.join(languages)}"


@pytest.mark.parametrize("name", OF_IMAGES)
def test_every_corpus_of_images_loads_by_its_name(name, at_replica, tmp_path):
    at_replica(name, [])
    languages = SOURCES[name].languages[-1:]
    rows = load_image_rows(name, "train", languages)
    assert list(rows.features) == ["image", "captions"]
    found = []
    for number, row in enumerate(rows.cast_column("image", Image())):
        found.append((number_of(row["image"]), row["captions"]))
        assert row["captions"] == {languages[0]: [f"{languages[0]} {number}"]}
    assert [number for number, _ in found] == list(range(N))

    texts, described = first_captions(stage2(name, tmp_path, languages=languages))
    assert texts[0] == f"{languages[0]} 0"
    assert described == f"columns image, captions; captions in {languages[0]}"


@pytest.mark.parametrize("name", ["cc3m", "multi30k"])
def test_a_corpus_of_images_is_streamed_by_its_name(name, at_replica, tmp_path):
    at_replica(name, [])
    flags = {"streaming": True, "cache_image_embeds": False, "max_steps": 1}
    stream = iter(stream_images(stage2(name, tmp_path, **flags), None))
    # One caption a pass, in which the languages take turns.
    examples = [next(stream) for _ in range(N)]
    assert [number_of(example["image"]) for example in examples] == list(range(N))
    languages = SOURCES[name].languages
    expected = [f"{languages[number % len(languages)]} {number}" for number in range(N)]
    assert [example["text"] for example in examples] == expected


@pytest.mark.parametrize("name", ["stair-captions", "wit"])
def test_captions_in_lists_are_streamed(name, at_replica, tmp_path):
    at_replica(name, [])
    language = SOURCES[name].languages[-1]
    flags = {"streaming": True, "cache_image_embeds": False, "max_steps": 1}
    stream = iter(stream_images(stage2(name, tmp_path, **flags), [language]))
    assert [next(stream)["text"] for _ in range(N)] == [f"{language} {number}" for number in range(N)]


def test_lists_of_languages_beside_an_image(at_replica):
    at_replica("wit", [])
    rows = load_image_rows("wit", "train", ["af", "an", "zh"])
    # Of the second language there is no text, and one text is of a language that is not named.
    assert rows[2]["captions"] == {"af": ["af 2"], "an": [], "zh": ["zh 2"]}


def test_a_moved_field_is_named(at_replica):
    folder = at_replica("stair-captions", [])
    (file,) = folder.rglob("train-*.parquet")
    rows = Dataset.from_parquet(str(file))
    annotations = [{"id": value["id"], "moved": value["caption"]} for value in rows["annotations"][:]]
    rows.remove_columns("annotations").add_column("annotations", annotations).to_parquet(file)
    with pytest.raises(
        InputError, match="has no column 'annotations.caption' in .*: it has image, annotations"
    ):
        load_image_rows("stair-captions", "train", ["ja"])


def write_own(folder, change=None) -> str:
    """Write a source of a user's own; return the path of its file."""
    path = folder / "own.yaml"
    path.write_text(yaml.safe_dump(OWN | (change or {})))
    return str(path)


def test_a_source_of_ones_own_lies_beside_its_file(tmp_path):
    path = write_own(tmp_path)
    write_source(load_source(path), tmp_path / "corpus", ["de", "zh-CN"])
    rows, _ = load_parallel_text(path, "train", languages=["zh", "de"])
    # Chinese bears the code by which it is requested.
    assert list(rows.features["captions"]) == ["en", "zh", "de"]
    assert ("zh", "zh-CN 3", "en 3") in pairs_of(rows)
    assert len(rows) == 2 * N


def test_rows_of_one_language_each_are_joined_by_id(tmp_path):
    change = {
        "layout": "joined",
        "configs": {"en": "eng_Latn", "de": "deu_Latn", "fr": "fra_Latn"},
        "columns": {"id": "id", "text": "text"},
    }
    path = write_own(tmp_path, change)
    write_source(load_source(path), tmp_path / "corpus", ["de", "fr"])
    rows, _ = load_parallel_text(path, "train", languages=["fr", "de"])
    expected = {(language, f"{language} {n}", f"en {n}") for n in range(N) for language in ("de", "fr")}
    assert pairs_of(rows) == expected
    assert len(rows) == N

    file = tmp_path / "corpus/deu_Latn/train-00000-of-00001.parquet"
    Dataset.from_dict({"id": [1, 1], "text": ["a", "b"]}).to_parquet(file)
    with pytest.raises(InputError, match="source 'own': configuration deu_Latn has a value of 'id' twice"):
        load_parallel_text(path, "train", languages=["de"])


def mixture(folder, *sources) -> str:
    (folder / "sources.yaml").write_text(yaml.safe_dump(list(sources)))
    return str(folder / "sources.yaml")


def test_a_mixture_has_weights_budgets_and_the_kinds_of_corpora(tmp_path, at_replica):
    at_replica("opus-100", ["de", "fr"])
    (tmp_path / "own.tsv").write_text("en\tde\na dog\tein Hund\n")
    path = mixture(
        tmp_path,
        {"data": "opus-100", "rows": 4, "weight": 3},
        {"data": "own.tsv", "kind": "human"},
    )
    rows, _ = load_parallel_text(path, "train", languages=["de", "fr"])
    # Four of twelve rows at equal distances: German 0 and 3, French 0 and 3.
    assert [captions["en"] for captions in rows["captions"][:]] == [
        ["en 0"],
        ["en 3"],
        ["en 0"],
        ["en 3"],
        ["a dog"],
    ]
    assert rows["weight"][:] == [3, 3, 3, 3, 1]
    mined, _ = load_parallel_text(path, "train", ["mined"], ["de", "fr"])
    assert len(mined) == 4
    # A budget above the corpus takes all of it.
    path = mixture(tmp_path, {"data": "opus-100", "rows": 1000, "kind": "web"})
    assert len(load_parallel_text(path, "train", ["web"], ["de"])[0]) == N


@pytest.mark.parametrize(
    "source,message",
    [
        ({"data": "opus-100", "rows": 0}, "rows of 'opus-100' in .* is 0: give a whole number from 1"),
        ({"data": "opus-100", "rows": "many"}, "rows of 'opus-100' in .* is 'many'"),
        ({"data": "opus-100", "rows": True}, "rows of 'opus-100' in .* is True"),
        (
            {"data": "opus-100", "name": "en-de"},
            "source 'opus-100' finds its configurations by",
        ),
        ({"data": "flores"}, "source 'flores' is refused for training: it is a test"),
        ({"data": "cc3m"}, "source 'cc3m' is no parallel text, but of layout images"),
        (
            {"data": "opus-100", "split": "dev"},
            "source 'opus-100' has no split 'dev': choose from train",
        ),
        ({"data": "opus-10"}, "'opus-10' does not exist: did you mean the source opus-100"),
    ],
)
def test_a_wrong_mixture_is_one_line(source, message, tmp_path):
    with pytest.raises(InputError, match=message) as caught:
        load_parallel_text(mixture(tmp_path, source), "train", languages=["de"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name,languages,message",
    [
        (
            "opus-100",
            None,
            "has 100 languages, each a download of its own: name those to train on",
        ),
        (
            "news-commentary",
            ["th"],
            "no corpus of 'news-commentary' has language th: choose from en ar",
        ),
        ("opus-100", ["de", "jp"], "no corpus of 'opus-100' has language jp: did you mean 'ja'"),
        ("talks", ["en", "zh"], "has language zh: it may be zh-CN or zh-TW: name one of them"),
        ("opus-100", ["en"], "source 'opus-100' has none of the languages en beside English: it has en af"),
    ],
)
def test_languages_that_a_corpus_lacks(name, languages, message):
    with pytest.raises(InputError, match=message):
        load_parallel_text(name, "train", languages=languages)


@pytest.mark.parametrize(
    "name,column",
    [
        ("europarl", "non_english"),
        ("opus-100", "translation"),
        ("translation2019zh", "chinese"),
        ("m-clip-captions", "multi_language_code"),
        ("laion-coco-nllb", "captions"),
        ("multi30k", "de"),
    ],
)
def test_a_moved_column_is_named_with_its_source_and_what_is_there(name, column, at_replica):
    languages = ["zh"] if name == "translation2019zh" else ["de"]
    folder = at_replica(name, languages)
    (file,) = [path for path in folder.rglob("train-*.parquet")]
    rows = Dataset.from_parquet(str(file))
    rows.rename_column(column, "moved").to_parquet(file)
    read = load_image_rows if name == "multi30k" else load_parallel_text
    with pytest.raises(InputError) as caught:
        read(name, "train", languages=languages)
    message = str(caught.value)
    assert f"source {name!r} has no column {column!r} in " in message
    assert "it has " in message
    assert "moved" in message.partition("it has ")[2]
    assert "\n" not in message


@pytest.mark.parametrize("n_rows", [1, 3, 1000])
def test_a_changed_code_of_a_language_loses_no_texts_silently(n_rows, at_replica, monkeypatch):
    monkeypatch.setattr(reading, "caption_slices", partial(examples.caption_slices, n_rows=n_rows))
    folder = at_replica("m-clip-captions", ["de", "fr"])
    (file,) = folder.rglob("train-*.parquet")
    rows = Dataset.from_parquet(str(file))
    codes = ["fra" if code == "fr" else code for code in rows["multi_language_code"][:]]
    rows.remove_columns("multi_language_code").add_column("multi_language_code", codes).to_parquet(file)
    assert len(load_parallel_text("m-clip-captions", "train", languages=["de"])[0]) == N // 2
    with pytest.raises(InputError, match="'m-clip-captions' has no text in fr .* codes de fra: correct"):
        load_parallel_text("m-clip-captions", "train", languages=["de", "fr"])


@pytest.mark.parametrize(
    "column,values,message",
    [
        ("english", list(range(N)), "source 'europarl': column 'english' holds .*int64.*, and no texts"),
        ("non_english", [None] * N, None),
    ],
)
def test_columns_without_texts(column, values, message, at_replica):
    folder = at_replica("europarl", ["de"])
    (file,) = folder.rglob("train-*.parquet")
    rows = Dataset.from_parquet(str(file)).remove_columns(column).add_column(column, values)
    if message is None:
        rows = rows.cast_column(column, Value("string"))
    rows.to_parquet(file)
    if message is None:
        rows, _ = load_parallel_text("europarl", "train", languages=["de"])
        assert rows[0]["captions"] == {"en": ["en 0"], "de": []}
        return
    with pytest.raises(InputError, match=message):
        load_parallel_text("europarl", "train", languages=["de"])


def test_a_configuration_that_is_not_there_names_the_source(at_replica):
    at_replica("europarl", ["de"])
    with pytest.raises(InputError, match="source 'europarl': dataset .*en-fr") as caught:
        load_parallel_text("europarl", "train", languages=["fr"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name,message",
    [
        ("opus-100", "source 'opus-100' is no source of images, but of layout translation: choose another"),
        (
            "wukong",
            "no source of images, but of layout addresses: it has addresses of images: python training/run_d",
        ),
        ("laion-coco-nllb", "run_download.py --dataset laion-coco-nllb downloads them"),
    ],
)
def test_stage_2_refuses_what_has_no_images(name, message, tmp_path):
    with pytest.raises(InputError, match=message):
        load_image_rows(name, "train", ["zh"])
    flags = {"streaming": True, "cache_image_embeds": False, "max_steps": 1}
    with pytest.raises(InputError, match="no source of images"):
        stream_images(stage2(name, tmp_path, **flags), ["zh"])


def test_a_source_names_its_columns_itself():
    with pytest.raises(InputError, match="text_column is 'txt': source 'cc3m' names its columns itself"):
        load_image_rows("cc3m", "train", ["en"], "txt")


def test_images_have_no_language_that_is_not_requested(at_replica):
    at_replica("multi30k", [])
    rows = load_image_rows("multi30k", "train", ["de", "cs"])
    assert list(rows.features["captions"]) == ["de", "cs"]
    with pytest.raises(InputError, match="'multi30k' has none of the languages ja: it has en cs de fr"):
        load_image_rows("multi30k", "train", ["ja"])


def test_a_folder_with_the_name_of_a_source_is_not_guessed_at(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "talks").mkdir()
    with pytest.raises(InputError, match="'talks' is a source of this package, and here is .*./talks"):
        find_source("talks")
    assert find_source("./talks") is None
    assert find_source("org/talks") is None


@pytest.mark.parametrize(
    "change,message",
    [
        ({"layout": "pair"}, "layout has 'pair'; choose from pairs, translation"),
        ({"kind": "made"}, "kind has 'made'; choose from human, mined, machine"),
        ({"terms": ["free"]}, "terms has 'free'; choose from attribution"),
        ({"splits": {"dev": "dev"}}, "splits has 'dev'; choose from train, validation, test"),
        ({"splits": {}}, "`splits` is empty"),
        ({"revision": "abc"}, "revision is 'abc': give the 40 digits of a commit"),
        ({"columns": {"english": "en"}}, "`columns` of layout pairs must name translation"),
        ({"columns": {"english": "en", "translation": 3}}, "columns.translation is 3; it must be the name"),
        ({"columns": {"englsh": "en"}}, "`columns` has an unknown key 'englsh': did you mean 'english'"),
        ({"configs": {}}, "lacks configs, which list its languages"),
        ({"configs": {"jp": "en-jp"}}, "languages: 'jp' is a country's code"),
        ({"codes": {"de": "deu"}}, "layout pairs has no codes: leave them out"),
        ({"unverified": ["column"]}, "calls column unverified, which are no keys"),
        ({"n_rows": "many"}, "n_rows is 'many', which is no int"),
        ({"kind": None}, "lacks kind"),
        ({"licens": "MIT"}, "unknown key 'licens': did you mean 'licence'"),
        (
            {"layout": "columns", "configs": {}, "columns": {"captions": "text"}},
            "captions must be {language: ",
        ),
    ],
)
def test_a_wrong_file_is_one_line(change, message, tmp_path):
    with pytest.raises(InputError, match=message) as caught:
        load_source(write_own(tmp_path, change))
    assert "\n" not in str(caught.value)


def test_unknown_names():
    with pytest.raises(InputError, match="no source 'europal': did you mean europarl"):
        load_source("europal")
