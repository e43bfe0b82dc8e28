"""Text in plain files, line by line or in tables of tabs or commas: every value stays a text, `NA` and `007`
too.
"""

import csv
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
from datasets import Dataset, Features, Value
from datasets.exceptions import DatasetGenerationError

from benchmarks.endings import suffix_of
from benchmarks.loading import files_of
from benchmarks.picture_folders import has_metadata
from benchmarks.recipe import InputError

TABLES = (".tsv", ".csv")


def lines_of(path: str) -> Iterator[str]:
    """Lines as every other tool counts them: ended by a line feed alone, with or without a carriage return
    before it.
    """
    with io.TextIOWrapper(pa.input_stream(path), encoding="utf-8-sig", newline="\n") as file:
        for line in file:
            yield line.removesuffix("\n").removesuffix("\r")


def read_table(path: str) -> Dataset:
    """A table as rows of texts, kept on disk by `datasets`."""
    columns = columns_of(path)
    features = Features({column: Value("string") for column in columns})
    return from_lines(rows_of_table, features, path=path, changed=os.stat(path).st_mtime_ns)


def columns_of(path: str) -> list[str]:
    """The names in a table's first line, without spaces around them."""
    _, names = next(records_of(path), (1, []))
    columns = [name.strip() for name in names]
    twice = [name for name in columns if columns.count(name) > 1]
    if twice:
        raise InputError(f"{path!r} has two columns {twice[0]!r}: rename one")
    return columns


def rows_of_table(path: str, changed: int | None = None) -> Iterator[dict[str, str]]:
    """The rows of a table.

    Raises:
        InputError: a line has more or fewer fields than the first has names, so that it would be read under
            wrong names.
    """
    columns = columns_of(path)
    records = records_of(path)
    next(records, None)
    for number, values in records:
        if len(values) != len(columns):
            raise InputError(
                f"{path!r} has {len(values)} fields in line {number}, and {len(columns)} names in its first: "
                "mend it"
            )
        yield dict(zip(columns, values))


def records_of(path: str) -> Iterator[tuple[int, list[str]]]:
    """The number and the values of each line that is not empty: between tabs as they are, between commas in
    quotes or without.
    """
    if suffix_of(path) == ".tsv":
        for number, line in enumerate(lines_of(path), 1):
            if line:
                yield number, line.split("\t")
        return
    reader = csv.reader((line + "\n" for line in lines_of(path)), strict=True)
    try:
        for values in reader:
            if values:
                yield reader.line_num, values
    except csv.Error as error:
        raise InputError(
            f"{path!r} is no table of commas, line {reader.line_num}: {error}: mend it"
        ) from error


def tables_in(folder: str, name: str | None, split: str) -> list[str]:
    """The tables that a folder's split is made of; none where it has files of other kinds, or where it is no
    folder.
    """
    if not Path(folder).is_dir() or has_metadata(Path(folder)):
        return []
    files = (files_of(folder, name, split) or {}).get(split, [])
    return files if all(suffix_of(path) in TABLES for path in files) else []


def from_lines(rows: Callable[..., Iterator[dict]], features: Features, **arguments) -> Dataset:
    """Rows kept on disk by `datasets`, under a name that changes with `arguments`; lists among them it would
    take for shards.
    """
    try:
        return Dataset.from_generator(rows, features=features, gen_kwargs=arguments)
    except DatasetGenerationError as error:
        raise error.__cause__ from None


__all__ = ["TABLES", "from_lines", "lines_of", "read_table", "rows_of_table", "tables_in"]
