"""Ablation: each figure has its place in the table, and each row is trained on the data it names."""

import json
import re

import pytest

from benchmarks.results import Result
from training.ablation import ROWS, ablation_table, plot_ablation, summarise

from .conftest import ROOT


def result(model, kind, language, figure):
    metric = "mean_recall" if kind == "retrieval" else "accuracy@1"
    known = {"task": "a task", "dataset": "", "split": "", "weights": "", "command": ""}
    return Result(
        model=f"outputs/{model}",
        kind=kind,
        language=language,
        metric=metric,
        metrics={metric: figure},
        **known,
    )


@pytest.fixture
def results():
    """Return the results of two rows and two seeds.

    In retrieval, English scores 0.1 times the seed, Chinese 0.2 and Thai 0.4; in zero-shot, twice as much.
    """
    scores = {"en": 0.1, "zh": 0.2, "th": 0.4}
    found = []
    for row in ("both", "both_contrastive"):
        for seed in (1, 2):
            for language, score in scores.items():
                found.append(result(f"{row}-{seed}", "retrieval", language, seed * score))
                found.append(result(f"{row}-{seed}", "zero_shot", language, 2 * seed * score))
    return found


def test_figures_by_hand(results):
    summary = summarise(results)
    assert list(summary) == ["both", "both_contrastive"]
    # Percent of each seed: retrieval in English and the mean of the others, and zero-shot likewise.
    for found, expected in zip(summary["both"], ([10, 20], [30, 60], [20, 40], [60, 120])):
        assert found == pytest.approx(expected)

    lines = ablation_table(summary).splitlines()
    assert "| EN-EN + EN-XX " in lines[2]
    # 10 and 20 have the mean 15 and the standard deviation 10 / sqrt(2); 30 and 60 have 45 and 30 / sqrt(2).
    assert "15.0 ± 7.1" in lines[2]
    assert "45.0 ± 21.2" in lines[2]
    assert "88.3 / 87.2 / 74.7 / 58.2" in lines[2]  # the paper's own figures


def test_the_picture_is_drawn(results, tmp_path):
    plot_ablation(summarise(results), tmp_path / "ablation.png")
    assert (tmp_path / "ablation.png").stat().st_size > 5000


def test_the_rows_are_five_ways_to_train():
    ways = {(row.english, row.translations, row.contrastive) for row in ROWS.values()}
    assert len(ways) == 5


@pytest.mark.slow
def test_every_row_is_trained_on_what_it_says(miniature, run_python, tmp_path):
    """With recipes of two steps: English alone, the others alone, both, and what stage 2 begins with."""
    for stage in ("stage1", "stage2"):
        recipe = (ROOT / f"training/recipes/miniature/{stage}.yaml").read_text()
        (tmp_path / f"{stage}.yaml").write_text(re.sub(r"max_steps: \d+", "max_steps: 2", recipe))
    command = ["python", ROOT / "training/run_ablation.py"]
    command += [ROOT / "training/recipes/ablation/miniature.yaml"]
    command += ["--stage1", tmp_path / "stage1.yaml", "--stage2", tmp_path / "stage2.yaml"]
    command += ["--dataset", miniature / "dataset", "--seeds", "7"]
    command += ["--teacher_name_or_path", miniature / "clip"]
    command += ["--text_encoder_name_or_path", miniature / "text_encoder"]
    command += ["--output_dir", tmp_path / "out"]
    process = run_python(*command)
    assert process.returncode == 0, process.stderr[-3000:]
    assert (
        process.stdout.strip().splitlines()[-1]
        == f"Saved the table to {tmp_path}/out/ablation.md. Next: look at {tmp_path}/out/ablation.png."
    )
    # 600 rows: in English, in 18 other languages, and in both.
    examples = [line.split()[2] for line in process.stdout.splitlines() if line.startswith("Training on")]
    assert examples == ["600", "10800", "11400", "11400", "11400"]
    assert len((tmp_path / "out/ablation.md").read_text().splitlines()) == 7  # two of a header, five rows
    chinese = json.loads((tmp_path / "out/results/contrastive-7/miniature-pairs.zh.json").read_text())
    assert "contrastive-7" in chinese["command"]

    again = run_python(*command)  # what is finished is not trained again
    assert again.returncode == 0
    assert "Training on" not in again.stdout
