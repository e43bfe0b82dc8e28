"""Present how costs grow: a table, sentences and log-log plots with the fitted laws."""

import math
from pathlib import Path

import numpy as np

from benchmarks.results import format_table
from common.extras import of_extra
from common.figures import save_figure

from .fit import Line, PowerLaw
from .measuring import Growth

with of_extra("plots"):
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BEGIN = "<!-- begin: written by `python benchmarks/run_growth.py --readme` -->"
_HEADER = ["curve", "of", "sizes", "cost", "least to most", "expected", "fitted", "off by at most"]
_NAMES = {"cpu": "CPU seconds", "memory": "extra MB"}
_SCALES = {"cpu": 1.0, "memory": 1e6}
_COLUMNS = 4
_BLUE = "#2f6db3"
_ORANGE = "#e0812b"
_GREY = "#888888"


def make_table(growths: list[Growth]) -> str:
    """Return a Markdown table of the exponents, and below it a sentence on each curve."""
    cells = [_cells(growth, unit) for growth in growths for unit in growth.laws]
    sentences = [f"- {interpret(growth)}" for growth in growths]
    return "\n".join([format_table(_HEADER, cells), "", *sentences, ""])


def _cells(growth: Growth, unit: str) -> list[str]:
    curve, law = growth.curve, growth.laws[unit]
    costs = [cost / _SCALES[unit] for cost in growth.costs[unit]]
    expected = f"{curve.expected[unit]}"
    return [
        curve.name,
        curve.axis,
        f"{curve.sizes[0]:,} to {curve.sizes[-1]:,}",
        _NAMES[unit],
        f"{costs[0]:.2f} to {costs[-1]:.2f}",
        f"{expected} above a fixed part" if curve.fixed_part else expected,
        f"{law.exponent:.2f}",
        _percent(law.off_by),
    ]


def interpret(growth: Growth) -> str:
    """Return a sentence with the exponents that were expected and fitted, and one on the straight line."""
    curve = growth.curve
    exponents = []
    for unit, law in growth.laws.items():
        exponents.append(
            f"expected exponent of {_NAMES[unit]} {curve.expected[unit]}, fitted {law.exponent:.2f} "
            f"(off by at most {_percent(law.off_by)})"
        )
    sentence = f"{curve.name}: {curve.why}; {'; '.join(exponents)}."
    return sentence if growth.line is None else f"{sentence} {_interpret_line(growth)}"


def _interpret_line(growth: Growth) -> str:
    line = growth.line
    largest = growth.curve.sizes[-1]
    share = line.fixed / line.at(largest)
    return (
        f"Part of the cost is the same at every size ({growth.curve.fixed_part}), which makes the exponent "
        f"smaller. A straight line is off by at most {_percent(line.off_by)}: {line.fixed:.2f} CPU seconds "
        f"are fixed, {_percent(share)} of the cost at {largest:,}."
    )


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.0f} %"


def draw_growth(growths: list[Growth], picture: Path) -> None:
    """Draw each curve's costs and laws, with logarithms on both axes."""
    panels = [(growth, unit) for growth in growths for unit in growth.laws]
    n_columns = min(_COLUMNS, len(panels))
    n_rows = math.ceil(len(panels) / n_columns)
    figure = Figure(figsize=(3.6 * n_columns, 3.2 * n_rows), layout="constrained")
    all_axes = figure.subplots(n_rows, n_columns, squeeze=False).flatten()
    for axes, (growth, unit) in zip(all_axes, panels):
        _draw_panel(axes, growth, unit)
    for axes in all_axes[len(panels) :]:
        axes.set_visible(False)
    save_figure(figure, picture, dpi=120)


def _draw_panel(axes: Axes, growth: Growth, unit: str) -> None:
    curve = growth.curve
    costs = [cost / _SCALES[unit] for cost in growth.costs[unit]]
    law = growth.laws[unit]
    _draw_law(axes, growth, unit, law, _BLUE, f"fitted exponent {law.exponent:.2f}")
    if growth.line is not None:
        _draw_law(axes, growth, unit, growth.line, _ORANGE, "straight line")
    axes.plot(curve.sizes, costs, "o", color=_GREY, label="measured")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(curve.sizes, [f"{size:,}" for size in curve.sizes], rotation=30, fontsize="x-small")
    axes.set_xticks([], minor=True)
    axes.set_title(f"{curve.name}: expected {curve.expected[unit]}", fontsize="medium")
    axes.set_xlabel(curve.axis, fontsize="small")
    axes.set_ylabel(_NAMES[unit], fontsize="small")
    axes.legend(frameon=False, fontsize="x-small")


def _draw_law(axes: Axes, growth: Growth, unit: str, law: PowerLaw | Line, color: str, label: str) -> None:
    sizes = np.geomspace(growth.curve.sizes[0], growth.curve.sizes[-1], 50)
    axes.plot(sizes, law.at(sizes) / _SCALES[unit], color=color, linewidth=1.5, label=label)
