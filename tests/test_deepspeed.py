"""DeepSpeed's configurations work on two CPU processes.

They run in an environment of their own, since DeepSpeed is no dependency.
"""

import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AltCLIPModel as NativeAltCLIPModel

from modeling_altclip import AltCLIPModel
from modeling_altclip.checksums_altclip import write_checksums

from .conftest import ROOT
from .environments import build_environment, extra, run_in

pytestmark = pytest.mark.slow
CONFIGURATIONS = ROOT / "training/recipes/accelerate"
# Adam would enlarge rounding errors, which are not the question.
SGD = ["--bf16", "false", "--optim", "sgd", "--learning_rate", "0.5", "--warmup_steps", "0"]


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    folder = tmp_path_factory.mktemp("deepspeed") / "venv"
    return build_environment(folder, *extra("deepspeed"), "deepspeed==0.19.6", DS_BUILD_OPS="0")


@pytest.fixture
def train(python, run_python, miniature, start_flags, tmp_path):
    """Return a function that trains four steps of a stage's recipe, sixteen examples each.

    It trains in one plain process, or in two under a configuration of ZeRO.
    """

    def train(stage, zero, output_dir, *flags):
        processes = 2 if zero else 1
        command = [ROOT / f"training/run_{stage}.py", ROOT / f"training/recipes/miniature/{stage}.yaml"]
        command += [*start_flags[stage], "--dataset", miniature / "dataset", "--output_dir", output_dir]
        command += ["--max_steps", "4", "--per_device_train_batch_size", str(16 // processes)]
        command += ["--logging_steps", "1", *flags]
        if zero is None:
            return run_python("python", *command, OMP_NUM_THREADS="1")

        launcher = ["-m", "accelerate.commands.launch", "--config_file", CONFIGURATIONS / f"{zero}.yaml"]
        # Port 0 takes a free one, since other trainings may run at the same time.
        launcher += ["--num_processes", "2", "--main_process_port", "0"]
        launcher += [ROOT / "tests/deepspeed_on_cpu.py"]
        return run_in(python, *launcher, *command, OMP_NUM_THREADS="1", DS_ACCELERATOR="cpu")

    return train


def hotter(folder):
    """Give a saved model a temperature beyond its bound, so that the first step has to bring it back."""
    model = AltCLIPModel.from_pretrained(folder)
    model.logit_scale.data.fill_(5.5)
    model.save_pretrained(folder)


def count_moved(weights, folder):
    """Count the weights that are no longer those of a saved model."""
    start = load_file(folder / "model.safetensors")
    return sum(not torch.equal(value, start[name]) for name, value in weights.items())


def history(folder):
    """Return what was logged at each step."""
    rows = json.loads((folder / "trainer_state.json").read_text("utf-8"))["log_history"]
    return [row for row in rows if "loss" in row]


TILES = ["--tile_size", "5"]
VALIDATION = ["--validation_split", "validation", "--eval_strategy", "steps"]


@pytest.mark.parametrize(
    "stage,zero,shared,switches",
    [
        ("stage1", "zero2", ["--gradient_accumulation_steps", "2"], []),
        ("stage1", "zero3", [], []),
        ("stage2", "zero2", [], [*TILES, *VALIDATION, "--eval_steps", "2"]),
    ],
    ids=[
        "stage1 under ZeRO-2, accumulated",
        "stage1 under ZeRO-3",
        "stage2 under ZeRO-2, in tiles, with validation",
    ],
)
def test_zero_trains_like_one_process_and_saves_an_ordinary_model(
    train, tmp_path, stage, zero, shared, switches
):
    """Train with plain SGD in float32, clipped as the recipe says.

    Rounding in another order changes losses by less than 1e-5 of their value; weights keep the tolerance of
    the other tests with two processes.
    """
    if stage == "stage2":
        hotter(tmp_path / "start")
    folders = {None: tmp_path / "one", zero: tmp_path / "two"}
    for configuration, folder in folders.items():
        flags = [*SGD, *shared]
        if configuration is not None:
            flags += switches
        process = train(stage, configuration, folder, *flags)
        assert process.returncode == 0, process.stderr[-4000:]
        # DeepSpeed says of its own accord that it is at work.
        assert ("ZeRO" in process.stdout + process.stderr) == (configuration is not None)

    one, two = (load_file(folder / "model.safetensors") for folder in folders.values())
    assert count_moved(one, tmp_path / "start") > 20
    assert one.keys() == two.keys()
    for row, expected in zip(history(tmp_path / "two"), history(tmp_path / "one"), strict=True):
        assert row["loss"] == pytest.approx(expected["loss"], rel=1e-5)
        assert row["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-4)
    assert max(row["grad_norm"] for row in history(tmp_path / "one")) > 1  # so that something was clipped
    for name, value in one.items():
        assert two[name].dtype == torch.float32
        torch.testing.assert_close(
            two[name], value, atol=1e-4, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )
    if stage == "stage2":
        assert two["logit_scale"] < math.log(100) + 0.5

    # Both packages read what was saved.
    NativeAltCLIPModel.from_pretrained(tmp_path / "two")
    AltCLIPModel.from_pretrained(tmp_path / "two")


@pytest.mark.parametrize("stage,zero", [("stage1", "zero3"), ("stage2", "zero2")])
def test_a_run_under_zero_resumes_to_the_same_bytes(train, tmp_path, stage, zero):
    """Resume with the recipe's own AdamW and bf16.

    bf16 is autocast: weights stay in float32, and the first loss is that of one process with bf16.
    """
    losses = {}
    for bf16 in ("true", "false"):
        process = train(stage, None, tmp_path / bf16, "--bf16", bf16, "--max_steps", "1")
        assert process.returncode == 0, process.stderr[-4000:]
        losses[bf16] = history(tmp_path / bf16)[0]["loss"]

    first, resumed = tmp_path / "first", tmp_path / "resumed"
    process = train(stage, zero, first, "--bf16", "true", "--save_strategy", "steps", "--save_steps", "2")
    assert process.returncode == 0, process.stderr[-4000:]
    resumed.mkdir()
    shutil.move(first / "checkpoint-2", resumed)
    state = resumed / "checkpoint-2/trainer_state.json"
    marked = state.read_text("utf-8").replace(
        '"step": 1', '"step": -1'
    )  # a run from the start has no such step
    state.write_text(marked)
    write_checksums(resumed / "checkpoint-2")

    # Its loss is much closer to the one with bf16 than that is to the one without.
    effect_of_bf16 = abs(losses["false"] - losses["true"])
    assert abs(history(first)[0]["loss"] - losses["true"]) < effect_of_bf16 / 4

    process = train(stage, zero, resumed, "--bf16", "true", "--resume")
    assert process.returncode == 0, process.stderr[-4000:]
    assert [row["step"] for row in history(resumed)] == [-1, 2, 3, 4]

    one, two = (load_file(folder / "model.safetensors") for folder in (first, resumed))
    start = load_file(tmp_path / "start/model.safetensors")
    for name, value in one.items():
        assert value.dtype == torch.float32, name
        assert torch.equal(two[name], value), name
        if name.startswith("vision_model"):
            assert torch.equal(value, start[name]), name
    assert count_moved(one, tmp_path / "start") > 20


@pytest.mark.parametrize(
    "stage,zero,flags,message",
    [
        (
            "stage2",
            "zero2",
            ["--gradient_cache_chunk", "3"],
            "gradient_cache_chunk is 3, and DeepSpeed takes",
        ),
        ("stage1", "zero2", ["--bf16", "false", "--fp16", "true"], "mixed precision is fp16, and DeepSpeed"),
        ("stage1", "zero3", VALIDATION, "under ZeRO-3 no process has the weights"),
        ("stage2", "zero3", [], "zero_stage is 3, under which logit_scale is empty"),
    ],
)
def test_what_deepspeed_cannot_do_is_refused(train, tmp_path, stage, zero, flags, message):
    process = train(stage, zero, tmp_path / "out", *flags)
    assert process.returncode != 0
    assert message in process.stderr
