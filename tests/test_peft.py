"""PEFT adapters load whole or not at all, into our classes and transformers' own, by every way of loading."""

import json

import pytest
import torch
from peft import AutoPeftModel, IA3Config, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AltCLIPModel as NativeModel
from transformers import AltCLIPTextModel as NativeTextModel

from modeling_altclip import AltCLIPModel, AltCLIPTextModel

PAIRS = {"whole": (AltCLIPModel, NativeModel), "text tower": (AltCLIPTextModel, NativeTextModel)}
TEXT = ["query", "value"]
VISION = ["q_proj", "fc2"]


@pytest.fixture
def bases(model, tmp_path):
    """Save base models that our classes and transformers' both load; return their parent folder."""
    model.save_pretrained(tmp_path / "whole")
    model.text_model.save_pretrained(tmp_path / "text tower")
    return tmp_path


def settings(kind, modules):
    if kind == "IA3":
        feedforward = [name for name in modules if name == "fc2"]
        return IA3Config(target_modules=modules, feedforward_modules=feedforward)
    saved_whole = ["transformation"] if kind == "head" else None
    return LoraConfig(target_modules=modules, r=2, use_dora=kind == "DoRA", modules_to_save=saved_whole)


def trained(model):
    """Move every trainable weight away from its initial value, as training does."""
    torch.manual_seed(3)
    for parameter in model.parameters():
        if parameter.requires_grad:
            # Adapters begin without an effect: one that is not loaded would pass.
            parameter.data += 0.3 * torch.randn_like(parameter)
    return model.eval()


def output(model, batch):
    """Return the logits of a batch with images, or the embeddings of a batch of texts alone."""
    with torch.no_grad():
        outputs = model.eval()(**batch)
    return outputs.logits_per_image if "pixel_values" in batch else outputs.pooler_output


def assert_close(one, other):
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def damage_adapter(folder, damage):
    path = folder / "adapter_model.safetensors"
    save_file(damage(load_file(path)), path)


def saved_by_peft(model_class, base, folder, kind, modules):
    adapted = trained(get_peft_model(model_class.from_pretrained(base), settings(kind, modules)))
    adapted.save_pretrained(folder)
    return adapted


def saved_by_transformers(model_class, base, folder, kind, modules):
    adapted = model_class.from_pretrained(base)
    adapted.add_adapter(settings(kind, modules))
    trained(adapted).save_pretrained(folder)
    return adapted


def loaded_by_peft(model_class, base, folder):
    return PeftModel.from_pretrained(model_class.from_pretrained(base), folder)


def loaded_by_transformers(model_class, base, folder):
    model = model_class.from_pretrained(base)
    model.load_adapter(folder)
    return model


def loaded_with_its_base(model_class, base, folder):
    return model_class.from_pretrained(folder)


SAVED = {"peft": saved_by_peft, "transformers": saved_by_transformers}
LOADED = {
    "peft": loaded_by_peft,
    "transformers": loaded_by_transformers,
    "with its base": loaded_with_its_base,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("saver", SAVED)
@pytest.mark.parametrize("kind", ["LoRA", "DoRA", "IA3", "head"])
@pytest.mark.parametrize("part", PAIRS)
@pytest.mark.parametrize("trained_on", ["ours", "theirs"])
def test_adapters_fit_both(bases, ragged_batch, tmp_path, trained_on, part, kind, saver):
    ours, theirs = PAIRS[part]
    base = bases / part
    modules = TEXT + VISION if part == "whole" else TEXT
    if part != "whole":
        ragged_batch = {name: ragged_batch[name] for name in ("input_ids", "attention_mask")}
    model_class = ours if trained_on == "ours" else theirs
    adapted = SAVED[saver](model_class, base, tmp_path / "adapter", kind, modules)
    expected = output(adapted, ragged_batch)
    untrained = output(ours.from_pretrained(base), ragged_batch)
    assert (expected - untrained).abs().max() > 5e-4

    # peft's own files name our modules; save_pretrained of the model inside writes transformers' names.
    fits_theirs = tmp_path / "adapter"
    if trained_on == "ours" and saver == "peft":
        fits_theirs = tmp_path / "for both"
        adapted.get_base_model().save_pretrained(fits_theirs)

    for how, load in LOADED.items():
        assert_close(output(load(ours, base, tmp_path / "adapter"), ragged_batch), expected)
        if kind != "DoRA" or how == "peft":  # transformers does not load DoRA onto its own classes
            assert_close(output(load(theirs, base, fits_theirs), ragged_batch), expected)
    if (trained_on, saver) != ("theirs", "transformers"):  # these files name no class
        loaded = AutoPeftModel.from_pretrained(fits_theirs)
        assert type(loaded.get_base_model()) is theirs
        assert_close(output(loaded, ragged_batch), expected)


def test_files_name_what_transformers_has(bases, ragged_batch, tmp_path):
    base = bases / "whole"
    folder = tmp_path / "adapter"
    expected = output(saved_by_peft(AltCLIPModel, base, folder, "LoRA", TEXT), ragged_batch)

    # peft's own files name the class that was trained, ours, which AutoPeftModel may not import.
    with pytest.raises(ValueError, match="not in the import allowlist"):
        AutoPeftModel.from_pretrained(folder)
    allowed = AutoPeftModel.from_pretrained(folder, import_allowlist=["modeling_altclip"])
    assert type(allowed.get_base_model()) is AltCLIPModel
    assert_close(output(allowed, ragged_batch), expected)

    # Files of our save_pretrained name transformers' class: AutoPeftModel loads them without this package.
    loaded_by_transformers(AltCLIPModel, base, folder).save_pretrained(tmp_path / "handed on")
    config = json.loads((tmp_path / "handed on/adapter_config.json").read_text())
    native = {
        "base_model_class": "AltCLIPModel",
        "parent_library": "transformers.models.altclip.modeling_altclip",
    }
    assert config["auto_mapping"] == native
    assert config["base_model_name_or_path"] == str(base)
    names = load_file(tmp_path / "handed on/adapter_model.safetensors")
    assert all(".roberta.encoder.layers." in name for name in names)
    # Two layers x query and value x the matrices A and B.
    assert len(names) == 8
    loaded = AutoPeftModel.from_pretrained(tmp_path / "handed on")
    assert type(loaded.get_base_model()) is NativeModel
    assert_close(output(loaded, ragged_batch), expected)


@pytest.mark.filterwarnings("ignore")
def test_a_merged_model_is_saved_whole(bases, ragged_batch, tmp_path):
    adapted = saved_by_peft(AltCLIPModel, bases / "whole", tmp_path / "adapter", "LoRA", TEXT + VISION)
    expected = output(adapted, ragged_batch)
    # Saving the adapter alone first once left peft's layers in the merged folder, which nothing could load.
    adapted.get_base_model().save_pretrained(tmp_path / "for both")
    assert not (tmp_path / "for both/model.safetensors").exists()
    merged = adapted.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    for model_class in (AltCLIPModel, NativeModel):
        model = model_class.from_pretrained(tmp_path / "merged")
        assert_close(output(model, ragged_batch), expected)


# A layer is missing, a layer has another name, a layer is of no module.
def lacking(weights):
    return {name: weight for name, weight in weights.items() if "layers.1.attention.self.query" not in name}


def strange(weights):
    return {name.replace("self.query", "self.asked"): weight for name, weight in weights.items()}


def overfull(weights):
    return weights | {"base_model.model.text_model.stray.lora_A.weight": torch.zeros(2, 3)}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "damage,named",
    [(lacking, "missing: .*1.attention.self.query"), (strange, "left over: .*asked"), (overfull, "stray")],
)
@pytest.mark.parametrize("how", LOADED)
def test_half_an_adapter_is_none(bases, ragged_batch, tmp_path, how, damage, named):
    base = bases / "whole"
    folder = tmp_path / "adapter"
    saved_by_peft(NativeModel, base, folder, "LoRA", TEXT + VISION)
    damage_adapter(folder, damage)
    with pytest.raises(ValueError, match=f"not a whole adapter of AltCLIPModel. .*{named}") as error:
        LOADED[how](AltCLIPModel, base, folder)
    assert "\n" not in str(error.value)


def not_a_number(weights):
    name = sorted(weights)[0]
    return weights | {name: weights[name] * torch.nan}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", LOADED)
def test_an_adapter_of_nan_is_not_loaded(bases, tmp_path, how):
    saved_by_peft(NativeModel, bases / "whole", tmp_path / "adapter", "LoRA", TEXT + VISION)
    damage_adapter(tmp_path / "adapter", not_a_number)
    with pytest.raises(ValueError, match="has 1 of .* weights with values that are NaN or infinite"):
        LOADED[how](AltCLIPModel, bases / "whole", tmp_path / "adapter")


@pytest.mark.parametrize("damage", [strange, not_a_number])
def test_a_refused_adapter_is_taken_off(bases, ragged_batch, tmp_path, damage):
    base = bases / "whole"
    folder = tmp_path / "adapter"
    saved_by_peft(NativeModel, base, folder, "LoRA", TEXT)
    damage_adapter(folder, damage)
    model = AltCLIPModel.from_pretrained(base)
    before = output(model, ragged_batch)
    with pytest.raises(ValueError, match="not a whole adapter|NaN or infinite"):
        model.load_adapter(folder)
    assert torch.equal(output(model, ragged_batch), before)


@pytest.mark.filterwarnings("ignore")
def test_a_second_adapter(bases, ragged_batch, tmp_path):
    base = bases / "whole"
    saved_by_peft(AltCLIPModel, base, tmp_path / "first", "LoRA", TEXT)
    expected = output(saved_by_peft(NativeModel, base, tmp_path / "second", "LoRA", ["key"]), ragged_batch)

    # peft's own method needs a key_mapping from transformers' names to ours, and refuses without it.
    model = loaded_by_peft(AltCLIPModel, base, tmp_path / "first")
    with pytest.raises(ValueError, match="left over: .*key.lora_A.*key_mapping=model.get_base_model"):
        model.load_adapter(tmp_path / "second", "second")

    model = loaded_by_peft(AltCLIPModel, base, tmp_path / "first")
    model.load_adapter(tmp_path / "second", "second", key_mapping=model.get_base_model().key_mapping)
    model.set_adapter("second")
    assert_close(output(model, ragged_batch), expected)


def test_state_dicts_of_adapted_models_load_as_ever(model, ragged_batch):
    adapted = trained(get_peft_model(model, settings("LoRA", TEXT)))
    expected = output(adapted, ragged_batch)
    state = {name: value.clone() for name, value in adapted.state_dict().items()}
    for parameter in adapted.parameters():
        parameter.data.zero_()
    adapted.load_state_dict(state)
    assert torch.equal(output(adapted, ragged_batch), expected)
    scale = {"base_model.model.logit_scale": torch.tensor(1.0)}
    adapted.load_state_dict(scale, strict=False)
    assert adapted.get_base_model().logit_scale == 1
