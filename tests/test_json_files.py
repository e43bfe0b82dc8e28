"""JSON of ours is refused in one line where Python reads what no JSON has, or ends with another error."""

import json

import pytest

from benchmarks.tasks.class_names import load_class_names
from common.errors import InputError
from common.files.json_files import parse_json, read_json, refuse_repeated_keys

DEEP = "[" * 100_000


@pytest.mark.parametrize(
    "text,message",
    [
        ("NaN", "is no JSON, line 1, column 1: NaN is no finite number: give one, or null"),
        ('{"a": [-Infinity]}', "is no JSON, line 1, column 8: -Infinity is no finite number"),
        (
            '{"a": 1,\n "NaN": "NaN \\" NaN",\r\n"b": [true, 1e999]}',
            "is no JSON, line 3, column 13: 1e999 is no",
        ),
        ('[{"a": 1},\n {"b": {"a": 1}, "a": "b:", "b": 2}]', "is no JSON, line 2, column 29: the key 'b' is"),
        (
            '{"a": {"b": 1, "\\u0062": 2}, "a": 1}',
            "is no JSON, line 1, column 16: the key 'b' is given twice",
        ),
        (DEEP, "is nested too deeply to be read: make it flatter"),
        ('{"a": ' * 100_000, "is nested too deeply"),
        ("[\n" + "9" * 5000 + "]", "is no JSON, line 2, column 1: Exceeds the limit"),
        ('"\\ud83d"', r"is no JSON, line 1, column 1: a text has '\\ud83d', half of a character: delete it"),
        ('{"\\uDE00": 1}', r"is no JSON, line 1, column 2: a text has '\\ude00', half of a character"),
        ("", "is no JSON: Expecting value: line 1"),
        ("{'a': 1}", "is no JSON: .*: line 1"),
        (b"\xff{}", "is no JSON: 'utf-8' codec can't decode"),
    ],
)
def test_what_is_no_json_is_one_line(text, message):
    with pytest.raises(InputError, match=rf"\Athis {message}[^\n]*\Z"):
        parse_json(text, "this")


def test_what_json_has_is_read(tmp_path):
    content = {"a": [1, -2.5e-3, True, None], "emoji": "\U0001f600"}
    assert parse_json(json.dumps(content), "this") == content  # the emoji as two escapes
    assert parse_json(json.dumps(content).encode("utf-8-sig"), "this") == content
    (tmp_path / "a.json").write_text(json.dumps(content), "utf-8-sig")
    assert read_json(tmp_path / "a.json", "file") == content
    with pytest.raises(InputError, match="does not exist: give a JSON file"):
        read_json(tmp_path / ("x" * 5000), "file")


@pytest.mark.parametrize("lines", [DEEP, '{"en": "a"}\n' + DEEP])
def test_lines_that_are_nested_too_deeply_are_refused(tmp_path, lines):
    (tmp_path / "a.jsonl").write_text(lines)
    with pytest.raises(InputError, match=r"a.jsonl', line [12]: it is nested too deeply"):
        refuse_repeated_keys([str(tmp_path / "a.jsonl")])


@pytest.mark.parametrize(
    "names,message",
    [
        (None, "None is no list of names"),
        (5, "5 is no list of names"),
        ([], "0 classes|no class has a name"),
        ([None, None], "no class has a name"),
        (["dog", 3], r"1 of 2 classes without a name: 1\. A name is text"),
        (["dog", " "], "1 of 2 classes without a name: 1"),
        # Babel-ImageNet's form.
        ([[0, 1000], ["a", "b"]], "1000 is no class of ImageNet's, which are 0 to 999"),
        ([[0, -1], ["a", "b"]], "-1 is no class of ImageNet's"),
        ([[0, True], ["a", "b"]], "True is no class of ImageNet's"),
        ([[0, None], ["a", "b"]], "None is no class of ImageNet's"),
        ([[0, 0], ["a", "b"]], "class 0 has two names: delete one"),
        ([[0, 1], ["a"]], "is not in the form .*, two lists of one length"),
        ([[0, 1], 5], "is not in the form"),
        ([[0, 1]], "is not in the form"),
        ([[0], ["a"], ["b"]], "is not in the form"),
        ([[0], [["a"]]], "without a name: 0"),
    ],
)
def test_class_names_of_other_forms_are_refused(tmp_path, names, message):
    (tmp_path / "n.json").write_text(json.dumps({"en": names}))
    with pytest.raises(InputError, match=rf"\Aclass names of 'en' in n.json[^\n]*({message})[^\n]*\Z"):
        load_class_names(str(tmp_path / "n.json"), ["en"])


@pytest.mark.parametrize("names", [None, 5, "dogs"])
def test_a_subset_is_of_a_list(tmp_path, names):
    (tmp_path / "n.json").write_text(json.dumps({"en": names}))
    with pytest.raises(InputError, match="is no list of names"):
        load_class_names(str(tmp_path / "n.json"), ["en"], subset=[0])


def test_classes_may_be_left_out(tmp_path):
    (tmp_path / "n.json").write_text('{"en": ["dog", null], "de": [[1, 999], ["Hund", "Katze"]]}')
    names = load_class_names(str(tmp_path / "n.json"), ["en", "de"])
    assert names["en"] == ["dog", None]
    assert {label: name for label, name in enumerate(names["de"]) if name} == {1: "Hund", 999: "Katze"}
