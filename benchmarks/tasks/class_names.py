"""Class names for zero-shot classification, from the source that a task or the user gives.

clip-benchmark has ImageNet's 1,000 class names in en, zh, it, ja and ar. `class_names/imagenet.json` adds
Korean names: a language model wrote them from the English names and WordNet's definitions, and no native
speaker has proofread them.
"""

import ast
import importlib.util
import os
import warnings
from collections import defaultdict
from pathlib import Path

from datasets import Dataset, IterableDataset

from common.errors import InputError
from common.files.names import file_name
from common.languages import find_language
from common.typed import fits, shorten
from modeling_altclip.languages_altclip import is_english
from modeling_altclip.texts_altclip import is_blank

from .reading import own_class_names
from .task import Task
from .text_lists import (
    NAMES,
    OURS,
    SOURCE,
    first_of,
    package_folder,
    pick_language,
    read_languages,
    read_list,
    split_source,
)

_IMAGENET = 1000  # classes


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

    own = own_class_names(task, rows)
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
    if task.has_captions:
        return task.languages
    source = given or task.class_names
    if isinstance(source, dict):
        return list(source)

    name, key = split_source(source)
    if name == OURS:
        # altclip:imagenet -> class_names/imagenet.json; an unknown key is refused when the names are read
        name, key = str(NAMES / f"{file_name(key or '')}.json"), None
    if not (name.endswith(".json") and os.path.exists(name)):
        return ["en"]
    lists = read_languages(Path(name))
    keyed = []
    for language, of_keys in lists.items():
        if isinstance(of_keys, dict) and key in of_keys:
            keyed.append(language)
    # If no language has the key, all are returned, and reading any of them raises an error that says so.
    return keyed or list(lists)


def load_class_names(
    source: str | dict[str, str | list],
    languages: list[str],
    n_classes: int | None = None,
    *,
    dataset_names: list[str] | None = None,
    subset: str | list[int] | None = None,
) -> dict[str, list[str | None]]:
    """Load class names by language, name `i` for label `i`.

    A name is None if the language does not name the class, whose images are then to be left out.

    Args:
        source: `dataset` (English); `FILE.json` with `{language: [name, ...]}` (null for None) or
            Babel-ImageNet's `{language: [indices, names]}`; `FILE.json:KEY` of `{language: {key: [...]}}`;
            `clip_benchmark` (ImageNet's) or `clip_benchmark:DATASET`; `altclip:imagenet` (ours, in Korean);
            or a dict that gives each language one of these, or the names.
        n_classes: number of classes of the dataset; by default the number of names is not checked.
        dataset_names: the dataset's own names, from its `ClassLabel`; underscores are read as spaces.
        subset: the rows of the list that the dataset's labels mean, or `imagenet_a` or `imagenet_r` for their
            200 of ImageNet's 1,000 classes.

    Raises:
        InputError: classes lack a name, or there are more names than classes; a language has no names; a
            package is not installed.
    """
    rows = load_subset(subset) if isinstance(subset, str) else subset
    class_names = {}
    for language in languages:
        given = source
        if isinstance(source, dict):
            given = pick_language(source, language, "class names in", "class_names")
        names, origin = _read_names(given, language, dataset_names)
        origin = f"class names of {language!r} in {origin}"
        if not isinstance(names, list):
            raise InputError(f"{origin}: {shorten(names)} is no list of names")

        if isinstance(subset, str) and len(names) != _IMAGENET:
            raise InputError(f"{origin}: {len(names)} names, but {subset} is of ImageNet's {_IMAGENET:,}")
        if rows is not None:
            if max(rows) >= len(names):
                raise InputError(f"{origin}: {len(names)} names, but the subset means row {max(rows)}")
            names = [names[row] for row in rows]
        class_names[language] = _check_names(names, n_classes, origin, dataset_names)
    return class_names


def named_classes(names: list[str | None]) -> list[int]:
    """Return the labels that have a name: only their images can be classified, among these classes."""
    return [label for label, name in enumerate(names) if name is not None]


def load_subset(name: str) -> list[int]:
    """Return ImageNet-1k's rows of the 200 classes of `imagenet_a` or `imagenet_r`, in the order of their
    labels.

    They are read from an installed package: from a text file of timm, or else from clip-benchmark's source.

    Raises:
        InputError: there is no such subset, or neither package is installed.
    """
    if name not in ("imagenet_a", "imagenet_r"):
        raise InputError(f"subset {name!r} is neither 'imagenet_a' nor 'imagenet_r': give the list of rows")
    if importlib.util.find_spec("timm"):
        indices = package_folder("timm") / "data" / "_info" / f"{name}_indices.txt"
        return [int(line) for line in indices.read_text("utf-8").split()]

    # clip-benchmark assigns lists of WordNet ids to these two names.
    all_ids, subset_ids = "all_imagenet_wordnet_ids", f"{name}_wnids"
    source = package_folder("clip_benchmark") / "datasets" / "builder.py"
    constants = {}
    module = ast.parse(source.read_text("utf-8"))
    for node in ast.walk(module):
        if isinstance(node, ast.Assign):
            target = getattr(node.targets[0], "id", None)
            if target in (all_ids, subset_ids):
                constants[target] = ast.literal_eval(node.value)
    return [row for row, wnid in enumerate(constants[all_ids]) if wnid in constants[subset_ids]]


def _read_names(source: str | list, language: str, dataset_names: list[str] | None) -> tuple[list, str]:
    """Read the class names of one language, unchecked, and say where they are from."""
    if isinstance(source, list):
        return source, "class_names"
    if source == "dataset":
        return _read_dataset_names(language, dataset_names), "the dataset"
    if not SOURCE.fullmatch(source):
        raise InputError(
            f"class_names {source!r} is neither 'dataset', a .json file, 'clip_benchmark' nor "
            "'altclip:imagenet'"
        )
    names, origin = read_list(source, language, "classnames")
    if isinstance(names, list) and names and isinstance(names[0], list):
        names = _expand_partial(names, f"class names of {language!r} in {origin}")
    return names, origin


def _read_dataset_names(language: str, dataset_names: list[str] | None) -> list[str]:
    if is_english(language) and dataset_names:
        return [name.replace("_", " ") for name in dataset_names]
    # Other languages are refused before any row is read, when it is unknown whether there are English names.
    lack = (
        "does not name its classes"
        if is_english(language)
        else "names its classes in English only, if at all"
    )
    wanted = f"a JSON file with {{{language!r}: [name of class 0, ...]}}"
    raise InputError(f"class names of {language!r}: the dataset {lack}; give class_names {wanted}")


def _expand_partial(lists: list[list], origin: str) -> list[str | None]:
    """Expand Babel-ImageNet's form to all classes: `[[1, 3], ["a", "b"]]` -> `[None, "a", None, "b", ...]`.

    Raises:
        InputError: there are not two lists of one length, or the first is not of different classes.
    """
    form = "[[class, ...], [name, ...]]"
    if len(lists) != 2 or not isinstance(lists[1], list) or len(lists[0]) != len(lists[1]):
        raise InputError(f"{origin}: {shorten(lists)} is not in the form {form}, two lists of one length")
    indices, partial = lists
    names = [None] * _IMAGENET
    for index, name in zip(indices, partial):
        if not fits(index, int) or not 0 <= index < _IMAGENET:
            raise InputError(
                f"{origin}: {shorten(index)} is no class of ImageNet's, which are 0 to {_IMAGENET - 1}"
            )
        if names[index] is not None:
            raise InputError(f"{origin}: class {index} has two names: delete one")
        names[index] = name
    return names


def _check_names(
    names: list, n_classes: int | None, origin: str, dataset_names: list[str] | None
) -> list[str | None]:
    """Check that every class has a name or None, and return the names without surrounding spaces.

    Raises:
        InputError: a class has neither, there are too many names, or all are None.
    """
    names = [name.strip() if isinstance(name, str) else name for name in names]
    if n_classes is None:
        n_classes = len(names)

    missing = []
    for label in range(n_classes):
        if label >= len(names) or not _is_name(names[label]):
            missing.append(label)
    if missing:
        listed = first_of([_title(label, dataset_names or []) for label in missing])
        raise InputError(
            f"{origin}: {len(missing)} of {n_classes} classes without a name: {listed}. A name is text; null "
            "leaves a class out"
        )
    if len(names) > n_classes:
        surplus = first_of([repr(name) for name in names[n_classes:]])
        raise InputError(f"{origin}: {len(names)} names for {n_classes} classes; too many: {surplus}")
    if not named_classes(names):
        raise InputError(f"{origin}: no class has a name")

    _warn_of_equal_names(names, origin)
    return names


def _title(label: int, dataset_names: list[str]) -> str:
    """Return a label, with the dataset's own name of the class where it has one: `3 (cat)`."""
    return f"{label} ({dataset_names[label]})" if label < len(dataset_names) else str(label)


def _warn_of_equal_names(names: list[str | None], origin: str) -> None:
    labels = defaultdict(list)
    for label in named_classes(names):
        labels[names[label]].append(label)
    equal = []
    for name, of_name in labels.items():
        if len(of_name) > 1:
            equal.append(f"{name!r} ({', '.join(map(str, of_name))})")
    if equal:
        warnings.warn(
            f"{origin}: {len(equal)} names are shared by several classes, so their texts are equal: "
            f"{first_of(equal)}",
            stacklevel=4,
        )


def _is_name(name: object) -> bool:
    """Check that a name is a text that is not blank, or None, for a class that is left out."""
    return name is None or isinstance(name, str) and not is_blank(name)
