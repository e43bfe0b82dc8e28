"""`EmbedImages` on a table, in `Dataset.map`, Ray Data and Daft; its parquet in DuckDB and faiss."""

import io
import os
import shutil
import signal
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from PIL import Image

from deploy.embed import EmbedImages
from modeling_altclip import embed_images

from .conftest import ROOT

TINY = str(ROOT / "tests/fixtures/v0.1.0/model")
BROKEN = 5  # the number of the row whose picture is broken


def encoded(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


def pictures(n):
    images = [encoded(number) for number in range(n)]
    images[BROKEN] = b"no picture"
    return pa.table({"id": [f"{number:04d}" for number in range(n)], "image": images})


@pytest.fixture(scope="module")
def embed():
    return EmbedImages(TINY)


@pytest.fixture(scope="module")
def expected(embed):
    """Embeddings of the first 20 pictures, but for the broken one."""
    readable = [encoded(number) for number in range(20) if number != BROKEN]
    opened = [Image.open(io.BytesIO(content)) for content in readable]
    return embed_images(embed.model, embed.processor, opened, convert_to_numpy=True)


def check(table, expected):
    """See that a table has all 20 rows in order, as they should be."""
    assert table["id"].to_pylist() == [f"{number:04d}" for number in range(20)]
    assert table["embedding"].type == pa.list_(pa.float16(), 8)
    rows = table["embedding"].to_pylist()
    assert rows.pop(BROKEN) is None
    np.testing.assert_allclose(np.array(rows, np.float32), expected, atol=1e-3)
    errors = table["error"].to_pylist()
    assert errors.pop(BROKEN) == "Pillow knows no such format"
    assert set(errors) == {None}


def test_a_table_gets_two_columns(embed, expected):
    check(embed(pictures(20)), expected)


def test_pictures_as_datasets_stores_them(embed, expected, tmp_path):
    column = [{"bytes": image, "path": None} for image in pictures(20)["image"].to_pylist()]
    column[7] = {"bytes": None, "path": str(tmp_path / "7.png")}
    (tmp_path / "7.png").write_bytes(encoded(7))
    check(embed(pictures(20).set_column(1, "image", pa.array(column))), expected)


def test_a_batch_without_a_picture(embed):
    assert embed(pictures(20).slice(0, 0))["embedding"].type == pa.list_(pa.float16(), 8)
    batch = embed(pa.table({"image": pa.array([None, b"x"], pa.binary())}))
    assert batch["embedding"].to_pylist() == [None, None]
    assert batch["error"].to_pylist() == ["the row has no picture", "Pillow knows no such format"]


def test_dataset_map(embed, expected):
    rows = Dataset(pictures(20)).with_format("arrow")
    check(rows.map(embed, batched=True, batch_size=6, new_fingerprint="x").data.table, expected)


def test_duckdb_and_faiss_read_the_parquet(embed, expected, tmp_path):
    duckdb = pytest.importorskip("duckdb")
    faiss = pytest.importorskip("faiss")
    file = tmp_path / "embeddings.parquet"
    pq.write_table(embed(pictures(20)).select(["id", "embedding"]), file)

    stored = pq.read_table(file)
    assert stored["embedding"].type == pa.list_(pa.float16(), 8)
    readable = stored.filter(stored["embedding"].is_valid())
    embeddings = readable["embedding"].combine_chunks().flatten().to_numpy().astype(np.float32)
    index = faiss.IndexFlatIP(8)
    index.add(embeddings.reshape(-1, 8))
    _, (nearest,) = index.search(expected[10:11], 3)
    assert nearest[0] == 10
    by_faiss = [readable["id"][int(row)].as_py() for row in nearest]

    query = expected[10].tolist()
    found = duckdb.execute(
        "SELECT id FROM read_parquet(?) WHERE embedding IS NOT NULL "
        "ORDER BY array_cosine_similarity(embedding::FLOAT[8], ?::FLOAT[8]) DESC LIMIT 3",
        [str(file), query],
    ).fetchall()
    assert [name for (name,) in found] == by_faiss


@pytest.mark.slow
def test_daft(expected, tmp_path):
    daft = pytest.importorskip("daft", reason="is in no extra")

    @daft.cls(max_concurrency=1)
    class Embed(EmbedImages):
        @daft.method.batch(return_dtype=daft.DataType.fixed_size_list(daft.DataType.float32(), 8))
        def embed(self, images):
            return self(pa.table({"image": images.to_arrow()}))["embedding"].cast(pa.list_(pa.float32(), 8))

    pq.write_table(pictures(20), tmp_path / "pictures.parquet")
    rows = daft.read_parquet(str(tmp_path / "pictures.parquet"))
    found = rows.with_column("embedding", Embed(TINY).embed(rows["image"])).sort("id").to_pydict()
    assert found["embedding"].pop(BROKEN) is None
    np.testing.assert_allclose(np.array(found["embedding"]), expected, atol=1e-3)


class KilledOnce(EmbedImages):
    """Kills its own process at its third batch, as the system does where memory is short; once."""

    def __init__(self, model, marker):
        super().__init__(model)
        self.marker = marker
        self.n_batches = 0

    def __call__(self, batch):
        self.n_batches += 1
        if self.n_batches == 3:
            try:
                os.close(os.open(self.marker, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(batch)


@pytest.mark.slow
def test_ray_loses_no_row_with_an_actor(embed, tmp_path):
    ray = pytest.importorskip("ray", reason="needs the extra ray")
    table = pictures(400)
    pq.write_table(table, tmp_path / "pictures.parquet", row_group_size=50)
    ray.init(num_cpus=4, include_dashboard=False, object_store_memory=100_000_000)
    try:
        rows = ray.data.read_parquet(str(tmp_path / "pictures.parquet")).repartition(8)
        embedded = rows.map_batches(
            KilledOnce,
            fn_constructor_args=[TINY, str(tmp_path / "killed")],
            batch_format="pyarrow",
            batch_size=16,
            compute=ray.data.ActorPoolStrategy(size=2),
        )
        embedded.select_columns(["id", "embedding", "error"]).write_parquet(str(tmp_path / "embedded"))
    finally:
        ray.shutdown()
        # Its logs; a folder of the test's own has too long a name for Ray's sockets.
        shutil.rmtree(Path(tempfile.gettempdir(), "ray"))
    assert (tmp_path / "killed").exists()
    found = pq.read_table(tmp_path / "embedded").sort_by("id")
    assert found["id"].to_pylist() == table["id"].to_pylist()
    assert found["embedding"].type == pa.list_(pa.float16(), 8)
    expected = embed(table)["embedding"].combine_chunks().flatten().to_numpy()
    np.testing.assert_allclose(found["embedding"].combine_chunks().flatten().to_numpy(), expected, atol=2e-3)
    assert found["error"].null_count == 399
