"""A key that stands twice in a mapping is refused, in whatever file of ours or of the user's it does."""

import bz2
import gzip
import io
import json
import tarfile

import pytest

from benchmarks.tasks.class_names import load_class_names
from benchmarks.tasks.loading import load_task
from benchmarks.tasks.templates import load_templates
from common.errors import InputError
from common.files.json_files import read_json, refuse_repeated_keys
from common.files.rows import load_rows
from common.files.yaml_files import read_yaml
from training.data.parallel_text import load_parallel_text
from training.translation.translating import TranslationArguments

TWICE = "the key 'en' is given twice"


@pytest.mark.parametrize(
    "text,place",
    [
        ("en: 1\nfr: 2\nen: 3\n", "line 3, column 1: the key 'en'"),
        ("- {en: 1, en: 2}\n", "line 1, column 11: the key 'en'"),
        ("a:\n  b:\n    'en': 1\n    en: 2\n", "line 4, column 5: the key 'en'"),
        # `no` is Norwegian, and a text like 'no'.
        ("no: 1\n'no': 2\n", "line 2, column 1: the key 'no'"),
    ],
)
def test_of_yaml_the_line_is_named(tmp_path, text, place):
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(
        InputError, match=f"^recipe '.*r.yaml' is no YAML, {place} is given twice: delete one$"
    ):
        read_yaml(tmp_path / "r.yaml", "recipe")


def test_keys_that_are_merged_may_be_given_anew(tmp_path):
    # `<<` merges the keys of another mapping, which a mapping's own keys override: none of b is given twice.
    (tmp_path / "r.yaml").write_text("a: &a {x: 1, y: 2}\nb: {<<: &b {<<: *a, x: 3}, y: 4}\nc: *b\n")
    assert read_yaml(tmp_path / "r.yaml", "recipe") == {
        "a": {"x": 1, "y": 2},
        "b": {"x": 3, "y": 4},
        "c": {"x": 3, "y": 2},
    }


def test_tasks_are_refused(tmp_path):
    (tmp_path / "t.yaml").write_text(
        "kind: retrieval\ndataset: x\nsplit: train\nsplit: test\nmetric: mean_recall\n"
    )
    with pytest.raises(
        InputError, match="task '.*t.yaml' is no YAML, line 4, column 1: the key 'split' is given twice"
    ):
        load_task(str(tmp_path / "t.yaml"))


@pytest.mark.parametrize(
    "text,column", [('{"en": [1], "fr": [2], "en": [3]}', 24), ('{"a": [{"en": 1, "en": 1}]}', 18)]
)
def test_of_json_the_file_is_named(tmp_path, text, column):
    path = tmp_path / "n.json"
    path.write_text(text)
    message = f"^file '.*n.json' is no JSON, line 1, column {column}: {TWICE} in one object: delete one$"
    with pytest.raises(InputError, match=message):
        read_json(path, "file")


def test_class_names_and_sentences_are_refused(tmp_path):
    path = tmp_path / "n.json"
    path.write_text('{"en": ["a {}"], "en": ["b {}"]}')
    with pytest.raises(InputError, match=f"n.json' is no JSON, line 1, column [0-9]+: {TWICE}"):
        load_class_names(str(path), ["en"])
    with pytest.raises(InputError, match=f"n.json' is no JSON, line 1, column [0-9]+: {TWICE}"):
        load_templates(str(path), "en")


def test_of_models_of_languages_too():
    models = '{"en": "a", "en": "b"}'
    with pytest.raises(InputError, match=f"models is no JSON, line 1, column [0-9]+: {TWICE}"):
        TranslationArguments(
            dataset="x",
            splits=["train"],
            target_languages=["en"],
            source_language="fr",
            output_dir="x",
            models=models,
        )


WHOLE = '{"captions": {"en": "a", "fr": "b"}}\n'
HALF = '{"captions": {"en": "a", "en": "b"}}\n'


@pytest.mark.parametrize("name", ["a.jsonl", "a.NDJSON", "a.json", "a.jsonl.gz", "a.jsonl.bz2"])
def test_parallel_text_is_refused_by_its_line(tmp_path, name):
    """`datasets` takes the last of them, or the first row's keys for rows."""
    write = {".gz": gzip.compress, ".bz2": bz2.compress}.get((tmp_path / name).suffix, bytes)
    # The blank line counts: the second row is line 3.
    (tmp_path / name).write_bytes(write((WHOLE + "\n" + HALF).encode()))
    with pytest.raises(InputError, match=f"{name}', line 3: {TWICE} in one object: delete one"):
        load_parallel_text(str(tmp_path / name), "train")


def test_a_list_in_many_lines_is_refused(tmp_path):
    path = tmp_path / "a.json"
    # One list over several lines has no row's line to name.
    path.write_text(f"[\n{WHOLE},\n{HALF}]")
    with pytest.raises(InputError, match=f"a.json', line 4, column 26: {TWICE}"):
        load_parallel_text(str(path), "train")
    path.write_text(json.dumps([json.loads(WHOLE)] * 2, indent=1))
    assert len(load_parallel_text(str(path), "train")[0]) == 2


def test_a_folder_of_them_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text(WHOLE)
    (tmp_path / "b.jsonl").write_text(HALF)
    with pytest.raises(InputError, match=f"b.jsonl', line 1: {TWICE}"):
        load_rows(str(tmp_path), "train", [])


def test_what_is_no_json_is_left_to_others(tmp_path):
    # Half a line, no UTF-8, no JSON by its name, and a file on the Hub: `datasets` itself reports these.
    (tmp_path / "a.jsonl").write_text(WHOLE + "{")
    (tmp_path / "b.json").write_bytes(b"\xff\xfe")
    (tmp_path / "c.csv").write_text('{"en": 1, "en": 2}')
    refuse_repeated_keys(map(str, [*tmp_path.iterdir(), "hf://datasets/a.jsonl"]))


def test_json_of_a_tar_is_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, content in {"1.jpg": b"", "1.json": b'{"en": "a", "en": "b"}'}.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    # It is the first sample: none stands before it.
    with pytest.raises(InputError, match=f"a.tar: the sample behind None cannot be read, {TWICE}"):
        load_rows(str(tmp_path), "train", [])
