"""Rows of an index on disk, `id`, `digest` and `embedding`: Arrow streams that `datasets` maps into memory.

Each file holds a digest of its own bytes, see `common.arrow_parts`.
"""

from pathlib import Path

import pyarrow as pa
from datasets import Dataset, Features, List, Value, concatenate_datasets

from common.arrow_parts import open_part, part_bytes
from common.embedding_cache import part_paths
from common.files.whole_files import written_whole

PART_LENGTH = 65_536  # rows of a file: 64 MB of 512 values in float16


def write_part(path: Path, columns: dict[str, list[str] | pa.Array], n_parts: int) -> None:
    """Write some rows, in whole or not at all.

    Args:
        path: `FOLDER/data/part-00000.arrow`.
        columns: texts, and `embedding` as lists of fixed size.
        n_parts: the number of files of all rows.
    """
    features = {name: Value("large_string") for name in columns}
    lists = columns["embedding"].type
    # Arrow's names of types are those of `datasets`, but for "halffloat" and "float".
    dtype = {"halffloat": "float16", "float": "float32"}[str(lists.value_type)]
    features["embedding"] = List(Value(dtype), length=lists.list_size)
    table = pa.table(columns, schema=Features(features).arrow_schema)
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as file:
        file.write(part_bytes(table, path, n_parts))


def open_rows(folder: Path, n_rows: int) -> Dataset:
    """Map rows into memory, after a check of all their bytes.

    Args:
        folder: of the files, in `data`, each of which has `PART_LENGTH` rows but for the last.

    Raises:
        InputError: a file is missing or damaged.
    """
    return open_parts(part_paths(folder, n_rows, PART_LENGTH))


def open_parts(paths: list[Path]) -> Dataset:
    """Map the rows of some files into memory, one after the other; see `open_rows`."""
    for path in paths:
        open_part(path)
    return concatenate_datasets([Dataset.from_file(str(path)) for path in paths])


__all__ = ["PART_LENGTH", "open_parts", "open_rows", "write_part"]
