"""A benchmark as data: a YAML file says where its images and texts lie, in which layout, and what is measured
on them.

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
NOT_IN_YAML = ("name", "file")


@dataclass(kw_only=True)
class Task:
    """What a YAML file says of a benchmark; its keys are these fields, but for the first two.

    `dataset` and the JSON files of `class_names` and `templates` are read from beside the YAML file where
    they exist there, and otherwise from the working directory; `data_files` are the data set's own.

    - `name`: the file's stem. `file`: the file.
    - `kind`: `retrieval` or `zero_shot`. `metric`: the one that stands in the tables, see
    `task_checks.METRICS`.
    - `dataset`: a Hub id or a folder; `revision`, `config`, `split`, `data_files`: as `datasets.load_dataset`
    has them. A folder
      that users must make themselves has a `preparation` that says how.
    - `layout`: how images and texts lie there, see `layouts`. `columns`: the columns' names by what is in
    them: `image` (may be left
      out where only one holds images), `label` or `labels`; `captions`, of a dict by language, or a column
      for each language.
    - `where`: what annotations of the layout `coco_json` must have. `join_words`: take the spaces out of
    captions.
      `merge_captions`: equal captions are one, of several images; otherwise each is asked for its own image.
    - `languages`: those of the captions, by default those that `columns.captions` gives a column each;
    prompts of a classification
      come in any.
    - `class_names`: `dataset` for its own, `clip_benchmark:KEY`, `altclip:imagenet`, a JSON file, or a dict
    that gives each language one of
      these, or the names; and `class_subset`. `templates`: `simple`, `full`, a theme, a sentence with `{}`,
      or a list of them. See
      `prompts`.
    - `n_images`, `n_texts` (by language, where known), `n_classes`: how much there is. `size`: of the files
    that are fetched, unless it
      says of what.
    - `licence`, `gated`, `notes`; `split_differs`: how the images are not those of the paper; `suites`: the
    lists it is in.
    - `unverified`: the fields whose values nobody has seen on the Hub itself, and `class_names.LANGUAGE` that
    no native speaker has read.
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
        """Return what users must do before the folder that the task reads exists; None where it does."""
        if self.preparation is None or Path(self.dataset).is_dir():
            return None
        return f"dataset {self.dataset!r} does not exist. {' '.join(self.preparation.split())}"

    def rows(
        self, languages: list[str] | None = None, limit: int | None = None, streaming: bool = False
    ) -> Dataset | IterableDataset:
        """Read the images with their captions or labels, in the form that `layouts` describes.

        Args:
            languages: of the captions; all by default. A classification's rows have none.
            limit: the first so many images.
            streaming: fetch only what is read.

        Raises:
            InputError: the data is not there, may not be read, or is not as the task says.
        """
        if self.languages and self.kind == "retrieval":
            languages = check_languages(languages, self.languages)
        if self.to_prepare:
            raise InputError(self.to_prepare)
        check_folder("dataset", self.dataset)
        read = read_caption_files if self.layout in FILES else layouts.read_table
        rows = read(self, languages, limit, streaming)
        if limit is None and isinstance(rows, Dataset):
            self.warn_of_other_counts(rows)
        return rows

    def fetch(self, name: str) -> Path:
        """Return the path of a file of the dataset, such as `classnames.txt`, downloaded where it is on the
        Hub.
        """
        return layouts.fetch(self, name)

    def own_class_names(self, rows: Dataset | IterableDataset) -> list[str] | None:
        """Return the class names of the dataset itself, mostly English; None where it has none.

        They are those of the column of labels, or of `classnames.txt` beside tars, if `class_names` says
        `dataset`.
        """
        (answer,) = rows.features.keys() & {"label", "labels"}
        kind = rows.features[answer].feature if answer == "labels" else rows.features[answer]
        if isinstance(kind, ClassLabel):
            return kind.names
        if self.layout == "webdataset" and self.class_names == "dataset":
            return read_text(self.fetch("classnames.txt"), "file").splitlines()
        return None

    def commit(self) -> str | None:
        """Return the full hash of the Hub commit that `rows` reads; None for a folder."""
        return layouts.commit_of(self)

    def warn_of_other_counts(self, rows: Dataset) -> None:
        """Warn where the images or texts are not as many as the task's: their numbers are not comparable."""
        found = {"images": (len(rows), self.n_images)}
        if self.kind == "retrieval":
            captions = rows.with_format("arrow")["captions"][:]
            for language, n_texts in self.n_texts.items():
                if language in rows.features["captions"]:
                    lengths = [
                        pc.sum(pc.list_value_length(pc.struct_field(chunk, language))).as_py()
                        for chunk in captions.chunks
                    ]
                    found[f"texts in {language}"] = sum(lengths), n_texts
        for what, (there, expected) in found.items():
            if expected is not None and there != expected:
                logger.warning(
                    "%s: %s has %s %s; %s says %s", self.name, self.dataset, there, what, self.file, expected
                )


def load_task(name_or_path: str) -> Task:
    """Read a task that comes with the package by its name, or a user's own by the path of its YAML file.

    Raises:
        InputError: there is no such task; it is no YAML; it has an unknown key or lacks one; or a value that
            cannot be.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = FOLDER / f"{name_or_path}.yaml"
        if name_or_path not in all_task_names():
            close = difflib.get_close_matches(name_or_path, all_task_names(), 3, 0.5) or all_task_names()
            raise InputError(
                f"no task {name_or_path!r}: did you mean {', '.join(close)}? Or give the path of a YAML file "
                "of your own"
            )
    given = read_yaml(path, "task")
    if not isinstance(given, dict):
        raise InputError(f"task {str(path)!r} must be a mapping of keys to values")
    check_keys(given, str(path))
    task = Task(name=path.stem, file=str(path), **given)
    check_values(task)
    read_from_beside(task)
    return task


def all_task_names(suite: str | None = None) -> list[str]:
    """List the tasks that come with the package, or those of a list such as `icinw`."""
    names = sorted(path.stem for path in FOLDER.glob("*.yaml"))
    return [name for name in names if suite in load_task(name).suites] if suite else names


def check_keys(given: dict, file: str) -> None:
    fields = [field for field in dataclasses.fields(Task) if field.name not in NOT_IN_YAML]
    known = [field.name for field in fields]
    for key in given:
        check_known(key, known, f"task {file!r}")
    required = [
        field.name for field in fields if field.default is field.default_factory is dataclasses.MISSING
    ]
    missing = [key for key in required if given.get(key) is None]
    if missing:
        raise InputError(f"task {file!r} lacks {', '.join(missing)}")


def read_from_beside(task: Task) -> None:
    """Resolve paths that exist beside the task's file."""
    folder = Path(task.file).parent

    def beside(source):
        if not isinstance(source, str):
            return source
        name = split_source(source)[0]
        if name.endswith(".json") and (folder / name).is_file():
            return str(folder / source)
        return source

    if (folder / task.dataset).exists():
        task.dataset = str(folder / task.dataset)
    names = task.class_names
    if isinstance(names, dict):
        task.class_names = {language: beside(source) for language, source in names.items()}
    else:
        task.class_names = beside(names)
    task.templates = beside(task.templates)


def describe(task: Task, languages: list[str] | None = None, class_names: str | None = None) -> str:
    """Describe what would be loaded, from where, how large it is, its terms, and what is unverified; one line
    each.

    Args:
        class_names: the user's source of class names, in place of the task's.
    """
    evaluated = languages or task.languages
    is_local = Path(task.dataset).is_dir()
    gated = "gated: accept the terms on its page" if task.gated else "not gated"
    facts = {
        "measures": _describe_measure(task, evaluated),
        "reads": _describe_source(task, is_local),
        "files": _describe_files(task, evaluated),
        "holds": _describe_size(task, evaluated),
        "names": describe_names(class_names or task.class_names, languages),
        "terms": f"{task.licence or 'licence not known'}; {gated}",
        "unverified": ", ".join(task.unverified),
        "differs": task.split_differs,
        "first": None if is_local else task.preparation,
        "notes": task.notes,
    }
    lines = [task.name]
    for fact, value in facts.items():
        if value:
            title = f"{fact}:"
            lines.append(f"  {title:<12}{' '.join(value.split())}")
    return "\n".join(lines)


def _describe_measure(task: Task, languages: list[str]) -> str:
    """Return `retrieval, mean_recall, in en zh`."""
    measure = f"{task.kind}, {task.metric}"
    return f"{measure}, in {' '.join(languages)}" if languages else measure


def _describe_source(task: Task, is_local: bool) -> str:
    """Return `org/dataset @ 1a2b3c4, config default, split test`."""
    if task.revision:
        source = f"{task.dataset} @ {task.revision}"
    elif is_local or task.preparation:
        source = task.dataset
    else:
        source = f"{task.dataset}, not pinned"
    if task.config:
        source += f", config {task.config}"
    return f"{source}, split {task.split}"


def _describe_files(task: Task, languages: list[str]) -> str:
    """Return the task's own data files, but for those of languages that are not evaluated."""
    unread = set(task.languages) - set(languages)
    files = [name for key, name in (task.data_files or {}).items() if key not in unread]
    return ", ".join(files) or f"those of split {task.split}"


def _describe_size(task: Task, languages: list[str]) -> str:
    """Return `1,000 images, texts: 5,000 in en, 62 MB`, as far as it is known."""
    parts = []
    if task.n_images:
        parts.append(f"{task.n_images:,} images")
    if task.n_classes:
        parts.append(f"{task.n_classes:,} classes")
    counts = {language: task.n_texts.get(language) for language in languages}
    texts = [f"{count:,} in {language}" for language, count in counts.items() if count]
    if texts:
        parts.append(f"texts: {', '.join(texts)}")
    parts.append(task.size or "size not known")
    return ", ".join(parts)


def describe_names(
    source: str | dict[str, str | list[str]] | None, languages: list[str] | None
) -> str | None:
    """Describe where class names come from: each source with its languages."""
    if not isinstance(source, dict):
        return source
    languages_of: dict[str, list[str]] = {}
    for language in languages or source:
        given = source[language]
        if not isinstance(given, str):
            given = "the task's own"
        languages_of.setdefault(given, []).append(language)
    return ", ".join(f"{given} in {' '.join(of_source)}" for given, of_source in languages_of.items())
