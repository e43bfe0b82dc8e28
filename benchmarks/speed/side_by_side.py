"""Run the sides of a comparison by turns, each in a process of its own, and compare their results."""

import json
import os
import runpy
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import InputError

from .comparisons import Comparison
from .instructions import limit_of

OURS = "ours"
_WORKER = Path(__file__).with_name("worker.py")
# In an environment of `make bench-peers`: see `worker.py`.
_TORCHVISION = Path(sys.prefix, "torchvision")
_OUR_SETTINGS = ("MKL_CBWR", "GOMP_SPINCOUNT")  # modeling_altclip/reproducibility.py


@dataclass(frozen=True)
class Turns:
    """How often each side repeats its work, on how many threads, which device and which instructions."""

    repeats: int
    threads: int = 1
    quick: bool = False
    device: str = "cpu"
    isa: str | None = None

    def shape_of(self, comparison: Comparison) -> dict[str, object]:
        """Return the sizes that the sides of a comparison are called with."""
        smaller = comparison.quick if self.quick else {}
        return comparison.shape | smaller | {"device": self.device}


class _Worker:
    """A process that has set up one side of a comparison, and repeats its work when asked.

    Raises:
        InputError: it has ended.
    """

    def __init__(self, comparison: Comparison, side: str, folder: Path, turns: Turns):
        self.name = f"{comparison.name}, {side}"
        self.log = folder / f"{side}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                _command(comparison, side, folder, turns),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=folder,
                env=worker_environment(turns),
            )

    def wait_until_ready(self) -> None:
        self._read_answer()

    def repeat(self, tell: str = "measure") -> dict[str, float | None]:
        """Repeat the work, and return its costs, or its operations (`count`): see `worker.py`."""
        try:
            self.process.stdin.write(f"{tell}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended, as its answer will tell
        return json.loads(self._read_answer())

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate()

    def _read_answer(self) -> str:
        answer = self.process.stdout.readline()
        if not answer:
            raise InputError(_why_ended(self.name, self.process.wait(), self.log))
        return answer


def _command(comparison: Comparison, side: str, folder: Path, turns: Turns) -> list[str]:
    shape = json.dumps(turns.shape_of(comparison))
    command = [sys.executable, "-P", str(_WORKER), str(comparison.path), side, str(folder), shape]
    if side in comparison.peers and comparison.peers[side].torchvision:
        command.append(str(_TORCHVISION))
    return command


def worker_environment(turns: Turns) -> dict[str, str]:
    """Return the environment of a worker: fixed threads and instructions for every library, and no network.

    What our packages set in this process is not handed on. Ours sets it again in its own; peers run without.
    """
    inherited = {name: value for name, value in os.environ.items() if name not in _OUR_SETTINGS}
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
    given = {name: str(turns.threads) for name in names}
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "PYTHONPATH": ""}
    quiet = {"TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": str(turns.threads > 1).lower()}
    return inherited | given | limit_of(turns.isa) | offline | quiet


def _why_ended(name: str, status: int, log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n")
    said = [line for line in lines if line.strip()]
    reason = said[-1].strip() if said else "it said nothing"
    return f"the process of {name} ended with status {status}: {reason}"


def run_comparison(comparison: Comparison, folder: Path, turns: Turns) -> dict[str, list[dict]]:
    """Run all sides of a comparison by turns.

    Returns:
        The costs of each repeat, by side.

    Raises:
        InputError: a side cannot do the work, or the results of two sides differ.
    """
    _make_inputs(comparison, folder, turns)
    sides = [OURS, *comparison.peers]
    workers = {side: _Worker(comparison, side, folder, turns) for side in sides}
    costs = {side: [] for side in sides}
    try:
        # Nothing is measured while a side still sets up.
        for worker in workers.values():
            worker.wait_until_ready()
        for side in order_of_turns(sides, turns.repeats):
            costs[side].append(workers[side].repeat())
    finally:
        for worker in workers.values():
            worker.stop()
    for peer in comparison.peers:
        check_equal(_results(folder, OURS), _results(folder, peer), comparison, peer)
    return costs


def count_operations(comparison: Comparison, folder: Path, turns: Turns) -> int:
    """Count the operations of our side's matrix products, after `run_comparison` in the same folder.

    They are counted in another process than the costs: to watch operators takes time and memory.

    Raises:
        InputError: the work cannot be done.
    """
    worker = _Worker(comparison, OURS, folder, turns)
    try:
        worker.wait_until_ready()
        return worker.repeat(tell="count")["operations"]
    finally:
        worker.stop()


def order_of_turns(sides: list[str], repeats: int) -> list[str]:
    """Return whose turn it is: A B, B A, A B and so on, so that a drift of the machine hits all alike."""
    order = []
    for number in range(repeats):
        order += sides if number % 2 == 0 else reversed(sides)
    return order


def _make_inputs(comparison: Comparison, folder: Path, turns: Turns) -> None:
    """Write what all sides read."""
    inputs = runpy.run_path(str(comparison.path))["inputs"]
    inputs(folder, turns.shape_of(comparison))


def _results(folder: Path, side: str) -> dict[str, np.ndarray]:
    with np.load(folder / f"{side}.npz") as results:
        return dict(results)


def check_equal(
    ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray], comparison: Comparison, peer: str
) -> float:
    """Return the largest difference of two sides' results; ours may have more than the peer's.

    Raises:
        InputError: they differ by more than the tolerance, or in shape: the work was not the same.
    """
    where = f"row {comparison.name!r} is refused: we and {peer} did not do the same work"
    shapes = {name: ours[name].shape for name in theirs if name in ours}
    their_shapes = {name: array.shape for name, array in theirs.items()}
    if not theirs or shapes != their_shapes:
        raise InputError(f"{where}: the results have shapes {shapes} and {their_shapes}")
    largest = 0.0
    for name, array in theirs.items():
        difference = np.abs(array.astype(float) - ours[name].astype(float))
        if not np.isfinite(difference).all():
            raise InputError(f"{where}: {name} is not finite")
        largest = max(largest, float(difference.max(initial=0.0)))
        if largest > comparison.tolerance:
            raise InputError(
                f"{where}: {name} differs by {largest:.1e}, more than the tolerance of {comparison.tolerance}"
            )
    return largest
