"""The nearest embeddings, by faiss (extra `search`): exactly, or in a compressed index.

The compressed index is IVF-PQ. It divides embeddings into lists, of which a query visits the nearest few, and
stores one byte for eight values. What it finds is compared once more by the stored embeddings, so that scores
are exact cosines, and ranks among what was found are too.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from datasets import Dataset
from datasets.formatting import query_table

from common.errors import InputError
from common.extras import of_extra

with of_extra("search"):
    import faiss
    from faiss.contrib.exhaustive_search import knn_ground_truth

# Fewer are searched exactly within milliseconds, and are too few to train on.
_FEWEST_COMPRESSED = 10_000
_TRAINED_ON = 50  # embeddings for each list; faiss asks for 39 at least
_POINTS_PER_CODE = 64
_ITERATIONS = 10
_VISITED = 32  # lists that a query visits
_COMPARED = 10  # times as many embeddings as are asked for are compared exactly
_VALUES_PER_BYTE = 8
_QUERIES = 1000  # embeddings that recall is measured on
_DEPTH = 10
_SLICE = 65_536  # embeddings that are in memory as float32 at a time
_COLUMN = "embedding"


def prepare_exact(rows: Dataset) -> None:
    """Hold all embeddings in memory as float32, for `find_exact`."""
    rows.add_faiss_index(_COLUMN, metric_type=faiss.METRIC_INNER_PRODUCT, batch_size=_SLICE)


def find_exact(rows: Dataset, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the nearest rows by inner products with all of them.

    Args:
        queries: unit embeddings `(queries, dim)`, float32.
        k: no more than there are rows.

    Returns:
        Cosines, highest first, and numbers of rows, both `(queries, k)`.
    """
    found = rows.search_batch(_COLUMN, queries, k=k)
    return found.total_scores, found.total_indices


def compress(rows: Dataset, file: Path) -> None:
    """Train a compressed index, add all rows to it, and save it.

    Raises:
        InputError: there are too few rows.
    """
    n_rows = len(rows)
    if n_rows < _FEWEST_COMPRESSED:
        raise InputError(
            f"compress needs at least {_FEWEST_COMPRESSED:,} pictures, and the index has {n_rows:,}: leave "
            "it out, so few are searched exactly within milliseconds"
        )
    dim = rows.features[_COLUMN].length
    # 2 * sqrt(1 million) = 2,000 -> 2,048 lists
    n_lists = 2 ** round(math.log2(2 * math.sqrt(n_rows)))
    index = faiss.index_factory(dim, f"IVF{n_lists},PQ{_code_bytes(dim)}", faiss.METRIC_INNER_PRODUCT)
    # A random sample: names in order would be those of the first folders.
    sample = np.random.default_rng(0).choice(n_rows, min(n_rows, _TRAINED_ON * n_lists), replace=False)
    # A quarter of faiss's own effort on codes, which only choose what is compared exactly.
    index.pq.cp.max_points_per_centroid = _POINTS_PER_CODE
    index.pq.cp.niter = _ITERATIONS
    index.train(_embeddings(rows, np.sort(sample)))
    index.nprobe = min(_VISITED, n_lists)
    rows.add_faiss_index(_COLUMN, custom_index=index, batch_size=_SLICE)
    rows.save_faiss_index(_COLUMN, file)


def load_compressed(rows: Dataset, file: Path) -> None:
    """Load the compressed index of some rows, for `find_compressed`."""
    rows.load_faiss_index(_COLUMN, file)


def find_compressed(rows: Dataset, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Find rows in the compressed index, and compare ten times as many as are asked for exactly.

    Returns:
        As `find_exact`; row -1 with a score of -inf where the visited lists hold fewer than `k`.
    """
    n_compared = min(_COMPARED * k, len(rows))
    candidates = rows.search_batch(_COLUMN, queries, k=n_compared).total_indices
    scores = np.full((len(queries), k), -np.inf, np.float32)
    numbers = np.full((len(queries), k), -1)
    for query, found in enumerate(candidates):
        found = found[found >= 0]
        cosines = _embeddings(rows, found) @ queries[query]
        best = np.argsort(-cosines, kind="stable")[:k]
        scores[query, : len(best)] = cosines[best]
        numbers[query, : len(best)] = found[best]
    return scores, numbers


def measure_recall(rows: Dataset) -> float:
    """Return the share of the 10 nearest other rows that `find_compressed` finds, for 1,000 random rows."""
    n_queries = min(_QUERIES, len(rows))
    asked = np.sort(np.random.default_rng(1).choice(len(rows), n_queries, replace=False))
    queries = _embeddings(rows, asked)
    _, exact = knn_ground_truth(queries, _slices(rows), _DEPTH + 1, faiss.METRIC_INNER_PRODUCT)
    _, found = find_compressed(rows, queries, _DEPTH + 1)
    shares = []
    for row, nearest, approximate in zip(asked, exact, found):
        # A row always finds itself, which would count for nothing.
        others = [number for number in nearest if number != row][:_DEPTH]
        found_others = [number for number in approximate if number != row][:_DEPTH]
        shares.append(len(set(others) & set(found_others)) / len(others))
    return float(np.mean(shares))


def _code_bytes(dim: int) -> int:
    """Return the bytes of a code: one for 8 values, or for a few more where 8 do not divide `dim`."""
    most = max(1, dim // _VALUES_PER_BYTE)
    return max(count for count in range(1, most + 1) if dim % count == 0)


def _embeddings(rows: Dataset, numbers: np.ndarray) -> np.ndarray:
    """Return embeddings `(numbers, dim)`, float32."""
    # `rows.with_format("arrow")[numbers]` would copy the faiss index of `rows`: 190 ms for a million of them.
    column = query_table(rows.data, numbers)[_COLUMN].combine_chunks()
    return column.flatten().to_numpy().astype(np.float32).reshape(len(numbers), -1)


def _slices(rows: Dataset) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), _SLICE):
        yield _embeddings(rows, np.arange(start, min(start + _SLICE, len(rows))))


__all__ = ["compress", "find_compressed", "find_exact", "load_compressed", "measure_recall", "prepare_exact"]
