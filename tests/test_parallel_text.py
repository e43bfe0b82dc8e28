"""Parallel text of every form, several at once, and what is set aside."""

import json

import pandas as pd
import pytest
from datasets import Dataset

from benchmarks.recipe import InputError
from training.data import CaptionCells
from training.parallel_text import load_parallel_text

from .conftest import ROOT

PAIRS = [("dog face", "狗脸"), ("NA", "null"), ('a "quoted" key', "钥匙")]


@pytest.fixture
def written(tmp_path):
    """The same three pairs in every form."""
    english, chinese = zip(*PAIRS)
    (tmp_path / "t.tsv").write_text("en\tzh\n" + "".join(f"{one}\t{other}\n" for one, other in PAIRS), "utf-8")
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"en": one, "zh": other}) + "\n" for one, other in PAIRS))
    (tmp_path / "opus.jsonl").write_text("".join(json.dumps({"translation": {"en": one, "zh": other}}) + "\n" for one, other in PAIRS))
    table = pd.DataFrame({"en": english, "zh": chinese, "score": [1.0, 2.0, 3.0]})
    table.to_parquet(tmp_path / "t.parquet")
    table.to_csv(tmp_path / "t.csv", index=False)
    for language, texts in (("en", english), ("zh", chinese)):
        (tmp_path / f"m.{language}.txt").write_text("\n".join(texts) + "\n", "utf-8")
    Dataset.from_dict({"captions": [{"en": one, "zh": other} for one, other in PAIRS]}).to_parquet(tmp_path / "folder/train.parquet")
    return tmp_path


@pytest.mark.parametrize("name", ["t.tsv", "t.jsonl", "opus.jsonl", "t.parquet", "t.csv", "m.{en,zh}.txt", "folder"])
def test_every_form_gives_the_same_rows(written, name):
    rows, n_without_english = load_parallel_text(str(written / name), "train")
    assert rows.column_names == ["captions"] and n_without_english == 0
    assert [(row["en"], row["zh"]) for row in rows["captions"]] == PAIRS


@pytest.fixture
def sources(written):
    (written / "french.tsv").write_text("en\tfr\nbell\tcloche\n\tclé\n", "utf-8")
    listed = [{"data": "t.tsv", "kind": "human"}, {"data": "m.{en,zh}.txt", "kind": "machine"}, {"data": "french.tsv", "kind": "human"}]
    (written / "sources.yaml").write_text(json.dumps(listed))
    return str(written / "sources.yaml")


def test_sources_are_joined_and_told_apart_by_kind(sources):
    rows, n_without_english = load_parallel_text(sources, "train")
    assert len(rows) == 7 and n_without_english == 1
    assert rows["captions"][6] == {"en": "bell", "zh": None, "fr": "cloche"}
    assert rows["captions"][0] == {"en": "dog face", "zh": "狗脸", "fr": None}
    assert len(load_parallel_text(sources, "train", ["human"])[0]) == 4
    assert len(load_parallel_text(sources, "train", ["machine"])[0]) == 3
    with pytest.raises(InputError, match="kinds made name no source .*: it has human machine"):
        load_parallel_text(sources, "train", ["made"])


def test_bad_sources_are_named(written):
    (written / "one.en.txt").write_text("a\nb\n")
    (written / "one.zh.txt").write_text("甲\n")
    (written / "odd.tsv").write_text("text\tlabel\na\tb\n")
    (written / "german.tsv").write_text("de\tfr\na\tb\n")
    (written / "odd.yaml").write_text("- {date: t.tsv}\n")
    for name, message in {
        "one.{en,zh}.txt": "equally many lines: .*one.en.txt has 2, .*one.zh.txt has 1",
        "odd.tsv": "has no texts: name its columns by language codes, en among them; it has text, label",
        "german.tsv": "no English for the teacher to read: they have de fr",
        "odd.yaml": "must list sources with the keys data kind name split, data at least; it has {'date': 't.tsv'}",
        "nowhere.tsv": "nowhere.tsv' does not exist",
        "nowhere.{en,zh}": "nowhere.en' does not exist",
        "nowhere.yaml": "nowhere.yaml' does not exist",
    }.items():
        with pytest.raises(InputError, match=message):
            load_parallel_text(str(written / name), "train")


def test_what_is_set_aside_is_counted_by_reason():
    captions = [
        {"en": "dog", "zh": "狗"},
        {"en": "dog", "zh": "狗"},  # both repeated
        {"en": "dog", "zh": "犬"},  # English repeated; another translation is not
        {"en": "taxi", "zh": " taxi"},  # not translated
        {"en": "key", "zh": None},
        {"en": "k" * 30, "zh": "钥匙"},  # too long
    ]
    rows = Dataset.from_dict({"captions": captions, "target": [[0.0]] * 6})
    cells = CaptionCells(rows, ["en", "zh"], "target", max_characters=20, sift=True)
    assert [cell["text"] for cell in cells.__getitems__(range(len(cells)))] == ["dog", "狗", "犬", "taxi", "key", "钥匙"]
    assert cells.set_aside == {"empty": 1, "too long": 1, "left in English": 1, "repeated": 3}
    plain = CaptionCells(rows, ["en", "zh"], "target")
    assert len(plain) == 11 and plain.set_aside == {"empty": 1}


def test_stage_1_says_what_it_left_out(sources, miniature, run, tmp_path):
    process = run(
        *["python", ROOT / "training/run_stage1.py", ROOT / "training/recipes/altclip/stage1.yaml", "--output_dir", tmp_path / "out"],
        *["--teacher_name_or_path", miniature / "clip", "--text_encoder_name_or_path", miniature / "text_encoder", "--dataset", sources],
        *["--languages", "en", "zh", "fr", "--kinds", "human", "--max_steps", "1", "--per_device_train_batch_size", "4"],
        *["--bf16", "false", "--use_cpu", "true"],
    )
    assert process.returncode == 0, process.stderr
    assert "1 rows without English" in process.stdout
    assert "Training on 8 examples from 4 rows; set aside: 4 empty." in process.stdout
