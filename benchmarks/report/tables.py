"""Tables of a report, laid out as in the papers."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import product
from typing import NamedTuple

from common.errors import InputError

from ..results import format_table
from .comparison import Comparison, Number
from .formatting import GAP, format_half_width, format_value, label, short_names
from .means import SHARED_MEAN

LEGEND = (
    "Percent ± half the width of the 95 % bootstrap interval over images; ±0.0 at 0 or 100 % means that "
    "these images agree, not that others would. **Bold**: best of several models. "
    "≈: not significantly different from the best in a paired bootstrap on the same images (p ≥ 0.05, each "
    "pair separately; fewer than six differing images are never significant). "
    "°: evaluated on other items than the best, so not tested. "
    f"{GAP}: not evaluated."
)


class _Place(NamedTuple):
    """Place of a number in the tables. The metric is "" where each task is shown by its own."""

    model: str
    task: str
    language: str
    metric: str

    def lies_in(self, fixed: dict[str, str]) -> bool:
        """Check if the place is in the table with these values of its fixed axes."""
        return all(getattr(self, axis) == value for axis, value in fixed.items())


_AXES = _Place._fields


@dataclass(kw_only=True)
class TableArguments:
    """Layout of a report's tables.

    A number has a model, a task, a language and a metric. Two of these axes are laid out in rows and columns,
    and there is a table for each combination of the other two.
    """

    title: str = field(default="Results", metadata={"help": "Heading of the report."})
    about: str = field(default="", metadata={"help": "A paragraph below the heading."})
    metrics: list[str] | None = field(
        default=None, metadata={"help": "Metrics to show; each task's own by default."}
    )
    rows: str = field(
        default="model", metadata={"help": "Axis laid out in rows: model, task, language or metric."}
    )
    columns: str = field(
        default="task",
        metadata={"help": "Axis laid out in columns: one of the same names, but another than in rows."},
    )
    paper_model: str | None = field(
        default=None, metadata={"help": "Compare all models with this one's published numbers: BAAI/AltCLIP."}
    )

    def __post_init__(self):
        for name, axis in (("rows", self.rows), ("columns", self.columns)):
            if axis not in _AXES:
                raise InputError(f"{name} is {axis!r}: choose from {' '.join(_AXES)}")
        if self.rows == self.columns:
            raise InputError(f"rows and columns are both {self.rows!r}: they must differ")
        if "metric" in (self.rows, self.columns) and not self.metrics:
            raise InputError("with metric in rows or columns, name the metrics")


@dataclass
class Table:
    """Numbers in rows and columns; a number that was not evaluated is None.

    `corner` is the title of the column with the names of the rows.
    """

    heading: str
    corner: str
    columns: list[str]
    rows: list[tuple[str, list[Number | None]]]

    def to_markdown(self) -> str:
        rows = []
        for name, numbers in self.rows:
            rows.append([name, *map(_format_cell, numbers)])
        return format_table([self.corner, *self.columns], rows)


def make_tables(comparison: Comparison, numbers: list[Number], arguments: TableArguments) -> list[Table]:
    """Lay numbers out in rows and columns, with a table for each combination of the other two axes.

    A model that lacks a number is shown with a gap. The metric stands in a table's heading, or where its
    tasks have several metrics, beside each task.
    """
    order = {axis: comparison.values(axis) for axis in ("model", "task", "language")}
    order["metric"] = [""] if arguments.metrics is None else arguments.metrics
    cells: dict[_Place, Number] = {}
    for number in numbers:
        metric = "" if arguments.metrics is None else number.metric
        cells[_Place(number.model, number.task, number.language, metric)] = number

    # With models in rows and tasks in columns, there is a table for each language and metric.
    others = [axis for axis in _AXES if axis not in (arguments.rows, arguments.columns)]
    tables = []
    for section in product(*(order[axis] for axis in others)):
        fixed = dict(zip(others, section))
        in_section = {place: number for place, number in cells.items() if place.lies_in(fixed)}
        if in_section:
            tables.append(_make_table(comparison, in_section, fixed, order, arguments))
    return tables


def _make_table(
    comparison: Comparison,
    cells: dict[_Place, Number],
    fixed: dict[str, str],
    order: dict[str, list[str]],
    arguments: TableArguments,
) -> Table:
    """Lay out the numbers of one table.

    Args:
        fixed: the values of the two axes that are the same in all cells.
        order: all values of each axis.
    """
    names = short_names(comparison.values("model"))
    metrics = list(dict.fromkeys(number.metric for number in cells.values()))
    titles = names | _title_of_shared_mean(cells.values())
    if arguments.metrics is None and len(metrics) > 1:
        # "imagenet, top-1 accuracy": the heading cannot name the metric.
        for number in cells.values():
            titles[number.task] = f"{number.task}, {label(number.metric, {})}"

    row_values = _shown_values(arguments.rows, order, cells)
    column_values = _shown_values(arguments.columns, order, cells)
    rows = []
    for row in row_values:
        numbers = []
        for column in column_values:
            place = _Place(**fixed, **{arguments.rows: row, arguments.columns: column})
            numbers.append(cells.get(place))
        rows.append((label(row, titles), numbers))

    heading = [label(value, names) for axis, value in fixed.items() if value and axis != "metric"]
    if len(metrics) == 1:
        heading.append(label(metrics[0], {}))
    columns = [label(column, titles) for column in column_values]
    return Table(", ".join(heading), arguments.rows, columns, rows)


def _shown_values(axis: str, order: dict[str, list[str]], cells: dict[_Place, Number]) -> list[str]:
    """Return the values of an axis that a table shows.

    These are all models, and of other axes the values that have a number.
    """
    if axis == "model":
        return order[axis]
    found = {getattr(place, axis) for place in cells}
    return [value for value in order[axis] if value in found]


def _title_of_shared_mean(numbers: Iterable[Number]) -> dict[str, str]:
    """Return the title `mean of 20 shared images`, where all means of a table are over equally many."""
    counts = {number.n for number in numbers if number.language == SHARED_MEAN}
    if len(counts) != 1:
        return {}
    return {SHARED_MEAN: f"mean of {counts.pop():,} shared images"}


def _format_cell(number: Number | None) -> str:
    """Format a number as `72.4 ±1.4`, with the marks that `LEGEND` explains."""
    if number is None:
        return GAP
    value = format_value(number)
    if number.best:
        value = f"**{value}**"
    mark = ""
    if number.tied:
        mark = "≈"
    elif number.untested:
        mark = "°"
    parts = [value, format_half_width(number), mark]
    return " ".join(part for part in parts if part)
