"""Files of results: whatever is damaged or of another form is found when it is read, in one line."""

import json
import random
import shutil
import zipfile
from io import BytesIO

import numpy as np
import pytest
import torch

from benchmarks import load_outcomes, load_results
from benchmarks.outcomes import (
    ClassOutcomes,
    MultilabelOutcomes,
    PoolOutcomes,
    RetrievalOutcomes,
    ScoreOutcomes,
)
from benchmarks.results import Result, find_damaged_results, rewrite_results
from common.errors import InputError
from common.images import digest_of

from .conftest import ROOT

OLD = ROOT / "tests/fixtures/v0.1.0/results"
RANKS = torch.tensor([0, 3, 1, 0, 7, 2])
GIVEN = {
    "model": "org/model",
    "task": "photos",
    "kind": "zero_shot",
    "language": "en",
    "metric": "accuracy@1",
    "dataset": "org/data",
    "split": "test",
    "weights": "w" * 64,
    "command": "run_zero_shot.py --tasks photos",
    "limit": 6,
    "definition": {"where": {"a": [1, None]}},
    "templates": ["a {}"],
}


@pytest.fixture
def saved(tmp_path):
    """Save a result with its outcomes; return the path of its JSON."""
    outcomes = ClassOutcomes(RANKS, torch.arange(6) % 3, 3)
    intervals = {"accuracy@1": (0.1, 0.9)}  # as `bootstrap.intervals` returns them
    return Result(**GIVEN, metrics=outcomes.metrics(), intervals=intervals).save(tmp_path, outcomes)


def change(path, fields):
    """Change fields of a result's file, as an editor would."""
    record = json.loads(path.read_text("utf-8")) | fields
    path.write_text(json.dumps(record), "utf-8")


# Values of every type that JSON has, and numbers that no field can have.
VALUES = [None, True, 0, -1, 2.5, 10**400, "", "x", "\u2028", [], [None], [[1]], {}, {"a": None}, {"n": "1"}]


@pytest.mark.parametrize(
    "name", [*json.loads((OLD / "tiny/miniature-pairs.en.json").read_text()), "checksums"]
)
def test_a_field_of_another_type_is_refused_or_is_of_its_type(saved, name):
    """Without checksums, as of an earlier version: only the field itself can tell."""
    original = json.loads(saved.read_text("utf-8")) | {"checksums": None}
    n_refused = 0
    for value in VALUES:
        saved.write_text(json.dumps(original | {name: value}), "utf-8")
        try:
            (result,) = load_results(saved.parent.parent)
            result.outcomes()
        except InputError as error:
            assert str(error).startswith(f"{saved} is not a result ("), value
            assert "\n" not in str(error)
            n_refused += 1
    # Of 15 values `definition` can be any mapping, a text any text, and a number of rows zero.
    assert n_refused >= 10


@pytest.mark.parametrize(
    "fields,message",
    [
        (
            {"metrics": {"n": 6, "accuracy@1": None}},
            r"it: metrics\['accuracy@1'\] is None, which is no float",
        ),
        ({"metrics": {"n": 6, "accuracy@1": 1.5}}, "is 1.5, which is no fraction from 0 to 1"),
        ({"metrics": {"n": 6, "accuracy@1": -0.1}}, "is -0.1, which is no fraction"),
        ({"metrics": {"n": 0, "accuracy@1": 0.5}}, r"metrics\['n'\] is 0, which is no count"),
        ({"metrics": {"n": 6.5, "accuracy@1": 0.5}}, "is 6.5, which is no count"),
        ({"metrics": {"n": 6, "accuracy@1": 0.5, "a_rank_p5": -1}}, "is -1, which is no rank"),
        ({"kind": "<b>"}, "kind is '<b>'; there are retrieval, mixed_pool, zero_shot"),
        ({"metrics": {"n": 6}}, "metrics lack 'accuracy@1'"),
        ({"metrics": {"accuracy@1": 0.5}}, "metrics lack 'n'"),
        ({"intervals": {"accuracy@1": [0.1]}}, r"is \[0.1\], which is not \[low, high\]"),
        ({"intervals": {"accuracy@1": [0.9, 0.1]}}, r"which is not \[low, high\]"),
        ({"intervals": {"accuracy@1": [0.9, 2]}}, "is 2, which is no fraction"),
        ({"n_rows": -1}, "n_rows is -1"),
        ({"limit": True}, "limit is True, which is no int"),
        ({"versions": {"torch": 2}}, r"versions\['torch'\] is 2, which is no str"),
        ({"templates": [1]}, r"templates\[0\] is 1, which is no str"),
        ({"future": 1}, "it has the unknown field 'future'"),
        ({"path": "/etc/passwd"}, "it has the unknown field 'path'"),
    ],
)
def test_a_value_that_cannot_be_is_refused(saved, fields, message):
    change(saved, fields)
    with pytest.raises(
        InputError, match=rf"\A{saved} is not a result \([^\n]*{message}[^\n]*evaluate again\Z"
    ):
        load_results(saved.parent)


@pytest.mark.parametrize(
    "content,message",
    [
        ("[]", "it is no mapping of fields to values"),
        ("{}", "it lacks the field 'model'"),
        ('{"model": "a", "model": "b"}', "the key 'model' is given twice"),
        ('{"metrics": {"n": NaN}}', "NaN is no finite number"),
        ('{"metrics": ' * 100_000, "nested too deeply"),
        ('{"limit": ' + "9" * 5000 + "}", "is no JSON"),
        ("\x00", "is no JSON"),
        ("", "is no JSON"),
        (" " * 20_000_001, "it has more than 20,000,000 bytes"),
    ],
)
def test_a_file_that_is_no_result_is_refused(saved, content, message):
    saved.write_text(content, "utf-8")
    with pytest.raises(InputError, match=rf"\A{saved} is not a result \([^\n]*{message}"):
        load_results(saved.parent)


def test_what_cannot_be_read_is_not_written(tmp_path):
    """As the accuracy of a diverged model, or an area of images of one class."""
    for metrics in ({"n": 6, "accuracy@1": float("nan")}, {"n": 6}):
        with pytest.raises(InputError, match="photos.en.json cannot be written: .*metrics"):
            Result(**GIVEN, metrics=metrics).save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_change_is_found_and_can_be_accepted(saved):
    folder = saved.parent.parent
    assert find_damaged_results(folder) == []
    before = saved.read_bytes()
    change(saved, {"limit": 7})
    match = f"{saved} was changed after it was written: .*`altclip check --rewrite {saved.parent}`"
    with pytest.raises(InputError, match=match):
        load_results(folder)
    assert [line.startswith(f"{saved} was changed") for line in find_damaged_results(folder)] == [True]

    assert rewrite_results(folder) == [str(saved)]
    assert find_damaged_results(folder) == []
    assert load_results(folder)[0].limit == 7

    change(saved, {"limit": 6})
    rewrite_results(folder)
    assert saved.read_bytes() == before  # every other field is as it was


def test_only_the_layout_of_a_file_may_change(saved):
    content = json.loads(saved.read_text("utf-8"))
    saved.write_text(json.dumps(dict(reversed(content.items()))), "utf-8")
    assert find_damaged_results(saved.parent) == []


def test_outcomes_of_another_result_are_found(saved, tmp_path):
    ClassOutcomes(RANKS.roll(1), torch.arange(6) % 3, 3).save(saved.with_suffix(".npz"))
    (result,) = load_results(tmp_path)
    with pytest.raises(InputError, match="it is not the file that was written with its result"):
        result.outcomes()
    assert len(find_damaged_results(tmp_path)) == 1
    saved.with_suffix(".npz").unlink()
    assert "no outcomes beside the result" in find_damaged_results(tmp_path)[0]

    # A later result without per-item results leaves those of an earlier one, which are not its own.
    (result,) = load_results(tmp_path)
    result.save(tmp_path)
    assert find_damaged_results(tmp_path) == []
    ClassOutcomes(RANKS, torch.arange(6) % 3, 3).save(saved.with_suffix(".npz"))
    assert "is of another result" in find_damaged_results(tmp_path)[0]


def test_results_of_earlier_versions_have_no_checksums_until_they_are_rewritten(tmp_path):
    shutil.copytree(OLD, tmp_path / "old")
    before = load_results(tmp_path)
    assert [result.checksums for result in before] == [None, None]
    assert find_damaged_results(tmp_path) == []
    rewrite_results(tmp_path)
    after = load_results(tmp_path)
    assert after == before
    assert all(result.checksums["outcomes"] for result in after)
    assert find_damaged_results(tmp_path) == []


def test_a_bit_flipped_anywhere_is_found_or_harmless(saved):
    """Harmless is what reads as the same result with the same outcomes, as a space for a line feed."""
    folder = saved.parent
    (whole,) = load_results(folder)
    ranks = whole.outcomes().ranks
    generator = random.Random(0)
    n_found = {".json": 0, ".npz": 0}
    for suffix in n_found:
        path = saved.with_suffix(suffix)
        content = path.read_bytes()
        for _ in range(100):
            flipped = bytearray(content)
            flipped[generator.randrange(len(flipped))] ^= 1 << generator.randrange(8)
            path.write_bytes(flipped)
            if find_damaged_results(folder):
                n_found[suffix] += 1
                continue
            (result,) = load_results(folder)
            assert result == whole
            assert torch.equal(result.outcomes().ranks, ranks)
        path.write_bytes(content)
    assert n_found[".npz"] == 100
    assert n_found[".json"] > 60  # the others are in the white space between fields


KINDS = [
    RetrievalOutcomes(RANKS, RANKS, torch.arange(6)),
    PoolOutcomes(
        RANKS, torch.ones(6, 3).long(), torch.ones(6, 3).long(), torch.arange(6) + 1, torch.arange(2)
    ),
    ClassOutcomes(RANKS, torch.arange(6) % 3, 3),
    MultilabelOutcomes(torch.rand(6, 3), torch.rand(6, 3) > 0.5),
    ScoreOutcomes(torch.rand(6), torch.rand(6) > 0.5),
]


@pytest.mark.parametrize("outcomes", KINDS, ids=lambda outcomes: type(outcomes).__name__)
def test_damaged_outcomes_are_refused_or_read_by_themselves_too(tmp_path, outcomes):
    """Without the digest of their result, as `load_outcomes` reads any file: one line, or other values."""
    path = tmp_path / "a.npz"
    digest = outcomes.save(path)
    content = path.read_bytes()
    assert digest == digest_of(content)
    generator = random.Random(1)
    for number in range(300):
        damaged = bytearray(content)
        damaged[generator.randrange(len(damaged))] ^= 1 << generator.randrange(8)
        if number % 3 == 0:
            damaged = damaged[: generator.randrange(len(damaged))]
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="it is not the file that was written with its result"):
            load_outcomes(path, digest)
        try:
            load_outcomes(path).metrics()
        except InputError as error:
            assert "\n" not in str(error)


WHOLE = {
    "kind": "ClassOutcomes",
    "ranks": RANKS.numpy(),
    "labels": np.arange(6) % 3,
    "n_classes": np.int64(3),
}


@pytest.mark.parametrize(
    "arrays,message",
    [
        ({"labels": np.arange(6.0)}, "labels is of torch.float64 in 1 dimensions: give torch.int64"),
        ({"ranks": np.arange(6)[:, None, None]}, "ranks is of torch.int64 in 3 dimensions"),
        ({"ranks": np.arange(6) - 1}, "ranks must be a list of numbers from 0"),
        ({"ranks": np.full(6, np.nan)}, "ranks has values that are not finite"),
        ({"labels": np.full(6, 3)}, "labels must be rows from 0 to 2"),
        ({"labels": np.int64(3)}, "len"),
        ({"n_classes": np.int64(10**12)}, "n_classes is 1000000000000: give 1 to 100,000"),
        ({"n_classes": np.arange(2)}, "only one element"),
        ({"rows": np.arange(6) - 1}, "rows must be a list of numbers from 0"),
        ({"ranks": np.array(["a"] * 6)}, "can't convert"),
        ({"ranks": np.array([{}] * 6, dtype=object)}, "is no array of object"),
        ({"kind": "Outcomes"}, "its kind is 'Outcomes'"),
        ({"kind": "x" * 100_000}, "its kind is 'x{40}'"),
        ({"more": np.arange(3)}, "its array 'more' belongs to no ClassOutcomes"),
    ],
)
def test_arrays_of_another_form_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **WHOLE | arrays)
    with pytest.raises(InputError, match=rf"\A'.*a.npz' cannot be read \([^\n]*({message})"):
        load_outcomes(tmp_path / "a.npz")


def test_arrays_that_state_another_size_are_refused_before_memory_is_taken(tmp_path):
    header = BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<i8", "fortran_order": False, "shape": (10**13,)})
    np.savez(tmp_path / "a.npz", **WHOLE)
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
        archive.writestr("rows.npy", header.getvalue() + b"\0" * 80)
    with pytest.raises(InputError, match=r"'rows.npy' is no array of int64 and \(10000000000000,\)"):
        load_outcomes(tmp_path / "a.npz")

    # 2 GB of zeros in 2 MB.
    with (
        zipfile.ZipFile(tmp_path / "b.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("kind.npy", "w") as file,
    ):
        for _ in range(2000):
            file.write(b"\0" * 1_000_000)
    with pytest.raises(
        InputError, match="its arrays have 2,000,000,000 bytes, and at most 1,000,000,000 are read"
    ):
        load_outcomes(tmp_path / "b.npz")
