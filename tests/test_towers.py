"""What a dual encoder takes over from its towers: the names of weights in files, and what they ask of devices and checkpointing."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel

from modeling_altclip import AltCLIPDualEncoderModel

from .test_dual_encoder import batch, towers  # noqa: F401  (fixtures)

PAIRS = [("vit", "xlm-r"), ("dinov2", "modernbert"), ("clip", "bert"), ("swin", "qwen3"), ("siglip", "gpt2"), ("beit", "clip-text")]


def build_dual(towers, vision, text):  # noqa: F811
    poolings = {} if vision != "siglip" else {"vision_pooling": "pooler"}
    return AltCLIPDualEncoderModel.from_towers(towers(vision), towers(text), projection_dim=16, **poolings).eval()


def assert_same_weights(model, expected):
    assert model.state_dict().keys() == expected.state_dict().keys()
    for name, weight in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight), name


@pytest.mark.parametrize("vision,text", PAIRS)
def test_files_name_weights_as_each_tower_alone_does(towers, tmp_path, vision, text):  # noqa: F811
    model = build_dual(towers, vision, text)
    model.save_pretrained(tmp_path / "files")
    model.save_pretrained(tmp_path / "inside", save_original_format=False)
    saved, inside = load_file(tmp_path / "files/model.safetensors"), load_file(tmp_path / "inside/model.safetensors")
    assert inside.keys() == model.state_dict().keys()
    for name, tower in (("text_model", model.text_model), ("vision_model", model.vision_model)):
        tower.encoder.save_pretrained(tmp_path / name)
        alone = {f"{name}.encoder.{key}": weight for key, weight in load_file(tmp_path / name / "model.safetensors").items()}
        ours = {key: weight for key, weight in saved.items() if key.startswith(f"{name}.")}
        assert ours.keys() == alone.keys() and all(torch.equal(ours[key], alone[key]) for key in ours)
    # Either is read whole, by from_pretrained and, as trainers do, by load_state_dict; and what is saved next is the same.
    for folder, weights in (("files", saved), ("inside", inside)):
        read = AltCLIPDualEncoderModel.from_pretrained(tmp_path / folder)
        assert_same_weights(read, model)
        read.save_pretrained(tmp_path / "again")
        assert load_file(tmp_path / "again/model.safetensors").keys() == saved.keys()
        fresh = AltCLIPDualEncoderModel(model.config)
        fresh.load_state_dict(dict(weights))
        assert_same_weights(fresh, model)


def test_names_in_files_are_others_than_inside(towers, tmp_path):  # noqa: F811
    """Else the test above shows nothing."""
    model = build_dual(towers, "vit", "xlm-r")
    model.save_pretrained(tmp_path)
    assert "text_model.encoder.encoder.layer.0.attention.self.query.weight" in load_file(tmp_path / "model.safetensors")
    assert load_file(tmp_path / "model.safetensors").keys() != model.state_dict().keys()


def test_a_tower_hands_on_what_its_encoder_asks_for(towers):  # noqa: F811
    model = build_dual(towers, "vit", "qwen3")
    encoder = AutoModel.from_config(model.config.text_config)
    assert encoder.tp_plan and {f"text_model.encoder.{name}" for name in encoder.tp_plan} <= model.tp_plan.keys()
    assert "past_key_values" in model._skip_keys_device_placement
    assert {"ViTLayer", "Qwen3DecoderLayer"} <= set(model._no_split_modules)


@pytest.mark.parametrize("vision", ["swin", "vit"])
def test_activations_are_checkpointed(towers, batch, vision):  # noqa: F811
    """Swin's embeddings give a tuple, which transformers cannot mark."""
    model = build_dual(towers, vision, "xlm-r")
    model(**batch, return_loss=True).loss.backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    model.activation_checkpointing_enable()
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    assert model.is_activation_checkpointing
    model(**batch, return_loss=True).loss.backward()
    model.disable_input_require_grads()
    assert not model._require_grads_hooks
    compared = 0
    for name, parameter in model.named_parameters():
        if expected[name] is not None and vision == "vit":  # Swin drops whole layers at random
            torch.testing.assert_close(parameter.grad, expected[name], atol=1e-5, rtol=1e-4)
            compared += 1
    assert compared > 20 or vision == "swin"
