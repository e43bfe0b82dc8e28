"""Cache embeddings on disk: a folder of parts that all processes write, once, and map into memory.

`CACHE_DIR/NAME-FINGERPRINT/data/part-00000.arrow`, and so on, each hold the embeddings of 2,048 distinct
items by default. A part gets its name when it is complete, so that a run that was killed resumes with the
parts that are missing. The fingerprint is one of contents: of the items, the weights, the preparation of the
items, and the dtype. So a cache is found wherever it came from: the folder is a dataset repository, which
`load_dataset` reads and `hf upload` publishes.

| `cache_dtype` | bytes a value | error | of a vector's length, measured | kept as |
|---|---|---|---|---|
| float32 | 4 | none | none | float32 |
| float16 | 2 | up to 2^-11 of a value | 0.02 % | float16 |
| bfloat16 | 2 | up to 2^-8 of a value | 0.17 % | uint16, its bits: Arrow has no bfloat16 |

Measured on 20,000 random unit vectors of 768 values; cosines are kept to 3e-8 and 2e-6. Whatever the dtype,
losses get float32. Reading 2,048 random rows of 150,000 takes 18 ms on one core, opening the cache 0.3 s.
"""

import json
import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

import datasets
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import torch
from accelerate import PartialState
from datasets import Dataset, Features, List, Value, concatenate_datasets
from torch import nn
from tqdm.auto import tqdm
from xxhash import xxh3_128

from .recipe import InputError

DAY = 24 * 60 * 60  # seconds
# Of a file that is being written. Earlier versions named no writer.
TEMPORARY = re.compile(r".+-[0-9a-f]{32}\.((?P<host>.+)\.(?P<pid>\d+)\.)?[0-9a-f]{32}\.tmp")
# Items of a part: 6 MB of 768 floats. A kill costs one part, and 10 million items are 5,000 files, where the
# Hub allows 10,000 in a folder.
PART_LENGTH = 2048
STORED_AS = {"float32": "float32", "float16": "float16", "bfloat16": "uint16"}
CARD = """---
configs:
- config_name: default
  data_files: data/*.arrow
---
# Frozen tower: `{column}`

What a frozen tower makes of {n_items} distinct items: the column `{column}` holds vectors of {dim} values in {dtype}{bits}. {key}

| made of | XXH3-128 |
|---|---|
{table}

Lying at `CACHE_DIR/{name}`, it is read in the tower's place by a training with `--cache_dir CACHE_DIR` on the same data:
`hf download ORG/NAME --repo-type dataset --local-dir CACHE_DIR/{name}`.
"""  # noqa: E501


class CachedColumn:
    """The vectors of a dataset's rows, mapped into memory: `column[[5, 0, 5]]` is `{name: float32 array (3,
    dim)}`.

    Rows of the same item share a vector. Of several views of an item an epoch takes the one that `set_epoch`
    chose.
    """

    def __init__(
        self, folder: Path, paths: list[Path], name: str, dtype: str, item_of_row: np.ndarray, n_views: int
    ):
        self.folder = folder
        self.name = name
        self.dtype = dtype
        self.item_of_row = item_of_row
        self.n_views = n_views
        self.view = 0
        parts = concatenate_datasets([_read_part(path) for path in paths])
        self.vectors = parts.select_columns([name]).with_format("arrow")
        self.dim = parts.features[name].length

    def set_epoch(self, epoch: int) -> None:
        """Take the views in turn, one an epoch."""
        self.view = epoch % self.n_views

    def __len__(self) -> int:
        return len(self.item_of_row)

    def __getitem__(self, rows: Sequence[int]) -> dict[str, np.ndarray]:
        places = self.item_of_row[rows] * self.n_views + self.view
        stored = self.vectors[places][self.name].combine_chunks().flatten().to_numpy()
        return {self.name: _to_float32(stored, self.dtype).reshape(len(places), self.dim)}

    def __str__(self) -> str:
        size = sum(path.stat().st_size for path in self.folder.glob("data/*.arrow"))
        views = f" in {self.n_views} views" if self.n_views > 1 else ""
        items = len(self.vectors) // self.n_views
        stored = f"{size / 1e6:.1f} MB of {self.dtype} in {self.folder}"
        return f"{self.name}: {items} vectors{views} for {len(self)} rows, {stored}"


@dataclass
class _Items:
    """The distinct keys of a dataset's rows:

    With keys `["a", "b", "a"]`, items 0 and 1 are `"a"` and `"b"`.
    """

    keys: pa.Array
    """The key of each item, `["a", "b"]`."""
    of_row: np.ndarray
    """The item of each row, `[0, 1, 0]`."""
    first_rows: np.ndarray
    """The first row of each item, `[0, 1]`: the one that is encoded."""

    @classmethod
    def of(cls, keys: pa.Array) -> "_Items":
        distinct = keys.dictionary_encode()
        of_row = distinct.indices.to_numpy().astype(np.int64)
        first_rows = np.unique(of_row, return_index=True)[1]
        return cls(distinct.dictionary, of_row, first_rows)

    def parts(self, folder: Path, part_length: int) -> dict[Path, np.ndarray]:
        """Return the file of each part and the items that it holds."""
        paths = part_paths(folder, len(self.keys), part_length)
        boundaries = part_length * np.arange(1, len(paths))
        items = np.array_split(np.arange(len(self.keys)), boundaries)
        return dict(zip(paths, items))


@dataclass
class _Form:
    """How embeddings are stored, see `cached_column`."""

    name: str
    key: str
    dtype: str
    n_views: int


def cached_column(  # noqa: PLR0913  (what is embedded, by what, and by keyword how it is stored)
    name: str,
    key: str,
    keys: pa.Array,
    encode: Callable[[np.ndarray, int], torch.Tensor],
    made_by: dict[str, nn.Module | str],
    *,
    cache_dir: str | None = None,
    dtype: str = "float32",
    n_views: int = 1,
    part_length: int | None = None,
) -> CachedColumn:
    """Encode what `cache_dir` does not hold yet, each distinct key once. With several processes, all have to
    call.

    Args:
        name: of the column of embeddings.
        key: of the column beside it that holds the keys: a text itself, an image's digest.
        keys: the key of each row, large strings `(rows,)`.
        encode: `(rows, view) -> (rows, dim)`. It is given rows of distinct keys.
        made_by: all that an embedding depends on beside its key, by name: modules with their weights,
            settings as text.
        cache_dir: a folder that all processes share; by default one in the cache of `datasets`.
        dtype: float32, float16 or bfloat16.
        part_length: items that one process encodes and writes at a time, 2,048 by default.

    Raises:
        InputError: another dtype, or it cannot hold a value; an embedding is not finite; there are no rows;
            or the cache is incomplete afterwards.
    """
    if dtype not in STORED_AS:
        raise InputError(f"cache_dtype is {dtype!r}: choose from {', '.join(STORED_AS)}")
    if len(keys) == 0:
        raise InputError(
            f"there are no rows to make {name} of: the dataset is empty, or nothing of it is left"
        )
    items = _Items.of(keys)
    part_length = part_length or PART_LENGTH
    form = f"{name}, {dtype}, {n_views} views, parts of {part_length}"

    # The folder is named after all that its contents depend on. The order of the names is part of the
    # fingerprint.
    contents = {"items": items.keys} | made_by | {"form": form}
    prints = {part: fingerprint(value) for part, value in contents.items()}
    root = Path(cache_dir or Path(datasets.config.HF_DATASETS_CACHE, "frozen_towers"))
    folder = root / f"{name}-{fingerprint(json.dumps(prints))}"

    def encode_items(numbers: np.ndarray, view: int) -> torch.Tensor:
        return encode(items.first_rows[numbers], view)

    parts = items.parts(folder, part_length)
    _write_parts(parts, items.keys, encode_items, _Form(name, key, dtype, n_views))
    column = CachedColumn(folder, list(parts), name, dtype, items.of_row, n_views)
    if PartialState().is_main_process and not (folder / "README.md").exists():
        _write_card(column, key, prints)
    return column


def _write_parts(parts: dict[Path, np.ndarray], keys: pa.Array, encode: Callable, form: _Form) -> None:
    """Write the parts that are missing, each process every n-th of all, and wait for the other processes."""
    state = PartialState()
    mine = [path for path in list(parts)[state.process_index :: state.num_processes] if not path.exists()]
    next(iter(parts)).parent.mkdir(parents=True, exist_ok=True)
    total = sum(len(parts[path]) for path in mine) * form.n_views
    silent = not mine or not state.is_main_process
    with tqdm(total=total, desc=f"Encoding {form.name}", disable=silent) as bar:
        for path in mine:
            items = parts[path]
            views = []
            for view in range(form.n_views):
                views.append(encode(items, view).float().cpu())
                bar.update(len(items))

            # The views of an item are consecutive rows: with two views [item 0 view 0, item 0 view 1, item 1
            # view 0, …].
            embeddings = torch.stack(views, dim=1).flatten(0, 1)
            columns = {form.key: keys.take(items.repeat(form.n_views))}
            if form.n_views > 1:
                columns["view"] = np.tile(np.arange(form.n_views), len(items))
            write_part(path, columns, form.name, embeddings, form.dtype)

    state.wait_for_everyone()
    missing = [path for path in parts if not path.exists()]
    if missing:
        raise InputError(
            f"cache_dir: {missing[0]} is not there, though written: give a folder that all machines share"
        )


def write_part(path: Path, columns: dict, name: str, vectors: torch.Tensor, dtype: str) -> None:
    """Write one Arrow stream, which `datasets` maps into memory."""
    n_bad = (~vectors.isfinite().all(dim=1)).sum().item()
    if n_bad:
        raise InputError(
            f"{n_bad} of {len(vectors)} {name} are not finite: the model diverged, or half precision "
            "overflowed. Give an earlier checkpoint, or one in float32"
        )
    stored = to_stored(vectors, dtype)
    if dtype != "bfloat16" and not np.isfinite(stored).all():
        raise InputError(
            f"{name} has values that {dtype} cannot hold, the largest is {vectors.abs().max():.3g}: "
            "choose another cache_dtype"
        )
    feature = List(Value(STORED_AS[dtype]), length=vectors.shape[1])
    values = pa.FixedSizeListArray.from_arrays(pa.array(stored.reshape(-1)), vectors.shape[1])
    names = {column: Value("int64" if column == "view" else "large_string") for column in columns}
    table = pa.table(columns | {name: values}, schema=Features(names | {name: feature}).arrow_schema)
    with whole_file(path) as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)


def _read_part(path: Path) -> Dataset:
    """Map a part into memory."""
    try:
        return Dataset.from_file(str(path))
    except pa.ArrowInvalid as error:
        raise InputError(
            f"{path} cannot be read: {error}. Delete it, and the next run makes it anew"
        ) from error


def part_paths(folder: Path, n_items: int, part_length: int) -> list[Path]:
    """Return the paths of the parts of `n_items`."""
    return [folder / f"data/part-{number:05d}.arrow" for number in range(-(-n_items // part_length))]


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file of a cache that gets its name when it is complete and on the disk.

    Until then it lies beside the cache as `CACHE.HOST.PID.UUID.tmp`, which nothing reads. An error removes
    it; what a kill leaves, the next file to be written there does.
    """
    folder = path.parent.parent if path.parent.name == "data" else path.parent
    _remove_abandoned(folder.parent)
    temporary = folder.with_name(f"{folder.name}.{host()}.{os.getpid()}.{uuid4().hex}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _remove_abandoned(cache_dir: Path) -> None:
    """Remove what `whole_file` left of killed runs: of processes of this host that live no more, and whatever
    is older than a day.

    Machines may share `cache_dir` and write to it meanwhile; of another's processes nothing but the age of
    their files is known.
    """
    for path in cache_dir.glob("*.tmp"):
        name = TEMPORARY.fullmatch(path.name)
        if name is None:
            continue  # another's
        dead = name["host"] == host() and not psutil.pid_exists(int(name["pid"]))
        # Another process was quicker, or the file is another user's.
        with suppress(FileNotFoundError, PermissionError):
            if dead or time.time() - path.stat().st_mtime > DAY:
                path.unlink()


def host() -> str:
    """Return a name of what numbers the processes: this machine, or a container, which may have its machine's
    name.

    Those of a machine, or of a container, which may bear its machine's name.
    """
    namespace = Path("/proc/self/ns/pid")
    return f"{socket.gethostname()}-{namespace.stat().st_ino}" if namespace.exists() else socket.gethostname()


def _write_card(column: CachedColumn, key: str, prints: dict[str, str]) -> None:
    """Write the dataset card: what `load_dataset` reads, and the fingerprints of all that the embeddings
    depend on.
    """
    of_which = "text." if key == "text" else "image, by the XXH3-128 of its encoded bytes."
    views = ""
    if column.n_views > 1:
        views = f" Each has {column.n_views} views: 0 shows it as it is, others are crops."
    bits = ""
    if column.dtype == "bfloat16":
        bits = ", its bits kept as uint16: `torch.tensor(row, dtype=torch.uint16).view(torch.bfloat16)`"
    rows = [f"| {part} | `{value}` |" for part, value in prints.items()]
    card = CARD.format(
        column=column.name,
        n_items=len(column.vectors) // column.n_views,
        dim=column.dim,
        dtype=column.dtype,
        bits=bits,
        key=f"The column `{key}` says of which {of_which}{views}",
        table="\n".join(rows),
        name=column.folder.name,
    )
    with whole_file(column.folder / "README.md") as file:
        file.write(card.encode())


def fingerprint(made_of: nn.Module | torch.Tensor | pa.Array | str) -> str:
    """Return the XXH3-128 of a module's tensors, of a tensor, of texts or of a text, as 32 hexadecimal
    digits.

    XXH3 reads 10 GB a second, SHA-256 one.
    """
    digest = xxh3_128()
    if isinstance(made_of, nn.Module):
        for name, value in made_of.state_dict().items():
            digest.update(f"{name} {fingerprint(value)}".encode())
    elif isinstance(made_of, torch.Tensor):
        digest.update(f"{made_of.dtype} {tuple(made_of.shape)}".encode())
        # numpy takes from a tensor's memory the right to be resized, which FSDP needs: it gets a copy.
        values = made_of.detach().cpu().flatten().clone()
        digest.update(values.view(torch.uint8).numpy())
    elif isinstance(made_of, pa.Array):
        digest.update(np.asarray(pc.binary_length(made_of)))
        for start in range(0, len(made_of), 1_000_000):  # all at once would copy the corpus twice
            digest.update("".join(made_of[start : start + 1_000_000].to_pylist()).encode())
    else:
        digest.update(made_of.encode())
    return digest.hexdigest()


def to_stored(vectors: torch.Tensor, dtype: str) -> np.ndarray:
    """Return float32 values as they are stored; bfloat16 by its bits, since Arrow has no such type."""
    vectors = vectors.to(getattr(torch, dtype))
    if dtype == "bfloat16":
        vectors = vectors.view(torch.int16)
    return vectors.numpy().view(STORED_AS[dtype])


def _to_float32(stored: np.ndarray, dtype: str) -> np.ndarray:
    """Undo `to_stored`. The bits of a bfloat16 are the upper half of those of a float32."""
    if dtype == "bfloat16":
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.astype(np.float32)


__all__ = ["CachedColumn", "cached_column"]
