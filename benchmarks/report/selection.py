"""Selection of the results to report, and counts of those that are missing."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from common.commands import evaluation_programs
from common.errors import InputError
from common.languages import find_language

from ..results import Result, load_results
from .comparison import Comparison, Number
from .means import MEANS


@dataclass(kw_only=True)
class ReportArguments:
    """Selection of results. Names are those of the evaluation scripts, so that a recipe serves both."""

    output_dir: str = field(
        metadata={"help": "Folder for the report, and with the results unless --results names others."}
    )
    results: list[str] | None = field(
        default=None, metadata={"help": "Folders with results; output_dir by default."}
    )
    models: list[str] | None = field(
        default=None, metadata={"help": "Models, in the order to show them; all by default."}
    )
    tasks: list[str] | None = field(
        default=None, metadata={"help": "Tasks, in the order to show them; all by default."}
    )
    languages: list[str] | None = field(
        default=None, metadata={"help": "Languages, in the order to show them; all by default."}
    )


def select_results(
    folders: Iterable[str], models: list[str] | None, tasks: list[str] | None, languages: list[str] | None
) -> tuple[list[Result], list[str]]:
    """Select results by model, task and language.

    Args:
        models, tasks, languages: those to select, all by default. A task is named as in its results, or by
        its YAML file.

    Returns:
        The results in the order of the names, and which of the names have no result.

    Raises:
        InputError: there is no result at all, or a folder does not exist.
    """
    results = _load_all(folders)
    if tasks is not None:
        tasks = [_task_name(task) for task in tasks]
    if languages is not None:
        available = _values(results, "language")
        languages = [find_language(language, available) or language for language in languages]
    requested = {"model": models, "task": tasks, "language": languages}

    kept = results
    for axis, names in requested.items():
        if names is not None:
            kept = [result for result in kept if getattr(result, axis) in names]
    if not kept:
        raise InputError(_nothing_found(folders, results, requested))

    # {"model": ["org/b", "org/a"], "task": [...], "language": [...]}; without names in the order of results.
    order = {axis: names or _values(kept, axis) for axis, names in requested.items()}
    absent = []
    for axis, names in order.items():
        found = _values(kept, axis)
        absent += [name for name in names if name not in found]

    def place(result: Result) -> list[int]:
        return [names.index(getattr(result, axis)) for axis, names in order.items()]

    return sorted(kept, key=place), absent


def _load_all(folders: Iterable[str]) -> list[Result]:
    """Load the results of all folders.

    Raises:
        InputError: a folder does not exist.
    """
    results = []
    for folder in folders:
        if not Path(folder).is_dir():
            raise InputError(
                f"results folder {folder!r} does not exist: evaluate first, with {evaluation_programs()}"
            )
        results += load_results(Path(folder))
    return results


def _task_name(task: str) -> str:
    """Return the name of a task that is given by its name or its YAML file."""
    return Path(task).stem if task.endswith((".yaml", ".yml")) else task


def _values(results: list[Result], axis: str) -> list[str]:
    """Return the distinct models, tasks or languages of results, in order."""
    return list(dict.fromkeys(getattr(result, axis) for result in results))


def _nothing_found(
    folders: Iterable[str], results: list[Result], requested: dict[str, list[str] | None]
) -> str:
    """Return the message for a selection without results: which names were requested, and which exist."""
    wanted = []  # ["model org/a org/b", "language en"]
    available = []  # of each axis, in the same form
    for axis, names in requested.items():
        available.append(" ".join([axis, *sorted(_values(results, axis))]))
        if names:
            wanted.append(" ".join([axis, *names]))

    selection = "; ".join(wanted) or "any model"
    message = f"no results in {' '.join(folders)} for {selection}: evaluate first"
    if not results:
        return message
    return f"{message}, or name what is there: {'; '.join(available)}"


def count_gaps(comparison: Comparison, numbers: list[Number]) -> dict[str, tuple[int, int]]:
    """Return `{model: (numbers it lacks, numbers that any model has)}` of the models that lack some."""
    measured: dict[str, set] = {model: set() for model in comparison.values("model")}
    wanted = set()
    for number in numbers:
        place = (number.task, number.language, number.metric)
        measured[number.model].add(place)
        # A missing mean follows from a missing language, or has a note of its own.
        if number.language not in MEANS:
            wanted.add(place)

    lacking = {}
    for model, places in measured.items():
        n_missing = len(wanted - places)
        if n_missing:
            lacking[model] = (n_missing, len(wanted))
    return lacking
