"""Class names of a task, from the source that the task or the user gives."""

import warnings
from pathlib import Path

from datasets import Dataset, IterableDataset

from modeling_altclip.languages_altclip import is_english

from .loading import find_language
from .prompts import NAMES, OURS, load_class_names, read_lists, split_source
from .task import Task


def class_names_of(
    task: Task, languages: list[str], rows: Dataset | IterableDataset | None, given: str | None = None
) -> dict[str, list[str | None]]:
    """Return class names by language, name `i` for label `i`; None for a class that a language does not name.

    Args:
        rows: the task's rows, whose label may name its classes; their number is then the number of classes,
            if the task gives none. Without rows, names that come from them are left out.
        given: a JSON file, or one of clip-benchmark's lists, in place of the task's source.

    Raises:
        InputError: as `load_class_names`.
    """
    if given:
        source, subset = given, None  # the task's subset is of its own list
    else:
        source, subset = task.class_names, task.class_subset

    if rows is None:
        known = [language for language in languages if not _is_named_by_rows(language, source)]
        return load_class_names(source, known, task.n_classes, subset=subset)

    own = task.own_class_names(rows)
    n_classes = task.n_classes or (len(own) if own else None)
    class_names = load_class_names(source, languages, n_classes, dataset_names=own, subset=subset)
    for language, names in class_names.items():
        _warn_of_another_order(language, names, own or [])
    return class_names


def _is_named_by_rows(language: str, source: str | dict[str, str | list]) -> bool:
    """Check whether a language's names come from the dataset, which has them in English."""
    if not is_english(language):
        return False
    if isinstance(source, dict):
        key = find_language(language, source)
        source = None if key is None else source[key]
    return source == "dataset"


def _warn_of_another_order(language: str, names: list[str | None], own: list[str]) -> None:
    """Warn of the dataset's own names in another order, in which name i is not of label i.

    Labels that were texts or folders are numbered alphabetically, and a user may have listed them otherwise.
    """
    given = [_comparable(name) for name in names]
    own = [_comparable(name) for name in own]
    if given != own and sorted(given) == sorted(own):
        label = next(label for label in range(len(own)) if given[label] != own[label])
        warnings.warn(
            f"class names of {language!r} are those of the dataset in another order: class {label} is "
            f"{own[label]!r} there and {given[label]!r} in the list. Name i is of class i: list them in the "
            "dataset's order",
            stacklevel=3,
        )


def _comparable(name: str | None) -> str:
    return (name or "").replace("_", " ").casefold()


def languages_of(task: Task, given: str | None = None) -> list[str]:
    """Return the languages in which a task is evaluated by default.

    They are those of its captions; in a classification, those of the file of class names, or English.

    Args:
        given: the user's source of class names, in place of the task's.
    """
    if task.kind == "retrieval":
        return task.languages
    source = given or task.class_names
    if isinstance(source, dict):
        return list(source)

    name, key = split_source(source)
    if name == OURS:
        # altclip:imagenet -> class_names/imagenet.json
        name, key = str(NAMES / f"{key}.json"), None
    if not (name.endswith(".json") and Path(name).exists()):
        return ["en"]
    lists = read_lists(Path(name))
    keyed = []
    for language, of_keys in lists.items():
        if isinstance(of_keys, dict) and key in of_keys:
            keyed.append(language)
    # If no language has the key, all are returned, and reading any of them raises an error that says so.
    return keyed or list(lists)
