"""The comparison of our speed with other libraries: its harness, and our side of each row at tiny sizes."""

import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.speed import job, side_by_side
from benchmarks.speed.comparisons import Comparison, Peer, load_comparisons
from benchmarks.speed.instructions import LEVELS, check_level, limit_of
from benchmarks.speed.machine import describe_machine, tell_torch
from benchmarks.speed.ratios import Ratio, ratio_of, summarize
from benchmarks.speed.report import (
    describe,
    draw_ratios,
    fill_readme,
    make_brief,
    make_floors,
    make_table,
    save_json,
)
from benchmarks.speed.side_by_side import (
    OURS,
    Turns,
    check_equal,
    count_operations,
    order_of_turns,
    run_comparison,
    worker_environment,
)
from common.errors import InputError
from common.files.json_files import read_json
from common.processor import read_processor

from .conftest import ROOT

# Sides that note whose turn it is, and of which `other` answers something else.
ROW = """
import os
import numpy as np

def inputs(folder, shape):
    (folder / "turns").write_text("")

def side(name, folder, answer):
    def work():
        with (folder / "turns").open("a") as file:
            file.write(name + " ")
        return {"answer": [answer]}
    while True:
        yield work

def ours(folder, shape):
    return side("A", folder, shape["answer"])

def peer(folder, shape):
    print("libraries print what they like")
    return side("B", folder, shape["answer"])

def other(folder, shape):
    return side("C", folder, 2.5)

def multiplies(folder, shape):
    import torch
    matrix = torch.ones(8, 8, requires_grad=True)
    heads = torch.ones(1, 2, 6, 8, requires_grad=True)

    def work():
        torch.mm(matrix, matrix).sum().backward()
        torch.nn.functional.scaled_dot_product_attention(heads, heads, heads).sum().backward()
        return {"answer": [shape["answer"]]}
    while True:
        yield work

def dies(folder, shape):
    yield lambda: None
    raise MemoryError("a side is too large")

def tells_torch(folder, shape):
    import torch
    capability = torch.backends.cpu.get_cpu_capability()
    names = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")
    (folder / "torch").write_text(" ".join([capability, *(os.environ.get(name, "-") for name in names)]))
    return side("D", folder, shape["answer"])

def prints_threads(folder, shape):
    while True:
        yield lambda: {"answer": [float(os.environ["OMP_NUM_THREADS"])]}
"""


@pytest.fixture
def row(tmp_path):
    """Return a function from the names of peers to a comparison with them."""
    path = tmp_path / "row.py"
    path.write_text(ROW)

    def make(*peers, answer=2.0):
        named = {name: Peer(name=name, target=1.5) for name in peers}
        shape = {"answer": answer}
        return Comparison(name="row", file=str(path), work="work", tolerance=0.1, peers=named, shape=shape)

    return make


def test_sides_take_turns():
    assert order_of_turns(["A", "B"], 3) == ["A", "B", "B", "A", "A", "B"]
    assert order_of_turns(["A", "B", "C"], 2) == ["A", "B", "C", "C", "B", "A"]


def test_a_comparison_measures_each_repeat_in_its_turn(row, tmp_path):
    costs = run_comparison(row("peer"), tmp_path, Turns(repeats=2))
    assert {side: len(repeats) for side, repeats in costs.items()} == {OURS: 2, "peer": 2}
    assert set(costs["peer"][0]) == {"cpu", "wall", "memory"}
    # Both warm up while they set up, in any order.
    warm, turns = np.split((tmp_path / "turns").read_text().split(), [2])
    assert sorted(warm) == ["A", "B"]
    assert list(turns) == ["A", "B", "B", "A"]


def test_unequal_results_are_refused(row, tmp_path):
    message = "'row' is refused: we and other did not do the same work: answer differs by 5.0e-01"
    with pytest.raises(InputError, match=message):
        run_comparison(row("peer", "other"), tmp_path, Turns(repeats=1))


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        ({"a": np.zeros(3)}, "shapes"),
        ({"b": np.zeros(2)}, "shapes"),
        ({}, "shapes"),
        ({"a": np.array([0, np.nan])}, "not finite"),
        ({"a": np.array([0, 0.2])}, "differs by 2.0e-01"),
    ],
)
def test_other_work_is_refused(row, theirs, message):
    with pytest.raises(InputError, match=message):
        check_equal({"a": np.zeros(2), "more": np.zeros(1)}, theirs, row("peer"), "peer")


def test_equal_work_may_differ_by_the_tolerance(row):
    ours = {"a": np.zeros(2), "more": np.zeros(1)}
    assert check_equal(ours, {"a": np.array([0, 0.05])}, row("peer"), "peer") == 0.05


def test_a_side_that_dies_is_said_in_one_line(row, tmp_path):
    with pytest.raises(InputError) as error:
        run_comparison(row("dies"), tmp_path, Turns(repeats=1))
    assert (
        str(error.value) == "the process of row, dies ended with status 1: MemoryError: a side is too large"
    )


def test_threads_are_those_asked_for(row, tmp_path):
    run_comparison(row("prints_threads", answer=3.0), tmp_path, Turns(repeats=1, threads=3))


def test_operations_of_products_are_counted(row, tmp_path, monkeypatch):
    monkeypatch.setattr(side_by_side, "OURS", "multiplies")
    matrix = 2 * 8**3
    # Two heads of six queries compare 8 values with six keys, and add up 8 of as many.
    attention = 2 * 2 * (2 * 6 * 6 * 8)
    # Products have two gradients of their size. Attention's are computed with what was compared, once more.
    expected = 3 * matrix + attention + attention * 5 // 2
    assert count_operations(row(), tmp_path, Turns(repeats=1)) == expected


HAS_AVX2 = "avx2" in read_processor()[1]


@pytest.mark.skipif(not HAS_AVX2, reason="needs a processor with AVX2")
def test_instructions_are_those_asked_for(row, tmp_path):
    run_comparison(row("tells_torch"), tmp_path, Turns(repeats=1, isa="avx2"))
    assert (tmp_path / "torch").read_text() == "AVX2 avx2 AVX2 AVX2"
    assert tell_torch(Turns(repeats=1, isa="avx2"))["capability"] == "AVX2"


def test_instructions_are_limited_together(monkeypatch):
    given = worker_environment(Turns(repeats=1, isa="avx512"))
    assert limit_of("avx512").items() <= given.items()
    assert {name: sorted(level.variables) for name, level in LEVELS.items()} == dict.fromkeys(
        ("avx2", "avx512", "amx"), ["ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS", "ONEDNN_MAX_CPU_ISA"]
    )
    # By default nothing is limited but what the user has limited.
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX")
    assert worker_environment(Turns(repeats=1))["ONEDNN_MAX_CPU_ISA"] == "AVX"
    assert worker_environment(Turns(repeats=1, isa="avx2"))["ONEDNN_MAX_CPU_ISA"] == "AVX2"


SKYLAKE = ["avx2", "fma", "avx512f", "avx512bw", "avx512dq", "avx512vl"]


def test_instructions_that_the_processor_lacks_are_refused():
    for level in (None, "avx2", "avx512"):
        check_level(level, SKYLAKE)
    with pytest.raises(InputError, match="lacks amx_tile amx_bf16 amx_int8: give avx2 or avx512"):
        check_level("amx", SKYLAKE)
    with pytest.raises(InputError, match="lacks avx2 fma: leave --isa out"):
        check_level("avx2", ["sse4_2"])
    with pytest.raises(InputError, match="this system has no /proc/cpuinfo"):
        check_level("avx2", [])


def test_the_job_refuses_instructions_that_the_processor_lacks(monkeypatch):
    monkeypatch.setattr(job, "read_processor", lambda: ("a processor", SKYLAKE))
    assert job._SpeedArguments(isa="avx512").isa == "avx512"
    with pytest.raises(InputError, match="isa is 'amx', and the processor lacks"):
        job._SpeedArguments(isa="amx")


def test_the_machine_is_described():
    machine = describe_machine(Turns(repeats=1))
    assert machine["isa"] is None
    assert machine["capability"]
    assert machine["matrix_rates"]["torch.mm"] > 0
    assert machine["versions"]["torch"].startswith("2.")


def costs_of(*cpu, memory=8.0):
    return [{"cpu": seconds, "wall": 2 * seconds, "memory": memory} for seconds in cpu]


def test_ratios_are_of_rounds():
    # 6 / 2, 4 / 4 and 12 / 3: the median is that of rounds, not the ratio of medians, 6 / 3.
    ratio = ratio_of(costs_of(2, 4, 3), costs_of(6, 4, 12), "cpu")
    assert ratio == Ratio(3, 1, 4)


def test_memory_is_the_largest_of_all_repeats():
    # The first repeat of ours took 4, and later ones used it again.
    ours = [{"memory": 4}, {"memory": 0}]
    assert ratio_of(ours, [{"memory": 8}, {"memory": 2}], "memory") == Ratio(2, 2, 2)


def test_costs_are_summarized(row, tmp_path):
    comparison = row("peer")
    (outcome,) = summarize(comparison, {OURS: costs_of(1, 2, 9), "peer": costs_of(2, 2, 9, memory=4.0)})
    assert outcome.ours == {"cpu": 2, "wall": 4, "memory": 8}
    assert outcome.ratios["cpu"] == Ratio(1, 1, 2)
    assert outcome.ratios["memory"].median == 0.5

    comparison.children = True
    (outcome,) = summarize(comparison, {OURS: costs_of(1), "peer": costs_of(2)})
    assert outcome.ours["memory"] is None
    assert "memory" not in outcome.ratios


MACHINE = {
    "processor": "a processor",
    "flags": ["avx2"],
    "cores": 2,
    "load_before": 0.5,
    "isa": None,
    "capability": "AVX512",
    "matrix_rates": {"torch.mm": 98.7, "oneDNN": 200.0},
    "threads": 1,
    "repeats": 3,
    "quick": True,
    "commit": "abc",
    "versions": {"torch": "2.13.0"},
}


def test_outcomes_are_presented(row, tmp_path):
    outcomes = summarize(row("peer"), {OURS: costs_of(1, 2), "peer": costs_of(4, 4)})
    failures = {"another": "the process ended"}
    table = make_table(outcomes, failures)
    assert "| 3.00 (2.00 to 4.00) | 1.5 " in " ".join(table.split())
    assert "- another: the process ended" in table
    assert make_brief(outcomes, MACHINE).count("\n") == 1  # a header alone: the row is not brief
    two = summarize(
        replace(row("peer", "other"), brief=True),
        {OURS: costs_of(1), "peer": costs_of(4), "other": costs_of(2)},
    )
    brief = " ".join(make_brief(two, MACHINE).split())
    assert "| work | peer 4.00 (4.00 to 4.00); other 2.00 (2.00 to 2.00) |" in brief
    text = describe(MACHINE)
    assert "small sizes" in text
    assert (
        "torch uses AVX512, and multiplies matrices of float32 at 99 by torch.mm and 200 by oneDNN, in GFLOP"
        in text
    )
    assert "AVX2, limited to avx2 by --isa" in describe(MACHINE | {"isa": "avx2", "capability": "AVX2"})

    save_json(outcomes, failures, MACHINE, tmp_path / "results.json")
    saved = read_json(tmp_path / "results.json", "results")
    assert saved["outcomes"][0]["costs"]["peer"][0]["cpu"] == 4
    draw_ratios(outcomes, tmp_path / "ratios.png")
    assert (tmp_path / "ratios.png").stat().st_size > 1000


def test_every_row_is_saved_as_soon_as_it_is_measured(row, tmp_path, monkeypatch):
    def compare(comparison, turns, logs):
        if comparison.work == "interrupted":
            raise KeyboardInterrupt
        return summarize(comparison, {OURS: costs_of(1), "peer": costs_of(4)})

    rows = [row("peer"), replace(row("peer"), work="interrupted")]
    monkeypatch.setattr(job, "load_comparisons", lambda names: rows)
    monkeypatch.setattr(job, "_compare", compare)
    with pytest.raises(KeyboardInterrupt):
        job.main(job._SpeedArguments(output_dir=str(tmp_path)))
    assert "4.00 (4.00 to 4.00)" in (tmp_path / "table.md").read_text("utf-8")
    assert len(read_json(tmp_path / "results.json", "results")["outcomes"]) == 1


def test_a_quick_look_takes_the_brief_rows(row, tmp_path, monkeypatch):
    seen = []

    def compare(comparison, turns, logs):
        seen.append(comparison.work)
        return summarize(comparison, {OURS: costs_of(1), "peer": costs_of(4)})

    rows = [replace(row("peer"), brief=True, work="brief"), replace(row("peer"), work="other")]
    monkeypatch.setattr(job, "load_comparisons", lambda names: rows)
    monkeypatch.setattr(job, "_compare", compare)
    job.main(job._SpeedArguments(quick=True, output_dir=str(tmp_path)))
    assert seen == ["brief, but smaller"]
    job.main(job._SpeedArguments(quick=True, rows=["a", "b"], output_dir=str(tmp_path)))
    assert seen[1:] == ["brief, but smaller", "other, but smaller"]


def test_floors_are_those_of_the_faster_library(row):
    costs = {OURS: costs_of(1, 3), "peer": costs_of(4, 4), "other": costs_of(5, 5)}
    outcomes = summarize(row("peer", "other"), costs, operations=300_000_000_000)
    header, _, *rows = make_floors(outcomes, MACHINE).splitlines()
    assert "floor" in header
    (cells,) = rows  # one, though there are two peers
    # 300 billion operations at 200 in a second
    assert cells.split() == "| row | 300 | 1.50 | 2.00 | 1.33 |".split()
    assert make_floors(summarize(row("peer"), {OURS: costs_of(1), "peer": costs_of(4)}), MACHINE) == ""


def test_the_readme_has_a_place_for_the_table(tmp_path):
    readme = tmp_path / "README.md"
    text = (ROOT / "benchmarks/speed/README.md").read_text("utf-8")
    readme.write_text(text, "utf-8")
    fill_readme(readme, "| first |")
    fill_readme(readme, "| second |")
    filled = readme.read_text("utf-8")
    assert "| second |" in filled and "| first |" not in filled
    assert filled.startswith(text.partition("<!-- begin")[0])
    readme.write_text("nothing")
    with pytest.raises(InputError, match="has no lines"):
        fill_readme(readme, "| third |")


def test_the_job_fills_both_readmes(row, tmp_path, monkeypatch):
    folder = tmp_path / "benchmarks/speed"
    folder.mkdir(parents=True)
    for name in ("README.md", "benchmarks/speed/README.md"):
        (tmp_path / name).write_text((ROOT / name).read_text("utf-8"), "utf-8")
    outcomes = summarize(replace(row("peer"), brief=True), {OURS: costs_of(1), "peer": costs_of(4)})
    monkeypatch.setattr(job, "_FOLDER", folder)
    monkeypatch.setattr(job, "load_comparisons", lambda names: [row("peer")])
    monkeypatch.setattr(job, "_compare", lambda comparison, turns, logs: outcomes)
    job.main(job._SpeedArguments(output_dir=str(tmp_path / "found"), readme=True))
    full = (folder / "README.md").read_text("utf-8")
    assert "CPU s, ours" in full and "4.00 (4.00 to 4.00)" in full
    brief = (tmp_path / "README.md").read_text("utf-8")
    assert "CPU s, ours" not in brief and "peer 4.00 (4.00 to 4.00)" in brief


def test_unknown_rows_are_refused():
    assert [comparison.name for comparison in load_comparisons(["loss", "texts"])] == ["loss", "texts"]
    with pytest.raises(InputError, match="rows: there is no 'speed'"):
        load_comparisons(["speed"])


COMPARISONS = {comparison.name: comparison for comparison in load_comparisons()}
TINY = {
    "texts": 8,
    "classes": 2,
    "templates": 2,
    "images": 8,
    "labels": 3,
    "batch_size": 8,
    "dim": 8,
    "pairs": 8,
    "batch_pairs": 4,
    "steps": 2,
    "width": 64,
    "layers": 1,
    "image_layers": 1,
    "vocab_size": 8005,
    "ours": ["-c", "pass"],
    "device": "cpu",
}


@pytest.mark.parametrize("name", COMPARISONS)
def test_our_side_of_a_row(name, tmp_path):
    comparison = COMPARISONS[name]
    shape = comparison.shape | TINY
    module = runpy.run_path(str(comparison.path))
    assert set(comparison.peers) <= set(module)
    assert set(comparison.quick) <= set(comparison.shape)

    module["inputs"](tmp_path, shape)
    repeats = module[OURS](tmp_path, shape)
    next(repeats)()
    first = next(repeats)()
    second = next(repeats)()
    for key, values in first.items():
        assert np.isfinite(np.asarray(values)).all()
        np.testing.assert_allclose(np.asarray(second[key]), np.asarray(values), atol=1e-5)


def test_files_of_rows_are_all_used():
    folders = [ROOT / "benchmarks/speed/rows", ROOT / "training/speed"]
    files = {path for folder in folders for path in folder.glob("*.py") if path.name != "__init__.py"}
    assert files == {Path(comparison.path) for comparison in COMPARISONS.values()}


# These peers are in the tests' own environment; the others need torchvision.
@pytest.mark.slow
@pytest.mark.parametrize("name", COMPARISONS)
def test_peers_do_the_same_work(name, tmp_path):
    comparison = COMPARISONS[name]
    comparison.peers = {key: peer for key, peer in comparison.peers.items() if not peer.torchvision}
    costs = run_comparison(comparison, tmp_path, Turns(repeats=1, quick=True))
    assert list(costs) == [OURS, *comparison.peers]
