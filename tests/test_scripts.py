"""The whole road on a very small miniature, through the commands that a user types."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors.torch import load_file

from .conftest import ROOT
from .newest_checkpoint import newest_undamaged
from .processes import TIMEOUT, run_script

WRITES = 7  # of one checkpoint, at least
SMALL = {
    "stage0": ["--max_steps", "6", "--per_device_train_batch_size", "16"],
    "stage1": ["--max_steps", "6", "--per_device_train_batch_size", "32", "--bf16", "true"],
    "stage2": ["--max_steps", "6", "--per_device_train_batch_size", "16"],
}


# The name of the folder that each stage's model goes to.
FOLDERS = {"stage0": "teacher", "stage1": "stage1", "stage2": "stage2"}


def command_of(stage, miniature, output_dir, *flags):
    """Return a stage's command for six steps, with all that a stage before it has to give."""
    script = ROOT / f"training/run_{stage}.py"
    recipe = ROOT / f"training/recipes/miniature/{stage}.yaml"
    begin_with = {
        "stage0": ["--model_name_or_path", miniature / "clip"],
        "stage1": [
            "--teacher_name_or_path",
            miniature / "teacher",
            "--text_encoder_name_or_path",
            miniature / "text_encoder",
        ],
        "stage2": ["--model_name_or_path", miniature / "stage1"],
    }
    shared = ["--dataset", miniature / "dataset", "--output_dir", output_dir, "--logging_steps", "2"]
    return [script, recipe, *begin_with[stage], *shared, *SMALL[stage], *flags]


@pytest.fixture(scope="module")
def stages(miniature, run_python):
    """Train the three stages for six steps each; return their folder, and what each script printed last."""
    said = {}
    for stage, name in FOLDERS.items():
        saving = ["--save_strategy", "steps", "--save_steps", "3"]
        process = run_python("python", *command_of(stage, miniature, miniature / name, *saving))
        assert process.returncode == 0, process.stderr
        said[stage] = process.stdout.strip().splitlines()[-1]
    return miniature, said


@dataclass
class Finished:
    """A folder with models, results and a card, and what the scripts printed."""

    folder: Path
    retrieval: str
    zero_shot: str
    card: str


@pytest.fixture(scope="module")
def finished(stages, run_python):
    """Evaluate the three stages, and make a card of them."""
    folder, _ = stages
    models = [folder / name for name in FOLDERS.values()]
    data = ["--dataset", folder / "dataset"]

    def printed(*command):
        process = run_python("python", *command)
        assert process.returncode == 0, process.stderr
        return process.stdout

    benchmarks = ROOT / "benchmarks"
    flags = ["--models", *models, "--english_only", folder / "teacher", *data]
    flags += ["--languages", "en", "zh", "--output_dir", folder / "results"]
    names = ["--class_names", folder / "dataset/class_names.json"]
    retrieval = [benchmarks / "run_retrieval.py", ROOT / "training/recipes/miniature/retrieval.yaml", *flags]
    zero_shot = [benchmarks / "run_zero_shot.py", ROOT / "training/recipes/miniature/zero_shot.yaml", *flags]
    card = ["-m", "model_cards", ROOT / "training/recipes/miniature/card.yaml", "--stages", *models, *data]
    card += ["--results", folder / "results", "--output_dir", folder / "altclip"]
    return Finished(folder, printed(*retrieval), printed(*zero_shot, *names), printed(*card))


def test_every_stage_says_what_it_saved_and_what_comes_next(stages):
    _, said = stages
    launch = r"accelerate launch --quiet training/run_"
    for stage, message in {
        "stage0": rf"Saved the English teacher to .*teacher\. Next: {launch}stage1\.py .*",
        "stage1": rf"Saved the multilingual model to .*stage1\. Next: {launch}stage2\.py .*",
        "stage2": r"Saved the model to .*stage2\. Next: python benchmarks/run_retrieval\.py .*",
    }.items():
        assert re.fullmatch(message, said[stage])


def test_losses_are_kept(stages):
    folder, _ = stages
    for name in FOLDERS.values():
        history = json.loads((folder / name / "trainer_state.json").read_text())["log_history"]
        assert [entry["step"] for entry in history if "loss" in entry] == [2, 4, 6]


def test_stage2_leaves_the_image_tower_byte_for_byte(stages):
    folder, _ = stages
    before = load_file(folder / "stage1/model.safetensors")
    after = load_file(folder / "stage2/model.safetensors")
    assert before.keys() == after.keys()
    moved = [name for name in after if after[name].numpy().tobytes() != before[name].numpy().tobytes()]
    assert moved
    assert not [name for name in moved if name.startswith(("vision_model.", "visual_projection."))]


def train_with_kills(command, output_dir, n_kills, chance):
    """Run `script ...` to its end, but first kill it `n_kills` times, each time in the midst of a write,
    anywhere from the beginning of one checkpoint to the end of the next, and go on from the last whole one.

    Those that are killed are forked, and the last is a process of its own: it ends in the same bytes with
    another hash seed.
    """
    environment = {"OMP_NUM_THREADS": "2"} | os.environ | {"PYTHONPATH": str(ROOT)}
    for _ in range(n_kills):
        # A write of the first checkpoint or of the second.
        kill_at = chance.randint(1, 2 * WRITES)
        words = [ROOT / "tests/killed_at.py", kill_at, *command, *resume_if_begun(output_dir)]
        process = run_script([*map(str, words)], environment)
        # Killed, and not ended by an error before.
        assert process.returncode == -signal.SIGKILL, process.stderr

    words = [sys.executable, *command, *resume_if_begun(output_dir)]
    process = subprocess.run([*map(str, words)], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr


def resume_if_begun(output_dir):
    return ["--resume"] if newest_undamaged(output_dir) else []


SAVE_EVERY_STEP = ["--save_strategy", "steps", "--save_steps", "1"]


@pytest.mark.parametrize(
    "stage",
    [
        pytest.param("stage0", marks=pytest.mark.slow),
        pytest.param("stage1", marks=pytest.mark.slow),
        "stage2",
    ],
)
def test_killed_and_resumed_equals_uninterrupted(stages, tmp_path, stage):
    folder, _ = stages
    resumed = tmp_path / "resumed"
    command = command_of(stage, folder, resumed, *SAVE_EVERY_STEP)
    train_with_kills(command, resumed, 1, random.Random(stage))
    uninterrupted = folder / FOLDERS[stage] / "model.safetensors"
    assert (resumed / "model.safetensors").read_bytes() == uninterrupted.read_bytes()
    history = json.loads((resumed / "trainer_state.json").read_text())["log_history"]
    assert history[-1]["step"] == 6


@pytest.mark.slow
@pytest.mark.parametrize("stage", FOLDERS)
def test_killed_seven_times_equals_uninterrupted(stages, tmp_path, stage):
    folder, _ = stages
    flags = [*SAVE_EVERY_STEP, "--max_steps", "60"]
    whole = tmp_path / "whole"
    killed = tmp_path / "killed"
    train_with_kills(command_of(stage, folder, whole, *flags), whole, 0, None)
    train_with_kills(command_of(stage, folder, killed, *flags), killed, 7, random.Random(stage))
    assert (killed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    "strategy", [["--temperature", "3"], ["--train_sampling_strategy", "group_by_length"]]
)
def test_two_processes_resume_within_an_epoch_of_drawn_languages(stages, run_python, tmp_path, strategy):
    """Check the order in which a resumed run goes on: accelerate does not tell its sampler the epoch."""
    folder, _ = stages
    command = command_of("stage1", folder, tmp_path / "out", "--languages", "en", "zh", *strategy)
    command += ["--bf16", "false", "--per_device_train_batch_size", "64"]
    command += ["--max_steps", "16", "--save_strategy", "steps", "--save_steps", "12"]  # ten steps an epoch
    weights = []
    # The second run resumes from step 12, the second of the second epoch.
    for more in ([], ["--resume"]):
        process = run_python("python", *command, *more, processes=2, OMP_NUM_THREADS="1")
        assert process.returncode == 0, process.stderr[-3000:]
        weights.append((tmp_path / "out/model.safetensors").read_bytes())
        shutil.rmtree(tmp_path / "out/checkpoint-16", ignore_errors=True)
    assert weights[0] == weights[1]


def test_half_a_checkpoint_is_passed_over(stages, tmp_path):
    """Pass over what a kill leaves at any point of the writing.

    There is no state, half of it, or no random numbers of the second process.
    """
    folder, _ = stages
    for step in (2, 3, 10):
        shutil.copytree(folder / "stage2/checkpoint-3", tmp_path / f"checkpoint-{step}")
    assert newest_undamaged(tmp_path) == tmp_path / "checkpoint-10"

    state = tmp_path / "checkpoint-10/trainer_state.json"
    # Half a state, and no state.
    state.write_text(state.read_text()[:50])
    (tmp_path / "checkpoint-3/trainer_state.json").unlink()
    assert newest_undamaged(tmp_path) == tmp_path / "checkpoint-2"
    # The checkpoint has the random numbers of one process. As older versions saved it, without checksums, it
    # may be half of one of two processes.
    (tmp_path / "checkpoint-2/checksums.json").unlink()
    assert newest_undamaged(tmp_path, n_processes=2) is None
    assert newest_undamaged(tmp_path / "nowhere") is None


def test_results_are_files_and_a_table(finished):
    results = finished.folder / "results"
    result = json.loads((results / "stage2/miniature-pairs-unseen-style.zh.json").read_text())
    assert result["metrics"]["n"] == 1000
    assert 0 <= result["metrics"]["mean_recall"] <= 1
    low, high = result["intervals"]["mean_recall"]
    assert low < result["metrics"]["mean_recall"] < high
    assert len(result["weights"]) == 64
    assert len(result["data"]) == 32
    assert "| stage2  | miniature-pairs-unseen-style | zh " in finished.retrieval
    assert "| top-5 " in finished.zero_shot

    # Two tasks each of retrieval and zero-shot, for the teacher in English alone and two stages in both.
    assert len(list(results.rglob("*.json"))) == 2 * 2 * (1 + 2 + 2)
    assert not (results / "teacher/miniature-pairs.zh.json").exists()


def test_card_carries_exactly_the_results(finished):
    from huggingface_hub import ModelCard

    card = ModelCard.load(finished.folder / "altclip/README.md")
    result = json.loads((finished.folder / "results/stage2/miniature-concepts.zh.json").read_text())
    accuracy = result["metrics"]["accuracy@1"]
    key = ("miniature-concepts", "zh")
    of_key = [one for one in card.data.eval_results if (one.dataset_name, one.dataset_config) == key]
    assert [entry.metric_value for entry in of_key] == [pytest.approx(accuracy, abs=1e-4)]
    assert card.data.language == ["en", "zh"]
    assert card.data.pipeline_tag == "zero-shot-image-classification"

    shown = f"{100 * accuracy:.1f}"
    assert re.search(rf"\| zh +\| +\| [\d.]+ +\| {re.escape(shown)} +\|", card.text)
    assert f"| {shown} " in finished.card
    assert result["weights"][:16] in card.text
    for picture in ("loss.png", "recall.png", "example.png"):
        assert (finished.folder / "altclip" / picture).stat().st_size > 500


PLAIN = """
import json
import sys

import torch
from datasets import load_dataset
from transformers import AutoModel, AutoProcessor, pipeline

folder = sys.argv[1]
model = AutoModel.from_pretrained(folder + "/altclip")
processor = AutoProcessor.from_pretrained(folder + "/altclip")
rows = load_dataset(folder + "/dataset", split="validation").select(range(5))
texts = ["dog face and key", "狗脸", "", "cara de perro"]
inputs = processor(text=texts, images=list(rows["image"]), return_tensors="pt", padding=True)
with torch.no_grad():
    logits = model.eval()(**inputs).logits_per_image

classify = pipeline("zero-shot-image-classification", model=folder + "/altclip")
labels = ["狗脸", "钥匙", "key"]
scores = classify(rows[0]["image"], candidate_labels=labels, hypothesis_template="{}")
said = {
    "ours": "modeling_altclip" in sys.modules,
    "class": type(model).__module__,
    "logits": logits.tolist(),
    "scores": {entry["label"]: entry["score"] for entry in scores},
}
print(json.dumps(said))
"""


def test_plain_transformers_loads_the_folder_and_gives_the_same_logits(finished, run_python, tmp_path):
    script = tmp_path / "plain.py"
    script.write_text(PLAIN, encoding="utf-8")

    def seen_by(**options):
        process = run_python("python", script, finished.folder, **options)
        assert process.returncode == 0, process.stderr
        return json.loads(process.stdout.strip().splitlines()[-1])

    ours = seen_by()
    # Another folder asks for a new interpreter; that of `run_python` has imported our package.
    plain = seen_by(cwd=tmp_path)
    assert ours["ours"]
    assert not plain["ours"]
    assert ours["class"].startswith("modeling_altclip.")
    assert plain["class"].startswith("transformers.")
    for plain_row, row in zip(plain["logits"], ours["logits"], strict=True):
        assert plain_row == pytest.approx(row, abs=1e-5)
    assert plain["scores"] == pytest.approx(ours["scores"], abs=1e-5)


@pytest.mark.parametrize(
    "flags,message",
    [
        (
            ["--teacher_name_or_path", "no/such/folder"],
            "teacher_name_or_path 'no/such/folder' does not exist: give a folder",
        ),
        (["--dataset", "outputs/no/such"], "dataset 'outputs/no/such' does not exist"),
        (["--languages", "en", "xx"], "no text in language xx: choose from en zh"),
        (["--resume_from_checkpoint", "checkpoint-7"], "'checkpoint-7' is no checkpoint of output_dir"),
    ],
)
def test_bad_input_ends_a_script_with_one_clear_line(stages, run_python, tmp_path, flags, message):
    folder, _ = stages
    process = run_python("python", *command_of("stage1", folder, tmp_path / "out", *flags))
    assert process.returncode == 1
    assert "Traceback" not in process.stderr
    assert message in process.stderr.strip().splitlines()[-1]


def test_an_unknown_recipe_key_ends_a_script_with_one_clear_line(run_python, tmp_path):
    (tmp_path / "r.yaml").write_text("learning_rte: 1.0\n")
    process = run_python("python", ROOT / "training/run_stage2.py", tmp_path / "r.yaml")
    assert process.returncode == 1
    assert "Traceback" not in process.stderr
    last_line = process.stderr.strip().splitlines()[-1]
    assert "unknown key 'learning_rte': did you mean 'learning_rate'?" in last_line


@pytest.mark.slow
def test_the_documented_launcher_adds_nothing_to_the_one_line():
    """Launch with --quiet: without it accelerate adds a traceback of its own."""
    command = [Path(sys.executable).parent / "accelerate", "launch", "--quiet"]
    command += ["--num_processes", "1", "--num_machines", "1"]
    # Left out, they are warned of before the script begins.
    command += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    command += [ROOT / "training/run_stage1.py", ROOT / "training/recipes/miniature/stage1.yaml"]
    command += ["--learnig_rate", "3"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=TIMEOUT
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
