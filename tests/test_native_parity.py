"""Ours against transformers' own AltCLIP, both ways."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AltCLIPConfig as NativeConfig
from transformers import AltCLIPModel as NativeModel

from modeling_altclip import AltCLIPModel


@pytest.fixture
def native(model, tmp_path):
    model.save_pretrained(tmp_path / "ours")
    native = NativeModel.from_pretrained(tmp_path / "ours", config=NativeConfig.from_pretrained(tmp_path / "ours"))
    return native.eval()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_outputs_equal_native(model, native, batch, attention):
    model.set_attn_implementation(attention)
    native.set_attn_implementation(attention)
    with torch.no_grad():
        ours, theirs = model(**batch, return_loss=True), native(**batch, return_loss=True)
    for name in ("loss", "logits_per_image", "logits_per_text", "text_embeds", "image_embeds"):
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.text_model_output.last_hidden_state, theirs.text_model_output.last_hidden_state, atol=1e-5, rtol=1e-5)


def test_padding_matters_and_is_masked(model, batch):
    """Guards the parity test: were masks ignored by both, they would agree too."""
    with torch.no_grad():
        padded = model.get_text_features(batch["input_ids"], batch["attention_mask"]).pooler_output[0]
        alone = model.get_text_features(batch["input_ids"][:1, :3]).pooler_output[0]
        unmasked = model.get_text_features(batch["input_ids"]).pooler_output[0]
    torch.testing.assert_close(padded, alone, atol=1e-5, rtol=1e-5)
    assert (unmasked - alone).abs().max() > 1e-4


@pytest.mark.parametrize("training", [False, True])
def test_gradients_equal_native(model, native, batch, training):
    for one in (model, native):
        one.train(training)
        torch.manual_seed(3)  # with dropout on, both draw the same masks
        one(**batch, return_loss=True).loss.backward()
    ours = {name: parameter.grad for name, parameter in model.named_parameters()}
    theirs = {
        name.replace("roberta.encoder.layers.", "roberta.encoder.layer."): parameter.grad for name, parameter in native.named_parameters()
    }
    assert ours.keys() == theirs.keys()
    missing = [name for name, gradient in ours.items() if gradient is None or gradient.abs().max() == 0]
    assert not missing, f"no gradient reaches {missing}"
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, theirs[name], atol=1e-5, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


def test_features_equal_native(model, native, batch):
    with torch.no_grad():
        texts = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
        torch.testing.assert_close(model.get_text_features(**texts).pooler_output, native.get_text_features(**texts).pooler_output)
        images = {"pixel_values": batch["pixel_values"]}
        torch.testing.assert_close(model.get_image_features(**images).pooler_output, native.get_image_features(**images).pooler_output)


def renamed(name, text_layers, vision_layers):
    name = name.replace("text_model.roberta.encoder.layer.", f"text_model.roberta.encoder.{text_layers}.")
    return name.replace("vision_model.encoder.layers.", f"vision_model.encoder.{vision_layers}.")


@pytest.mark.parametrize("text_layers,vision_layers", [("layer", "layers"), ("layer", "layer"), ("layers", "layers")])
def test_reads_every_spelling_and_writes_the_original(model, tmp_path, text_layers, vision_layers):
    model.save_pretrained(tmp_path / "a")
    weights = load_file(tmp_path / "a/model.safetensors")
    (tmp_path / "b").mkdir()
    (tmp_path / "b/config.json").write_bytes((tmp_path / "a/config.json").read_bytes())
    save_file(
        {renamed(name, text_layers, vision_layers): value for name, value in weights.items()},
        tmp_path / "b/model.safetensors",
        {"format": "pt"},
    )
    loaded = AltCLIPModel.from_pretrained(tmp_path / "b")
    loaded.save_pretrained(tmp_path / "c")
    again = load_file(tmp_path / "c/model.safetensors")
    assert again.keys() == weights.keys()
    assert all(torch.equal(again[name], value) for name, value in weights.items())


def test_what_native_saves_loads_in_ours(native, model, tmp_path):
    native.save_pretrained(tmp_path / "native")
    loaded = AltCLIPModel.from_pretrained(tmp_path / "native")
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())
