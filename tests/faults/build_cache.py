"""Build a small cache of embeddings in eleven parts, as a training does in parts of 2,048 items, and read it.

python build_cache.py CACHE_DIR OUTPUT_DIR
"""

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from common.embedding_cache import cached_column
from common.errors import InputError

TEXTS = [f"text {number}" for number in range(43)]


def encode(rows: np.ndarray, view: int) -> torch.Tensor:
    """Return three values of each text: its number, the view and 1."""
    embeddings = torch.ones(len(rows), 3)
    embeddings[:, 0] = torch.from_numpy(rows)
    embeddings[:, 1] = view
    return embeddings


def main(cache_dir: str, output_dir: str) -> None:
    keys = pa.array(TEXTS, pa.large_string())
    form = {"cache_dir": cache_dir, "n_views": 2, "part_length": 4}
    try:
        column = cached_column("target", "text", keys, encode, {"model": "none"}, **form)
        embeddings = column[range(len(TEXTS))]["target"]
    except InputError as error:
        sys.exit(f"build_cache.py: error: {error}")
    Path(output_dir).mkdir(exist_ok=True)
    np.save(Path(output_dir, "embeddings.npy"), embeddings)


if __name__ == "__main__":
    main(*sys.argv[1:])
