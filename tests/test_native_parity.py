"""Ours against transformers' own AltCLIP: the same weights, the same numbers."""

import inspect

import pytest
import torch
from transformers import AltCLIPConfig as NativeConfig
from transformers import AltCLIPModel as NativeModel
from transformers import AltCLIPTextModel as NativeTextModel

from modeling_altclip import AltCLIPModel, AltCLIPTextModel

OUTPUTS = ("loss", "logits_per_image", "logits_per_text", "text_embeds", "image_embeds")
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
    """transformers' model with the weights of `model`, through a folder on disk."""
    model.save_pretrained(tmp_path / "ours")
    return NativeModel.from_pretrained(
        tmp_path / "ours", config=NativeConfig.from_pretrained(tmp_path / "ours")
    ).eval()


@pytest.fixture(params=MASKS)
def texts(request, ragged_batch):
    mask = MASKS[request.param](ragged_batch["attention_mask"])
    input_ids = (
        ragged_batch["input_ids"]
        if mask is not None
        else torch.where(ragged_batch["input_ids"] == 1, 5, ragged_batch["input_ids"])
    )
    return {"input_ids": input_ids, "attention_mask": mask}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_outputs_and_gradients(model, native, ragged_batch, texts, attention, dtype, training):
    pixel_values, seen = ragged_batch["pixel_values"].to(dtype), []
    for one in (model, native):
        one.set_attn_implementation(attention)
        one.to(dtype).train(training)
        torch.manual_seed(3)  # with dropout on, both draw the same masks
        outputs = one(**texts, pixel_values=pixel_values, return_loss=True)
        outputs.loss.backward()
        gradients = {
            name.replace("roberta.encoder.layers.", "roberta.encoder.layer."): p.grad
            for name, p in one.named_parameters()
        }
        seen.append((outputs, gradients))
    (ours, our_gradients), (theirs, their_gradients) = seen
    for name in OUTPUTS:
        assert_near(ours[name], theirs[name], OUTPUT_BITS[dtype], name)
    tokens, native_tokens = (
        ours.text_model_output.last_hidden_state,
        theirs.text_model_output.last_hidden_state,
    )
    assert_near(tokens, native_tokens, OUTPUT_BITS[dtype])
    assert our_gradients.keys() == their_gradients.keys()
    # The bias of a key adds the same to all scores of a query: its gradient is rounding alone.
    compared = {
        name: gradient
        for name, gradient in our_gradients.items()
        if not name.endswith(("key.bias", "k_proj.bias"))
    }
    still = [name for name, gradient in compared.items() if gradient is None or gradient.abs().max() == 0]
    assert not still, f"no gradient reaches {still}"
    for name, gradient in compared.items():
        assert_near(gradient, their_gradients[name], GRADIENT_BITS[dtype], name)


def test_dropout_is_on_where_it_is_compared(model, ragged_batch):
    """Guards the comparison in training mode: without dropout it would be the one in eval mode again."""
    model.train()
    first, second = (model(**ragged_batch).logits_per_image for _ in range(2))
    assert (first - second).abs().max() > 1e-3


def test_padding_matters_and_is_masked(model, ragged_batch):
    """Guards the comparison of masks: were they ignored by both, they would agree too."""
    with torch.no_grad():
        padded = model.get_text_features(
            ragged_batch["input_ids"], ragged_batch["attention_mask"]
        ).pooler_output[0]
        alone = model.get_text_features(ragged_batch["input_ids"][:1, :3]).pooler_output[0]
        unmasked = model.get_text_features(ragged_batch["input_ids"]).pooler_output[0]
    torch.testing.assert_close(padded, alone, atol=1e-5, rtol=1e-5)
    assert (unmasked - alone).abs().max() > 1e-4


def test_features_equal_native(model, native, ragged_batch):
    larger = torch.randn(2, 3, 48, 40)
    with torch.no_grad():
        texts = {"input_ids": ragged_batch["input_ids"], "attention_mask": ragged_batch["attention_mask"]}
        torch.testing.assert_close(
            model.get_text_features(**texts).pooler_output, native.get_text_features(**texts).pooler_output
        )
        for images in (
            {"pixel_values": ragged_batch["pixel_values"]},
            {"pixel_values": larger, "interpolate_pos_encoding": True},
        ):
            torch.testing.assert_close(
                model.get_image_features(**images).pooler_output,
                native.get_image_features(**images).pooler_output,
            )
        with pytest.raises(ValueError, match="doesn't match"):
            model.get_image_features(pixel_values=larger)


def test_tuples_and_inner_states_equal_native(model, native, ragged_batch):
    for one in (model, native):
        one.set_attn_implementation("eager")  # fused attention gives no weights
    with torch.no_grad():
        ours, theirs = (one(**ragged_batch, return_loss=True, return_dict=False) for one in (model, native))
        inner = {"output_hidden_states": True, "output_attentions": True}
        our_outputs, their_outputs = (one(**ragged_batch, **inner) for one in (model, native))

    def flat(values):
        return [leaf for value in values for leaf in (flat(value) if isinstance(value, tuple) else [value])]

    assert all(isinstance(part, tuple) for part in ours[-2:])
    assert len(flat(ours)) == len(flat(theirs)) == 9
    for one, other in zip(flat(ours), flat(theirs)):
        assert_near(one, other, OUTPUT_BITS[torch.float32])
    for tower in ("text_model_output", "vision_model_output"):
        for name, length in (("hidden_states", 3), ("attentions", 2)):
            one, other = our_outputs[tower][name], their_outputs[tower][name]
            assert len(one) == len(other) == length
            for layer, other_layer in zip(one, other):
                assert_near(layer, other_layer, OUTPUT_BITS[torch.float32])


def test_takes_a_configuration_of_native(model, native, ragged_batch, tmp_path):
    AltCLIPModel(native.config)
    loaded = AltCLIPModel.from_pretrained(
        tmp_path / "ours", config=native.config, attn_implementation="eager"
    ).eval()
    assert loaded.text_model.roberta.config._attn_implementation == "eager"
    with torch.no_grad():
        torch.testing.assert_close(
            loaded(**ragged_batch).logits_per_image,
            native(**ragged_batch).logits_per_image,
            atol=1e-5,
            rtol=1e-5,
        )


def test_native_reads_our_text_tower_alone(model, tmp_path):
    model.text_model.save_pretrained(tmp_path)
    native, info = NativeTextModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert torch.equal(
        native.roberta.encoder.layers[1].output.dense.weight,
        model.text_model.roberta.encoder.layer[1].output.dense.weight,
    )


COMMON = ("from_pretrained", "save_pretrained", "forward")
OF_WHOLE_MODELS = ("get_text_features", "get_image_features")


@pytest.mark.parametrize(
    "ours,theirs,method",
    [
        *((AltCLIPModel, NativeModel, method) for method in (*COMMON, *OF_WHOLE_MODELS)),
        *((AltCLIPTextModel, NativeTextModel, method) for method in COMMON),
    ],
)
def test_methods_take_transformers_arguments(ours, theirs, method):
    """By position as by name: ours have them in the same order, or hand on what follows `*args`."""
    by_position = []
    for parameters in (
        inspect.signature(getattr(kind, method)).parameters.values() for kind in (ours, theirs)
    ):
        kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        by_position.append([parameter for parameter in parameters if parameter.kind in kinds])
    given = [
        parameter.name for parameter in by_position[0] if parameter.kind != inspect.Parameter.VAR_POSITIONAL
    ]
    assert given == [parameter.name for parameter in by_position[1]][: len(given)]
    hands_on = any(parameter.kind == inspect.Parameter.VAR_POSITIONAL for parameter in by_position[0])
    assert hands_on or len(given) == len(by_position[1])


def test_a_checkpoint_is_loaded_by_transformers_name_of_the_argument(model, tmp_path):
    model.save_pretrained(save_directory=tmp_path, is_main_process=True)
    loaded = AltCLIPModel.from_pretrained(pretrained_model_name_or_path=tmp_path)
    assert torch.equal(loaded.logit_scale, model.logit_scale)
