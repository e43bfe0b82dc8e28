"""Embed tiny pictures by two actors of Ray and by one process: equal embeddings, and how many a second.

Pictures are squares of 32 pixels in one colour each, encoded as PNG, in parquet. Each process has one thread.
Both times are from the first row read to the last file of parquet written, the loading of models included;
the start of Ray is not.
"""

import io
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from datasets import Dataset
from PIL import Image

from common.errors import InputError
from common.extras import of_extra
from deploy.embed import EmbedImages

_FILE_LENGTH = 5000  # pictures in a file of parquet
_BLOCKS = 4  # of rows for each actor
_TOLERANCE = 2e-3  # of values in float16, where batches may differ


@dataclass(kw_only=True)
class _ThroughputArguments:
    """A model, and how much it embeds by how many actors."""

    model_name_or_path: str = field(metadata={"help": "The folder or Hub id of the model."})
    pictures: int = field(default=100_000, metadata={"help": "Number of pictures."})
    actors: int = field(default=2, metadata={"help": "Number of Ray's actors."})
    batch_size: int = field(default=256, metadata={"help": "Number of pictures in a batch."})


def main(arguments: _ThroughputArguments) -> None:
    """Write pictures, embed them twice, and compare.

    Raises:
        InputError: a row is lost or doubled, or its embeddings differ.
    """
    with of_extra("ray"):
        import ray  # noqa: F401  (found missing now, not after the first half of the work)

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        _write_pictures(folder / "pictures", arguments.pictures)
        seconds = {"one process": _embed_alone(folder, arguments), "Ray": _embed_by_ray(folder, arguments)}
        difference = _compare(folder / "alone", folder / "ray", arguments.pictures)
    for name, spent in seconds.items():
        print(f"{name:12} {spent:8.1f} s {arguments.pictures / spent:8.0f} pictures/s")
    print(f"{arguments.pictures} rows each, none lost or doubled; the largest difference is {difference:.1e}")


def _write_pictures(folder: Path, n_pictures: int) -> None:
    """Write `id` and `image`, encoded, to parquet."""
    folder.mkdir()
    colours = np.random.default_rng(0).integers(0, 256, (n_pictures, 3))
    for start in range(0, n_pictures, _FILE_LENGTH):
        images = [_encode(tuple(colour)) for colour in colours[start : start + _FILE_LENGTH].tolist()]
        ids = [f"{number:08d}" for number in range(start, start + len(images))]
        pq.write_table(pa.table({"id": ids, "image": images}), folder / f"{start:08d}.parquet")


def _encode(colour: tuple[int, int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (32, 32), colour).save(file, format="PNG")
    return file.getvalue()


def _embed_alone(folder: Path, arguments: _ThroughputArguments) -> float:
    """Embed by `Dataset.map` in this process; return the seconds."""
    (folder / "alone").mkdir()
    pictures = Dataset.from_parquet(str(folder / "pictures/*.parquet"), cache_dir=str(folder / "cache"))
    start = time.perf_counter()
    embed = EmbedImages(arguments.model_name_or_path)
    embedded = pictures.with_format("arrow").map(
        embed,
        batched=True,
        batch_size=arguments.batch_size,
        remove_columns=["image"],
        new_fingerprint="alone",
    )
    embedded.to_parquet(folder / "alone/embeddings.parquet")
    return time.perf_counter() - start


def _embed_by_ray(folder: Path, arguments: _ThroughputArguments) -> float:
    """Embed by Ray's actors; return the seconds."""
    import ray

    one_thread = {"env_vars": {"OMP_NUM_THREADS": "1"}}
    ray.init(num_cpus=arguments.actors + 1, include_dashboard=False, runtime_env=one_thread)
    try:
        start = time.perf_counter()
        # Ray joins small files to one block, which one actor would embed alone.
        n_blocks = _BLOCKS * arguments.actors
        pictures = ray.data.read_parquet(str(folder / "pictures"), override_num_blocks=n_blocks)
        embedded = pictures.map_batches(
            EmbedImages,
            fn_constructor_args=[arguments.model_name_or_path],
            batch_format="pyarrow",
            batch_size=arguments.batch_size,
            compute=ray.data.ActorPoolStrategy(size=arguments.actors),
        )
        embedded.select_columns(["id", "embedding", "error"]).write_parquet(str(folder / "ray"))
        return time.perf_counter() - start
    finally:
        ray.shutdown()


def _compare(one: Path, other: Path, n_pictures: int) -> float:
    """Return the largest difference between the embeddings of two folders of parquet.

    Raises:
        InputError: a row is lost or doubled, or a difference is larger than rounding.
    """
    tables = [pq.read_table(folder, columns=["id", "embedding"]).sort_by("id") for folder in (one, other)]
    for table in tables:
        if len(set(table["id"].to_pylist())) != n_pictures or len(table) != n_pictures:
            raise InputError(f"{len(table)} rows came of {n_pictures} pictures: some are lost or doubled")
    first, second = [table["embedding"].combine_chunks().flatten().to_numpy() for table in tables]
    difference = float(np.abs(first.astype(np.float32) - second.astype(np.float32)).max())
    if difference > _TOLERANCE:
        raise InputError(f"embeddings differ by {difference:.1e}: one of the two is wrong")
    return difference
