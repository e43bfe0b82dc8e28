"""Draw the card's pictures: training losses, and what the last stage changed in each language."""

from pathlib import Path

from common.extras import of_extra
from common.figures import save_figure
from modeling_altclip.languages_altclip import is_english

from .sections import Section, table_metric
from .stages import read_log

with of_extra("plots"):
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Pictures are written to files, and a server has no display.
matplotlib.use("Agg")

# Training health metrics, as the Trainer logs them.
_HEALTH = ("spread", "nearest", "padding", "distinct")
# Curves that are drawn bold.
_OVERALL = ("loss", "eval_mean_recall")


def plot_losses(logs: dict[str, list[dict]], picture: Path) -> None:
    """Draw each stage's training loss over its steps, side by side.

    Args:
        logs: `{stage: log}`, as `stages.read_log` returns it; each has losses.
    """
    figure = _make_panels(len(logs), width=4, height=3)
    for axes, (stage, log) in zip(figure.axes, logs.items()):
        steps, losses = _curve(log, "loss")
        axes.plot(steps, losses, color="tab:blue")
        axes.set(title=stage, xlabel="step", ylabel="training loss")
        axes.grid(alpha=0.3)
    save_figure(figure, picture, dpi=120)


def plot_training(folder: Path, picture: Path) -> None:
    """Draw what a stage logged to its `trainer_state.json`, and nothing if it logged nothing.

    The panels show the loss, training health metrics, and the recall per language, as far as they were
    logged.
    """
    history = read_log(str(folder))
    panels = _choose_curves(history)
    if not panels:  # a run that ended before it logged
        return

    figure = _make_panels(len(panels), width=5, height=3.5)
    for axes, (title, names) in zip(figure.axes, panels.items()):
        for name in names:
            steps, values = _curve(history, name)
            # "eval_mean_recall_en" -> "en", "eval_mean_recall" -> "mean_recall"
            label = name.removeprefix("eval_mean_recall_").removeprefix("eval_")
            width = 2 if name in _OVERALL else 1
            axes.plot(steps, values, label=label, linewidth=width)

        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.3)
        # One curve needs no legend: the title names it.
        if len(names) > 1:
            n_columns = 2 + len(names) // 8
            axes.legend(fontsize=7, ncols=n_columns)
    save_figure(figure, picture, dpi=100)


def _make_panels(n_panels: int, width: float, height: float) -> Figure:
    """Return a figure with `n_panels` axes side by side, each of this size in inches."""
    figure = Figure(figsize=(n_panels * width, height), layout="constrained")
    figure.subplots(1, n_panels)
    return figure


def _choose_curves(history: list[dict]) -> dict[str, list[str]]:
    """Return the curves of each panel that has data, `{title: names of logged values}`."""
    logged: dict[str, None] = {}  # as an ordered set: legends are in the order of the log
    for entry in history:
        logged |= dict.fromkeys(entry)

    recalls = [name for name in logged if name.startswith("eval_mean_recall_")]
    panels = {
        "training loss": ["loss"],
        "batches": [name for name in _HEALTH if name in logged],
        "mean recall, validation": ["eval_mean_recall", *recalls],
    }
    return {title: names for title, names in panels.items() if not logged.keys().isdisjoint(names)}


def _curve(log: list[dict], name: str) -> tuple[list[int], list[float]]:
    """Return the steps at which a value was logged, and its values there."""
    steps = []
    values = []
    for entry in log:
        if name in entry:
            steps.append(entry["step"])
            values.append(entry[name])
    return steps, values


def plot_recall(section: Section, stages: list[str], picture: Path) -> None:
    """Draw the last stage's text-to-image recall@1 per language.

    The recall of the stage before it and the English recall of the teacher (a dashed line) are drawn as well,
    where they are known.

    Args:
        section: results of a retrieval task, of the last stage at least.
        stages: in training order. Of two or more the first is the teacher. Of three or more the last but one
            is drawn beside the last.
    """
    after = _percent_by_language(section, stages[-1])
    before = {}
    if len(stages) > 2:
        before = _percent_by_language(section, stages[-2])
        before = {language: percent for language, percent in before.items() if language in after}
    english = []
    if len(stages) > 1:
        teacher = _percent_by_language(section, stages[0])
        english = [percent for language, percent in teacher.items() if is_english(language)]

    width = max(6, 0.5 * len(after))
    figure = _make_panels(1, width, height=3.5)
    (axes,) = figure.axes
    label = stages[-1]
    if before:
        label = f"after {stages[-1]}"
        _draw_before(axes, before, after, label=f"after {stages[-2]}")
    positions = range(len(after))
    percents = list(after.values())
    axes.scatter(positions, percents, color="tab:blue", zorder=2, label=label)
    if english:
        axes.axhline(
            english[0],
            color="black",
            linestyle="--",
            linewidth=1,
            label="English teacher, English",
        )

    axes.set(xticks=positions, xticklabels=list(after), ylabel="text-to-image recall@1, %")
    axes.grid(axis="y", alpha=0.3)
    figure.legend(loc="outside upper center", ncols=3, title=section.title)
    save_figure(figure, picture, dpi=120)


def _draw_before(axes: Axes, before: dict[str, float], after: dict[str, float], label: str) -> None:
    """Draw an open circle per language for the stage before, and a grey line from it to the last stage."""
    languages = list(after)
    positions = [languages.index(language) for language in before]
    starts = list(before.values())
    ends = [after[language] for language in before]
    axes.vlines(positions, starts, ends, color="lightgrey", linewidth=3)
    axes.scatter(
        positions,
        starts,
        color="white",
        edgecolor="tab:blue",
        zorder=2,  # above the lines
        label=label,
    )


def _percent_by_language(section: Section, stage: str) -> dict[str, float]:
    """Return what the card's table shows of a stage, `{language: percent}`."""
    metric = table_metric(section.first)
    percents = {}
    for language, result in section.by_language(stage).items():
        percents[language] = 100 * result.metrics[metric]
    return percents
