"""A cache of embeddings: a folder of parts that all processes write, once, and all map into memory.

The folder is a dataset repository. Each of `CACHE_DIR/NAME-FINGERPRINT/data/part-00000.arrow` and so on holds
the embeddings of 2,048 distinct items by default. A part gets its name when it is complete: a run that was
killed resumes with the parts that are missing. Each part holds a digest of its bytes (`arrow_parts.py`) and
the keys of its items. Both are checked whenever a run opens the cache, and a part that is damaged, or has
the keys of other items, is written again with a warning. `load_dataset` reads the folder and `hf upload`
publishes it. It can be copied below another `cache_dir`, since the fingerprint depends on contents alone: on
the items, the weights, the preparation of items, and the form in which embeddings are stored.

| `cache_dtype` | bytes a value | error | of an embedding's length, measured | stored as |
|---|---|---|---|---|
| float32 | 4 | none | none | float32 |
| float16 | 2 | up to 2^-11 of a value | 0.02 % | float16 |
| bfloat16 | 2 | up to 2^-8 of a value | 0.17 % | uint16, its bits: Arrow has no bfloat16 |

Measured on 20,000 random unit embeddings of 768 values; cosines are kept to 3e-8 and 2e-6. Losses get
float32, whatever the dtype. Reading 2,048 random rows of 150,000 takes 18 ms on one core, opening the cache
0.3 s. Checking all parts takes 0.2 s for each GB once they are in memory (measured on 313 MB), shared between
the processes of a run.
"""

import json
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from accelerate import PartialState
from datasets import Dataset, Features, List, Value, concatenate_datasets
from torch import nn
from tqdm.auto import tqdm
from xxhash import xxh3_128, xxh3_128_digest

from .arrow_parts import open_part, part_bytes
from .errors import InputError
from .files.whole_files import written_whole
from .output import check_free, check_output_dir

# Items in a part, 6 MB of 768 floats: the work that a kill costs. 10 million items then make 5,000 files, and
# the Hub allows 10,000 in a folder.
PART_LENGTH = 2048
_SLICE_KEYS = 100_000  # keys of an array that are Python texts at once
_STORED_AS = {"float32": "float32", "float16": "float16", "bfloat16": "uint16"}
_ARROW_NAMES = {"float32": "float", "float16": "halffloat", "bfloat16": "uint16"}
_CARD = """---
configs:
- config_name: default
  data_files: data/*.arrow
---
# Cached embeddings: `{column}`

Embeddings of {n_items} distinct items: the column `{column}` holds {dim} values in {dtype}{bits}. {key}

| made of | XXH3-128 |
|---|---|
{table}

At `CACHE_DIR/{name}` a training or an evaluation with `--cache_dir CACHE_DIR` reads it instead of \
running the model again on the same data:
`hf download ORG/NAME --repo-type dataset --local-dir CACHE_DIR/{name}`.
"""


@dataclass(frozen=True)
class _Form:
    """The form of a cache: which columns its parts have, of which type, and how many items each."""

    name: str  # of the column of embeddings
    key: str  # of the column beside it
    dtype: str
    n_views: int
    part_length: int

    def __str__(self) -> str:
        """Describe the form for the fingerprint: another wording would orphan every existing cache."""
        return f"{self.name}, {self.dtype}, {self.n_views} views, parts of {self.part_length}"


class RowKeys(Protocol):
    """The key of each row of a dataset, for `cached_column`, where all of them would fill the memory."""

    def __len__(self) -> int:
        """Return the number of rows."""

    def take(self, rows: np.ndarray) -> pa.Array:
        """Return the keys of some rows, large strings `(rows,)`."""

    def slices(self) -> Iterator[pa.Array]:
        """Yield the keys of all rows in their order, those of some consecutive rows at a time."""


@dataclass(frozen=True)
class _Items:
    """The distinct keys of a dataset's rows, and where each row finds its own.

    Keys `["b", "a", "b"]` have `of_row` `[0, 1, 0]` and `first_rows` `[0, 1]`. Keys are known by their
    XXH3-128: of those that are not an array no more than a slice is in memory at once.
    """

    keys: pa.Array | RowKeys  # of all rows
    of_row: np.ndarray  # the item of each row
    first_rows: np.ndarray  # the first row of each item
    lengths: np.ndarray  # of each item's key, in bytes

    @classmethod
    def of(cls, keys: pa.Array | RowKeys) -> "_Items":
        """Deduplicate the keys of all rows, in the order of their first rows."""
        digests = []
        lengths = []
        for texts in _slices_of(keys):
            digests.append(_digest_each(texts))
            lengths.append(np.asarray(pc.binary_length(texts)))
        encoded = pa.chunked_array(digests).combine_chunks().dictionary_encode()
        of_row = encoded.indices.to_numpy().astype(np.int64)
        _, first_rows = np.unique(of_row, return_index=True)
        return cls(keys, of_row, first_rows, np.concatenate(lengths)[first_rows])

    def __len__(self) -> int:
        return len(self.first_rows)

    def take(self, numbers: np.ndarray) -> pa.Array:
        """Return the keys of some items."""
        return self.keys.take(self.first_rows[numbers])

    def fingerprint(self) -> str:
        """Return the fingerprint of all keys, that of an array of them."""
        return _fingerprint_texts(self.lengths, self._distinct())

    def _distinct(self) -> Iterator[pa.Array]:
        """Yield the keys of all items in their order, some at a time."""
        is_first = np.zeros(len(self.of_row), bool)
        is_first[self.first_rows] = True
        start = 0
        for texts in _slices_of(self.keys):
            yield texts.filter(pa.array(is_first[start : start + len(texts)]))
            start += len(texts)


def _slices_of(keys: pa.Array | RowKeys) -> Iterator[pa.Array]:
    """Yield the keys of all rows in their order, those of some consecutive rows at a time."""
    if not isinstance(keys, pa.Array):
        yield from keys.slices()
        return
    for start in range(0, len(keys), _SLICE_KEYS):
        yield keys[start : start + _SLICE_KEYS]


def _digest_each(texts: pa.Array) -> pa.Array:
    """Return the XXH3-128 of each text, 16 bytes `(texts,)`."""
    digests = b"".join(map(xxh3_128_digest, texts.cast(pa.large_binary()).to_pylist()))
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(texts), [None, pa.py_buffer(digests)])


class CachedColumn:
    """The embeddings of a dataset's rows, mapped into memory.

    `column[[5, 0, 5]]` is `{name: float32 array (3, dim)}`. Rows of the same item share an embedding. If
    items have several views, `set_epoch` chooses the one to read.
    """

    def __init__(self, folder: Path, paths: list[Path], form: _Form, item_of_row: np.ndarray):
        self.folder = folder
        self.name = form.name
        self.dtype = form.dtype
        self.n_views = form.n_views
        self.item_of_row = item_of_row
        self.view = 0

        parts = concatenate_datasets([Dataset.from_file(str(path)) for path in paths])
        self.embeddings = parts.select_columns([self.name]).with_format("arrow")
        self.dim = parts.features[self.name].length

    def set_epoch(self, epoch: int) -> None:
        """Take the views in turn, one an epoch."""
        self.view = epoch % self.n_views

    def __len__(self) -> int:
        return len(self.item_of_row)

    def __getitem__(self, rows: Sequence[int]) -> dict[str, np.ndarray]:
        # An item's views are stored in a row: with 2 views, item 3 has places 6 and 7.
        places = self.item_of_row[rows] * self.n_views + self.view
        column = self.embeddings[places][self.name].combine_chunks()
        # Lists of one length lie one behind the other in memory, and `flatten` copies none.
        stored = column.flatten().to_numpy()
        values = _to_float32(stored, self.dtype)
        return {self.name: values.reshape(len(places), self.dim)}

    def __str__(self) -> str:
        size = sum(path.stat().st_size for path in self.folder.glob("data/*.arrow"))
        views = f" in {self.n_views} views" if self.n_views > 1 else ""
        items = len(self.embeddings) // self.n_views
        return (
            f"{self.name}: {items} embeddings{views} for {len(self)} rows, "
            f"{size / 1e6:.1f} MB of {self.dtype} in {self.folder}"
        )


def cached_column(  # noqa: PLR0913  (callers pass these options on from command lines, each by its name)
    name: str,
    key: str,
    keys: pa.Array | RowKeys,
    encode: Callable[[np.ndarray, int], torch.Tensor],
    made_by: dict[str, nn.Module | str],
    *,
    cache_dir: str | None = None,
    dtype: str = "float32",
    n_views: int = 1,
    part_length: int | None = None,
) -> CachedColumn:
    """Encode each distinct key that `cache_dir` does not hold yet, once.

    With several processes, all have to call.

    Args:
        name: name of the column of embeddings.
        key: name of the column beside it that holds the keys: a text itself, an image's digest.
        keys: the key of each row, large strings `(rows,)`, or what reads them in parts. Rows of equal keys
            share an embedding.
        encode: `(rows, view) -> (rows, dim)`. It is given rows of distinct keys.
        made_by: by name, everything that an embedding depends on beside its key: modules with their weights,
            and settings as text.
        cache_dir: a folder that all processes share; one below datasets' own cache by default.
        dtype: float32, float16 or bfloat16.
        n_views: number of views of each item; `encode` is called for every one.
        part_length: number of items that one process encodes and writes at a time, 2,048 by default.

    Raises:
        InputError: the dtype is another one, or cannot hold a value; an embedding is not finite; there are no
            rows; the folder cannot be written; or a part is missing after all processes have written theirs.

    Warns:
        UserWarning: a part is damaged, and encoded again.
    """
    if dtype not in _STORED_AS:
        raise InputError(f"cache_dtype is {dtype!r}: choose from {', '.join(_STORED_AS)}")
    if len(keys) == 0:
        raise InputError(
            f"there are no rows to make {name} of: the dataset is empty, or nothing of it is left"
        )
    form = _Form(name, key, dtype, n_views, part_length or PART_LENGTH)
    items = _Items.of(keys)

    # The folder is named after everything that its embeddings depend on: a change of any makes a new cache.
    made_by = made_by | {"form": str(form)}
    prints = {"items": items.fingerprint()}
    prints |= {part: fingerprint(value) for part, value in made_by.items()}
    base = cache_dir or Path(datasets.config.HF_DATASETS_CACHE, "frozen_towers")
    folder = Path(base, f"{name}-{fingerprint(json.dumps(prints))}")

    def encode_items(numbers: np.ndarray, view: int) -> torch.Tensor:
        return encode(items.first_rows[numbers], view)

    parts = _split_items(folder, len(items), form.part_length)
    _write_parts(parts, items, encode_items, form)
    column = CachedColumn(folder, list(parts), form, items.of_row)
    if PartialState().is_main_process and not (folder / "README.md").exists():
        _write_card(column, key, prints)
    return column


def _split_items(folder: Path, n_items: int, part_length: int) -> dict[Path, np.ndarray]:
    """Return the numbers of the items in each part, as in `{part-00000: [0, 1, 2], part-00001: [3, 4]}`."""
    parts = {}
    for number, path in enumerate(part_paths(folder, n_items, part_length)):
        start = number * part_length
        parts[path] = np.arange(start, min(start + part_length, n_items))
    return parts


def _write_parts(
    parts: dict[Path, np.ndarray],
    items: _Items,
    encode: Callable[[np.ndarray, int], torch.Tensor],
    form: _Form,
) -> None:
    """Write missing and damaged parts, each process every n-th of all; wait until all have written theirs.

    Raises:
        InputError: the folder cannot be written, or its disk has no room for all parts, which is said at the
            first; or a part is missing afterwards, since another process wrote it to a folder of its own
            machine.
    """
    state = PartialState()
    # The share is taken of all parts, not of the missing ones: these change while others write.
    share = list(parts)[state.process_index :: state.num_processes]
    mine = [path for path in share if not _is_complete(path, _key_columns(items, parts[path], form), form)]

    total = sum(len(parts[path]) for path in mine) * form.n_views
    if mine:
        check_output_dir(mine[0].parent, "cache_dir")
    shows_bar = bool(mine) and state.is_main_process
    with tqdm(total=total, desc=f"Encoding {form.name}", disable=not shows_bar) as bar:
        for path in mine:
            numbers = parts[path]
            views = []
            for view in range(form.n_views):
                views.append(encode(numbers, view).float().cpu())
                bar.update(len(numbers))
            # (items, views, dim) -> (items * views, dim), an item's views in a row
            embeddings = torch.stack(views, dim=1).flatten(0, 1)
            if path == mine[0]:
                # The first part tells the length of an embedding, and so the size of them all.
                n_bytes = total * embeddings.shape[1] * np.dtype(_STORED_AS[form.dtype]).itemsize
                check_free(path.parent, n_bytes, f"the cache of {form.name}", "cache_dir")
            write_part(path, _key_columns(items, numbers, form), embeddings, form, len(parts))

    state.wait_for_everyone()
    missing = [path for path in parts if not path.exists()]
    if missing:
        raise InputError(
            f"cache_dir: {missing[0]} is not there, though written: give a folder that all machines share"
        )


def _key_columns(items: _Items, numbers: np.ndarray, form: _Form) -> dict[str, pa.Array]:
    """Return the columns next to the embeddings of the items `numbers`: their keys and, if several, views."""
    columns = {form.key: items.take(numbers.repeat(form.n_views))}
    if form.n_views > 1:
        columns["view"] = pa.array(np.tile(np.arange(form.n_views), len(numbers)), pa.int64())
    return columns


def _is_complete(path: Path, columns: dict[str, pa.Array], form: _Form) -> bool:
    """Return True if a part is there, undamaged, and of the items that it should hold; warn if it is damaged.

    Args:
        columns: the columns that the part should have next to the embeddings.
    """
    if not path.exists():
        return False
    try:
        table = open_part(path)
        _check_columns(path, table, columns, form)
    except InputError as error:
        warnings.warn(f"{error}. It is encoded again", stacklevel=2)
        return False
    return True


def _check_columns(path: Path, table: pa.Table, columns: dict[str, pa.Array], form: _Form) -> None:
    """Compare the columns of a part with those that it should have.

    Raises:
        InputError: they differ.
    """
    types = {field.name: field.type for field in table.schema}
    stored_as = types.get(form.name)
    has_embeddings = stored_as is not None and pa.types.is_fixed_size_list(stored_as)
    if not has_embeddings or str(stored_as.value_type) != _ARROW_NAMES[form.dtype]:
        raise InputError(f"{path} has no column {form.name} in {form.dtype}")
    for name, expected in columns.items():
        if types.get(name) != expected.type or not table[name].combine_chunks().equals(expected):
            raise InputError(f"{path} holds other items than the dataset, or in another order: see {name!r}")


def write_part(path: Path, columns: dict, embeddings: torch.Tensor, form: _Form, n_parts: int) -> None:
    """Write one Arrow stream, which `datasets` maps into memory.

    Args:
        columns: the columns beside the embeddings, by name.
        embeddings: `(rows, dim)`, float32.
        n_parts: the number of parts of the whole cache.

    Raises:
        InputError: an embedding is not finite, the dtype cannot hold its values, or the folder cannot be
            written.
    """
    is_finite = embeddings.isfinite().all(dim=1)
    n_bad = (~is_finite).sum().item()
    if n_bad:
        raise InputError(
            f"{n_bad} of {len(embeddings)} {form.name} are not finite: the model diverged, or half precision "
            "overflowed. Give an earlier checkpoint, or one in float32"
        )
    stored = to_stored(embeddings, form.dtype)
    # float16 ends at 65,504, and bfloat16 rounds the largest values of float32 to infinity.
    if not np.isfinite(_to_float32(stored, form.dtype)).all():
        raise InputError(
            f"{form.name} has values that {form.dtype} cannot hold, the largest is "
            f"{embeddings.abs().max():.3g}: choose another cache_dtype"
        )

    dim = embeddings.shape[1]
    values = pa.FixedSizeListArray.from_arrays(pa.array(stored.reshape(-1)), dim)
    features = {column: Value("int64" if column == "view" else "large_string") for column in columns}
    features[form.name] = List(Value(_STORED_AS[form.dtype]), length=dim)
    # Its metadata tell `load_dataset` of the features.
    schema = Features(features).arrow_schema
    table = pa.table(columns | {form.name: values}, schema=schema)
    content = part_bytes(table, path, n_parts)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _written_whole(path) as file:
            file.write(content)
    except OSError as error:
        raise InputError(
            f"cache_dir: {path} of {len(content) / 1e6:.1f} MB cannot be written: {error.strerror}. Give a "
            "folder that you may write to, with enough space"
        ) from error


def part_paths(folder: Path, n_items: int, part_length: int) -> list[Path]:
    """Return the paths of the parts that hold `n_items`."""
    n_parts = math.ceil(n_items / part_length)
    return [folder / f"data/part-{number:05d}.arrow" for number in range(n_parts)]


def _written_whole(path: Path) -> AbstractContextManager[BinaryIO]:
    """Open a file of a cache by `written_whole`; until it is complete it lies next to the cache's folder.

    Nothing reads it there: `load_dataset` and `hf upload` take the folder.
    """
    folder = path.parent.parent if path.parent.name == "data" else path.parent
    return written_whole(path, folder.parent)


def _write_card(column: CachedColumn, key: str, prints: dict[str, str]) -> None:
    """Write the README: which files `load_dataset` reads, and the fingerprint of everything that was used."""
    identified = {
        "text": "text",
        "class": "class name",
        "image": "image, by the XXH3-128 of its encoded bytes",
    }
    about_key = f"The column `{key}` says of which {identified[key]}."
    if column.n_views > 1:
        about_key += f" Each has {column.n_views} views: 0 shows it as it is, others are crops."
    bits = ""
    if column.dtype == "bfloat16":
        bits = ", its bits kept as uint16: `torch.tensor(row, dtype=torch.uint16).view(torch.bfloat16)`"

    card = _CARD.format(
        column=column.name,
        n_items=len(column.embeddings) // column.n_views,
        dim=column.dim,
        dtype=column.dtype,
        bits=bits,
        key=about_key,
        table="\n".join(f"| {part} | `{value}` |" for part, value in prints.items()),
        name=column.folder.name,
    )
    with _written_whole(column.folder / "README.md") as file:
        file.write(card.encode())


def fingerprint(made_of: nn.Module | torch.Tensor | pa.Array | str) -> str:
    """Return 32 hexadecimal digits that identify a module's tensors, one tensor, an array of texts or a text.

    XXH3 hashes 10 GB a second where SHA-256 hashes 1.
    """
    digest = xxh3_128()
    if isinstance(made_of, nn.Module):
        for name, value in made_of.state_dict().items():
            digest.update(f"{name} {fingerprint(value)}".encode())
    elif isinstance(made_of, torch.Tensor):
        digest.update(f"{made_of.dtype} {tuple(made_of.shape)}".encode())
        # Of a clone, since memory that numpy has seen cannot be resized any more, which FSDP has to do.
        values = made_of.detach().cpu().flatten().clone()
        digest.update(values.view(torch.uint8).numpy())
    elif isinstance(made_of, pa.Array):
        return _fingerprint_texts(np.asarray(pc.binary_length(made_of)), _slices_of(made_of))
    else:
        digest.update(made_of.encode())
    return digest.hexdigest()


def _fingerprint_texts(lengths: np.ndarray, slices: Iterable[pa.Array]) -> str:
    """Identify texts that are given some at a time; how they are divided makes no difference.

    Args:
        lengths: of all texts, in bytes.
    """
    digest = xxh3_128()
    # The lengths tell ["ab", "c"] from ["a", "bc"].
    digest.update(lengths)
    for texts in slices:
        digest.update("".join(texts.to_pylist()).encode())
    return digest.hexdigest()


def to_stored(embeddings: torch.Tensor, dtype: str) -> np.ndarray:
    """Convert float32 to the stored form: bfloat16 by its bits, since numpy has no such type."""
    embeddings = embeddings.to(getattr(torch, dtype))
    if dtype == "bfloat16":
        embeddings = embeddings.view(torch.int16)
    return embeddings.numpy().view(_STORED_AS[dtype])


def _to_float32(stored: np.ndarray, dtype: str) -> np.ndarray:
    """Convert the stored form back to float32."""
    if dtype != "bfloat16":
        return stored.astype(np.float32)
    # A bfloat16 is the upper half of a float32.
    return (stored.astype(np.uint32) << 16).view(np.float32)


__all__ = ["CachedColumn", "RowKeys", "cached_column", "fingerprint"]
