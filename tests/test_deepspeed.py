"""DeepSpeed's configurations, on two CPU processes in an environment of their own: DeepSpeed is no dependency."""

import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AltCLIPModel as NativeAltCLIPModel

from modeling_altclip import AltCLIPModel

from .conftest import ROOT
from .environments import build_environment, extra, run_in

pytestmark = pytest.mark.slow
CONFIGURATIONS = ROOT / "training/recipes/accelerate"
SGD = ["--bf16", "false", "--optim", "sgd", "--learning_rate", "0.5", "--warmup_steps", "0"]


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    folder = tmp_path_factory.mktemp("deepspeed") / "venv"
    return build_environment(folder, *extra("deepspeed"), "deepspeed==0.19.6", DS_BUILD_OPS="0")


@pytest.fixture
def train(python, run, miniature, beginnings, tmp_path):
    """Four steps of a stage's recipe, sixteen examples each, in one plain process or in two under a configuration of ZeRO's."""

    def train(stage, zero, output_dir, *flags):
        recipe, processes = ROOT / f"training/recipes/miniature/{stage}.yaml", 2 if zero else 1
        words = [
            ROOT / f"training/run_{stage}.py",
            recipe,
            *beginnings[stage],
            "--dataset",
            miniature / "dataset",
            "--max_steps",
            "4",
        ]
        words += [
            "--output_dir",
            output_dir,
            "--per_device_train_batch_size",
            str(16 // processes),
            "--logging_steps",
            "1",
            *flags,
        ]
        if zero is None:
            process = run("python", *words, OMP_NUM_THREADS="1")
        else:
            launcher = [
                "-m",
                "accelerate.commands.launch",
                "--config_file",
                CONFIGURATIONS / f"{zero}.yaml",
                "--num_processes",
                "2",
            ]
            launcher += ["--main_process_port", "0", ROOT / "tests/deepspeed_on_cpu.py"]
            process = run_in(python, *launcher, *words, OMP_NUM_THREADS="1", DS_ACCELERATOR="cpu")
        return process

    return train


def hotter(folder):
    """Give a saved model a temperature beyond its bound, so that the first step has to bring it back."""
    model = AltCLIPModel.from_pretrained(folder)
    model.logit_scale.data.fill_(5.5)
    model.save_pretrained(folder)


def history(folder):
    """What was logged at each step."""
    rows = json.loads((folder / "trainer_state.json").read_text("utf-8"))["log_history"]
    return [row for row in rows if "loss" in row]


@pytest.mark.parametrize(
    "stage,zero,shared,switches",
    [
        ("stage1", "zero2", ["--gradient_accumulation_steps", "2"], []),
        ("stage1", "zero3", [], []),
        (
            "stage2",
            "zero2",
            [],
            [
                "--tile_size",
                "5",
                "--validation_split",
                "validation",
                "--eval_strategy",
                "steps",
                "--eval_steps",
                "2",
            ],
        ),
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
    """Plain SGD in float32, clipped as the recipe says. What rounding in another order leaves is below 1e-5 of a loss; weights
    keep the tolerance of the other tests with two processes.
    """
    if stage == "stage2":
        hotter(tmp_path / "start")
    folders = {None: tmp_path / "one", zero: tmp_path / "two"}
    for configuration, folder in folders.items():
        process = train(stage, configuration, folder, *SGD, *shared, *(switches if configuration else []))
        assert process.returncode == 0, process.stderr[-4000:]
        assert ("ZeRO" in process.stdout + process.stderr) == (
            configuration is not None
        )  # DeepSpeed says so of its own accord
    one, two = (load_file(folder / "model.safetensors") for folder in folders.values())
    start = load_file(tmp_path / "start/model.safetensors")
    assert sum(not torch.equal(value, start[name]) for name, value in one.items()) > 20
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
    NativeAltCLIPModel.from_pretrained(tmp_path / "two")
    AltCLIPModel.from_pretrained(tmp_path / "two")


@pytest.mark.parametrize("stage,zero", [("stage1", "zero3"), ("stage2", "zero2")])
def test_a_run_under_zero_resumes_to_the_same_bytes(train, tmp_path, stage, zero):
    """With the recipe's own AdamW, and bf16, which is autocast: weights stay in float32, and its first loss is that of one process."""
    losses = []
    for bf16 in ("true", "false"):
        process = train(stage, None, tmp_path / bf16, "--bf16", bf16, "--max_steps", "1")
        assert process.returncode == 0, process.stderr[-4000:]
        losses.append(history(tmp_path / bf16)[0]["loss"])
    first, resumed = tmp_path / "first", tmp_path / "resumed"
    process = train(stage, zero, first, "--bf16", "true", "--save_strategy", "steps", "--save_steps", "2")
    assert process.returncode == 0, process.stderr[-4000:]
    resumed.mkdir()
    shutil.move(first / "checkpoint-2", resumed)
    state = resumed / "checkpoint-2/trainer_state.json"
    state.write_text(
        state.read_text("utf-8").replace('"step": 1', '"step": -1')
    )  # a run from the start would not have it
    assert abs(history(first)[0]["loss"] - losses[0]) < abs(losses[1] - losses[0]) / 4
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
    assert sum(not torch.equal(value, start[name]) for name, value in one.items()) > 20


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
        (
            "stage1",
            "zero3",
            ["--validation_split", "validation", "--eval_strategy", "steps"],
            "under ZeRO-3 no process has the weights",
        ),
        ("stage2", "zero3", [], "zero_stage is 3, under which logit_scale is empty"),
    ],
)
def test_what_deepspeed_cannot_do_is_refused(train, tmp_path, stage, zero, flags, message):
    process = train(stage, zero, tmp_path / "out", *flags)
    assert process.returncode != 0
    assert message in process.stderr
