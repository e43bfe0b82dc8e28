"""Assembly from a teacher, and what every model in transformers can do."""

import pytest
import torch
from transformers import CLIPModel, XLMRobertaModel

from modeling_altclip import AltCLIPModel


def assert_same(model, other, batch):
    """Weights equal to the bit, and logits but for rounding: weights that were read lie elsewhere in memory, on
    which a processor's kernels may depend.
    """
    weights = other.state_dict()
    assert weights.keys() == model.state_dict().keys()
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        torch.testing.assert_close(
            other(**batch).logits_per_image, model(**batch).logits_per_image, atol=1e-5, rtol=1e-5
        )


def test_from_teacher_takes_every_weight(tower_folders):
    clip, encoder = (
        CLIPModel.from_pretrained(tower_folders[0]),
        XLMRobertaModel.from_pretrained(tower_folders[1], add_pooling_layer=False),
    )
    clip.logit_scale.data.fill_(3.3)
    clip.save_pretrained(tower_folders[0])
    model = AltCLIPModel.from_teacher(*map(str, tower_folders), dropout=0.0)
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


def test_from_teacher_saves_and_loads(tower_folders, tmp_path, ragged_batch):
    model = AltCLIPModel.from_teacher(*map(str, tower_folders)).eval()
    model.save_pretrained(tmp_path / "model")
    loaded = AltCLIPModel.from_pretrained(tmp_path / "model").eval()
    assert_same(model, loaded, ragged_batch)


def test_one_side_alone(model, ragged_batch):
    with torch.no_grad():
        both = model(**ragged_batch)
        texts = model(input_ids=ragged_batch["input_ids"], attention_mask=ragged_batch["attention_mask"])
        images = model(pixel_values=ragged_batch["pixel_values"])
    torch.testing.assert_close(texts.text_embeds, both.text_embeds)
    torch.testing.assert_close(images.image_embeds, both.image_embeds)
    assert texts.logits_per_text is None
    assert texts.image_embeds is None
    assert images.logits_per_image is None


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


def test_resize_token_embeddings(model, ragged_batch, tmp_path):
    model.resize_token_embeddings(150)
    assert model.get_input_embeddings().num_embeddings == 150 == model.config.text_config.vocab_size
    model.save_pretrained(tmp_path)
    assert_same(model, AltCLIPModel.from_pretrained(tmp_path).eval(), ragged_batch)


def test_a_forward_of_nothing_is_refused(model, ragged_batch):
    with pytest.raises(ValueError, match="input_ids and pixel_values missing: give texts, images or both"):
        model()
    with pytest.raises(ValueError, match="pixel_values missing: .* both for a loss"):
        model(input_ids=ragged_batch["input_ids"], return_loss=True)


def test_attention_reaches_both_towers(model, ragged_batch):
    """Without transformers' compilation of flex attention, which takes half a minute and changes no result."""
    towers = model.text_model.roberta, model.vision_model
    logits = {}
    for attention in ("eager", "sdpa", "flex_attention"):
        model.set_attn_implementation(attention)
        assert {tower.config._attn_implementation for tower in towers} == {attention}
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            logits[attention] = model(**ragged_batch).logits_per_image
    torch.testing.assert_close(logits["sdpa"], logits["eager"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits["flex_attention"], logits["eager"], atol=1e-5, rtol=1e-5)
    model.set_attn_implementation({"text_config": "eager", "vision_config": "sdpa"})
    assert [tower.config._attn_implementation for tower in towers] == ["eager", "sdpa"]


def test_activation_checkpointing_changes_no_gradient(model, ragged_batch):
    """With dropout on: a layer runs a second time for its gradient, and draws the masks of the first."""
    gradients, runs = [], []
    for part in (
        model.text_model.roberta.encoder.layer[0].attention,
        model.vision_model.encoder.layers[0].self_attn,
    ):
        part.register_forward_pre_hook(lambda module, _: runs.append(type(module).__name__))
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable()
        torch.manual_seed(5)
        model.train().zero_grad()
        model(**ragged_batch, return_loss=True).loss.backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
    plain, checkpointed = gradients
    for name, gradient in plain.items():
        if not name.endswith(
            ("key.bias", "k_proj.bias")
        ):  # they add the same to all scores of a query: rounding alone
            assert gradient.abs().max() > 0, name
            assert (checkpointed[name] - gradient).norm() <= 1e-4 * gradient.norm(), name
    assert runs.count("XLMRobertaAttention") == runs.count("CLIPAttention") == 1 + 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(model, ragged_batch, tmp_path, dtype):
    model.save_pretrained(tmp_path)
    half = AltCLIPModel.from_pretrained(tmp_path, dtype=dtype).eval()
    assert {parameter.dtype for parameter in half.parameters()} == {dtype}
    with torch.no_grad():
        expected, logits = (
            model(**ragged_batch).logits_per_image,
            half(**ragged_batch | {"pixel_values": ragged_batch["pixel_values"].to(dtype)}).logits_per_image,
        )
    torch.testing.assert_close(
        logits.float(), expected, atol=0.15, rtol=0
    )  # a last bit of 14 in bfloat16 is 0.06


def test_parts_on_different_devices(model, ragged_batch, tmp_path):
    """The text tower on disk, the rest in memory, as `device_map` would place them."""
    model.save_pretrained(tmp_path / "model")
    device_map = {
        "text_model": "disk",
        "vision_model": "cpu",
        "visual_projection": "cpu",
        "text_projection": "cpu",
        "logit_scale": "cpu",
    }
    split = AltCLIPModel.from_pretrained(
        tmp_path / "model", device_map=device_map, offload_folder=tmp_path / "disk"
    ).eval()
    assert {parameter.device.type for parameter in split.text_model.parameters()} == {"meta"}
    with torch.no_grad():
        torch.testing.assert_close(
            split(**ragged_batch).logits_per_image,
            model(**ragged_batch).logits_per_image,
            atol=1e-5,
            rtol=1e-5,
        )
    everywhere = AltCLIPModel.from_pretrained(tmp_path / "model", device_map="auto")
    assert next(everywhere.parameters()).device.type == "cpu"


def test_compiles_whole(model, ragged_batch):
    """One graph, no break."""
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(
            compiled(**ragged_batch, return_loss=True).loss, model(**ragged_batch, return_loss=True).loss
        )


def test_exports_for_any_number_of_texts_tokens_and_images(model, ragged_batch):
    texts, tokens, images = (
        torch.export.Dim(name, min=2, max=size)
        for name, size in (("texts", 64), ("tokens", 38), ("images", 64))
    )
    shapes = {
        "input_ids": {0: texts, 1: tokens},
        "attention_mask": {0: texts, 1: tokens},
        "pixel_values": {0: images},
    }
    exported = torch.export.export(model, (), ragged_batch, dynamic_shapes=shapes).module()
    fewer = {
        "input_ids": ragged_batch["input_ids"][:3, :9],
        "attention_mask": ragged_batch["attention_mask"][:3, :9],
        "pixel_values": ragged_batch["pixel_values"][:2],
    }
    with torch.no_grad():
        torch.testing.assert_close(
            exported(**fewer).logits_per_image, model(**fewer).logits_per_image, atol=1e-5, rtol=1e-5
        )
