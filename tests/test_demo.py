"""Run the whole demo twice from a clone, and add languages: scores, costs, and equal bytes from equal seeds.

Training gives slightly different scores on another processor, and no verdict here may depend on that. Models
are compared on the same scenes, by the 95 % interval of the difference: the mean over languages has to be
within bounds with certainty, and no single language may be out of bounds with certainty.
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

from benchmarks.bootstrap import compare
from benchmarks.outcomes import load_outcomes
from benchmarks.report.comparison import MeanOutcomes
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
    """Return variables for two threads on any machine, and for caches where `make` puts them.

    The number of threads decides the order of sums, and memory.
    """
    variables = {"PYTHONPATH": clone, "OMP_NUM_THREADS": 2, "HF_DATASETS_CACHE": clone / "outputs/cache"}
    return os.environ | {name: str(value) for name, value in variables.items()}


def make(clone, target="demo"):
    """Run a target with the tests' interpreter; return its output and the largest process's memory in GiB."""
    # An environment that seems installed, so that `make` installs nothing.
    (clone / ".venv").mkdir(exist_ok=True)
    (clone / ".venv/installed").touch()
    command = ["make", target, f"BIN={Path(sys.executable).parent}"]
    process = subprocess.run(command, cwd=clone, env=shell(clone), capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-4000:]
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20  # ru_maxrss is in KiB
    return process.stdout, memory


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


def score(clone, stage, task, language, metric, experiment="miniature"):
    path = clone / "outputs" / experiment / "results" / stage / f"{task}.{language}.json"
    return 100 * json.loads(path.read_text())["metrics"][metric]


def of_languages(clone, experiment, stage, task, languages):
    """Return the per-scene results, averaged over languages: a scene is drawn in all of them at once."""
    folder = clone / "outputs" / experiment / "results" / stage
    return MeanOutcomes([load_outcomes(folder / f"{task}.{language}.npz") for language in languages])


def assert_not_behind(clone, experiment, stage, languages, reference, points):
    """Check that a stage is less than `points` behind `reference`.

    The whole interval of the mean over `languages` has to lie within that bound, and of each single language
    a part of it.

    Args:
        reference: another stage, and for each of `languages` the language of that stage to compare with.
        points: hundredths of a metric.
    """
    other_stage, others = reference
    for task, metrics in MEASURED.items():
        against = of_languages(clone, experiment, other_stage, task, others)
        pooled = compare(of_languages(clone, experiment, stage, task, languages), against)
        for metric in metrics:
            assert 100 * pooled[metric].low > -points, (task, metric, pooled[metric])

        for language, other in zip(languages, others):
            one = of_languages(clone, experiment, stage, task, [language])
            alone = compare(one, of_languages(clone, experiment, other_stage, task, [other]))
            for metric in metrics:
                assert 100 * alone[metric].high > -points, (task, metric, language, alone[metric])


def test_floors(demo):
    clone, *_ = demo
    assert score(clone, "teacher", "miniature-concepts", "en", "accuracy@1") >= 91
    for language in LANGUAGES:
        recall = score(clone, "stage2", "miniature-pairs", language, "text_to_image_recall@1")
        assert recall >= 57, language
        accuracy = score(clone, "stage2", "miniature-concepts", language, "accuracy@1")
        assert accuracy >= 91, language
        # In a style of drawing that no training has seen.
        recall = score(clone, "stage2", "miniature-pairs-unseen-style", language, "text_to_image_recall@1")
        assert recall > 11, language
        accuracy = score(clone, "stage2", "miniature-concepts-unseen-style", language, "accuracy@1")
        assert accuracy > 28, language


def test_every_language_learns_what_the_teacher_knows(demo):
    clone, *_ = demo
    assert_not_behind(clone, "miniature", "stage1", LANGUAGES, ("teacher", ["en"] * len(LANGUAGES)), 3)


def test_memory(demo):
    _, _, memory = demo
    assert memory <= MEMORY


def test_operations(demo):
    """Count four steps of each stage, times the steps of its recipe; the processor makes no difference."""
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
        n_steps = yaml.safe_load(recipe.read_text())["max_steps"]
        operations += of_four_steps / 4 * n_steps
    assert 0.5 * OPERATIONS < operations <= OPERATIONS


def test_a_repeated_demo_does_nothing(demo):
    clone, *_ = demo
    outputs = clone / "outputs/miniature"
    before = {path: path.stat().st_mtime_ns for path in outputs.rglob("*") if path.is_file()}
    said, _ = make(clone)
    assert "outputs/miniature holds this miniature, finished and whole: nothing is drawn." in said
    assert "All of these steps were finished and whole: nothing was done." in said
    assert {path: path.stat().st_mtime_ns for path in outputs.rglob("*") if path.is_file()} == before


def test_the_printed_lines_work(demo):
    clone, said, _ = demo
    # `make` prints the path of its own BIN, which here is that of the tests' interpreter.
    commands = [line.strip() for line in said.splitlines() if line.startswith("  ") and "examples/" in line]
    assert len(commands) == 2
    outputs = []
    for command in commands:
        process = subprocess.run(command, shell=True, cwd=clone, capture_output=True, text=True, check=True)
        outputs.append(process.stdout)
    search, classify = outputs

    # One text of a thousand may find another scene, but none without either of what it names.
    best = search.splitlines()[0]
    assert "cactus" in best or "balloon" in best
    assert (clone / "found.png").is_file()
    # The example is a red apple.
    assert classify.splitlines()[0].endswith("红苹果")


def test_added_languages_are_learned(added):
    """Before, the model scores at most half as much in them as in English."""
    for task, metrics in MEASURED.items():
        for metric in metrics:
            english = score(added, "nine", task, "en", metric, experiment="add_languages")
            for language in NEW:
                before = score(added, "nine", task, language, metric, experiment="add_languages")
                assert before < english / 2, (task, metric, language)
    assert_not_behind(added, "add_languages", "thirteen", NEW, ("thirteen", ["en"] * len(NEW)), 3)


def test_added_languages_cost_the_old_ones_little(added):
    # The intervals are of the scenes. Another training moves the mean too: in two runs, on two processors,
    # R@1 from text to image was 0.2 and 0.4 points lower, from image to text 0.1 and 0.6.
    assert_not_behind(added, "add_languages", "thirteen", OLD, ("nine", OLD), 2)


def test_fine_tuning_on_own_pictures_gains_there_and_loses_little_elsewhere(fine_tuned):
    """Compare before and after, in the three languages of the captions and in two that were not trained."""
    trained = ["en", "zh", "es"]
    others = ["ru", "ja"]
    metric = "text_to_image_recall@1"

    def gain(task, languages):
        after = of_languages(fine_tuned, "own_pictures", "fine_tuned", task, languages)
        before = of_languages(fine_tuned, "own_pictures", "altclip", task, languages)
        return compare(after, before)[metric]

    assert gain("miniature-pairs-unseen-style", trained).low > 0
    assert 100 * gain("miniature-pairs", trained + others).low > -2

    kept = json.loads((fine_tuned / "outputs/own_pictures/fine_tuned/kept.json").read_text("utf-8"))
    assert set(kept["before"]) == set(LANGUAGES)
    assert kept["found_again"] > 0.9


def test_equal_seeds_give_equal_bytes(demo):
    clone, *_ = demo

    def digests():
        found = []
        for folder in ("clip", "text_encoder", "teacher", "stage1", "stage2", "altclip"):
            weights = clone / "outputs/miniature" / folder / "model.safetensors"
            found.append(hashlib.sha256(weights.read_bytes()).hexdigest())
        return found

    first = digests()
    shutil.rmtree(clone / "outputs")
    make(clone)
    assert digests() == first
