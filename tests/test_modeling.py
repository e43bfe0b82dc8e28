"""AutoClasses, assembly from a teacher, and checkpoints that are not whole."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForZeroShotImageClassification, BertConfig, CLIPModel, XLMRobertaModel
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

from modeling_altclip import AltCLIPConfig, AltCLIPModel, AltCLIPProcessor


def test_autoclasses_give_ours(model, tmp_path):
    model.save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is AltCLIPConfig
    assert type(AutoModel.from_pretrained(tmp_path)) is AltCLIPModel
    assert type(AutoModelForZeroShotImageClassification.from_pretrained(tmp_path)) is AltCLIPModel
    assert PROCESSOR_MAPPING[AltCLIPConfig] is AltCLIPProcessor
    assert AutoModel.from_config(BertConfig(num_hidden_layers=1, hidden_size=12, num_attention_heads=1)).config.model_type == "bert"


def test_config_says_nothing_that_native_would_not(model, tmp_path):
    model.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["model_type"] == "altclip"
    assert not {"is_decoder", "add_cross_attention"} & saved["text_config"].keys()


def test_from_teacher_takes_every_weight(towers):
    clip, encoder = CLIPModel.from_pretrained(towers[0]), XLMRobertaModel.from_pretrained(towers[1], add_pooling_layer=False)
    clip.logit_scale.data.fill_(3.3)
    clip.save_pretrained(towers[0])
    model = AltCLIPModel.from_teacher(*map(str, towers), dropout=0.0)
    for ours, theirs in [
        (model.vision_model, clip.vision_model),
        (model.text_model.roberta, encoder),
        (model.visual_projection, clip.visual_projection),
        (model.text_projection, clip.text_projection),
    ]:
        assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items())
    assert model.logit_scale.item() == pytest.approx(3.3)
    assert model.config.text_config.project_dim == clip.config.text_config.hidden_size
    assert model.config.text_config.hidden_dropout_prob == 0.0


def test_from_teacher_saves_and_loads(towers, tmp_path, batch):
    model = AltCLIPModel.from_teacher(*map(str, towers)).eval()
    model.save_pretrained(tmp_path / "model")
    loaded = AltCLIPModel.from_pretrained(tmp_path / "model").eval()
    with torch.no_grad():
        assert torch.equal(model(**batch).logits_per_image, loaded(**batch).logits_per_image)


def test_a_checkpoint_that_is_not_whole_is_refused(model, tmp_path):
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["vision_model.encoder.layers.1.mlp.fc1.weight"]
    weights["text_model.stray"] = torch.zeros(1)
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"missing: vision_model\.encoder\.layers\.1\.mlp\.fc1\.weight.*text_model\.stray"):
        AltCLIPModel.from_pretrained(tmp_path)


def test_one_side_alone(model, batch):
    with torch.no_grad():
        both = model(**batch)
        texts = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        images = model(pixel_values=batch["pixel_values"])
    assert torch.equal(texts.text_embeds, both.text_embeds) and texts.logits_per_text is None and texts.image_embeds is None
    assert torch.equal(images.image_embeds, both.image_embeds) and images.logits_per_image is None


def test_every_parameter_is_initialised(config):
    """`from_pretrained` builds on uninitialised memory: what `_init_weights` forgets would come out as garbage."""
    with torch.device("meta"):
        model = AltCLIPModel(config)
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        parameter.data.fill_(float("nan"))
    model.init_weights()
    assert [name for name, parameter in model.named_parameters() if not parameter.isfinite().all()] == []
    assert model.logit_scale.item() == pytest.approx(config.logit_scale_init_value)


def test_resize_token_embeddings(model):
    model.resize_token_embeddings(150)
    assert model.get_input_embeddings().num_embeddings == 150 == model.config.text_config.vocab_size


def test_processor_pads_and_cuts(miniature, tmp_path):
    from transformers import AutoTokenizer, CLIPImageProcessor

    tokenizer = AutoTokenizer.from_pretrained(miniature / "text_encoder")
    processor = AltCLIPProcessor(CLIPImageProcessor(), tokenizer)
    inputs = processor(text=["dog face", "dog face and key " * 40], return_tensors="pt")
    assert inputs["input_ids"].shape == (2, 77) and inputs["attention_mask"][0].sum() < 10
    processor.save_pretrained(tmp_path)
    assert "processor_class" not in (tmp_path / "processor_config.json").read_text() + (tmp_path / "tokenizer_config.json").read_text()
