"""Load sources from YAML files: this package's own, and users'."""

import difflib
import os
from pathlib import Path

from benchmarks.tasks.checks import check_keys
from benchmarks.tasks.loading import read_description
from common.errors import InputError
from common.files.yaml_files import read_yaml

from .checks import check_values
from .source import Source

_FOLDER = Path(__file__).parent
_NOT_IN_YAML = ("name", "file")
_YAML = (".yaml", ".yml")


def load_source(name_or_path: str) -> Source:
    """Read a source of this package by its name, or a user's own by the path of its YAML file.

    Raises:
        InputError: there is no such source; the file is not YAML; a key is unknown or missing; or a value is
            invalid.

    Example:

    ```python
    >>> from training import load_source

    >>> source = load_source("opus-100")
    >>> source.dataset, source.kind, len(source.languages)
    ('Helsinki-NLP/opus-100', 'mined', 100)
    ```
    """
    return _make_source(*read_description(name_or_path, _FOLDER, "source"))


def all_source_names() -> list[str]:
    """Return the names of this package's sources."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def find_source(dataset: str) -> Source | None:
    """Return the source that the argument `dataset` names; None if it is a Hub id, a folder or other file.

    Raises:
        InputError: it is a source of this package and a folder as well; it is neither, and close to the name
            of a source; or as `load_source`.
    """
    if dataset.endswith(_YAML):
        given = read_yaml(Path(dataset), "dataset")
        # A list in such a file is one of several sources.
        return _make_source(given, Path(dataset)) if isinstance(given, dict) else None
    # A Hub id has a slash, a file an ending. Not the methods of Path, which fail at a name that is too long.
    names = all_source_names()
    is_here = os.path.exists(dataset)
    if dataset in names:
        if is_here:
            raise InputError(
                f"dataset {dataset!r} is a source of this package, and here is a folder of that name: "
                f"give ./{dataset} for the folder, or rename it"
            )
        return load_source(dataset)
    close = difflib.get_close_matches(dataset, names, 3, 0.8)
    if close and not is_here and "/" not in dataset:
        raise InputError(f"dataset {dataset!r} does not exist: did you mean the source {' or '.join(close)}?")
    return None


def _make_source(given: dict, path: Path) -> Source:
    """Make a source of the contents of its file.

    Raises:
        InputError: a key is unknown or missing, or a value is invalid.
    """
    check_keys(given, Source, _NOT_IN_YAML, f"source {str(path)!r}")
    source = Source(name=path.stem, file=str(path), **given)
    check_values(source)
    if os.path.exists(path.parent / source.dataset):
        source.dataset = str(path.parent / source.dataset)
    return source


__all__ = ["all_source_names", "find_source", "load_source"]
