"""The snippets of docs/serving.md, as printed, in a folder that has what they name: embeddings equal ours."""

import base64
import io
import json
import re
import shutil
import socket
import subprocess
import sys
import time
from urllib.error import URLError
from urllib.request import Request, urlopen

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from deploy.embed import EmbedImages
from modeling_altclip import embed_images, embed_texts

from .conftest import ROOT
from .environments import OF_TRANSFORMERS, build_environment, shell
from .processes import TIMEOUT

PAGE = ROOT / "docs/serving.md"
TINY = ROOT / "tests/fixtures/v0.1.0/model"
N_PICTURES = 20
BROKEN = 5  # the number of the row whose picture is broken
QUERY = "一只狗"
TEXTS = ["a dog", QUERY, "two dogs and a cat " * 40]  # the last one is truncated


def snippet(heading):
    """Return the code below a heading of the page."""
    _, _, section = PAGE.read_text("utf-8").partition(f"\n## {heading}\n")
    code = re.findall(r"```py\n(.*?)```", section.partition("\n## ")[0], flags=re.DOTALL)
    assert len(code) == 1, heading
    return code[0]


def encoded(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def embed():
    return EmbedImages(str(TINY))


@pytest.fixture(scope="module")
def folder(embed, tmp_path_factory):
    """Make a folder with the model, a picture and embeddings, under the names of the page."""
    folder = tmp_path_factory.mktemp("serving")
    (folder / "BAAI").mkdir()
    (folder / "BAAI/AltCLIP-m9").symlink_to(TINY)
    # Transparent corners show how pictures with alpha are read.
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 4), np.uint8)
    Image.fromarray(pixels).save(folder / "dog.png")

    images = [encoded(number) for number in range(N_PICTURES)]
    images[BROKEN] = b"no picture"
    rows = pa.table({"id": [f"{number:04d}" for number in range(N_PICTURES)], "image": images})
    pq.write_table(embed(rows).select(["id", "embedding", "error"]), folder / "embeddings.parquet")
    return folder


@pytest.fixture(scope="module")
def cosines(embed, folder):
    """Return the cosine of the query with each picture, by its id."""
    (query,) = embed_texts(embed.model, embed.processor, [QUERY], convert_to_numpy=True)
    table = pq.read_table(folder / "embeddings.parquet")
    by_id = {}
    for name, embedding in zip(table["id"].to_pylist(), table["embedding"].to_pylist()):
        if embedding is not None:
            by_id[name] = float(np.array(embedding, np.float32) @ query)
    assert len(by_id) == N_PICTURES - 1
    return by_id


def check_found(found, cosines):
    """See that the ten best pictures were found, best first, each with its own cosine."""
    names = [name for name, _ in found]
    scores = [score for _, score in found]
    assert len(set(names)) == 10
    # Embeddings in float16, and lengths that differ from 1 by as much.
    np.testing.assert_allclose(scores, [cosines[name] for name in names], atol=1e-3)
    np.testing.assert_allclose(scores, sorted(cosines.values(), reverse=True)[:10], atol=1e-3)


def run_snippet(heading, folder, monkeypatch):
    monkeypatch.chdir(folder)
    names = {}
    exec(snippet(heading), names)
    return names


@pytest.mark.slow
def test_qdrant(folder, cosines, monkeypatch):
    pytest.importorskip("qdrant_client", reason="needs the extra serve")
    names = run_snippet("Qdrant", folder, monkeypatch)
    check_found(names["found"], cosines)
    stored = names["client"].get_collection("pictures")
    assert stored.points_count == N_PICTURES - 1
    assert stored.config.params.vectors.datatype == "float16"


@pytest.mark.slow
def test_lancedb(folder, cosines, monkeypatch):
    pytest.importorskip("lancedb", reason="needs the extra serve")
    names = run_snippet("LanceDB", folder, monkeypatch)
    check_found(names["found"], cosines)
    assert names["pictures"].schema.field("embedding").type == pa.list_(pa.float16(), 8)
    # It is on disk, and a later process finds it there.
    assert names["lancedb"].connect("outputs/lance").open_table("pictures").count_rows() == N_PICTURES - 1


def test_sentence_transformers(embed, folder):
    """Embed in a process that has not imported our package."""
    # The fixture has fewer positions than an AltCLIP.
    code = snippet("sentence-transformers").replace("max_seq_length = 77", "max_seq_length = 16")
    code += (
        "import json, sys\n"
        "assert 'modeling_altclip' not in sys.modules\n"
        f"long = encoder.encode([{TEXTS[-1]!r}], normalize_embeddings=True)\n"
        "print(json.dumps([texts.tolist(), long.tolist(), images.tolist()]))\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=TIMEOUT
    )
    assert process.returncode == 0, process.stderr[-3000:]
    texts, long, images = json.loads(process.stdout.splitlines()[-1])
    model, processor = embed.model, embed.processor
    expected = embed_texts(model, processor, TEXTS, convert_to_numpy=True)
    np.testing.assert_allclose(texts + long, expected, atol=1e-5)
    expected = embed_images(model, processor, [folder / "dog.png"], convert_to_numpy=True)
    np.testing.assert_allclose(images, expected, atol=1e-5)


def ask(url, question=None):
    """Return the answer of a server, in JSON."""
    data = None if question is None else json.dumps(question).encode()
    with urlopen(Request(url, data, {"Content-Type": "application/json"}), timeout=TIMEOUT) as answer:
        return json.load(answer)


def wait_for(server, url):
    """Wait until a server answers, or has ended."""
    while server.poll() is None:
        try:
            return ask(url)
        except URLError:
            time.sleep(0.5)
    raise AssertionError(f"the server ended with {server.returncode}")


@pytest.mark.slow
def test_infinity(embed, tmp_path):
    """Serve the folder in an environment of its own, by the packages and flags of the page."""
    page = PAGE.read_text("utf-8")
    packages = ["infinity-emb[torch,server]==0.0.78", "transformers==4.57.6", "aiohttp", "pillow"]
    flags = ["--no-trust-remote-code", "--no-bettertransformer"]
    for word in (*packages, *flags):
        assert word in page
    # It reads this entry of the configuration, which the page has the user add; the fixture has 16 tokens.
    assert '"max_length": 77' in page
    served = tmp_path / "served"
    shutil.copytree(TINY, served)
    configuration = json.loads((TINY / "config.json").read_text())
    (served / "config.json").write_text(json.dumps(configuration | {"max_length": 16}))

    unpinned = [*OF_TRANSFORMERS, "sentence-transformers", "numpy", "scipy", "scikit-learn"]
    python = build_environment(tmp_path / "venv", *packages, upon=None, unpinned=unpinned)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    command = [str(python.with_name("infinity_emb")), "v2", "--model-id", str(served), *flags]
    command += ["--served-model-name", "clip", "--device", "cpu", "--host", "127.0.0.1", "--port", str(port)]
    variables = shell(HF_HUB_OFFLINE="1", DO_NOT_TRACK="1", PYTHONPATH="")
    with open(tmp_path / "log", "w") as log:
        server = subprocess.Popen(command, cwd=tmp_path, env=variables, stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{port}"
            wait_for(server, f"{url}/health")
            texts = ask(f"{url}/embeddings", {"model": "clip", "input": TEXTS})
            picture = "data:image/png;base64," + base64.b64encode(encoded(0)).decode()
            images = ask(f"{url}/embeddings", {"model": "clip", "modality": "image", "input": [picture]})
        finally:
            server.terminate()
            server.wait()

    model, processor = embed.model, embed.processor
    found = [row["embedding"] for row in texts["data"]]
    expected = embed_texts(model, processor, TEXTS, convert_to_numpy=True)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    found = [row["embedding"] for row in images["data"]]
    image = Image.open(io.BytesIO(encoded(0)))
    np.testing.assert_allclose(
        found, embed_images(model, processor, [image], convert_to_numpy=True), atol=1e-5
    )
