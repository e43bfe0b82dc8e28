"""Read each layout that datasets have on the Hub or in a folder into rows of one form.

A row of retrieval is `{"image": …, "captions": {"en": ["a dog", "one dog"]}}`; one of classification has an
`image` and its class number `label`, or several, `labels`. Every image comes once, in the order of the files.

| layout | where an image's captions or label are |
|---|---|
| `table` | in its row: `captions` is a dict by language, or a column a language; `label` a number or text |
| `webdataset` | in its sample of a tar: `txt` has a caption a line; `cls` a number; `npy` ones at classes |
| `split_per_language` | in the split called like the language, in the row of its `id`; all have the images |
| `frames` | in rows that are frames of videos: the middle one stands for its video |
| `chinese_clip`, `caption_lines`, `coco_json` | in files of their own: see `caption_files` |
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

if TYPE_CHECKING:
    from .task import Task

Rows = Dataset | IterableDataset


def read_table(task: "Task", languages: list[str] | None, limit: int | None, streaming: bool) -> Rows:
    """Read the first `limit` rows of a task, or all, with captions in `languages`, or in all there are.

    Raises:
        InputError: the data is not there, may not be read, or does not have the form that the task says.
    """
    rows = open_split(task, task.split, streaming)
    check_columns(task, rows.features)
    languages = spoken(task, rows.features, languages)
    rows = with_image(task, rows)
    if isinstance(rows, Dataset):
        refuse_missing(rows, task.dataset)
        warn_of_pictures_without_row(rows, task.dataset)
    if task.layout == "frames":
        rows = middle_frames(task, rows)
    if task.kind == "zero_shot":
        return with_label(task, rows, limit)
    if task.layout == "split_per_language":
        captions_of = partial(
            captions_by_id, captions=captions_of_splits(task, languages), id=task.columns["id"]
        )
    else:
        lines = task.layout == "webdataset"
        column, kinds = task.columns["captions"], rows.features
        if isinstance(column, dict):
            keys = {language: column[language] for language in languages}
        elif isinstance(kinds[column], Json):
            keys = {language: None for language in languages}
        else:
            keys = {language: match_language(language, kinds[column]) for language in languages}
        captions_of = partial(captions_of_row, column=column, keys=keys, lines=lines, joined=task.join_words)
    return with_captions(first(rows, limit), captions_of, languages)


def open_split(task: "Task", split: str, streaming: bool = False, columns: list[str] | None = None) -> Rows:
    """Open one split of a folder or of the Hub, and nothing of the other splits.

    `columns` of it alone, where its files are parquet.
    """
    try:
        source = source_of(task.dataset, task.config)
        if source["path"] == "imagefolder" and not task.data_files:
            return load_dataset(**source, split=split, streaming=streaming)
        files = files_of_split(task, split)
        options = {"revision": full_revision(task.dataset, task.revision), "data_files": files}
        options |= {"columns": columns} if columns else {}
        options |= {"path": task.dataset, "name": task.config, "streaming": streaming}
        if task.layout != "webdataset":
            return load_dataset(split=split, **options)
        return name_pictures(open_rows(split, **options), task.columns.get("image"))
    except READING as error:
        raise reading_error(task, error, split) from error


def files_of_split(task: "Task", split: str) -> dict[str, str | list[str]]:
    """List the files of a split, since `datasets` would prepare all splits, and cache them under the folder's
    name.

    Raises:
        InputError: there is no such split, or as `refuse_left_out` and `refuse_repeated_keys`.
    """
    files = (
        task.data_files
        or load_dataset_builder(
            task.dataset, task.config, revision=full_revision(task.dataset, task.revision)
        ).config.data_files
    )
    by_split = {str(name): paths for name, paths in (files or {}).items()}
    if Path(task.dataset).is_dir() and not task.data_files:
        refuse_left_out(task.dataset, by_split)
    if split not in by_split:
        raise InputError(
            f"dataset {task.dataset!r} has no split {split!r}; it has {', '.join(by_split)}: mend `split` of "
            f"{task.file}"
        )
    files = [by_split[split]] if isinstance(by_split[split], str) else list(by_split[split])
    refuse_repeated_keys(os.path.join(task.dataset, file) for file in files)
    return {split: by_split[split] if task.data_files else files}


@cache
def full_revision(dataset: str, revision: str | None) -> str | None:
    """Return the revision as the Hub takes it: all forty digits of a commit."""
    if revision is None or len(revision) == 40 or not re.fullmatch("[0-9a-f]{7,39}", revision):
        return revision
    # Of data that was read before the cache knows it, and nothing is asked of the Hub.
    snapshots = Path(HF_HUB_CACHE, repo_folder_name(repo_id=dataset, repo_type="dataset"), "snapshots")
    found = [path.name for path in snapshots.glob(f"{revision}*")]
    found = found or [
        c.commit_id
        for c in HfApi().list_repo_commits(dataset, repo_type="dataset")
        if c.commit_id.startswith(revision)
    ]
    if len(found) != 1:
        raise InputError(
            f"dataset {dataset!r} has {len(found)} commits that begin with {revision}: give all digits of "
            "`revision`"
        )
    return found[0]


def commit_of(task: "Task") -> str | None:
    """Return all forty digits of the current commit; None for a folder.

    Raises:
        InputError: the Hub does not say.
    """
    if Path(task.dataset).is_dir():
        return None
    try:
        revision = full_revision(task.dataset, task.revision)
        return (
            revision
            if revision and len(revision) == 40
            else HfApi().dataset_info(task.dataset, revision=revision).sha
        )
    except (OSError, ValueError) as error:
        raise reading_error(task, error) from error


def fetch(task: "Task", name: str) -> Path:
    """Return the path of a file of the dataset, downloaded where the dataset is on the Hub.

    Raises:
        InputError: there is no such file, or it may not be read.
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
    """Build the error of a dataset that cannot be read, with what can be done about it."""
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


def check_columns(task: "Task", features: Features) -> None:
    """Check that the rows have every column that the task names."""
    for key, named in task.columns.items():
        for column in (
            named.values() if isinstance(named, dict) else named if isinstance(named, list) else [named]
        ):
            if column not in features:
                raise InputError(
                    f"dataset {task.dataset!r}, split {task.split!r} has no column {column!r}; it has "
                    f"{', '.join(features)}: "
                    f"mend columns.{key} of {task.file}"
                )


def spoken(task: "Task", features: Features, asked: list[str] | None) -> list[str]:
    """Return the languages to read: those requested, or the task's.

    Raises:
        InputError: there are no captions in one, or the columns hold other things than texts.
    """
    if task.kind == "zero_shot":
        return []
    column, languages = task.columns["captions"], asked or task.languages
    if isinstance(column, dict) or task.layout == "split_per_language":
        kinds = {name: features[name] for name in (column.values() if isinstance(column, dict) else [column])}
    elif isinstance(features[column], Json):
        return languages  # each row has its own
    elif isinstance(features[column], dict):
        kinds = features[column]
        for language in languages:
            check_language(language, kinds, f"column {column!r} of {task.dataset!r} has no")
    else:
        raise InputError(
            f"column {column!r} of {task.dataset!r} must hold {{language: texts}}, not {features[column]}: "
            "say which language it is in, "
            f"`captions: {{en: {column}}}`, in {task.file}"
        )
    for name, kind in kinds.items():
        if not may_hold_texts(kind):
            raise InputError(
                f"column {name!r} of {task.dataset!r} must hold texts, not {kind}: mend columns.captions of "
                f"{task.file}"
            )
    return languages


def with_image(task: "Task", rows: Rows) -> Rows:
    """Rename the column of images to `image`, and leave the images undecoded."""
    named, kinds = task.columns.get("image"), rows.features
    found = [named] if named else [column for column, kind in kinds.items() if isinstance(kind, Image)]
    if len(found) != 1:
        many = (
            f"images in {' and '.join(found)}" if found else f"no column of images among {', '.join(kinds)}"
        )
        raise InputError(
            f"dataset {task.dataset!r}, split {task.split!r} has {many}: name one in columns.image of "
            f"{task.file}"
        )
    # Before the column is renamed: renaming a stream's column decodes it and encodes it once more.
    rows = rows.cast_column(found[0], Image(decode=False))
    return rows if found == ["image"] else rows.rename_column(found[0], "image")


def with_label(task: "Task", rows: Rows, limit: int | None) -> Rows:
    """Read the first rows: `image`, and class numbers in the column `label` or `labels`."""
    (answer,) = task.columns.keys() & {"label", "labels"}
    column = task.columns[answer]
    kind = rows.features[column]
    rows = rows.select_columns(["image", column])
    rows = rows if column == answer else rows.rename_column(column, answer)
    if answer == "labels" and task.layout == "webdataset":
        return with_column(first(rows, limit), places_of_ones, Features({"labels": List(Value("int64"))}))
    if answer == "label" and isinstance(kind, Value) and "string" in kind.dtype:
        return first(
            rows.cast_column(answer, ClassLabel(names=names_of_labels(task, rows))), limit
        ).cast_column("image", Image())
    number = kind.feature if answer == "labels" and isinstance(kind, List) else kind
    if not (isinstance(number, ClassLabel) or isinstance(number, Value) and "int" in number.dtype):
        raise InputError(
            f"column {column!r} of {task.dataset!r} must hold numbers of classes, not {kind}: mend columns "
            f"of {task.file}"
        )
    return first(rows, limit).cast_column("image", Image())


def places_of_ones(row: dict) -> dict[str, list[int]]:
    """Return the classes that a vector of ones and zeros marks."""
    return {"labels": [number for number, value in enumerate(row["labels"]) if value]}


def names_of_labels(task: "Task", rows: Rows) -> list[str]:
    """List all labels that are texts in alphabetical order, by which they are numbered."""
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


def middle_frames(task: "Task", rows: Rows) -> Dataset:
    """Select the middle frame of each video, in the order of the rows."""
    if isinstance(rows, IterableDataset):
        raise InputError(
            f"rows of {task.dataset!r} are frames, and the middle one follows from all of them: leave out "
            "--streaming"
        )
    video, frame = task.columns["video"], task.columns["frame"]
    numbers = (
        rows.select_columns([*video, frame])
        .to_pandas()
        .reset_index(names="row")
        .sort_values(frame, kind="stable")
    )
    middle = numbers.groupby(video)["row"].agg(lambda of_video: of_video.iloc[len(of_video) // 2])
    return rows.select(sorted(middle))


def captions_of_splits(task: "Task", languages: list[str]) -> dict[str, dict]:
    """Read `{language: {id: texts}}` from the languages' own splits, without their images."""
    id, column = task.columns["id"], task.columns["captions"]
    captions = {}
    for language in languages:
        rows = open_split(task, language, streaming=True, columns=[id, column])
        captions[language] = {row[id]: texts_of(row[column], column, joined=task.join_words) for row in rows}
    return captions


def captions_by_id(row: dict, captions: dict[str, dict], id: str) -> dict:
    return {"captions": {language: texts.get(row[id], []) for language, texts in captions.items()}}


def captions_of_row(
    row: dict, column: str | dict[str, str], keys: dict[str, str | None], lines: bool, joined: bool
) -> dict:
    """Return a row's texts by language, from a dictionary in one column or from a column for each language.

    Args:
        keys: the dict's or the columns' names; None where each row has keys of its own.
    """
    fields = row[column] or {} if isinstance(column, str) else row
    if isinstance(column, str) and not isinstance(fields, dict):
        raise InputError(f"column {column!r} has {fields!r} in a row, and no {{language: texts}}: mend it")
    own = {canonical(key): key for key in fields} if None in keys.values() else {}
    keys = {language: own.get(canonical(language)) if key is None else key for language, key in keys.items()}
    captions = {}
    for language, key in keys.items():
        own_column = column if isinstance(column, str) else key
        captions[language] = texts_of(fields.get(key), own_column, lines=lines, joined=joined)
    return {"captions": captions}


def with_captions(rows: Rows, captions_of: Callable[[dict], dict], languages: list[str]) -> Rows:
    """Reduce rows to `image` and `captions` in these languages."""
    return with_column(
        rows, captions_of, Features({"captions": {language: List(Value("string")) for language in languages}})
    )


def with_column(rows: Rows, function: Callable[[dict], dict], features: Features) -> Rows:
    """Reduce rows to `image` and one column that `function` computes from a row.

    Images that lie on disk are not read for it.
    """
    others = [column for column in rows.features if column != "image"]
    if isinstance(rows, IterableDataset):
        # Given to `map` itself, the features would say that the image is decoded already.
        return rows.map(function, remove_columns=others).cast(Features({"image": Image(), **features}))
    made = rows.select_columns(others).map(
        function, remove_columns=others, features=features, desc="Reading captions or labels"
    )
    return concatenate_datasets([rows.select_columns(["image"]), made], axis=1).cast_column("image", Image())


def first(rows: Rows, limit: int | None) -> Rows:
    """Take the first `limit` rows, or all."""
    if limit is None:
        return rows
    return (
        rows.take(limit) if isinstance(rows, IterableDataset) else rows.select(range(min(limit, len(rows))))
    )
