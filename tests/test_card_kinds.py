"""Cards of each kind of model: whole metadata in the Hub's terms, and no number that no file has.

Each is validated by huggingface_hub's own `validate`, which asks the Hub of the tests: that checks what the
Hub's documents say of metadata, and is not the real Hub's check.
"""

import json
import re

import pytest
import torch
from huggingface_hub import ModelCard
from peft import LoraConfig, get_peft_model

from benchmarks.bootstrap import intervals
from benchmarks.outcomes import ClassOutcomes, RetrievalOutcomes
from benchmarks.results import Result
from common.errors import InputError
from common.fingerprints import hash_weights
from common.models.loading import load_model, save_model
from model_cards.job import CardArguments
from model_cards.job import main as make_card

from .conftest import ROOT

TINY = ROOT / "tests/fixtures/v0.1.0/model"
RECIPES = ROOT / "training/recipes"
RUN_HERE = ("miniature", "photographs")
# The recipes of models that nobody has trained at their size.
PAPER_SIZE = sorted({path.parent.name for path in RECIPES.glob("*/card.yaml")} - set(RUN_HERE))
TRAINED = {
    "learning_rate": 0.0001,
    "lr_scheduler_type": "SchedulerType.COSINE",
    "optim": "OptimizerNames.ADAMW_TORCH_FUSED",
    "bf16": True,
    "trainable": ["text_model"],
    "examples_per_step": 1024,
    "seed": 42,
    "languages": ["en", "zh"],
    "dataset": "org/images",
}
MACHINE = {
    "processes": 8,
    "device": "cuda",
    "threads": 4,
    "versions": {"torch": "2.13.0", "transformers": "5.23.0", "datasets": "5.2.0"},
}


@pytest.fixture
def validated(hub_server):
    """Return a function that reads the card of a folder, validates it and returns it."""

    def validated(folder) -> ModelCard:
        card = ModelCard.load(folder / "README.md")
        card.validate()
        assert card.data.library_name == "transformers"
        assert card.data.pipeline_tag == "zero-shot-image-classification"
        return card

    return validated


@pytest.fixture
def stage(tmp_path):
    """Return a function that makes a stage as training leaves it, with its record and its log."""

    def stage(name, **settings):
        model, processor = load_model(str(TINY))
        torch.nn.init.normal_(model.text_projection.weight)  # other weights than those of other stages
        save_model(model, processor, tmp_path / name)
        record(tmp_path / name, **settings)
        return tmp_path / name

    return stage


def record(folder, **settings):
    """Write what a training of 600 steps records beside its weights."""
    run = {"settings": TRAINED | settings, "machine": MACHINE}
    (folder / "run.json").write_text(json.dumps(run))
    log = [{"step": 300, "loss": 2.0}, {"step": 600, "loss": 1.0}, {"step": 600, "train_runtime": 3725.4}]
    (folder / "trainer_state.json").write_text(json.dumps({"log_history": log, "global_step": 600}))


def measure(folder, results):
    """Save results of a model, by the hash of its weights, in two tasks and two languages."""
    weights = hash_weights(load_model(str(folder))[0])
    ranks = torch.arange(40) * (1 + int(weights[:2], 16)) % 13  # others for other weights
    outcomes = {
        "retrieval": RetrievalOutcomes(ranks, ranks, torch.arange(40)),
        "zero_shot": ClassOutcomes(ranks, torch.arange(40) % 20, 20),
    }
    for kind, found in outcomes.items():
        for language in ("en", "zh"):
            result = Result(
                model=str(folder),
                task=kind.replace("_", "-"),
                kind=kind,
                language=language,
                metric="mean_recall" if kind == "retrieval" else "accuracy@1",
                metrics=found.metrics(),
                intervals=intervals(found, 40),
                dataset="org/scenes",
                split="test",
                weights=weights,
                command=f"altclip evaluate {kind}",
            )
            result.save(results, found)


def finish(stages, tmp_path, **given):
    """Make the finished folder of stages, all of which are measured."""
    for folder in stages:
        measure(folder, tmp_path / "results")
    arguments = {"title": "My CLIP", "repo": "me/my-clip", "stages": [str(folder) for folder in stages]}
    arguments |= {"results": str(tmp_path / "results"), "output_dir": str(tmp_path / "finished")}
    make_card(CardArguments(**arguments | given))
    return tmp_path / "finished"


def check_numbers(card, results):
    """See that all numbers of the results are those of files, in the table and in the metadata."""
    of_files = set()
    for path in results.rglob("*.json"):
        result = json.loads(path.read_text())
        for name, value in result["metrics"].items():
            of_files |= {f"{100 * bound:.1f}" for bound in [value, *result["intervals"].get(name, [])]}
        of_files |= set(re.findall(r"\d+\.\d+", json.dumps(result["versions"])))
    tables = card.text.partition("## Results")[2].partition("Evaluated with")[0]
    rows = [row for row in tables.splitlines() if row.startswith(("| en", "| zh"))]
    shown = {number for row in rows for number in re.findall(r"\d+\.\d+", row)}
    assert len(rows) == 4
    assert shown
    assert shown <= of_files


def test_the_demo(stage, validated, tmp_path):
    """A teacher and two stages, as the miniature has them, with the miniature's own recipe."""
    stages = [stage("teacher"), stage("stage1"), stage("stage2", loss="contrastive")]
    about = "It is not intended for real photographs."
    folder = finish(stages, tmp_path, license="apache-2.0", about=about, plot_task="retrieval")
    card = validated(folder)
    assert card.data.license == "apache-2.0"
    assert card.data.language == ["en", "zh"]
    assert card.data.metrics == ["recall", "accuracy"]
    assert len(card.data.eval_results) == 4
    assert about in card.text
    assert re.search(r"\| setting +\| teacher", card.text)
    assert re.search(r"\| steps +\| 600 +\| 600 +\| 600 +\|", card.text)
    assert re.search(r"\| schedule +\| cosine", card.text)
    assert re.search(r"\| loss +\| +\| +\| contrastive +\|", card.text)
    assert re.search(r"\| time +\| 1:02:05 ", card.text)
    assert re.search(r"\| machine +\| 8 x cuda, 4 threads ", card.text)
    assert {"loss.png", "recall.png"} <= {path.name for path in folder.iterdir()}
    check_numbers(card, tmp_path / "results")


def test_one_stage_from_a_clip_of_the_hub(stage, validated, tmp_path):
    towers = {
        "teacher_name_or_path": "openai/clip-vit-base-patch32",
        "text_encoder_name_or_path": "FacebookAI/xlm-roberta-base",
    }
    card = validated(finish([stage("stage1", **towers)], tmp_path))
    assert card.data.base_model == list(towers.values())
    assert card.data.base_model_relation == "finetune"  # two bases would be a merge
    assert card.data.datasets == ["org/images"]
    assert (card.data.license, card.data.license_name) == ("other", "terms-of-its-sources")
    assert card.data.license_link == "https://huggingface.co/me/my-clip#licence"
    assert "Base models: openai/clip-vit-base-patch32, FacebookAI/xlm-roberta-base." in card.text
    assert "under unknown terms: org/images (licence not stated)" in card.text
    check_numbers(card, tmp_path / "results")


def test_a_lora(stage, validated, tmp_path):
    base = stage("base", model_name_or_path="BAAI/AltCLIP")
    model, processor = load_model(str(base))
    config = LoraConfig(target_modules=r"text_model.*\.(query|value)", r=2, init_lora_weights=False)
    adapted = get_peft_model(model, config)
    adapted.peft_config["default"].base_model_name_or_path = str(base)
    adapted.save_pretrained(tmp_path / "lora")
    processor.save_pretrained(tmp_path / "lora")
    record(tmp_path / "lora", lora_rank=2, model_name_or_path=str(base))

    folder = finish([tmp_path / "lora"], tmp_path)
    card = validated(folder)
    assert card.data.base_model == ["BAAI/AltCLIP"]
    assert not (folder / "adapter_config.json").exists()  # merged: it loads without peft
    assert re.search(r"\| LoRA rank +\| 2 ", card.text)
    check_numbers(card, tmp_path / "results")


def test_the_photographs(stage, validated, tmp_path):
    """Three stages, the first in closed form: it made no steps, and has no settings of any."""
    teacher = stage("teacher")
    (teacher / "trainer_state.json").unlink()
    stages = [teacher, stage("stage1-1", objective="contrastive"), stage("stage2-1")]
    card = validated(finish(stages, tmp_path, license="other"))
    assert card.data.license_name == "terms-of-its-sources"
    assert re.search(r"\| steps +\| +\| 600 +\| 600 +\|", card.text)
    assert re.search(r"\| learning rate +\| +\| 0.0001 +\| 0.0001 +\|", card.text)
    check_numbers(card, tmp_path / "results")


@pytest.mark.parametrize("name", PAPER_SIZE)
def test_a_draft_of_a_recipe_of_paper_size(name, validated, tmp_path, run_python):
    """It says that nothing was trained, and all its numbers are the recipes' own."""
    recipe = RECIPES / name / "card.yaml"
    flags = ["--draft", f"training/recipes/{name}", "--output_dir", str(tmp_path / name)]
    process = run_python("python", "-m", "model_cards", recipe, *flags)
    assert process.returncode == 0, process.stderr
    assert f"Next: altclip train training/recipes/{name} --dry_run" in process.stdout
    assert [path.name for path in (tmp_path / name).iterdir()] == ["README.md"]
    card = validated(tmp_path / name)
    assert "**Not trained here.**" in card.text
    assert card.data.eval_results is None
    # Those that go on from models of other recipes have no base on the Hub.
    assert card.data.base_model or "\n- outputs/" in card.text
    assert card.data.get("base_model_relation") == ("finetune" if card.data.base_model else None)
    assert card.data.language
    # A number with a point is a setting of some recipe, whatever it is called there.
    settings = "".join(path.read_text("utf-8") for path in (RECIPES / name).glob("*.yaml"))
    stated = {f"{float(number):g}" for number in re.findall(r"[\d.]+e-\d+|\d+\.\d+", settings)}
    table = card.text.partition("| setting")[2].partition("It would")[0]
    assert set(re.findall(r"\d+\.\d+|\de-\d+", table)) <= stated


def test_a_draft_does_not_replace_the_card_of_a_model(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    given = {"title": "T", "repo": "me/T", "stages": ["outputs/any_clip/stage1"]}
    with pytest.raises(InputError, match="has a model: leave draft out for its card"):
        make_card(CardArguments(**given, draft=str(RECIPES / "any_clip"), output_dir=str(tmp_path)))


@pytest.mark.parametrize(
    "stages,recipes,message",
    [
        (["outputs/any/other"], "any_clip", "stages ends with 'outputs/any/other', which no recipe in"),
        (["outputs/any_clip/stage1"], "accelerate", "has no recipe of a training: give a folder of recipes"),
    ],
)
def test_drafts_that_are_refused(tmp_path, stages, recipes, message):
    given = {"title": "T", "repo": "me/T", "stages": stages, "draft": str(RECIPES / recipes)}
    with pytest.raises(InputError, match=message):
        make_card(CardArguments(**given, output_dir=str(tmp_path / "out")))
