"""Checks of a source's file: which values it may have, and which go together. No data is read for them."""

import re

from benchmarks.tasks.checks import check_known
from common.errors import InputError
from common.licences import TERMS
from common.typed import check_types
from modeling_altclip.languages_altclip import name_languages

from .source import Source

KINDS = ("human", "mined", "machine")
_SPLITS = ("train", "validation", "test")
# Columns of each layout: those that it needs, and those that it may have.
_COLUMNS = {
    "pairs": (["english", "translation"], []),
    "translation": (["translation"], []),
    "columns": (["captions"], []),
    "language_column": (["english", "translation", "language"], []),
    "language_lists": (["english", "translations"], ["url"]),
    "joined": (["id", "text"], []),
    "images": (["captions"], ["image"]),
    "image_lists": (["captions", "language"], ["image"]),
    "addresses": (["url", "captions"], ["language"]),
}
# The key that lists the languages of a layout; the others list them in `columns.captions`.
_LISTED_IN = {
    "pairs": "configs",
    "translation": "configs",
    "joined": "configs",
    "language_column": "codes",
    "language_lists": "codes",
    "image_lists": "codes",
}
_COMMIT = re.compile("[0-9a-f]{40}")


def check_values(source: Source) -> None:
    """Check that the values of a source have the right types, are known, and go together.

    Raises:
        InputError: one does not; the message names the file and the key.
    """
    where = f"source {source.file!r}"
    check_types(vars(source), Source, where)
    _check_choice(where, "layout", [source.layout], _COLUMNS)
    _check_choice(where, "kind", [source.kind], KINDS)
    _check_choice(where, "splits", source.splits, _SPLITS)
    _check_choice(where, "terms", source.terms or [], TERMS)
    if not source.splits:
        raise InputError(f"{where}: `splits` is empty: name one, as in `splits: {{train: train}}`")
    if source.revision is not None and not _COMMIT.fullmatch(source.revision):
        raise InputError(f"{where}: revision is {source.revision!r}: give the 40 digits of a commit")
    _check_columns(source, where)
    _check_languages(source, where)

    unknown = [name for name in source.unverified if name not in vars(source)]
    if unknown:
        raise InputError(f"{where} calls {', '.join(unknown)} unverified, which are no keys")


def _check_choice(where: str, key: str, values, choices) -> None:
    for value in values:
        if value not in choices:
            raise InputError(f"{where}: {key} has {value!r}; choose from {', '.join(choices)}")


def _check_columns(source: Source, where: str) -> None:
    """Check that `columns` has what the layout needs, each the name of a column."""
    needed, optional = _COLUMNS[source.layout]
    for key, named in source.columns.items():
        check_known(key, [*needed, *optional], f"{where}: `columns`")
        names = list(named.values()) if isinstance(named, dict) and key == "captions" else [named]
        if not names or not all(isinstance(name, str) for name in names):
            raise InputError(f"{where}: columns.{key} is {named!r}; it must be the name of a column")
    missing = [key for key in needed if key not in source.columns]
    if missing:
        raise InputError(f"{where}: `columns` of layout {source.layout} must name {', '.join(missing)}")


def _check_languages(source: Source, where: str) -> None:
    """Check that the languages are listed where the layout has them, by codes of languages."""
    key = _LISTED_IN.get(source.layout)
    for name in ("configs", "codes"):
        if name != key and getattr(source, name) and source.layout != "addresses":
            raise InputError(f"{where}: layout {source.layout} has no {name}: leave them out")
    if key is not None and not getattr(source, key):
        raise InputError(f"{where} lacks {key}, which list its languages: give {{language: name}}")
    if key is None and not isinstance(source.columns["captions"], dict) and source.layout != "addresses":
        raise InputError(f"{where}: columns.captions must be {{language: column}}")
    try:
        name_languages(source.languages)
    except ValueError as error:
        raise InputError(f"{where}, languages: {error}") from error


__all__ = ["check_values"]
