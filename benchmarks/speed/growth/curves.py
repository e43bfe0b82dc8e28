"""Read the curves of `curves.yaml`."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from common.errors import InputError
from common.typed import check_types

from ..comparisons import Comparison, load_comparisons
from ..running import read_chosen

_FILE = Path(__file__).with_name("curves.yaml")
_UNITS = ("cpu", "memory")
_FEWEST_SIZES = 3


@dataclass(kw_only=True)
class Curve:
    """Some work of ours at several sizes.

    Attributes:
        name: the key in `curves.yaml`.
        row: a row of `rows.yaml`, of which our side does the work.
        work, axis: the work and what its size counts, for plots.
        key: the entry of the row's shape that grows. A list there is cut to its first values.
        sizes: its values, from small to large.
        shape: other entries that differ from the row's.
        expected: the exponent of each cost that is fitted, `cpu` or `memory`.
        fixed_part: what costs the same at every size, where that is much; the exponent is then one of the
            cost above it.
        why: the reason for these exponents, as half a sentence.
    """

    name: str
    row: str
    work: str
    axis: str
    key: str
    sizes: list[int]
    expected: dict[str, int]
    why: str
    shape: dict[str, object] = field(default_factory=dict)
    fixed_part: str | None = None

    def __post_init__(self):
        where = f"curve {self.name!r}"
        ascending = sorted(set(self.sizes))
        if self.sizes != ascending or len(ascending) < _FEWEST_SIZES or ascending[0] < 1:
            raise InputError(
                f"{where}: sizes are {self.sizes}: give at least {_FEWEST_SIZES} positive ones, ascending"
            )
        unknown = [unit for unit in self.expected if unit not in _UNITS]
        if unknown or not self.expected:
            raise InputError(f"{where}: expected is {self.expected}: give exponents of {' or '.join(_UNITS)}")

    def at(self, size: int) -> Comparison:
        """Return the row at one size, without its peers.

        Raises:
            InputError: the row has no such entry, or its list has fewer values than `size`.
        """
        (row,) = load_comparisons([self.row])
        if self.key not in row.shape:
            raise InputError(f"curve {self.name!r}: row {self.row!r} has no {self.key!r} in its shape")
        value = row.shape[self.key]
        if isinstance(value, list):
            if size > len(value):
                raise InputError(
                    f"curve {self.name!r}: size {size} is more than the {len(value)} {self.key} of row "
                    f"{self.row!r}"
                )
            grown = value[:size]
        else:
            grown = size
        return replace(row, peers={}, shape=row.shape | self.shape | {self.key: grown})


def load_curves(names: list[str] | None = None) -> list[Curve]:
    """Load all curves, or those of some names.

    Raises:
        InputError: there is none of such a name.
    """
    chosen = read_chosen(_FILE, "curves", "curves", names)
    return [_read_curve(name, values) for name, values in chosen.items()]


def _read_curve(name: str, values: dict) -> Curve:
    check_types(values, Curve, f"curve {name!r}")
    return Curve(name=name, **values)
