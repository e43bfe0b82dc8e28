"""Benchmarks as data: a YAML file says where images and texts lie, in which layout, and what is measured.

task = load_task("flickr30k")              # benchmarks/tasks/flickr30k.yaml
task = load_task("my/signs.yaml")          # a task of your own
rows = task.rows(["en", "zh"], limit=100)
"""

import dataclasses
import difflib
import logging
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, IterableDataset

from . import layouts
from .caption_files import read_caption_files
from .loading import check_folder, check_languages
from .prompts import split_source
from .recipe import InputError, read_text, read_yaml
from .task_checks import FILES, check_known, check_values

logger = logging.getLogger(__name__)

FOLDER = Path(__file__).parent / "tasks"
_NOT_IN_YAML = ("name", "file")


@dataclass(kw_only=True)
class Task:
    """A benchmark as its YAML file describes it; all fields but `name` and `file` are keys of that file.

    `dataset` and the JSON files of `class_names` and `templates` are read from beside the YAML file where
    they exist there, and otherwise from the working directory. `data_files` are relative to the dataset.

    - `name`: the file's stem. `file`: the file.
    - `kind`: `retrieval` or `zero_shot`. `metric`: the one that tables show, see `task_checks.METRICS`.
    - `dataset`: a Hub id or a folder. `revision`, `config`, `split`, `data_files`: as in
      `datasets.load_dataset`. A folder that users must make themselves has a `preparation` that tells how.
    - `layout`: where images and texts lie in the dataset, see `layouts`. `columns`: names of the columns by
      their contents: `image` (optional where only one column holds images), `label` or `labels`; `captions`,
      which is the name of one column with a dict by language, or `{language: column}`.
    - `where`: values that annotations of the layout `coco_json` must have. `join_words`: remove the spaces
      from captions. `merge_captions`: treat equal captions as one caption of several images; otherwise each
      is a query for its own image.
    - `languages`: languages of the captions, by default those that `columns.captions` maps to columns.
      Prompts of a classification come in any language.
    - `class_names`: `dataset` for the dataset's own, `clip_benchmark:KEY`, `altclip:imagenet`, a JSON file,
      or a dict that gives each language one of these or a list of names; and `class_subset`. `templates`:
      `simple`, `full`, a theme, a prompt template with `{}`, or a list of them. See `prompts`.
    - `n_images`, `n_texts` (by language, where known), `n_classes`: the expected counts. `size`: of the files
      to download, unless it says otherwise.
    - `licence`, `gated`, `notes`. `split_differs`: how the images differ from those of the paper. `suites`:
      the lists of benchmarks it belongs to.
    - `unverified`: fields whose values were never compared with the Hub, and `class_names.LANGUAGE` for names
      that no native speaker has read.
    """

    name: str
    file: str
    kind: str
    dataset: str
    split: str
    metric: str
    revision: str | None = None
    config: str | None = None
    data_files: dict[str, str] | None = None
    layout: str = "table"
    columns: dict = field(default_factory=dict)
    where: dict = field(default_factory=dict)
    join_words: bool = False
    merge_captions: bool = False
    languages: list[str] = field(default_factory=list)
    class_names: str | dict[str, str | list[str]] | None = None
    class_subset: str | None = None
    templates: str | list[str] = "simple"
    n_images: int | None = None
    n_texts: dict[str, int] = field(default_factory=dict)
    n_classes: int | None = None
    size: str | None = None
    licence: str | None = None
    gated: bool = False
    split_differs: str | None = None
    preparation: str | None = None
    notes: str | None = None
    suites: list[str] = field(default_factory=list)
    unverified: list[str] = field(default_factory=list)

    @property
    def to_prepare(self) -> str | None:
        """Tell users to make the folder that the task reads; None where nothing is to be done."""
        if self.preparation is None or Path(self.dataset).is_dir():
            return None
        return f"dataset {self.dataset!r} does not exist. {_one_line(self.preparation)}"

    def rows(
        self, languages: list[str] | None = None, limit: int | None = None, streaming: bool = False
    ) -> Dataset | IterableDataset:
        """Load the images with their captions or labels, in the one form that `layouts` describes.

        Args:
            languages: of the captions; all by default. A classification's rows have none.
            limit: load only the first so many images.
            streaming: download only the rows that are read.

        Raises:
            InputError: the data does not exist, cannot be read, or differs from what the task says.
        """
        if self.languages and self.kind == "retrieval":
            languages = check_languages(languages, self.languages)
        if self.to_prepare:
            raise InputError(self.to_prepare)
        check_folder("dataset", self.dataset)
        read = read_caption_files if self.layout in FILES else layouts.read_table
        rows = read(self, languages, limit, streaming)
        if limit is None and isinstance(rows, Dataset):
            self._warn_of_other_counts(rows)
        return rows

    def fetch(self, name: str) -> Path:
        """Return the path of a file of the dataset, such as `classnames.txt`; download it where necessary."""
        return layouts.fetch(self, name)

    def own_class_names(self, rows: Dataset | IterableDataset) -> list[str] | None:
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
        if self.layout == "webdataset" and self.class_names == "dataset":
            return read_text(self.fetch("classnames.txt"), "file").splitlines()
        return None

    def commit(self) -> str | None:
        """Return the full hash of the commit on the Hub that `rows` reads; None for a folder."""
        return layouts.commit_of(self)

    def _warn_of_other_counts(self, rows: Dataset) -> None:
        # Results on other images or texts than the task's are not comparable.
        self._warn_of_count("images", len(rows), self.n_images)
        if self.kind != "retrieval":
            return
        captions = rows.with_format("arrow")["captions"][:]
        for language, expected in self.n_texts.items():
            if language in rows.features["captions"]:
                n_texts = 0
                # Counted in Arrow: Python would make a list of every row's captions.
                for chunk in captions.chunks:
                    lengths = pc.list_value_length(pc.struct_field(chunk, language))
                    n_texts += pc.sum(lengths).as_py()
                self._warn_of_count(f"texts in {language}", n_texts, expected)

    def _warn_of_count(self, what: str, found: int, expected: int | None) -> None:
        if expected is not None and found != expected:
            logger.warning(
                "%s: %s has %s %s; %s says %s", self.name, self.dataset, found, what, self.file, expected
            )


def load_task(name_or_path: str) -> Task:
    """Read a task of this package by its name, or a user's own task by the path of its YAML file.

    Raises:
        InputError: there is no such task; the file is not YAML; a key is unknown or missing; or a value is
            invalid.

    Example:

    ```python
    >>> from benchmarks import load_task

    >>> task = load_task("flickr30k")
    >>> task.kind, task.metric, task.n_images
    ('retrieval', 'mean_recall', 1000)
    ```
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = FOLDER / f"{name_or_path}.yaml"
        names = all_task_names()
        if name_or_path not in names:
            close = difflib.get_close_matches(name_or_path, names, 3, 0.5) or names
            raise InputError(
                f"no task {name_or_path!r}: did you mean {', '.join(close)}? Or give the path of a YAML file "
                "of your own"
            )

    given = read_yaml(path, "task")
    if not isinstance(given, dict):
        raise InputError(f"task {str(path)!r} must be a mapping of keys to values")
    _check_keys(given, str(path))
    task = Task(name=path.stem, file=str(path), **given)
    check_values(task)
    # After the types were checked, since paths have to be texts.
    _resolve_paths(task)
    return task


def all_task_names(suite: str | None = None) -> list[str]:
    """Return the names of this package's tasks, or of those in one suite, such as `icinw`."""
    names = sorted(path.stem for path in FOLDER.glob("*.yaml"))
    if not suite:
        return names
    return [name for name in names if suite in load_task(name).suites]


def _check_keys(given: dict, file: str) -> None:
    """Check that all keys of a task's file are known, and that none is missing."""
    keys = [key for key in dataclasses.fields(Task) if key.name not in _NOT_IN_YAML]
    known = [key.name for key in keys]
    for name in given:
        check_known(name, known, f"task {file!r}")

    # A key with an empty value is missing, too: YAML reads it as null.
    missing = []
    for key in keys:
        has_default = key.default is not dataclasses.MISSING or key.default_factory is not dataclasses.MISSING
        if not has_default and given.get(key.name) is None:
            missing.append(key.name)
    if missing:
        raise InputError(f"task {file!r} lacks {', '.join(missing)}")


def _resolve_paths(task: Task) -> None:
    """Replace paths that exist beside the task's file by the paths from the working directory."""
    folder = Path(task.file).parent
    if (folder / task.dataset).exists():
        task.dataset = str(folder / task.dataset)
    task.templates = _resolve_source(task.templates, folder)
    if isinstance(task.class_names, dict):
        task.class_names = {
            language: _resolve_source(source, folder) for language, source in task.class_names.items()
        }
    else:
        task.class_names = _resolve_source(task.class_names, folder)


def _resolve_source(source: str | list[str] | None, folder: Path) -> str | list[str] | None:
    """Resolve `FILE.json` or `FILE.json:KEY` if the folder has the file; return other sources unchanged."""
    if not isinstance(source, str):
        return source
    name, _ = split_source(source)
    if name.endswith(".json") and (folder / name).is_file():
        return str(folder / source)
    return source


def describe(task: Task, languages: list[str] | None = None, class_names: str | None = None) -> str:
    """Describe a task, a line each: what is read from where, how much, on which terms, and what is
    unverified.

    Args:
        languages: those to evaluate; the task's by default.
        class_names: the user's source of them, in place of the task's.
    """
    languages_read = languages or task.languages
    is_folder = Path(task.dataset).is_dir()
    lines = {
        "measures": _describe_metric(task, languages_read),
        "reads": _describe_dataset(task),
        "files": _describe_files(task, languages_read),
        "holds": _describe_counts(task, languages_read),
        "names": _describe_names(class_names or task.class_names, languages),
        "terms": _describe_terms(task),
        "unverified": ", ".join(task.unverified),
        "differs": task.split_differs,
        "first": None if is_folder else task.preparation,
        "notes": task.notes,
    }
    text = [task.name]
    for key, value in lines.items():
        if value:
            text.append(f"  {key + ':':<12}{_one_line(value)}")
    return "\n".join(text)


def _one_line(text: str) -> str:
    """Join the lines of a text, which YAML may have broken anywhere."""
    return " ".join(text.split())


def _describe_metric(task: Task, languages: list[str]) -> str:
    line = f"{task.kind}, {task.metric}"
    return f"{line}, in {' '.join(languages)}" if languages else line


def _describe_dataset(task: Task) -> str:
    """Name the dataset with its revision, configuration and split."""
    line = task.dataset
    is_folder = Path(task.dataset).is_dir()
    if task.revision:
        line += f" @ {task.revision}"
    elif not is_folder and not task.preparation:
        line += ", not pinned"
    if task.config:
        line += f", config {task.config}"
    return f"{line}, split {task.split}"


def _describe_files(task: Task, languages: list[str]) -> str:
    """Name the files that are read; those of other languages are not."""
    # Keys of `data_files` are splits, languages, or names such as `images`.
    unread = set(task.languages) - set(languages)
    files = [name for key, name in (task.data_files or {}).items() if key not in unread]
    return ", ".join(files) or f"those of split {task.split}"


def _describe_counts(task: Task, languages: list[str]) -> str:
    counts = []
    if task.n_images:
        counts.append(f"{task.n_images:,} images")
    if task.n_classes:
        counts.append(f"{task.n_classes:,} classes")
    known = [language for language in dict.fromkeys(languages) if task.n_texts.get(language)]
    if known:
        texts = ", ".join(f"{task.n_texts[language]:,} in {language}" for language in known)
        counts.append(f"texts: {texts}")
    counts.append(task.size or "size not known")
    return ", ".join(counts)


def _describe_names(
    source: str | dict[str, str | list[str]] | None, languages: list[str] | None
) -> str | None:
    """Name the sources of the class names, each with its languages."""
    if not isinstance(source, dict):
        return source
    # {"en": "dataset", "de": ["Hund"], "fr": ["chien"]} -> "dataset in en, the task's own in de fr"
    by_source = {}
    for language in languages or source:
        given = source[language]
        origin = given if isinstance(given, str) else "the task's own"
        by_source.setdefault(origin, []).append(language)
    return ", ".join(f"{origin} in {' '.join(named)}" for origin, named in by_source.items())


def _describe_terms(task: Task) -> str:
    licence = task.licence or "licence not known"
    access = "gated: accept the terms on its page" if task.gated else "not gated"
    return f"{licence}; {access}"
