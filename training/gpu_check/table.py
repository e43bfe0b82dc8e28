"""Write the rows as a table in Markdown, and with all figures as JSON."""

import json
from dataclasses import asdict
from pathlib import Path

from benchmarks.results import format_table
from common.files.json_files import read_json
from common.files.whole_files import write_text
from common.output import format_bytes

from .hardware import Hardware
from .rows import Row

_FIGURES = "gpu_check.json"
_TABLE = "gpu_check.md"
_HEADER = ["check", "model", "outcome", "a second", "memory", "utilisation", "difference (allowed)"]
_UNKNOWN = "–"


def write_rows(folder: Path, hardware: Hardware, rows: list[Row]) -> None:
    """Write `gpu_check.md` and `gpu_check.json`, in place of older ones."""
    content = {"hardware": asdict(hardware), "rows": [asdict(row) for row in rows]}
    write_text(folder / _FIGURES, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    write_text(folder / _TABLE, format_rows(hardware, rows))


def read_rows(folder: Path) -> list[Row]:
    """Read the rows that a process has written, none if it has not."""
    path = folder / _FIGURES
    if not path.exists():
        return []
    return [Row(**values) for values in read_json(path, "rows")["rows"]]


def format_rows(hardware: Hardware, rows: list[Row]) -> str:
    """Format the hardware, the table, and a line that says where it belongs."""
    versions = ", ".join(f"{name} {number}" for name, number in hardware.versions.items())
    memory = "" if hardware.memory is None else f" with {hardware.memory}"
    peak = "unknown" if hardware.peak is None else f"{hardware.peak / 1e12:g} TFLOP/s"
    lines = [
        f"**{hardware.n_devices} x {hardware.name}**{memory}; {hardware.system}; {versions}; "
        f"16-bit peak: {peak}",
        "",
        format_table(_HEADER, [_cells(row) for row in rows]),
        "",
        'What to do with it: paste this table into docs/scaling.md, below "What has run where", and send it '
        f"with {_FIGURES} as an issue or a pull request of this repository.",
        "",
    ]
    return "\n".join(lines)


def describe(row: Row) -> str:
    """Describe a row in a line, for a terminal."""
    if row.failure is not None:
        return f"failed: {row.failure}"
    known = [cell for cell in _cells(row)[3:] if cell != _UNKNOWN]
    return ", ".join(["passed", *known])


def _cells(row: Row) -> list[str]:
    outcome = "passed" if row.failure is None else f"failed: {row.failure}"
    differences = []
    for name, (difference, bound) in (row.differences or {}).items():
        differences.append(f"{name} {difference:.0e} ({bound:.0e})")
    utilisation = _UNKNOWN if row.utilisation is None else f"{100 * row.utilisation:.1f} %"
    return [
        row.check,
        row.shapes,
        outcome,
        _UNKNOWN if row.per_second is None else f"{row.per_second:,.0f} {row.unit}",
        _UNKNOWN if row.peak_bytes is None else format_bytes(row.peak_bytes),
        utilisation,
        "; ".join(differences) or _UNKNOWN,
    ]


__all__ = ["describe", "format_rows", "read_rows", "write_rows"]
