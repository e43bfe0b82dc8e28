"""Captions without images are translated too, by a source's name and to a source's name; bad translations are
skipped, counted and shown.
"""

import gzip
import json

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, List, Value
from transformers import BertConfig, BertModel

from common.errors import InputError
from common.files.rows import load_rows
from training.data.loading import load_image_rows
from training.data.parallel_text import load_parallel_text
from training.data.sources.loading import find_source
from training.jobs.translation import main
from training.parallel import translation
from training.parallel.translation import TranslationArguments
from training.parallel.translation_quality import check_translations
from training.text_similarity import load_text_encoder, text_similarities

from .faults.jobs import CODES, write_translator
from .test_any_model import ENCODER, bert_tokenizer
from .test_text_similarity import shake
from .test_training_images import encoded

ENGLISH = ["a dog", "a cat", "a red bird"]


@pytest.fixture(scope="module")
def translator(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "translator"
    write_translator(folder)
    return folder


@pytest.fixture
def encoder(tmp_path):
    """Save a text encoder that tells texts apart."""
    torch.manual_seed(0)
    model = BertModel(BertConfig(**ENCODER, vocab_size=200, max_position_embeddings=60))
    shake(model)
    model.save_pretrained(tmp_path / "encoder")
    bert_tokenizer().save_pretrained(tmp_path / "encoder")
    return str(tmp_path / "encoder")


@pytest.fixture
def translate(translator, tmp_path, monkeypatch):
    """Return a function that translates a dataset into Spanish, by words before each text.

    It returns the folder that was written. `said` overrides the translations of some texts.
    """
    said = {}

    def spanish(texts, language, *_):
        return [said.get(text, f"{language} {text}") for text in texts]

    monkeypatch.setattr(translation, "translate", spanish)

    def translate(dataset, overrides=None, **arguments):
        said.clear()
        said.update(overrides or {})
        defaults = {"splits": ["train"], "target_languages": ["es"], "output_dir": str(tmp_path / "out")}
        defaults |= {"model_name_or_path": str(translator), "language_codes": CODES, "batch_size": 4}
        main(TranslationArguments(dataset=str(dataset), **defaults | arguments))
        return tmp_path / "out"

    return translate


def write_lines(folder, name, opened=open):
    with opened(folder / name, "wt", encoding="utf-8") as file:
        file.write("\n".join([ENGLISH[0], "", f" {ENGLISH[1]} ", ENGLISH[2]]))
    return folder / name


def write_jsonl(folder, name, rows):
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / name


def write_parquet(folder, captions):
    (folder / "texts").mkdir()
    features = Features({"captions": {"en": List(Value("string")), "zh": List(Value("string"))}})
    Dataset.from_dict({"captions": captions}, features).to_parquet(folder / "texts/train.parquet")
    return folder / "texts"


def write_tsv(folder, name, lines):
    (folder / name).write_text("\n".join(lines))
    return folder / name


# How captions without images may be given.
FORMS = {
    "lines": lambda folder: write_lines(folder, "a.txt"),
    "compressed lines": lambda folder: write_lines(folder, "a.txt.gz", gzip.open),
    "a table of captions": lambda folder: write_tsv(
        folder, "a.tsv", ["caption\turl", *(f"{t}\tx" for t in ENGLISH)]
    ),
    "a table by languages": lambda folder: write_tsv(
        folder, "a.tsv", ["en\ttext", *(f"{t}\tx" for t in ENGLISH)]
    ),
    "JSON": lambda folder: write_jsonl(folder, "a.jsonl", [{"caption": text} for text in ENGLISH]),
    "JSON of captions": lambda folder: write_jsonl(
        folder, "a.jsonl", [{"captions": {"en": text}} for text in ENGLISH]
    ),
    "several captions a row": lambda folder: write_parquet(
        folder, [{"en": ENGLISH[:2], "zh": []}, {"en": ENGLISH[2:], "zh": []}]
    ),
    "a list of sources": lambda folder: write_tsv(
        folder, "a.yaml", [f"- {{data: {write_tsv(folder, 'b.tsv', ['en', *ENGLISH]).name}}}"]
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_captions_without_images_become_parallel_text(form, translate, tmp_path):
    folder = translate(FORMS[form](tmp_path))
    for dataset in (folder, folder / "source.yaml"):
        rows, n_skipped = load_parallel_text(str(dataset), "train")
        assert n_skipped == 0
        texts = [
            {language: texts for language, texts in captions.items() if texts}
            for captions in rows["captions"]
        ]
        assert texts == [{"en": [text], "es": [f"es {text}"]} for text in ENGLISH]


def test_captions_with_images_keep_them(translate, tmp_path):
    images = [{"bytes": encoded(color), "path": None} for color in ("red", "green", "blue")]
    columns = {"image": images, "caption": ENGLISH, "number": [1, 2, 3]}
    features = Features({"image": Image(), "caption": Value("string"), "number": Value("int64")})
    (tmp_path / "in").mkdir()
    Dataset.from_dict(columns, features).to_parquet(tmp_path / "in/train.parquet")
    folder = translate(tmp_path / "in", {"a cat": ""})
    source = find_source(str(folder / "source.yaml"))
    assert (source.layout, source.kind, source.languages, source.n_rows) == (
        "images",
        "machine",
        ["en", "es"],
        3,
    )

    rows = load_image_rows(str(folder / "source.yaml"), "train", ["es"])
    assert [caption["es"] for caption in rows["captions"]] == [["es a dog"], [None], ["es a red bird"]]
    assert [image["bytes"] for image in rows["image"]] == [image["bytes"] for image in images]
    assert load_rows(str(folder), "train", [])["number"][:] == [1, 2, 3]


def test_images_are_left_out_where_texts_are_wanted(translate, tmp_path):
    images = [{"bytes": encoded("red"), "path": None}] * 3
    features = Features({"image": Image(), "caption": Value("string")})
    (tmp_path / "in").mkdir()
    path = tmp_path / "in/train.parquet"
    Dataset.from_dict({"image": images, "caption": ENGLISH}, features).to_parquet(path)
    # A file alone does not say which files may be opened.
    with pytest.raises(
        InputError, match="is a file with images in image: give its folder, or keep_images false"
    ):
        translate(path)
    folder = translate(tmp_path / "in", keep_images=False)
    rows = load_rows(str(folder), "train", [])
    assert rows.column_names == ["captions"]
    assert find_source(str(folder / "source.yaml")).layout == "columns"


# What the model says, and why it is skipped. The text with "bye" repeats itself in English too.
SAID = {
    "a dog": ("", "empty"),
    "a cat": (" \u200b", "empty"),
    "Berlin": ("berlin.", "equal to the text in en"),
    "a bird": ("un un un un", "repetition"),
    "a sea": ("海海海海海海海海", "repetition"),
    "bye bye bye bye now": ("chao chao chao chao", None),
    "a fish": ("un pez pez pez", None),
}


def arguments_of(**given):
    defaults = {"dataset": "x", "splits": ["train"], "target_languages": ["es"], "output_dir": "y"}
    return TranslationArguments(**defaults | {"model_name_or_path": "z"} | given)


@pytest.mark.parametrize("sentence", SAID)
def test_a_translation_that_says_nothing_is_skipped(sentence):
    said, reason = SAID[sentence]
    checked = check_translations({sentence: said}, {}, None, arguments_of())
    assert dict(checked.counts) == ({} if reason is None else {reason: 1})
    assert checked.kept == ({sentence: said} if reason is None else {})
    assert checked.examples == ({} if reason is None else {reason: [(sentence, said)]})
    lenient = check_translations(
        {sentence: said}, {}, None, arguments_of(skip_copied=False, skip_repetition=False)
    )
    assert bool(lenient.kept) == (reason != "empty")


def test_ten_examples_of_a_reason_are_kept():
    said = {f"text {number}": "" for number in range(12)}
    checked = check_translations(said, {}, None, arguments_of())
    assert checked.counts["empty"] == 12
    assert checked.examples["empty"] == [(f"text {number}", "") for number in range(10)]
    assert checked.n_sentences == 12


def test_skipped_translations_are_counted_and_shown(translate, tmp_path, capsys):
    said = {sentence: text for sentence, (text, _) in SAID.items()}
    path = write_tsv(tmp_path, "a.tsv", ["en", *said])
    folder = translate(path, said)
    expected = "skipped in es: 2 empty, 1 equal to the text in en, 2 repetition."
    assert f"Translated 7 distinct texts; {expected}" in capsys.readouterr().out
    report = (folder / "report.md").read_text("utf-8")
    assert "| es | kept | 2 |\n| es | empty | 2 |\n| es | equal to the text in en | 1 |" in report
    assert "## es: repetition\n\n| en | es |\n|---|---|\n| a bird | un un un un |" in report
    card = (folder / "README.md").read_text("utf-8")
    assert "| 7 | 2 | 2 empty, 1 equal to the text in en, 2 repetition |" in card
    rows, _ = load_parallel_text(str(folder), "train")
    # Their texts in English stay.
    assert len(rows) == 7
    assert sum(bool(captions["es"]) for captions in rows["captions"]) == 2


def test_translations_that_say_something_else_are_skipped(translate, encoder, tmp_path):
    path = write_tsv(tmp_path, "a.tsv", ["en", *ENGLISH])
    folder = translate(path, similarity_model_name_or_path=encoder)
    translations = [f"es {text}" for text in ENGLISH]
    expected = text_similarities(load_text_encoder(encoder), ENGLISH, translations)
    rows = load_rows(str(folder), "train", [])
    found = [similarity["es"][0] for similarity in rows["similarity"]]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert all(captions["es"] for captions in rows["captions"])
    assert "and their similarities to the texts" in (folder / "README.md").read_text("utf-8")

    # Another threshold computes nothing anew, and leaves the similarity of what is skipped.
    threshold = float(np.sort(expected)[1])
    (folder / "data").rename(tmp_path / "before")
    computed = {path.name: path.read_bytes() for path in (folder / "translations").glob("*.jsonl")}
    assert set(computed) == {"es.jsonl", "es.similarity.jsonl"}
    translate(
        path, {"a dog": "never asked"}, similarity_model_name_or_path=encoder, least_similarity=threshold
    )
    assert {path.name: path.read_bytes() for path in (folder / "translations").glob("*.jsonl")} == computed
    rows = load_rows(str(folder), "train", [])
    assert [similarity["es"][0] for similarity in rows["similarity"]] == found
    kept = [bool(captions["es"]) for captions in rows["captions"]]
    assert kept == [value >= threshold for value in found]
    assert 0 < sum(kept) < 3
    assert f"| es | similarity below {threshold:g} | {3 - sum(kept)} |" in (folder / "report.md").read_text()


def test_similarities_of_other_translations_are_refused(translate, encoder, tmp_path):
    path = write_tsv(tmp_path, "a.tsv", ["en", *ENGLISH])
    folder = translate(path, similarity_model_name_or_path=encoder)
    (folder / "data").rename(tmp_path / "before")
    message = "es.similarity.jsonl was made with prefix '': delete it, or give another output_dir"
    with pytest.raises(InputError, match=message):
        translate(path, similarity_model_name_or_path=encoder, similarity_prefix="query: ")
    # Translated anew, with other settings
    (folder / "translations/es.jsonl").unlink()
    with pytest.raises(InputError, match="es.similarity.jsonl was made with translations {'model': "):
        translate(path, similarity_model_name_or_path=encoder, max_length=9)


def test_a_batch_that_is_there_in_part_is_translated_again(translate, translator, tmp_path):
    """Another batch could round otherwise, and so choose other words."""
    path = write_tsv(tmp_path, "a.tsv", ["en", *(f"text {number}" for number in range(9))])
    folder = translate(path)
    file = folder / "translations/es.jsonl"
    whole = file.read_bytes()
    (folder / "data").rename(tmp_path / "before")
    lines = whole.splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:6]) + lines[6][:5])

    seen = []
    original = translation.translate

    def seeing(texts, *rest):
        seen.append(len(texts))
        return original(texts, *rest)

    translation.translate = seeing  # the fixture restores it
    translate(path)
    assert seen == [4, 1]
    assert file.read_bytes() == whole


@pytest.mark.parametrize(
    "given,message",
    [
        ({"least_similarity": 0.5}, "least_similarity is 0.5: give similarity_model_name_or_path too"),
        (
            {"least_similarity": 1.5, "similarity_model_name_or_path": "x"},
            "least_similarity is 1.5: give a number from -1 to 1",
        ),
        (
            {"least_similarity": float("nan"), "similarity_model_name_or_path": "x"},
            "least_similarity is nan: give a number from -1 to 1",
        ),
        ({"rows": 0}, "rows is 0: give 1 or more"),
    ],
)
def test_bad_settings_are_refused(given, message):
    with pytest.raises(InputError, match=message):
        arguments_of(**given)
