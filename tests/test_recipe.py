"""Recipes and flags, and what is said of bad ones."""

from dataclasses import dataclass, field

import pytest
import torch

from benchmarks.loading import check_languages, load_captions, load_model, load_rows, revision_of
from benchmarks.recipe import InputError, launch, parse
from training.arguments import ContrastiveArguments, DiffusionArguments, TeacherArguments, TeacherLearningArguments

from .conftest import ROOT


@dataclass
class Arguments:
    rate: float = 1.0
    names: list[str] = field(default_factory=list)
    flag: bool = False
    extra: dict | None = None


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_flags_override_the_recipe(tmp_path):
    recipe = write(tmp_path / "r.yaml", "rate: -2.5e-3\nnames: [a, b]\nflag: true\n")
    (arguments,) = parse(Arguments, arguments=[recipe])
    assert arguments == Arguments(rate=-0.0025, names=["a", "b"], flag=True)
    (arguments,) = parse(Arguments, arguments=[recipe, "--rate", "3", "--names", "c"])
    assert arguments == Arguments(rate=3.0, names=["c"], flag=True)


@pytest.mark.parametrize(
    "text,message",
    [("rat: 1\n", "unknown key 'rat': did you mean 'rate'"), ("zzz: 1\n", "unknown key 'zzz'"), ("- 1\n", "must be a mapping")],
)
def test_a_bad_recipe_is_refused(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        parse(Arguments, arguments=[write(tmp_path / "r.yaml", text)])


def test_a_missing_recipe_is_refused():
    with pytest.raises(InputError, match="recipe 'nowhere.yaml' does not exist"):
        parse(Arguments, arguments=["nowhere.yaml"])


STAGES = {"stage0": TeacherArguments, "stage1": TeacherLearningArguments, "stage2": ContrastiveArguments, "diffusion": DiffusionArguments}


RECIPES = sorted(path for path in (ROOT / "training/recipes").rglob("*.yaml") if path.stem in STAGES)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_recipe_parses(recipe, tmp_path):
    (arguments,) = parse(STAGES[recipe.stem], arguments=[str(recipe), "--output_dir", str(tmp_path), "--bf16", "false"])
    assert arguments.learning_rate > 0 and arguments.dataset


def test_missing_folders_are_named(tmp_path):
    with pytest.raises(InputError, match="model 'no/such/folder' does not exist: give a folder"):
        load_model("no/such/folder")
    with pytest.raises(InputError, match="dataset 'no/such/folder' does not exist"):
        load_captions("no/such/folder", "train")


def test_what_is_no_repository_has_no_commit():
    assert [revision_of(f"open_clip:ViT-B-32/{path}") for path in ("outputs/x/model.pt", "/x.pt")] == [None, None]


def test_a_model_folder_without_weights_is_named(model, tmp_path):
    model.config.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="cannot be loaded.*model.safetensors"):
        load_model(str(tmp_path))


def test_a_dataset_of_another_form_is_named(miniature):
    dataset = str(miniature / "dataset")
    with pytest.raises(InputError, match="split 'dev' cannot be loaded.*dev"):
        load_captions(dataset, "dev")
    with pytest.raises(InputError, match="has no column sound: it has image, captions, label"):
        load_rows(dataset, "validation", ["image", "sound"])


def test_an_unknown_language_is_named():
    with pytest.raises(InputError, match="no text in language xx: choose from en zh"):
        check_languages(["en", "xx"], ["en", "zh"])
    assert check_languages(None, ["en", "zh"]) == ["en", "zh"]


def test_a_script_leaves_its_group_of_processes(monkeypatch):
    """Python may end before the threads of a group do, and a process was aborted then, after all was saved."""

    def main(arguments):
        torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)

    monkeypatch.setattr("sys.argv", ["script.py", "--rate", "3"])
    launch(main, Arguments)
    assert not torch.distributed.is_initialized()
