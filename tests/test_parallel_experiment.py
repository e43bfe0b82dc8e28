"""The comparison of English alone with parallel captions: each figure in its place, and each model trained on
what its arm says.
"""

import json
import re
import shutil

import pytest
import yaml

from benchmarks.results import Result
from common.errors import InputError
from modeling_altclip.checksums_altclip import write_checksums
from training.parallel.comparison import (
    ARMS,
    ParallelExperimentArguments,
    accuracy_table,
    convergence,
    convergence_table,
    translation_table,
    translations_found,
    write_report,
)

from .conftest import ROOT
from .test_checksums import flip

RECIPE = ROOT / "training/recipes/parallel/experiment_miniature.yaml"
# Recall with seed 1 in a language that has images: seed 2 doubles it, and an unseen language halves it.
SHARE = {
    "english": 0.1,
    "longer": 0.2,
    "parallel": 0.3,
    "english_untrained": 0.05,
    "parallel_untrained": 0.15,
}
# Losses at steps 100, 200 and 300, before the seed's tenth.
CURVES = {"english": [4.0, 3.0, 2.0], "longer": [4.0, 1.5, 1.0], "parallel": [3.0, 1.8, 1.2]}


# Recall is the same at every k and in both directions; ranks rise with the percentile.
def ranking(share):
    metrics = {"n": 10}
    for direction in ("text_to_image", "image_to_text"):
        metrics |= {f"{direction}_recall@{k}": share for k in range(1, 11)}
        metrics |= {
            f"{direction}_rank_p{percentile}": 100 * share + percentile for percentile in (5, 25, 50, 75, 95)
        }
    return metrics


@pytest.fixture
def arguments(tmp_path, miniature):
    """Two seeds; English has a tenth a seed more than German, and losses rise by a tenth with the seed."""
    settings = yaml.safe_load(RECIPE.read_text()) | {
        "recipe": str(ROOT / "training/recipes/parallel/miniature.yaml")
    }
    settings |= {
        "seeds": [1, 2],
        "unseen": ["de"],
        "output_dir": str(tmp_path),
        "text_encoder_name_or_path": str(miniature / "text_encoder"),
    }
    for name in ARMS:
        for seed in (1, 2):
            (tmp_path / f"{name}-{seed}").mkdir()
            history = [
                {"step": step, f"{prefix}caption_loss_en": loss + 0.1 * seed}
                for step, loss in zip((100, 200, 300), CURVES.get(name, [4, 4, 4]))
                for prefix in ("", "eval_")
            ]
            (tmp_path / f"{name}-{seed}/trainer_state.json").write_text(json.dumps({"log_history": history}))
    arguments = ParallelExperimentArguments(**settings)
    arguments.settings["dataset"] = str(miniature / "dataset")
    return arguments


def results_of(arguments):
    known = {"task": "miniature-pairs", "kind": "retrieval", "metric": "mean_recall"}
    known |= dict.fromkeys(("dataset", "split", "weights", "command"), "")
    return [
        Result(
            model=f"{arguments.output_dir}/{name}-{seed}",
            language=language,
            metrics=ranking(seed * share / more),
            **known,
        )
        for name, share in SHARE.items()
        for seed in (1, 2)
        for language, more in (("en", 1), ("es", 1), ("ja", 1), ("hi", 1), ("de", 2))
    ]


def test_accuracies_by_hand():
    scores = {
        "a": {
            "en": [ranking(0.1), ranking(0.3)],
            "es": [ranking(0.2), ranking(0.6)],
            "de": [ranking(0.5), ranking(0.5)],
        }
    }
    # 10 and 30 % have the mean 20 and the deviation 14.1; the seeds' means over en and es are 15 and 45 %.
    table = accuracy_table(scores, ["en", "es", "de"], ["en", "es"])
    cells = [cell.strip() for cell in table.splitlines()[2].strip("|").split("|")]
    assert cells == ["a", "20.0 ± 14.1", "40.0 ± 28.3", "50.0 ± 0.0", "30.0 ± 21.2", "50.0 ± 0.0"]


def test_the_language_itself_is_found_and_another_hardly(arguments):
    """By an encoder that has read nothing."""
    arguments.unseen = ["de", "en"]
    # Translations of a language into itself are equal texts, with equal embeddings.
    found = translations_found(arguments)
    assert found["en"]["en"] > 0.95
    assert found["de"]["ja"] < 0.1
    assert list(found["de"]) == ["en", "es", "ja", "hi"]
    assert "| de " in translation_table(found).splitlines()[2]


def test_a_damaged_encoder_is_not_measured(arguments, tmp_path):
    folder = tmp_path / "encoder"
    shutil.copytree(arguments.text_encoder_name_or_path, folder)
    write_checksums(folder)
    flip(folder / "model.safetensors")
    arguments.text_encoder_name_or_path = str(folder)
    with pytest.raises(InputError, match="text_encoder_name_or_path .* model.safetensors has other bytes"):
        translations_found(arguments)


def test_convergence_by_hand(arguments):
    """Compute it for a batch of 64 images.

    The goal is where English alone ends, 2.1 and 2.2: the parallel model is there at its second look.
    """
    found = convergence(arguments)
    assert [seed["loss"] for seed in found["parallel"]] == pytest.approx([1.3, 1.4])
    # 300 steps x 64 images; 200 steps x 64 images; and 200 steps with four captions an image.
    assert [(seed["images"], seed["captions"]) for seed in found["english"]] == [(19200, 19200)] * 2
    assert [(seed["images"], seed["captions"]) for seed in found["longer"]] == [(12800, 12800)] * 2
    assert [(seed["images"], seed["captions"]) for seed in found["parallel"]] == [(12800, 51200)] * 2
    # A seed that does not get there.
    found["parallel"][0] |= {"images": None, "captions": None}
    assert "| 1 of 2 seeds" in convergence_table(found).splitlines()[-1]


def test_report_draws_the_four_figures_and_writes_the_tables(arguments, tmp_path):
    text = write_report(results_of(arguments), arguments)
    assert (tmp_path / "parallel.md").read_text() == text + "\n"
    for name in ("training_loss", "validation_loss", "accuracy", "ranks"):
        assert (tmp_path / f"{name}.png").stat().st_size > 8000
    # 30 and 60 % in seen languages, 15 and 30 % in German.
    (line,) = [line for line in text.splitlines() if "parallel captions  " in line and "45.0 ± 21.2" in line][
        :1
    ]
    assert "22.5 ± 10.6" in line


@pytest.mark.slow
def test_every_arm_is_trained_on_what_it_says(miniature, run_python, tmp_path):
    recipe = (ROOT / "training/recipes/parallel/miniature.yaml").read_text()
    recipe = re.sub("max_steps: .*", "max_steps: 2", recipe).replace("eval_steps: 50", "eval_steps: 1")
    recipe = recipe.replace("outputs/miniature/dataset", str(miniature / "dataset")).replace(
        "outputs/miniature/teacher", str(miniature / "clip")
    )
    recipe = recipe.replace("split: train_curated[:1500]", "split: train") + "logging_steps: 1\n"
    (tmp_path / "recipe.yaml").write_text(recipe)
    encoder = miniature / "text_encoder"
    flags = [
        "--recipe",
        tmp_path / "recipe.yaml",
        "--text_encoder_name_or_path",
        encoder,
        "--untrained_text_encoder",
        encoder,
    ]
    flags += ["--seeds", "7", "--output_dir", tmp_path / "out"]
    process = run_python("python", ROOT / "training/run_parallel_experiment.py", RECIPE, *flags)
    assert process.returncode == 0, process.stderr[-3000:]
    steps = {
        name: json.loads((tmp_path / f"out/{name}-7/trainer_state.json").read_text())["global_step"]
        for name in ARMS
    }
    assert steps == {
        "english": 2,
        # four languages, so four times the steps
        "longer": 8,
        "parallel": 2,
        "english_untrained": 2,
        "parallel_untrained": 2,
    }
    said = re.findall(r"Training on .* captions in (.*);", process.stdout)
    assert said == ["en", "en", "en es ja hi", "en", "en es ja hi"]
    assert "Saved the tables to" in process.stdout
    again = run_python("python", ROOT / "training/run_parallel_experiment.py", RECIPE, *flags)
    assert again.returncode == 0
    assert "Training on" not in again.stdout  # nothing is trained twice
