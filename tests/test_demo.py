"""The whole demo, twice, from a clone: what it reaches and costs, and that equal seeds give equal bytes.

And languages added. Training goes a little otherwise on another processor, and no verdict here is to turn on
that. What is compared is compared on the same scenes, with the 95 % interval of the difference: the mean over
languages must surely be near enough, and no single language surely too far.
"""

import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from benchmarks.comparison import MeanOutcomes
from benchmarks.outcomes import load_outcomes
from benchmarks.uncertainty import compare
from training.miniature.scenes import read_concepts

from .conftest import ROOT

pytestmark = pytest.mark.slow
LANGUAGES = list(read_concepts()["languages"])
OLD = ["en", "zh", "es", "fr", "ru", "ar", "ja", "ko", "it"]
NEW = ["th", "hi", "uk", "vi"]
MEASURED = {
    "miniature-pairs": ["text_to_image_recall@1", "image_to_text_recall@1", "mean_recall"],
    "miniature-concepts": ["accuracy@1"],
}
OPERATIONS = 35e12  # of the three stages; when this was written they took 29.0e12
MEMORY = 4  # GiB


def shell(clone):
    """Give variables for two threads on any machine, and caches where `make` puts them.

    The number of threads decides on the order of sums and on memory.
    """
    variables = {"PYTHONPATH": clone, "OMP_NUM_THREADS": 2, "HF_DATASETS_CACHE": clone / "outputs/cache"}
    return os.environ | {name: str(value) for name, value in variables.items()}


def make(clone, target="demo"):
    """Run a target with the interpreter of the tests; give what it said and the largest process's memory in GiB."""
    (clone / ".venv").mkdir(exist_ok=True)
    (clone / ".venv/installed").touch()
    command = ["make", target, f"BIN={Path(sys.executable).parent}"]
    process = subprocess.run(command, cwd=clone, env=shell(clone), capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-4000:]
    return process.stdout, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    clone = tmp_path_factory.mktemp("demo") / "clone"
    subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
    return clone, *make(clone)


@pytest.fixture(scope="module")
def added(demo):
    clone, *_ = demo
    make(clone, "add-languages")
    return clone


@pytest.fixture(scope="module")
def fine_tuned(demo):
    clone, *_ = demo
    make(clone, "own-pictures")
    return clone


def score(clone, stage, task, language, metric, run="miniature"):
    path = clone / "outputs" / run / "results" / stage / f"{task}.{language}.json"
    return 100 * json.loads(path.read_text())["metrics"][metric]


def of_languages(clone, run, stage, task, languages):
    """What came of each scene, over languages: a scene is drawn in all of them at once."""
    folder = clone / "outputs" / run / "results" / stage
    return MeanOutcomes([load_outcomes(folder / f"{task}.{language}.npz") for language in languages])


def assert_not_behind(clone, run, stage, languages, reference, points):
    """The mean over `languages` is surely less than `points` behind `reference`, and none is surely further behind.

    Args:
        reference: another stage, and of each of `languages` the language of that stage to hold it against.
        points: hundredths of a metric.
    """
    other_stage, others = reference
    for task, metrics in MEASURED.items():
        against = of_languages(clone, run, other_stage, task, others)
        pooled = compare(of_languages(clone, run, stage, task, languages), against)
        for metric in metrics:
            assert 100 * pooled[metric].low > -points, (task, metric, pooled[metric])
        for language, other in zip(languages, others):
            one = of_languages(clone, run, stage, task, [language])
            alone = compare(one, of_languages(clone, run, other_stage, task, [other]))
            for metric in metrics:
                assert 100 * alone[metric].high > -points, (task, metric, language, alone[metric])


def test_floors(demo):
    clone, *_ = demo
    assert score(clone, "teacher", "miniature-concepts", "en", "accuracy@1") >= 91
    for language in LANGUAGES:
        assert score(clone, "stage2", "miniature-pairs", language, "text_to_image_recall@1") >= 57, language
        assert score(clone, "stage2", "miniature-concepts", language, "accuracy@1") >= 91, language
        assert (
            score(clone, "stage2", "miniature-pairs-unseen-style", language, "text_to_image_recall@1") > 11
        ), language
        assert score(clone, "stage2", "miniature-concepts-unseen-style", language, "accuracy@1") > 28, (
            language
        )


def test_every_language_learns_what_the_teacher_knows(demo):
    clone, *_ = demo
    assert_not_behind(clone, "miniature", "stage1", LANGUAGES, ("teacher", ["en"] * len(LANGUAGES)), 3)


def test_memory(demo):
    _, _, memory = demo
    assert memory <= MEMORY


def test_operations(demo):
    """Of four steps of each stage, times the steps of its recipe: neither load nor processor changes them."""
    clone, *_ = demo
    operations = 0
    for stage in ("stage0", "stage1", "stage2"):
        recipe = clone / f"training/recipes/miniature/{stage}.yaml"
        counted = [sys.executable, "tests/count_operations.py", f"training/run_{stage}.py", recipe]
        flags = ["--output_dir", clone / "outputs/counted", "--max_steps", "4"]
        command = [*counted, *flags]
        process = subprocess.run(command, cwd=clone, env=shell(clone), capture_output=True, text=True)
        assert process.returncode == 0, process.stderr[-4000:]
        of_four_steps = int(process.stdout.splitlines()[-1])
        operations += of_four_steps / 4 * yaml.safe_load(recipe.read_text())["max_steps"]
    assert 0.5 * OPERATIONS < operations <= OPERATIONS


def test_the_printed_lines_work(demo):
    clone, said, _ = demo
    lines = [
        line.replace(".venv/bin/python", sys.executable)
        for line in said.splitlines()
        if line.startswith(".venv/bin/python")
    ]
    assert len(lines) == 3
    outputs = [
        subprocess.run(line, shell=True, cwd=clone, capture_output=True, text=True, check=True).stdout
        for line in lines
    ]
    assert "parameters" in outputs[0]
    assert [json.loads(line.replace("'", '"'))["label"] for line in outputs[1].splitlines()] == [
        "red apple",
        "红苹果",
        "manzana roja",
    ]
    # One sentence of a thousand may find another scene, but none without either of what it names.
    assert "found.png shows:" in outputs[2]
    assert "cactus" in outputs[2] or "balloon" in outputs[2]
    assert (clone / "found.png").is_file()


def test_added_languages_are_learned(added):
    """Before, the model knew at most half as much of them as of English."""
    for task, metrics in MEASURED.items():
        for metric in metrics:
            english = score(added, "nine", task, "en", metric, run="add_languages")
            for language in NEW:
                before = score(added, "nine", task, language, metric, run="add_languages")
                assert before < english / 2, (task, metric, language)
    assert_not_behind(added, "add_languages", "thirteen", NEW, ("thirteen", ["en"] * len(NEW)), 3)


def test_added_languages_cost_the_old_ones_little(added):
    assert_not_behind(added, "add_languages", "thirteen", OLD, ("nine", OLD), 1)


def test_fine_tuning_on_own_pictures_gains_there_and_loses_little_elsewhere(fine_tuned):
    """In the three languages of the captions, and in two that the fine-tuning never saw."""
    spoken, others = ["en", "zh", "es"], ["ru", "ja"]
    stages, run, metric = ("fine_tuned", "altclip"), "own_pictures", "text_to_image_recall@1"
    there = [of_languages(fine_tuned, run, stage, "miniature-pairs-unseen-style", spoken) for stage in stages]
    assert compare(*there)[metric].low > 0
    elsewhere = [of_languages(fine_tuned, run, stage, "miniature-pairs", spoken + others) for stage in stages]
    assert 100 * compare(*elsewhere)[metric].low > -2
    kept = json.loads((fine_tuned / "outputs/own_pictures/fine_tuned/kept.json").read_text("utf-8"))
    assert set(kept["before"]) == set(LANGUAGES)
    assert kept["found_again"] > 0.9


def test_equal_seeds_give_equal_bytes(demo):
    clone, *_ = demo

    def digests():
        folders = ("clip", "text_encoder", "teacher", "stage1", "stage2", "altclip")
        return [
            hashlib.sha256(
                (clone / "outputs/miniature" / folder / "model.safetensors").read_bytes()
            ).hexdigest()
            for folder in folders
        ]

    first = digests()
    shutil.rmtree(clone / "outputs")
    make(clone)
    assert digests() == first
