"""Read the comparisons of `rows.yaml`."""

from dataclasses import dataclass, field
from pathlib import Path

from common.typed import check_types

from .running import read_chosen

_FOLDER = Path(__file__).parent


@dataclass(kw_only=True)
class Peer:
    """The other side of a comparison.

    Attributes:
        name: how tables call it.
        target: how many times our CPU seconds its own should be at least; None if none is set.
        memory_target: the same of extra memory.
        torchvision: whether it imports torchvision.
    """

    name: str
    target: float | None = None
    memory_target: float | None = None
    torchvision: bool = False


@dataclass(kw_only=True)
class Comparison:
    """Some work that we and peers do.

    Attributes:
        name: the key in `rows.yaml`.
        file: the module of the sides, below the root of the packages.
        work: the work in words, for tables.
        shape: sizes, which the sides are called with.
        quick: the sizes that are smaller with `--quick`.
        tolerance: the largest difference of two values that are equal.
        peers: by the names of their functions in the module.
        children: the work runs in other processes, whose memory is not known.
        gpu: whether the sides heed `device`, so that it can be compared on a GPU.
        brief: whether it is in the short table of the package's README.
    """

    name: str
    file: str
    work: str
    tolerance: float
    peers: dict[str, Peer]
    shape: dict[str, object] = field(default_factory=dict)
    quick: dict[str, object] = field(default_factory=dict)
    children: bool = False
    gpu: bool = False
    brief: bool = False

    @property
    def path(self) -> Path:
        return _FOLDER.parent.parent / self.file


def load_comparisons(names: list[str] | None = None) -> list[Comparison]:
    """Load all comparisons, or those of some names.

    Raises:
        InputError: there is none of such a name.
    """
    chosen = read_chosen(_FOLDER / "rows.yaml", "comparisons", "rows", names)
    return [_read_comparison(name, values) for name, values in chosen.items()]


def _read_comparison(name: str, values: dict) -> Comparison:
    where = f"comparison {name!r}"
    peers = {}
    for function, peer in values["peers"].items():
        check_types(peer, Peer, f"{where}, {function}")
        peers[function] = Peer(**peer)
    values = values | {"peers": peers}
    check_types(values, Comparison, where)
    return Comparison(name=name, **values)
