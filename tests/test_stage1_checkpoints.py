"""Checkpoints of stage 1 are whole models; those of older versions are refused in one line."""

import pytest
import torch
from datasets import load_dataset
from transformers import AutoModel, AutoProcessor

from benchmarks.encoder import Encoder
from benchmarks.retrieval import evaluate_retrieval
from common.errors import InputError
from common.models.loading import load_model
from modeling_altclip import AltCLIPModel, AltCLIPProcessor
from training.lifecycle import train


def test_a_checkpoint_loads_with_the_auto_classes_and_can_be_evaluated(stage1, miniature, tmp_path):
    train(*stage1())
    checkpoint = tmp_path / "out/checkpoint-1"
    model = AutoModel.from_pretrained(checkpoint)
    assert type(model) is AltCLIPModel
    assert type(AutoProcessor.from_pretrained(checkpoint)) is AltCLIPProcessor

    # The image tower is the teacher's, bit for bit: only texts learn.
    teacher = AutoModel.from_pretrained(miniature / "clip")
    for name, value in teacher.vision_model.state_dict().items():
        torch.testing.assert_close(model.vision_model.state_dict()[name], value, atol=0, rtol=0)

    encoder = Encoder(*load_model(str(checkpoint)))
    rows = load_dataset(str(miniature / "dataset"), split="validation").select(range(8))
    outcomes = evaluate_retrieval(encoder, encoder.images(rows["image"]), rows["captions"], ["en", "zh"])
    assert set(outcomes) == {"en", "zh"}


def test_a_checkpoint_of_a_text_tower_alone_is_refused_in_one_line(stage1, tmp_path):
    trainer, arguments = stage1()
    train(trainer, arguments)
    # As stage 1 saved them before it trained the whole model.
    for checkpoint in (tmp_path / "out").glob("checkpoint-*"):
        trainer.model.text_model.save_pretrained(checkpoint)
    again, arguments = stage1(resume=True)
    with pytest.raises(InputError, match="stage 1 once saved its text tower alone.: train anew in") as caught:
        train(again, arguments)
    assert "\n" not in str(caught.value)
