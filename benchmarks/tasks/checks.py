"""Checks of a task's file: which values it may have, and which go together. No data is read for them."""

import dataclasses

from common.command_line import did_you_mean
from common.errors import InputError
from common.typed import check_types
from modeling_altclip.languages_altclip import check_tag, name_languages

from .task import Task
from .templates import check_templates

METRICS = {
    "retrieval": ["mean_recall", "accuracy@1"],
    "mixed_pool": ["image_to_text_preference", "text_to_text_preference"],
    "zero_shot": [
        "accuracy@1",
        "mean_per_class",
        "map_11_point",
        "mean_average_precision",
        "mean_top1_top5",
        "roc_auc",
    ],
}
# Metrics of images with several labels each; the other metrics of zero_shot are of one label an image.
_OF_SEVERAL_LABELS = ["map_11_point", "mean_average_precision"]
_ANSWERS = ["captions", "label", "labels"]
# Layouts of tables, with the columns that each needs beside its captions or labels.
_TABLES = {
    "table": [],
    "webdataset": [],
    "split_per_language": ["id", "image"],
    "split_with_images": ["image"],
    "language_column": ["id", "image", "language"],
    "frames": ["video", "frame"],
}
# Layouts of tables in which each language has images of its own.
OWN_IMAGES = ("split_with_images", "language_column")
# Layouts of other files, with the languages that each allows, for messages.
FILES = {
    "chinese_clip": "one language",
    "caption_lines": "any languages",
    "coco_json": "one language",
    "candidates": "any languages",
}
# Layouts in which `where` has the value that stands for each language.
_NAMED_IN_WHERE = ("language_column", "candidates")
# Columns that may be, or have to be, several; all others are the name of one.
_IN_SEVERAL = {
    "captions": (str | dict, "the name of a column, or {language: name}"),
    "video": (list, "a list of names of columns"),
}


def check_known(key: str, known: list[str], where: str) -> None:
    """Refuse a key that is not known, with a suggestion."""
    if key not in known:
        close = did_you_mean(key, known)
        hint = f"did you mean {close!r}?" if close else f"choose from {', '.join(known)}"
        raise InputError(f"{where} has an unknown key {key!r}: {hint}")


def check_keys(given: dict, kind: type, not_in_yaml: tuple[str, ...], where: str) -> None:
    """Check that all keys of a YAML file are fields of a dataclass, and that no required one is missing.

    Args:
        not_in_yaml: fields that are no keys.
    """
    keys = [key for key in dataclasses.fields(kind) if key.name not in not_in_yaml]
    known = [key.name for key in keys]
    for name in given:
        check_known(name, known, where)

    # A key with an empty value is missing, too: YAML reads it as null. A dataset '' would be the folder.
    missing = []
    for key in keys:
        has_default = key.default is not dataclasses.MISSING or key.default_factory is not dataclasses.MISSING
        if not has_default and given.get(key.name) in (None, ""):
            missing.append(key.name)
    if missing:
        raise InputError(f"{where} lacks {', '.join(missing)}")


def check_values(task: Task) -> None:
    """Check that the values of a task have the right types, are known, and go together.

    Where the file may use a shorter form, it is completed: `languages` from the columns of captions, and a
    list of `templates` from a single one.

    Raises:
        InputError: one does not; the message names the file and the key.
    """
    check_types(vars(task), Task, f"task {task.file!r}")
    _check_choice(task, "kind", list(METRICS))
    _check_choice(task, "metric", METRICS[task.kind])
    _check_choice(task, "layout", [*_TABLES, *FILES])
    _check_languages(task)
    if task.has_captions:
        _check_languages_of_captions(task)
    else:
        _check_prompts(task)
    if task.kind == "mixed_pool":
        _check_pool(task)

    # `class_names.ko` is of the key `class_names`.
    unknown = [name for name in task.unverified if name.split(".")[0] not in vars(task)]
    if unknown:
        raise InputError(f"task {task.file!r} calls {', '.join(unknown)} unverified, which are no keys")

    if task.layout in FILES:
        _check_files(task)
    else:
        _check_table(task)
    _check_own_images(task)
    _check_choice_metric(task)


def _check_choice_metric(task: Task) -> None:
    """Check that a retrieval whose texts choose among a few images, and no other, is measured by accuracy."""
    has_candidates = task.layout == "candidates"
    if task.kind == "retrieval" and has_candidates != (task.metric == "accuracy@1"):
        wanted = "accuracy@1" if has_candidates else "mean_recall"
        raise InputError(
            f"task {task.file!r}: metric {task.metric} is not of layout {task.layout}: give {wanted}"
        )


def _check_own_images(task: Task) -> None:
    """Check that `n_images` is by language where the images are, and that `where` tells languages apart."""
    has_own = task.layout in OWN_IMAGES
    if task.n_images is not None and isinstance(task.n_images, dict) != has_own:
        form = "{language: number}" if has_own else "one number"
        raise InputError(
            f"task {task.file!r}: n_images is {task.n_images}; of layout {task.layout} give {form}"
        )
    missing = [language for language in task.languages if language not in task.where]
    if task.layout in _NAMED_IN_WHERE and missing:
        raise InputError(
            f"task {task.file!r}: `where` has no name in the dataset for {', '.join(missing)}, which "
            "`languages` list"
        )


def _check_pool(task: Task) -> None:
    """Check that a pool has several languages, and that each caption describes one image."""
    if len(task.languages) < 2:
        raise InputError(
            f"task {task.file!r} has the languages {' '.join(task.languages)}: a mixed pool needs two or more"
        )
    if task.merge_captions:
        raise InputError(
            f"task {task.file!r}: merge_captions is of retrieval, and not of a mixed pool: leave it out"
        )


def _check_choice(task: Task, key: str, choices: list[str]) -> None:
    value = getattr(task, key)
    if value not in choices:
        raise InputError(f"task {task.file!r}: {key} is {value!r}; choose from {', '.join(choices)}")


def _check_languages(task: Task) -> None:
    """Check the codes of languages, and take them from the columns of captions where the task lists none."""
    captions = task.columns.get("captions")
    of_columns = list(captions) if isinstance(captions, dict) else []
    if not task.languages:
        task.languages = of_columns
    try:
        name_languages(task.languages)
    except ValueError as error:
        raise InputError(f"task {task.file!r}, languages: {error}") from error


def _check_languages_of_captions(task: Task) -> None:
    """Check that there are languages, each with its column where there are columns by language."""
    if not task.languages:
        raise InputError(
            f"task {task.file!r} lacks languages: list those of its captions, as in `languages: [en, de]`"
        )
    captions = task.columns.get("captions")
    if not isinstance(captions, dict):
        return
    missing = [language for language in task.languages if language not in captions]
    if missing:
        raise InputError(
            f"task {task.file!r}: `columns.captions` has no column for {', '.join(missing)}, which "
            "`languages` list"
        )


def _check_prompts(task: Task) -> None:
    """Check that classes have names, and that the task's own templates have a slot for them."""
    if task.class_names is None:
        raise InputError(
            f"task {task.file!r} lacks class_names: `dataset` where the label names its classes, a JSON file "
            "of yours with {language: [name, ...]}, or clip_benchmark:KEY"
        )
    if isinstance(task.class_names, dict):
        _check_languages_of_names(task, task.class_names)
    if isinstance(task.templates, str) and "{" in task.templates:
        task.templates = [task.templates]
    if isinstance(task.templates, list):
        check_templates(task.templates, f"task {task.file!r}")


def _check_languages_of_names(task: Task, class_names: dict[str, str | list[str | None]]) -> None:
    """Check the keys of the task's own class names."""
    try:
        for language in class_names:
            check_tag(language)
    except ValueError as error:
        raise InputError(f"task {task.file!r}, class_names: {error}") from error


def _check_table(task: Task) -> None:
    """Check the names of a table's columns, the metric of its labels, and that its split has files."""
    _check_columns(task)
    answers = [key for key in _ANSWERS if key in task.columns]
    if task.has_captions:
        if answers != ["captions"]:
            raise _wrong_answers(task, answers, "captions")
    elif answers not in (["label"], ["labels"]):
        raise _wrong_answers(task, answers, "label or labels")
    else:
        _check_metric(task, answers[0])

    missing = [key for key in _TABLES[task.layout] if key not in task.columns]
    if missing:
        raise InputError(
            f"task {task.file!r}: `columns` of layout {task.layout} must name {', '.join(missing)}"
        )
    if task.data_files and task.split not in task.data_files:
        raise InputError(
            f"task {task.file!r}: `data_files` are of {', '.join(task.data_files)}, and not of split "
            f"{task.split!r}"
        )


def _wrong_answers(task: Task, answers: list[str], wanted: str) -> InputError:
    named = ", ".join(answers) or "none"
    return InputError(f"task {task.file!r}: `columns` of {task.kind} must name {wanted}, not {named}")


def _check_metric(task: Task, answer: str) -> None:
    """Check that the metric fits the column of answers, `label` or `labels`."""
    has_several = answer == "labels"
    if (task.metric in _OF_SEVERAL_LABELS) == has_several:
        return
    fitting = [name for name in METRICS["zero_shot"] if (name in _OF_SEVERAL_LABELS) == has_several]
    other = "label, of one class" if has_several else "labels, of several classes"
    raise InputError(
        f"task {task.file!r}: metric {task.metric} is not of the column {answer}: choose from "
        f"{', '.join(fitting)}, or name the column {other} an image"
    )


def _check_columns(task: Task) -> None:
    """Check that the keys of `columns` are known, and that their values name columns."""
    # In these layouts each language has the same columns.
    in_several = {} if task.layout in ("split_per_language", *OWN_IMAGES) else _IN_SEVERAL
    known = ["image", *_ANSWERS, *_TABLES[task.layout]]
    for key, named in task.columns.items():
        check_known(key, known, f"task {task.file!r}: `columns`")
        kind, what = in_several.get(key, (str, "the name of a column"))
        are_texts = all(isinstance(name, str) for name in named_columns(named))
        if not isinstance(named, kind) or not are_texts:
            raise InputError(f"task {task.file!r}: columns.{key} is {named!r}; it must be {what}")


def named_columns(named: str | list[str] | dict[str, str]) -> list[str]:
    """Return all columns that a value of `columns` names: one, a list of them, or one a language."""
    if isinstance(named, dict):
        return list(named.values())
    return named if isinstance(named, list) else [named]


def _check_files(task: Task) -> None:
    """Check that a task of caption files is of retrieval, and names each of its files."""
    n_languages = len(task.languages)
    fits = n_languages == 1 if FILES[task.layout] == "one language" else n_languages > 0
    if not task.has_captions or not fits:
        raise InputError(
            f"task {task.file!r}: layout {task.layout} is of retrieval, with {FILES[task.layout]} in "
            "`languages`"
        )
    needed = {
        "chinese_clip": [task.split],
        "caption_lines": ["names", "images", *task.languages],
        "coco_json": ["captions", "images"],
        "candidates": ["corpus", "queries", "qrels", "top_ranked"],
    }
    missing = [key for key in needed[task.layout] if key not in (task.data_files or {})]
    if missing:
        raise InputError(
            f"task {task.file!r}: `data_files` of layout {task.layout} lack {', '.join(missing)}"
        )
