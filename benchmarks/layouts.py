"""Layouts of benchmark datasets on the Hub or in a folder, and how each becomes rows of one form.

Rows of retrieval are an `image` and its `captions`, `{language: [text, ...]}`. Rows of classification are an
`image` and its `label`, the number of its class, or `labels`, the numbers of several. Every image comes once,
in the order of the files:

    {"image": ..., "captions": {"en": ["a dog", "a brown dog"], "zh": ["一只狗"]}}
    {"image": ..., "label": 3}
    {"image": ..., "labels": [0, 3]}

The layout says where an image's captions or label are:

- `table`: in its row. `captions` is a dict by language, or each language has a column; `label` is a number or
  a text; `labels` is a list.
- `webdataset`: in its row of a tar. `txt` has a caption in each line; `cls` is a number; `npy` has a 1 at
  each of its classes.
- `split_per_language`: in the split named after the language, in the row of the same `id`. The images are
  repeated in each split, and read from one.
- `frames`: in rows that are frames of videos. The middle one stands for its video.
- `chinese_clip`, `caption_lines`, `coco_json`: in files of their own, see `caption_files`.
"""

import os
import re
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from datasets import (
    ClassLabel,
    Dataset,
    Features,
    Image,
    IterableDataset,
    Json,
    List,
    Value,
    concatenate_datasets,
    load_dataset,
    load_dataset_builder,
)
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.errors import GatedRepoError
from huggingface_hub.file_download import repo_folder_name

from modeling_altclip.languages_altclip import canonical, match_language

from .cells import may_hold_texts, texts_of
from .json_files import refuse_repeated_keys
from .left_out import refuse_left_out
from .loading import READING, check_language, open_rows, what_is_wrong
from .picture_folders import refuse_missing, source_of, warn_of_pictures_without_row
from .recipe import InputError
from .tars import name_pictures
from .task_checks import named_columns

if TYPE_CHECKING:
    from .task import Task

Rows = Dataset | IterableDataset


def read_table(task: "Task", languages: list[str] | None, limit: int | None, streaming: bool) -> Rows:
    """Read the first `limit` rows of a task, or all, with captions in `languages`, or in all of the task's.

    Raises:
        InputError: the data does not exist, cannot be read, or does not have the form that the task says.
    """
    rows = _open_split(task, task.split, streaming)
    _check_columns(task, rows.features)
    if task.kind == "retrieval":
        languages = languages or task.languages
        _check_captions(task, rows.features, languages)
    rows = _with_image(task, rows)
    if isinstance(rows, Dataset):
        refuse_missing(rows, task.dataset)
        warn_of_pictures_without_row(rows, task.dataset)
    if task.layout == "frames":
        rows = _middle_frames(task, rows)

    if task.kind == "zero_shot":
        return _with_label(task, rows, limit)
    captions_of = _caption_reader(task, rows.features, languages)
    return with_captions(first(rows, limit), captions_of, languages)


def _caption_reader(task: "Task", features: Features, languages: list[str]) -> Callable[[dict], dict]:
    """Return the function that reads the captions of a row in these languages.

    `datasets` caches rows under a hash of its name and arguments, which therefore stay as they are.
    """
    if task.layout == "split_per_language":
        captions = _captions_of_splits(task, languages)
        return partial(captions_by_id, captions=captions, id=task.columns["id"])

    column = task.columns["captions"]
    if isinstance(column, dict):
        keys = {language: column[language] for language in languages}
    elif isinstance(features[column], Json):
        keys = {language: None for language in languages}
    else:
        keys = {language: match_language(language, features[column]) for language in languages}
    lines = task.layout == "webdataset"
    return partial(captions_of_row, column=column, keys=keys, lines=lines, joined=task.join_words)


def _open_split(task: "Task", split: str, streaming: bool = False, columns: list[str] | None = None) -> Rows:
    """Open one split, and nothing of the others, of a folder or from the Hub.

    Args:
        columns: read only these, which only parquet files allow.

    Raises:
        InputError: it cannot be opened.
    """
    try:
        source = source_of(task.dataset, task.config)
        if source["path"] == "imagefolder" and not task.data_files:
            return load_dataset(**source, split=split, streaming=streaming)
        options = {
            "path": task.dataset,
            "name": task.config,
            "data_files": _files_of_split(task, split),
            "revision": full_revision(task.dataset, task.revision),
            "streaming": streaming,
        }
        if columns:
            options["columns"] = columns
        if task.layout == "webdataset":
            return name_pictures(open_rows(split, **options), task.columns.get("image"))
        return load_dataset(split=split, **options)
    except READING as error:
        raise reading_error(task, error, split) from error


def _files_of_split(task: "Task", split: str) -> dict[str, str | list[str]]:
    """Return the files of one split, as `{split: files}`.

    Without them `datasets` would prepare all splits, and would read a folder that was rewritten from its
    cache.

    Raises:
        InputError: there is no such split, or as `refuse_left_out` and `refuse_repeated_keys`.
    """
    files = task.data_files
    if not files:
        revision = full_revision(task.dataset, task.revision)
        files = load_dataset_builder(task.dataset, task.config, revision=revision).config.data_files
    by_split = {str(name): paths for name, paths in (files or {}).items()}
    if Path(task.dataset).is_dir() and not task.data_files:
        refuse_left_out(task.dataset, by_split)
    if split not in by_split:
        raise InputError(
            f"dataset {task.dataset!r} has no split {split!r}; it has {', '.join(by_split)}: fix `split` of "
            f"{task.file}"
        )
    paths = by_split[split]
    listed = [paths] if isinstance(paths, str) else list(paths)
    refuse_repeated_keys(os.path.join(task.dataset, path) for path in listed)
    return {split: paths if task.data_files else listed}


@cache
def full_revision(dataset: str, revision: str | None) -> str | None:
    """Complete the hash of a commit to all forty digits, which the Hub requires; return other revisions as
    they are.

    Raises:
        InputError: the dataset has no such commit, or several.
    """
    if revision is None or len(revision) == 40 or not re.fullmatch("[0-9a-f]{7,39}", revision):
        return revision
    # The cache knows the commits of data that was read before, without asking the Hub.
    snapshots = Path(HF_HUB_CACHE, repo_folder_name(repo_id=dataset, repo_type="dataset"), "snapshots")
    found = [path.name for path in snapshots.glob(f"{revision}*")]
    if not found:
        commits = HfApi().list_repo_commits(dataset, repo_type="dataset")
        found = [commit.commit_id for commit in commits if commit.commit_id.startswith(revision)]
    if len(found) != 1:
        raise InputError(
            f"dataset {dataset!r} has {len(found)} commits that begin with {revision}: give all digits of "
            "`revision`"
        )
    return found[0]


def commit_of(task: "Task") -> str | None:
    """Return the full hash of the commit that is read now; None for a folder.

    Raises:
        InputError: the Hub does not tell.
    """
    if Path(task.dataset).is_dir():
        return None
    try:
        revision = full_revision(task.dataset, task.revision)
        if revision and len(revision) == 40:
            return revision
        return HfApi().dataset_info(task.dataset, revision=revision).sha  # of a branch, a tag, or the default
    except (OSError, ValueError) as error:
        raise reading_error(task, error) from error


def fetch(task: "Task", name: str) -> Path:
    """Return the path of a file of the dataset, downloaded unless the dataset is a folder.

    Raises:
        InputError: there is no such file, or it cannot be read.
    """
    if Path(task.dataset).is_dir():
        path = Path(task.dataset) / name
        if not path.exists():
            raise InputError(f"dataset {task.dataset!r} has no file {name!r}, which {task.file} names")
        return path
    try:
        revision = full_revision(task.dataset, task.revision)
        return Path(hf_hub_download(task.dataset, name, repo_type="dataset", revision=revision))
    except (OSError, ValueError) as error:
        raise reading_error(task, error) from error


def reading_error(task: "Task", error: Exception, split: str | None = None) -> InputError:
    """Return an error that says why a dataset cannot be read, and what the user can do about it."""
    if isinstance(error, InputError):
        return error
    # `datasets` raises an error of its own here, without the Hub's as its cause.
    if isinstance(error, GatedRepoError) or "is a gated dataset" in str(error):
        page = f"https://huggingface.co/datasets/{task.dataset}"
        return InputError(
            f"dataset {task.dataset!r} is gated: accept its terms at {page} and log in with `hf auth login`"
        )
    given = {
        "revision": task.revision,
        "config": task.config,
        "data_files": task.data_files,
        "split": split or task.split,
    }
    where = ", ".join(f"{key} {value!r}" for key, value in given.items() if value)
    return InputError(
        f"dataset {task.dataset!r} ({where}: see {task.file}) cannot be loaded: "
        f"{what_is_wrong(task.dataset, error)}"
    )


def _check_columns(task: "Task", features: Features) -> None:
    """Check that the rows have every column that the task names."""
    for key, named in task.columns.items():
        for column in named_columns(named):
            if column not in features:
                raise InputError(
                    f"dataset {task.dataset!r}, split {task.split!r} has no column {column!r}; it has "
                    f"{', '.join(features)}: fix columns.{key} of {task.file}"
                )


def _check_captions(task: "Task", features: Features, languages: list[str]) -> None:
    """Check that there are captions in each language, and that they are texts.

    Raises:
        InputError: a language is missing, or a column holds something else.
    """
    column = task.columns["captions"]
    if isinstance(column, dict):
        kinds = {name: features[name] for name in column.values()}
    elif task.layout == "split_per_language":
        kinds = {column: features[column]}
    elif isinstance(features[column], Json):
        return  # each row has languages of its own
    elif isinstance(features[column], dict):
        kinds = features[column]
        for language in languages:
            check_language(language, kinds, f"column {column!r} of {task.dataset!r} has no")
    else:
        raise InputError(
            f"column {column!r} of {task.dataset!r} must hold {{language: texts}}, not {features[column]}: "
            f"say which language it is in, `captions: {{en: {column}}}`, in {task.file}"
        )

    for name, kind in kinds.items():
        if not may_hold_texts(kind):
            raise InputError(
                f"column {name!r} of {task.dataset!r} must hold texts, not {kind}: fix columns.captions of "
                f"{task.file}"
            )


def _with_image(task: "Task", rows: Rows) -> Rows:
    """Rename the column of images, still undecoded, to `image`.

    Raises:
        InputError: the task names none, and not exactly one column holds images.
    """
    found = [name for name, kind in rows.features.items() if isinstance(kind, Image)]
    if task.columns.get("image"):
        found = [task.columns["image"]]
    if len(found) != 1:
        many = f"no column of images among {', '.join(rows.features)}"
        if found:
            many = f"images in {' and '.join(found)}"
        raise InputError(
            f"dataset {task.dataset!r}, split {task.split!r} has {many}: name one in columns.image of "
            f"{task.file}"
        )
    # Before the column is renamed: renaming a stream's column decodes it and encodes it once more.
    rows = rows.cast_column(found[0], Image(decode=False))
    return rows if found == ["image"] else rows.rename_column(found[0], "image")


def _with_label(task: "Task", rows: Rows, limit: int | None) -> Rows:
    """Return the first rows, of `image` and of numbers of classes in the column `label` or `labels`.

    Raises:
        InputError: the column holds neither numbers nor texts.
    """
    (answer,) = task.columns.keys() & {"label", "labels"}
    column = task.columns[answer]
    kind = rows.features[column]
    rows = rows.select_columns(["image", column])
    if column != answer:
        rows = rows.rename_column(column, answer)

    if answer == "labels" and task.layout == "webdataset":
        features = Features({"labels": List(Value("int64"))})
        return _with_column(first(rows, limit), places_of_ones, features)
    if answer == "label" and isinstance(kind, Value) and "string" in kind.dtype:
        # All labels are numbered before the first rows are taken: the numbers must not depend on `limit`.
        rows = rows.cast_column(answer, ClassLabel(names=_names_of_labels(task, rows)))
    elif not _holds_numbers(kind, answer):
        raise InputError(
            f"column {column!r} of {task.dataset!r} must hold numbers of classes, not {kind}: fix columns "
            f"of {task.file}"
        )
    return first(rows, limit).cast_column("image", Image())


def _holds_numbers(kind, answer: str) -> bool:
    """Check that a column holds numbers of classes, or, if it is of `labels`, lists of them."""
    number = kind.feature if answer == "labels" and isinstance(kind, List) else kind
    if isinstance(number, ClassLabel):
        return True
    return isinstance(number, Value) and "int" in number.dtype


# `datasets` hashes the names of the functions that it maps over rows: renamed, they would orphan cached rows.
def places_of_ones(row: dict) -> dict[str, list[int]]:
    """Return the classes of a row whose `labels` have a place for each class: `[0, 1, 0, 1]` -> `[1, 3]`."""
    return {"labels": [number for number, value in enumerate(row["labels"]) if value]}


def _names_of_labels(task: "Task", rows: Rows) -> list[str]:
    """Return all labels that are texts, in alphabetical order, by which they are numbered.

    Raises:
        InputError: the rows are a stream, or a label is None.
    """
    if isinstance(rows, IterableDataset):
        raise InputError(
            f"labels of {task.dataset!r} are texts, and their numbers follow from all of them: leave out "
            "--streaming"
        )
    names = rows.unique("label")
    if None in names:
        row = rows["label"][:].index(None)
        raise InputError(
            f"row {row} of {task.dataset!r} has the label None, which is no class: leave it out of the "
            "dataset"
        )
    return sorted(names)


def _middle_frames(task: "Task", rows: Rows) -> Dataset:
    """Select the middle frame of each video, in the order of the rows.

    Raises:
        InputError: the rows are a stream.
    """
    if isinstance(rows, IterableDataset):
        raise InputError(
            f"rows of {task.dataset!r} are frames, and the middle one follows from all of them: leave out "
            "--streaming"
        )
    video = task.columns["video"]  # several columns that name it together
    frame = task.columns["frame"]
    frames = rows.select_columns([*video, frame]).to_pandas().reset_index(names="row")
    frames = frames.sort_values(frame, kind="stable")

    def middle(rows_of_video):
        return rows_of_video.iloc[len(rows_of_video) // 2]

    return rows.select(sorted(frames.groupby(video)["row"].agg(middle)))


def _captions_of_splits(task: "Task", languages: list[str]) -> dict[str, dict]:
    """Read `{language: {id: texts}}` from the languages' own splits, whose images are not downloaded."""
    id = task.columns["id"]
    column = task.columns["captions"]
    captions = {}
    for language in languages:
        captions[language] = {}
        for row in _open_split(task, language, streaming=True, columns=[id, column]):
            captions[language][row[id]] = texts_of(row[column], column, joined=task.join_words)
    return captions


def captions_by_id(row: dict, captions: dict[str, dict], id: str) -> dict:
    """Look up the captions of a row, `{language: {id: texts}}`, by its column `id`."""
    return {"captions": {language: texts.get(row[id], []) for language, texts in captions.items()}}


def captions_of_row(
    row: dict, column: str | dict[str, str], keys: dict[str, str | None], lines: bool, joined: bool
) -> dict:
    """Read a row's texts by language, from the dict in one column, or from one column a language.

    Args:
        column: the column of dicts, or `{language: column}`.
        keys: for each language, the key of the dict or the column; None where each row has keys of its own.
        lines: each line is a text.
        joined: remove spaces.

    Raises:
        InputError: the one column does not hold a dict.
    """
    if isinstance(column, str):
        fields = row[column] or {}
        if not isinstance(fields, dict):
            raise InputError(f"column {column!r} has {fields!r} in a row, and no {{language: texts}}: fix it")
    else:
        fields = row
    if None in keys.values():
        # {"zh": None} -> {"zh": "zh-Hans"}, as this row spells it; None stays where the row lacks the
        # language
        spelled = {canonical(key): key for key in fields}
        keys = {language: spelled.get(canonical(language)) for language in keys}

    captions = {}
    for language, key in keys.items():
        own_column = column if isinstance(column, str) else key
        captions[language] = texts_of(fields.get(key), own_column, lines=lines, joined=joined)
    return {"captions": captions}


def with_captions(rows: Rows, captions_of: Callable[[dict], dict], languages: list[str]) -> Rows:
    """Return rows of `image` and of `captions` in these languages, which `captions_of` reads from a row."""
    by_language = {language: List(Value("string")) for language in languages}
    return _with_column(rows, captions_of, Features({"captions": by_language}))


def _with_column(rows: Rows, function: Callable[[dict], dict], features: Features) -> Rows:
    """Return rows of `image` and of the one column that `function` makes of a row.

    Images that are files are not read for it.
    """
    others = [column for column in rows.features if column != "image"]
    if isinstance(rows, IterableDataset):
        # Given to `map` itself, the features would say that the image is decoded already.
        return rows.map(function, remove_columns=others).cast(Features({"image": Image(), **features}))
    made = rows.select_columns(others).map(
        function, remove_columns=others, features=features, desc="Reading captions or labels"
    )
    images = rows.select_columns(["image"])
    return concatenate_datasets([images, made], axis=1).cast_column("image", Image())


def first(rows: Rows, limit: int | None) -> Rows:
    """Return the first `limit` rows, or all."""
    if limit is None:
        return rows
    if isinstance(rows, IterableDataset):
        return rows.take(limit)
    return rows.select(range(min(limit, len(rows))))
