"""The card's pictures: how the losses fell, and what stage 2 changed in each language."""

import json
from pathlib import Path

from benchmarks.extras import of_extra
from benchmarks.results import Result

from .card import score_of

with of_extra("plots"):
    import matplotlib
    from matplotlib.figure import Figure

matplotlib.use("Agg")


def plot_losses(stage_folders: list[Path], picture: Path) -> None:
    """Draw each stage's training loss over its steps, side by side, from the `trainer_state.json` it left."""
    figure = Figure(figsize=(4 * len(stage_folders), 3), layout="constrained")
    for axes, folder in zip(figure.subplots(1, len(stage_folders), squeeze=False)[0], stage_folders):
        history = json.loads((folder / "trainer_state.json").read_text("utf-8"))["log_history"]
        steps, losses = zip(*((entry["step"], entry["loss"]) for entry in history if "loss" in entry))
        axes.plot(steps, losses, color="tab:blue")
        axes.set(title=folder.name, xlabel="step", ylabel="training loss")
        axes.grid(alpha=0.3)
    figure.savefig(picture, dpi=120)


def plot_training(folder: Path, picture: Path) -> None:
    """Draw what a stage logged to its `trainer_state.json`: loss, how the batches fared, and recall per language if it was evaluated."""
    history = json.loads((folder / "trainer_state.json").read_text("utf-8"))["log_history"]
    names = list(dict.fromkeys(name for entry in history for name in entry))
    recalls = [name for name in names if name.startswith("eval_mean_recall_")]
    health = [name for name in ("spread", "nearest", "padding", "distinct") if name in names]
    panels = [("training loss", ["loss"]), ("batches", health), ("mean recall, validation", ["eval_mean_recall", *recalls])]
    panels = [(title, curves) for title, curves in panels if set(curves) & set(names)]
    if not panels:  # a run that ended before it logged
        return
    figure = Figure(figsize=(5 * len(panels), 3.5), layout="constrained")
    for axes, (title, curves) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels):
        for name in curves:
            steps, values = zip(*((entry["step"], entry[name]) for entry in history if name in entry))
            bold = name in ("loss", "eval_mean_recall")
            axes.plot(steps, values, label=name.removeprefix("eval_mean_recall_").removeprefix("eval_"), linewidth=2 if bold else 1)
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.3)
        if len(curves) > 1:
            axes.legend(fontsize=7, ncols=2 + len(curves) // 8)
    figure.savefig(picture, dpi=100)


def plot_recall(results: list[Result], stages: list[str], task: str, picture: Path) -> None:
    """Draw text-to-image recall@1 per language before and after the last of three stages, and the English teacher as a line."""
    scores, column = score_of(results), "text_to_image_recall@1"
    teacher, before, after = stages
    languages = list(dict.fromkeys(result.language for result in results if Path(result.model).name == after))
    heights = {stage: [100 * scores[stage, task, language][column] for language in languages] for stage in (before, after)}
    figure = Figure(figsize=(max(6, 0.5 * len(languages)), 3.5), layout="constrained")
    axes = figure.subplots()
    axes.vlines(range(len(languages)), heights[before], heights[after], color="lightgrey", linewidth=3)
    axes.scatter(range(len(languages)), heights[before], color="white", edgecolor="tab:blue", zorder=2, label=f"after {before}")
    axes.scatter(range(len(languages)), heights[after], color="tab:blue", zorder=2, label=f"after {after}")
    english = 100 * scores[teacher, task, "en"][column]
    axes.axhline(english, color="black", linestyle="--", linewidth=1, label="English teacher, English")
    axes.set(xticks=range(len(languages)), xticklabels=languages, ylabel="text-to-image recall@1, %")
    figure.legend(loc="outside upper center", ncols=3, title=task)
    axes.grid(axis="y", alpha=0.3)
    figure.savefig(picture, dpi=120)
