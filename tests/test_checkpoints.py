"""Checkpoints of every layer naming and every kind of file are read whole, or refused."""

import json
import pickle
import re
import shutil

import pytest
import torch
from transformers import AltCLIPConfig as NativeConfig
from transformers import AltCLIPModel as NativeModel
from transformers import (
    BertConfig,
    BertModel,
    CLIPModel,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
    XLMRobertaModel,
)

from modeling_altclip import AltCLIPConfig, AltCLIPDualEncoderConfig, AltCLIPModel, AltCLIPTextModel

from .conftest import TEXT, VISION
from .environments import OF_TRANSFORMERS, build_environment, run_in

# How released files and transformers before 5.6 (A), later ones (B), and later ones without their renaming
# (C) spell the layers.
LAYOUTS = {"A": ("layer", "layers"), "B": ("layer", "layer"), "C": ("layers", "layers")}
FORMS = ["one file", "sharded", "bin"]
matrix = pytest.mark.parametrize("layout,form", [(layout, form) for layout in LAYOUTS for form in FORMS])


def write(model, folder, layout, form):
    """Save `model` with another naming of its layers and in another form of file."""
    text_layers, vision_layers = LAYOUTS[layout]
    state = {}
    for name, value in model.state_dict().items():
        name = re.sub(r"^(text_model\.roberta\.encoder)\.layer\.", rf"\1.{text_layers}.", name)
        name = re.sub(r"^(vision_model\.encoder)\.layers\.", rf"\1.{vision_layers}.", name)
        state[name] = value

    if form == "bin":
        folder.mkdir()
        model.config.save_pretrained(folder)
        for tower in ("text_model.roberta", "vision_model"):  # old files keep them
            # 17 positions are the 16 patches and the class token of the image tower. Nothing reads them.
            state[f"{tower}.embeddings.position_ids"] = torch.arange(17)[None]
        torch.save(state, folder / "pytorch_model.bin")
    else:
        model.save_pretrained(folder, state_dict=state, max_shard_size=shard_size(form))

    n_files = len(list(folder.glob("*.safetensors")))
    assert {"one file": n_files == 1, "sharded": n_files > 2, "bin": n_files == 0}[form]


def shard_size(form):
    # A small fraction of the model, which is then saved in three files at least.
    return "60KB" if form == "sharded" else "5GB"


def same(weights, others):
    if weights.keys() != others.keys():
        return False
    return all(torch.equal(value, others[name]) for name, value in weights.items())


@matrix
def test_reads_every_layout_and_writes_what_native_reads_whole(model, ragged_batch, tmp_path, layout, form):
    write(model, tmp_path / "theirs", layout, form)
    loaded = AltCLIPModel.from_pretrained(tmp_path / "theirs")
    assert same(loaded.state_dict(), model.state_dict())

    loaded.save_pretrained(tmp_path / "ours", max_shard_size=shard_size(form))
    config = NativeConfig.from_pretrained(tmp_path / "ours")
    native, info = NativeModel.from_pretrained(tmp_path / "ours", config=config, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        ours = model(**ragged_batch).logits_per_image
        theirs = native.eval()(**ragged_batch).logits_per_image
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@matrix
def test_text_tower_of_a_whole_checkpoint(model, tmp_path, layout, form):
    write(model, tmp_path / "theirs", layout, form)
    text_model = AltCLIPTextModel.from_pretrained(tmp_path / "theirs")
    assert same(text_model.state_dict(), model.text_model.state_dict())
    text_model.save_pretrained(tmp_path / "text")
    again = AltCLIPTextModel.from_pretrained(tmp_path / "text")
    assert same(again.state_dict(), model.text_model.state_dict())


def test_takes_the_state_dict_of_native(model, config, tmp_path):
    native = NativeModel(NativeConfig.from_dict(config.to_dict()))
    assert any(".encoder.layers." in name for name in native.state_dict() if name.startswith("text_model"))
    model.load_state_dict(native.state_dict())
    model.text_model.load_state_dict(native.text_model.state_dict())
    assert torch.equal(
        model.text_model.roberta.encoder.layer[1].output.dense.weight,
        native.text_model.roberta.encoder.layers[1].output.dense.weight,
    )

    # Renaming must not hide that a weight is missing.
    without_scale = native.state_dict()
    del without_scale["logit_scale"]
    with pytest.raises(RuntimeError, match="Missing key"):
        model.load_state_dict(without_scale)


def released(vision, project_dim, **old):
    """Return a configuration as BAAI published it, with the keys of 2022."""
    text = {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "project_dim": project_dim,
    }
    towers = {"text_config": text | {"vocab_size": 250002, "pooler_fn": "cls"}, "vision_config": vision}
    return {
        "model_type": "altclip",
        "projection_dim": project_dim,
        "torch_dtype": "float32",
        "num_layers": 3,
        "direct_kd": False,
        **towers,
        **old,
    }


# The image towers of CLIP ViT-L/14 and of ViT-H/14.
LARGE = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 14,
}
HUGE = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "patch_size": 14,
}


BEFORE_2023 = {
    "text_config_dict": {"project_dim": 768, "hidden_dropout_prob": 0.0},
    "vision_config_dict": LARGE,
}


@pytest.mark.parametrize(
    "given,n_parameters,width",
    [
        # AltCLIP-m9's own number of parameters.
        (released(LARGE, 768), 864_186_113, 1024),
        (released(LARGE, 768, **BEFORE_2023), 864_186_113, 1024),
        (released(HUGE, 1024), None, 1280),
    ],
    ids=["bilingual and m9", "m9 with the names before 2023", "m18"],
)
def test_released_configurations_build(given, n_parameters, width, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(given))
    with torch.device("meta"):  # shapes alone take no memory
        model = AltCLIPModel(AltCLIPConfig.from_pretrained(tmp_path))
    assert model.visual_projection.weight.shape == (given["projection_dim"], width)
    assert model.text_model.transformation.weight.shape == (given["projection_dim"], 1024)
    # (224 / 14)**2 = 256 patches and a class token.
    assert model.vision_model.embeddings.position_embedding.weight.shape == (257, width)
    if n_parameters is not None:
        assert sum(parameter.numel() for parameter in model.parameters()) == n_parameters


@pytest.mark.parametrize("config_class", [AltCLIPConfig, AltCLIPDualEncoderConfig])
@pytest.mark.parametrize("absent", ["text_config", "vision_config"])
@pytest.mark.parametrize("how", ["left out", "null", "empty"])
def test_a_tower_without_configuration_is_refused(config_class, absent, how):
    described = config_class().to_dict()
    if how == "left out":
        del described[absent]
    else:
        described[absent] = None if how == "null" else {}
    message = f"{absent} missing: the defaults of another model would take its place"
    with pytest.raises(ValueError, match=message):
        config_class.from_dict(described)
    towers = {name: value for name, value in described.items() if name.endswith("_config")}
    with pytest.raises(ValueError, match=f"{absent} missing"):
        config_class(**towers)


def spoil(folder, change):
    path = folder / "pytorch_model.bin"
    state = torch.load(path)
    change(state)
    torch.save(state, path)


def test_what_is_not_whole_is_refused_with_a_list(model, tmp_path):
    write(model, tmp_path / "model", "A", "bin")

    def change(state):
        del state["vision_model.encoder.layers.1.mlp.fc1.weight"]
        del state["logit_scale"]
        state["text_model.stray"] = torch.zeros(1)
        state["text_model.roberta.encoder.layer.0.output.dense.bias"] = torch.zeros(7)

    spoil(tmp_path / "model", change)
    with pytest.raises(ValueError) as error:
        AltCLIPModel.from_pretrained(tmp_path / "model")
    message = str(error.value)
    missing = "logit_scale, vision_model.encoder.layers.1.mlp.fc1.weight"
    assert f"missing: {missing}; left over: text_model.stray" in message
    bias = "text_model.roberta.encoder.layer.0.output.dense.bias"
    assert f"of another shape: {bias} ((7,) there, (32,) here)" in message
    assert "AltCLIPModel.from_teacher" in message


def test_an_old_file_cannot_run_code(model, tmp_path):
    class Intruder:  # pickle calls what __reduce__ names
        def __reduce__(self):
            return (tmp_path / "ran").touch, ()

    write(model, tmp_path / "model", "A", "bin")
    spoil(tmp_path / "model", lambda state: state.update(intruder=Intruder()))
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        AltCLIPModel.from_pretrained(tmp_path / "model")
    assert not (tmp_path / "ran").exists()


def test_only_the_head_may_be_of_another_shape_and_only_when_asked(model, config, tmp_path):
    model.save_pretrained(tmp_path)
    config.projection_dim = 12
    message = r"of another shape: text_projection.weight \(\(20, 24\) there, \(12, 24\) here\)"
    with pytest.raises(ValueError, match=message):
        AltCLIPModel.from_pretrained(tmp_path, config=config)
    loaded = AltCLIPModel.from_pretrained(tmp_path, config=config, ignore_mismatched_sizes=True)
    assert loaded.text_projection.weight.shape == (12, 24)
    # The new head is initialised, and not left as zeros.
    assert loaded.text_projection.weight.std() > 0

    # The image tower is of another shape then, and even ignore_mismatched_sizes lets only the head pass.
    config.vision_config.patch_size = 4
    with pytest.raises(ValueError, match=r"of another shape: vision_model.embeddings"):
        AltCLIPModel.from_pretrained(tmp_path, config=config, ignore_mismatched_sizes=True)


def test_a_teacher_or_encoder_of_another_kind_is_refused(tower_folders, tmp_path):
    clip, encoder = map(str, tower_folders)
    bert = BertConfig(num_hidden_layers=1, hidden_size=12, num_attention_heads=1, vocab_size=50)
    BertModel(bert).save_pretrained(tmp_path / "bert")
    message = "is a 'bert', but a 'xlm-roberta' or 'roberta' or 'camembert' has to stand here.*from_towers"
    with pytest.raises(ValueError, match=message):
        AltCLIPModel.from_teacher(clip, str(tmp_path / "bert"))
    with pytest.raises(ValueError, match="is a 'xlm-roberta', but a 'clip' or 'altclip'"):
        AltCLIPModel.from_teacher(encoder, encoder)

    # Half an encoder.
    model = XLMRobertaModel.from_pretrained(encoder)
    state = model.state_dict()
    del state["encoder.layer.1.output.dense.weight"]
    model.save_pretrained(tmp_path / "half", state_dict=state)
    message = "lacks weights of XLMRobertaModel: encoder.layer.1.output.dense.weight"
    with pytest.raises(ValueError, match=message):
        AltCLIPModel.from_teacher(clip, str(tmp_path / "half"))


def test_an_encoder_with_its_language_model_head_will_do(tower_folders, tmp_path):
    text = {name: value for name, value in TEXT.items() if name != "project_dim"}
    encoder = XLMRobertaForMaskedLM(XLMRobertaConfig(**text))
    encoder.save_pretrained(tmp_path / "lm")
    model = AltCLIPModel.from_teacher(str(tower_folders[0]), str(tmp_path / "lm"))
    assert same(model.text_model.roberta.state_dict(), encoder.roberta.state_dict())
    assert (
        CLIPModel.from_pretrained(tower_folders[0]).config.vision_config.hidden_size == VISION["hidden_size"]
    )


SCRIPT = """
import sys, torch
from transformers import AltCLIPModel, AutoModel, AutoProcessor
for folder in sys.argv[2:]:
    model, info = AltCLIPModel.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    assert type(AutoModel.from_pretrained(folder)) is AltCLIPModel
    batch = torch.load(sys.argv[1])
    with torch.no_grad():
        torch.save(model.eval()(**batch).logits_per_image, folder + "/logits.pt")
print(type(AutoProcessor.from_pretrained(folder)).__name__)
"""


@pytest.mark.slow
def test_transformers_4_reads_what_we_save(model, ragged_batch, processor, tmp_path):
    """Read every form in an environment with the last release of transformers before 5."""
    # constraints.txt pins transformers 5 and what belongs to it: those three are left unpinned.
    packages = ["torch", "transformers==4.57.6", "pillow", "sentencepiece"]
    python = build_environment(tmp_path / "venv", *packages, upon=None, unpinned=OF_TRANSFORMERS)
    folders = []
    for layout in LAYOUTS:
        for form in FORMS:
            write(model, tmp_path / "theirs", layout, form)
            folder = tmp_path / f"{layout} {form}"
            loaded = AltCLIPModel.from_pretrained(tmp_path / "theirs")
            loaded.save_pretrained(folder, max_shard_size=shard_size(form))
            processor.save_pretrained(folder)
            folders.append(folder)
            shutil.rmtree(tmp_path / "theirs")
    torch.save(ragged_batch, tmp_path / "batch.pt")
    (tmp_path / "script.py").write_text(SCRIPT)
    # Without PYTHONPATH, nothing of ours can be imported.
    process = run_in(python, tmp_path / "script.py", tmp_path / "batch.pt", *folders, PYTHONPATH="")
    assert process.returncode == 0, process.stderr[-3000:]
    assert process.stdout.strip() == "AltCLIPProcessor"
    with torch.no_grad():
        expected = model(**ragged_batch).logits_per_image
    for folder in folders:
        torch.testing.assert_close(torch.load(folder / "logits.pt"), expected, atol=1e-5, rtol=1e-5)
