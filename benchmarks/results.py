"""Results: a JSON file for each model, task and language, beside its per-item results; Markdown tables."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from common.errors import InputError
from common.files.json_files import parse_json
from common.files.names import file_name
from common.files.whole_files import write_text
from common.images import digest_of
from common.markdown import markdown_text
from common.typed import check_types, shorten

from .outcomes import Outcomes, load_outcomes

_KINDS = ("retrieval", "mixed_pool", "zero_shot")
_WIDEST = 1000  # characters that the cells of a column are padded to at most
logger = logging.getLogger(__name__)

_MOST_BYTES = 20_000_000  # a result has 10 kB; one with the task's own class names in all languages has 2 MB
# Fractions are means, which may be above 1 by the rounding of their sums.
_TOLERANCE = 1e-9

# Packages that numbers depend on: the last ones load other libraries' models.
_PACKAGES = (
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
    """Return the versions of `_PACKAGES`, as far as they are installed."""
    versions = {}
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def model_name(model: str) -> str:
    """Return the name of a model's folder of results.

    For a folder or Hub id it is the last part. For another library's model it is all of it, since the last
    part may name its image tower alone: `m_clip:org/texts+org/images` -> `m_clip-org-texts+org-images`.
    What cannot be the name of a folder is encoded, see `file_name`.
    """
    if ":" in model:
        return file_name(re.sub("[:/]+", "-", model))
    name = Path(model).name
    if name in ("", ".."):  # of "." it is empty
        name = Path(model).resolve().name
    return file_name(name)


@dataclass(kw_only=True)
class Result:
    """Scores of one model on one task in one language, with all that is needed to measure them again.

    Attributes:
        kind: `retrieval`, `mixed_pool` or `zero_shot`.
        metric: the task's main metric.
        metrics: fractions, except counts (`n`, the number of images, and `n_texts`) and ranks.
        intervals: 95 % intervals, `{metric: [low, high]}`.
        revision: the dataset's commit.
        limit: how many rows were requested, None for all.
        data: XXH3-128 of all images and of the language's captions, or of the labels.
        n_rows: how many rows there were.
        images: XXH3-128 of the `n` images that count, which have a caption or a class name in the language.
        definition: the task's fields that say how its images and texts are read; of a mixed pool also its
            languages, as `pool`.
        weights: SHA-256 of the model's parameters.
        model_revision: the model's commit.
        dtype: the type that the model computed in; files of earlier versions, which lack it, are of float32.
        templates: the prompt templates, or the name of their set.
        prompts: SHA-256 of the prompt templates and the class names.
        threads: number of threads of each process, on which the last bits of a float depend.
        truncate_dim: the number of dimensions that embeddings were truncated to; None for all, and then the
            file has no such field. The task's name ends in it, see `truncated_name`.
        checksums: XXH3-128 of all other fields, as `result`, and of the file of per-item results, as
            `outcomes`, None if there is none. It is written by `save`; files of earlier versions lack it.
        path: the file that the result was read from, not saved in it.
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
    dtype: str = "float32"
    templates: str | list[str] | None = None
    prompts: str | None = None
    command: str
    versions: dict[str, str] = field(default_factory=package_versions)
    threads: int | None = None
    truncate_dim: int | None = None
    checksums: dict[str, str | None] | None = field(default=None, compare=False, repr=False)
    path: Path | None = field(default=None, compare=False, repr=False)

    @property
    def model_name(self) -> str:
        return model_name(self.model)

    @property
    def pool(self) -> list[str] | None:
        """Return the languages in whose mixed pool this one was evaluated; None in other tasks."""
        return self.definition.get("pool")

    @property
    def whole_task(self) -> str:
        """Return the task's name without the number of dimensions."""
        return self.task.removesuffix(truncated_name("", self.truncate_dim))

    def save(self, folder: Path, outcomes: Outcomes | None = None) -> Path:
        """Write `folder/<model name>/<task>.<language>.json`, and `outcomes` to the `.npz` of the same stem.

        A killed run leaves no half of a file, and no `.json` without its `.npz`. A result of other weights is
        replaced, as when a model was trained again. So is one of images or texts that have changed, with a
        warning.

        Raises:
            InputError: as `refuse_another`; or a field has another type, or a metric a value that none can
                have, and `load_results` would refuse it.
        """
        path = path_of(folder, self.model, self.task, self.language)
        # Not the weights nor the data: a result of others is replaced.
        names = ("model", "dataset", "split", "limit", "prompts", "pool")
        known = {name: getattr(self, name) for name in names}
        other = refuse_another(path, known)
        if other is not None and other.data != self.data:
            self._warn_of_other_data(path, other)

        record = {name: value for name, value in asdict(self).items() if name not in ("checksums", "path")}
        if self.truncate_dim is None:
            del record["truncate_dim"]
        record = json.loads(json.dumps(record))  # as it will be read: tuples become lists
        try:
            check_types(record, Result, "it")
            _check_values(record)
        except ValueError as error:
            raise InputError(f"{path} cannot be written: {error}") from error

        path.parent.mkdir(parents=True, exist_ok=True)
        # The .json is written last: it says that the result is complete.
        of_outcomes = None
        if outcomes is not None:
            of_outcomes = outcomes.save(path.with_suffix(".npz"))
        _write_record(path, record, of_outcomes)
        return path

    def outcomes(self) -> Outcomes:
        """Read the per-item results.

        Raises:
            InputError: the result was saved without them, or they are damaged or of another result.
        """
        path = self.path.with_suffix(".npz") if self.path else None
        if path is None or not path.is_file():
            raise InputError(
                f"no outcomes beside the result {self.path}: evaluate {self.model!r} on {self.task!r} again"
            )
        if self.checksums is None:  # written by an earlier version
            return load_outcomes(path)
        if self.checksums["outcomes"] is None:
            raise InputError(f"{path} is of another result than {self.path}: evaluate {self.model!r} again")
        return load_outcomes(path, self.checksums["outcomes"])

    def _warn_of_other_data(self, path: Path, other: Result) -> None:
        logger.warning(
            "%s: the images or texts differ from those of the existing result: %s is replaced by %s",
            path,
            other._summarize(),
            self._summarize(),
        )

    def _summarize(self) -> str:
        """Return the main metric and the number of images: `mean_recall 0.724 of n 1000`."""
        return f"{self.metric} {self.metrics.get(self.metric)} of n {self.metrics.get('n')}"


def truncated_name(task: str, truncate_dim: int | None) -> str:
    """Return the name of a task in results of truncated embeddings: `xm3600`, 256 -> `xm3600-256d`."""
    return task if truncate_dim is None else f"{task}-{truncate_dim}d"


def path_of(folder: Path, model: str, task: str, language: str) -> Path:
    """Return the path of a result, which is always two levels below a folder; see `file_name`."""
    name = file_name(f"{task}.{language}")
    return Path(folder) / model_name(model) / f"{name}.json"


def refuse_another(path: Path, measured: dict) -> Result | None:
    """Read the result at `path`, None if there is none, and refuse one that must not be replaced.

    Args:
        measured: fields of the new `Result` with their values, as far as they are known.

    Raises:
        InputError: the result is of another model with the same last part, of another task of the same name,
            of more or fewer rows, of other prompts, or from a pool of other languages.
    """
    if not path.exists():
        return None
    other = _read_result(path)
    for name, value in measured.items():
        before = getattr(other, name)
        if before != value:
            differs = f"{name} {_or_none(before)}, not of {_or_none(value)}"
            if name == "prompts":  # of which there are only hashes to show
                differs = "other templates or class names"
            raise InputError(f"{path} is a result of {differs}: give another output_dir, or delete it")
    return other


def _or_none(value: object) -> str:
    return "none" if value is None else repr(value)


def _read_result(path: Path) -> Result:
    """Read one file that `Result.save` wrote.

    Raises:
        InputError: it is another file, half of one, or was changed.
    """
    record = _read_record(path)
    checksums = record.get("checksums")
    if checksums is not None and checksums["result"] != _digest(record):
        raise InputError(
            f"{path} was changed after it was written: delete it and evaluate again, or accept it as it is "
            f"with `altclip check --rewrite {path.parent}`"
        )
    return Result(**record, path=path)


def _read_record(path: Path) -> dict:
    """Read the fields of a result, each of its type and with a value that it can have.

    Raises:
        InputError: it is another file, or half of one.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise InputError(f"it has more than {_MOST_BYTES:,} bytes")
        record = parse_json(path.read_text("utf-8"), "it")
        _check_names(record)
        check_types(record, Result, "it")
        _check_values(record)
    except (OSError, ValueError) as error:  # `InputError` and no text in UTF-8 are ValueErrors
        raise InputError(
            f"{path} is not a result ({error}): delete it, or move it to another folder, and evaluate again"
        ) from error
    return record


def _check_names(record: object) -> None:
    """Check that a record is a mapping with the fields of a result, and no others.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(record, dict):
        raise ValueError("it is no mapping of fields to values")
    fields = {
        of_result.name: of_result for of_result in dataclasses.fields(Result) if of_result.name != "path"
    }
    unknown = [name[:40] for name in record if name not in fields]
    if unknown:
        raise ValueError(f"it has the unknown field {unknown[0]!r}")
    for name, of_result in fields.items():
        has_default = (
            of_result.default is not dataclasses.MISSING
            or of_result.default_factory is not dataclasses.MISSING
        )
        if name not in record and not has_default:
            raise ValueError(f"it lacks the field {name!r}")


def _check_values(record: dict) -> None:
    """Check the kind, that the main metric is there, and that metrics and intervals have possible values.

    Raises:
        ValueError: it is not, or one has not.
    """
    if record["kind"] not in _KINDS:
        raise ValueError(f"kind is {shorten(record['kind'])}; there are {', '.join(_KINDS)}")
    for name in ("n", record["metric"]):
        if name not in record["metrics"]:
            raise ValueError(f"metrics lack {name[:40]!r}")
    for name, value in record["metrics"].items():
        _check_metric(name, value, f"metrics[{name!r}]")
    for name, interval in record.get("intervals", {}).items():
        _check_interval(name, interval)
    for name in ("limit", "n_rows", "threads", "truncate_dim"):
        value = record.get(name)
        if value is not None and value < 0:
            raise ValueError(f"{name} is {value}, which is no number of anything")
    checksums = record.get("checksums")
    if checksums is not None and (checksums.keys() != {"result", "outcomes"} or checksums["result"] is None):
        raise ValueError("checksums must have result and outcomes")


def _check_interval(name: str, interval: list[float]) -> None:
    """Check one interval, `[low, high]`, of a metric."""
    if len(interval) != 2 or interval[0] > interval[1]:
        raise ValueError(f"intervals[{name!r}] is {interval}, which is not [low, high]")
    for value in interval:
        _check_metric(name, value, f"intervals[{name!r}]")


def _check_metric(name: str, value: float, place: str) -> None:
    """Check one value of a metric: a count, a rank, or a fraction from 0 to 1."""
    if name in ("n", "n_texts"):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{place} is {value}, which is no count")
    elif "_rank_" in name:
        if value < 0:
            raise ValueError(f"{place} is {value}, which is no rank")
    elif not -_TOLERANCE <= value <= 1 + _TOLERANCE:
        raise ValueError(f"{place} is {value}, which is no fraction from 0 to 1")


def _digest(record: dict) -> str:
    """Return the XXH3-128 of a result's fields, however its file is laid out.

    It finds damage, as of a disk, and changes by hand. XXH3 is what caches and images are hashed with here.
    """
    content = {name: value for name, value in record.items() if name != "checksums"}
    return digest_of(json.dumps(content, sort_keys=True).encode())


def _write_record(path: Path, record: dict, of_outcomes: str | None) -> None:
    """Write a result's fields, and the checksums of them and of its per-item results."""
    record = record | {"checksums": {"result": _digest(record), "outcomes": of_outcomes}}
    write_text(path, json.dumps(record, ensure_ascii=False, indent=1) + "\n")


def find_damaged_results(folder: str | Path) -> list[str]:
    """Describe what is damaged among the results below a folder, a line for each file.

    Per-item results are compared with their checksums; those of earlier versions, without one, are read.
    """
    damages = []
    for path in sorted(Path(folder).rglob("*.json")):
        try:
            result = _read_result(path)
            has_outcomes = result.checksums is not None and result.checksums["outcomes"] is not None
            if has_outcomes or path.with_suffix(".npz").exists():
                result.outcomes()
        except InputError as error:
            damages.append(str(error))
    return damages


def rewrite_results(folder: str | Path) -> list[str]:
    """Give all results below a folder the checksums of what they hold now, and return their paths.

    Raises:
        InputError: a file is not a result, or its per-item results cannot be read.
    """
    paths = sorted(Path(folder).rglob("*.json"))
    for path in paths:
        record = _read_record(path)
        of_outcomes = None
        outcomes = path.with_suffix(".npz")
        if outcomes.exists():
            load_outcomes(outcomes)
            of_outcomes = digest_of(outcomes.read_bytes())
        _write_record(path, record, of_outcomes)
    return [str(path) for path in paths]


def load_results(folder: Path) -> list[Result]:
    """Read all results below `folder`, sorted by path.

    Example:

    ```python
    >>> from benchmarks import load_results

    >>> results = load_results("outputs/miniature/results")
    >>> sorted({result.metric for result in results})
    ['accuracy@1', 'mean_recall']
    ```
    """
    return [_read_result(path) for path in sorted(Path(folder).rglob("*.json"))]


def format_table(header: list[str], rows: list[list]) -> str:
    """Format a Markdown table with fractions as percentages, padded so that it reads well in a terminal."""
    lines = []
    for row in [header, *rows]:
        lines.append([_format_cell(cell) for cell in row])
    widths = []
    for column in range(len(header)):
        widths.append(min(max(len(line[column]) for line in lines), _WIDEST))

    table = []
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line, widths)]
        table.append("| " + " | ".join(cells) + " |")
    # |-------|------|, with a dash for the space at either side of a cell.
    rule = "|".join("-" * (width + 2) for width in widths)
    table.insert(1, f"|{rule}|")
    return "\n".join(table)


def _format_cell(cell: object) -> str:
    """Format a fraction as a percentage, and anything else as text: 0.724 -> "72.4", 1000 -> "1000"."""
    return f"{100 * cell:.1f}" if isinstance(cell, float) else markdown_text(str(cell))
