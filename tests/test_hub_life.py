"""A model's life on the Hub: trained, evaluated, pushed, loaded by strangers, corrected; pushes of stages.

The client is huggingface_hub's own, and strangers are processes that cannot import our packages.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from datasets import load_dataset
from huggingface_hub import EvalResultEntry, HfApi, ModelCard, eval_result_entries_to_yaml

from benchmarks.jobs import zero_shot
from benchmarks.jobs.zero_shot import ZeroShotArguments
from benchmarks.report.tables import TableArguments
from common.errors import InputError
from common.models.loading import load_model, save_model
from common.recipe import parse
from deploy.pushing.completeness import check_model
from deploy.pushing.files import read_contents
from deploy.pushing.job import PushArguments
from deploy.pushing.job import main as push
from model_cards.job import CardArguments
from model_cards.job import main as make_card
from modeling_altclip import AltCLIPDualEncoderModel
from modeling_altclip.checksums_altclip import find_damages
from training.arguments import ContrastiveArguments, TeacherArguments, TeacherLearningArguments
from training.jobs import parallel, stage0, stage1, stage2, text_pretraining
from training.parallel.pretraining import TextPretrainingArguments
from training.parallel.trainer import ParallelArguments

from .conftest import ROOT
from .hub_server import TOKEN
from .processes import TIMEOUT

RECIPES = ROOT / "training/recipes"
STRANGER = """
import importlib.abc, json, sys
OURS = ("modeling_altclip", "altclip", "benchmarks", "common", "deploy", "model_cards", "training")
class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in OURS:
            raise ImportError(f"{name} is not for strangers")
sys.meta_path.insert(0, Blocker())
from huggingface_hub import HfApi, ModelCard
from PIL import Image
from transformers import pipeline
repo, revision, trust = sys.argv[1:]
given = {"trust_remote_code": True} if trust == "trust" else {}
classify = pipeline("zero-shot-image-classification", model=repo, revision=revision, **given)
image = Image.new("RGB", (32, 32), "red")
scores = classify(image, candidate_labels=["red apple", "狗脸"], hypothesis_template="{}")
info = HfApi().model_info(repo, revision=revision, expand=["sha", "evalResults", "model-index", "cardData"])
results = [result["metrics"][0]["value"] for index in info.model_index or [] for result in index["results"]]
entries = [entry.value for entry in info.eval_results or []]
module = type(classify.model).__module__
said = {"sha": info.sha, "scores": scores, "results": results, "entries": entries, "module": module}
print(json.dumps(said))
"""


def as_stranger(hub_server, tmp_path, repo, revision="main", *, trusts=False) -> dict:
    """Load a model from the Hub in a process without our packages, classify, and read its results."""
    (tmp_path / "elsewhere").mkdir(exist_ok=True)
    variables = hub_server.variables(tmp_path / "home", token=None)
    variables |= {"PATH": "", "PYTHONPATH": "", "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", STRANGER, repo, revision, "trust" if trusts else "plain"]
    folder = tmp_path / "elsewhere"
    return run_elsewhere(command, folder, variables)


def run_elsewhere(command, folder, variables):
    """Run a command in another folder, with these variables alone; return what its last line says."""
    given = {"cwd": folder, "env": variables, "capture_output": True, "text": True, "timeout": TIMEOUT}
    run = subprocess.run(command, **given)
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout.splitlines()[-1])


def arguments_of(kind, recipe, miniature, tmp_path, **flags):
    """Return the arguments of a stage that trains two steps, with a checkpoint after each, and no push."""
    flags = {
        "dataset": miniature / "dataset",
        "output_dir": tmp_path / "out",
        "max_steps": 2,
        "save_steps": 1,
        "save_strategy": "steps",
        "per_device_train_batch_size": 4,
        "languages": ["en", "zh"],
        "disable_tqdm": True,
    } | flags
    words = [str(RECIPES / recipe)]
    for name, value in flags.items():
        words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return parse(kind, arguments=words)[0]


def train_stage1(miniature, tmp_path, **flags):
    models = {"teacher_name_or_path": miniature / "clip"}
    models["text_encoder_name_or_path"] = miniature / "text_encoder"
    given = models | {"cache_dir": tmp_path / "cache"} | flags
    recipe = "miniature/stage1.yaml"
    stage1.main(arguments_of(TeacherLearningArguments, recipe, miniature, tmp_path, **given))


def evaluate(model, miniature, tmp_path, limit):
    """Classify a few scenes; return the folder of the results."""
    results = tmp_path / f"results{limit}"
    arguments = ZeroShotArguments(
        models=[str(model)],
        tasks=["miniature-concepts"],
        languages=["en", "zh"],
        dataset=str(miniature / "dataset"),
        class_names=str(miniature / "dataset/class_names.json"),
        limit=limit,
        cache_dir=str(tmp_path / "vectors"),
        output_dir=str(results),
    )
    zero_shot.main(arguments, TableArguments())
    return results


def finish(stage, results, folder):
    """Make the folder for the Hub: model, card with results, and results in the Hub's newer form."""
    card = {"title": "My CLIP", "repo": "me/my-clip", "stages": [str(stage)], "results": str(results)}
    make_card(CardArguments(**card, output_dir=str(folder)))
    data = ModelCard.load(folder / "README.md").data
    entries = []
    for result in data.eval_results:
        entries.append(EvalResultEntry("org/scenes", result.dataset_config, 100 * result.metric_value))
    (folder / ".eval_results").mkdir(exist_ok=True)
    written = yaml.safe_dump(eval_result_entries_to_yaml(entries))
    (folder / ".eval_results/scenes.yaml").write_text(written)
    return [result.metric_value for result in data.eval_results]


def test_a_life_on_the_hub(miniature, hub_server, tmp_path, capsys):
    train_stage1(miniature, tmp_path)
    folder = tmp_path / "my-clip"
    values = finish(tmp_path / "out", evaluate(tmp_path / "out", miniature, tmp_path, 20), folder)
    assert len(values) == 2  # English and Chinese
    arguments = PushArguments(folder=str(folder), repo="me/my-clip")
    push(arguments)
    first = hub_server.model("me/my-clip").at("main").oid
    for name, blob in hub_server.model("me/my-clip").at("main").files.items():
        for secret in (tmp_path, miniature, TOKEN):
            assert str(secret).encode() not in blob.content, name

    # A stranger loads it with transformers' own classes, and reads the results through the API.
    said = as_stranger(hub_server, tmp_path, "me/my-clip")
    assert said["module"].startswith("transformers.models.altclip.")
    assert sum(score["score"] for score in said["scores"]) == pytest.approx(1)
    assert said["results"] == values
    assert said["entries"] == pytest.approx([100 * value for value in values])
    # With our package it is the same model.
    ours, _ = load_model("me/my-clip")
    assert torch.equal(ours.logit_scale, load_model(str(tmp_path / "out"))[0].logit_scale)

    # A second push changes the results; the first is still there under its revision.
    changed = finish(tmp_path / "out", evaluate(tmp_path / "out", miniature, tmp_path, 60), folder)
    assert changed != values
    push(arguments)
    info = HfApi().model_info("me/my-clip", expand=["sha", "evalResults"])
    assert [entry.value for entry in info.eval_results] == pytest.approx([100 * value for value in changed])
    old = HfApi().model_info("me/my-clip", revision=first, expand=["evalResults"]).eval_results
    assert [entry.value for entry in old] == pytest.approx([100 * value for value in values])

    # Somebody else corrects the card: a third push does not undo that in silence.
    theirs = hub_server.put("me/my-clip", {"README.md": b"# Better\n"}, title="Better card")
    finish(tmp_path / "out", tmp_path / "results20", folder)
    with pytest.raises(InputError, match="me/my-clip has changed: .*'Better card' by else. Nothing was rep"):
        push(arguments)
    assert hub_server.model("me/my-clip").at("main").oid == theirs
    assert capsys.readouterr().out.count("Next: AutoModel.from_pretrained") == 2


READS = """
import json, sys
from datasets import load_dataset
rows = load_dataset("me/scenes", split="validation", revision=sys.argv[1])
print(json.dumps([len(rows), rows[0]["image"].size, rows[0]["captions"]["zh"]]))
"""


def test_the_miniature_is_a_data_set_on_the_hub(miniature, hub_server, tmp_path):
    push(PushArguments(folder=str(miniature / "dataset"), repo="me/scenes", repo_type="dataset"))
    info = HfApi().dataset_info("me/scenes")
    assert "cc-by-sa-4.0" in info.card_data.license
    variables = hub_server.variables(tmp_path / "home", token=None) | {"PATH": "", "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-c", READS, info.sha]
    run = subprocess.run(
        command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=TIMEOUT
    )
    assert run.returncode == 0, run.stderr[-3000:]
    here = load_dataset(str(miniature / "dataset"), split="validation")
    said = json.loads(run.stdout.splitlines()[-1])
    assert said == [len(here), [32, 32], here[0]["captions"]["zh"]]


STAGES = {
    "stage0": (stage0, TeacherArguments, "miniature/stage0.yaml", {"model_name_or_path": "clip"}),
    "stage1": (
        stage1,
        TeacherLearningArguments,
        "miniature/stage1.yaml",
        {"teacher_name_or_path": "clip", "text_encoder_name_or_path": "text_encoder"},
    ),
    "stage2": (stage2, ContrastiveArguments, "miniature/stage2.yaml", {"model_name_or_path": "dual"}),
    "parallel": (
        parallel,
        ParallelArguments,
        "parallel/miniature.yaml",
        {"image_encoder_name_or_path": "clip", "text_encoder_name_or_path": "text_encoder"},
    ),
    "text": (
        text_pretraining,
        TextPretrainingArguments,
        "parallel/text_miniature.yaml",
        {"text_encoder_name_or_path": "text_encoder"},
    ),
}
LEFT_AT_HOME = {"training_args.bin", "trainer_state.json", "run.json"}


@pytest.fixture
def train_and_push(miniature, hub_server, tmp_path):
    """Return a function that trains a stage with `--push_to_hub`, and returns its repository."""

    def train_and_push(stage, hub_strategy):
        job, kind, recipe, inputs = STAGES[stage]
        if "dual" in inputs.values():
            dual = AltCLIPDualEncoderModel.from_towers(
                str(miniature / "clip"), str(miniature / "text_encoder"), projection_dim=16
            )
            save_model(dual, load_model(str(tmp_path / "start"))[1], tmp_path / "dual")
        homes = {name: tmp_path if folder == "dual" else miniature for name, folder in inputs.items()}
        flags = {name: homes[name] / folder for name, folder in inputs.items()}
        flags |= {"push_to_hub": True, "hub_strategy": hub_strategy, "hub_always_push": True}
        flags |= {"hub_token": TOKEN}
        if stage in ("stage1", "stage2"):
            flags["cache_dir"] = tmp_path / "cache"
        if stage == "stage0":
            flags["languages"] = ["en"]
        job.main(arguments_of(kind, recipe, miniature, tmp_path, **flags))
        return hub_server.model("me/out")

    return train_and_push


def write_files(commit, folder) -> Path:
    """Write the files of a commit into a folder."""
    for name, blob in commit.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(blob.content)
    return folder


@pytest.mark.parametrize("stage", STAGES)
def test_the_push_of_a_training_is_the_finished_model(train_and_push, start_flags, tmp_path, capsys, stage):
    repository = train_and_push(stage, "end")
    assert "and pushed it to the Hub as out. Next: " in capsys.readouterr().out
    files = repository.at("main").files
    assert not LEFT_AT_HOME & files.keys()
    assert not [name for name in files if name.startswith("checkpoint-")]
    for name, blob in files.items():
        assert str(tmp_path).encode() not in blob.content, name
        assert TOKEN.encode() not in blob.content, name
    copy = write_files(repository.at("main"), tmp_path / "copy")
    check_model(copy, read_contents(copy))
    assert find_damages(copy) == []
    same = (tmp_path / "out/model.safetensors").read_bytes()
    assert files["model.safetensors"].content == same
    assert {"README.md", "tokenizer.json", "config.json"} <= files.keys()


@pytest.mark.parametrize("hub_strategy", ["every_save", "checkpoint"])
def test_no_push_in_the_midst_breaks_the_model_for_strangers(
    train_and_push, start_flags, hub_server, tmp_path, hub_strategy
):
    """A dual encoder needs the code beside its weights, at each commit."""
    repository = train_and_push("stage2", hub_strategy)
    commits = list(repository.commits.values())[1:]
    of_training = [commit for commit in commits if not commit.title.endswith(", checkpoint")]
    assert len(of_training) >= 3  # two in the midst
    for commit in of_training:
        copy = write_files(commit, tmp_path / commit.oid)
        assert not LEFT_AT_HOME & set(commit.files)
        if "model.safetensors" in commit.files:
            check_model(copy, read_contents(copy))
    for commit in commits:
        assert "last-checkpoint/training_args.bin" not in commit.files
    in_the_midst = next(commit for commit in of_training if "model.safetensors" in commit.files)
    if hub_strategy == "every_save":
        said = as_stranger(hub_server, tmp_path, "me/out", in_the_midst.oid, trusts=True)
        assert said["module"].startswith("transformers_modules.me.out.")
        assert said["sha"] == in_the_midst.oid
