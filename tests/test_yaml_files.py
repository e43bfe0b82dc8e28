"""YAML of ours is read by YAML 1.2, in bounded time, and what cannot be read is refused in one line."""

import re

import pytest

from common.errors import InputError
from common.files.yaml_files import read_as_written, read_yaml

from .conftest import ROOT


def read(folder, text):
    path = folder / "r.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    return read_yaml(path, "file")


@pytest.mark.parametrize(
    "text,value",
    [
        ("no", "no"),
        ("[yes, on, off, n, true, False]", ["yes", "on", "off", "n", True, False]),
        ("{no: 1}", {"no": 1}),
        # Spellings that YAML 1.1 and 1.2 take for different numbers, and a date.
        ("[012, 1:30, 1_000, 2024-05-01]", ["012", "1:30", "1_000", "2024-05-01"]),
        ("[0, -3, +4, 0x1f, 0o17]", [0, -3, 4, 31, 15]),
        ("[1e-3, .5, 5., 1.5e3, -0.0]", [0.001, 0.5, 5.0, 1500.0, 0.0]),
        ("[~, null, ]", [None, None]),
        ("[=, '1', !!str 2]", ["=", "1", "2"]),
        ("", None),
        # A list may stand twice.
        ("a: &a [1]\nb: *a", {"a": [1], "b": [1]}),
    ],
)
def test_words_mean_what_yaml_1_2_says(tmp_path, text, value):
    assert read(tmp_path, text) == value


BOMB = "- &a [x, x, x, x, x, x, x, x, x, x]\n"
for former, name in zip("abcde", "bcdef"):
    BOMB += f"- &{name} [{', '.join(['*' + former] * 10)}]\n"


@pytest.mark.parametrize(
    "text,message",
    [
        (
            "a: !!python/object/apply:os.system [ls]",
            "line 1, column 4: the tag .* is not read here: delete it",
        ),
        ("a: !!binary '%'", "line 1, column 4: the tag .*binary is not read here"),
        ("a: !!timestamp x", "line 1, column 4: the tag .*timestamp is not read here"),
        ("a: !!set {b}", "line 1, column 4: the tag .*set is not read here"),
        ("a: !mine b", "line 1, column 4: the tag !mine is not read here"),
        ("a: !!bool x", "line 1, column 4: 'x' is not true or false: delete the tag"),
        ("a: !!null x", "line 1, column 4: 'x' is not null: delete the tag"),
        ("a: !!int x", "line 1, column 4: x is no whole number"),
        ("a: !!float x", "line 1, column 4: x is no finite number"),
        ("a: !!str [b]", "line 1, column 4: expected a scalar node, but found sequence"),
        ("a: .nan", "line 1, column 4: .nan is no finite number: give one, or quote the text"),
        ("a: [1, -.inf]", r"line 1, column 8: -.inf is no finite number"),
        ("a: 1e999", "line 1, column 4: 1e999 is no finite number"),
        ("a: " + "9" * 5000, "line 1, column 4: 9{20} is no whole number of at most 19 digits"),
        ("a: &x [*x]", r"line 1, column 8: \*x stands within what it repeats: delete it"),
        ("a: &x {b: {c: *x}}", r"line 1, column 15: \*x stands within what it repeats"),
        ("a: *x", "line 1, column 4: found undefined alias 'x'"),
        (BOMB, r"line 5, column \d+: it has more than 50,000 values, with those of its aliases"),
        ("[" * 100_000, "line 1, column 51: it is nested more than 50 deep: make it flatter"),
        ("- " * 100_000, "line 1, column 101: it is nested more than 50 deep"),
        ("1: 2", "line 1, column 1: the key 1 is no text: quote it"),
        ("~: 2", "line 1, column 1: the key ~ is no text"),
        ("true: 2", "line 1, column 1: the key true is no text"),
        ("? [a]\n: 2", "line 1, column 3: a list or mapping is no key: give a text"),
        ("a: 1\n\tb: 2", r"line 2, column 1: .*found character '\\t' that cannot start any token"),
        ("a: 1\nb: \x00", "line 2: character 0x0 is not allowed: delete it"),
        ('a: "\\ud800"', "line 1, column 4: a text has half of a character: delete it"),
        ('a: "\\UFFFFFFFF"', "in a text in quotes: .*"),
        ("a: {<<: 5}", "line 1, column 9: .*expected a mapping or list of mappings for merging"),
        ("--- a\n--- b", "line 2, column 1: .*found another document"),
    ],
)
def test_what_is_refused_is_one_line_with_its_place(tmp_path, text, message):
    with pytest.raises(InputError, match=rf"\Afile '.*r.yaml' is no YAML, {message}[^\n]*\Z"):
        read(tmp_path, text)


def test_a_file_larger_than_any_of_ours_is_refused(tmp_path):
    with pytest.raises(
        InputError, match="has 1,000,002 bytes, and at most 1,000,000 are read: keep long lists"
    ):
        read(tmp_path, "'" + "x" * 1_000_000 + "'")


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "nowhere.yaml"])
def test_a_name_of_no_file_is_refused(tmp_path, name):
    with pytest.raises(InputError, match="does not exist: give a YAML file that is there"):
        read_yaml(tmp_path / name, "file")


def test_scalars_as_they_are_written(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("a: 1.10\n\nb: [012, no, ~]\nc: {d: 1e2, e: no}\nf: ~\n")
    written = read_as_written(path, "file")
    assert {key: value.value for key, value in written.items()} == {
        "a": "1.10",
        "b": ["012", "no", None],
        "c": {"d": 100.0, "e": "no"},
        "f": None,
    }
    assert [value.line for value in written.values()] == [1, 3, 4, 5]


def test_one_function_reads_all_our_yaml():
    """Nothing else imports PyYAML, which would read `no` as False."""
    readers = set()
    for package in (
        "altclip",
        "benchmarks",
        "common",
        "deploy",
        "model_cards",
        "modeling_altclip",
        "training",
    ):
        for path in (ROOT / package).rglob("*.py"):
            if re.search(r"^\s*(import|from) yaml\b", path.read_text("utf-8"), re.MULTILINE):
                readers.add(path.relative_to(ROOT).as_posix())
    assert readers == {"common/files/yaml_files.py"}
