"""The report's pictures: bars per language with their intervals, paired differences, a heat map of language x task, recall curves."""

from math import ceil, isnan
from pathlib import Path
from statistics import mean

from .comparison import SIGNIFICANT, Comparison, Number
from .extras import of_extra
from .means import MEANS, SHARED_MEAN
from .report import label, short_names
from .results import Result

with of_extra("plots"):
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

matplotlib.use("Agg")

COLORS = ("#2f6db3", "#e0812b", "#3a9a78", "#b0508f", "#7f7f7f", "#c9a227", "#6a51a3", "#8c3b2f")
DEPTHS = range(1, 11)
STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.titlelocation": "left",
    "font.size": 10,
}


def draw_pictures(comparison: Comparison, numbers: list[Number], folder: Path) -> list[tuple[str, str]]:
    """Draw bars and a heat map, differences where there are more than two languages, curves where there is retrieval.

    Args:
        numbers: by each task's own metric.

    Returns:
        `(file name, caption)` of each picture.
    """
    pictures = []
    with matplotlib.rc_context(STYLE):
        plot_languages(comparison, numbers, folder / "languages.png")
        pictures.append(("languages.png", "Each task in each language, with 95 % intervals."))
        models = comparison.values("model")
        if len(comparison.values("language")) > 2 and _any_difference(comparison):
            plot_differences(comparison, folder / "differences.png")
            caption = f"Points by which {short_names(models)[models[-1]]} is ahead of each other model on the same images, with 95 % intervals."
            pictures.append(
                ("differences.png", f"{caption} A full dot is a difference that the paired test is sure of.")
            )
        plot_heat_map(comparison, numbers, folder / "heat_map.png")
        pictures.append(("heat_map.png", "The same at a glance, percent: languages across, tasks down."))
        if any(result.kind == "retrieval" for result in comparison.results.values()):
            plot_recall_curves(comparison, folder / "recall.png")
            caption = (
                "How often the right answer is among the first k. A thin line is a language, a thick one the mean of a model's languages, "
                "where there is one: over all images, or over those that all languages have, where it says so."
            )
            pictures.append(("recall.png", caption))
    return pictures


def plot_languages(comparison: Comparison, numbers: list[Number], picture: Path) -> None:
    """Draw a panel a task and a bar a model and language. A model of one language beside others of several is a line across, with its
    interval around it.
    """
    models, names = comparison.values("model"), short_names(comparison.values("model"))
    figure, panels = panels_of_tasks(comparison, height=1.7)
    handles: dict[str, object] = {}
    for axes, (task, spoken) in panels:
        here = [number for number in numbers if number.task == task]
        of_model = {
            model: {number.language: number for number in here if number.model == model} for model in models
        }
        lines = [model for model in models if len(spoken) > 1 and len(of_model[model]) == 1]
        bars = [model for model in models if of_model[model] and model not in lines]
        for model in models:
            color, name = color_of(model, models), names[model]
            if model in lines:
                (number,) = of_model[model].values()
                if number.interval:
                    low, high = (100 * end for end in number.interval)
                    axes.axhspan(low, high, color=color, alpha=0.15, linewidth=0, zorder=0.8)
                line = axes.axhline(
                    100 * number.value, color=color, linestyle="--", linewidth=1.5, zorder=0.9
                )  # behind the bars
                handles[f"{name} in {number.language}"] = line
            elif model in bars:
                handles[name] = _draw_bars(axes, of_model[model], spoken, bars.index(model), len(bars), color)
        axes.set_title(f"{task}, {label(here[0].metric, {})}, %", fontsize=10)
    _add_legend(figure, handles)
    figure.savefig(picture, dpi=130)


def panels_of_tasks(
    comparison: Comparison, height: float
) -> tuple[Figure, list[tuple[Axes, tuple[str, list[str]]]]]:
    """A figure with a panel a task, `height` inches each, its languages across with the mean set apart; and `(axes, (task, languages))`."""
    tasks, languages = comparison.values("task"), comparison.values("language")
    title = max(map(len, tasks)) + 22  # characters, with the metric; 140 have room on 11 inches
    n_rows = ceil(len(tasks) / max(1, min(4, 12 // len(languages), 140 // title)))
    n_columns = ceil(len(tasks) / n_rows)
    width = max(11 / n_columns, 0.5 * len(languages))
    figure = Figure(figsize=(width * n_columns, height * n_rows + 0.5), layout="constrained")
    panels = list(figure.subplots(n_rows, n_columns, sharey=True, squeeze=False).ravel())
    for axes in panels[len(tasks) :]:
        axes.set_axis_off()
    spoken = [
        [language for language in languages if any(key[1:] == (task, language) for key in comparison.results)]
        for task in tasks
    ]
    for axes, shown in zip(panels, spoken):
        axes.set(xticks=range(len(shown)), xticklabels=map(tick, shown), xlim=(-0.6, len(shown) - 0.4))
        n_languages = sum(language not in MEANS for language in shown)
        if n_languages < len(shown):
            axes.axvline(n_languages - 0.5, color="#bbbbbb", linewidth=1)
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
        axes.tick_params(length=0)
    return figure, list(zip(panels, zip(tasks, spoken)))


def tick(language: str) -> str:
    """How a language or mean is called below its place, where there is room for a word."""
    return language.replace(" ", "\n") if language == SHARED_MEAN else language


def _add_legend(figure: Figure, handles: dict[str, object]) -> None:
    """In as many columns as long names leave room for."""
    n_columns = max(1, min(5, 110 // (6 + max(map(len, handles)))))
    figure.legend(handles.values(), handles.keys(), loc="outside upper left", ncols=n_columns, frameon=False)


def color_of(model: str, models: list[str]) -> str:
    return COLORS[models.index(model) % len(COLORS)]


def _draw_bars(
    axes: Axes, numbers: dict[str, Number], languages: list[str], place: int, n_bars: int, color: str
):
    width = 0.82 / n_bars
    there = [language for language in languages if language in numbers]
    heights = [100 * numbers[language].value for language in there]
    centres = [languages.index(language) + (place - (n_bars - 1) / 2) * width for language in there]
    # Not as errors of the bars, which must not be negative: a number may lie outside the percentile interval of a skewed metric.
    ends = [
        (centre, *numbers[language].interval)
        for centre, language in zip(centres, there)
        if numbers[language].interval
    ]
    for centre, low, high in ends:
        axes.vlines(centre, 100 * low, 100 * high, color="#333333", linewidth=1)
    return axes.bar(centres, heights, 0.92 * width, color=color)


def _any_difference(comparison: Comparison) -> bool:
    """Whether the last model can be paired with any other in any language."""
    *others, last = comparison.values("model")
    return any(
        comparison.difference(last, model, task, language, result.metric) is not None
        for (name, task, language), result in comparison.results.items()
        for model in others
        if name == last and (model, task, language) in comparison.results
    )


def plot_differences(comparison: Comparison, picture: Path) -> None:
    """Draw a panel a task: by how many points the last model is ahead of each other one in each language, with intervals of the paired
    difference; full where the test is sure, hollow where it is not.
    """
    *others, last = comparison.values("model")
    names = short_names([*others, last])
    figure, panels = panels_of_tasks(comparison, height=1.7)
    handles = {}
    for axes, (task, spoken) in panels:
        for place, model in enumerate(others):
            color = color_of(model, [*others, last])
            for at, language in enumerate(spoken):
                if {(model, task, language), (last, task, language)} <= comparison.results.keys():
                    metric = comparison.results[last, task, language].metric
                    found = comparison.difference(last, model, task, language, metric)
                    if found is not None:
                        points, ends = 100 * found.difference, [100 * found.low, 100 * found.high]
                        centre = at + (place - (len(others) - 1) / 2) * 0.5 / len(others)
                        axes.vlines(centre, *ends, color=color, linewidth=1.5)
                        face = color if found.p < SIGNIFICANT else "white"
                        style = {"marker": "o", "markersize": 5, "color": color, "linestyle": "none"}
                        axes.plot(centre, points, markerfacecolor=face, **style)
                        handles[f"{names[last]} less {names[model]}"] = Line2D([], [], **style)
        axes.axhline(0, color="#555555", linewidth=1)
        metric = next(result.metric for key, result in comparison.results.items() if key[1] == task)
        axes.set_title(f"{task}, {label(metric, {})}, points", fontsize=10)
    _add_legend(figure, handles)
    figure.savefig(picture, dpi=130)


def plot_heat_map(comparison: Comparison, numbers: list[Number], picture: Path) -> None:
    """Draw a panel a model: languages across, tasks down, each cell with its number; grey where there is none."""
    models, tasks, languages = (comparison.values(axis) for axis in ("model", "task", "language"))
    values = {(number.model, number.task, number.language): 100 * number.value for number in numbers}
    names, longest = short_names(models), max(map(len, tasks))
    n_rows = ceil(len(models) / max(1, 20 // (2 + len(languages))))
    n_columns = ceil(len(models) / n_rows)
    cells = max(2.2, 0.5 * len(languages))  # inches
    figure = Figure(
        figsize=(0.11 * longest + n_columns * cells + 1, (0.36 * len(tasks) + 0.35) * n_rows + 0.4),
        layout="constrained",
    )
    panels = figure.subplots(n_rows, n_columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes in panels[len(models) :]:
        axes.set_axis_off()
    low, high = min(values.values()), max(values.values())
    for axes, model in zip(panels, models):
        grid = [
            [values.get((model, task, language), float("nan")) for language in languages] for task in tasks
        ]
        image = axes.imshow(grid, cmap="YlGnBu", vmin=low, vmax=high, aspect="auto")
        axes.set_facecolor("#eeeeee")
        for row, of_task in enumerate(grid):
            for column, value in enumerate(of_task):
                dark = value > low + 0.6 * (high - low)
                text = "" if isnan(value) else f"{value:.1f}"
                axes.text(
                    column,
                    row,
                    text,
                    ha="center",
                    va="center",
                    fontsize=8,
                    color="white" if dark else "#222222",
                )
        axes.set_title(names[model], fontsize=10)
        axes.set(
            xticks=range(len(languages)),
            yticks=range(len(tasks)),
            xticklabels=map(tick, languages),
            yticklabels=tasks,
        )
        axes.set_xticks([place - 0.5 for place in range(1, len(languages))], minor=True)
        axes.set_yticks([place - 0.5 for place in range(1, len(tasks))], minor=True)
        axes.grid(which="minor", color="white", linewidth=1.5)
        axes.tick_params(which="both", length=0)
        axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=figure.axes, label="%", shrink=0.8, pad=0.01)
    figure.savefig(picture, dpi=130)


def _thick_curve(
    comparison: Comparison, found: list[Result], curves: list[list[float]], direction: str
) -> tuple[list[float] | None, str]:
    """A model's curve over its languages and what it is of: the mean, on the images that all languages have, or None."""
    languages = [result.language for result in found]
    if len(found) == 1:
        return curves[0], languages[0]
    outcomes = comparison.mean_outcomes(found[0].model, found[0].task, languages)
    if outcomes is None:
        return None, f"{len(found)} languages"
    if outcomes.is_whole:
        return [mean(column) for column in zip(*curves)], f"mean of {len(found)}"
    metrics = outcomes.metrics()
    return [
        100 * metrics[f"{direction}_recall@{k}"] for k in DEPTHS
    ], f"mean of {len(found)} on {outcomes.n_units:,} shared images"


def plot_recall_curves(comparison: Comparison, picture: Path) -> None:
    """Draw recall at depths 1 to 10: a row of panels a task, a column a direction, a thin line a language, a thick one their mean."""
    models = comparison.values("model")
    kinds = {key[1]: result.kind for key, result in comparison.results.items()}
    tasks = [task for task in comparison.values("task") if kinds[task] == "retrieval"]
    names = short_names(models)
    figure = Figure(figsize=(10, 2.9 * len(tasks) + 0.5), layout="constrained")
    for row, task in zip(figure.subplots(len(tasks), 2, sharex=True, sharey="row", squeeze=False), tasks):
        for axes, (direction, words) in zip(
            row, (("text_to_image", "text to image"), ("image_to_text", "image to text"))
        ):
            for place, model in enumerate(models):
                found = [
                    result
                    for key, result in comparison.results.items()
                    if key[:2] == (model, task) and key[2] not in MEANS
                ]
                curves = [
                    [100 * result.metrics[f"{direction}_recall@{k}"] for k in DEPTHS] for result in found
                ]
                if curves:
                    color = COLORS[place % len(COLORS)]
                    for curve in curves if len(curves) > 1 else []:
                        axes.plot(DEPTHS, curve, color=color, linewidth=0.6, alpha=0.35)
                    thick, what = _thick_curve(comparison, found, curves, direction)
                    style = {"color": color, "label": f"{names[model]}, {what}"}
                    if thick is None:
                        axes.plot([], [], linewidth=0.6, **style)
                    else:
                        axes.plot(DEPTHS, thick, "o-", markersize=4, **style)
            axes.set_title(f"{task}, {words}", fontsize=10)
            axes.set(xticks=DEPTHS, ylabel="recall@k, %" if axes is row[0] else None)
            axes.grid(alpha=0.3)
        row[0].legend(fontsize=8, frameon=False, loc="best")
    figure.supxlabel("k", fontsize=10)
    figure.savefig(picture, dpi=130)
