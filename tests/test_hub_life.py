"""A model's life on the Hub: trained, evaluated, pushed, loaded by strangers, corrected; pushes of stages.

The client is huggingface_hub's own, and strangers are processes that cannot import our packages.
"""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset, Features, List, Value
from datasets import Image as ImageFeature
from huggingface_hub import HfApi, ModelCard
from PIL import Image

from benchmarks.jobs import zero_shot
from benchmarks.jobs.zero_shot import ZeroShotArguments
from benchmarks.outcomes import NDCG
from benchmarks.report.tables import TableArguments
from benchmarks.results import load_results
from common.errors import InputError
from common.models.loading import load_model, save_model
from common.recipe import parse
from deploy.pushing.completeness import check_model
from deploy.pushing.files import read_contents
from deploy.pushing.job import PushArguments
from deploy.pushing.job import main as push
from model_cards.eval_results import mteb_tasks
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

WIT = "WITT2IRetrieval"
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
entries = {entry.task_id: entry.value for entry in info.eval_results or []}
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


@pytest.fixture
def wit(hub_server, miniature, tmp_path):
    """Push a data set with the form of `mteb/wit`, and as many rows in Turkish, at the commit mteb names."""
    n_images, n_texts = mteb_tasks()[WIT].subsets["tr"]
    names = json.loads((miniature / "dataset/class_names.json").read_text("utf-8"))["tr"]
    images = []
    captions = []
    for number in range(n_images):
        file = io.BytesIO()
        Image.new("RGB", (8, 8), (number % 256, number // 256, 99)).save(file, format="PNG")
        images.append({"bytes": file.getvalue(), "path": None})
        # The first images have a caption more, so that there are as many as mteb counts.
        n_captions = 2 if number < n_texts - n_images else 1
        one, other = number % len(names), number // len(names)
        captions.append([f"{names[one]} ve {names[other + place]}" for place in range(n_captions)])
    folder = tmp_path / "wit"
    (folder / "data").mkdir(parents=True)
    features = Features({"image": ImageFeature(), "captions": List(Value("string"))})
    rows = Dataset.from_dict({"image": images, "captions": captions}, features=features)
    rows.to_parquet(folder / "data/tr.parquet")
    configs = "configs:\n- config_name: default\n  data_files:\n  - split: tr\n    path: data/tr.parquet\n"
    (folder / "README.md").write_text(f"---\nlicense: cc-by-sa-4.0\n{configs}---\n# WIT\n")
    push(PushArguments(folder=str(folder), repo="org/wit", repo_type="dataset"))
    hub_server.rename("org/wit", "mteb/wit", mteb_tasks()[WIT].revision)


def evaluate(model, miniature, run_python, hub_server, tmp_path):
    """Classify a few scenes, and find images of WIT; return the folder of the results."""
    results = tmp_path / f"results-{model.name}"
    arguments = ZeroShotArguments(
        models=[str(model)],
        tasks=["miniature-concepts"],
        languages=["en", "zh"],
        dataset=str(miniature / "dataset"),
        class_names=str(miniature / "dataset/class_names.json"),
        limit=20,
        cache_dir=str(tmp_path / "vectors"),
        output_dir=str(results),
    )
    zero_shot.main(arguments, TableArguments())
    # In a process of its own, which reads WIT from the Hub.
    flags = ["--models", model, "--tasks", "wit", "--languages", "tr", "--output_dir", results]
    variables = hub_server.variables(tmp_path / "home of the evaluation")
    process = run_python("python", "benchmarks/run_retrieval.py", *flags, **variables)
    assert process.returncode == 0, process.stderr[-3000:]
    return results


def finish(stage, results, folder):
    """Make the folder for the Hub; return the values of its model-index, and those of mteb's tasks."""
    card = {"title": "My CLIP", "repo": "me/my-clip", "stages": [str(stage)], "results": str(results)}
    make_card(CardArguments(**card, output_dir=str(folder)))
    data = ModelCard.load(folder / "README.md").data
    measured = load_results(results)
    of_wit = [result.metrics[NDCG] for result in measured if result.dataset == "mteb/wit"]
    entries = {f"{WIT}_tr_test": round(100 * of_wit[0], 5)}
    return [result.metric_value for result in data.eval_results], entries


def test_a_life_on_the_hub(miniature, wit, hub_server, run_python, tmp_path, capsys):
    train_stage1(miniature, tmp_path)
    folder = tmp_path / "my-clip"
    results = evaluate(tmp_path / "out", miniature, run_python, hub_server, tmp_path)
    values, entries = finish(tmp_path / "out", results, folder)
    assert len(values) == 3  # concepts in English and Chinese, WIT in Turkish
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
    assert said["entries"] == entries
    # With our package it is the same model.
    ours, _ = load_model("me/my-clip")
    assert torch.equal(ours.logit_scale, load_model(str(tmp_path / "out"))[0].logit_scale)

    # A second push, of a longer training, changes the results; the first is still there under its revision.
    longer = tmp_path / "longer"
    train_stage1(miniature, tmp_path, output_dir=longer, max_steps=8)
    results = evaluate(longer, miniature, run_python, hub_server, tmp_path)
    _, changed = finish(longer, results, folder)
    assert changed != entries
    push(arguments)
    assert entries_on_the_hub() == changed
    assert entries_on_the_hub(revision=first) == entries

    # Somebody else corrects the card: a third push does not undo that in silence.
    theirs = hub_server.put("me/my-clip", {"README.md": b"# Better\n"}, title="Better card")
    finish(tmp_path / "out", tmp_path / "results-out", folder)
    with pytest.raises(InputError, match="me/my-clip has changed: .*'Better card' by else. Nothing was rep"):
        push(arguments)
    assert hub_server.model("me/my-clip").at("main").oid == theirs
    assert capsys.readouterr().out.count("Next: AutoModel.from_pretrained") == 2


def entries_on_the_hub(**given):
    info = HfApi().model_info("me/my-clip", expand=["evalResults"], **given)
    return {entry.task_id: entry.value for entry in info.eval_results}


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
