"""The patches of docs/upstream for Python projects: each applies to the installed release and does its work.

That of transformers.js is in `test_onnx_in_node.py`.
"""

import shutil
import subprocess
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize
from transformers import AltCLIPConfig, AltCLIPModel

from common.models.loading import load_model
from modeling_altclip import embed_images, embed_texts

from .conftest import ROOT

mteb = pytest.importorskip("mteb", reason="needs the extra test")

from mteb.models import model_implementations  # noqa: E402

from .clients.mteb_task import InMemory  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed, which applies patches"),
]

TINY = str(ROOT / "tests/fixtures/v0.1.0/model")
# What differs from the default configuration of transformers, as the config.json of the cards state it.
XLMR_LARGE = {"vocab_size": 250_002, "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
VIT_L = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
VIT_H = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 16}


@pytest.fixture(scope="module")
def altclip_models(tmp_path_factory):
    """Import the module that the patch adds to mteb, which stays as it is."""
    folder = tmp_path_factory.mktemp("mteb")
    patch = ROOT / "docs/upstream/mteb.patch"
    subprocess.run(["git", "apply", str(patch)], cwd=folder, check=True)
    added = folder / "mteb/models/model_implementations"
    installed = Path(model_implementations.__file__).parent
    for path in added.iterdir():
        assert not (installed / path.name).exists()

    model_implementations.__path__.append(str(added))
    yield import_module("mteb.models.model_implementations.altclip_models")
    model_implementations.__path__.remove(str(added))


def test_mteb_metas_state_what_the_models_are(altclip_models):
    found = [altclip_models.altclip, altclip_models.altclip_m9, altclip_models.altclip_m18]
    assert [meta.name for meta in found] == ["BAAI/AltCLIP", "BAAI/AltCLIP-m9", "BAAI/AltCLIP-m18"]
    assert [len(meta.languages) for meta in found] == [2, 9, 18]
    for meta, vision, dim in zip(found, (VIT_L, VIT_L, VIT_H), (768, 768, 1024)):
        text = XLMR_LARGE | {"intermediate_size": 4096, "project_dim": dim, "max_position_embeddings": 514}
        config = AltCLIPConfig(
            text_config=text,
            vision_config=vision | {"patch_size": 14, "image_size": 224},
            projection_dim=dim,
        )
        with torch.device("meta"):
            model = AltCLIPModel(config)
        n_parameters = model.num_parameters()
        assert meta.embed_dim == dim
        assert meta.n_parameters == n_parameters
        assert meta.n_embedding_parameters == model.text_model.get_input_embeddings().weight.numel()
        # In float32, as the files of the authors are.
        assert meta.memory_usage_mb == round(n_parameters * 4 / 2**20)
        assert meta.adapted_from in model_implementations.MODEL_REGISTRY


def test_mteb_evaluates_a_model_by_that_loader(altclip_models):
    meta = altclip_models.altclip
    # `meta.load_model` asks for torchvision first, which neither this loader nor its model needs.
    wrapper = meta.loader(TINY, revision=None, device="cpu")
    wrapper.mteb_model_meta = meta
    assert wrapper.processor.tokenizer.model_max_length == 77

    generator = np.random.default_rng(0)
    images = [Image.fromarray(generator.integers(0, 255, (20, 30, 3), np.uint8)) for _ in range(12)]
    names = ["a dog", "一只狗", "two cats"]
    model, processor = load_model(TINY)
    image_embeds = embed_images(model, processor, images)
    text_embeds = embed_texts(model, processor, names)
    found = wrapper.get_text_embeddings([{"text": names}])
    torch.testing.assert_close(normalize(found), text_embeds, atol=1e-5, rtol=0)
    found = wrapper.get_image_embeddings([{"image": images}])
    torch.testing.assert_close(normalize(found), image_embeds, atol=1e-5, rtol=0)

    nearest = (image_embeds @ text_embeds.T).argmax(dim=1).tolist()
    # Two thirds of the labels are what the model says.
    labels = [(label + (row % 3 == 0)) % 3 for row, label in enumerate(nearest)]
    result = mteb.evaluate(wrapper, InMemory(images, labels, names), cache=None)
    assert result.task_results[0].get_score() == pytest.approx(8 / 12)
