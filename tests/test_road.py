"""A road: a folder of recipes, done by one command that can be repeated at any time."""

from pathlib import Path

import pytest

from common.errors import InputError
from training.road.steps import JOBS, choose_steps, read_road

from .conftest import ROOT


def write_recipes(folder, **recipes):
    """Write a file for each recipe: `stage1="output_dir: x"` is stage1.yaml."""
    folder.mkdir(parents=True, exist_ok=True)
    for stem, text in recipes.items():
        (folder / f"{stem}.yaml").write_text(text, "utf-8")
    return folder


def test_steps_are_in_the_order_in_which_data_flow(tmp_path):
    recipes = {job: f"output_dir: out/{job}\nmax: [1, 2]\n" for job in reversed(JOBS)}
    folder = write_recipes(tmp_path / "road", sources="- {data: a.tsv}\n", **recipes)
    (folder / "notes.md").write_text("no recipe", "utf-8")
    (folder / "more.yaml").mkdir()
    steps = read_road(folder)
    assert [step.job for step in steps] == list(JOBS)
    assert list(JOBS)[0] == "translation"
    assert list(JOBS)[-1] == "report"
    assert steps[2].settings == {"output_dir": "out/clean", "max": ["1", "2"]}
    assert steps[2].lines == {"output_dir": 1, "max": 2}
    assert steps[2].output_dir == Path("out/clean")
    assert steps[2].words == ["-m", "training.run_clean", str(folder / "clean.yaml")]
    assert steps[5].words == ["-m", "altclip", "train", "stage1", str(folder / "stage1.yaml")]
    assert [step.job for step in choose_steps(steps, ["stage1", "clean"])] == ["clean", "stage1"]
    assert choose_steps(steps, None) == steps
    with pytest.raises(InputError, match="^steps has 'stage3', and the road has translation download"):
        choose_steps(steps, ["stage1", "stage3"])


@pytest.mark.parametrize(
    "recipes,message",
    [
        ({}, "has no recipe: give one of recipes, each named after its job: translation, download,"),
        ({"sources": "- {data: a.tsv}"}, "has no recipe"),
        (
            {"stage3": "output_dir: x"},
            "stage3.yaml' is named after no job: rename it, each named after its job",
        ),
        ({"stage1": "dataset: x"}, "stage1.yaml' has no output_dir, by which its step is known: add one"),
        ({"stage1": "output_dir: ''"}, "has no output_dir"),
        ({"stage1": "output_dir: [a]"}, "has no output_dir"),
        ({"stage1": "text"}, "must be a mapping"),
        ({"stage1": "output_dir: x", "stage2": "output_dir: ./x"}, "have the same output_dir 'x'"),
        ({"stage2": "output_dir: x", "report": "output_dir: x"}, "have the same output_dir"),
    ],
)
def test_what_is_no_road(tmp_path, recipes, message):
    with pytest.raises(InputError) as refusal:
        read_road(write_recipes(tmp_path / "road", **recipes))
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_folder_that_is_none_and_two_files_for_one_job(tmp_path):
    with pytest.raises(InputError, match="nowhere' is no folder: give one of recipes"):
        read_road(tmp_path / "nowhere")
    folder = write_recipes(tmp_path / "road", stage1="output_dir: x")
    (folder / "stage1.yml").write_text("output_dir: y", "utf-8")
    with pytest.raises(InputError, match="are for the same job: keep one of them"):
        read_road(folder)


def test_results_of_evaluations_may_lie_together(tmp_path):
    evaluations = {"retrieval": "output_dir: x", "zero_shot": "output_dir: x", "report": "output_dir: x"}
    assert len(read_road(write_recipes(tmp_path / "road", **evaluations))) == 3


@pytest.mark.parametrize("name", ["miniature", "altclip", "altclip_m9", "altclip_m18", "any_clip"])
def test_recipes_of_ours_are_roads(name):
    jobs = [step.job for step in read_road(ROOT / "training/recipes" / name)]
    assert {"stage1", "stage2"} <= set(jobs)
