"""Load tasks from YAML files: this package's own, and users'."""

import difflib
import os
from pathlib import Path

from common.errors import InputError
from common.files.yaml_files import read_yaml

from .checks import check_keys, check_values
from .task import Task
from .text_lists import split_source

FOLDER = Path(__file__).parent
_NOT_IN_YAML = ("name", "file", "allow_outside_images")


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
    given, path = read_description(name_or_path, FOLDER, "task")
    check_keys(given, Task, _NOT_IN_YAML, f"task {str(path)!r}")
    task = Task(name=path.stem, file=str(path), **given)
    check_values(task)
    # After the types were checked, since paths have to be texts.
    _resolve_paths(task)
    return task


def read_description(name_or_path: str, folder: Path, what: str) -> tuple[dict, Path]:
    """Read what a YAML file describes: one of `folder` by its name, or a user's own by its path.

    Args:
        what: is described, for messages.

    Returns:
        The keys and values, and the path of the file.

    Raises:
        InputError: there is no such file, or it is no mapping in YAML.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        names = sorted(path.stem for path in folder.glob("*.yaml"))
        if name_or_path not in names:
            close = difflib.get_close_matches(name_or_path, names, 3, 0.5) or names
            raise InputError(
                f"no {what} {name_or_path!r}: did you mean {', '.join(close)}? Or give the path of a YAML "
                "file of your own"
            )
        path = folder / f"{name_or_path}.yaml"
    given = read_yaml(path, what)
    if not isinstance(given, dict):
        raise InputError(f"{what} {str(path)!r} must be a mapping of keys to values")
    return given, path


def all_task_names(suite: str | None = None) -> list[str]:
    """Return the names of this package's tasks, or of those in one suite, such as `icinw`."""
    names = sorted(path.stem for path in FOLDER.glob("*.yaml"))
    if not suite:
        return names
    return [name for name in names if suite in load_task(name).suites]


def _resolve_paths(task: Task) -> None:
    """Replace paths that exist beside the task's file by the paths from the working directory."""
    folder = Path(task.file).parent
    # Not the methods of Path, which raise an error for a name that is too long.
    if os.path.exists(folder / task.dataset):
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
    if name.endswith(".json") and os.path.isfile(folder / name):
        return str(folder / source)
    return source
