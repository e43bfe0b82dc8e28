"""Check parallel text of every form, several sources at once, and the texts that are skipped."""

import bz2
import gzip
import io
import json
import lzma
import os
from functools import partial
from zipfile import ZIP_DEFLATED, ZipFile

import pandas as pd
import pyarrow as pa
import pytest
from datasets import Dataset, Features, Translation, Value

from common.errors import InputError
from common.files import archives
from common.files import rows as rows_module
from training.data import parallel_text
from training.data.examples import CaptionExamples
from training.data.parallel_text import load_parallel_text, only_captions
from training.data.preview import read_head

from .conftest import ROOT

# pandas takes NA and null for missing by default, and quotes for marks around a field.
PAIRS = [("dog face", "狗脸"), ("NA", "null"), ('a "quoted" key', "钥匙")]


def lines(path, rows):
    """Write rows as lines of JSON and return the path."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return str(path)


def texts_of(rows):
    """Return each row's only text: `{"en": ["a dog"], "fr": []}` -> `{"en": "a dog", "fr": None}`."""
    found = []
    for row in rows["captions"]:
        for texts in row.values():
            assert len(texts) <= 1
        found.append({language: texts[0] if texts else None for language, texts in row.items()})
    return found


def captions_of(path):
    rows, _ = load_parallel_text(str(path), "train")
    return texts_of(rows)


@pytest.fixture
def written(tmp_path):
    """Write the same three pairs in every form."""
    english, chinese = zip(*PAIRS)
    rows = [{"en": one, "zh": other} for one, other in PAIRS]
    lines_of_table = ["en\tzh\n", *(f"{one}\t{other}\n" for one, other in PAIRS)]
    table_of_tabs = "".join(lines_of_table).encode()
    (tmp_path / "t.tsv").write_bytes(table_of_tabs)
    # As Windows writes it: with a byte order mark and two characters at the end of a line.
    (tmp_path / "crlf.tsv").write_bytes(b"\xef\xbb\xbf" + table_of_tabs.replace(b"\n", b"\r\n"))
    lines(tmp_path / "t.jsonl", rows)
    lines(tmp_path / "opus.jsonl", [{"translation": row} for row in rows])
    table = pd.DataFrame({"en": english, "zh": chinese, "score": [1.0, 2.0, 3.0]})
    table.to_parquet(tmp_path / "t.parquet")
    table.to_csv(tmp_path / "t.csv", index=False)
    for language, texts in (("en", english), ("zh", chinese)):
        (tmp_path / f"m.{language}.txt").write_text("\n".join(texts) + "\n", "utf-8")
    Dataset.from_dict({"captions": rows}).to_parquet(tmp_path / "folder/train.parquet")
    return tmp_path


@pytest.mark.parametrize(
    "name", ["t.tsv", "crlf.tsv", "t.jsonl", "opus.jsonl", "t.parquet", "t.csv", "m.{en,zh}.txt", "folder"]
)
def test_every_form_gives_the_same_rows(written, name):
    rows, n_without_english = load_parallel_text(str(written / name), "train")
    assert rows.column_names == ["captions"]
    assert n_without_english == 0
    assert [(row["en"], row["zh"]) for row in texts_of(rows)] == PAIRS


def test_hub_translations_are_read(monkeypatch):
    features = Features({"translation": Translation(["en", "zh"]), "id": Value("string")})
    rows = Dataset.from_dict({"translation": [{"en": "key", "zh": "钥匙"}], "id": ["1"]}, features=features)

    def open_rows(dataset, split, path, name, data_files, allow_outside):
        return rows

    monkeypatch.setattr(rows_module, "open_rows", open_rows)
    found = parallel_text.read_source("Helsinki-NLP/opus-100", "en-zh", "train")
    assert texts_of(found) == [{"en": "key", "zh": "钥匙"}]


def test_texts_stay_texts_and_other_columns_stay_out(tmp_path):
    # As numbers these would be 7 and 1.1.
    (tmp_path / "t.tsv").write_text("url\ten\tzh\nx\t007\t1.10\n")
    assert list(captions_of(tmp_path / "t.tsv")) == [{"en": "007", "zh": "1.10"}]
    path = lines(tmp_path / "t.jsonl", [{"id": 1, "en": "a", "zh": "b", "len_en": 3}])
    assert list(captions_of(path)) == [{"en": "a", "zh": "b"}]


def test_a_line_ends_at_a_line_feed_alone(tmp_path):
    """A lone carriage return or a Unicode separator within a sentence would shift every later pair."""
    (tmp_path / "m.en").write_bytes("a\rq\nb\u2028c\n\n".encode())
    (tmp_path / "m.zh").write_bytes("甲\n乙\r丙\n丁\n".encode())
    rows, n_without_english = load_parallel_text(str(tmp_path / "m.{en,zh}"), "train")
    pairs = [(row["en"], row["zh"]) for row in texts_of(rows)]
    assert pairs == [("a\rq", "甲"), ("b\u2028c", "乙\r丙")]
    assert n_without_english == 1


@pytest.mark.parametrize(
    "name,content",
    [
        ("t.tsv", "en\tzh\n{}\t甲\n"),
        ("t.csv", "en,zh\n{},甲\n"),
        ("m.{en,zh}.txt", "{}\n"),
        ("t.jsonl", '{{"en": "{}", "zh": "甲"}}\n'),
        ("t.ndjson", '{{"en": "{}", "zh": "甲"}}\n'),
        ("t.parquet", None),
        ("folder/train.csv", "en,zh\n{},甲\n"),
        ("folder/train.jsonl", '{{"en": "{}", "zh": "甲"}}\n'),
    ],
)
def test_a_changed_file_of_the_same_size_and_time_is_read_anew(tmp_path, name, content):
    """`cp -p`, `rsync -t` and `tar` write other contents under the old time."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "m.zh.txt").write_text("甲\n", "utf-8")
    path = tmp_path / name.replace("{en,zh}", "en")
    for text in ("cat", "dog"):
        if content is None:
            Dataset.from_dict({"en": [text], "zh": ["甲"]}).to_parquet(path)
        else:
            path.write_text(content.format(text), "utf-8")
        os.utime(path, (1e9, 1e9))
        dataset = path.parent if path.parent.name == "folder" else tmp_path / name
        assert captions_of(dataset)[0]["en"] == text


@pytest.fixture
def sources(written):
    # Its second row has no English.
    (written / "french.tsv").write_text("en\tfr\nbell\tcloche\n\tclé\n", "utf-8")
    listed = [
        {"data": "t.tsv", "kind": "human"},
        {"data": "m.{en,zh}.txt", "kind": "machine"},
        {"data": "french.tsv", "kind": "human"},
    ]
    (written / "sources.yaml").write_text(json.dumps(listed))
    return str(written / "sources.yaml")


def test_sources_are_joined_and_told_apart_by_kind(sources):
    rows, n_without_english = load_parallel_text(sources, "train")
    # 3 + 3 + 1
    assert len(rows) == 7
    assert n_without_english == 1
    assert texts_of(rows)[6] == {"en": "bell", "zh": None, "fr": "cloche"}
    assert texts_of(rows)[0] == {"en": "dog face", "zh": "狗脸", "fr": None}
    human, _ = load_parallel_text(sources, "train", ["human"])
    assert len(human) == 4
    machine, _ = load_parallel_text(sources, "train", ["machine"])
    assert len(machine) == 3
    with pytest.raises(InputError, match="kinds made name no source .*: it has human machine"):
        load_parallel_text(sources, "train", ["made"])


def test_sources_are_weighted(written):
    path = written / "weighted.yaml"
    path.write_text(json.dumps([{"data": "t.tsv", "weight": 3}, {"data": "m.{en,zh}.txt"}]))
    rows, _ = load_parallel_text(str(path), "train")
    # A source without a weight has weight 1.
    assert rows["weight"][:] == [3.0] * 3 + [1.0] * 3
    examples = CaptionExamples(rows.add_column("target", [[0.0]] * 6), ["zh"], "target")
    assert examples.weights.tolist() == [3.0] * 3 + [1.0] * 3
    path.write_text(json.dumps([{"data": "t.tsv", "weight": 0}]))
    with pytest.raises(InputError, match="weight of 't.tsv' in .* is 0: give a positive number"):
        load_parallel_text(str(path), "train")


def test_bad_sources_are_named(written):
    (written / "one.en.txt").write_text("a\nb\n")
    (written / "one.zh.txt").write_text("甲\n")
    (written / "odd.tsv").write_text("text\tlabel\na\tb\n")
    (written / "german.tsv").write_text("de\tfr\na\tb\n")
    (written / "odd.yaml").write_text("- {date: t.tsv}\n")
    (written / "shifted.tsv").write_text("en\tzh\na\tb\t0.9\n")
    (written / "empty.tsv").write_text("")
    messages = {
        "shifted.tsv": "shifted.tsv' has 3 fields in line 2, and 2 names in its first: fix it",
        "empty.tsv": "empty.tsv' is empty",
        "one.{en,zh}.txt": "equally many lines: .*one.en.txt has 2, .*one.zh.txt has 1",
        "odd.tsv": "has no texts: name its columns by language codes, en among them; it has text, label",
        "german.tsv": "no English for the teacher to read: they have de fr",
        "odd.yaml": "must list sources with the keys data kind licence name rows split temperature terms "
        "weight, data at least; it has {'date': 't.tsv'}",
        "nowhere.tsv": "nowhere.tsv' does not exist",
        "nowhere.{en,zh}": "nowhere.en' does not exist",
        "nowhere.yaml": "nowhere.yaml' does not exist",
    }
    for name, message in messages.items():
        with pytest.raises(InputError, match=message):
            load_parallel_text(str(written / name), "train")


def test_what_is_set_aside_is_counted_by_reason():
    captions = [
        {"en": "dog", "zh": "狗"},
        {"en": "dog", "zh": "狗"},  # both repeated
        {"en": "dog", "zh": "犬"},  # English repeated; another translation is not
        {"en": "taxi", "zh": " taxi"},  # not translated
        {"en": "key", "zh": None},  # empty
        {"en": "k" * 30, "zh": "钥匙"},  # too long
    ]
    rows = Dataset.from_dict({"captions": captions, "target": [[0.0]] * 6})
    examples = CaptionExamples(rows, ["en", "zh"], "target", max_characters=20, sift=True)
    texts = [example["text"] for example in examples.__getitems__(range(len(examples)))]
    assert texts == ["dog", "狗", "犬", "taxi", "key", "钥匙"]
    assert examples.skipped == {"empty": 1, "too long": 1, "left in English": 1, "repeated": 3}
    plain = CaptionExamples(rows, ["en", "zh"], "target")
    assert len(plain) == 11
    assert plain.skipped == {"empty": 1}


def test_one_long_text_or_no_english_is_no_trouble():
    # Sifting compares texts with their English, which is missing here.
    captions = [{"zh": "狗" * 200_000}] + [{"zh": "猫"}] * 3
    rows = Dataset.from_dict({"captions": captions, "target": [[0.0]] * 4})
    examples = CaptionExamples(rows, ["zh"], "target", sift=True)
    assert examples.skipped == {"empty": 0, "too long": 1, "repeated": 2}
    assert len(examples) == 1


def test_stage_1_says_what_it_left_out(sources, miniature, run_python, tmp_path):
    command = [ROOT / "training/run_stage1.py", ROOT / "training/recipes/miniature/stage1.yaml"]
    command += ["--output_dir", tmp_path / "out"]
    command += ["--teacher_name_or_path", miniature / "clip"]
    command += ["--text_encoder_name_or_path", miniature / "text_encoder"]
    command += ["--dataset", sources, "--kinds", "human", "--languages", "en", "zh", "fr"]
    command += ["--sift", "true", "--max_steps", "1", "--per_device_train_batch_size", "4"]
    process = run_python("python", *command, "--bf16", "false", "--use_cpu", "true")
    assert process.returncode == 0, process.stderr
    assert "1 rows without English" in process.stdout
    assert "Training on 8 examples from 4 rows; skipped: 4 empty." in process.stdout


def test_text_in_another_encoding_is_named(tmp_path):
    content = {
        ".tsv": "en\tzh\ndog\t狗\n",
        ".csv": "en,zh\ndog,狗\n",
        ".jsonl": '{"en": "dog", "zh": "狗"}\n',
    }
    for encoding in ("gbk", "utf-16"):
        for suffix, text in content.items():
            path = tmp_path / f"{encoding}{suffix}"
            path.write_bytes(text.encode(encoding))
            with pytest.raises(InputError, match=f"dataset '{path}' (is not|cannot be read).*UTF-8"):
                load_parallel_text(str(path), "train")
        for language, text in (("en", "dog\n"), ("zh", "狗\n")):
            (tmp_path / f"{encoding}.{language}").write_bytes(text.encode(encoding))
        with pytest.raises(InputError, match="is not UTF-8"):
            load_parallel_text(f"{tmp_path}/{encoding}.{{en,zh}}", "train")


@pytest.mark.parametrize(
    "column,values,is_language",
    [
        # `id` is Indonesian and `no` Norwegian; the values decide.
        ("id", "17 a-18", False),
        ("id", "img_a b/c.png", False),
        ("no", "1 2", False),
        ("id", "anjing anak-anak", True),
        # Three letters that name a column far more often than a language.
        ("tag", "noun verb", False),
        # Italian and Icelandic, the latter with one number among its texts.
        ("it", "cane gatto", True),
        ("is", "hundur 7", True),
    ],
)
def test_a_column_that_names_rows_is_no_language(tmp_path, column, values, is_language):
    path = tmp_path / "pairs.tsv"
    first, second = values.split()
    path.write_text(f"{column}\ten\n{first}\tdog\n{second}\tcat\n", "utf-8")
    rows, _ = load_parallel_text(str(path), "train")
    assert list(rows.features["captions"]) == ([column, "en"] if is_language else ["en"])


@pytest.mark.parametrize(
    "column,values", [("it", "0 1"), ("in", "2.5 -1"), ("is", "true False"), ("to", "12:30 2020-01-01")]
)
def test_numbers_beside_sentences_are_no_language(tmp_path, column, values):
    path = tmp_path / "pairs.tsv"
    first, second = values.split()
    path.write_text(f"{column}\ten\tzh\n{first}\tdog\t狗\n{second}\t7\t\n", "utf-8")
    match = f"column '{column}' of .* contains only numbers and is not read as a language"
    with pytest.warns(UserWarning, match=match):
        rows, _ = load_parallel_text(str(path), "train")
    assert list(rows.features["captions"]) == ["en", "zh"]

    # The name of a file says that it is a language, whatever is in it.
    for language, texts in (("en", "dog\ncat\n"), (column, f"{first}\n{second}\n")):
        (tmp_path / f"m.{language}").write_text(texts)
    assert captions_of(f"{tmp_path}/m.{{en, {column}}}")[0] == {"en": "dog", column: first}


JSON_LINE = b'{"en": "a", "zh": "x"}\n'


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with ZipFile(buffer, "w", ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "members,message",
    [
        ({}, "t.zip' must have one table, file of JSON or Moses pair.*; it has nothing: unpack it"),
        ({"a.en": b"a"}, "it has a.en: unpack it"),
        ({"a.tsv": b"en\tzh\na\tx\n", "b.tsv": b""}, "it has a.tsv, b.tsv: unpack it"),
        (dict.fromkeys((f"{n}.txt" for n in range(10)), b""), "it has 0.txt, 1.txt, .*, ...: unpack it"),
        ({"../../a.tsv": b"en\tzh\na\tx\n"}, "it has nothing: unpack it"),
        ({"a.en": b"a\nb\n", "a.zh": b"x\n"}, "a.en has 2, .*a.zh has 1"),
    ],
)
def test_zips_that_are_not_read(tmp_path, members, message):
    (tmp_path / "t.zip").write_bytes(zipped(members))
    with pytest.raises(InputError, match=message) as caught:
        load_parallel_text(str(tmp_path / "t.zip"), "train")
    assert len(str(caught.value)) < 600
    assert not list(tmp_path.parent.glob("a.tsv"))


@pytest.mark.parametrize("name", ["t.jsonl.zst", "t.tsv.zst", "t.tsv.xz", "t.zip"])
def test_what_is_packed_is_read_within_bounds_and_whole(tmp_path, name, monkeypatch):
    monkeypatch.setattr(archives, "_HARMLESS", 50_000)
    many = b"en\tzh\n" + b"a\tx\n" * 200_000
    if "jsonl" in name:
        many = JSON_LINE * 50_000
    packed = {
        ".zst": partial(pa.compress, codec="zstd", asbytes=True),
        ".xz": lzma.compress,
        ".zip": lambda content: zipped({"t.tsv": content}),
    }
    path = tmp_path / name
    path.write_bytes(packed[path.suffix](many))
    with pytest.raises(
        InputError, match=f"{name} has .* bytes and unpacks to .*: if you trust it, unpack it"
    ):
        load_parallel_text(str(path), "train")
    # A file that was cut short.
    content = packed[path.suffix](many[:900])
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="cannot be read|no zip that can be read"):
        load_parallel_text(str(path), "train")


# Files as other programs write them: a name, the content, and the pairs to read.
FORMS = {
    "quotes": ("t.csv", b'en,zh\n"a dog, ""running""\nhere",x\n', [('a dog, "running"\nhere', "x")]),
    "CRLF and a byte order mark": ("t.csv", b"\xef\xbb\xbfen,zh\r\na,x\r\n", [("a", "x")]),
    "spaces around names": ("t.csv", b"en, zh\na,x\n", [("a", "x")]),
    "blank lines": ("t.csv", b"en,zh\n\na,x\n\n", [("a", "x")]),
    "a blank line of tabs": ("t.tsv", b"en \tzh\na\tx\n\n", [("a", "x")]),
    "capitals": ("t.TSV", b"en\tzh\na\tx\n", [("a", "x")]),
    "capitals of JSON": ("t.JSONL", b'{"en": "a", "zh": "x"}\n', [("a", "x")]),
    "JSON by its other name": ("t.ndjson", b'{"en": "a", "zh": "x"}\n', [("a", "x")]),
    "compressed": ("t.tsv.gz", gzip.compress(b"en\tzh\na\tx\n"), [("a", "x")]),
    "compressed JSON": ("t.jsonl.gz", gzip.compress(b'{"en": "a", "zh": "x"}\n'), [("a", "x")]),
    "compressed otherwise": ("t.csv.bz2", bz2.compress(b"en,zh\na,x\n"), [("a", "x")]),
    "Zstandard": ("t.tsv.zst", pa.compress(b"en\tzh\na\tx\n", "zstd", asbytes=True), [("a", "x")]),
    "xz": ("t.csv.xz", lzma.compress(b"en,zh\na,x\n"), [("a", "x")]),
    "JSON in Zstandard": ("t.jsonl.zst", pa.compress(JSON_LINE, "zstd", asbytes=True), [("a", "x")]),
    "JSON in xz": ("t.JSONL.xz", lzma.compress(JSON_LINE), [("a", "x")]),
    "a table in a zip": ("t.zip", zipped({"of/t.tsv": b"en\tzh\na\tx\n", "README": b"en"}), [("a", "x")]),
    "JSON in a zip": ("t.jsonl.ZIP", zipped({"t.jsonl": JSON_LINE}), [("a", "x")]),
    # As OPUS packs them; `ids` is a code of a language too.
    "a Moses pair in a zip": (
        "en-zh.txt.zip",
        zipped(
            {
                "LICENSE": b"free",
                "X.en-zh.en": b"a\nb\n",
                "X.en-zh.zh": b"x\ny\n",
                "X.en-zh.ids": b"1\n",
                "X.en-zh.scores": b"1\n",
            }
        ),
        [("a", "x"), ("b", "y")],
    ),
    "a folder of tables": (
        "folder/t.csv",
        b'en,zh\nNA,007\n"b, c",null\n',
        [("NA", "007"), ("b, c", "null")],
    ),
    "a folder of tables with tabs": ("folder/t.tsv", b'en\tzh\n"a\tx\nb"\ty\n', [('"a', "x"), ('b"', "y")]),
}


@pytest.mark.parametrize("name,content,expected", FORMS.values(), ids=FORMS)
def test_tables_as_others_write_them(tmp_path, name, content, expected):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(content)
    path = str(tmp_path / name.partition("/")[0])
    head = only_captions(read_head(path, None, "train"), path)  # as a dry run reads it
    for captions in (captions_of(path), texts_of(head)):
        assert [(row["en"], row["zh"]) for row in captions] == expected


@pytest.mark.parametrize(
    "name,content,message",
    [
        ("t.csv", "en,zh\na dog, running,x\n", "has 3 fields in line 2, and 2 names in its first"),
        ("t.csv", "en,zh\na,x\na dog, running,x\n", "has 3 fields in line 3, and 2 names"),
        ("t.csv", "en,zh\na\n", "has 1 fields in line 2, and 2 names"),
        ("t.csv", 'en,zh\n"a,x\nb,y\n', "is no table of commas, line 3: unexpected end of data"),
        ("t.tsv", "\t".join(map(str, range(10_001))), "has 10,001 columns, more than 10,000: give a table"),
        ("t.csv", "en,en\na,b\n", "has two columns 'en': rename one"),
        ("t.tsv", "zh\ten\tzh \na\tb\tc\n", "has two columns 'zh': rename one"),
        ("t.csv", "en,zh\n", "cannot be read, .*does it have rows"),
        ("t.tsv", "en\tzh\n", "cannot be read, .*does it have rows"),
        ("t.jsonl", "\n", "cannot be read, .*does it have rows"),
        ("t.json", "[]", "cannot be read, .*does it have rows"),
        ("folder/t.csv", "en,zh\na dog, running,x\n", "has 3 fields in line 2, and 2 names"),
    ],
)
def test_tables_that_would_be_read_wrongly_are_refused(tmp_path, name, content, message):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        load_parallel_text(str(tmp_path / name.partition("/")[0]), "train")


def test_blank_english_is_no_english(tmp_path):
    path = tmp_path / "pairs.tsv"
    # A space, an ideographic space and a no-break space.
    path.write_text("en\tzh\n \u3000\xa0\t狗\ncat\t猫\n", "utf-8")
    rows, without = load_parallel_text(str(path), "train")
    assert texts_of(rows) == [{"en": "cat", "zh": "猫"}]
    assert without == 1


# Captions of rows, some of which lack a language.
LACKING = {
    "a language in later rows only": [{"en": "dog"}, {"en": "cat", "zh": "猫"}],
    "a language missing later": [{"en": "dog", "zh": "狗"}, {"en": "cat"}],
    "other languages in each row": [
        {"en": "dog", "zh": "狗"},
        {"en": "cat", "fr": "chat"},
        {"en": "key", "pt_BR": "chave"},
    ],
    "null for a text": [{"en": "dog", "zh": None}, {"en": "cat", "zh": "猫"}],
    "null throughout": [{"en": "dog", "zh": None}, {"en": "cat", "zh": None}],
    "an empty row": [{}, {"en": "cat", "zh": "猫"}],
    "lists of one text": [{"en": ["dog"], "zh": "狗"}, {"en": "cat", "zh": ["猫"]}],
    "lists of one text, of some languages": [{"en": ["dog"], "zh": ["狗"]}, {"en": ["cat"]}],
}


def with_single_texts(row):
    """Take the text out of a list of one: {"en": ["dog"], "zh": "狗"} -> {"en": "dog", "zh": "狗"}."""
    return {language: text[0] if isinstance(text, list) else text for language, text in row.items()}


def without_empty(row):
    return {language: text for language, text in row.items() if text}


@pytest.mark.parametrize("column", ["captions", "translation", None])
@pytest.mark.parametrize("rows", LACKING.values(), ids=LACKING)
def test_a_language_that_a_row_lacks_is_empty(tmp_path, rows, column):
    texts = [text for row in rows for text in row.values()]
    if column is None and any(isinstance(text, list) for text in texts):
        pytest.skip("columns hold texts")
    path = lines(tmp_path / "t.jsonl", [{column: row} if column else row for row in rows])
    found, n_without_english = load_parallel_text(path, "train")

    # "pt_BR" is read as "pt-BR", and a row without any text is left out.
    rows_of_texts = [with_single_texts(row) for row in rows if row]
    expected = []
    for row in rows_of_texts:
        expected.append({language.replace("_", "-"): text for language, text in row.items() if text})
    assert [without_empty(row) for row in texts_of(found)] == expected
    assert n_without_english == len(rows) - len(expected)

    languages = list(found.features["captions"])
    assert set(languages) == {language.replace("_", "-") for row in rows for language in row}
    examples = CaptionExamples(found.add_column("target", [[0.0]] * len(found)), languages, "target")
    n_texts = sum(len(row) for row in expected)
    assert examples.skipped["empty"] == len(found) * len(languages) - n_texts

    Dataset.from_list([{"captions": row} for row in rows_of_texts]).to_parquet(tmp_path / "t.parquet")
    assert [without_empty(row) for row in captions_of(tmp_path / "t.parquet")] == expected


def test_a_dry_run_reads_rows_that_lack_a_language(tmp_path):
    for number, rows in enumerate(LACKING.values()):
        path = lines(tmp_path / f"{number}.jsonl", [{"translation": row} for row in rows])
        head = only_captions(read_head(path, None, "train"), path)
        texts = set()
        for row in texts_of(head):
            texts |= set(without_empty(row).values())
        expected = set()
        for row in rows:
            expected |= set(without_empty(with_single_texts(row)).values())
        assert texts == expected


@pytest.mark.parametrize(
    "rows,message",
    [
        (
            [{"captions": {"en": ["dog", "a dog"], "zh": "狗"}}, {"captions": {"en": "cat"}}],
            "has several texts in en in a row",
        ),
        (
            [{"captions": {"en": "dog"}}, {"captions": {"en": 7}}],
            "column 'captions' has 7 in a row, which is no text: fix it",
        ),
        (
            [{"captions": {"en": "dog"}}, {"captions": "cat"}],
            r"column 'captions' has 'cat' in a row, and no \{language: text\}",
        ),
        ([{"captions": {"en": None}}, {"captions": {}}], "column 'captions' of .* has no text in any row"),
        (
            [{"en": "dog", "zh": "狗"}, {"en": "cat", "zh": 7}],
            "column 'zh' of .* has 7 in a row, which is no text",
        ),
        (
            [{"captions": {"en": "dog", "cn": "狗"}}, {"captions": {"en": "cat"}}],
            "'cn' is a country's code .*did you mean 'zh'",
        ),
    ],
)
def test_rows_of_another_form_are_named(tmp_path, rows, message):
    with pytest.raises(InputError, match=message):
        load_parallel_text(lines(tmp_path / "t.jsonl", rows), "train")


def test_a_language_far_down_is_read_or_named(tmp_path):
    """`datasets` learns columns and languages from the first 10 MB of a file."""
    long = {"en": "x" * 1_000_000, "zh": "狗"}
    match = "(?s)later rows differ from earlier ones, .*fr: string.*: write null where a text is missing"
    for column in (None, "translation"):

        def write(name, last, column=column):
            rows = [long] * 11 + [last]
            return lines(tmp_path / name, [{column: row} if column else row for row in rows])

        path = write("t.jsonl", {"en": "cat"})
        assert captions_of(path)[-1] == {"en": "cat", "zh": None}
        path = write("more.jsonl", {"en": "cat", "fr": "chat"})
        with pytest.raises(InputError, match=match):
            load_parallel_text(path, "train")
