"""Measure how our costs grow with batch, texts, images, languages, vocabulary and pairs, and fit exponents.

make bench-growth
make bench-growth FLAGS="--curves batch recall"
"""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from common.errors import InputError
from common.files.whole_files import write_text

from ..machine import describe_machine
from ..ratios import typical
from ..report import describe, fill_readme, save_json
from ..running import check_counts, measure_each
from ..side_by_side import Turns
from .curves import Curve, load_curves
from .measuring import Growth, fit_growth, measure_size
from .report import BEGIN, draw_growth, interpret, make_table

_README = Path(__file__).parent.with_name("README.md")


@dataclass(kw_only=True)
class _GrowthArguments:
    """Which curves to measure, and how often each size."""

    curves: list[str] | None = field(
        default=None,
        metadata={"help": "Names of curves of benchmarks/speed/growth/curves.yaml. Default: all."},
    )
    repeats: int = field(default=3, metadata={"help": "Number of repeats of each size."})
    threads: int = field(default=1, metadata={"help": "Number of threads."})
    readme: bool = field(
        default=False, metadata={"help": "Also write the table into benchmarks/speed/README.md."}
    )
    output_dir: str = field(default="outputs/speed", metadata={"help": "Folder for table, JSON and plot."})

    def __post_init__(self):
        check_counts(self.repeats, self.threads)


def main(arguments: _GrowthArguments) -> None:
    """Measure curve by curve, then print and save what was found."""
    curves = load_curves(arguments.curves)
    turns = Turns(repeats=arguments.repeats, threads=arguments.threads)
    machine = describe_machine(turns) | {"quick": False, "repeats": turns.repeats}
    save = partial(_save, machine=machine, folder=Path(arguments.output_dir))
    growths, failures = measure_each(curves, partial(_measure, turns=turns), save)
    _present(save(growths, failures), failures, arguments)


def _measure(curve: Curve, turns: Turns) -> Growth:
    repeats = {}
    for size in curve.sizes:
        repeats[size] = measure_size(curve, size, turns)
        cpu = typical(repeats[size], children=False)["cpu"]
        print(f"  {size:,} {curve.axis}: {cpu:.2f} CPU seconds", flush=True)
    growth = fit_growth(curve, repeats)
    print(f"  {interpret(growth)}", flush=True)
    return growth


def _save(growths: list[Growth], failures: dict[str, str], machine: dict, folder: Path) -> str | None:
    """Save JSON, table and plot, and return the table; None where no curve has figures."""
    folder.mkdir(parents=True, exist_ok=True)
    save_json(growths, failures, machine, folder / "growth.json", "curves")
    if not growths:
        return None
    text = f"{describe(machine)}\n\n{make_table(growths)}"
    write_text(folder / "growth.md", text)
    draw_growth(growths, folder / "growth.png")
    return text


def _present(text: str | None, failures: dict[str, str], arguments: _GrowthArguments) -> None:
    folder = Path(arguments.output_dir)
    if text is None:
        raise InputError(f"curves: none has figures; the reasons are above and in {folder / 'growth.json'}")
    if arguments.readme:
        fill_readme(_README, text, BEGIN)
    print(f"\n{text}\nWrote growth.md, growth.json and growth.png in {folder}.")
    if failures:
        raise InputError(f"{len(failures)} of the curves have no figures: {' '.join(failures)}")


__all__ = ["main"]
