"""An exported folder in transformers.js, as npm has it: the two models by hand, which need no registry; and
pipelines, with the registry as it is and with our patch.
"""

import json
import os
import shutil
import subprocess

import numpy as np
import pytest

from deploy.onnx.folder import write_joint_graphs
from deploy.onnx.runtime import OnnxAltCLIP

from .conftest import ROOT
from .test_onnx_export import TEXTS, captioned, exported, pictures  # noqa: F401  (fixtures)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("node") is None or shutil.which("npm") is None,
        reason="node or npm is not installed, with which transformers.js is run",
    ),
]


@pytest.fixture(scope="module")
def transformers_js(tmp_path_factory):
    """Install transformers.js by npm; return the folder of the script that uses it."""
    folder = tmp_path_factory.mktemp("node")
    # Otherwise its installation downloads libraries for GPUs from a place that is no registry.
    environment = os.environ | {"ONNXRUNTIME_NODE_INSTALL": "skip", "HOME": str(folder)}
    command = ["npm", "install", "--no-audit", "--no-fund", "@huggingface/transformers@4"]
    process = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=1200
    )
    assert process.returncode == 0, process.stderr[-2000:]
    for script in ("embed_in_node.mjs", "pipelines_in_node.mjs"):
        shutil.copy(ROOT / "tests" / script, folder)
    return folder


@pytest.fixture(scope="module")
def patched(transformers_js):
    """Apply our patch to a copy of transformers.js' sources; return the path of their main file."""
    installed = transformers_js / "node_modules/@huggingface/transformers"
    # Beside the installed ones, whose dependencies it then finds.
    shutil.copytree(installed / "src", installed / "patched/src")
    # packages/transformers/src/models/registry.js -> src/models/registry.js
    command = ["git", "apply", "-p3", str(ROOT / "docs/upstream/transformers.js.patch")]
    subprocess.run(command, cwd=installed / "patched", check=True)
    changed = (installed / "patched/src/models/registry.js").read_text().count("altclip")
    assert changed == 2
    return installed / "patched/src/transformers.js"


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "int8", "q8", "q4"])
def test_embeddings_equal_ours(transformers_js, exported, dtype, tmp_path):  # noqa: F811
    folder = exported[0]
    # Of the size that the model reads: transformers.js resizes by another library.
    images = [picture.resize((8, 8)) for picture in pictures(3)]
    in_json = []
    for image in images:
        in_json.append({"width": 8, "height": 8, "pixels": np.asarray(image).flatten().tolist()})
    # It cuts longer texts behind the last token that fits, where tokenizers keep the token of the end.
    texts = [text for text in TEXTS if len(text) < 20]
    (tmp_path / "input.json").write_text(json.dumps({"texts": texts, "images": in_json}))

    command = ["node", "embed_in_node.mjs", str(folder), dtype, str(tmp_path / "input.json")]
    process = subprocess.run(command, cwd=transformers_js, capture_output=True, text=True, timeout=600)
    assert process.returncode == 0, process.stderr[-2000:]
    found = json.loads(process.stdout.splitlines()[-1])
    model = OnnxAltCLIP.from_folder(folder, dtype=dtype)
    expected = model.embed_texts(texts, normalize_embeddings=False)
    # Quantized layers find the scale of their inputs from the whole batch, padding included.
    tolerance = 1e-5 if dtype == "fp32" else 1e-2
    np.testing.assert_allclose(found["texts"], expected, atol=tolerance)
    np.testing.assert_allclose(
        found["images"], model.embed_images(images, normalize_embeddings=False), atol=tolerance
    )


def run_pipelines(transformers_js, library, folder, images, labels, tmp_path):
    in_json = []
    for image in images:
        in_json.append({"width": 8, "height": 8, "pixels": np.asarray(image).flatten().tolist()})
    (tmp_path / "input.json").write_text(json.dumps({"labels": labels, "images": in_json}))
    command = ["node", "pipelines_in_node.mjs", str(library), str(folder), str(tmp_path / "input.json")]
    process = subprocess.run(command, cwd=transformers_js, capture_output=True, text=True, timeout=600)
    assert process.returncode == 0, process.stderr[-2000:]
    return json.loads(process.stdout.splitlines()[-1]), process.stdout + process.stderr


def check_scores(found, model, images, labels):
    for image, of_image in zip(images, found):
        expected = {one["label"]: one["score"] for one in model.classify(image, labels)}
        assert {one["label"]: pytest.approx(one["score"], abs=1e-5) for one in of_image} == expected


def test_pipelines_with_the_patched_registry(transformers_js, patched, exported, tmp_path):  # noqa: F811
    folder = tmp_path / "joint"
    shutil.copytree(exported[0], folder)
    model = OnnxAltCLIP.from_folder(folder)
    write_joint_graphs(folder, ["fp32"], model.logit_scale)
    images = [picture.resize((8, 8)) for picture in pictures(3)]
    labels = ["dog", "一只狗"]

    found, said = run_pipelines(transformers_js, patched, folder, images, labels, tmp_path)
    expected = model.embed_images(images, normalize_embeddings=False)
    np.testing.assert_allclose(found["features"], expected, atol=1e-5)
    assert found["scores"]["class"] == "CLIPModel"
    check_scores(found["scores"]["found"], model, images, labels)
    assert "Unknown model class" not in said

    # As it is, the library takes a base class for the second, with a warning, and fails in the first.
    as_it_is = patched.parents[2] / "src/transformers.js"
    found, said = run_pipelines(transformers_js, as_it_is, folder, images, labels, tmp_path)
    assert found["features"].startswith("Error: ")
    check_scores(found["scores"]["found"], model, images, labels)
    assert 'Unknown model class "altclip"' in said
