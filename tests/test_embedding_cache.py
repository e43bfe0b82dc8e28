"""Embedding cache: what is encoded, when, by which process, and what is left after a kill."""

import errno
import itertools
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from accelerate import PartialState
from datasets import Dataset, load_dataset
from torch.multiprocessing import ProcessExitedException
from xxhash import xxh3_128

from common import embedding_cache
from common.arrow_parts import find_damaged_parts, part_bytes
from common.embedding_cache import cached_column
from common.errors import InputError
from common.processes import host

from .processes import spawn

DEFAULT_LENGTH = embedding_cache.PART_LENGTH
KEYS = [f"text {number % 11}" for number in range(30)]  # 11 items in three parts of four, the last of three
DIM = 6


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(embedding_cache, "PART_LENGTH", 4)


def vector(key, view=0):
    generator = np.random.default_rng([*key.encode(), view])
    return torch.from_numpy(generator.standard_normal(DIM).astype(np.float32))


def cached(cache_dir, keys=KEYS, seen=None, made_by=None, texts=None, **options):
    """Return the column of `vector(key)`; `seen` lists the keys that are encoded, with their views.

    `texts` gives the cache its keys, by default an array.
    """

    def encode(rows, view):
        encoded = [keys[row] for row in rows]
        if seen is not None:
            seen.extend((key, view) for key in encoded)
        return torch.stack([vector(key, view) for key in encoded])

    if texts is None:
        texts = pa.array(keys, pa.large_string())
    options |= {"name": "target", "key": "text", "keys": texts, "encode": encode, "made_by": made_by or {}}
    return cached_column(cache_dir=str(cache_dir), **options)


def cached_value(cache_dir, value, dtype):
    """Return the column of one text whose embedding is one given value."""
    texts = pa.array(["one"], pa.large_string())

    def encode(rows, view):
        return torch.tensor([[value]])

    return cached_column("target", "text", texts, encode, {}, cache_dir=str(cache_dir), dtype=dtype)


def texts_between(start, stop):
    return [f"text {number}" for number in range(start, stop)]


def files(folder):
    return {path.name: path.read_bytes() for path in Path(folder).rglob("*.*") if path.is_file()}


# The errors are half a unit in the last place: float16 has 11 bits, bfloat16 8.
@pytest.mark.parametrize("n_views", [1, 3])
@pytest.mark.parametrize(
    "dtype,error,size", [("float32", 0, 4), ("float16", 2**-11, 2), ("bfloat16", 2**-8, 2)]
)
def test_rows_get_the_vectors_of_their_items(tmp_path, dtype, error, size, n_views):
    seen = []
    # A command line gives a text that equals our constant, and is another object.
    column = cached(tmp_path, seen=seen, dtype="".join(dtype), n_views=n_views)
    assert sorted(seen) == sorted(
        itertools.product(set(KEYS), range(n_views))
    )  # each text in each view, once

    rows = [29, 0, 11, 5]
    first = column[rows]["target"]  # before any epoch
    column.set_epoch(0)
    np.testing.assert_array_equal(first, column[rows]["target"])
    for epoch in range(4):  # each epoch has the next view
        column.set_epoch(epoch)
        got = column[rows]["target"]
        expected = np.stack([vector(KEYS[row], epoch % n_views) for row in rows])
        assert got.dtype == np.float32
        assert (np.abs(got - expected) <= error * np.abs(expected)).all()
        if error > 0:  # it was really stored in half precision
            assert not np.array_equal(got, expected)

    assert len(column) == 30
    assert column.embeddings.data.nbytes < 11 * n_views * DIM * size + 100
    lengths = [len(part) for part in column.embeddings.data["target"].chunks]
    assert lengths == [4 * n_views, 4 * n_views, 3 * n_views]


def test_no_rows_are_no_vectors(tmp_path):
    """A batch may hold no example of an added language, or none of a replayed one."""
    assert cached(tmp_path)[[]]["target"].shape == (0, DIM)


def test_vectors_are_mapped_into_memory(tmp_path):
    """Vectors are mapped here, and in the workers that read batches, which get the column by pickle."""
    before = pa.total_allocated_bytes()
    column = cached(tmp_path, [f"{number}" for number in range(400)])
    worker = pickle.loads(pickle.dumps(column))
    # A copy in memory would take four times that, 4 bytes a value.
    assert pa.total_allocated_bytes() - before < 400 * DIM
    assert len(worker.embeddings.cache_files) == 100  # parts of 4 items
    np.testing.assert_array_equal(worker[[399, 3]]["target"], column[[399, 3]]["target"])


def test_what_is_there_is_not_made_again(tmp_path):
    cached(tmp_path / "here")
    seen = []
    before = files(tmp_path / "here")
    again = cached(tmp_path / "here", seen=seen)
    shutil.copytree(tmp_path / "here", tmp_path / "elsewhere")
    elsewhere = cached(tmp_path / "elsewhere", KEYS + KEYS[:3], seen=seen)  # more rows of the same items
    assert not seen
    assert files(tmp_path / "here") == before
    assert len(before) == 4  # three parts and a card
    assert Dataset.from_file(str(part(again))).column_names == ["text", "target"]
    np.testing.assert_array_equal(elsewhere[range(33)]["target"][:30], again[range(30)]["target"])


def test_parts_have_2048_items_by_default_and_others_if_asked(tmp_path, monkeypatch):
    def lengths(**options):
        column = cached(tmp_path, [f"{number}" for number in range(2049)], **options)
        return [len(part) for part in column.embeddings.data["target"].chunks]

    assert lengths(part_length=1025) == [1025, 1024]
    monkeypatch.setattr(embedding_cache, "PART_LENGTH", DEFAULT_LENGTH)
    assert lengths() == [2048, 1]


def test_a_column_tells_its_size(tmp_path):
    column = cached(tmp_path)
    size = sum(path.stat().st_size for path in column.folder.glob("data/*"))
    for total, shown in ((2_649_999, "2.6"), (2_650_001, "2.7")):
        (column.folder / "data/more.arrow").write_bytes(bytes(total - size))
        of = f"{shown} MB of float32 in {column.folder}"
        assert str(column) == f"target: 11 embeddings for 30 rows, {of}"
    column.n_views = 2
    assert str(column) == f"target: 5 embeddings in 2 views for 30 rows, {of}"


def test_the_disk_is_asked_once_for_the_room_that_all_missing_parts_need(tmp_path, monkeypatch):
    asked = []

    def ask(folder, *given):
        assert list(folder.glob("part-00002.arrow")) == []  # it is asked before any is written
        asked.append((folder, *given))

    monkeypatch.setattr(embedding_cache, "check_free", ask)
    column = cached(tmp_path, dtype="float16", n_views=3)
    about = (column.folder / "data", "the cache of target", "cache_dir")
    # 11 items in 3 views of 6 values, 2 bytes each
    assert asked == [(about[0], 11 * 3 * 6 * 2, *about[1:])]

    for number in (1, 2):  # 4 items and 3
        part(column, number).unlink()
    cached(tmp_path, dtype="float16", n_views=3)
    assert asked[1:] == [(about[0], 7 * 3 * 6 * 2, *about[1:])]
    cached(tmp_path, dtype="float16", n_views=3)
    assert len(asked) == 2


def test_a_bar_counts_what_is_encoded(tmp_path, capsys):
    cached(tmp_path, n_views=3)
    shown = capsys.readouterr().err
    assert "Encoding target" in shown
    assert "33/33" in shown  # 11 items in 3 views
    cached(tmp_path, n_views=3)
    assert capsys.readouterr().err == ""


def test_a_card_that_was_changed_is_kept(tmp_path):
    card = cached(tmp_path).folder / "README.md"
    card.write_text("Changed by hand.")
    cached(tmp_path)
    assert card.read_text() == "Changed by hand."


@dataclass
class Slices:
    """Keys that are given so many at a time."""

    keys: pa.Array
    n_rows: int

    def __len__(self):
        return len(self.keys)

    def take(self, rows):
        return self.keys.take(rows)

    def slices(self):
        for start in range(0, len(self.keys), self.n_rows):
            yield self.keys[start : start + self.n_rows]


@pytest.mark.parametrize("n_rows", [1, 3, 1000])
@pytest.mark.parametrize("n_views", [1, 2])
def test_keys_in_slices_make_the_cache_of_their_array(tmp_path, n_rows, n_views):
    keys = ["text", "text", *KEYS, "", "é 🔑", KEYS[0]]
    texts = Slices(pa.array(keys, pa.large_string()), n_rows)
    expected = cached(tmp_path / "array", keys, n_views=n_views)
    seen = []
    column = cached(tmp_path / "slices", keys, seen, n_views=n_views, texts=texts)
    assert files(tmp_path / "slices") == files(tmp_path / "array")
    assert column.item_of_row.tolist() == expected.item_of_row.tolist()
    assert len(seen) == len(set(keys)) * n_views
    # Each distinct key is stored once, in order, and the folder is known by them.
    distinct = list(dict.fromkeys(keys))
    parts = [Dataset.from_file(str(path)) for path in sorted(column.folder.glob("data/*.arrow"))]
    stored = [key for part in parts for key in part["text"]]
    assert stored[::n_views] == distinct
    print_of_items = embedding_cache.fingerprint(pa.array(distinct, pa.large_string()))
    assert f"| items | `{print_of_items}` |" in (column.folder / "README.md").read_text()
    # Opened again, nothing is encoded.
    cached(tmp_path / "slices", keys, seen, n_views=n_views, texts=texts)
    assert len(seen) == len(set(keys)) * n_views


def test_texts_are_hashed_in_slices():
    texts = [f"{number % 7}" for number in range(200_003)]
    digest = xxh3_128(np.ones(len(texts), np.int32))
    digest.update("".join(texts).encode())
    assert embedding_cache.fingerprint(pa.array(texts)) == digest.hexdigest()


@pytest.mark.parametrize(
    "change",
    [
        {"keys": KEYS[:-1] + ["text"]},
        {"keys": ["text 1", "text 0", *KEYS[2:]]},
        # The same characters in the same order, cut elsewhere.
        {"keys": ["text 0t", "ext 1", *KEYS[2:11]]},
        {"made_by": {"weights": "others"}},
        {"made_by": {"tokenizer": "one"}},
        {"dtype": "float16"},
        {"n_views": 2},
    ],
    ids=["a text", "their order", "where one ends", "a setting", "its name", "dtype", "views"],
)
def test_a_change_makes_a_new_cache(tmp_path, change):
    given = {"made_by": {"weights": "one"}}
    seen = []
    before = cached(tmp_path, **given)
    after = cached(tmp_path, **given | change, seen=seen)
    n_items = len(set(change.get("keys", KEYS)))
    assert after.folder != before.folder
    assert len(seen) >= n_items - 1
    assert cached(tmp_path, **given).folder == before.folder


@pytest.mark.parametrize("change", ["a bit", "a name", "dtype", "shape"])
def test_a_module_is_known_by_its_tensors(change):
    def module():
        torch.manual_seed(0)
        return torch.nn.Linear(4, 4)

    one, other = module(), module()
    assert embedding_cache.fingerprint(one) == embedding_cache.fingerprint(other)
    if change == "a bit":
        other.weight.data.view(torch.int32)[0, 0] ^= 1
    elif change == "a name":
        other.register_parameter("slope", other.bias)
        other.bias = None
    elif change == "dtype":
        # Zeros have the same bytes in both types.
        one.bfloat16()
        other.half()
        for parameter in (*one.parameters(), *other.parameters()):
            parameter.data.zero_()
    else:
        other.weight.data = other.weight.data.reshape(2, 8)
    assert embedding_cache.fingerprint(one) != embedding_cache.fingerprint(other)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_folder_is_a_dataset_repository(tmp_path, dtype):
    column = cached(tmp_path, made_by={"weights": "one"}, dtype="".join(dtype), n_views=2)
    rows = load_dataset(str(column.folder), split="train", cache_dir=str(tmp_path / "datasets"))
    assert rows.column_names == ["text", "view", "target"]
    assert len(rows) == 22
    # Item 3 has rows 6 and 7, one for each of two views.
    assert rows[7]["text"] == "text 3"
    assert rows[7]["view"] == 1
    kept = torch.tensor(rows[7]["target"])
    if dtype == "bfloat16":  # Arrow has no such type: the files hold its bits
        kept = kept.to(torch.uint16).view(torch.bfloat16)
    column.set_epoch(1)
    assert kept.float().tolist() == column[[3]]["target"][0].tolist()

    card = (column.folder / "README.md").read_text()
    assert "11 distinct items" in card
    assert f"in {dtype}" in card
    assert ("its bits kept as uint16" in card) == (dtype == "bfloat16")
    assert "Each has 2 views" in card
    assert "views" not in (cached(tmp_path, dtype=dtype).folder / "README.md").read_text()
    assert column.folder.name in card
    assert "| weights |" in card
    assert sorted(path.name for path in column.folder.iterdir()) == ["README.md", "data"]


def killed(rank, cache_dir, at):
    """Kill a run when its second part is `encoded`, or lies in a temporary file and is to be `named`."""
    embedding_cache.PART_LENGTH = 4
    n_calls = 0

    def dies(function):
        def run(*args):
            nonlocal n_calls
            n_calls += 1
            if n_calls == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args)

        return run

    if at == "encoded":
        embedding_cache.to_stored = dies(embedding_cache.to_stored)
    else:
        os.replace = dies(os.replace)
    cached(cache_dir)


@pytest.mark.parametrize("at", ["encoded", "named"])
def test_after_a_kill_only_what_is_missing_is_made(tmp_path, at):
    with pytest.raises(ProcessExitedException, match="SIGKILL"):
        spawn(killed, (tmp_path / "killed", at), 1)
    (folder,) = (path for path in (tmp_path / "killed").iterdir() if path.is_dir())
    assert [path.name for path in folder.rglob("*.*")] == ["part-00000.arrow"]
    left_over = list((tmp_path / "killed").glob("*.tmp"))
    assert len(left_over) == (1 if at == "named" else 0)

    # The next run removes what was left over, and encodes the other seven texts.
    seen = []
    column = cached(tmp_path / "killed", seen=seen)
    assert list((tmp_path / "killed").iterdir()) == [folder]
    assert [key for key, _ in seen] == texts_between(4, 11)
    assert files(column.folder) == files(cached(tmp_path / "whole").folder)


def test_only_what_nobody_writes_any_more_is_removed(tmp_path):
    """Temporary files of dead processes of this host are removed at once.

    Those of other hosts, and of a version that named no writer, are removed after a day; files of others
    never.
    """
    folder = cached(tmp_path / "other").folder
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        pass
    digits = "0123456789abcdef" * 2
    here = host()
    # name: age in days
    kept = {
        f"{folder.name}.{here}.{os.getpid()}.{digits}.tmp": 0,
        f"{folder.name}.elsewhere.local.{dead.pid}.{digits}.tmp": 0,
        f"{folder.name}.{digits}.tmp": 0,
        f"notes.{here}.{dead.pid}.{digits}.tmp": 2,
        "mine.tmp": 2,
    }
    removed = {
        f"{folder.name}.{here}.{dead.pid}.{digits}.tmp": 0,
        f"image_embeds-{digits}.{here}.{dead.pid}.{digits}.tmp": 0,
        f"{folder.name}.elsewhere.local.{os.getpid()}.{digits}.tmp": 2,
        f"{folder.name}.{'f' * 32}.tmp": 2,
    }
    (tmp_path / "cache").mkdir()
    for name, days in (kept | removed).items():
        path = tmp_path / "cache" / name
        path.touch()
        then = time.time() - days * 24 * 60 * 60
        os.utime(path, (then, then))
    cached(tmp_path / "cache")
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {folder.name, *kept}


@pytest.mark.parametrize("name", ["README.md", "data/part-00000.arrow"])
@pytest.mark.parametrize("column", ["class", "target"])  # before and after "data" in the alphabet
def test_an_error_leaves_no_half_of_a_file(tmp_path, column, name):
    """Half of it lies next to the folder of the cache, where nobody reads it."""
    path = tmp_path / f"{column}-{'0' * 32}" / name
    path.parent.mkdir(parents=True)
    with pytest.raises(OSError, match="no space"), embedding_cache._written_whole(path):
        assert len(list(tmp_path.glob("*.tmp"))) == 1
        raise OSError("no space")
    assert [left for left in tmp_path.rglob("*") if not left.is_dir()] == []


def test_a_part_that_is_lost_is_made_anew(tmp_path):
    column = cached(tmp_path)
    before = files(column.folder)
    embedding_cache.part_paths(column.folder, 11, 4)[1].unlink()
    seen = []
    cached(tmp_path, seen=seen)
    assert [key for key, _ in seen] == texts_between(4, 8)
    assert files(column.folder) == before


def share(rank, folder, together):
    """Write the cache as one of two processes: of one run together, or each a run of its own."""
    embedding_cache.PART_LENGTH = 4
    assert PartialState(cpu=True).num_processes == (2 if together else 1)
    seen = []
    column = cached(folder / "cache", seen=seen)
    torch.save((seen, column[range(30)]["target"]), folder / f"{rank}.pt")


@pytest.mark.parametrize("together", [True, False])
def test_two_processes_write_one_cache(tmp_path, together):
    spawn(share, (tmp_path, together), 2, together=together)
    halves = [torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(2)]
    alone = cached(tmp_path / "alone")
    for _, embeddings in halves:
        np.testing.assert_array_equal(embeddings, alone[range(30)]["target"])
    (folder,) = (tmp_path / "cache").iterdir()
    assert files(folder) == files(alone.folder)
    if together:  # the parts in turn: 0 and 2 by the first process, 1 by the second
        (seen_by_first, _), (seen_by_second, _) = halves
        assert [key for key, _ in seen_by_first] == texts_between(0, 4) + texts_between(8, 11)
        assert [key for key, _ in seen_by_second] == texts_between(4, 8)


def test_what_cannot_be_kept_is_refused(tmp_path):
    with pytest.raises(InputError, match="cache_dtype is 'int8': choose from float32, float16, bfloat16"):
        cached(tmp_path, dtype="int8")
    with pytest.raises(InputError, match="no rows to make target of"):
        cached(tmp_path, [])

    for dtype, largest in (("float16", 1e5), ("bfloat16", 3.4e38)):
        message = f"values that {dtype} cannot hold, the largest is {largest:.3g}: choose another cache_dtype"
        with pytest.raises(InputError, match=re.escape(message)):
            cached_value(tmp_path, largest, dtype)
    assert not list(tmp_path.rglob("*.arrow"))
    for dtype in ("float32", "float16", "bfloat16"):
        with pytest.raises(InputError, match="1 of 1 target are not finite: the model diverged"):
            cached_value(tmp_path, torch.nan, dtype)

    def one_of_five(rows, view):
        return torch.tensor([[1.0, torch.nan, 0.0], *[[1.0, 0.0, 0.0]] * 4])

    texts = pa.array([f"{number}" for number in range(5)], pa.large_string())
    with pytest.raises(InputError, match="1 of 5 target are not finite: the model diverged"):
        cached_column("target", "text", texts, one_of_five, {}, cache_dir=str(tmp_path), part_length=5)

    kept = cached_value(tmp_path, 1e5, "bfloat16")  # of float32's range, and of less precision
    assert kept[[0]]["target"] == pytest.approx(1e5, rel=2**-8)


# ---- Damaged parts ----


def part(column, number=1):
    return embedding_cache.part_paths(column.folder, 11, 4)[number]


def cut(path):
    """Leave half of a part, as an interrupted copy does."""
    path.write_bytes(path.read_bytes()[:600])


def empty(path):
    path.write_bytes(b"")


def append(path):
    path.write_bytes(path.read_bytes() + b"0")


def flip_in_payload(path):
    content = bytearray(path.read_bytes())
    content[-50] ^= 1  # the last embedding ends 8 bytes before the end
    path.write_bytes(content)


def swap(path):
    other = path.with_name("part-00000.arrow")
    content = path.read_bytes()
    shutil.copy(other, path)
    other.write_bytes(content)


def reverse(path):
    """Write the rows in another order, with a digest that fits."""
    table = Dataset.from_file(str(path)).data.table
    path.write_bytes(part_bytes(table.take([3, 2, 1, 0]), path, 3))


def drop_a_row(path):
    table = Dataset.from_file(str(path)).data.table
    path.write_bytes(part_bytes(table.slice(0, 3), path, 3))


def give_to_other_weights(path):
    """Copy the part to the cache of other weights, and back the one that this had."""
    other = part(cached(path.parents[2] / "other", made_by={"weights": "others"}))
    content = other.read_bytes()
    shutil.copy(path, other)
    (damage,) = find_damaged_parts(other.parents[1])
    assert damage == f"{other} is out of place: it was written as {path.name} of {path.parents[1].name}"
    path.write_bytes(content)


def as_version_0_1(path):
    """Write a part without a digest, as version 0.1 did."""
    table = Dataset.from_file(str(path)).data.table
    schema = table.schema.with_metadata({b"huggingface": table.schema.metadata[b"huggingface"]})
    sink = pa.BufferOutputStream()  # not into the file, which is mapped
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_table(table.cast(schema))
    path.write_bytes(sink.getvalue())


DAMAGES = [cut, empty, append, flip_in_payload, swap, reverse, drop_a_row, give_to_other_weights]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_part_is_named_and_made_anew(tmp_path, damage):
    column = cached(tmp_path / "cache")
    before = files(column.folder)
    damage(part(column))
    seen = []
    with pytest.warns(UserWarning, match=r"part-00001\.arrow .*It is encoded again"):
        cached(tmp_path / "cache", seen=seen)
    assert [key for key, _ in seen] == texts_between(0 if damage is swap else 4, 8)
    assert files(column.folder) == before


@pytest.mark.parametrize("damage", [cut, empty, swap, reverse, drop_a_row])
def test_a_part_of_version_0_1_is_held_to_its_keys(tmp_path, damage):
    column = cached(tmp_path / "cache")
    expected = column[range(30)]["target"]
    for number in range(3):
        as_version_0_1(part(column, number))
    seen = []
    again = cached(tmp_path / "cache", seen=seen)
    assert seen == []
    np.testing.assert_array_equal(again[range(30)]["target"], expected)

    damage(part(column))
    with pytest.warns(UserWarning, match=r"part-00001\.arrow .*It is encoded again"):
        again = cached(tmp_path / "cache", seen=seen)
    assert [key for key, _ in seen][-4:] == texts_between(4, 8)
    np.testing.assert_array_equal(again[range(30)]["target"], expected)


def rewrite(path, change):
    """Write a part with other columns, and with a digest that fits."""
    table = Dataset.from_file(str(path)).data.table
    columns = change({name: table[name].combine_chunks() for name in table.column_names})
    schema = pa.table(columns).schema.with_metadata({b"some": b"metadata"})
    path.write_bytes(part_bytes(pa.table(columns, schema=schema), path, 3))


def retyped(columns, name, dtype):
    return columns | {name: columns[name].cast(dtype)}


def without(columns, name):
    return {column: values for column, values in columns.items() if column != name}


@pytest.mark.parametrize(
    "dtype,change,message",
    [
        ("float32", lambda old: without(old, "target"), "has no column target in float32"),
        ("float32", lambda old: without(old, "text"), "holds other items .*: see 'text'"),
        ("float32", lambda old: without(old, "view"), "holds other items .*: see 'view'"),
        ("float32", lambda old: old | {"target": old["text"]}, "has no column target in float32"),
        ("float32", lambda old: retyped(old, "target", pa.list_(pa.float16(), DIM)), "target in float32"),
        ("float16", lambda old: retyped(old, "target", pa.list_(pa.float32(), DIM)), "target in float16"),
        ("float32", lambda old: retyped(old, "target", pa.list_(pa.float32())), "target in float32"),
        ("float32", lambda old: retyped(old, "text", pa.string()), "see 'text'"),
        ("float32", lambda old: old | {"view": old["view"].take([1, 0, *range(2, 8)])}, "see 'view'"),
    ],
)
def test_a_part_with_other_columns_is_made_anew(tmp_path, dtype, change, message):
    column = cached(tmp_path, dtype=dtype, n_views=2)
    before = files(column.folder)
    rewrite(part(column), change)
    with pytest.warns(UserWarning, match=rf"part-00001\.arrow .*{message}.*\. It is encoded again"):
        cached(tmp_path, dtype=dtype, n_views=2)
    assert files(column.folder) == before


@pytest.mark.parametrize("length", [1, 2, 33, 34])
def test_the_label_of_a_part_is_read_wherever_it_ends(tmp_path, length):
    """The length of a cache's name moves its digest and the end of its label."""
    name = "a" * length
    path = tmp_path / name / "data/part-00000.arrow"
    path.parent.mkdir(parents=True)
    table = pa.table({"text": ["one"]}).replace_schema_metadata({b"some": b"metadata"})
    path.write_bytes(part_bytes(table, path, 1))
    assert find_damaged_parts(tmp_path / name) == []
    path.write_bytes(part_bytes(table, path, 3))
    assert find_damaged_parts(tmp_path / name) == [
        f"{path.with_name('part-00001.arrow')} is missing",
        f"{path.with_name('part-00002.arrow')} is missing",
    ]


def test_a_part_of_version_0_1_has_valid_texts(tmp_path):
    column = cached(tmp_path)
    path = part(column)
    as_version_0_1(path)
    path.write_bytes(path.read_bytes().replace(b"text 5", b"te\xff\xff 5"))
    (damage,) = find_damaged_parts(column.folder)
    assert damage.startswith(f"{path} cannot be read: ")


@pytest.mark.parametrize("is_old", [False, True])
def test_a_flipped_bit_is_found_or_changes_nothing(tmp_path, is_old):
    """Flip a bit in each of 100 places of a part; those of version 0.1 have no digest of their values."""
    column = cached(tmp_path, dtype="float16", n_views=2)
    path = part(column)
    if is_old:
        as_version_0_1(path)
    content = path.read_bytes()
    expected = Dataset.from_file(str(path)).to_list()

    generator = np.random.default_rng(0)
    n_found = 0
    for place in generator.choice(len(content), size=100, replace=False).tolist():
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(generator.integers(8))
        path.write_bytes(flipped)
        damages = find_damaged_parts(column.folder)
        n_found += len(damages)
        if damages:
            assert damages[0].startswith(str(path))
            assert "\n" not in damages[0]
        elif not is_old:
            assert Dataset.from_file(str(path)).to_list() == expected, f"byte {place}"
    assert n_found <= 100
    if not is_old:
        assert n_found >= 98  # a flip in the name of the digest's own field hides it, and nothing else


def test_damaged_parts_are_listed(tmp_path):
    column = cached(tmp_path)
    assert find_damaged_parts(column.folder) == []
    flip_in_payload(part(column, 0))
    part(column, 2).unlink()
    first, second = find_damaged_parts(column.folder)
    assert first == f"{part(column, 0)} is damaged: its bytes are not those that were written"
    assert second == f"{part(column, 2)} is missing"

    shutil.copy(part(column, 1), part(column, 0))
    assert find_damaged_parts(str(column.folder))[0] == (
        f"{part(column, 0)} is out of place: it was written as part-00001.arrow of {column.folder.name}"
    )
    with pytest.raises(InputError, match="holds no parts of a cache: give a folder with data/part-00000"):
        find_damaged_parts(tmp_path)


def share_damaged(rank, folder):
    """Open a cache with two damaged parts as one of two processes, each of which has one of them."""
    embedding_cache.PART_LENGTH = 4
    PartialState(cpu=True)
    seen = []
    with pytest.warns(UserWarning, match=f"part-0000{rank}.arrow is damaged"):
        column = cached(folder, seen=seen)
    assert [key for key, _ in seen] == texts_between(4 * rank, 4 * rank + 4)
    np.testing.assert_array_equal(column[[0]]["target"], vector(KEYS[0])[None])


def test_processes_share_the_damaged_parts(tmp_path):
    column = cached(tmp_path)
    before = files(column.folder)
    for number in range(2):
        flip_in_payload(part(column, number))
    spawn(share_damaged, (tmp_path,), 2, together=True)
    assert files(column.folder) == before


def test_a_full_disk_leaves_the_previous_parts(tmp_path, monkeypatch):
    """The third part does not fit any more; the next run makes it alone."""
    n_calls = 0

    def full(descriptor):
        nonlocal n_calls
        n_calls += 1
        if n_calls == 5:  # each part has two, of its file and of the folder that names it
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    message = (
        r"cache_dir: .*part-00002\.arrow of 0\.0 MB cannot be written: No space left on device\. "
        r"It needs at least [\d.]+ (kB|bytes), .* are free\. Give"
    )
    with pytest.raises(InputError, match=message):
        cached(tmp_path)
    (folder,) = tmp_path.iterdir()  # no temporary file is left beside it
    seen = []
    cached(tmp_path, seen=seen)
    assert [key for key, _ in seen] == texts_between(8, 11)
    assert find_damaged_parts(folder) == []


def test_a_file_in_the_way_of_the_cache_is_named(tmp_path):
    (tmp_path / "cache").write_text("")
    with pytest.raises(
        InputError, match="^cache_dir .* lies below '.*/cache', which is a file: give a folder"
    ):
        cached(tmp_path / "cache")


def test_a_part_that_cannot_be_written_tells_its_size(tmp_path):
    def encode(*_):
        (tmp_path / "cache").write_text("")  # while the cache is made
        return torch.zeros(1, 350_000)

    texts = pa.array(["one"], pa.large_string())
    with pytest.raises(InputError, match=r"part-00000\.arrow of 1\.4 MB cannot be written: Not a directory"):
        cached_column("target", "text", texts, encode, {}, cache_dir=str(tmp_path / "cache"))


def test_machines_without_a_shared_folder_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(embedding_cache, "write_part", lambda *_: None)
    with pytest.raises(InputError, match="cache_dir: .*part-00000.arrow is not there.*all machines share"):
        cached(tmp_path)
