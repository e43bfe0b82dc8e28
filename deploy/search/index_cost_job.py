"""Measure exact and compressed search on synthetic embeddings: time to build, memory, latency, recall@10.

Embeddings lie around 10,000 centres in 64 of their directions, with noise in all of them, as embeddings of
pictures crowd around subjects. Queries are further draws, which are no rows. Both indexes are of the same
rows on disk, in float16, and each is built in a process of its own. Latency is that of one query at a time,
ten pictures, with the exact comparison of what the compressed index finds. All times are those of the
processor, which for one thread are a clock's where nothing else runs and files are in memory. Memory is what
a process holds more than before, without the pages of files that it has mapped. Recall is the share of the
ten nearest rows, by exact search, that are found.
"""

import multiprocessing
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import faiss
import numpy as np
import psutil
from datasets import Dataset
from tqdm.auto import tqdm

from benchmarks.results import format_table
from common.embedding_cache import part_paths
from deploy.embed.embedder import as_fixed_lists
from deploy.search.nearest import compress, find_compressed, find_exact, load_compressed, prepare_exact
from deploy.search.rows import PART_LENGTH, open_rows, write_part

_CENTRES = 10_000
_DIRECTIONS = 64
_SPREAD = 0.6  # of rows around a centre, where centres lie 1 from the origin
_NOISE = 0.3  # in all directions together
_TOP = 10


@dataclass(kw_only=True)
class _CostArguments:
    """The size of the index, and how it is asked."""

    rows: int = field(default=1_000_000, metadata={"help": "Number of embeddings."})
    dim: int = field(default=512, metadata={"help": "Number of values of an embedding."})
    queries: int = field(default=1000, metadata={"help": "Number of queries."})
    threads: int = field(default=1, metadata={"help": "Number of threads of faiss."})


@dataclass(frozen=True)
class _Cost:
    """What one index costs, and what it finds `(queries, 10)`."""

    build: float
    megabytes: float
    milliseconds: np.ndarray
    found: np.ndarray


def main(arguments: _CostArguments) -> None:
    """Write the rows, measure both indexes in a process each, and print a table."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        _write_rows(folder / "rows", arguments)
        print(f"{arguments.rows:,} embeddings of {arguments.dim} values, {arguments.threads} thread(s)")
        exact = _in_process(_measure_exact, folder, arguments)
        build = _in_process(_build_compressed, folder, arguments)
        compressed = replace(_in_process(_ask_compressed, folder, arguments), build=build)

    shares = []
    for nearest, found in zip(exact.found, compressed.found):
        shares.append(len(set(nearest) & set(found)) / _TOP)
    header = ["index", "build CPU s", "memory MB", "p50 CPU ms", "p99 CPU ms", "recall@10"]
    recalls = {"exact": 1.0, "compressed": float(np.mean(shares))}
    table = []
    for name, cost in (("exact", exact), ("compressed", compressed)):
        p50, p99 = np.percentile(cost.milliseconds, [50, 99])
        numbers = [f"{cost.build:.1f}", f"{cost.megabytes:,.0f}", f"{p50:.2f}", f"{p99:.2f}"]
        table.append([name, *numbers, recalls[name]])
    print(format_table(header, table))


def _draw(n: int, dim: int, seed: int) -> np.ndarray:
    """Draw unit embeddings `(n, dim)`, float32, around the same centres for every seed."""
    fixed = np.random.default_rng(0)
    centres = fixed.standard_normal((_CENTRES, _DIRECTIONS), np.float32) / np.sqrt(_DIRECTIONS)
    into, _ = np.linalg.qr(fixed.standard_normal((dim, min(_DIRECTIONS, dim)), np.float32))
    generator = np.random.default_rng(seed)
    around = generator.standard_normal((n, _DIRECTIONS), np.float32) * (_SPREAD / np.sqrt(_DIRECTIONS))
    latent = centres[generator.integers(_CENTRES, size=n)] + around
    noise = generator.standard_normal((n, dim), np.float32) * (_NOISE / np.sqrt(dim))
    drawn = latent @ into.T + noise
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def _write_rows(folder: Path, arguments: _CostArguments) -> None:
    """Write the rows as an index has them."""
    paths = part_paths(folder, arguments.rows, PART_LENGTH)
    for number, path in enumerate(tqdm(paths, desc="Writing rows", unit="file")):
        start = number * PART_LENGTH
        ids = [str(row) for row in range(start, min(start + PART_LENGTH, arguments.rows))]
        embeddings = as_fixed_lists(_draw(len(ids), arguments.dim, seed=1 + number), "float16")
        write_part(path, {"id": ids, "digest": ids, "embedding": embeddings}, len(paths))


def _in_process(measure: Callable, folder: Path, arguments: _CostArguments) -> object:
    """Call a function in a new process, which holds nothing of this one's memory."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(measure, folder, arguments).result()


def _measure_exact(folder: Path, arguments: _CostArguments) -> _Cost:
    faiss.omp_set_num_threads(arguments.threads)
    rows = open_rows(folder / "rows", arguments.rows)
    before = _held()
    start = time.process_time()
    prepare_exact(rows)
    build = time.process_time() - start
    return _ask(rows, find_exact, build, before, arguments)


def _build_compressed(folder: Path, arguments: _CostArguments) -> float:
    """Build the compressed index; return the seconds."""
    faiss.omp_set_num_threads(arguments.threads)
    rows = open_rows(folder / "rows", arguments.rows)
    start = time.process_time()
    compress(rows, folder / "compressed.faiss")
    return time.process_time() - start


def _ask_compressed(folder: Path, arguments: _CostArguments) -> _Cost:
    """Measure the compressed index as a search loads it: what its building held is not in this process."""
    faiss.omp_set_num_threads(arguments.threads)
    rows = open_rows(folder / "rows", arguments.rows)
    before = _held()
    load_compressed(rows, folder / "compressed.faiss")
    return _ask(rows, find_compressed, 0.0, before, arguments)


def _ask(rows: Dataset, find: Callable, build: float, before: float, arguments: _CostArguments) -> _Cost:
    """Ask one query after the other, after a few that warm up."""
    queries = _draw(arguments.queries, arguments.dim, seed=0)
    for query in queries[:10]:
        find(rows, query[None], _TOP)
    megabytes = _held() - before
    milliseconds = []
    found = []
    for query in queries:
        start = time.process_time()
        _, numbers = find(rows, query[None], _TOP)
        milliseconds.append(1000 * (time.process_time() - start))
        found.append(numbers[0])
    return _Cost(build, megabytes, np.array(milliseconds), np.array(found))


def _held() -> float:
    """Return the MB that this process holds, without pages of files, on Linux."""
    memory = psutil.Process().memory_info()
    return (memory.rss - memory.shared) / 1e6
