"""Plots of a report: bars per language, differences, a heat map, recall curves, language preferences."""

from dataclasses import dataclass
from math import ceil, isnan
from pathlib import Path
from statistics import mean

from common.extras import of_extra
from common.figures import save_figure

from ..outcomes import DEPTHS
from ..results import Result
from .comparison import SIGNIFICANT, Comparison, Number
from .formatting import label, short_names
from .means import MEANS, SHARED_MEAN

with of_extra("plots"):
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.container import BarContainer
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

matplotlib.use("Agg")  # draws to files, and needs no screen

_COLORS = ("#2f6db3", "#e0812b", "#3a9a78", "#b0508f", "#7f7f7f", "#c9a227", "#6a51a3", "#8c3b2f")
_DIRECTIONS = {"text_to_image": "text to image", "image_to_text": "image to text"}
_PREFERENCES = {
    "image_to_text_preference": "images as queries",
    "text_to_text_preference": "texts as queries",
}
_STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.titlelocation": "left",
    "font.size": 10,
    "text.parse_math": False,  # a name with dollars is no formula
}


@dataclass
class _Panel:
    """Axes of one task, with a tick for each language in which it has results.

    Ticks are the places 0, 1, 2, ... of `languages`.
    """

    axes: Axes
    task: str
    languages: list[str]


def draw_pictures(comparison: Comparison, numbers: list[Number], folder: Path) -> list[tuple[str, str]]:
    """Draw bars and a heat map, and where they apply paired differences, recall curves and preferences.

    Differences need more than two languages, curves a retrieval task, and preferences a mixed pool.

    Args:
        numbers: by each task's own metric.

    Returns:
        `(file name, caption)` of each picture.
    """
    pictures = []
    with matplotlib.rc_context(_STYLE):
        plot_languages(comparison, numbers, folder / "languages.png")
        pictures.append(("languages.png", "Each task in each language, with 95 % intervals."))

        if len(comparison.values("language")) > 2 and _any_difference(comparison):
            _plot_differences(comparison, folder / "differences.png")
            models = comparison.values("model")
            caption = (
                f"Difference in points between {short_names(models)[models[-1]]} and each other model on the "
                "same images, with 95 % intervals. A filled dot is a significant difference (paired test)."
            )
            pictures.append(("differences.png", caption))

        plot_heat_map(comparison, numbers, folder / "heat_map.png")
        caption = "The same numbers as a heat map, in percent: one column per language, one row per task."
        pictures.append(("heat_map.png", caption))

        if any(result.kind == "retrieval" for result in comparison.results.values()):
            plot_recall_curves(comparison, folder / "recall.png")
            caption = (
                "Recall@k. Thin lines are languages. Thick lines are a model's mean over languages: over all "
                "images, or over shared images where the legend says so."
            )
            pictures.append(("recall.png", caption))

        if any(result.kind == "mixed_pool" for result in comparison.results.values()):
            plot_preferences(comparison, folder / "preference.png")
            caption = (
                "Language preference in a mixed pool, with 95 % intervals: the share of a language among the "
                "wrong first answers in it and another one. The line, at 50 %, is no preference. Texts are "
                "queries in the language itself."
            )
            pictures.append(("preference.png", caption))
    return pictures


def plot_languages(comparison: Comparison, numbers: list[Number], picture: Path) -> None:
    """Draw a panel for each task, with a bar for each model and language.

    A model of one language beside others of several is a line across the panel, with its interval around it.
    """
    models = comparison.values("model")
    names = short_names(models)
    figure, panels = _panels_of_tasks(comparison, height=1.7)
    handles: dict[str, object] = {}  # by their text in the legend, once for all panels
    for panel in panels:
        of_task = [number for number in numbers if number.task == panel.task]
        # {model: {language: number}}
        by_model: dict[str, dict[str, Number]] = {model: {} for model in models}
        for number in of_task:
            by_model[number.model][number.language] = number

        # A model of one language is a line where there are several languages, and all others are bars.
        lines = []
        if len(panel.languages) > 1:
            lines = [model for model in models if len(by_model[model]) == 1]
        bars = [model for model in models if by_model[model] and model not in lines]
        for model in models:
            color = _color_of(model, models)
            if model in lines:
                (number,) = by_model[model].values()
                handle = _draw_line(panel.axes, number, color)
                handles[f"{names[model]} in {number.language}"] = handle
            elif model in bars:
                place = bars.index(model)
                handle = _draw_bars(panel, by_model[model], place, len(bars), color)
                handles[names[model]] = handle
        panel.axes.set_title(f"{panel.task}, {label(of_task[0].metric, {})}, %", fontsize=10)
    _add_legend(figure, handles)
    save_figure(figure, picture, dpi=130)


def _panels_of_tasks(comparison: Comparison, height: float) -> tuple[Figure, list[_Panel]]:
    """Make a figure with a panel for each task, its languages across and means separated by a line.

    Args:
        height: of a panel, in inches.
    """
    tasks = comparison.values("task")
    languages = comparison.values("language")
    n_rows = ceil(len(tasks) / _max_columns(tasks, languages))
    n_columns = ceil(len(tasks) / n_rows)  # evenly: 5 panels with room for 4 are rows of 3 and 2
    width = max(11 / n_columns, 0.5 * len(languages))
    figure = Figure(figsize=(width * n_columns, height * n_rows + 0.5), layout="constrained")
    all_axes = list(figure.subplots(n_rows, n_columns, sharey=True, squeeze=False).ravel())
    for axes in all_axes[len(tasks) :]:  # places of the last row without a task
        axes.set_axis_off()

    measured = {(task, language) for _, task, language in comparison.results}
    panels = []
    for axes, task in zip(all_axes, tasks):
        shown = [language for language in languages if (task, language) in measured]
        axes.set_xticks(range(len(shown)), [_tick_label(language) for language in shown])
        axes.set_xlim(-0.6, len(shown) - 0.4)
        # Means come after the languages.
        n_languages = sum(language not in MEANS for language in shown)
        if n_languages < len(shown):
            axes.axvline(n_languages - 0.5, color="#bbbbbb", linewidth=1)
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
        axes.tick_params(length=0)
        panels.append(_Panel(axes, task, shown))
    return figure, panels


def _max_columns(tasks: list[str], languages: list[str]) -> int:
    """Return how many panels have room side by side, for their bars and for their titles."""
    by_bars = 12 // len(languages)
    title_width = max(map(len, tasks)) + 22  # characters, with the metric
    by_titles = 140 // title_width  # 140 characters have room on 11 inches
    return max(1, min(4, by_bars, by_titles))


def _tick_label(language: str) -> str:
    """Return the label below the tick of a language or mean; a long name has one word a line."""
    return language.replace(" ", "\n") if language == SHARED_MEAN else language


def _add_legend(figure: Figure, handles: dict[str, object]) -> None:
    """Add a legend above the panels, in as many columns as its longest name leaves room for."""
    entry_width = 6 + max(map(len, handles))  # characters, with the handle; 110 have room in a row
    n_columns = max(1, min(5, 110 // entry_width))
    figure.legend(handles.values(), handles.keys(), loc="outside upper left", ncols=n_columns, frameon=False)


def _color_of(model: str, models: list[str]) -> str:
    """Return the color of a model, which is the same in all plots of a report."""
    return _COLORS[models.index(model) % len(_COLORS)]


def _draw_line(axes: Axes, number: Number, color: str) -> Line2D:
    """Draw a number as a line across a panel, and its interval as a band, both behind the bars."""
    if number.interval:
        low, high = number.interval
        axes.axhspan(100 * low, 100 * high, color=color, alpha=0.15, linewidth=0, zorder=0.8)
    return axes.axhline(100 * number.value, color=color, linestyle="--", linewidth=1.5, zorder=0.9)


def _draw_bars(
    panel: _Panel, numbers: dict[str, Number], place: int, n_bars: int, color: str
) -> BarContainer:
    """Draw a model's bars with their intervals.

    Args:
        numbers: the model's numbers by language.
        place: the bar's place among the `n_bars` of each language.
    """
    width = 0.82 / n_bars
    # Two bars of a language: half a width to the left of its tick, and half a width to the right.
    offset = (place - (n_bars - 1) / 2) * width
    centres = []
    heights = []
    for tick, language in enumerate(panel.languages):
        if language not in numbers:
            continue
        number = numbers[language]
        centre = tick + offset
        centres.append(centre)
        heights.append(100 * number.value)
        # Not as errors of the bars, which must not be negative: a number may lie outside the percentile
        # interval of a skewed metric.
        if number.interval:
            low, high = number.interval
            panel.axes.vlines(centre, 100 * low, 100 * high, color="#333333", linewidth=1)
    return panel.axes.bar(centres, heights, 0.92 * width, color=color)


def _any_difference(comparison: Comparison) -> bool:
    """Check if the last model can be paired with any other one on any task and language."""
    *others, last = comparison.values("model")
    for (model, task, language), result in comparison.results.items():
        if model != last:
            continue
        for other in others:
            if (other, task, language) not in comparison.results:
                continue
            if comparison.difference(last, other, task, language, result.metric) is not None:
                return True
    return False


def _plot_differences(comparison: Comparison, picture: Path) -> None:
    """Draw a panel for each task: by how many points the last model is ahead of each other one.

    There is a dot for each language, with the interval of the paired difference: full where the test is sure,
    hollow where it is not.
    """
    models = comparison.values("model")
    *others, last = models
    names = short_names(models)
    figure, panels = _panels_of_tasks(comparison, height=1.7)
    handles = {}
    for panel in panels:
        for place, model in enumerate(others):
            # Dots of one language are side by side, on half the distance between two ticks in all.
            offset = (place - (len(others) - 1) / 2) * 0.5 / len(others)
            color = _color_of(model, models)
            handle = _draw_dots(panel, comparison, (last, model), offset, color)
            if handle is not None:
                handles[f"{names[last]} minus {names[model]}"] = handle
        panel.axes.axhline(0, color="#555555", linewidth=1)
        metric = label(comparison.metric_of(panel.task), {})
        panel.axes.set_title(f"{panel.task}, {metric}, points", fontsize=10)
    _add_legend(figure, handles)
    save_figure(figure, picture, dpi=130)


def _draw_dots(
    panel: _Panel, comparison: Comparison, pair: tuple[str, str], offset: float, color: str
) -> Line2D | None:
    """Draw the differences of a pair of models, `offset` beside the ticks of the languages.

    Returns:
        A handle for the legend, or None where there is no difference to draw.
    """
    one, other = pair
    style = {"marker": "o", "markersize": 5, "color": color, "linestyle": "none"}
    is_any_drawn = False
    for tick, language in enumerate(panel.languages):
        keys = {(other, panel.task, language), (one, panel.task, language)}
        if not keys <= comparison.results.keys():
            continue
        metric = comparison.results[one, panel.task, language].metric
        found = comparison.difference(one, other, panel.task, language, metric)
        if found is None:  # measured on other items
            continue
        centre = tick + offset
        panel.axes.vlines(centre, 100 * found.low, 100 * found.high, color=color, linewidth=1.5)
        face = color if found.p < SIGNIFICANT else "white"
        panel.axes.plot(centre, 100 * found.difference, markerfacecolor=face, **style)
        is_any_drawn = True
    # Not one of the dots in the panel, which may be hollow.
    return Line2D([], [], **style) if is_any_drawn else None


def plot_heat_map(comparison: Comparison, numbers: list[Number], picture: Path) -> None:
    """Draw a panel for each model: languages across, tasks down, and grey cells where a number is missing."""
    models = comparison.values("model")
    tasks = comparison.values("task")
    languages = comparison.values("language")
    names = short_names(models)
    values = {(number.model, number.task, number.language): 100 * number.value for number in numbers}

    max_columns = max(1, 20 // (2 + len(languages)))
    n_rows = ceil(len(models) / max_columns)
    n_columns = ceil(len(models) / n_rows)
    # In inches. The panels of a row share the tasks' names, which are left of the first one.
    label_width = 0.11 * max(map(len, tasks))
    cells_width = max(2.2, 0.5 * len(languages))
    width = label_width + n_columns * cells_width + 1
    height = (0.36 * len(tasks) + 0.35) * n_rows + 0.4
    figure = Figure(figsize=(width, height), layout="constrained")
    panels = figure.subplots(n_rows, n_columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes in panels[len(models) :]:
        axes.set_axis_off()

    # All panels share one scale of colors.
    scale = (min(values.values()), max(values.values()))
    for axes, model in zip(panels, models):
        grid = []
        for task in tasks:
            grid.append([values.get((model, task, language), float("nan")) for language in languages])
        image = _draw_heat_map(axes, grid, scale)
        axes.set_title(names[model], fontsize=10)
        axes.set_xticks(range(len(languages)), [_tick_label(language) for language in languages])
        axes.set_yticks(range(len(tasks)), tasks)
        _separate_cells(axes, len(languages), len(tasks))
    figure.colorbar(image, ax=figure.axes, label="%", shrink=0.8, pad=0.01)
    save_figure(figure, picture, dpi=130)


def _draw_heat_map(axes: Axes, grid: list[list[float]], scale: tuple[float, float]):
    """Draw rows of cells, colored between the ends of the scale; return the image, for the color bar."""
    low, high = scale
    image = axes.imshow(grid, cmap="YlGnBu", vmin=low, vmax=high, aspect="auto")
    axes.set_facecolor("#eeeeee")  # shows where a number is missing
    style = {"ha": "center", "va": "center", "fontsize": 8}
    for row, values in enumerate(grid):
        for column, value in enumerate(values):
            text = "" if isnan(value) else f"{value:.1f}"
            is_dark = value > low + 0.6 * (high - low)
            color = "white" if is_dark else "#222222"
            axes.text(column, row, text, color=color, **style)
    return image


def _separate_cells(axes: Axes, n_columns: int, n_rows: int) -> None:
    """Draw white lines between the cells of a heat map, by a grid of minor ticks."""
    axes.set_xticks([place - 0.5 for place in range(1, n_columns)], minor=True)
    axes.set_yticks([place - 0.5 for place in range(1, n_rows)], minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)


def plot_recall_curves(comparison: Comparison, picture: Path) -> None:
    """Draw recall at depths 1 to 10: a row of panels for each task, a column for each direction.

    A thin line is a language, a thick one the mean of a model's languages.
    """
    # All results of a task are of one kind.
    kinds = {task: result.kind for (_, task, _), result in comparison.results.items()}
    tasks = [task for task in comparison.values("task") if kinds[task] == "retrieval"]
    figure = Figure(figsize=(10, 2.9 * len(tasks) + 0.5), layout="constrained")
    rows = figure.subplots(len(tasks), 2, sharex=True, sharey="row", squeeze=False)
    for row, task in zip(rows, tasks):
        for axes, (direction, title) in zip(row, _DIRECTIONS.items()):
            _draw_curves(axes, comparison, task, direction)
            axes.set_title(f"{task}, {title}", fontsize=10)
            axes.set(xticks=DEPTHS, ylabel="recall@k, %" if axes is row[0] else None)
            axes.grid(alpha=0.3)
        row[0].legend(fontsize=8, frameon=False, loc="best")
    figure.supxlabel("k", fontsize=10)
    save_figure(figure, picture, dpi=130)


def _draw_curves(axes: Axes, comparison: Comparison, task: str, direction: str) -> None:
    """Draw the curves of all models in one direction of a task."""
    models = comparison.values("model")
    names = short_names(models)
    for model in models:
        results = list(comparison.results_of(model, task).values())
        if not results:
            continue
        color = _color_of(model, models)
        curves = [_recall_curve(result.metrics, direction) for result in results]
        if len(curves) > 1:
            for curve in curves:
                axes.plot(DEPTHS, curve, color=color, linewidth=0.6, alpha=0.35)

        thick, what = _thick_curve(comparison, results, curves, direction)
        style = {"color": color, "label": f"{names[model]}, {what}"}
        if thick is None:
            axes.plot([], [], linewidth=0.6, **style)  # an entry of the legend for the thin lines alone
        else:
            axes.plot(DEPTHS, thick, "o-", markersize=4, **style)


def _recall_curve(metrics: dict[str, float], direction: str) -> list[float]:
    """Return recall at each of `DEPTHS`, in percent."""
    return [100 * metrics[f"{direction}_recall@{k}"] for k in DEPTHS]


def _thick_curve(
    comparison: Comparison, results: list[Result], curves: list[list[float]], direction: str
) -> tuple[list[float] | None, str]:
    """Return a model's curve over its languages, and its text in the legend.

    The curve is the mean on the images that all languages have, or None where there is no mean.
    """
    languages = [result.language for result in results]
    if len(results) == 1:
        return curves[0], languages[0]
    outcomes = comparison.mean_outcomes(results[0].model, results[0].task, languages)
    if outcomes is None:
        return None, f"{len(results)} languages"
    if outcomes.is_whole:
        curve = [mean(values) for values in zip(*curves)]
        return curve, f"mean of {len(results)}"
    what = f"mean of {len(results)} on {outcomes.n_units:,} shared images"
    return _recall_curve(outcomes.metrics(), direction), what


def plot_preferences(comparison: Comparison, picture: Path) -> None:
    """Draw the preference of each language: a row of panels for each mixed pool, a dot for each model.

    The columns are images as queries, and texts.
    """
    kinds = {task: result.kind for (_, task, _), result in comparison.results.items()}
    tasks = [task for task in comparison.values("task") if kinds[task] == "mixed_pool"]
    models = comparison.values("model")
    names = short_names(models)
    languages = [language for language in comparison.values("language") if language not in MEANS]
    width = max(5, 0.32 * len(languages))
    figure = Figure(figsize=(2 * width, 2.6 * len(tasks) + 0.5), layout="constrained")
    rows = figure.subplots(len(tasks), 2, sharey=True, squeeze=False)
    handles = {}
    for row, task in zip(rows, tasks):
        for axes, (metric, title) in zip(row, _PREFERENCES.items()):
            for place, model in enumerate(models):
                # Dots of one language are side by side, on half the distance between two ticks in all.
                offset = (place - (len(models) - 1) / 2) * 0.5 / len(models)
                results = comparison.results_of(model, task)
                color = _color_of(model, models)
                handles[names[model]] = _draw_preferences(axes, results, metric, (languages, offset), color)
            axes.axhline(50, color="#555555", linewidth=1)
            axes.set_title(f"{task}, {title}", fontsize=10)
            axes.set_xticks(range(len(languages)), languages)
            axes.grid(axis="y", alpha=0.3)
        row[0].set_ylabel("preference, %")
    _add_legend(figure, handles)
    save_figure(figure, picture, dpi=130)


def _draw_preferences(
    axes: Axes, results: dict[str, Result], metric: str, place: tuple[list[str], float], color: str
) -> Line2D:
    """Draw a model's preferences, and return a handle for the legend.

    Args:
        place: the languages at the ticks 0, 1, 2, ..., and how far beside a tick the dot is.
    """
    languages, offset = place
    style = {"marker": "o", "markersize": 5, "color": color, "linestyle": "none"}
    for language, result in results.items():
        centre = languages.index(language) + offset
        axes.plot(centre, 100 * result.metrics[metric], **style)
        if metric in result.intervals:
            low, high = result.intervals[metric]
            axes.vlines(centre, 100 * low, 100 * high, color=color, linewidth=1.5)
    return Line2D([], [], **style)
