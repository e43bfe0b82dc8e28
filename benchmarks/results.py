"""Results: of each model, task and language one JSON file, and beside it what came of each item; and tables in Markdown."""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING

from .recipe import InputError

if TYPE_CHECKING:
    from .outcomes import Outcomes


# What numbers depend on; of other libraries' models, that library.
PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "accelerate", "pillow", "open_clip_torch", "timm", "sentence-transformers")


@cache
def package_versions() -> dict[str, str]:
    """Versions of `PACKAGES`, as far as they are installed."""
    installed = {distribution.name: distribution.version for distribution in distributions()}
    return {name: installed[name] for name in PACKAGES if name in installed}


def model_name(model: str) -> str:
    """Of a folder or Hub id the last part; of another library's model all of it, since its last part may be of its images alone."""
    return re.sub("[:/]+", "-", model) if ":" in model else Path(model).name or Path(model).resolve().name


@dataclass(kw_only=True)
class Result:
    """What one model scored on one task in one language, and what it takes to measure it again.

    `metrics` are fractions, except counts (`n`, the number of images, and `n_texts`) and ranks; `intervals` their 95 % intervals,
    `{metric: [low, high]}`. `kind` is `retrieval` or `zero_shot` and `metric` the task's main one. `revision` is the dataset's commit,
    `data` the XXH3-128 of the images and of the language's captions, or of the labels, themselves, `n_rows` how many images that are and
    `images` the XXH3-128 of those `n` that count, which have a caption or a class name in the language, and `definition` what the task
    says of how they are read; `weights` is the SHA-256 of the model's parameters and `model_revision` its commit; `templates` are the
    sentences, or the name of their set, and `prompts` the SHA-256 of these and the class names.
    """

    model: str
    task: str
    kind: str
    language: str
    metric: str
    metrics: dict[str, float]
    intervals: dict[str, list[float]] = field(default_factory=dict)
    dataset: str
    split: str
    revision: str | None = None
    data: str | None = None
    n_rows: int | None = None
    images: str | None = None
    definition: dict = field(default_factory=dict)
    weights: str
    model_revision: str | None = None
    templates: str | list[str] | None = None
    prompts: str | None = None
    command: str
    versions: dict[str, str] = field(default_factory=package_versions)
    path: Path | None = field(default=None, compare=False, repr=False)  # where it was read from

    @property
    def model_name(self) -> str:
        return model_name(self.model)

    def save(self, folder: Path, outcomes: Outcomes | None = None) -> Path:
        """Write `folder/<model name>/<task>.<language>.json`, and `outcomes` to the `.npz` of the same stem; a killed run leaves no half
        of a file, and no `.json` without its `.npz`.

        Raises:
            InputError: a result of another model, whose name ends alike, or of another task of the same name lies there.
        """
        path = Path(folder) / self.model_name / f"{self.task}.{self.language}.json"
        if path.exists():
            other = read_result(path)
            for what in ("model", "dataset", "split"):
                if getattr(other, what) != getattr(self, what):
                    raise InputError(
                        f"{path} is a result of {what} {getattr(other, what)!r}, not of {getattr(self, what)!r}: give another output_dir"
                    )
        path.parent.mkdir(parents=True, exist_ok=True)
        if outcomes is not None:
            partial = path.with_suffix(".partial.npz")
            outcomes.save(partial)
            os.replace(partial, path.with_suffix(".npz"))
        record = {name: value for name, value in asdict(self).items() if name != "path"}
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        os.replace(partial, path)
        return path

    def outcomes(self) -> Outcomes:
        """What came of each item.

        Raises:
            InputError: the result was saved without.
        """
        from .outcomes import load_outcomes

        path = self.path.with_suffix(".npz") if self.path else None
        if path is None or not path.is_file():
            raise InputError(f"no outcomes beside the result {self.path}: evaluate {self.model!r} on {self.task!r} again")
        return load_outcomes(path)


def read_result(path: Path) -> Result:
    """Read one file that `Result.save` wrote; another file, or half of one, is an `InputError`."""
    try:
        return Result(**json.loads(path.read_text("utf-8")), path=path)
    except (TypeError, ValueError) as error:  # no JSON, no text in UTF-8, or other fields
        raise InputError(f"{path} is not a result ({error}): delete it, or move it to another folder, and evaluate again") from error


def load_results(folder: Path) -> list[Result]:
    """Read every result below `folder`, in the order of their names."""
    return [read_result(path) for path in sorted(Path(folder).rglob("*.json"))]


def format_table(header: list[str], rows: list[list]) -> str:
    """A Markdown table, padded so that it reads well in a terminal; fractions are shown as percentages."""
    cells = [[f"{100 * cell:.1f}" if isinstance(cell, float) else str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in cells]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)
