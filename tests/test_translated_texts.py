"""Captions without images are translated too, by a source's name and to a source's name; bad translations are
skipped, counted and shown.
"""

import gzip
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, List, Value
from huggingface_hub.errors import LocalEntryNotFoundError
from transformers import BertConfig, BertModel

from common.errors import InputError
from common.files.rows import load_rows
from common.origins import Origin, read_origins
from training.data.loading import load_image_rows
from training.data.parallel_text import load_parallel_text
from training.data.sources import loading
from training.data.sources.loading import find_source, load_source
from training.data.sources.origin import find_origins
from training.jobs.translation import main
from training.text_similarity import load_text_encoder, text_similarities
from training.translation import output, translating
from training.translation.quality import Checked, check_translations
from training.translation.rows import read_split, with_translations
from training.translation.translating import TranslationArguments

from .faults.jobs import CODES, write_translator
from .source_replicas import N, write_source
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

    monkeypatch.setattr(translating, "translate", spanish)

    def translate(dataset, overrides=None, **arguments):
        said.clear()
        said.update(overrides or {})
        defaults = {"splits": ["train"], "target_languages": ["es"], "output_dir": str(tmp_path / "out")}
        defaults |= {"model_name_or_path": str(translator), "language_codes": CODES, "batch_size": 4}
        main(TranslationArguments(dataset=str(dataset), **defaults | arguments))
        return tmp_path / "out"

    return translate


def arguments_of(**given):
    defaults = {"dataset": "x", "splits": ["train"], "target_languages": ["es"], "output_dir": "y"}
    return TranslationArguments(**defaults | {"model_name_or_path": "z"} | given)


def write_lines(folder, name, opened=open):
    with opened(folder / name, "wt", encoding="utf-8") as file:
        file.write("\n".join([ENGLISH[0], "", f" {ENGLISH[1]} ", ENGLISH[2]]))
    return folder / name


def write_jsonl(folder, name, rows):
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / name


def zipped(path):
    with zipfile.ZipFile(f"{path}.zip", "w") as archive:
        archive.write(path, path.name)
    return f"{path}.zip"


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
    "zipped lines of JSON": lambda folder: zipped(
        write_jsonl(folder, "a.jsonl", [{"caption": text} for text in ENGLISH])
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
def test_captions_without_images_are_parallel_text(form, tmp_path):
    rows = read_split(arguments_of(dataset=str(FORMS[form](tmp_path))), "train")
    assert rows.column_names == ["captions"]
    assert [captions["en"] for captions in rows["captions"]] == [[text] for text in ENGLISH]


def test_stage_1_reads_what_is_written(translate, tmp_path):
    folder = translate(FORMS["compressed lines"](tmp_path))
    for dataset in (folder, folder / "source.yaml"):
        rows, n_skipped = load_parallel_text(str(dataset), "train")
        assert n_skipped == 0
        assert rows["captions"][:] == [{"en": [text], "es": [f"es {text}"]} for text in ENGLISH]


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
    threshold = round(sorted(found)[1], 4)
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
    assert kept == [round(value, 4) >= threshold for value in found]
    assert sum(kept) == 2
    assert f"| es | similarity below {threshold:g} | 1 |" in (folder / "report.md").read_text()


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
    original = translating.translate

    def seeing(texts, *rest):
        seen.append(len(texts))
        return original(texts, *rest)

    translating.translate = seeing  # the fixture restores it
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


@pytest.fixture
def at_replica(tmp_path, monkeypatch):
    """Return a function that writes a copy of a public corpus, and lets its name stand for the copy."""

    def write(name, languages):
        write_source(load_source(name), tmp_path / "replica", languages)
        original = loading._make_source

        def local(given, path):
            source = original(given, path)
            is_ours = path.parent == Path(loading.__file__).parent
            return replace(source, dataset=str(tmp_path / "replica"), revision=None) if is_ours else source

        monkeypatch.setattr(loading, "_make_source", local)

    return write


# The languages that a run names, those that the copy has, and those that are read.
CORPORA = {
    "cc3m": (None, [], ["en"]),
    "multi30k": (["de"], [], ["en", "de"]),
    "laion-coco-nllb": (["de"], ["de", "fr"], ["en", "de"]),
    "opus-100": (["de"], ["de"], ["en", "de"]),
    "m-clip-captions": (["en"], ["de"], ["en"]),
}


@pytest.mark.parametrize("name", CORPORA)
def test_a_corpus_is_read_by_its_name(name, at_replica):
    languages, written, expected = CORPORA[name]
    at_replica(name, written)
    rows = read_split(arguments_of(dataset=name, languages=languages), "train")
    has_images = load_source(name).layout == "images"
    assert rows.column_names == (["image", "captions"] if has_images else ["captions"])
    for number, captions in enumerate(rows["captions"]):
        assert captions == {language: [f"{language} {number}"] for language in expected}
    assert len(rows) == N


@pytest.mark.parametrize("name", ["cc3m", "laion-coco-nllb"])
def test_a_corpus_becomes_a_source(name, translate, at_replica):
    languages, written, available = CORPORA[name]
    at_replica(name, written)
    folder = translate(name, languages=languages)
    source = find_source(str(folder / "source.yaml"))
    assert source.languages == [*available, "es"]
    if source.layout == "images":
        rows = load_image_rows(source.file, "train", None)
    else:
        rows, _ = load_parallel_text(source.file, "train")
    assert list(rows.features["captions"]) == source.languages
    assert [captions["es"] for captions in rows["captions"]] == [[f"es en {number}"] for number in range(N)]

    # What it is made of is read from its folder.
    of_data, of_model = read_origins(folder)
    assert (of_data.name, of_data.licence, of_data.rows) == (name, load_source(name).licence, N)
    assert (of_model.role, of_model.licence) == ("model", None)
    assert find_origins(source.file) == [of_data, of_model]


def test_a_budget_takes_rows_at_equal_distances(at_replica, tmp_path):
    path = write_tsv(tmp_path, "a.tsv", ["en", *(f"text {number}" for number in range(10))])
    rows = read_split(arguments_of(dataset=str(path), rows=4), "train")
    # Rows that were selected are written with their translations alone.
    rows = with_translations(rows, {"es": {}}, "en")
    assert [captions["en"] for captions in rows["captions"]] == [
        [f"text {number}"] for number in (0, 2, 5, 7)
    ]
    at_replica("cc3m", [])
    assert len(read_split(arguments_of(dataset="cc3m", rows=2), "train")) == 2


@pytest.mark.parametrize(
    "name,written,given,message",
    [
        ("laion-coco-nllb", ["de"], {"languages": ["de"], "target_languages": ["de"]}, "have de already"),
        ("opus-100", ["de"], {"languages": ["en"]}, "has none of the languages en beside English"),
        ("opus-100", ["de"], {}, "each a download of its own: name those to train on"),
        ("cc3m", [], {"text_column": "txt"}, "text_column is 'txt': source 'cc3m' names its columns itself"),
        ("laion-chinese", [], {"source_language": "zh"}, "it has addresses of images: "),
        ("flores", ["de"], {"languages": ["de"]}, "is refused for training"),
    ],
)
def test_what_a_corpus_does_not_have(name, written, given, message, at_replica):
    at_replica(name, written)
    with pytest.raises(InputError, match=message):
        read_split(arguments_of(**{"dataset": name} | given), "train")


def test_texts_that_are_no_pairs_are_refused(tmp_path):
    path = write_parquet(tmp_path, [{"en": ["a dog", "a cat"], "zh": ["狗"]}])
    with pytest.raises(
        InputError, match="2 texts in en and 1 in zh, which are no pairs: give as many, or none"
    ):
        read_split(arguments_of(dataset=str(path)), "train")
    rows = read_split(arguments_of(dataset=str(path), captions_per_image=1), "train")
    assert rows["captions"][:] == [{"en": ["a dog"], "zh": ["狗"]}]
    with pytest.raises(InputError, match="a.txt' is not UTF-8, in line 1"):
        (tmp_path / "a.txt").write_bytes(b"\xff\xfe")
        read_split(arguments_of(dataset=str(tmp_path / "a.txt")), "train")


NON_COMMERCIAL = ["attribution", "non-commercial"]
# What the card of the model states, what is given by hand, and what the output says.
LICENCES = {
    "of its card": ("cc-by-nc-4.0", None, "cc-by-nc-4.0", NON_COMMERCIAL),
    "by hand": (None, "CC-BY-NC-4.0", "CC-BY-NC-4.0", NON_COMMERCIAL),
    "by hand, though the card states another": ("mit", "CC-BY-NC-4.0", "CC-BY-NC-4.0", NON_COMMERCIAL),
    "not stated": (None, None, None, None),
}


@pytest.mark.parametrize("case", LICENCES)
def test_the_licences_of_source_and_model_are_in_the_output(case, translator, tmp_path):
    stated, given, licence, terms = LICENCES[case]
    if stated is not None:
        (tmp_path / "nllb").mkdir()
        (tmp_path / "nllb/README.md").write_text(f"---\nlicense: {stated}\n---\n")
    folder = tmp_path / "out"
    arguments = arguments_of(
        dataset="cc3m",
        output_dir=str(folder),
        model_name_or_path=str(tmp_path / "nllb"),
        model_license=given,
    )
    origins = output.find_all_origins(arguments, 2)
    rows = Dataset.from_dict({"captions": [{"en": ["a dog"], "es": ["un perro"]}] * 2})
    checked = Checked({"model": arguments.model_name_or_path, "weights": "0" * 64}, {"a dog": "un perro"})
    output.write_record({"train": rows}, {"es": checked}, origins, arguments)

    card = (folder / "README.md").read_text("utf-8")
    source = find_source(str(folder / "source.yaml"))
    label = f"nllb ({licence or 'licence not stated'})"
    assert source.licence == f"cc3m ({load_source('cc3m').licence}); {label}"
    assert (source.terms, source.n_rows, source.kind) == (terms, 2, "machine")
    assert [origin.licence for origin in read_origins(folder)] == [load_source("cc3m").licence, licence]
    assert "machine translations of those in en. No person has read them." in card
    assert f"| nllb | model | {licence or 'not stated'} | {', '.join(terms or ['not known'])} |" in card
    assert "| train | 2 |" in card
    for path in folder.iterdir():
        assert str(tmp_path) not in path.read_text("utf-8")
    is_unknown = licence is None
    hub_licence = "other" if is_unknown else "cc-by-nc-4.0"
    assert ("The licence of nllb is not known: read what the owners say" in card) == is_unknown
    assert f"license: {hub_licence}\n" in card
    if is_unknown:
        assert f"under unknown terms: {label}" in card
    else:
        assert f"not for commercial use: {label}" in card


def test_a_card_shows_a_licence_as_text(tmp_path):
    arguments = arguments_of(dataset="mine.tsv", output_dir=str(tmp_path))
    origin = Origin(name="mine.tsv", licence="<script> | [free](http://x)")
    rows = Dataset.from_dict({"captions": [{"en": ["a dog"], "es": ["un perro"]}]})
    checked = Checked({"model": "nllb", "weights": "0" * 64}, {"a dog": "un perro"})
    output.write_record({"train": rows}, {"es": checked}, [origin], arguments)
    card = (tmp_path / "README.md").read_text("utf-8")
    # In the table, and in the sentence on the outcome.
    assert card.count(r"\<script\> \| \[free\](http://x)") == 2
    assert card.count("<script>") == 0


def test_the_card_of_a_model_on_the_hub_is_looked_up(monkeypatch):
    """The cache may lack it: loading a model downloads no README.md."""
    asked = []

    def offline(name, file):
        asked.append((name, file))
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr(output, "hf_hub_download", offline)
    given = {"dataset": "cc3m", "model_name_or_path": "facebook/nllb-200-distilled-600M"}
    _, of_model = output.find_all_origins(arguments_of(**given), 2)
    assert asked == [("facebook/nllb-200-distilled-600M", "README.md")]
    assert (of_model.licence, of_model.terms) == ("CC-BY-NC-4.0", NON_COMMERCIAL)


def test_a_split_of_another_name_is_no_source(translate, tmp_path):
    """A source has splits that are called train, validation and test."""
    texts = write_parquet(tmp_path, [{"en": ["a dog"], "zh": []}])
    (texts / "train.parquet").rename(texts / "dev-0.parquet")
    (texts / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - {split: mine, path: dev-0.parquet}\n---\n"
    )
    folder = translate(texts, splits=["mine"])
    assert not (folder / "source.yaml").exists()
    assert len(load_rows(str(folder), "mine", [])) == 1
