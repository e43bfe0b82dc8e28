"""The card's pictures: how the losses fell, and what stage 2 changed in each language."""

import json
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from benchmarks.results import Result

from .card import COLUMNS, score_of

matplotlib.use("Agg")


def plot_losses(stage_folders: list[Path], picture: Path) -> None:
    """Draw each stage's training loss over its steps, side by side, from the `trainer_state.json` it left."""
    figure = Figure(figsize=(4 * len(stage_folders), 3), layout="constrained")
    for axes, folder in zip(figure.subplots(1, len(stage_folders), squeeze=False)[0], stage_folders):
        history = json.loads((folder / "trainer_state.json").read_text("utf-8"))["log_history"]
        steps, losses = zip(*((entry["step"], entry["loss"]) for entry in history if "loss" in entry))
        axes.plot(steps, losses, color="tab:blue")
        axes.set(title=folder.name, xlabel="step", ylabel="training loss", ylim=(0, None))
        axes.grid(alpha=0.3)
    figure.savefig(picture, dpi=120)


def plot_recall(results: list[Result], stages: list[str], split: str, picture: Path) -> None:
    """Draw text-to-image recall@1 per language for the multilingual stages, and the English teacher as a line."""
    scores, column = score_of(results), COLUMNS["retrieval"]
    teacher, *multilingual = stages
    languages = list(dict.fromkeys(result.language for result in results if Path(result.model).name == stages[-1]))
    figure = Figure(figsize=(max(6, 0.6 * len(languages)), 3.5), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(multilingual)
    for i, stage in enumerate(multilingual):
        heights = [100 * scores[stage, "retrieval", split, language][column] for language in languages]
        axes.bar([x + (i + 0.5) * width - 0.4 for x in range(len(languages))], heights, width, label=f"after {stage}")
    english = 100 * scores[teacher, "retrieval", split, "en"][column]
    axes.axhline(english, color="black", linestyle="--", linewidth=1, label="English teacher, English")
    axes.set(xticks=range(len(languages)), xticklabels=languages, ylabel="text-to-image recall@1, %", title=split, ylim=(0, 100))
    axes.legend(loc="lower right", ncols=3)
    axes.grid(axis="y", alpha=0.3)
    figure.savefig(picture, dpi=120)
