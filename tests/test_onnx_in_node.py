"""An exported folder in transformers.js, as npm has it: the two models by hand, which need no registry."""

import json
import os
import shutil
import subprocess

import numpy as np
import pytest

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
    shutil.copy(ROOT / "tests/embed_in_node.mjs", folder)
    return folder


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
