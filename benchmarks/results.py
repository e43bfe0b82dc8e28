"""Results: of each model, task and language one JSON file, and beside it what came of each item; and tables in Markdown."""

from __future__ import annotations

import json
import logging
import os
import re
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from .recipe import InputError

if TYPE_CHECKING:
    from .outcomes import Outcomes


logger = logging.getLogger(__name__)

# What numbers depend on; of other libraries' models, that library.
PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "datasets",
    "accelerate",
    "pillow",
    "open_clip_torch",
    "timm",
    "sentence-transformers",
)


@cache
def package_versions() -> dict[str, str]:
    """Versions of `PACKAGES`, as far as they are installed."""
    versions = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def model_name(model: str) -> str:
    """Of a folder or Hub id the last part; of another library's model all of it, since its last part may be of its images alone."""
    return re.sub("[:/]+", "-", model) if ":" in model else Path(model).name or Path(model).resolve().name


@dataclass(kw_only=True)
class Result:
    """What one model scored on one task in one language, and what it takes to measure it again.

    `metrics` are fractions, except counts (`n`, the number of images, and `n_texts`) and ranks; `intervals` their 95 % intervals,
    `{metric: [low, high]}`. `kind` is `retrieval` or `zero_shot` and `metric` the task's main one. `revision` is the dataset's commit,
    `limit` how many rows were asked for, if not all, `n_rows` how many there were, `data` the XXH3-128 of their images and of the
    language's captions, or of the labels, themselves, `images` that of the `n` images that count, which have a caption or a class name in
    the language, and `definition` what the task says of how they are read; `weights` is the SHA-256 of the model's parameters and
    `model_revision` its commit; `templates` are the sentences, or the name of their set, and `prompts` the SHA-256 of these and the class
    names; `threads` how many each process computed with, which the last bits of a float depend on.
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
    limit: int | None = None
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
    threads: int | None = None
    path: Path | None = field(default=None, compare=False, repr=False)  # where it was read from

    @property
    def model_name(self) -> str:
        return model_name(self.model)

    def save(self, folder: Path, outcomes: Outcomes | None = None) -> Path:
        """Write `folder/<model name>/<task>.<language>.json`, and `outcomes` to the `.npz` of the same stem; a killed run leaves no half
        of a file, and no `.json` without its `.npz`. A result of other weights gives way to it, as when a model was trained anew; one of
        images or texts that have changed since, with a warning.

        Raises:
            InputError: as `refuse_another`.
        """
        path = path_of(folder, self.model, self.task, self.language)
        other = refuse_another(
            path, {name: getattr(self, name) for name in ("model", "dataset", "split", "limit", "prompts")}
        )
        if other is not None and other.data != self.data:
            before, now = (
                f"{one.metric} {one.metrics.get(one.metric)} of n {one.metrics.get('n')}"
                for one in (other, self)
            )
            logger.warning(
                "%s: the images or texts are not those of the result that lay there: %s gives way to %s",
                path,
                before,
                now,
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
            raise InputError(
                f"no outcomes beside the result {self.path}: evaluate {self.model!r} on {self.task!r} again"
            )
        return load_outcomes(path)


def path_of(folder: Path, model: str, task: str, language: str) -> Path:
    """Where a result lies."""
    return Path(folder) / model_name(model) / f"{task}.{language}.json"


def refuse_another(path: Path, measured: dict) -> Result | None:
    """The result at `path`, None if none lies there; it has to be of what is measured now.

    Args:
        measured: fields of a `Result` with their values, as far as they are known.

    Raises:
        InputError: it is of another model, whose name ends alike, of another task of the same name, of more or fewer rows, or of other
            prompts.
    """
    if not path.exists():
        return None
    other = read_result(path)
    for what, value in measured.items():
        if getattr(other, what) != value:
            before, now = ("none" if one is None else repr(one) for one in (getattr(other, what), value))
            differs = (
                "other templates or class names" if what == "prompts" else f"{what} {before}, not of {now}"
            )
            raise InputError(f"{path} is a result of {differs}: give another output_dir, or delete it")
    return other


def read_result(path: Path) -> Result:
    """Read one file that `Result.save` wrote; another file, or half of one, is an `InputError`."""
    try:
        return Result(**json.loads(path.read_text("utf-8")), path=path)
    except (TypeError, ValueError) as error:  # no JSON, no text in UTF-8, or other fields
        raise InputError(
            f"{path} is not a result ({error}): delete it, or move it to another folder, and evaluate again"
        ) from error


def load_results(folder: Path) -> list[Result]:
    """Read every result below `folder`, in the order of their names."""
    return [read_result(path) for path in sorted(Path(folder).rglob("*.json"))]


def format_table(header: list[str], rows: list[list]) -> str:
    """A Markdown table, padded so that it reads well in a terminal; fractions are shown as percentages."""
    cells = [
        [f"{100 * cell:.1f}" if isinstance(cell, float) else str(cell) for cell in row]
        for row in [header, *rows]
    ]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in cells]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)
