"""Results: one JSON file per model, task and language, and the table that shows them side by side."""

import json
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path


def package_versions() -> dict[str, str]:
    return {name: version(name) for name in ("torch", "transformers", "datasets")}


@dataclass
class Result:
    """What one model scored on one task in one language, and what it takes to measure it again.

    `metrics` are fractions, except `n`, the number of images, and ranks. `weights` is the SHA-256 of the model's parameters.
    """

    model: str
    task: str
    language: str
    metrics: dict[str, float]
    dataset: str
    split: str
    weights: str
    command: str
    versions: dict[str, str] = field(default_factory=package_versions)

    def save(self, folder: Path) -> Path:
        path = folder / Path(self.model).name / f"{self.task}.{self.split}.{self.language}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        return path


def load_results(folder: Path) -> list[Result]:
    """Read every result below `folder`, in the order of their names."""
    return [Result(**json.loads(path.read_text("utf-8"))) for path in sorted(Path(folder).rglob("*.json"))]


def format_table(header: list[str], rows: list[list]) -> str:
    """A Markdown table, padded so that it reads well in a terminal; fractions are shown as percentages."""
    cells = [[f"{100 * cell:.1f}" if isinstance(cell, float) else str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in cells]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)
