"""Assembly from a teacher, and what every model in transformers can do."""

import pytest
import torch
from transformers import CLIPModel, XLMRobertaModel

from modeling_altclip import AltCLIPModel


def assert_same(model, other, batch):
    """Check that the weights are equal to the bit, and logits but for rounding.

    Weights that were read lie elsewhere in memory, and a processor's kernels may depend on that.
    """
    weights = other.state_dict()
    assert weights.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name]), name
    assert_same_logits(other, model, batch)


def assert_same_logits(model, other, batch):
    with torch.no_grad():
        logits = model(**batch).logits_per_image
        expected = other(**batch).logits_per_image
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


def test_from_teacher_takes_every_weight(tower_folders):
    clip = CLIPModel.from_pretrained(tower_folders[0])
    encoder = XLMRobertaModel.from_pretrained(tower_folders[1], add_pooling_layer=False)
    # Not the default, 2.6592: a scale that was not taken would show.
    clip.logit_scale.data.fill_(3.3)
    clip.save_pretrained(tower_folders[0])
    model = AltCLIPModel.from_teacher(*map(str, tower_folders), dropout=0.0)

    for ours, theirs in [
        (model.vision_model, clip.vision_model),
        (model.text_model.roberta, encoder),
        (model.visual_projection, clip.visual_projection),
        (model.text_projection, clip.text_projection),
    ]:
        expected = theirs.state_dict()
        for name, value in ours.state_dict().items():
            assert torch.equal(value, expected[name]), name
    assert model.logit_scale.item() == pytest.approx(3.3)
    # The teacher's text projection is taken over, and states the width before it.
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
    """Fill all parameters with NaN first, and see none left.

    `from_pretrained` builds on uninitialised memory: what `_init_weights` forgets would come out as garbage.
    """
    with torch.device("meta"):
        model = AltCLIPModel(config)
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        parameter.data.fill_(float("nan"))
    model.init_weights()
    assert [name for name, parameter in model.named_parameters() if not parameter.isfinite().all()] == []
    assert model.logit_scale.item() == pytest.approx(config.logit_scale_init_value)


def test_a_forward_of_nothing_is_refused(model, ragged_batch):
    with pytest.raises(ValueError, match="input_ids and pixel_values missing: give texts, images or both"):
        model()
    with pytest.raises(ValueError, match="pixel_values missing: .* both for a loss"):
        model(input_ids=ragged_batch["input_ids"], return_loss=True)


def test_token_embeddings_can_be_resized(model, ragged_batch, tmp_path):
    # From 120.
    model.resize_token_embeddings(150)
    assert model.get_input_embeddings().num_embeddings == 150
    assert model.config.text_config.vocab_size == 150
    model.save_pretrained(tmp_path)
    assert_same(model, AltCLIPModel.from_pretrained(tmp_path).eval(), ragged_batch)


def test_attention_reaches_both_towers(model, ragged_batch):
    """Compare the attention kernels.

    transformers' compilation of flex attention is off: it takes half a minute and changes no result.
    """
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


def gradients_of(model, batch):
    """Return the gradient of each parameter, with the same dropout masks in every call."""
    torch.manual_seed(5)
    model.train().zero_grad()
    model(**batch, return_loss=True).loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def test_activation_checkpointing_changes_no_gradient(model, ragged_batch):
    """Compare with dropout on.

    A layer runs a second time for its gradient, and has to draw the masks of the first.
    """
    runs = []
    for part in (
        model.text_model.roberta.encoder.layer[0].attention,
        model.vision_model.encoder.layers[0].self_attn,
    ):
        part.register_forward_pre_hook(lambda module, _: runs.append(type(module).__name__))

    plain = gradients_of(model, ragged_batch)
    model.gradient_checkpointing_enable()
    checkpointed = gradients_of(model, ragged_batch)

    for name, gradient in plain.items():
        # These biases add the same to all scores of a query: their gradient is rounding alone.
        if name.endswith(("key.bias", "k_proj.bias")):
            continue
        assert gradient.abs().max() > 0, name
        assert (checkpointed[name] - gradient).norm() <= 1e-4 * gradient.norm(), name
    # once without checkpointing, twice with it
    assert runs.count("XLMRobertaAttention") == 1 + 2
    assert runs.count("CLIPAttention") == 1 + 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_nearly_the_same_logits(model, ragged_batch, tmp_path, dtype):
    model.save_pretrained(tmp_path)
    half = AltCLIPModel.from_pretrained(tmp_path, dtype=dtype).eval()
    assert {parameter.dtype for parameter in half.parameters()} == {dtype}
    half_batch = ragged_batch | {"pixel_values": ragged_batch["pixel_values"].to(dtype)}
    with torch.no_grad():
        expected = model(**ragged_batch).logits_per_image
        logits = half(**half_batch).logits_per_image
    # A last bit of 14 in bfloat16 is 0.06.
    torch.testing.assert_close(logits.float(), expected, atol=0.15, rtol=0)


def test_long_embeddings_do_not_overflow_in_float16(model, ragged_batch, tmp_path):
    """The square of a value above 256 is infinite in float16; a length of its own changes no logit."""
    with torch.no_grad():
        expected = model(**ragged_batch).logits_per_image
        for projection in (model.text_projection, model.visual_projection):
            projection.weight.mul_(8192)
    model.save_pretrained(tmp_path)
    half = AltCLIPModel.from_pretrained(tmp_path, dtype=torch.float16).eval()
    half_batch = ragged_batch | {"pixel_values": ragged_batch["pixel_values"].half()}
    with torch.no_grad():
        outputs = half(**half_batch)
        longest = half.get_text_features(ragged_batch["input_ids"]).pooler_output.abs().max()
    assert longest > 300
    assert outputs.text_embeds.dtype == torch.float16
    torch.testing.assert_close(outputs.logits_per_image.float(), expected, atol=0.15, rtol=0)


def test_parts_may_lie_on_different_devices(model, ragged_batch, tmp_path):
    """Place the text tower on disk and the rest in memory, as `device_map` does."""
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
    assert_same_logits(split, model, ragged_batch)
    everywhere = AltCLIPModel.from_pretrained(tmp_path / "model", device_map="auto")
    assert next(everywhere.parameters()).device.type == "cpu"


def test_compiles_whole(model, ragged_batch):
    """Compile one graph, without a break."""
    # The backend `eager` traces the model, which finds graph breaks, and generates no code.
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        loss = compiled(**ragged_batch, return_loss=True).loss
        expected = model(**ragged_batch, return_loss=True).loss
    torch.testing.assert_close(loss, expected)


def test_exports_for_any_number_of_texts_tokens_and_images(model, ragged_batch):
    # Export specialises dimensions of size 1. XLM-R's positions begin at 2, so that 40 leave 38 tokens.
    texts = torch.export.Dim("texts", min=2, max=64)
    tokens = torch.export.Dim("tokens", min=2, max=38)
    images = torch.export.Dim("images", min=2, max=64)
    shapes = {
        "input_ids": {0: texts, 1: tokens},
        "attention_mask": {0: texts, 1: tokens},
        "pixel_values": {0: images},
    }
    exported = torch.export.export(model, (), ragged_batch, dynamic_shapes=shapes).module()
    # Other sizes than those that were exported with: 3 texts of 9 tokens, and 2 images.
    fewer = {
        "input_ids": ragged_batch["input_ids"][:3, :9],
        "attention_mask": ragged_batch["attention_mask"][:3, :9],
        "pixel_values": ragged_batch["pixel_values"][:2],
    }
    assert_same_logits(exported, model, fewer)
