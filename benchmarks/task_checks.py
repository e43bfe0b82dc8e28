"""What a task may say, and whether what one says goes together: known before anything of its data is."""

import typing
from types import NoneType, UnionType
from typing import TYPE_CHECKING

from modeling_altclip.languages_altclip import name_languages

from .prompts import check_templates
from .recipe import InputError, did_you_mean

if TYPE_CHECKING:
    from .task import Task

METRICS = {
    "retrieval": ["mean_recall"],
    "zero_shot": [
        "accuracy@1",
        "mean_per_class",
        "map_11_point",
        "mean_average_precision",
        "mean_top1_top5",
        "roc_auc",
    ],
}
ANSWERS = ["captions", "label", "labels"]
OF_SEVERAL_LABELS = [
    "map_11_point",
    "mean_average_precision",
]  # the other metrics of zero_shot are of one label an image
# Layouts, with the columns that each needs beside its captions or labels; and those of files, with the
# languages they have.
TABLES = {"table": [], "webdataset": [], "split_per_language": ["id", "image"], "frames": ["video", "frame"]}
FILES = {"chinese_clip": "one language", "caption_lines": "any languages", "coco_json": "one language"}
# Most things are in one column; these are in several, or may be.
IN_SEVERAL = {
    "captions": (str | dict, "the name of a column, or {language: name}"),
    "video": (list, "a list of names of columns"),
}


def check_known(key: str, known: list[str], where: str) -> None:
    if key not in known:
        close = did_you_mean(key, known)
        hint = f"did you mean {close!r}?" if close else f"choose from {', '.join(known)}"
        raise InputError(f"{where} has an unknown key {key!r}: {hint}")


def check_values(task: "Task") -> None:
    """Check that the values are of the right types, known, and consistent with one another."""
    for key, hint in typing.get_type_hints(type(task)).items():
        types = [
            typing.get_origin(kind) or kind
            for kind in (hint.__args__ if isinstance(hint, UnionType) else [hint])
        ]
        if not isinstance(getattr(task, key), tuple(types)):
            names = " or ".join(kind.__name__ for kind in types if kind is not NoneType)
            raise InputError(f"task {task.file!r}: {key} is {getattr(task, key)!r}, which is no {names}")
    check_choice(task, "kind", list(METRICS))
    check_choice(task, "metric", METRICS[task.kind])
    check_choice(task, "layout", [*TABLES, *FILES])
    captions = task.columns.get("captions")
    for language in [*task.languages, *(captions if isinstance(captions, dict) else [])]:
        if not isinstance(language, str):
            raise InputError(
                f"task {task.file!r} has the language {language!r}: quote it, YAML takes a bare no for False"
            )
    try:
        name_languages(task.languages)
    except ValueError as error:
        raise InputError(f"task {task.file!r}, languages: {error}") from error
    if isinstance(captions, dict) and not task.languages:
        task.languages = list(captions)
    if task.kind == "retrieval":
        check_spoken(task, captions)
    else:
        check_prompts(task)
    unknown = [name for name in task.unverified if name.split(".")[0] not in vars(task)]
    if unknown:
        raise InputError(f"task {task.file!r} calls {', '.join(unknown)} unverified, which are no keys")
    if task.layout in FILES:
        check_files(task)
    else:
        check_table(task)


def check_spoken(task: "Task", captions: str | dict[str, str] | None) -> None:
    """Check that languages are known before the rows are, with a column each where columns are languages."""
    if not task.languages:
        raise InputError(
            f"task {task.file!r} lacks languages: list those of its captions, as in `languages: [en, de]`"
        )
    missing = [
        language for language in task.languages if isinstance(captions, dict) and language not in captions
    ]
    if missing:
        raise InputError(
            f"task {task.file!r}: `columns.captions` has no column for {', '.join(missing)}, which "
            "`languages` list"
        )


def check_prompts(task: "Task") -> None:
    """Check that classes have names, and that the task's own prompt templates have a slot for them."""
    if task.class_names is None:
        raise InputError(
            f"task {task.file!r} lacks class_names: `dataset` where the label names its classes, a JSON file "
            "of yours "
            "with {language: [name, ...]}, or clip_benchmark:KEY"
        )
    if isinstance(task.templates, str) and "{" in task.templates:
        task.templates = [task.templates]
    if isinstance(task.templates, list):
        check_templates(task.templates, f"task {task.file!r}")


def check_table(task: "Task") -> None:
    """Check that a table names the column of its captions or labels, and the others that its layout needs.

    And the files of its split, or none.
    """
    check_columns(task)
    answers = [key for key in ANSWERS if key in task.columns]
    wanted = {"retrieval": [["captions"]], "zero_shot": [["label"], ["labels"]]}[task.kind]
    if answers not in wanted:
        names = " or ".join(key for keys in wanted for key in keys)
        raise InputError(
            f"task {task.file!r}: `columns` of {task.kind} must name {names}, not "
            f"{', '.join(answers) or 'none'}"
        )
    has_labels = "labels" in answers
    if task.kind == "zero_shot" and has_labels != (task.metric in OF_SEVERAL_LABELS):
        fitting = [name for name in METRICS["zero_shot"] if (name in OF_SEVERAL_LABELS) == has_labels]
        other = "label, of one class" if answers == ["labels"] else "labels, of several classes"
        raise InputError(
            f"task {task.file!r}: metric {task.metric} is not of the column {answers[0]}: choose from "
            f"{', '.join(fitting)}, or name the column {other} an image"
        )
    missing = [key for key in TABLES[task.layout] if key not in task.columns]
    if missing:
        raise InputError(
            f"task {task.file!r}: `columns` of layout {task.layout} must name {', '.join(missing)}"
        )
    if task.data_files and task.split not in task.data_files:
        raise InputError(
            f"task {task.file!r}: `data_files` are of {', '.join(task.data_files)}, and not of split "
            f"{task.split!r}"
        )


def check_columns(task: "Task") -> None:
    """Check that the keys are known and the values name columns."""
    in_several = (
        {} if task.layout == "split_per_language" else IN_SEVERAL
    )  # there each language has the same columns
    for key, named in task.columns.items():
        check_known(key, ["image", *ANSWERS, *TABLES[task.layout]], f"task {task.file!r}: `columns`")
        kind, what = in_several.get(key, (str, "the name of a column"))
        names = named.values() if isinstance(named, dict) else named if isinstance(named, list) else [named]
        if not isinstance(named, kind) or not all(isinstance(name, str) for name in names):
            raise InputError(f"task {task.file!r}: columns.{key} is {named!r}; it must be {what}")


def check_files(task: "Task") -> None:
    """Check that files of captions and of images are named."""
    if (
        task.kind != "retrieval"
        or not task.languages
        or task.layout in ("chinese_clip", "coco_json")
        and len(task.languages) > 1
    ):
        raise InputError(
            f"task {task.file!r}: layout {task.layout} is of retrieval, with {FILES[task.layout]} in "
            "`languages`"
        )
    needed = {
        "chinese_clip": [task.split],
        "caption_lines": ["names", "images", *task.languages],
        "coco_json": ["captions", "images"],
    }[task.layout]
    missing = [key for key in needed if key not in (task.data_files or {})]
    if missing:
        raise InputError(
            f"task {task.file!r}: `data_files` of layout {task.layout} lack {', '.join(missing)}"
        )


def check_choice(task: "Task", key: str, choices: list[str]) -> None:
    if getattr(task, key) not in choices:
        raise InputError(
            f"task {task.file!r}: {key} is {getattr(task, key)!r}; choose from {', '.join(choices)}"
        )
