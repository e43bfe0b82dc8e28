"""The names of a task's classes, from wherever the task or the user says that they come."""

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
    """Return class names by language: name `i` for label `i`, None for a class without a name in that
    language.

    Args:
        rows: the task's, whose label may name its classes, and then says how many there are, if the task does
            not. Without rows, names that come from them are left out.
        given: a JSON file, or a list of clip-benchmark's, in place of the task's source.

    Raises:
        InputError: as `load_class_names`.
    """
    source, subset = (given, None) if given else (task.class_names, task.class_subset)
    if rows is None:
        by_language = source if isinstance(source, dict) else dict.fromkeys(languages, source)
        known = [
            language
            for language in languages
            if not is_english(language) or source_of(language, by_language) != "dataset"
        ]
        return load_class_names(source, known, task.n_classes, subset=subset)
    own = task.own_class_names(rows)
    n_classes = task.n_classes or (len(own) if own else None)
    class_names = load_class_names(source, languages, n_classes, dataset_names=own, subset=subset)
    for language, names in class_names.items():
        warn_of_another_order(language, names, own or [])
    return class_names


def source_of(language: str, by_language: dict[str, str | list]) -> str | list | None:
    """Return where a language's class names come from, None where the task does not say."""
    key = find_language(language, by_language)
    return None if key is None else by_language[key]


def warn_of_another_order(language: str, names: list[str | None], own: list[str]) -> None:
    """Warn where a user lists the dataset's class names in another order.

    Labels that were texts or folders are numbered in alphabetical order, which the user may not know.
    """

    def plain(listed: list[str | None]) -> list[str]:
        return [(name or "").replace("_", " ").casefold() for name in listed]

    given = plain(names)
    own = plain(own)
    if given != own and sorted(given) == sorted(own):
        label = next(label for label, (name, other) in enumerate(zip(given, own)) if name != other)
        warnings.warn(
            f"class names of {language!r} are those of the dataset in another order: class {label} is "
            f"{own[label]!r} there and {given[label]!r} in the list. Name i is of class i: "
            "list them in the dataset's order",
            stacklevel=3,
        )


def languages_of(task: Task, given: str | None = None) -> list[str]:
    """Return the languages that a task is evaluated in by default.

    Of its captions; of class names, those its file has, or English.
    """
    source = given or task.class_names
    if task.kind == "retrieval":
        return task.languages
    if isinstance(source, dict):
        return list(source)
    name, key = split_source(source)
    if name == OURS:
        name, key = str(NAMES / f"{key}.json"), None
    if not (name.endswith(".json") and Path(name).exists()):
        return ["en"]
    lists = read_lists(Path(name))
    # Where no language has the key, reading any of them says so.
    keyed = [language for language, of_keys in lists.items() if isinstance(of_keys, dict) and key in of_keys]
    return keyed or list(lists)
