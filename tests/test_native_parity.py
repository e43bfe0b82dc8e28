"""Ours against transformers' own AltCLIP: the same weights, the same numbers."""

import inspect

import pytest
import torch
from transformers import AltCLIPConfig as NativeConfig
from transformers import AltCLIPModel as NativeModel
from transformers import AltCLIPTextModel as NativeTextModel

from modeling_altclip import AltCLIPModel, AltCLIPTextModel

OUTPUTS = ["loss", "logits_per_image", "logits_per_text", "text_embeds", "image_embeds"]
# In last bits of a tensor's largest value. All differences were zero in float32 where this was written, but a
# processor's kernels may depend on where a tensor lies in memory, and then add up in another order.
OUTPUT_BITS = {torch.float32: 32, torch.bfloat16: 4}
GRADIENT_BITS = {torch.float32: 256, torch.bfloat16: 16}
MASKS = {
    "unpadded": lambda mask: None,
    "int mask": lambda mask: mask,
    "bool mask": lambda mask: mask.bool(),
    "float mask": lambda mask: mask.float(),
}


def assert_near(ours, theirs, bits, name=""):
    allowed = bits * torch.finfo(theirs.dtype).eps * theirs.abs().max()
    assert (ours - theirs).abs().max() <= allowed, name


@pytest.fixture
def native(model, tmp_path):
    """Return transformers' model with the weights of `model`, through a folder on disk."""
    model.save_pretrained(tmp_path / "ours")
    config = NativeConfig.from_pretrained(tmp_path / "ours")
    return NativeModel.from_pretrained(tmp_path / "ours", config=config).eval()


@pytest.fixture(params=MASKS)
def texts(request, ragged_batch):
    """Return token ids and a mask of each kind; without a mask, the padding is a word like any other."""
    input_ids = ragged_batch["input_ids"]
    mask = MASKS[request.param](ragged_batch["attention_mask"])
    if mask is None:
        input_ids = torch.where(input_ids == 1, 5, input_ids)
    return {"input_ids": input_ids, "attention_mask": mask}


def gradients_of(model):
    """Return the gradients by name; transformers' own calls the layers of the text tower otherwise."""
    gradients = {}
    for name, parameter in model.named_parameters():
        name = name.replace("roberta.encoder.layers.", "roberta.encoder.layer.")
        gradients[name] = parameter.grad
    return gradients


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_outputs_and_gradients_equal_native(model, native, ragged_batch, texts, attention, dtype, training):
    pixel_values = ragged_batch["pixel_values"].to(dtype)

    def forward_and_backward(one):
        one.set_attn_implementation(attention)
        one.to(dtype).train(training)
        torch.manual_seed(3)  # with dropout on, both draw the same masks
        outputs = one(**texts, pixel_values=pixel_values, return_loss=True)
        outputs.loss.backward()
        return outputs

    ours = forward_and_backward(model)
    theirs = forward_and_backward(native)
    for name in OUTPUTS:
        assert_near(ours[name], theirs[name], OUTPUT_BITS[dtype], name)
    tokens = ours.text_model_output.last_hidden_state
    assert_near(tokens, theirs.text_model_output.last_hidden_state, OUTPUT_BITS[dtype])

    gradients = gradients_of(model)
    expected = gradients_of(native)
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        # The bias of a key adds the same to all scores of a query: its gradient is rounding alone.
        if name.endswith(("key.bias", "k_proj.bias")):
            continue
        assert gradient is not None, name
        assert gradient.abs().max() > 0, name
        assert_near(gradient, expected[name], GRADIENT_BITS[dtype], name)


def test_dropout_is_on_where_it_is_compared(model, ragged_batch):
    """Guard the comparison in training mode: without dropout it would be the one in eval mode again."""
    model.train()
    first = model(**ragged_batch).logits_per_image
    second = model(**ragged_batch).logits_per_image
    assert (first - second).abs().max() > 1e-3


def test_padding_matters_and_is_masked(model, ragged_batch):
    """Guard the comparison of masks: were they ignored by both, they would agree too."""
    input_ids = ragged_batch["input_ids"]
    with torch.no_grad():
        padded = model.get_text_features(input_ids, ragged_batch["attention_mask"]).pooler_output[0]
        # Text 0 has 3 tokens.
        alone = model.get_text_features(input_ids[:1, :3]).pooler_output[0]
        unmasked = model.get_text_features(input_ids).pooler_output[0]
    torch.testing.assert_close(padded, alone, atol=1e-5, rtol=1e-5)
    assert (unmasked - alone).abs().max() > 1e-4


def test_features_equal_native(model, native, ragged_batch):
    texts = {"input_ids": ragged_batch["input_ids"], "attention_mask": ragged_batch["attention_mask"]}
    # Not square, and not the 32 pixels of the configuration.
    larger = torch.randn(2, 3, 48, 40)
    with torch.no_grad():
        found = model.get_text_features(**texts).pooler_output
        torch.testing.assert_close(found, native.get_text_features(**texts).pooler_output)
        for images in (
            {"pixel_values": ragged_batch["pixel_values"]},
            {"pixel_values": larger, "interpolate_pos_encoding": True},
        ):
            found = model.get_image_features(**images).pooler_output
            torch.testing.assert_close(found, native.get_image_features(**images).pooler_output)
        with pytest.raises(ValueError, match="doesn't match"):
            model.get_image_features(pixel_values=larger)


def flat(values):
    """Return the leaves of nested tuples: (a, (b, (c, d))) -> [a, b, c, d]."""
    leaves = []
    for value in values:
        leaves += flat(value) if isinstance(value, tuple) else [value]
    return leaves


def test_tuples_equal_native(model, native, ragged_batch):
    with torch.no_grad():
        ours = model(**ragged_batch, return_loss=True, return_dict=False)
        theirs = native(**ragged_batch, return_loss=True, return_dict=False)
    assert all(isinstance(part, tuple) for part in ours[-2:])
    # Loss, two matrices of logits, two embeddings, and of each tower its last states and its pooled output.
    assert len(flat(ours)) == 9
    for one, other in zip(flat(ours), flat(theirs), strict=True):
        assert_near(one, other, OUTPUT_BITS[torch.float32])


def test_inner_states_equal_native(model, native, ragged_batch):
    options = {"output_hidden_states": True, "output_attentions": True}
    model.set_attn_implementation("eager")  # fused attention gives no weights
    native.set_attn_implementation("eager")
    with torch.no_grad():
        ours = model(**ragged_batch, **options)
        theirs = native(**ragged_batch, **options)
    for tower in ("text_model_output", "vision_model_output"):
        # Two layers: the states before them and after each, and the attentions of each.
        for name, length in (("hidden_states", 3), ("attentions", 2)):
            assert len(ours[tower][name]) == length
            for layer, expected in zip(ours[tower][name], theirs[tower][name], strict=True):
                assert_near(layer, expected, OUTPUT_BITS[torch.float32])


def test_takes_a_configuration_of_native(model, native, ragged_batch, tmp_path):
    AltCLIPModel(native.config)
    loaded = AltCLIPModel.from_pretrained(
        tmp_path / "ours", config=native.config, attn_implementation="eager"
    ).eval()
    assert loaded.text_model.roberta.config._attn_implementation == "eager"
    with torch.no_grad():
        logits = loaded(**ragged_batch).logits_per_image
        expected = native(**ragged_batch).logits_per_image
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


def test_native_reads_our_text_tower_alone(model, tmp_path):
    model.text_model.save_pretrained(tmp_path)
    native, info = NativeTextModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert torch.equal(
        native.roberta.encoder.layers[1].output.dense.weight,
        model.text_model.roberta.encoder.layer[1].output.dense.weight,
    )


COMMON = ["from_pretrained", "save_pretrained", "forward"]
OF_WHOLE_MODELS = [*COMMON, "get_text_features", "get_image_features"]


def positional_parameters(method):
    """Return the names of parameters that can be given by position, and True if `*args` follows them."""
    parameters = inspect.signature(method).parameters.values()
    names = [one.name for one in parameters if one.kind == inspect.Parameter.POSITIONAL_OR_KEYWORD]
    takes_more = any(one.kind == inspect.Parameter.VAR_POSITIONAL for one in parameters)
    return names, takes_more


@pytest.mark.parametrize(
    "ours,theirs,method",
    [
        *((AltCLIPModel, NativeModel, method) for method in OF_WHOLE_MODELS),
        *((AltCLIPTextModel, NativeTextModel, method) for method in COMMON),
    ],
)
def test_methods_take_transformers_arguments(ours, theirs, method):
    """Take them by position as by name: in the same order, or handed on as `*args`."""
    names, hands_on = positional_parameters(getattr(ours, method))
    expected, theirs_take_more = positional_parameters(getattr(theirs, method))
    assert names == expected[: len(names)]
    if not hands_on:
        assert len(names) == len(expected)
        assert not theirs_take_more


def test_a_checkpoint_is_loaded_by_transformers_name_of_the_argument(model, tmp_path):
    model.save_pretrained(save_directory=tmp_path, is_main_process=True)
    loaded = AltCLIPModel.from_pretrained(pretrained_model_name_or_path=tmp_path)
    assert torch.equal(loaded.logit_scale, model.logit_scale)
