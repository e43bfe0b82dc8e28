"""Read the captions and pictures of benchmarks into indices, in which rows of training are looked up."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from datasets import Dataset
from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name

from benchmarks.tasks.loading import all_task_names, load_task
from benchmarks.tasks.reading import read_rows
from benchmarks.tasks.task import Task
from common.errors import InputError
from model_cards.licences import is_hub_id

from .captions import CaptionIndex

_ALL = "all"
_ROWS_AT_ONCE = 1000


class Found(NamedTuple):
    """Where something of a row of training is in a test.

    - `number`: that of the text or of the picture among those that were given.
    - `task`, `item`: the task, and the number of its row. `language`: of its caption; None of a picture.
    - `why`: `equal caption`, `similar caption, 0.94 of its letters`, `similar picture, 12 of 512 bits`.
    - `closeness`: orders what was found of one row: 1 is equal.
    """

    number: int
    task: str
    item: int
    language: str | None
    why: str
    closeness: float


@dataclass
class TaskIndex:
    """What is looked for in training data: the captions and pictures of tasks, as hashes.

    - `tasks`: the names of the tasks that were read.
    - `unread`: `{name: reason}` of those that could not be.
    - `caption_places`: `(task, row, language)` of each caption; `picture_places`: `(task, row)` of each hash.
    - `pictures`: a `PictureIndex`; None where pictures are not looked for.
    """

    captions: CaptionIndex
    caption_places: list[tuple[str, int, str]]
    pictures: "PictureIndex | None" = None  # noqa: F821  (its module needs an extra)
    picture_places: list[tuple[str, int]] = field(default_factory=list)
    tasks: list[str] = field(default_factory=list)
    unread: dict[str, str] = field(default_factory=dict)

    def find_captions(self, texts: Sequence[str]) -> list[Found]:
        """Return the best match of each text that has one, in the order of the texts."""
        found = []
        for text, caption, kind, share in self.captions.find(texts):
            why = f"{kind} caption"
            if kind == "similar":
                why = f"similar caption, {share:.2f} of the shingles of either"
            elif kind == "contains":
                why = f"contains a caption, {share:.2f} of its shingles"
            task, item, language = self.caption_places[caption]
            found.append(Found(text, task, item, language, why, share))
        return found

    def find_pictures(self, hashes: Sequence[bytes]) -> list[Found]:
        """Return the nearest match of each picture that has one, in the order of the hashes."""
        found = []
        for picture, test, n_bits in self.pictures.find(hashes):
            task, item = self.picture_places[test]
            why = f"similar picture, {n_bits} of 512 bits differ"
            found.append(Found(picture, task, item, None, why, 1 - n_bits / 512))
        return found

    def summary(self) -> str:
        """Return `2000 captions and 400 pictures of flickr30k, xm3600`."""
        parts = [f"{self.captions.n_captions - self.captions.n_short} captions"]
        if self.pictures is not None:
            parts.append(f"{len(set(self.picture_places))} pictures")
        return f"{' and '.join(parts)} of {', '.join(self.tasks)}"


def load_task_index(names: Sequence[str], *, pictures: bool, short: bool = False) -> TaskIndex:
    """Read tasks, and index their captions in all languages, and their pictures.

    Args:
        names: of tasks, or paths of YAML files; or `all`, alone: the tasks whose data is at hand, in a folder
            or in the Hub's cache.
        pictures: look for pictures as well. Without them, tasks of classification have nothing to look for.
        short: find texts that are equal to captions of fewer than eight letters, too.

    Raises:
        InputError: there is no such task, or one that is named cannot be read; of `all`, none can be.
        MissingExtra: pictures are looked for, and the extra `exclusion` is not installed.

    Example:

    ```python
    >>> from training.data.exclusion import load_task_index

    >>> index = load_task_index(["miniature-pairs"], pictures=False)
    >>> index.summary()
    '19000 captions of miniature-pairs'
    >>> index.find_captions(["Shallow pan of food AND rabbit face", "a cat"])
    []
    ```
    """
    takes_all = list(names) == [_ALL]
    if _ALL in names and not takes_all:
        raise InputError(f"exclude_tasks is {' '.join(names)}: give {_ALL} alone, or tasks by their names")
    tasks = _tasks_at_hand() if takes_all else [load_task(name) for name in dict.fromkeys(names)]
    if not pictures:
        tasks = [task for task in tasks if task.has_captions]
    if not tasks:
        what = "no such data is on this machine" if takes_all else "they have no captions, only pictures"
        raise InputError(f"exclude_tasks is {' '.join(names)}, and {what}: name others, or leave it out")

    reading = _Reading(pictures)
    for task in tasks:
        try:
            reading.add(task)
        except InputError as error:
            if not takes_all:
                raise InputError(f"exclude_tasks: task {task.name!r} cannot be read: {error}") from error
            reading.unread[task.name] = str(error)
    if not reading.tasks:
        first, reason = next(iter(reading.unread.items()))
        raise InputError(f"exclude_tasks is {_ALL}, and no task can be read, {first!r} first: {reason}")
    return reading.index(short=short)


def _tasks_at_hand() -> list[Task]:
    """Return the tasks whose dataset is a folder that exists, or has files in the Hub's cache.

    A mixed pool has the data of a retrieval task, which is read once.
    """
    tasks = [load_task(name) for name in all_task_names()]
    tasks = [task for task in tasks if task.kind != "mixed_pool"]
    return [task for task in tasks if Path(task.dataset).is_dir() or _is_cached(task.dataset)]


def _is_cached(dataset: str) -> bool:
    if not is_hub_id(dataset):
        return False
    folder = repo_folder_name(repo_id=dataset, repo_type="dataset")
    return any(Path(constants.HF_HUB_CACHE, folder, "snapshots").glob("*/*"))


class _Reading:
    """Collects what tasks have, one after the other."""

    def __init__(self, pictures: bool):
        self.hash_rows = _hasher() if pictures else None
        self.texts = []
        self.caption_places = []
        self.hashes = []
        self.picture_places = []
        self.tasks = []
        self.unread = {}

    def add(self, task: Task) -> None:
        rows = read_rows(task)
        if task.has_captions:
            self._add_captions(task.name, rows)
        if self.hash_rows is not None:
            for row, hashes in enumerate(self.hash_rows(rows, crops=True)):
                self.hashes += hashes
                self.picture_places += [(task.name, row)] * len(hashes)
        self.tasks.append(task.name)

    def _add_captions(self, name: str, rows: Dataset) -> None:
        row = 0
        for batch in rows.select_columns(["captions"]).iter(_ROWS_AT_ONCE):
            for captions in batch["captions"]:
                for language, texts in captions.items():
                    self.texts += texts or []
                    self.caption_places += [(name, row, language)] * len(texts or [])
                row += 1

    def index(self, *, short: bool) -> TaskIndex:
        pictures = None
        if self.hash_rows is not None:
            from .pictures import PictureIndex

            pictures = PictureIndex(self.hashes)
        return TaskIndex(
            CaptionIndex(self.texts, short=short),
            self.caption_places,
            pictures,
            self.picture_places,
            self.tasks,
            self.unread,
        )


def _hasher() -> Callable[..., list[list[bytes]]]:
    # Imported here, since the extra is needed for pictures alone.
    from .pictures import hash_rows

    return hash_rows


__all__ = ["Found", "TaskIndex", "load_task_index"]
