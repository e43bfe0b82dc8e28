"""Rows of one form: an `image`, and beside it captions by language or the numbers of its classes."""

from collections.abc import Callable
from functools import partial

from datasets import Dataset, Features, Image, IterableDataset, List, Value, concatenate_datasets

from common.errors import InputError
from common.files.table_cells import texts_in_cell
from modeling_altclip.languages_altclip import canonical

Rows = Dataset | IterableDataset


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
        captions[language] = texts_in_cell(fields.get(key), own_column, lines=lines, joined=joined)
    return {"captions": captions}


# `datasets` hashes the names of the functions that it maps over rows: renamed, they would orphan cached rows.
def places_of_ones(row: dict) -> dict[str, list[int]]:
    """Return the classes of a row whose `labels` have a place for each class: `[0, 1, 0, 1]` -> `[1, 3]`."""
    return {"labels": [number for number, value in enumerate(row["labels"]) if value]}


def captions_of_one(row: dict, column: str, language: str, languages: list[str], joined: bool) -> dict:
    """Read a row's texts, all of them in one language; it has none in the others."""
    captions = {other: [] for other in languages}
    captions[language] = texts_in_cell(row[column], column, joined=joined)
    return {"captions": captions}


def _first_captions(row: dict, captions_of: Callable[[dict], dict]) -> dict:
    """Read the captions of a row, and keep the first one in each language."""
    captions = captions_of(row)["captions"]
    return {"captions": {language: texts[:1] for language, texts in captions.items()}}


def add_captions(
    rows: Rows, captions_of: Callable[[dict], dict], languages: list[str], *, only_first: bool = False
) -> Rows:
    """Return rows of `image` and of `captions` in these languages, which `captions_of` reads from a row.

    Args:
        only_first: keep the first caption of each image alone.
    """
    if only_first:
        captions_of = partial(_first_captions, captions_of=captions_of)
    by_language = {language: List(Value("string")) for language in languages}
    return with_column(rows, captions_of, Features({"captions": by_language}))


def with_column(rows: Rows, function: Callable[[dict], dict], features: Features) -> Rows:
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
