"""Cleaning of parallel text: each step, the counts, and equal bytes however the work is divided."""

import csv
import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from datasets import Dataset

from common.errors import InputError
from common.origins import Origin
from training import load_parallel_text
from training.cleaning import report, texts
from training.cleaning.arguments import CleaningArguments
from training.cleaning.checks import RowChecker
from training.cleaning.similarity import keep_similar
from training.cleaning.workers import Workers
from training.data.parallel_text import read_parallel_text
from training.data.sources.origin import find_origins
from training.jobs import clean
from training.text_similarity import TextEncoder

LONG = "the quick brown fox jumps over the lazy dog near the river bank"
LANG = "le renard brun saute par-dessus le chien paresseux au bord de la rivière"


@pytest.mark.parametrize(
    "text,expected",
    [
        ("cafe\u0301", "café"),
        ("a\x00b\x07 c\t\n d ", "a b c d"),
        ("\ufeffa\u200bb\u00ad\u200ec", "abc"),  # marks and soft hyphens
        ("a\ue000b\U000f0000", "ab"),  # private use
        ("a\u2028b\u00a0c\u3000d", "a b c d"),  # separators and wide spaces
        ("می\u200cخواهم", "می\u200cخواهم"),  # joiners are letters of words
        ("👩\u200d🔧", "👩\u200d🔧"),
        ("\u0600\u0661", "\u0600\u0661"),
        ("ﬁ ½ 狗", "ﬁ ½ 狗"),  # compatible characters are kept, as NFKC would not
        ("\x00", ""),
    ],
)
def test_normalize(text, expected):
    assert texts.normalize(text) == expected
    assert texts.normalize(expected) == expected


@pytest.mark.parametrize("text", ["<b>x", "</p>", '<img src="a">', "<!-- a", "a<br/>b", "<![CDATA[x"])
def test_markup(text):
    assert texts.has_markup(text)


@pytest.mark.parametrize("text", ["a < b and c > d", "I <3 you", "2<3>1", "->", ""])
def test_no_markup(text):
    assert not texts.has_markup(text)


@pytest.mark.parametrize(
    "text",
    [
        "%s files",
        "%d",
        "%1$s",
        "%5.2f m",
        "%(name)s",
        "{0}",
        "{name}",
        "${x}",
        "{{ name }}",
        "{}",
        "$1 of $2",
        "$2 of $1.",
        "About %1",
        "%L12 of %2",
    ],
)
def test_placeholders(text):
    assert texts.has_placeholder(text)


@pytest.mark.parametrize(
    "text",
    [
        "100%",
        "50% off",
        "5%1",
        "90%silk",
        "$5",
        "for $5.",
        "$10",
        "$1.50",
        "$1 million",
        "$1k",
        "$1,000",
        "{a b}",
        "",
    ],
)
def test_no_placeholders(text):
    assert not texts.has_placeholder(text)


@pytest.mark.parametrize("text", ["see https://x", "FTP://a", "www.a.org", "a.b@c.de"])
def test_addresses(text):
    assert texts.has_address(text)


@pytest.mark.parametrize("text", ["@home", "http", "e.g. this", "awww.", ""])
def test_no_addresses(text):
    assert not texts.has_address(text)


@pytest.mark.parametrize(
    "text",
    [
        "a" * 100_000 + "@",
        "%" + "0" * 100_000,
        "{" + " " * 100_000,
        "<a" * 50_000,
        "@a" * 50_000,
        "%(" * 50_000,
    ],
)
def test_a_search_takes_time_that_is_linear_in_the_length(text):
    """A search of quadratic time would take minutes, and 10 MB would take weeks."""
    start = time.process_time()
    found = [texts.has_address(text), texts.has_placeholder(text), texts.has_markup(text)]
    assert found == [False] * 3
    assert time.process_time() - start < 2


@pytest.mark.parametrize("text,expected", [("dog", 3), ("狗", 3), ("いぬ", 4), ("개", 2), ("é", 1), ("", 0)])
def test_width(text, expected):
    assert texts.width(text) == expected


def test_length_ratio_is_of_what_is_said():
    assert texts.length_ratio("key", "la clé du bas") == pytest.approx(18 / 8)
    assert texts.length_ratio("a dog in the green grass", "绿草地里的一只狗") == 1


def checker(languages=("en", "fr", "de", "zh"), **settings):
    arguments = CleaningArguments(dataset="a", output_dir="b", **settings)
    return RowChecker(arguments, list(languages))


@pytest.mark.parametrize(
    "text,reason,left_out",
    [
        (" \u200b", "empty", None),
        ("<b>un chien", "mark-up", {"remove_markup": False}),
        ("voir www.chien.fr", "address", {"remove_addresses": False}),
        ("un %s noir", "placeholder", {"remove_placeholders": False}),
        ("c", "too short", {"least_length": 0, "most_ratio": 0}),
        ("un chien" * 200, "too long", {"most_length": 0, "most_ratio": 0}),
        ("A Dog", "equal to the English", {"remove_equal": False}),
        ("un chien " * 8, "length ratio", {"most_ratio": 0}),
    ],
)
def test_a_step_removes_a_text_unless_it_is_left_out(text, reason, left_out):
    row = {"en": "a dog", "de": "ein Hund", "fr": text}
    checked = checker().check(row)
    assert checked.removed == {"fr": reason}
    assert checked.kept == {"en": "a dog", "de": "ein Hund"}
    if left_out is not None:
        assert set(checker(**left_out).check(row).kept) == {"en", "de", "fr"}


def test_entities_and_unicode_are_changed_unless_left_out():
    row = {"en": "cats &amp; dogs", "fr": "chats\u200b et chiens"}
    checked = checker().check(row)
    assert checked.kept == {"en": "cats & dogs", "fr": "chats et chiens"}
    assert checked.changes == {"en": ["entities"], "fr": ["Unicode"]}
    left = checker(unescape_entities=False, normalize_unicode=False).check(row)
    assert (left.kept, left.changes) == (row, {})
    # A tag that is escaped is a tag.
    assert checker().check({"en": "&lt;b&gt;dog", "fr": "chien"}).removed["en"] == "mark-up"


@pytest.mark.parametrize(
    "row,removed",
    [
        ({"fr": "chien", "de": "Hund"}, {"fr": "no English", "de": "no English"}),
        ({"en": "<b>", "fr": "chien"}, {"en": "mark-up", "fr": "English removed"}),
        ({"en": "dog", "fr": "dog"}, {"fr": "equal to the English", "en": "no translation left"}),
        ({"en": "a dog"}, {}),
    ],
)
def test_a_row_without_english_or_translations(row, removed):
    checked = checker().check(row)
    assert checked.removed == removed
    assert set(checked.kept) == set(row) - set(removed)


FILTER = """
def no_cats(english, text, language):
    return "cats" if "chat" in text else None

def fails(english, text, language):
    raise KeyError("x")

def true(english, text, language):
    return True

number = 3
"""


def test_a_filter_of_ones_own(tmp_path):
    (tmp_path / "own.py").write_text(FILTER)
    checked = checker(filter=f"{tmp_path}/own.py:no_cats").check(
        {"en": "a cat", "fr": "un chat", "de": "Katze"}
    )
    assert checked.removed == {"fr": "filter: cats"}


@pytest.mark.parametrize(
    "function,message",
    [
        ("fails", "failed at 'chien' in fr, KeyError: 'x': fix it"),
        ("true", "returned True for 'chien' in fr: return the reason"),
        ("number", "defines no function number"),
        ("absent", "defines no function absent"),
    ],
)
def test_a_filter_that_is_none(tmp_path, function, message):
    (tmp_path / "own.py").write_text(FILTER)
    with pytest.raises(InputError, match=message):
        checker(filter=f"{tmp_path}/own.py:{function}").check({"en": "a dog", "fr": "chien"})


def test_a_file_of_a_filter_that_cannot_be_run(tmp_path):
    with pytest.raises(InputError, match="there is no file"):
        checker(filter=f"{tmp_path}/own.py:f")
    (tmp_path / "own.py").write_text("1 / 0")
    with pytest.raises(InputError, match="fails with ZeroDivisionError: division by zero"):
        checker(filter=f"{tmp_path}/own.py:f")


@pytest.mark.parametrize(
    "settings,message",
    [
        ({"least_length": -1}, "least_length is -1: give 0 or more"),
        ({"least_length": 9, "most_length": 5}, "most_length is 5, less than least_length, 9"),
        ({"most_ratio": 0.5}, "most_ratio is 0.5: give 0, or more than 1"),
        ({"near_duplicates": 1.1}, "near_duplicates is 1.1: give a number from 0 to 1"),
        ({"least_confidence": -0.1}, "least_confidence is -0.1"),
        ({"least_similarity": 0.5}, "least_similarity is 0.5, but nothing compares: give similarity_model"),
        (
            {"least_similarity": 2, "similarity_model_name_or_path": "a"},
            "least_similarity is 2: give a number from -1 to 1",
        ),
        ({"processes": 0}, "processes is 0: give 1 or more"),
        ({"part_rows": 0}, "part_rows is 0"),
        ({"filter": "own.py"}, "filter is 'own.py': give FILE.py:FUNCTION"),
        ({"filter": "own.txt:f"}, "filter is 'own.txt:f'"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(InputError, match=message):
        CleaningArguments(dataset="a", output_dir="b", **settings)


def test_languages_are_identified():
    pytest.importorskip("lingua")
    row = {"en": "the quick brown fox", "fr": LANG, "de": LANG, "yue": "一隻狗", "zh": "2019"}
    # The German is French; lingua knows no Cantonese, and sees no language in a number.
    checked = checker(row, identify_languages=True, most_ratio=0).check(row)
    assert checked.removed == {"de": "other language"}
    kept = checker(["en", "fr"], identify_languages=True, least_confidence=0, most_ratio=0).check(
        {"en": LANG, "fr": LONG}
    )
    assert set(kept.kept) == {"en", "fr"}


def write_rows(path, rows):
    schema = pa.schema([(language, pa.string()) for language in ("en", "fr", "zh")])
    pq.write_table(pa.Table.from_pylist(rows, schema), path)
    return str(path)


def corpus(path, n_rows=300):
    """Write numbers in words, in three languages; every tenth is a near-duplicate of an earlier row."""
    digits = "zero one two three four five six seven eight nine".split()
    chiffres = "zéro un deux trois quatre cinq six sept huit neuf".split()
    rows = []
    for number in range(n_rows):
        again = number - 7 if number % 10 == 9 else number
        places = str((again + 1000) ** 3)
        english = " ".join(digits[int(place)] for place in places)
        french = " ".join(chiffres[int(place)] for place in places)
        row = {
            "en": english,
            "fr": french,
            "zh": "".join("零一二三四五六七八九"[int(place)] for place in places),
        }
        if number % 10 == 9:
            row["en"] = row["en"].upper() + " "
        if number % 25 == 3:
            row["fr"] = row["en"]
        if number % 25 == 4:
            row["zh"] = None
        rows.append(row)
    return write_rows(path, rows)


def run(dataset, output_dir, **settings):
    settings = {"part_rows": 40, "most_ratio": 0} | settings
    clean.main(CleaningArguments(dataset=dataset, output_dir=str(output_dir), **settings))
    return files_of(output_dir)


def files_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files_in(folder)}


def files_in(folder):
    return sorted(path for path in Path(folder).rglob("*") if path.is_file())


def test_the_output_is_what_stage_1_reads(tmp_path):
    dataset = corpus(tmp_path / "corpus.parquet")
    run(dataset, tmp_path / "out")
    assert not (tmp_path / "out/.cleaning").exists()
    for name in (tmp_path / "out", tmp_path / "out/sources.yaml"):
        rows, n_skipped = load_parallel_text(str(name), split="train")
        assert (len(rows), n_skipped) == (270, 0)  # without the near-duplicates
        assert list(rows.features["captions"]) == ["en", "fr", "zh"]
    assert rows[0]["captions"] == {
        "en": ["one zero zero zero zero zero zero zero zero zero"],
        "fr": ["un zéro zéro zéro zéro zéro zéro zéro zéro zéro"],
        "zh": ["一零零零零零零零零零"],
    }
    numbers = []
    for path in files_in(tmp_path / "out/data"):
        numbers += pq.read_table(path)["row"].to_pylist()
    assert numbers == [number for number in range(300) if number % 10 != 9]


def test_a_language_that_no_source_has_is_refused(tmp_path):
    dataset = corpus(tmp_path / "corpus.parquet")
    with pytest.raises(InputError, match="^no source of '.*' has language de: choose from en fr zh"):
        run(dataset, tmp_path / "out", languages=["en", "de"])


def test_every_text_is_counted_once(tmp_path):
    files = run(corpus(tmp_path / "corpus.parquet"), tmp_path / "out")
    counts = list(csv.DictReader(files["counts.csv"].decode().splitlines()))
    found = {(row["language"], row["outcome"]): int(row["texts"]) for row in counts}
    # 12 rows have English in place of French, and 12 no Chinese.
    assert sum(found.values()) == 300 * 3 - 12
    assert found["fr", "equal to the English"] == 12
    assert found["en", "kept"] + found["en", "no translation left"] == 300
    assert found["en", "no translation left"] == 30
    rows, _ = load_parallel_text(str(tmp_path / "out"), split="train")
    for language in ("en", "fr", "zh"):
        kept = sum(len(row["captions"][language]) for row in rows)
        assert kept == found[language, "kept"]
    page = files["report.md"].decode()
    assert "270 of 300 rows and" in page
    assert "### near-duplicate" in page


@pytest.fixture(scope="module")
def cleaned(tmp_path_factory):
    """The corpus, and what one process makes of it without a break."""
    folder = tmp_path_factory.mktemp("cleaned")
    dataset = corpus(folder / "corpus.parquet")
    return dataset, run(dataset, folder / "out")


@pytest.mark.parametrize("share_pairs", [100, 20])
def test_shares_of_the_hashes_change_nothing(cleaned, tmp_path, monkeypatch, share_pairs):
    """What is merged at once is bounded; the pairs found are the same."""
    monkeypatch.setattr("training.cleaning.duplicates.SHARE_PAIRS", share_pairs)
    dataset, expected = cleaned
    assert run(dataset, tmp_path / "out") == expected


@pytest.mark.parametrize("part_rows", [7, 1000])
def test_the_length_of_parts_changes_no_count(cleaned, tmp_path, part_rows):
    dataset, expected = cleaned
    files = run(dataset, tmp_path / "out", part_rows=part_rows)
    assert files["counts.csv"] == expected["counts.csv"]


@pytest.mark.parametrize("processes", [pytest.param(2, marks=pytest.mark.slow), 4])
def test_processes_change_no_byte(cleaned, tmp_path, processes):
    dataset, expected = cleaned
    assert run(dataset, tmp_path / "out", processes=processes) == expected


def test_an_error_of_another_process_is_one_line(tmp_path):
    (tmp_path / "own.py").write_text(FILTER)
    with pytest.raises(InputError, match="failed at .* KeyError: 'x': fix it"):
        run(corpus(tmp_path / "a.parquet"), tmp_path / "out", processes=2, filter=f"{tmp_path}/own.py:fails")
    with pytest.raises(InputError, match="one of the processes was killed while testing, .*: start again"):
        with Workers(2) as workers:
            workers.run(os._exit, [(1,)] * 3, "Testing")


@pytest.mark.parametrize("function", ["check_part", "find_candidates", "finish_part"])
@pytest.mark.parametrize("done", [0, 3])
def test_a_run_that_broke_off_goes_on(cleaned, tmp_path, monkeypatch, function, done):
    """What was done is not done again, and no byte differs."""
    dataset, expected = cleaned
    original = getattr(clean, function)
    calls = []

    def breaks(*task):
        if len(calls) == done:
            raise KeyboardInterrupt
        calls.append(task)
        original(*task)

    with monkeypatch.context() as patch:
        patch.setattr(clean, function, breaks)
        with pytest.raises(KeyboardInterrupt):
            run(dataset, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in files_in(tmp_path / "out/.cleaning")}
    kept = {}

    def noted(plan, tallies, folder, **settings):
        kept.update({path: path.stat().st_mtime_ns for path in before})
        report.write_report(plan, tallies, folder, **settings)

    monkeypatch.setattr(clean, "write_report", noted)
    assert run(dataset, tmp_path / "out") == expected
    assert kept == before


@pytest.mark.parametrize("change", ["setting", "data", "filter"])
def test_an_unfinished_run_of_other_data_or_settings_is_refused(tmp_path, monkeypatch, change):
    dataset = corpus(tmp_path / "corpus.parquet")
    own = tmp_path / "own.py"
    own.write_text("def none(english, text, language):\n    return None\n")
    settings = {"filter": f"{own}:none"}
    with monkeypatch.context() as patch:
        patch.setattr(clean, "finish_part", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(dataset, tmp_path / "out", **settings)
    expected = {"setting": "least_length", "data": "data of source-000", "filter": "file of the filter"}
    if change == "setting":
        settings["least_length"] = 3
    elif change == "data":
        corpus(tmp_path / "corpus.parquet", n_rows=299)
    else:
        own.write_text(own.read_text() + "\n")
    with pytest.raises(InputError, match=f"an unfinished cleaning with other {expected[change]}: give"):
        run(dataset, tmp_path / "out", **settings)


def test_a_damaged_part_is_one_line(tmp_path, monkeypatch):
    dataset = corpus(tmp_path / "corpus.parquet")
    with monkeypatch.context() as patch:
        patch.setattr(clean, "find_candidates", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(dataset, tmp_path / "out")
    (tmp_path / "out/.cleaning/checked/part-00002.arrow").write_bytes(b"ARROW1 and then something else")
    with pytest.raises(InputError, match="part-00002.arrow is damaged, .*: delete"):
        run(dataset, tmp_path / "out")


def test_the_first_of_near_duplicates_is_kept(tmp_path):
    rows = [
        {"en": LONG, "fr": LANG},
        {"en": LONG + "!", "fr": LANG},  # as the first
        {
            "en": LONG,
            "fr": "tout autre chose, sans rapport avec cette phrase sur les animaux",
        },  # a paraphrase
        {"en": LONG, "zh": "敏捷的棕色狐狸跳过了河边那只懒狗"},  # another language
        {"en": "something else that is as long as the sentence on the fox", "fr": LANG},
        {"en": LONG.upper(), "fr": LANG + "."},  # as the first
    ]
    run(write_rows(tmp_path / "a.parquet", rows), tmp_path / "out")
    rows, _ = load_parallel_text(str(tmp_path / "out"), split="train")
    assert len(rows) == 4
    assert rows[0]["captions"]["en"] == [LONG]
    page = (tmp_path / "out/report.md").read_text("utf-8")
    assert f"| {tmp_path}/a.parquet, 1 | fr | {LONG}! | {LANG} | {LANG} |" in page


@pytest.mark.parametrize("least,n_kept", [(0.8, 1), (0.97, 2), (1.0, 2)])
def test_how_similar_near_duplicates_are_is_a_setting(tmp_path, least, n_kept):
    # The second row is 0.98 like the first in English, and 0.96 in French.
    rows = [{"en": LONG, "fr": LANG}, {"en": LONG + "!", "fr": LANG + " !!"}, {"en": LONG, "fr": LANG}]
    run(write_rows(tmp_path / "a.parquet", rows), tmp_path / "out", near_duplicates=least)
    assert len(load_parallel_text(str(tmp_path / "out"), split="train")[0]) == n_kept


def test_near_duplicates_can_be_kept(tmp_path):
    rows = [{"en": "a dog", "fr": "un chien"}] * 5
    run(write_rows(tmp_path / "a.parquet", rows), tmp_path / "out", near_duplicates=0)
    assert len(load_parallel_text(str(tmp_path / "out"), split="train")[0]) == 5


def test_rows_of_english_alone(tmp_path):
    path = tmp_path / "a.jsonl"
    captions = [{"en": LONG}, {"en": LONG}, {"en": LONG, "fr": LANG}, {"fr": LANG}]
    path.write_text("".join(json.dumps({"captions": row}) + "\n" for row in captions))
    files = run(str(path), tmp_path / "out")
    lines = files["counts.csv"].decode().splitlines()[1:]
    assert [line.removeprefix(str(path)) for line in lines] == [
        ",en,kept,2",
        ",en,near-duplicate,1",
        ",fr,kept,1",
        ",fr,no English,1",
    ]


def test_sources_keep_their_kinds_and_weights(tmp_path):
    (tmp_path / "human.tsv").write_text(f"en\tfr\n{LONG}\t{LANG}\n")
    (tmp_path / "web.en").write_text(f"{LONG}\na dog\n<b>\n")
    (tmp_path / "web.de").write_text(
        "Der schnelle braune Fuchs springt über den faulen Hund am Ufer\nHund\nx\n"
    )
    (tmp_path / "bad.tsv").write_text("en\tfr\n<b>\t<b>\n")
    sources = [
        {"data": "human.tsv", "kind": "human", "weight": 2, "licence": "CC-BY-SA-4.0"},
        {"data": "web.{en,de}", "kind": "machine"},
        {"data": "bad.tsv"},
    ]
    (tmp_path / "sources.yaml").write_text(yaml.safe_dump(sources))
    files = run(str(tmp_path / "sources.yaml"), tmp_path / "out")
    assert yaml.safe_load(files["sources.yaml"]) == [
        {"data": "data/source-000", "split": "train", "kind": "human", "weight": 2},
        {"data": "data/source-001", "split": "train", "kind": "machine"},
    ]
    rows, _ = load_parallel_text(str(tmp_path / "out/sources.yaml"), split="train")
    assert rows["weight"][:] == [2, 1, 1]
    assert rows[2]["captions"] == {"en": ["a dog"], "fr": [], "de": ["Hund"]}
    assert f"| {tmp_path}/web.{{en,de}} | 3 | 2 |" in files["report.md"].decode()
    # What it was made of stays known, in the whole and in each source.
    human = Origin(name="human.tsv", licence="CC-BY-SA-4.0", terms=["attribution", "share-alike"], rows=1)
    web = Origin(name="web.{en,de}", rows=2)
    human, web = replace(human, languages=["en", "fr"]), replace(web, languages=["en", "de"])
    assert find_origins(str(tmp_path / "out")) == [human, web]
    assert read_parallel_text(str(tmp_path / "out/sources.yaml"), "train").origins == [human, web]
    assert find_origins(str(tmp_path / "out/data/source-001")) == [web]
    run(str(tmp_path / "sources.yaml"), tmp_path / "chosen", kinds=["human"])
    assert find_origins(str(tmp_path / "chosen")) == [human]
    assert len(load_parallel_text(str(tmp_path / "chosen"), split="train")[0]) == 1


def test_data_that_cannot_be_cleaned(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(InputError, match="no English for the teacher"):
        path = tmp_path / "a.tsv"
        path.write_text("fr\tde\nun\tein\n")
        run(str(path), out)
    with pytest.raises(InputError, match=r"nothing of dataset .* is left: .*report.md tells why"):
        run(write_rows(tmp_path / "a.parquet", [{"en": "<b>", "fr": "un"}] * 3), out)
    assert "mark-up" in (out / "report.md").read_text("utf-8")
    (tmp_path / "full/data").mkdir(parents=True)
    with pytest.raises(InputError, match="holds a dataset already"):
        run(write_rows(tmp_path / "b.parquet", [{"en": "a dog", "fr": "un chien"}]), tmp_path / "full")


def test_what_a_kill_after_the_last_step_left_is_removed(cleaned, tmp_path, monkeypatch):
    dataset, expected = cleaned
    with monkeypatch.context() as patch:
        patch.setattr(clean.shutil, "rmtree", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(dataset, tmp_path / "out")
    with pytest.raises(InputError, match="holds a dataset already"):
        run(dataset, tmp_path / "out")
    assert files_of(tmp_path / "out") == expected


def test_what_is_hidden_shows_in_the_report(tmp_path):
    rows = [{"en": "a dog | cat", "fr": "chien\u200b | chat"}]
    files = run(write_rows(tmp_path / "a.parquet", rows), tmp_path / "out")
    assert r"| a dog \| cat | chien\\u200b \| chat | chien \| chat |" in files["report.md"].decode()


def fake_encoder(weights="1"):
    """Return an encoder of angles: a text's embedding is the direction of its last word, in degrees."""

    def embed(texts, batch_size):
        assert not any("fishes" in text for text in texts)  # English alone
        angles = torch.tensor([float(text.split()[-1]) for text in texts]).deg2rad()
        return torch.stack([angles.cos(), angles.sin()], dim=1)

    return TextEncoder("angles", weights, embed)


def compared_rows(path):
    """Write two rows of one language, one of two, and one of English alone."""
    rows = [
        {"en": "one dog at 0", "fr": "un chien par 60"},
        {"en": "two cats at 90", "fr": "deux chats par 90", "zh": "两只猫 180"},
        {"en": "three birds at 0", "fr": "trois oiseaux par 120"},
        {"en": "four fishes at 10"},
    ]
    return write_rows(path, rows)


@pytest.fixture
def compares(monkeypatch):
    """Let cleanings compare by angles, with the settings that ask for it."""
    asked = []

    def load(*given):
        asked.append(given)
        return fake_encoder()

    monkeypatch.setattr(clean, "load_text_encoder", load)
    return {"similarity_model_name_or_path": "angles", "similarity_prefix": "q: "}, asked


def test_similarities_are_a_column(tmp_path, compares):
    settings, asked = compares
    dataset = compared_rows(tmp_path / "a.parquet")
    files = run(dataset, tmp_path / "out", part_rows=2, **settings)
    assert asked == [("angles", "similarity_model_name_or_path", "q: ")]
    table = pa.concat_tables([pq.read_table(path) for path in files_in(tmp_path / "out/data")])
    assert table["similarity"].type == pa.struct([("fr", pa.float32()), ("zh", pa.float32())])
    similarities = table["similarity"].to_pylist()
    assert similarities[0] == {"fr": pytest.approx(0.5), "zh": None}
    assert similarities[1] == {"fr": pytest.approx(1), "zh": pytest.approx(0, abs=1e-6)}
    assert similarities[2:] == [{"fr": pytest.approx(-0.5), "zh": None}, {"fr": None, "zh": None}]
    assert len(load_parallel_text(str(tmp_path / "out"), split="train")[0]) == 4
    assert "`similarity` is the cosine of each translation" in files["README.md"].decode()
    assert "similarity" not in run(dataset, tmp_path / "without")["README.md"].decode()


def test_what_is_less_similar_is_removed_and_counted(tmp_path, compares):
    settings, _ = compares
    dataset = compared_rows(tmp_path / "a.parquet")
    files = run(dataset, tmp_path / "out", least_similarity=0.25, **settings)
    rows, _ = load_parallel_text(str(tmp_path / "out"), split="train")
    assert [row["captions"]["en"][0][:4] for row in rows] == ["one ", "two ", "four"]
    assert rows[1]["captions"]["zh"] == []
    lines = files["counts.csv"].decode().splitlines()[1:]
    assert [line.removeprefix(dataset) for line in lines] == [
        ",en,kept,3",
        ",en,no translation left,1",
        ",fr,kept,2",
        ",fr,similarity,1",
        ",zh,similarity,1",
    ]
    assert "| three birds at 0 | trois oiseaux par 120 | -0.500 |" in files["report.md"].decode()


def test_a_threshold_is_moved_without_the_model(tmp_path, compares):
    settings, _ = compares
    dataset = compared_rows(tmp_path / "a.parquet")
    run(dataset, tmp_path / "all", **settings)
    run(dataset, tmp_path / "strict", least_similarity=0.25, **settings)
    files = [str(path) for path in files_in(tmp_path / "all/data")]
    rows = keep_similar(Dataset.from_parquet(files), 0.25)
    expected = pq.read_table(tmp_path / "strict/data")
    assert rows["captions"][:] == expected["captions"].to_pylist()
    assert rows["row"][:] == expected["row"].to_pylist()
    with pytest.raises(InputError, match="have no column similarity, but captions, row: clean them"):
        keep_similar(rows.select_columns(["captions", "row"]), 0.5)


def test_similarities_are_computed_once(tmp_path, monkeypatch, compares):
    """A run that broke off goes on with those that it has, unless the model is another one."""
    settings, _ = compares
    dataset = compared_rows(tmp_path / "a.parquet")
    expected = run(dataset, tmp_path / "whole", **settings)
    with monkeypatch.context() as patch:
        patch.setattr(clean, "finish_part", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(dataset, tmp_path / "out", **settings)
    with monkeypatch.context() as patch:
        patch.setattr(clean, "load_text_encoder", lambda *_: fake_encoder("2"))
        with pytest.raises(InputError, match="with other weights of the model of similarities"):
            run(dataset, tmp_path / "out", **settings)
    with monkeypatch.context() as patch:
        patch.setattr("training.cleaning.similarity.text_similarities", lambda *_: 1 / 0)
        assert run(dataset, tmp_path / "out", **settings) == expected


def test_the_teacher_and_text_encoders_compare(miniature, tmp_path):
    """Any model that `load_text_encoder` reads does, such as a CLIP or its text encoder."""
    dataset = write_rows(tmp_path / "a.parquet", [{"en": "a red dog", "fr": "a red dog!"}])
    for name in ("clip", "text_encoder"):
        out = tmp_path / name
        run(dataset, out, remove_equal=False, similarity_model_name_or_path=str(miniature / name))
        (similarity,) = pq.read_table(out / "data")["similarity"].to_pylist()
        assert 0.3 < similarity["fr"] < 1


def test_entries_that_are_not_ready_are_said_as_stage_1_says_them(tmp_path, capsys):
    unit = '<tu><tuv xml:lang="en"><seg>{}</seg></tuv><tuv xml:lang="fr"><seg>{}</seg></tuv></tu>'
    units = unit.format(LONG, LANG) + 2 * unit.format("untranslated", "")
    (tmp_path / "memory.tmx").write_text(f'<tmx version="1.4"><body>{units}</body></tmx>')
    run(str(tmp_path / "memory.tmx"), tmp_path / "out")
    assert "memory.tmx: Skipped 2 untranslated.\n" in capsys.readouterr().out
