"""Build a small cache of embeddings in eleven parts, as a training does in parts of 2,048 items.

python build_cache.py CACHE_DIR
"""

import sys

import numpy as np
import pyarrow as pa
import torch

from common.embedding_cache import cached_column

TEXTS = [f"text {number}" for number in range(43)]


def encode(rows: np.ndarray, view: int) -> torch.Tensor:
    """Return three values of each text: its number, the view and 1."""
    embeddings = torch.ones(len(rows), 3)
    embeddings[:, 0] = torch.from_numpy(rows)
    embeddings[:, 1] = view
    return embeddings


def main(cache_dir: str) -> None:
    keys = pa.array(TEXTS, pa.large_string())
    column = cached_column(
        "target", "text", keys, encode, {"model": "none"}, cache_dir=cache_dir, n_views=2, part_length=4
    )
    assert column[range(43)]["target"][:, 0].tolist() == list(range(43))


if __name__ == "__main__":
    main(sys.argv[1])
