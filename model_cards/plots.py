"""The card's pictures: how the losses fell, and what the last stage changed in each language."""

import json
from pathlib import Path

from benchmarks.extras import of_extra
from modeling_altclip.languages_altclip import is_english

from .figures import Section, shown

with of_extra("plots"):
    import matplotlib
    from matplotlib.figure import Figure

matplotlib.use("Agg")


def plot_losses(logs: dict[str, list[dict]], picture: Path) -> None:
    """Draw each stage's training loss over its steps, side by side.

    Args:
        logs: `{stage: log}`, as `stages.read_log` gives it; each has losses.
    """
    figure = Figure(figsize=(4 * len(logs), 3), layout="constrained")
    for axes, (stage, log) in zip(figure.subplots(1, len(logs), squeeze=False)[0], logs.items()):
        steps, losses = zip(*((entry["step"], entry["loss"]) for entry in log if "loss" in entry))
        axes.plot(steps, losses, color="tab:blue")
        axes.set(title=stage, xlabel="step", ylabel="training loss")
        axes.grid(alpha=0.3)
    figure.savefig(picture, dpi=120)


def plot_training(folder: Path, picture: Path) -> None:
    """Draw what a stage logged to its `trainer_state.json`: loss, how the batches fared, and recall per
    language if it was evaluated.
    """
    history = json.loads((folder / "trainer_state.json").read_text("utf-8"))["log_history"]
    names = list(dict.fromkeys(name for entry in history for name in entry))
    recalls = [name for name in names if name.startswith("eval_mean_recall_")]
    health = [name for name in ("spread", "nearest", "padding", "distinct") if name in names]
    panels = [
        ("training loss", ["loss"]),
        ("batches", health),
        ("mean recall, validation", ["eval_mean_recall", *recalls]),
    ]
    panels = [(title, curves) for title, curves in panels if set(curves) & set(names)]
    if not panels:  # a run that ended before it logged
        return
    figure = Figure(figsize=(5 * len(panels), 3.5), layout="constrained")
    for axes, (title, curves) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels):
        for name in curves:
            steps, values = zip(*((entry["step"], entry[name]) for entry in history if name in entry))
            bold = name in ("loss", "eval_mean_recall")
            axes.plot(
                steps,
                values,
                label=name.removeprefix("eval_mean_recall_").removeprefix("eval_"),
                linewidth=2 if bold else 1,
            )
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.3)
        if len(curves) > 1:
            axes.legend(fontsize=7, ncols=2 + len(curves) // 8)
    figure.savefig(picture, dpi=100)


def plot_recall(section: Section, stages: list[str], picture: Path) -> None:
    """Draw text-to-image recall@1 of the last stage per language, that of the stage before it, and the
    English teacher as a line.

    Args:
        section: figures of a retrieval task, of the last stage at least.
        stages: in training order. Of three or more the first is the teacher and the last but one stands
            beside the last; of two the first is the teacher.
    """
    metric = shown(section.first)

    def percent(stage: str) -> dict[str, float]:
        return {language: 100 * result.metrics[metric] for language, result in section.of(stage).items()}

    after = percent(stages[-1])
    before = (
        {language: value for language, value in percent(stages[-2]).items() if language in after}
        if len(stages) > 2
        else {}
    )
    places = {language: place for place, language in enumerate(after)}
    figure = Figure(figsize=(max(6, 0.5 * len(after)), 3.5), layout="constrained")
    axes = figure.subplots()
    if before:
        where = [places[language] for language in before]
        axes.vlines(
            where,
            list(before.values()),
            [after[language] for language in before],
            color="lightgrey",
            linewidth=3,
        )
        axes.scatter(
            where,
            list(before.values()),
            color="white",
            edgecolor="tab:blue",
            zorder=2,
            label=f"after {stages[-2]}",
        )
    axes.scatter(
        range(len(after)),
        list(after.values()),
        color="tab:blue",
        zorder=2,
        label=f"after {stages[-1]}" if before else stages[-1],
    )
    english = [value for language, value in percent(stages[0]).items() if is_english(language)]
    if english and len(stages) > 1:
        axes.axhline(english[0], color="black", linestyle="--", linewidth=1, label="English teacher, English")
    axes.set(xticks=range(len(after)), xticklabels=list(after), ylabel="text-to-image recall@1, %")
    figure.legend(loc="outside upper center", ncols=3, title=section.title)
    axes.grid(axis="y", alpha=0.3)
    figure.savefig(picture, dpi=120)
