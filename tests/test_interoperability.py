"""A saved folder in other people's tools, sentence-transformers, mteb and peft, and as the teacher of our own
stage 1.
"""

import numpy as np
import pytest
import torch
from datasets import load_dataset
from peft import LoraConfig, PeftModel, get_peft_model
from sentence_transformers import SentenceTransformer

from common.models.loading import load_model
from modeling_altclip import AltCLIPModel, embed_images, embed_texts
from training.data.tower_cache import teacher_embeddings

from .clients.mteb_task import mteb_accuracy
from .conftest import ROOT


@pytest.fixture
def scenes(miniature):
    # Scenes of one concept each, whose caption is its name.
    return load_dataset(str(miniature / "dataset"), split="test_concepts").select(range(24))


def test_sentence_transformers(altclip_folder, scenes):
    model, processor = load_model(str(altclip_folder))
    encoder = SentenceTransformer(str(altclip_folder))
    texts, images = ["dog face", "红苹果"], scenes["image"][:3]
    assert np.allclose(
        encoder.encode(texts, normalize_embeddings=True), embed_texts(model, processor, texts), atol=1e-5
    )
    assert np.allclose(
        encoder.encode(images, normalize_embeddings=True), embed_images(model, processor, images), atol=1e-5
    )


def test_mteb(altclip_folder, scenes, tmp_path):
    """Their wrapper, a task of ours that is in memory alone, and an accuracy that our own metric confirms."""
    names = [caption["en"] for caption in scenes["captions"]]
    # mteb takes labels as the numbers of class names.
    labels = sorted(set(names))
    found = mteb_accuracy(
        SentenceTransformer(str(altclip_folder)),
        scenes["image"][:],
        [labels.index(name) for name in names],
        labels,
    )
    model, processor = load_model(str(altclip_folder))
    similarity = embed_images(model, processor, scenes["image"]) @ embed_texts(model, processor, labels).t()
    expected = (
        (similarity.argmax(dim=1) == torch.tensor([labels.index(name) for name in names])).float().mean()
    )
    assert found == pytest.approx(expected.item())


@pytest.mark.parametrize(
    "modules,where",
    [(r"text_model.*\.(query|value)", "text_model."), (r"vision_model.*\.(q_proj|v_proj)", "vision_model.")],
)
def test_low_rank_adapters_on_either_tower(model, ragged_batch, tmp_path, modules, where):
    before = model(**ragged_batch).logits_per_image
    # By default a LoRA's second factor is zero, and it would change nothing.
    adapted = get_peft_model(model, LoraConfig(target_modules=modules, r=2, init_lora_weights=False))
    adapted(**ragged_batch, return_loss=True).loss.backward()
    learning = {
        name: parameter.grad for name, parameter in adapted.named_parameters() if parameter.requires_grad
    }
    assert len(learning) == 8  # two layers, two modules in each, two factors of each
    assert all(where in name and gradient.abs().max() > 0 for name, gradient in learning.items())
    adapted.save_pretrained(tmp_path)
    with torch.no_grad():
        after = adapted(**ragged_batch).logits_per_image
        assert (after - before).abs().max() > 1e-4
        again = PeftModel.from_pretrained(adapted.unload(), tmp_path)
        torch.testing.assert_close(again(**ragged_batch).logits_per_image, after, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(
            again.merge_and_unload()(**ragged_batch).logits_per_image, after, atol=1e-5, rtol=1e-5
        )


def test_as_the_teacher_of_stage_1(altclip_folder, miniature, run_python, scenes, tmp_path):
    teacher, processor = load_model(str(altclip_folder))
    targets = teacher_embeddings(scenes, teacher, processor.tokenizer)
    english = processor.tokenizer(
        [caption["en"] for caption in scenes["captions"]], padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        # The target is the pooled state of the text tower, before the projection.
        expected = teacher.text_model.eval()(**english).pooler_output
    torch.testing.assert_close(
        torch.from_numpy(targets[range(len(scenes))]["target"]), expected, atol=1e-5, rtol=1e-5
    )
    process = run_python(
        *[
            "python",
            ROOT / "training/run_stage1.py",
            ROOT / "training/recipes/miniature/stage1.yaml",
            "--teacher_name_or_path",
            altclip_folder,
        ],
        *["--text_encoder_name_or_path", miniature / "text_encoder", "--dataset", miniature / "dataset"],
        *["--output_dir", tmp_path / "student", "--max_steps", "2", "--per_device_train_batch_size", "16"],
    )
    assert process.returncode == 0, process.stderr
    student = AltCLIPModel.from_pretrained(tmp_path / "student")
    # Stage 1 trains the text tower alone; the rest is the teacher's.
    for part in ("vision_model", "visual_projection", "text_projection"):
        ours, theirs = getattr(student, part).state_dict(), getattr(teacher, part).state_dict()
        assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
