"""The whole road on a very small miniature, through the commands that a user types."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from training.session import last_whole_checkpoint

from .conftest import ROOT
from .processes import run_script

WRITES = 7  # of one checkpoint, at least
SMALL = {
    "stage0": ["--max_steps", "6", "--per_device_train_batch_size", "16"],
    "stage1": ["--max_steps", "6", "--per_device_train_batch_size", "32", "--bf16", "true"],
    "stage2": ["--max_steps", "6", "--per_device_train_batch_size", "16"],
}


def train(run_python, stage, output_dir, *flags):
    script, recipe = ROOT / f"training/run_{stage}.py", ROOT / f"training/recipes/miniature/{stage}.yaml"
    return run_python(
        "python", script, recipe, "--output_dir", output_dir, "--logging_steps", "2", *SMALL[stage], *flags
    )


@pytest.fixture(scope="module")
def stages(miniature, run_python):
    """Folders of the three stages, each trained for six steps, with what each script printed last."""
    data = ["--dataset", miniature / "dataset"]
    said = {}
    for stage, output_dir, flags in [
        ("stage0", "teacher", ["--model_name_or_path", miniature / "clip"]),
        (
            "stage1",
            "stage1",
            [
                "--teacher_name_or_path",
                miniature / "teacher",
                "--text_encoder_name_or_path",
                miniature / "text_encoder",
            ],
        ),
        ("stage2", "stage2", ["--model_name_or_path", miniature / "stage1"]),
    ]:
        process = train(
            run_python,
            stage,
            miniature / output_dir,
            *data,
            *flags,
            "--save_strategy",
            "steps",
            "--save_steps",
            "3",
        )
        assert process.returncode == 0, process.stderr
        said[stage] = process.stdout.strip().splitlines()[-1]
    return miniature, said


@pytest.fixture(scope="module")
def finished(stages, run_python):
    folder, _ = stages
    models = [
        "--models",
        *(folder / name for name in ("teacher", "stage1", "stage2")),
        "--english_only",
        folder / "teacher",
    ]
    shared = [
        *models,
        "--dataset",
        folder / "dataset",
        "--languages",
        "en",
        "zh",
        "--output_dir",
        folder / "results",
    ]
    names = ["--class_names", folder / "dataset/class_names.json"]
    recipes = ROOT / "benchmarks/recipes"
    retrieval = run_python(
        "python", ROOT / "benchmarks/run_retrieval.py", recipes / "miniature_retrieval.yaml", *shared
    )
    zero_shot = run_python(
        "python", ROOT / "benchmarks/run_zero_shot.py", recipes / "miniature_zero_shot.yaml", *shared, *names
    )
    card = run_python(
        *[
            "python",
            "-m",
            "model_cards",
            ROOT / "model_cards/recipes/miniature.yaml",
            "--results",
            folder / "results",
        ],
        *["--stages", *(folder / name for name in ("teacher", "stage1", "stage2"))],
        *["--dataset", folder / "dataset", "--output_dir", folder / "altclip"],
    )
    for process in (retrieval, zero_shot, card):
        assert process.returncode == 0, process.stderr
    return folder, retrieval.stdout, zero_shot.stdout, card.stdout


def test_every_stage_says_what_it_saved_and_what_comes_next(stages):
    _, said = stages
    launch = r"accelerate launch --quiet training/run_"
    assert re.fullmatch(
        rf"Saved the English teacher to .*teacher\. Next: {launch}stage1\.py .*", said["stage0"]
    )
    assert re.fullmatch(
        rf"Saved the multilingual model to .*stage1\. Next: {launch}stage2\.py .*", said["stage1"]
    )
    assert re.fullmatch(
        r"Saved the model to .*stage2\. Next: python benchmarks/run_retrieval\.py .*", said["stage2"]
    )


def test_losses_are_kept(stages):
    folder, _ = stages
    for stage in ("teacher", "stage1", "stage2"):
        history = json.loads((folder / stage / "trainer_state.json").read_text())["log_history"]
        assert [entry["step"] for entry in history if "loss" in entry] == [2, 4, 6]


def test_stage2_leaves_the_image_tower_byte_for_byte(stages):
    folder, _ = stages
    before, after = (
        load_file(folder / "stage1/model.safetensors"),
        load_file(folder / "stage2/model.safetensors"),
    )
    moved = {
        name for name, value in after.items() if value.numpy().tobytes() != before[name].numpy().tobytes()
    }
    assert moved
    assert before.keys() == after.keys()
    assert not [name for name in moved if name.startswith(("vision_model.", "visual_projection."))]


def beginning(stage, folder):
    """The flags that say what a stage begins with."""
    return {
        "stage0": ["--model_name_or_path", folder / "clip"],
        "stage1": [
            "--teacher_name_or_path",
            folder / "teacher",
            "--text_encoder_name_or_path",
            folder / "text_encoder",
        ],
        "stage2": ["--model_name_or_path", folder / "stage1"],
    }[stage]


def train_with_kills(command, output_dir, n_kills, chance):
    """Run `script ...` to its end, but first kill it `n_kills` times, each time in the midst of a write,
    anywhere from the beginning of one checkpoint to the end of the next, and go on from the last whole one.

    Those that are killed are forked, and the last is a process of its own: it ends in the same bytes with
    another hash seed.
    """
    environment = {"OMP_NUM_THREADS": "2"} | os.environ | {"PYTHONPATH": str(ROOT)}
    for _ in range(n_kills):
        kill_at = chance.randint(1, 2 * WRITES)
        words = [ROOT / "tests/killed_at.py", kill_at, *command, *resume_if_begun(output_dir)]
        process = run_script([*map(str, words)], environment)
        assert process.returncode == -signal.SIGKILL, process.stderr
    words = [sys.executable, *command, *resume_if_begun(output_dir)]
    process = subprocess.run([*map(str, words)], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr


def resume_if_begun(output_dir):
    return ["--resume"] if last_whole_checkpoint(output_dir) else []


def resumable(stage, folder, output_dir, *flags):
    script, recipe = ROOT / f"training/run_{stage}.py", ROOT / f"training/recipes/miniature/{stage}.yaml"
    saving = [
        "--save_strategy",
        "steps",
        "--save_steps",
        "1",
        "--dataset",
        folder / "dataset",
        "--output_dir",
        output_dir,
    ]
    return [script, recipe, *beginning(stage, folder), "--logging_steps", "2", *SMALL[stage], *saving, *flags]


@pytest.mark.parametrize(
    "stage,folder_name", [("stage0", "teacher"), ("stage1", "stage1"), ("stage2", "stage2")]
)
def test_killed_and_resumed_equals_uninterrupted(stages, tmp_path, stage, folder_name):
    folder, _ = stages
    output_dir = tmp_path / "resumed"
    train_with_kills(resumable(stage, folder, output_dir), output_dir, 1, random.Random(stage))
    assert (output_dir / "model.safetensors").read_bytes() == (
        folder / folder_name / "model.safetensors"
    ).read_bytes()
    history = json.loads((output_dir / "trainer_state.json").read_text())["log_history"]
    assert history[-1]["step"] == 6


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["stage0", "stage1", "stage2"])
def test_killed_seven_times_equals_uninterrupted(stages, tmp_path, stage):
    folder, _ = stages
    steps = ["--max_steps", "60"]
    train_with_kills(resumable(stage, folder, tmp_path / "whole", *steps), tmp_path / "whole", 0, None)
    train_with_kills(
        resumable(stage, folder, tmp_path / "killed", *steps), tmp_path / "killed", 7, random.Random(stage)
    )
    assert (tmp_path / "killed/model.safetensors").read_bytes() == (
        tmp_path / "whole/model.safetensors"
    ).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    "strategy", [["--temperature", "3"], ["--train_sampling_strategy", "group_by_length"]]
)
def test_two_processes_resume_within_an_epoch_of_drawn_languages(stages, run_python, tmp_path, strategy):
    """accelerate does not tell the sampler of a resumed run its epoch."""
    folder, _ = stages
    script = [
        ROOT / "training/run_stage1.py",
        ROOT / "training/recipes/miniature/stage1.yaml",
        *beginning("stage1", folder),
    ]
    flags = [
        "--dataset",
        folder / "dataset",
        "--languages",
        "en",
        "zh",
        *strategy,
        "--per_device_train_batch_size",
        "64",
    ]
    flags += ["--max_steps", "16", "--save_strategy", "steps", "--save_steps", "12"]  # ten steps an epoch
    weights = []
    for more in ([], ["--resume"]):
        process = run_python(
            "python",
            *script,
            *flags,
            "--output_dir",
            tmp_path / "out",
            *more,
            processes=2,
            OMP_NUM_THREADS="1",
        )
        assert process.returncode == 0, process.stderr[-3000:]
        weights.append((tmp_path / "out/model.safetensors").read_bytes())
        shutil.rmtree(tmp_path / "out/checkpoint-16", ignore_errors=True)
    assert weights[0] == weights[1]


def test_half_a_checkpoint_is_passed_over(stages, tmp_path):
    """As a kill leaves it at any point of the writing:

    No state, half of it, or no random numbers of the second process.
    """
    folder, _ = stages
    for step in (2, 3, 10):
        shutil.copytree(folder / "stage2/checkpoint-3", tmp_path / f"checkpoint-{step}")
    assert last_whole_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")
    state = tmp_path / "checkpoint-10/trainer_state.json"
    state.write_text(state.read_text()[:50])
    (tmp_path / "checkpoint-3/trainer_state.json").unlink()
    assert last_whole_checkpoint(tmp_path) == str(tmp_path / "checkpoint-2")
    assert last_whole_checkpoint(tmp_path, n_processes=2) is None
    assert last_whole_checkpoint(tmp_path / "nowhere") is None


def test_results_are_files_and_a_table(finished):
    folder, retrieval, zero_shot, _ = finished
    result = json.loads((folder / "results/stage2/miniature-pairs-unseen-style.zh.json").read_text())
    assert result["metrics"]["n"] == 1000
    assert 0 <= result["metrics"]["mean_recall"] <= 1
    assert len(result["weights"]) == 64
    assert not (folder / "results/teacher/miniature-pairs.zh.json").exists()
    assert "| stage2  | miniature-pairs-unseen-style | zh " in retrieval
    assert "| top-5 " in zero_shot
    low, high = result["intervals"]["mean_recall"]
    assert low < result["metrics"]["mean_recall"] < high
    assert len(result["data"]) == 32
    assert len(list((folder / "results").rglob("*.json"))) == 2 * 2 * (1 + 2 + 2)


def test_card_carries_exactly_the_results(finished):
    from huggingface_hub import ModelCard

    folder, _, _, printed = finished
    card = ModelCard.load(folder / "altclip/README.md")
    result = json.loads((folder / "results/stage2/miniature-concepts.zh.json").read_text())
    (entry,) = [
        entry
        for entry in card.data.eval_results
        if (entry.dataset_name, entry.dataset_config) == ("miniature-concepts", "zh")
    ]
    assert entry.metric_value == pytest.approx(result["metrics"]["accuracy@1"], abs=1e-4)
    assert card.data.language == ["en", "zh"]
    assert card.data.pipeline_tag == "zero-shot-image-classification"
    shown = f"{100 * result['metrics']['accuracy@1']:.1f}"
    assert re.search(rf"\| zh +\| +\| [\d.]+ +\| {re.escape(shown)} +\|", card.text)
    assert f"| {shown} " in printed
    assert result["weights"][:16] in card.text
    for picture in ("loss.png", "recall.png", "example.png"):
        assert (folder / "altclip" / picture).stat().st_size > 500


PLAIN = """
import json, sys, torch
from datasets import load_dataset
from transformers import AutoModel, AutoProcessor, pipeline
folder = sys.argv[1]
model, processor = AutoModel.from_pretrained(folder + "/altclip"), AutoProcessor.from_pretrained(folder + "/altclip")
rows = load_dataset(folder + "/dataset", split="validation").select(range(5))
inputs = processor(text=["dog face and key", "狗脸", "", "cara de perro"], images=list(rows["image"]), return_tensors="pt", padding=True)
with torch.no_grad():
    logits = model.eval()(**inputs).logits_per_image
classify = pipeline("zero-shot-image-classification", model=folder + "/altclip")
scores = classify(rows[0]["image"], candidate_labels=["狗脸", "钥匙", "key"], hypothesis_template="{}")
said = {"ours": "modeling_altclip" in sys.modules, "class": type(model).__module__, "logits": logits.tolist()}
print(json.dumps(said | {"scores": {s["label"]: s["score"] for s in scores}}))
"""


def test_plain_transformers_loads_the_folder_and_gives_the_same_logits(finished, run_python, tmp_path):
    folder, *_ = finished
    script = tmp_path / "plain.py"
    script.write_text(PLAIN, encoding="utf-8")
    # Another folder asks for a new interpreter; that of `run_python` has imported our package.
    processes = {
        "plain": run_python("python", script, folder, cwd=tmp_path),
        "ours": run_python("python", script, folder),
    }
    seen = {}
    for name, process in processes.items():
        assert process.returncode == 0, process.stderr
        seen[name] = json.loads(process.stdout.strip().splitlines()[-1])
    assert not seen["plain"]["ours"]
    assert seen["ours"]["ours"]
    assert seen["plain"]["class"].startswith("transformers.")
    assert seen["ours"]["class"].startswith("modeling_altclip.")
    for plain, ours in zip(seen["plain"]["logits"], seen["ours"]["logits"]):
        assert plain == pytest.approx(ours, abs=1e-5)
    assert seen["plain"]["scores"] == pytest.approx(seen["ours"]["scores"], abs=1e-5)


@pytest.mark.parametrize(
    "flags,message",
    [
        (
            ["--teacher_name_or_path", "no/such/folder"],
            "teacher_name_or_path 'no/such/folder' does not exist: give a folder",
        ),
        (["--dataset", "outputs/no/such"], "dataset 'outputs/no/such' does not exist"),
        (["--languages", "en", "xx"], "no text in language xx: choose from en zh"),
        (["--resume"], "holds no whole checkpoint: set save_steps"),
    ],
)
def test_bad_input_ends_a_script_with_one_clear_line(stages, run_python, tmp_path, flags, message):
    folder, _ = stages
    good = ["--dataset", folder / "dataset", "--teacher_name_or_path", folder / "teacher"]
    process = train(
        run_python,
        "stage1",
        tmp_path / "out",
        *good,
        "--text_encoder_name_or_path",
        folder / "text_encoder",
        *flags,
    )
    assert process.returncode == 1
    assert "Traceback" not in process.stderr
    assert message in process.stderr.strip().splitlines()[-1]


def test_an_unknown_recipe_key_ends_a_script_with_one_clear_line(run_python, tmp_path):
    (tmp_path / "r.yaml").write_text("learning_rte: 1.0\n")
    process = run_python("python", ROOT / "training/run_stage2.py", tmp_path / "r.yaml")
    assert process.returncode == 1
    assert "Traceback" not in process.stderr
    assert (
        "unknown key 'learning_rte': did you mean 'learning_rate'?" in process.stderr.strip().splitlines()[-1]
    )


def test_the_documented_launcher_adds_nothing_to_the_one_line():
    """Without --quiet accelerate adds a traceback of its own."""
    launcher = [
        Path(sys.executable).parent / "accelerate",
        "launch",
        "--quiet",
        "--num_processes",
        "1",
        "--num_machines",
        "1",
    ]
    launcher += [
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
    ]  # left out, they are warned of before the script begins
    flags = [
        ROOT / "training/run_stage1.py",
        ROOT / "training/recipes/miniature/stage1.yaml",
        "--learnig_rate",
        "3",
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.run(
        [*launcher, *flags], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    errors = [line for line in process.stderr.splitlines() if "rror" in line or "Traceback" in line]
    assert process.returncode == 1
    assert errors == ["run_stage1.py: error: unknown flag --learnig_rate: did you mean --learning_rate?"]


def test_a_model_folder_without_weights_ends_a_benchmark_with_one_clear_line(stages, run_python, tmp_path):
    folder, _ = stages
    for name in ("config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((folder / "stage2" / name).read_bytes())
    flags = ["--models", tmp_path, "--tasks", "miniature-pairs", "--dataset", folder / "dataset"]
    process = run_python("python", ROOT / "benchmarks/run_retrieval.py", *flags)
    assert process.returncode == 1
    assert "Traceback" not in process.stderr
    assert "cannot be loaded" in process.stderr
    assert "model.safetensors" in process.stderr
