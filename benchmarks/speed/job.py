"""Compare our speed and memory with those of other libraries on equal work.

make bench-peers
make bench-peers FLAGS="--quick --rows texts classifier"
make bench-peers FLAGS="--isa avx2"
"""

import shutil
import tempfile
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path

import torch

from common.errors import InputError
from common.files.whole_files import write_text
from common.processor import read_processor

from .comparisons import Comparison, load_comparisons
from .instructions import LEVELS, check_level
from .machine import describe_machine
from .ratios import Outcome, summarize
from .report import describe, draw_ratios, fill_readme, make_brief, make_floors, make_table, save_json
from .running import check_counts, measure_each
from .side_by_side import Turns, count_operations, run_comparison

_FOLDER = Path(__file__).parent
_QUICK_REPEATS = 2


@dataclass(kw_only=True)
class _SpeedArguments:
    """What to compare, and how often."""

    rows: list[str] | None = field(
        default=None,
        metadata={
            "help": "Names of rows of benchmarks/speed/rows.yaml. Default: all; with --quick, those of the "
            "README's short table."
        },
    )
    quick: bool = field(
        default=False,
        metadata={"help": "Take small sizes and two repeats, without floors: a look, no measurement."},
    )
    repeats: int = field(default=5, metadata={"help": "Number of repeats of each side."})
    threads: int = field(default=1, metadata={"help": "Number of threads of each side."})
    isa: str | None = field(
        default=None,
        metadata={
            "help": "Instructions of the processor that torch, oneDNN and MKL may use, on all sides. "
            "Default: all that it has.",
            "choices": list(LEVELS),
        },
    )
    gpu: bool = field(default=False, metadata={"help": "Compare on a GPU, those rows that can."})
    readme: bool = field(
        default=False,
        metadata={
            "help": "Also write the tables into benchmarks/speed/README.md, and the short one into README.md."
        },
    )
    output_dir: str = field(default="outputs/speed", metadata={"help": "Folder for table, JSON and plot."})

    def __post_init__(self):
        check_counts(self.repeats, self.threads)
        check_level(self.isa, read_processor()[1])
        if self.gpu and not torch.cuda.is_available():
            raise InputError("gpu: torch finds no GPU on this machine: leave --gpu out")


def main(arguments: _SpeedArguments) -> None:
    """Compare row by row, then print and save what was found."""
    turns = _take_turns(arguments)
    machine = describe_machine(turns) | {"quick": turns.quick, "repeats": turns.repeats}
    compare = partial(_compare, turns=turns, logs=Path(arguments.output_dir, "logs"))
    save = partial(_save, machine=machine, folder=Path(arguments.output_dir))
    found, failures = measure_each(_choose(arguments), compare, save)
    text = save(found, failures)
    if text is not None and arguments.readme:
        fill_readme(_FOLDER / "README.md", text)
        brief = make_brief(list(chain.from_iterable(found)), machine)
        fill_readme(_FOLDER.parent.parent / "README.md", brief)
    _present(text, failures, arguments)


def _choose(arguments: _SpeedArguments) -> list[Comparison]:
    """Return the rows to compare."""
    comparisons = load_comparisons(arguments.rows)
    if arguments.gpu:
        comparisons = [comparison for comparison in comparisons if comparison.gpu]
    if not arguments.quick:
        return comparisons
    if arguments.rows is None:
        comparisons = [comparison for comparison in comparisons if comparison.brief]
    return [replace(comparison, work=f"{comparison.work}, but smaller") for comparison in comparisons]


def _take_turns(arguments: _SpeedArguments) -> Turns:
    """Return how the sides of each row take turns."""
    return Turns(
        repeats=_QUICK_REPEATS if arguments.quick else arguments.repeats,
        threads=arguments.threads,
        quick=arguments.quick,
        device="cuda" if arguments.gpu else "cpu",
        isa=arguments.isa,
    )


def _compare(comparison: Comparison, turns: Turns, logs: Path) -> list[Outcome]:
    """Compare, and print a line for each peer. The logs of its processes are kept if one fails."""
    with tempfile.TemporaryDirectory(prefix="altclip-speed-") as folder:
        try:
            costs = run_comparison(comparison, Path(folder), turns)
            # The floor that follows is that of this machine's processor, and of the process that it watches.
            has_floor = turns.device == "cpu" and not comparison.children and not turns.quick
            operations = count_operations(comparison, Path(folder), turns) if has_floor else None
        except InputError:
            kept = logs / comparison.name
            kept.mkdir(parents=True, exist_ok=True)
            for log in Path(folder).glob("*.log"):
                shutil.copy(log, kept)
            raise
    outcomes = summarize(comparison, costs, operations)
    for outcome in outcomes:
        ratio = outcome.ratios["cpu"]
        name = comparison.peers[outcome.peer].name
        print(f"  {name}: {ratio.median:.2f} times our CPU seconds ({ratio.least:.2f} to {ratio.most:.2f})")
    return outcomes


def _save(found: list[list[Outcome]], failures: dict[str, str], machine: dict, folder: Path) -> str | None:
    """Save JSON, table and plot, and return the table; None where no row has figures."""
    outcomes = list(chain.from_iterable(found))
    folder.mkdir(parents=True, exist_ok=True)
    save_json(outcomes, failures, machine, folder / "results.json")
    if not outcomes:
        return None
    tables = f"{make_table(outcomes, failures)}\n{make_floors(outcomes, machine)}"
    text = f"{describe(machine)}\n\n{tables}"
    write_text(folder / "table.md", text)
    draw_ratios(outcomes, folder / "ratios.png")
    return text


def _present(text: str | None, failures: dict[str, str], arguments: _SpeedArguments) -> None:
    folder = Path(arguments.output_dir)
    if text is None:
        raise InputError(f"rows: none has figures; the reasons are above and in {folder / 'results.json'}")
    print(f"\n{text}\nWrote table.md, results.json and ratios.png in {folder}.")
    if failures:
        names = " ".join(failures)
        raise InputError(
            f"{len(failures)} of the rows have no figures: {names}; their processes' logs are in "
            f"{folder / 'logs'}"
        )


__all__ = ["main"]
