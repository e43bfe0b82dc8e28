"""Measure a curve: our side of its row at each size, in a process of its own."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from ..ratios import typical
from ..side_by_side import OURS, Turns, run_comparison
from .curves import Curve
from .fit import Line, PowerLaw, fit_line, fit_power_law


@dataclass(frozen=True)
class Growth:
    """What was measured of a curve.

    Attributes:
        costs: by unit, `cpu` in seconds and `memory` in bytes, one for each size; memory is None where the
            system does not tell it.
        repeats: the costs of each repeat, by size.
        laws: the power laws, by those units that the curve has an expected exponent for and that are known.
        line: the straight line of the CPU seconds, for a curve with a fixed part.
    """

    curve: Curve
    costs: dict[str, list[float | None]]
    repeats: dict[int, list[dict]]
    laws: dict[str, PowerLaw]
    line: Line | None


def measure_size(curve: Curve, size: int, turns: Turns) -> list[dict]:
    """Return the costs of each repeat at one size: see `worker.py`.

    Raises:
        InputError: the work cannot be done.
    """
    with tempfile.TemporaryDirectory(prefix="altclip-growth-") as folder:
        return run_comparison(curve.at(size), Path(folder), turns)[OURS]


def fit_growth(curve: Curve, repeats: dict[int, list[dict]]) -> Growth:
    """Fit the laws of a curve to the costs that `measure_size` returns, by size.

    Raises:
        InputError: a size costs nothing that can be measured, or no straight line fits.
    """
    costs = {"cpu": [], "memory": []}
    for size in curve.sizes:
        of_size = typical(repeats[size], children=False)
        for unit in costs:
            costs[unit].append(of_size[unit])
    known = [unit for unit in curve.expected if None not in costs[unit]]
    laws = {unit: fit_power_law(curve.sizes, costs[unit]) for unit in known}
    line = fit_line(curve.sizes, costs["cpu"]) if curve.fixed_part else None
    return Growth(curve, costs, repeats, laws, line)
