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

# A name with dollars is no formula.
_AS_TEXT = {"text.parse_math": False}
# Training health metrics, as the Trainer logs them.
_HEALTH = ("spread", "nearest", "padding", "distinct")
# Curves that are drawn bold.
_OVERALL = ("loss", "eval_mean_recall")


@matplotlib.rc_context(_AS_TEXT)
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


@matplotlib.rc_context(_AS_TEXT)
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


@matplotlib.rc_context(_AS_TEXT)
def plot_recall(section: Section, stages: list[str], picture: Path) -> None:
    """Draw the last stage's text-to-image recall@1 with its 95 % interval, a row for each language.

    The recall of the stage before it and the English recall of the teacher (a dashed line, its interval in
    grey) are drawn as well, where they are known with their intervals.

    Args:
        section: results of a retrieval task, of the last stage at least, which has intervals.
        stages: in training order. Of two or more the first is the teacher. Of three or more the last but one
            is drawn beside the last.
    """
    after = _recalls(section, stages[-1])
    before = {}
    if len(stages) > 2:
        before = _recalls(section, stages[-2])
        before = {language: recall for language, recall in before.items() if language in after}

    figure = _make_panels(1, 7, height=1.5 + 0.3 * len(after))
    (axes,) = figure.axes
    place_of = {language: place for place, language in enumerate(after)}
    if len(stages) > 1:
        _draw_teacher(axes, _recalls(section, stages[0]))
    label = f"after {stages[-1]}" if before else stages[-1]
    _draw_recalls(axes, after, [place_of[language] for language in after], "tab:blue", label)
    if before:
        # A little below, so that both intervals are seen.
        places = [place_of[language] + 0.25 for language in before]
        _draw_recalls(axes, before, places, "silver", f"after {stages[-2]}")

    axes.set(yticks=list(place_of.values()), yticklabels=list(after), xlabel="text-to-image recall@1, %")
    axes.set_ylim(len(after) - 0.4, -0.6)  # the first language on top
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper center", ncols=3, title=section.title)
    save_figure(figure, picture, dpi=120)


def _draw_recalls(
    axes: Axes, recalls: dict[str, list[float]], places: list[float], color: str, label: str
) -> None:
    """Draw a point with its interval for each language."""
    values, lows, highs = zip(*recalls.values())
    errors = [
        [value - low for value, low in zip(values, lows)],
        [high - value for value, high in zip(values, highs)],
    ]
    axes.errorbar(values, places, xerr=errors, fmt="o", color=color, markersize=5, label=label)


def _draw_teacher(axes: Axes, recalls: dict[str, list[float]]) -> None:
    """Draw the English recall of the teacher, where it is known."""
    for language, (value, low, high) in recalls.items():
        if is_english(language):
            axes.axvline(value, color="black", linestyle="--", linewidth=1, label="English teacher, English")
            axes.axvspan(low, high, color="black", alpha=0.07)
            return


def _recalls(section: Section, stage: str) -> dict[str, list[float]]:
    """Return what the card's table shows of a stage, `{language: [percent, low, high]}`.

    Results without an interval are left out.
    """
    metric = table_metric(section.first)
    recalls = {}
    for language, result in section.by_language(stage).items():
        if metric in result.intervals:
            fractions = [result.metrics[metric], *result.intervals[metric]]
            recalls[language] = [100 * fraction for fraction in fractions]
    return recalls
