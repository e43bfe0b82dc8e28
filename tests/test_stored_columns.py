"""Captions stay in their dataset: what is computed of slices is what was computed of all texts at once."""

import pickle
import sys
from functools import partial

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from datasets import Dataset, Features, List, Value, concatenate_datasets

from training.data import examples as examples_module
from training.data.examples import (
    CaptionExamples,
    caption_columns,
    fingerprint_captions,
    has_text,
    split_lists,
)
from training.data.stored_columns import StoredCaptions, StoredColumn, first_equal, hash_texts

LANGUAGES = ["zh", "en", "th"]
FIELDS = [*LANGUAGES, "de"]  # of captions
TEXTS = [None, "", " ", "\u200b", "a dog", " a dog", "a cat", "a dog", "狗", "猫", "x" * 30, "หมา", "🐕" * 12]


def random_captions(seed, n_rows, as_lists=True):
    """Return captions in which everything happens: none, blank, repeated, untranslated and long ones."""
    random = np.random.default_rng(seed)

    rows = []
    for _ in range(n_rows):
        row = {}
        for language in FIELDS:
            drawn = [TEXTS[number] for number in random.integers(0, len(TEXTS), random.integers(0, 4))]
            row[language] = drawn if as_lists else next(iter(drawn), None)
        rows.append(row)
    return rows


def of_all_texts(rows, languages, sift, max_characters, same):
    """Compute what `CaptionExamples` has, with all texts in memory and compared as they are."""
    captions = caption_columns(rows)
    columns, texts = [], []
    for language in languages:
        for column in split_lists(captions[language]):
            columns.append(language)
            texts.append(column)
    english = split_lists(captions["en"])[0]

    candidates = [pc.if_else(has_text(column), column, None) for column in [english, *texts]]
    references = pc.coalesce(*candidates).to_pylist()
    numbers = {}
    row_ids = np.array(
        [numbers.setdefault(text or ("bare", row), row) for row, text in enumerate(references)]
    )
    if same is not None:
        row_ids = joined(row_ids, same)

    kept = np.stack([has_text(column) for column in texts], axis=1)
    skipped = {"empty": int((~kept[:, [columns.index(language) for language in languages]]).sum())}

    def refuse(reason, masks):
        refused = np.stack([np.asarray(pc.fill_null(mask, False)) for mask in masks], axis=1)
        skipped[reason] = int((kept & refused).sum())
        kept[refused] = False

    if sift:
        refuse("too long", [pc.greater(pc.utf8_length(column), max_characters) for column in texts])
        trimmed = pc.utf8_trim_whitespace(english)
        left = [pc.equal(pc.utf8_trim_whitespace(column), trimmed) for column in texts]
        refuse("left in English", [pc.and_(mask, name != "en") for name, mask in zip(columns, left)])
        pairs = [pd.DataFrame({"row": row_ids, "text": column.to_pylist()}) for column in texts]
        refuse("repeated", [pa.array(pair.duplicated().to_numpy()) for pair in pairs])
    places = np.argwhere(kept)
    characters = np.stack([np.asarray(pc.fill_null(pc.utf8_length(column), 0)) for column in texts], axis=1)
    return {
        "columns": columns,
        "row_ids": row_ids.tolist(),
        "skipped": skipped,
        "places": places.tolist(),
        "texts": [texts[column][row].as_py() for row, column in places.tolist()],
        "characters": characters[tuple(places.T)].tolist(),
        "weights": np.asarray(rows["weight"])[places[:, 0]].tolist(),
        "fingerprints": fingerprint_captions(columns, texts)
        | fingerprint_captions(["en"] * ("en" not in columns), [english]),
    }


def joined(row_ids, same):
    """Return the lowest number of the rows that a chain of equal values connects with each."""
    given = row_ids.tolist()
    row_ids = given
    for _ in given:
        for groups in (given, same):
            lowest = {}
            for group, row_id in zip(groups, row_ids):
                lowest[group] = min(row_id, lowest.get(group, row_id))
            row_ids = [lowest[group] for group in groups]
    return np.array(row_ids)


class CharacterTokenizer:
    """Makes a token of each character of a text, and so gives lengths in characters."""

    def __call__(self, texts, **_):
        return {"input_ids": [list(text) for text in texts]}


VIEWS = {
    "all rows": range(60),
    "rows of a table": range(3, 50),
    "some": [row for row in range(60) if row % 3],
    "shuffled": np.random.default_rng(0).permutation(60),
    "repeated": [8, 3, 3, 59, 8, 0, 40, 1, 30, 8],
}


@pytest.mark.parametrize(
    "changed",
    [
        *({"view": view} for view in VIEWS),
        *({"view": view, "languages": ["th", "zh"]} for view in ("all rows", "shuffled")),
        {"sift": False},
        {"slice_rows": 1000},
        {"as_lists": False},
        {"with_same": True},
        {"with_same": True, "view": "shuffled", "languages": ["th", "zh"]},
    ],
    ids=str,
)
def test_slices_give_what_all_texts_gave(changed, monkeypatch):
    options = {"view": "some", "languages": LANGUAGES, "sift": True, "slice_rows": 7}
    options |= {"as_lists": True, "with_same": False} | changed
    languages, sift = options["languages"], options["sift"]
    slices = partial(examples_module.caption_slices, n_rows=options["slice_rows"])
    monkeypatch.setattr(CaptionExamples, "_slices", lambda examples: slices(examples.captions))
    monkeypatch.setattr(examples_module, "tokenize", lambda tokenizer, texts, **_: tokenizer(texts))

    # Two tables, end to end
    given = random_captions(seed=len(changed), n_rows=60, as_lists=options["as_lists"])
    weights = [number % 4 / 2 for number in range(60)]
    text = List(Value("string")) if options["as_lists"] else Value("string")
    features = Features(
        {"captions": dict.fromkeys(FIELDS, text), "target": Value("int64"), "weight": Value("float64")}
    )
    tables = []
    for rows in (slice(0, 17), slice(17, 60)):
        columns = {"captions": given[rows], "target": list(range(60))[rows], "weight": weights[rows]}
        tables.append(Dataset.from_dict(columns, features=features))
    rows = concatenate_datasets(tables).select(VIEWS[options["view"]])
    same = [number % 19 for number in range(len(rows))] if options["with_same"] else None
    expected = of_all_texts(rows, languages, sift, 20, same)

    examples = CaptionExamples(rows, languages, "target", same=same, sift=sift, max_characters=20)
    assert examples.columns == expected["columns"]
    assert examples.row_ids.tolist() == expected["row_ids"]
    assert examples.skipped == expected["skipped"]
    assert examples.places.tolist() == expected["places"]
    assert examples.weights.tolist() == expected["weights"]
    assert [example["text"] for example in examples.__getitems__(range(len(examples)))] == expected["texts"]
    assert examples.lengths(CharacterTokenizer()).tolist() == expected["characters"]
    prints = examples.fingerprints()
    assert {name: prints[name] for name in prints if name.startswith("captions")} == expected["fingerprints"]


def test_no_rows_have_no_examples():
    features = Features({"captions": {"en": List(Value("string"))}, "target": Value("int8")})
    rows = Dataset.from_dict({"captions": [], "target": []}, features=features)
    examples = CaptionExamples(rows, ["en"], "target", sift=True)
    assert len(examples) == 0
    assert examples.skipped == {"empty": 0, "repeated": 0}


def test_rows_without_captions_of_a_language_are_refused():
    rows = Dataset.from_dict({"captions": [{"en": "a dog"}], "target": [0]})
    with pytest.raises(KeyError, match="zh"):
        CaptionExamples(rows, ["zh"], "target")


def test_a_copy_in_another_process_has_no_texts(tmp_path):
    """Processes that read batches map the same files, and get no copy of the corpus."""
    text = "a dog " * 100
    rows = Dataset.from_dict({"captions": [{"en": [text]}] * 1000, "target": [0] * 1000})
    rows.save_to_disk(tmp_path)
    examples = CaptionExamples(Dataset.load_from_disk(tmp_path).select(range(999, -1, -1)), ["en"], "target")
    pickled = pickle.dumps(examples)
    assert len(pickled) < 60_000
    assert pickle.loads(pickled)[7]["text"] == text


def test_a_column_is_read_in_slices():
    rows = concatenate_datasets([Dataset.from_dict({"n": [0, 1, 2]}), Dataset.from_dict({"n": [3, 4, 5, 6]})])
    order = [6, 0, 3, 2, 2, 5]
    for given, expected in ((rows, list(range(7))), (rows.select(order), order)):
        slices = [part.to_pylist() for part in StoredColumn(given, "n").slices(4)]
        assert slices == [expected[:4], expected[4:]]
    with pytest.raises(ValueError, match="gone"):
        StoredColumn(rows, "gone")


def test_captions_are_read_as_they_are():
    captions = [{"en": ["a", "b"], "zh": []}, None, {"en": [], "zh": ["c"]}]
    features = Features({"captions": {"en": List(Value("string")), "zh": List(Value("string"))}})
    stored = StoredCaptions(Dataset.from_dict({"captions": captions}, features=features).select([2, 0, 1]))
    assert stored.read([1, 0, 0], ["en", "en", "zh"]) == [["a", "b"], [], ["c"]]
    assert stored.read([], []) == []


def test_hashes_tell_texts_apart():
    texts = ["a", "b", "a ", "狗", "", "a"]
    hashes = hash_texts(pa.array(texts, pa.large_string()))
    assert hashes.shape == (6, 2)
    assert len({tuple(row) for row in hashes.tolist()}) == 5
    assert hashes[0].tolist() == hashes[5].tolist()
    assert hash_texts(pa.array([], pa.large_string())).shape == (0, 2)


def test_equal_items_have_the_place_of_the_first():
    assert first_equal(np.array([5, 3, 5, 5, 3])).tolist() == [0, 1, 0, 0, 1]
    # Two items are equal only if both keys are.
    assert first_equal(np.array([1, 1, 2, 1, 2]), np.array([7, 8, 7, 7, 8])).tolist() == [0, 1, 2, 0, 4]
    random = np.random.default_rng(0)
    keys = random.integers(0, 9, (2, 1000))
    pairs = list(map(tuple, keys.T.tolist()))
    assert first_equal(*keys).tolist() == [pairs.index(pair) for pair in pairs]
    assert first_equal(np.array([], np.int64)).tolist() == []


MEASURED = """
import sys
import threading
from pathlib import Path
from datasets import Dataset
from training.data.examples import CaptionExamples

def anonymous():
    # `VmHWM` counts pages of mapped files too, so that the peak is looked for while it runs.
    return int(Path("/proc/self/status").read_text().partition("RssAnon:")[2].split()[0]) * 1024

rows = Dataset.load_from_disk(sys.argv[1])
CaptionExamples(rows.select(range(1000)), ["en", "zh"], "target", sift=True)
before, peak, ended = anonymous(), [0], threading.Event()

def watch():
    while not ended.wait(0.01):
        peak.append(anonymous())

watcher = threading.Thread(target=watch)
watcher.start()
examples = CaptionExamples(rows, ["en", "zh"], "target", sift=True)
ended.set()
watcher.join()
print(len(examples), max(peak) - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_of_a_million_rows_is_of_numbers(tmp_path, run_python):
    """Texts of 400 bytes, 800 MB, stay on the disk: all of them at once are copied several times."""
    n_rows = 1_000_000
    tail = "x" * 390

    def texts(number):
        return pa.array([f"{row * number} {tail}" for row in range(1, n_rows + 1)])

    offsets = pa.array(np.arange(n_rows + 1, dtype=np.int32))
    lists = [pa.ListArray.from_arrays(offsets, texts(number)) for number in (1, 3)]
    table = pa.table(
        {"captions": pa.StructArray.from_arrays(lists, ["en", "zh"]), "target": np.zeros(n_rows, np.int8)}
    )
    Dataset(table).save_to_disk(tmp_path / "rows")
    done = run_python("python", "-c", MEASURED, tmp_path / "rows")
    assert done.returncode == 0, done.stderr
    n_examples, peak = map(int, done.stdout.split()[-2:])
    assert n_examples == 2 * n_rows
    # 700 MB were measured: a slice of rows takes 80 MB, and a few copies of it, for one moment.
    assert peak < 1.2e9, peak
