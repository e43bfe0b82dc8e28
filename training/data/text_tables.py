"""Read tables of tabs or commas.

Every value stays a text, `NA` and `007` too.
"""

import csv
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from datasets import Dataset, Features, Value
from datasets.exceptions import DatasetGenerationError

from common.errors import InputError
from common.files.contents import content_digest
from common.files.endings import suffix_of
from common.files.image_folders import has_metadata
from common.files.rows import files_of
from common.files.text_files import lines_of

TABLES = (".tsv", ".csv")
_MOST_COLUMNS = 10_000  # far more than there are languages


def read_table(path: str) -> Dataset:
    """Read a table as rows of texts, which `datasets` caches on disk."""
    columns = _columns_of(path)
    features = Features({column: Value("string") for column in columns})
    # The file's contents are part of the cache's key: a table that has changed is read anew.
    return from_lines(rows_of_table, features, path=path, contents=content_digest(path))


def _columns_of(path: str) -> list[str]:
    """Return the names in a table's first line, without spaces around them.

    Raises:
        InputError: two columns have the same name, or there are too many.
    """
    _, names = next(_records_of(path), (1, []))
    columns = [name.strip() for name in names]
    if len(columns) > _MOST_COLUMNS:
        raise InputError(
            f"{path!r} has {len(columns):,} columns, more than {_MOST_COLUMNS:,}: give a table with one for "
            "each language"
        )
    counts = Counter(columns)
    repeated = [name for name in columns if counts[name] > 1]
    if repeated:
        raise InputError(f"{path!r} has two columns {repeated[0]!r}: rename one")
    return columns


def rows_of_table(path: str, contents: str | None = None) -> Iterator[dict[str, str]]:
    """Yield the rows of a table, `{"en": "a dog", "fr": "un chien"}`.

    Args:
        contents: is not read; it makes `datasets` cache a file anew that has changed.

    Raises:
        InputError: a line has more or fewer fields than the first line has names, so that texts would get
            wrong names.
    """
    columns = _columns_of(path)
    records = _records_of(path)
    next(records, None)  # the line of the names
    for number, values in records:
        if len(values) != len(columns):
            raise InputError(
                f"{path!r} has {len(values)} fields in line {number}, and {len(columns)} names in its first: "
                "fix it"
            )
        yield dict(zip(columns, values))


def _records_of(path: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the line number and the values of each record that is not empty.

    Values between tabs are taken as they are; those between commas may stand in quotes, even over several
    lines.

    Raises:
        InputError: a `.csv` file is malformed.
    """
    if suffix_of(path) == ".tsv":
        for number, line in enumerate(lines_of(path, "dataset"), 1):
            if line:
                yield number, line.split("\t")
        return
    # `strict` refuses quotes that are not closed, which would swallow the rest of the file as one value.
    reader = csv.reader((line + "\n" for line in lines_of(path, "dataset")), strict=True)
    try:
        for values in reader:
            if values:
                yield reader.line_num, values
    except csv.Error as error:
        raise InputError(
            f"{path!r} is no table of commas, line {reader.line_num}: {error}: fix it"
        ) from error


def tables_in(folder: str, name: str | None, split: str) -> list[str]:
    """Return the tables that make up a folder's split.

    There are none if it has files of other kinds, has metadata of pictures, or is no folder.
    """
    if not Path(folder).is_dir() or has_metadata(Path(folder)):
        return []
    files = (files_of(folder, name, split) or {}).get(split, [])
    return files if all(suffix_of(path) in TABLES for path in files) else []


def from_lines(rows: Callable[..., Iterator[dict]], features: Features, **arguments) -> Dataset:
    """Build a dataset from a generator of rows; `datasets` caches it on disk by the generator's `arguments`.

    No argument may be a list: `datasets` would split it among processes as shards.
    """
    try:
        return Dataset.from_generator(rows, features=features, gen_kwargs=arguments)
    except DatasetGenerationError as error:
        raise error.__cause__ from None  # what the generator raised, such as an `InputError`


__all__ = ["TABLES", "from_lines", "read_table", "rows_of_table", "tables_in"]
