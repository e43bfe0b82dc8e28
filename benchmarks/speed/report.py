"""Present the outcomes of comparisons: a table, JSON and a plot."""

import json
from dataclasses import asdict
from pathlib import Path

from benchmarks.results import format_table
from common.errors import InputError
from common.extras import of_extra
from common.figures import save_figure
from common.files.text_files import read_text
from common.files.whole_files import write_text
from common.markdown import markdown_text

from .ratios import Outcome, Ratio

with of_extra("plots"):
    import matplotlib
    from matplotlib.figure import Figure

matplotlib.use("Agg")  # draws to files, and needs no screen

_MEGABYTE = 1e6
_BILLION = 1e9
_HEADER = [
    "row: work",
    "against",
    "CPU s, ours",
    "theirs",
    "ratio (least to most)",
    "target",
    "wall ratio",
    "MB, ours",
    "theirs",
]
_FLOOR_HEADER = ["row", "billion operations", "floor, CPU s", "ours, CPU s", "over the floor"]
BEGIN = "<!-- begin: written by `python benchmarks/run_speed.py --readme` -->"
_END = "<!-- end -->"


def make_table(outcomes: list[Outcome], failures: dict[str, str]) -> str:
    """Return a Markdown table of the outcomes, with a list of the rows that failed."""
    lines = [format_table(_HEADER, [_cells(outcome) for outcome in outcomes]), ""]
    if failures:
        lines += ["Rows without figures:", ""]
        lines += [f"- {name}: {markdown_text(reason)}" for name, reason in failures.items()]
    return "\n".join(lines)


def _cells(outcome: Outcome) -> list[str]:
    peer = outcome.comparison.peers[outcome.peer]
    return [
        f"{outcome.comparison.name}: {outcome.comparison.work}",
        peer.name,
        f"{outcome.ours['cpu']:.2f}",
        f"{outcome.theirs['cpu']:.2f}",
        _spread(outcome.ratios["cpu"]),
        _or_dash(peer.target),
        _spread(outcome.ratios["wall"]),
        _megabytes(outcome.ours["memory"]),
        _megabytes(outcome.theirs["memory"]),
    ]


def make_brief(outcomes: list[Outcome], machine: dict) -> str:
    """Return a short table for the package's README, one line for each row that is `brief`."""
    of_rows = {}
    for outcome in outcomes:
        if outcome.comparison.brief:
            peer = outcome.comparison.peers[outcome.peer]
            figures = of_rows.setdefault(outcome.comparison.work, [])
            figures.append(f"{peer.name} {_spread(outcome.ratios['cpu'])}")
    rows = [[work, "; ".join(figures)] for work, figures in of_rows.items()]
    header = ["work", f"their CPU seconds over ours on {machine['processor']}: median (least to most)"]
    return format_table(header, rows)


def make_floors(outcomes: list[Outcome], machine: dict) -> str:
    """Return a Markdown table of how far our CPU seconds are above those of our matrix products alone.

    The products are those that we make, padding and gradients included, at the rate of the faster library. A
    row without products has no floor.
    """
    rate = max(machine["matrix_rates"].values()) * _BILLION
    of_rows = {}
    for outcome in outcomes:
        if outcome.operations:
            floor = outcome.operations / rate
            seconds = outcome.ours["cpu"]
            of_rows[outcome.comparison.name] = [
                f"{outcome.operations / _BILLION:,.0f}",
                f"{floor:.2f}",
                f"{seconds:.2f}",
                f"{seconds / floor:.2f}",
            ]
    if not of_rows:
        return ""
    rows = [[name, *cells] for name, cells in of_rows.items()]
    return format_table(_FLOOR_HEADER, rows) + "\n"


def _spread(ratio: Ratio) -> str:
    return f"{ratio.median:.2f} ({ratio.least:.2f} to {ratio.most:.2f})"


def _or_dash(value: float | None) -> str:
    return "–" if value is None else f"{value:g}"


def _megabytes(n_bytes: float | None) -> str:
    return "–" if n_bytes is None else f"{n_bytes / _MEGABYTE:.0f}"


def describe(machine: dict) -> str:
    """Return the machine and the versions as a paragraph of Markdown."""
    flags = " ".join(machine["flags"])
    rates = " and ".join(f"{rate:.0f} by {name}" for name, rate in machine["matrix_rates"].items())
    versions = ", ".join(f"{package} {number}" for package, number in machine["versions"].items())
    kind = " These are the small sizes of `--quick`, which say little." if machine["quick"] else ""
    limit = f", limited to {machine['isa']} by --isa" if machine["isa"] else ""
    return (
        f"{machine['processor']} ({flags}), {machine['cores']} cores with a load of "
        f"{machine['load_before']:.1f} before; torch uses {machine['capability']}{limit}, and multiplies "
        f"matrices of float32 at {rates}, in GFLOP a CPU second; {machine['threads']} threads a side, "
        f"{machine['repeats']} repeats, commit {machine['commit']}.{kind} "
        f"Versions: {versions}."
    )


def save_json(
    results: list, failures: dict[str, str], machine: dict, path: Path, name: str = "outcomes"
) -> None:
    """Save all figures, also those of single repeats.

    Args:
        results: dataclasses.
        name: the key that they get.
    """
    record = {
        "machine": machine,
        "failures": failures,
        name: [asdict(result) for result in results],
    }
    write_text(path, json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def draw_ratios(outcomes: list[Outcome], picture: Path) -> None:
    """Draw the ratios of CPU seconds with their spread, and the targets as marks."""
    figure = Figure(figsize=(9, 1.2 + 0.35 * len(outcomes)), layout="constrained")
    axes = figure.subplots()
    for place, outcome in enumerate(outcomes):
        ratio = outcome.ratios["cpu"]
        axes.plot([ratio.least, ratio.most], [place, place], color="#2f6db3", linewidth=3)
        axes.plot(
            ratio.median, place, "o", color="#2f6db3", label="median, least to most" if not place else None
        )
        target = outcome.comparison.peers[outcome.peer].target
        if target is not None:
            axes.plot(target, place, "|", color="#e0812b", markersize=14, markeredgewidth=3)
    axes.plot([], [], "|", color="#e0812b", markersize=14, markeredgewidth=3, label="target")
    axes.axvline(1, color="#888888", linewidth=1)
    axes.set_xscale("log")
    axes.set_yticks(range(len(outcomes)), [_title(outcome) for outcome in outcomes])
    axes.invert_yaxis()
    axes.set_xlabel("their CPU seconds / ours (right of 1 we are cheaper)")
    axes.legend(frameon=False, fontsize="small")
    save_figure(figure, picture, dpi=120)


def _title(outcome: Outcome) -> str:
    return f"{outcome.comparison.name}: {outcome.comparison.peers[outcome.peer].name}"


def fill_readme(readme: Path, text: str, mark: str = BEGIN) -> None:
    """Write a text into a README, from a mark to the next `<!-- end -->`.

    Raises:
        InputError: it has no such marks.
    """
    content = read_text(readme, "README")
    before, begin, rest = content.partition(mark)
    _, end, after = rest.partition(_END)
    if not end:
        raise InputError(f"readme: {readme} has no lines {mark!r} and {_END!r}, between which the table goes")
    write_text(readme, f"{before}{begin}\n{text}\n{end}{after}")
