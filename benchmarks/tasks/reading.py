"""Read a task's rows, and the class names that its dataset has itself."""

import logging

import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, IterableDataset

from common.errors import InputError
from common.files.text_files import lines_of
from common.languages import check_languages
from common.paths import check_folder

from .candidates import read_candidates
from .caption_files import read_caption_files
from .checks import FILES
from .layouts import read_layout
from .source import fetch
from .task import Task

logger = logging.getLogger(__name__)


def read_rows(
    task: Task, languages: list[str] | None = None, limit: int | None = None, streaming: bool = False
) -> Dataset | IterableDataset:
    """Load the images with their captions or labels, in the one form that `layouts` describes.

    Args:
        languages: of the captions; all by default. A classification's rows have none.
        limit: load only the first so many images, of each language where these have images of their own.
        streaming: download only the rows that are read.

    Raises:
        InputError: the data does not exist, cannot be read, or differs from what the task says.

    Example:

    ```python
    >>> from benchmarks import load_task, read_rows

    >>> rows = read_rows(load_task("miniature-pairs"), ["en", "ko"], limit=2)
    >>> len(rows), list(rows[0]["captions"])
    (2, ['en', 'ko'])
    ```
    """
    if task.languages and task.has_captions:
        languages = check_languages(languages, task.languages)
    if task.to_prepare:
        raise InputError(task.to_prepare)
    check_folder("dataset", task.dataset)
    read = read_caption_files if task.layout in FILES else read_layout
    if task.layout == "candidates":
        read = read_candidates
    rows = read(task, languages, limit, streaming)
    if limit is None and isinstance(rows, Dataset):
        _warn_of_other_counts(task, rows)
    return rows


def own_class_names(task: Task, rows: Dataset | IterableDataset) -> list[str] | None:
    """Return the names that the dataset itself gives its classes, usually in English; None if it has
    none.

    They come from the column of labels. Beside tars they are in `classnames.txt`, which is read if
    `class_names` is `dataset`.
    """
    (answer,) = rows.features.keys() & {"label", "labels"}
    kind = rows.features[answer]
    if answer == "labels":
        kind = kind.feature
    if isinstance(kind, ClassLabel):
        return kind.names
    if task.layout == "webdataset" and task.class_names == "dataset":
        return list(lines_of(fetch(task, "classnames.txt")))
    return None


def _warn_of_other_counts(task: Task, rows: Dataset) -> None:
    # Results on other images or texts than the task's are not comparable.
    has_own_images = isinstance(task.n_images, dict)
    if not has_own_images:
        _warn_of_count(task, "images", len(rows), task.n_images)
    if not task.has_captions:
        return
    captions = rows.with_format("arrow")["captions"][:]
    for language in rows.features["captions"]:
        # Counted in Arrow: Python would make a list of every row's captions.
        n_texts = 0
        n_described = 0
        for chunk in captions.chunks:
            lengths = pc.list_value_length(pc.struct_field(chunk, language))
            n_texts += pc.sum(lengths, min_count=0).as_py()
            n_described += pc.sum(pc.greater(lengths, 0), min_count=0).as_py()
        if has_own_images:
            _warn_of_count(task, f"images in {language}", n_described, task.n_images.get(language))
        _warn_of_count(task, f"texts in {language}", n_texts, task.n_texts.get(language))


def _warn_of_count(task: Task, what: str, found: int, expected: int | None) -> None:
    if expected is not None and found != expected:
        logger.warning(
            "%s: %s has %s %s; %s says %s", task.name, task.dataset, found, what, task.file, expected
        )
