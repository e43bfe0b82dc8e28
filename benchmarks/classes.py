"""The names of a task's classes, from wherever the task or the user says that they come."""

from pathlib import Path

from datasets import Dataset, IterableDataset

from .prompts import load_class_names, read_json
from .task import Task


def class_names_of(
    task: Task, languages: list[str], rows: Dataset | IterableDataset, given: str | None = None
) -> dict[str, list[str | None]]:
    """Names by language, name `i` for label `i`, None for a class that a language does not name.

    Args:
        rows: the task's, whose label may name its classes.
        given: a JSON file, or a list of clip-benchmark's, in place of the task's source.

    Raises:
        InputError: as `load_class_names`.
    """
    source, subset = (given, None) if given else (task.class_names, task.class_subset)
    return load_class_names(source, languages, task.n_classes, dataset_names=task.own_class_names(rows), subset=subset)


def languages_of(task: Task, given: str | None = None) -> list[str]:
    """Those that a task is measured in unless told otherwise: of its captions; of class names, those its file has, or English."""
    source = given or task.class_names
    if task.kind == "retrieval":
        return task.languages
    if isinstance(source, dict):
        return list(source)
    return list(read_json(Path(source))) if source.endswith(".json") and Path(source).exists() else ["en"]
