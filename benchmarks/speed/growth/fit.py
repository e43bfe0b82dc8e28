"""Fit the growth of a cost: a power law, or a straight line with a fixed part."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common.errors import InputError

_FEWEST_POINTS = 3


@dataclass(frozen=True)
class PowerLaw:
    """`cost = factor * size ** exponent`, by least squares on the logarithms.

    Attributes:
        off_by: how far the cost that lies farthest from the fit is from it, as a fraction: 0.1 if it is 1.1
            times what the fit says, or 1 / 1.1 of it.
    """

    exponent: float
    factor: float
    off_by: float

    def at(self, size: float) -> float:
        return self.factor * size**self.exponent


@dataclass(frozen=True)
class Line:
    """`cost = fixed + slope * size`, by least squares of relative errors, so that each size counts alike.

    Attributes:
        off_by: as in `PowerLaw`.
    """

    fixed: float
    slope: float
    off_by: float

    def at(self, size: float) -> float:
        return self.fixed + self.slope * size


def fit_power_law(sizes: Sequence[float], costs: Sequence[float]) -> PowerLaw:
    """Fit a power law to costs at several sizes.

    Raises:
        InputError: there are fewer than three sizes, two are equal, or a size or cost is not positive.
    """
    x, y = _as_arrays(sizes, costs)
    exponent, log_factor = np.polyfit(np.log(x), np.log(y), deg=1)
    factor = float(np.exp(log_factor))
    return PowerLaw(float(exponent), factor, _off_by(y, factor * x**exponent))


def fit_line(sizes: Sequence[float], costs: Sequence[float]) -> Line:
    """Fit a straight line to costs at several sizes.

    Raises:
        InputError: as in `fit_power_law`, or the line is not above zero at all sizes.
    """
    x, y = _as_arrays(sizes, costs)
    # The squares of (line - cost) / cost are the least: weights of `polyfit` are those of the differences.
    slope, fixed = np.polyfit(x, y, deg=1, w=1 / y)
    line = fixed + slope * x
    if (line <= 0).any():
        raise InputError(f"no straight line fits the costs {list(costs)} at the sizes {list(sizes)}")
    return Line(float(fixed), float(slope), _off_by(y, line))


def _as_arrays(sizes: Sequence[float], costs: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    x = np.asarray(sizes, dtype=float)
    y = np.asarray(costs, dtype=float)
    if len(x) != len(y):
        raise InputError(f"there are {len(x)} sizes and {len(y)} costs: give one cost for each size")
    if len(np.unique(x)) != len(x) or len(x) < _FEWEST_POINTS:
        raise InputError(f"sizes are {list(sizes)}: give at least {_FEWEST_POINTS}, each once")
    for name, values in {"size": x, "cost": y}.items():
        if not (np.isfinite(values) & (values > 0)).all():
            raise InputError(f"a {name} of {values.tolist()} is not a positive number, and has no logarithm")
    return x, y


def _off_by(costs: np.ndarray, fitted: np.ndarray) -> float:
    return float(np.exp(np.abs(np.log(costs / fitted)).max()) - 1)
