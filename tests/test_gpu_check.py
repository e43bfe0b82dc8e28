"""The checks of `make gpu-check`, done on a CPU with tiny models; on a GPU they are the same code."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

import training.gpu_check.running as running
from common.errors import InputError
from training.gpu_check import parity
from training.gpu_check.arguments import GpuCheckArguments
from training.gpu_check.checks import Check, list_checks
from training.gpu_check.hardware import Hardware, describe_hardware, find_peak
from training.gpu_check.rows import CheckFailed, Measured, Row, guarded, within
from training.gpu_check.shapes import build_model, make_texts, read_shapes
from training.gpu_check.stages import StageRun, count_operations, make_trainer, measure_stage
from training.gpu_check.table import format_rows, read_rows, write_rows
from training.road.models import count_parameters, read_config, text_operations

from .conftest import ROOT

GPU = Hardware(
    name="NVIDIA H200",
    n_devices=2,
    memory="150.75 GB",
    peak=1e9,
    system="Linux x86_64",
    versions={"torch": "2.13.0"},
)


@pytest.fixture
def altclip():
    return read_shapes("tiny")[0]


@pytest.fixture
def dual_encoder():
    return read_shapes("tiny")[1]


@pytest.fixture
def arguments(tmp_path):
    def arguments(**given):
        defaults = {"output_dir": str(tmp_path / "out"), "device": "cpu", "shapes": "tiny", "steps": 1}
        return GpuCheckArguments(**defaults | {"own_process": False} | given)

    return arguments


def test_steps_are_measured(dual_encoder):
    run = StageRun(shape=dual_encoder, stage="stage1", steps=2, settings={"bf16": True})
    measured = measure_stage(run, GPU, "cpu")
    assert measured.unit == "texts"
    assert measured.per_second > 0
    assert measured.peak_bytes is None  # torch knows that of GPUs alone
    assert measured.utilisation == pytest.approx(measured.operations_per_second / GPU.peak)


def test_steps_that_change_nothing_fail(altclip):
    run = StageRun(shape=altclip, stage="stage2_cached", steps=1, settings={"learning_rate": 0.0})
    with pytest.raises(CheckFailed, match="the steps have changed no weight"):
        measure_stage(run, GPU, "cpu")


def test_operations_are_counted_once_whatever_is_computed_twice(altclip, tmp_path):
    def count(stage, **settings):
        run = StageRun(shape=altclip, stage=stage, steps=1, settings=settings)
        return count_operations(*make_trainer(run, "cpu", str(tmp_path)))

    config = build_model(altclip, "cpu").config
    text = config.text_config
    n_tokens = altclip.tokens[1]
    head = 2 * n_tokens * text.hidden_size * text.project_dim
    projection = 2 * text.project_dim * config.projection_dim
    # Backward computes each product twice: for what comes in, and for the weight.
    of_tower = 3 * (text_operations(config, n_tokens) + head)
    # Stage 1 reads neither the projection's output nor the cosines of four texts, of its health metrics.
    cosines = 2 * 4 * text.project_dim
    assert count("stage1", length_groups=1) == of_tower + projection + cosines

    plain = count("stage2_cached", length_groups=1)
    assert of_tower < plain < 1.1 * of_tower
    assert count("stage2_cached", length_groups=1, gradient_cache_chunk=2) == plain
    assert count("stage2_cached", length_groups=1, gradient_checkpointing=True) == plain


@pytest.mark.parametrize("kernels", [{}, {"bf16": True}], ids=["sdpa", "bf16"])
def test_kernels_agree_with_eager_attention(dual_encoder, kernels):
    differences = parity.compare_kernels(dual_encoder, "cpu", **kernels).differences
    assert list(differences) == ["embeddings", "gradients"]
    is_exact = [difference < 1e-5 for difference, _ in differences.values()]
    assert is_exact == [not kernels] * 2


def test_another_model_is_no_parity(altclip, monkeypatch):
    """The reference is built first, and what is compared with it gets another weight."""
    build = parity.build_model

    def build_another(shape, device, attention="sdpa"):
        model = build(shape, device, attention)
        if attention == "sdpa":
            model.text_model.transformation.weight.data[0, 0] += 0.5
        return model

    monkeypatch.setattr(parity, "build_model", build_another)
    with pytest.raises(CheckFailed, match="embeddings differ by .*, and 1e-04 is allowed"):
        parity.compare_kernels(altclip, "cpu")


def test_losses_agree():
    differences = parity.compare_losses(32, "cpu").differences
    assert len(differences) == 4
    assert all(difference < bound for difference, bound in differences.values())


@pytest.mark.parametrize("name", ["contrastive", "sigmoid"])
def test_a_wrong_loss_in_tiles_is_no_parity(monkeypatch, name):
    loss = getattr(parity, f"{name}_loss")

    def wrong_in_tiles(*args, tile_size, **kwargs):
        value = loss(*args, tile_size=tile_size, **kwargs)
        return value if tile_size is None else 1.01 * value

    monkeypatch.setattr(parity, f"{name}_loss", wrong_in_tiles)
    with pytest.raises(CheckFailed, match=f"{name} losses differ by 1.0e-02"):
        parity.compare_losses(32, "cpu")


def test_what_exceeds_its_bound_or_is_nan_fails():
    assert within({"a": [1.0, 1.0]}) == Measured(differences={"a": [1.0, 1.0]})
    for difference in (1.1, float("nan")):
        with pytest.raises(CheckFailed, match="b differ by"):
            within({"a": [0.0, 1.0], "b": [difference, 1.0]})


def raise_error(error):
    raise error


@pytest.mark.parametrize(
    "error,failure",
    [
        (torch.OutOfMemoryError("CUDA out of memory.\nTried"), "OutOfMemoryError: CUDA out of memory. Tried"),
        (NotImplementedError("no kernel"), "NotImplementedError: no kernel"),
        (CheckFailed("a differ"), "CheckFailed: a differ"),
        (RuntimeError("x" * 1000), f"RuntimeError: {'x' * 186}"),
    ],
)
def test_a_failure_of_any_kind_is_a_row(error, failure):
    row = guarded("name", "model", partial(raise_error, error))
    assert row == Row(check="name", shapes="model", failure=failure)


def test_the_rest_is_done_after_a_failure(arguments, monkeypatch, capsys):
    checks = [
        Check(name="first", shapes="a", measure=partial(raise_error, torch.OutOfMemoryError("no memory"))),
        Check(name="second", shapes="b", measure=partial(Measured, per_second=12.0, unit="texts")),
        Check(name="third", shapes="c", measure=Measured, launcher="torchrun"),
    ]
    monkeypatch.setattr(running, "list_checks", lambda *_: checks)
    given = arguments()
    with pytest.raises(SystemExit) as end:
        running.main(given)
    assert end.value.code == 1
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "[1/3] first: failed: OutOfMemoryError: no memory"
    assert printed[1] == "[2/3] second: passed, 12 texts"
    assert printed[2] == "[3/3] third: failed: it takes 2 processes: set own_process"
    assert printed[3].startswith("1 of 3 checks passed. Next: read ")
    assert [row.failure is None for row in read_rows(Path(given.output_dir))] == [False, True, False]
    assert len(json.loads(Path(given.output_dir, "gpu_check.json").read_text())["rows"]) == 3


def test_chosen_checks_are_done_on_a_cpu(arguments, capsys):
    given = arguments(checks=["altclip-stage2-bf16", "altclip-parity-sdpa", "parity-*"])
    running.main(given)
    rows = read_rows(Path(given.output_dir))
    assert [row.check for row in rows] == [
        "altclip-stage2-bf16",
        "altclip-parity-sdpa",
        "parity-losses-tiled",
    ]
    assert capsys.readouterr().out.splitlines()[-1].startswith("3 of 3 checks passed.")
    table = Path(given.output_dir, "gpu_check.md").read_text("utf-8").splitlines()
    assert table[0].startswith("**1 x cpu")
    assert table[-1].startswith("What to do with it: paste this table into docs/scaling.md")


def test_without_a_gpu_it_says_so(arguments, monkeypatch, capsys):
    monkeypatch.setattr(running, "find_device", lambda: None)
    for device in (None, "cuda"):
        with pytest.raises(SystemExit) as end:
            running.main(arguments(device=device))
        assert end.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("gpu_check: error: there is no GPU that torch can compute on: ")


@pytest.mark.parametrize(
    "given,message",
    [
        ({"device": "tpu"}, "device is 'tpu': choose from cuda, mps, cpu"),
        ({"shapes": "huge"}, "shapes is 'huge': choose from full, tiny"),
        ({"steps": 0}, "steps is 0: give a number from 1"),
        ({"time_limit": -1}, "time_limit is -1: give a number from 1"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, given, message):
    with pytest.raises(InputError, match=message):
        arguments(**given)


def test_unknown_checks_are_refused(arguments):
    with pytest.raises(InputError, match="checks has 'stage9-.', which is none of them"):
        list_checks(arguments(checks=["altclip-*", "stage9-*"]), GPU, "cpu")


@pytest.mark.parametrize("n_devices", [1, 2])
def test_what_is_checked_on_gpus(arguments, n_devices):
    checks = list_checks(arguments(shapes="full"), replace(GPU, n_devices=n_devices), "cuda")
    names = [check.name for check in checks]
    assert len(set(names)) == len(names)
    for shape in ("altclip", "siglip2_mexma"):
        for name in (
            "stage1-fp16",
            "stage1-bf16-compiled",
            "stage2-cached-bf16",
            "parity-bf16",
            "parity-cpu",
        ):
            assert f"{shape}-{name}" in names
    launchers = {check.launcher for check in checks}
    assert launchers == ({"python"} if n_devices == 1 else {"python", "torchrun", "fsdp2"})


def test_the_dry_run_lists_them(arguments, capsys):
    running.main(arguments(dry_run=True, checks=["altclip-parity-*"]))
    assert capsys.readouterr().out.split() == [
        f"altclip-parity-{name}" for name in ("sdpa", "compiled", "bf16")
    ]


WRITE_ROW = """
import json, sys
from pathlib import Path
folder = Path(sys.argv[sys.argv.index("--output_dir") + 1])
rows = [{"check": "one", "shapes": "a", "per_second": 3.0, "unit": "pairs"}]
(folder / "gpu_check.json").write_text(json.dumps({"rows": rows}))
"""


@pytest.mark.parametrize(
    "code,failure",
    [
        (WRITE_ROW, None),
        ("import sys; sys.exit(3)", "its process ended with status 3, see .*log.txt"),
        ("import os; os.abort()", "its process ended with status -6, see .*log.txt"),
        ("import time; time.sleep(600)", "it has not ended after 1 s"),
    ],
    ids=["row", "status", "abort", "hang"],
)
def test_a_process_ends_itself_alone(arguments, monkeypatch, code, failure):
    checks = [Check(name="one", shapes="a", measure=Measured)]
    monkeypatch.setattr(running, "list_checks", lambda *_: checks)
    monkeypatch.setattr(running, "_launcher", lambda check: [sys.executable, "-S", "-c", code])
    given = arguments(own_process=True, time_limit=1 if "sleep" in code else 60)
    if failure is None:
        running.main(given)
    else:
        with pytest.raises(SystemExit, match="1"):
            running.main(given)
    (row,) = read_rows(Path(given.output_dir))
    if failure is None:
        assert row == Row(check="one", shapes="a", per_second=3.0, unit="pairs")
    else:
        assert re.match(failure, row.failure)
        assert Path(given.output_dir, "checks/one/log.txt").exists()


@pytest.mark.parametrize(
    "name,teraflops",
    [
        ("NVIDIA H200", 989),
        ("NVIDIA H200 NVL", 836),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA L40S", 362),
        ("NVIDIA L4", 121),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("Tesla T4", None),
    ],
)
def test_peaks_are_known_by_name(name, teraflops):
    assert find_peak(name) == (None if teraflops is None else teraflops * 1e12)


def test_the_table_shows_what_is_known(tmp_path):
    rows = [
        Row(check="a", shapes="x", per_second=1234.5, unit="texts", peak_bytes=2 * 10**9, utilisation=0.4321),
        Row(check="b", shapes="y", differences={"embeddings": [1.234e-6, 1e-4]}),
        Row(check="c", shapes="z", failure="no | memory"),
    ]
    table = format_rows(GPU, rows).splitlines()
    assert (
        table[0]
        == "**2 x NVIDIA H200** with 150.75 GB; Linux x86_64; torch 2.13.0; 16-bit peak: 0.001 TFLOP/s"
    )
    lines = [" ".join(line.split()) for line in table[4:7]]
    assert lines == [
        "| a | x | passed | 1,234 texts | 2.00 GB | 43.2 % | – |",
        "| b | y | passed | – | – | – | embeddings 1e-06 (1e-04) |",
        "| c | z | failed: no \\| memory | – | – | – | – |",
    ]
    write_rows(tmp_path, GPU, rows)
    assert read_rows(tmp_path) == rows


@pytest.mark.slow
def test_full_shapes_are_those_of_the_models():
    altclip, dual_encoder = read_shapes("full")
    recorded = read_config("BAAI/AltCLIP-m9", "model")

    def config_of(shape):
        kwargs = dict(shape.config)
        return AutoConfig.for_model(kwargs.pop("model_type"), **kwargs)

    assert count_parameters(config_of(altclip)) == count_parameters(recorded)
    n_all, n_text = count_parameters(config_of(dual_encoder))
    assert n_text == 559_890_432 - 1024 * 1025  # XLM-R large without its pooler
    # so400m/14 has 428,225,600 with the 729 positions of 384 pixels, and 256 at 224.
    projections = 1152 * (1152 + 1024)
    assert n_all - n_text - projections - 1 == 428_225_600 - (729 - 256) * 1152


def test_made_up_texts_are_ragged(altclip):
    lengths = make_texts(altclip, 8)["attention_mask"].sum(1)
    assert sorted(lengths.tolist()) == [4, 5, 6, 7, 9, 10, 11, 12]
    assert lengths.tolist() != sorted(lengths.tolist())


def test_the_hardware_has_its_versions():
    hardware = describe_hardware("cpu")
    assert hardware.versions["torch"] == torch.__version__
    assert hardware.peak is None


@pytest.mark.slow
def test_checks_in_processes_of_their_own(tmp_path):
    """Also the two that torchrun starts, here by gloo, whose step equals that of one process."""
    command = [sys.executable, "-m", "training.gpu_check", "--device", "cpu", "--shapes", "tiny"]
    command += ["--steps", "2", "--output_dir", tmp_path]
    command += ["--checks", "ddp-parity", "altclip-stage1-bf16", "altclip-stage2-cached-bf16-ddp"]
    process = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert process.returncode == 0, process.stdout
    rows = read_rows(tmp_path)
    assert [row.failure for row in rows] == [None] * 3
    ((difference, _),) = rows[1].differences.values()
    assert 0 < difference < 1e-4
    assert rows[2].per_second > 0


@pytest.mark.slow
def test_all_checks_of_one_process_but_compiled_code(arguments):
    chosen = ["*-stage1-float32", "*-stage1-bf16", "*-checkpointing", "*-stage2-*bf16", "*-gradient-cache"]
    given = arguments(checks=[*chosen, "*-parity-sdpa", "*-parity-bf16"], steps=2)
    running.main(given)
    rows = read_rows(Path(given.output_dir))
    assert [row.failure for row in rows] == [None] * 16
