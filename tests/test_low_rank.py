"""`--lora_rank`: which weights learn, what comes out of the training, and what is refused."""

import json
import re
import sys

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from torch import nn
from transformers import AltCLIPModel as NativeModel
from transformers import AutoModel

from common.errors import InputError
from common.models.kinds import FINISHED, check_kind
from common.models.loading import load_model, save_model
from modeling_altclip import AltCLIPDualEncoderModel, AltCLIPModel, embed_texts
from modeling_altclip.checksums_altclip import find_damages, read_checksums
from training import ContrastiveArguments, TeacherLearningArguments, freeze_all_but
from training.adapter_output import bytes_of_adapter, check_base, save_adapter
from training.jobs import stage1, stage2
from training.low_rank import add_low_rank
from training.output_folder import check_room_for_model, claim, has_finished
from training.teachers import join, space_of

from .families import STUDENTS, TEACHERS, load_tokenizer_of, save_student, save_teacher

RANK = 4
ALPHA = 6.0
TEXTS = {
    "input_ids": torch.tensor([[0, 11, 12, 13, 2], [0, 21, 22, 2, 1]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]),
}
PAIRS = [("siglip", name) for name in STUDENTS if name != "t5-encoder"] + [("clip", "xlm-r")]
STEPS = {
    "languages": ["en", "zh"],
    "max_steps": 2,
    "save_steps": 1,
    "learning_rate": 1e-2,
    "per_device_train_batch_size": 8,
    "use_cpu": True,
    "disable_tqdm": True,
    "report_to": [],
}


@pytest.fixture
def arguments(tmp_path):
    """Return a function that makes arguments of stage 1 with low-rank updates."""

    def arguments(**given):
        given = {"text_encoder_name_or_path": "encoder", "lora_rank": RANK} | given
        models = {"teacher_name_or_path": "teacher", "dataset": "data"}
        return TeacherLearningArguments(**models, output_dir=str(tmp_path / "out"), use_cpu=True, **given)

    return arguments


def student_of(teacher, encoder):
    """Build a student with random weights, of which stage 1 trains the texts' side."""
    torch.manual_seed(0)
    config = join(TEACHERS[teacher][1](), STUDENTS[encoder][1](), dropout=0.0)
    model = AutoModel.from_config(config).train()
    freeze_all_but(model, space_of(config).parts)
    return model


def features(model):
    return model.get_text_features(**TEXTS).pooler_output


def move(model):
    """Give every update a value, as training does: B begins at zero."""
    torch.manual_seed(1)
    for layer in updated_layers(model).values():
        nn.init.normal_(layer.lora_B["default"].weight, std=0.1)


def updated_layers(model):
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, LoraLayer)}


@pytest.mark.parametrize(("teacher", "encoder"), PAIRS)
def test_updates_and_merged_weights_are_one_model(teacher, encoder, arguments):
    model = student_of(teacher, encoder).eval()  # in training NLLB drops layers at random
    before = {name: value.clone() for name, value in model.state_dict().items()}
    linear = {name for name, part in model.text_model.named_modules() if isinstance(part, nn.Linear)}
    expected = features(model)

    updates = add_low_rank(arguments(lora_alpha=ALPHA), model)
    torch.testing.assert_close(features(model), expected, rtol=0, atol=1e-5)
    layers = updated_layers(model)
    assert {name.removeprefix("text_model.") for name in layers} == linear - {"transformation"}

    # Of the tower, updates and head learn; beside it, what learned before.
    learning = {name for name, value in model.named_parameters() if value.requires_grad}
    own = {name for name in learning if "lora_" not in name}
    head = {
        "text_model.pre_LN.weight",
        "text_model.pre_LN.bias",
        "text_model.transformation.weight",
        "text_model.transformation.bias",
    }
    assert own == (head if encoder == "xlm-r" and teacher == "clip" else {"text_projection.weight"})
    assert len(learning - own) == 2 * len(layers)

    move(model)
    updated = features(model)
    assert (updated - expected).abs().max() > 1e-3
    updated.square().sum().backward()
    gradients = {}
    weights = {}
    for name, layer in layers.items():
        a = layer.lora_A["default"].weight
        b = layer.lora_B["default"].weight
        gradients[name] = (a.grad, b.grad)
        weights[name] = (a.detach(), b.detach())

    updates.merge_and_unload()
    after = model.state_dict()
    assert after.keys() == before.keys()
    torch.testing.assert_close(features(model), updated, rtol=0, atol=1e-5)

    # By the formula: W + s B A, whose gradients are s B^T dW of A, and s dW A^T of B.
    model.zero_grad()
    model.requires_grad_(True)
    features(model).square().sum().backward()
    scale = ALPHA / RANK
    for name, (a, b) in weights.items():
        weight = model.get_submodule(name).weight
        torch.testing.assert_close(after[f"{name}.weight"], before[f"{name}.weight"] + scale * b @ a)
        of_a, of_b = gradients[name]
        size = weight.grad.abs().max().item()
        torch.testing.assert_close(of_a, scale * b.T @ weight.grad, rtol=1e-4, atol=1e-5 * size)
        torch.testing.assert_close(of_b, scale * weight.grad @ a.T, rtol=1e-4, atol=1e-5 * size)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"{name}.weight" for name in layers}


def test_checkpointed_layers_learn_as_well(arguments):
    """The embeddings are frozen: nothing that a layer is given has a gradient."""
    gradients = []
    for checkpointing in (False, True):
        model = student_of("siglip", "bert")
        torch.manual_seed(2)
        add_low_rank(arguments(), model)
        move(model)
        if checkpointing:
            model.gradient_checkpointing_enable()
        features(model).square().sum().backward()
        gradients.append([layer.lora_A["default"].weight.grad for layer in updated_layers(model).values()])
    for plain, checkpointed in zip(*gradients, strict=True):
        assert plain.abs().max() > 0
        torch.testing.assert_close(checkpointed, plain)


# ---- The stages ----


@pytest.fixture
def train(miniature, tmp_path):
    """Return a function that runs a stage on the miniature's data, and returns its folder."""

    def train(job, name, **given):
        arguments_class = TeacherLearningArguments if job is stage1 else ContrastiveArguments
        folder = tmp_path / name
        data = {"dataset": str(miniature / "dataset"), "output_dir": str(folder)}
        job.main(arguments_class(**STEPS | data | given))
        return folder

    return train


@pytest.fixture
def pair(miniature, tmp_path):
    """Save a SigLIP and a BERT; return the arguments that name them."""
    tokenizer = load_tokenizer_of(miniature)
    return {
        "teacher_name_or_path": save_teacher("siglip", tmp_path / "siglip", tokenizer),
        "text_encoder_name_or_path": save_student("bert", tmp_path / "bert", tokenizer),
    }


def changes(before, after):
    """Return which weights differ between two folders, and check that they have the same ones."""
    before, after = (load_file(folder / "model.safetensors") for folder in (before, after))
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.slow
def test_both_stages_save_merged_models_and_resume_to_the_same_bytes(pair, train, tmp_path, capsys):
    start = AltCLIPDualEncoderModel.from_teacher(*pair.values())
    start.save_pretrained(tmp_path / "start")
    linear = {name for name, part in start.named_modules() if isinstance(part, nn.Linear)}
    in_tower = {f"{name}.weight" for name in linear if name.startswith("text_model")}

    first = train(stage1, "first", **pair, lora_rank=2)
    assert type(load_model(str(first))[0]) is AltCLIPDualEncoderModel
    assert changes(tmp_path / "start", first) == in_tower | {"text_projection.weight"}

    weights = (first / "model.safetensors").read_bytes()
    train(stage1, "first", **pair, lora_rank=2, resume_from_checkpoint="checkpoint-1")
    assert (first / "model.safetensors").read_bytes() == weights
    with pytest.raises(InputError, match="lora_rank was 2 when the run .* began, and is 3 now"):
        train(stage1, "first", **pair, lora_rank=3, resume_from_checkpoint="checkpoint-1")

    given = {"model_name_or_path": str(first), "loss": "sigmoid", "lora_rank": 3}
    second = train(stage2, "second", **given, save_strategy="no", trainable=["text_model", "logit_scale"])
    assert changes(first, second) == in_tower | {"logit_scale"}

    # A dry run counts what learns: two matrices for each layer, and what else is trained.
    capsys.readouterr()
    train(stage2, "dry", **given, dry_run=True)
    n_learning = 2 + sum(value.numel() for value in start.text_projection.parameters())
    for name in in_tower:
        n_out, n_in = start.get_parameter(name).shape
        n_learning += 3 * (n_out + n_in)
    assert f"trainable             {n_learning:,}, " in capsys.readouterr().out


# ---- Adapters ----

# By the loss: what learns. The last of them are in no module of their own.
IN_ADAPTERS = {
    "sigmoid": ["text_model", "text_projection", "logit_scale", "logit_bias"],
    "contrastive": ["text_model", "text_projection", "visual_projection", "logit_scale"],
}


@pytest.fixture
def adapter_arguments(tmp_path):
    """Return a function that makes arguments of a stage 2 that saves an adapter of `tmp_path/base`."""

    def adapter_arguments(**given):
        given = {"lora_rank": RANK, "lora_output": "adapter", "output_dir": str(tmp_path / "out")} | given
        base = {"model_name_or_path": str(tmp_path / "base"), "dataset": "data"}
        return ContrastiveArguments(**base | given, use_cpu=True, cache_image_embeds=False)

    return adapter_arguments


def outputs(model):
    """Return the embeddings of texts and images, and the logits, which scale and bias enter."""
    images = torch.linspace(-1, 1, 2 * 3 * 32 * 32).view(2, 3, 32, 32)
    with torch.no_grad():
        both = model.eval()(**TEXTS, pixel_values=images)
    return {"texts": both.text_embeds, "images": both.image_embeds, "logits": both.logits_per_text}


def by_peft(base, adapter):
    return PeftModel.from_pretrained(AutoModel.from_pretrained(base), adapter)


def by_load_adapter(base, adapter):
    model = AutoModel.from_pretrained(base)
    model.load_adapter(adapter)
    return model


def by_auto_model(base, adapter):
    return AutoModel.from_pretrained(adapter)


def by_native_class(base, adapter):
    return PeftModel.from_pretrained(NativeModel.from_pretrained(base), adapter)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("teacher", "encoder", "head"), [(*pair, None) for pair in PAIRS] + [("siglip", "bert", "mlp")]
)
def test_adapter_is_the_merged_model(teacher, encoder, head, adapter_arguments, tmp_path):
    torch.manual_seed(0)
    config = join(TEACHERS[teacher][1](), STUDENTS[encoder][1](), text_head=head)
    model = AutoModel.from_config(config).eval()
    model.save_pretrained(tmp_path / "base")
    loss = "sigmoid" if teacher == "siglip" else "contrastive"
    freeze_all_but(model, IN_ADAPTERS[loss])
    untrained = outputs(model)

    arguments = adapter_arguments(loss=loss, trainable=IN_ADAPTERS[loss])
    check_base(arguments, model.config)
    updates = add_low_rank(arguments, model)
    for value in model.parameters():
        if value.requires_grad:
            value.data += 0.05 * torch.randn_like(value)
    save_adapter(model, arguments, tmp_path / "adapter")
    expected_bytes = bytes_of_adapter(model)
    updates.merge_and_unload()
    merged = outputs(model)
    for name, value in merged.items():
        unchanged = name == "images" and "visual_projection" not in arguments.trainable
        assert torch.equal(value, untrained[name]) == unchanged

    loaders = [by_peft, by_load_adapter, by_auto_model]
    if teacher == "clip":
        loaders.append(by_native_class)
    for load in loaders:
        found = outputs(load(tmp_path / "base", tmp_path / "adapter"))
        for name, value in merged.items():
            torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-5)

    saved = load_file(tmp_path / "adapter/adapter_model.safetensors")
    assert sum(value.nbytes for value in saved.values()) == expected_bytes
    size = (tmp_path / "adapter/adapter_model.safetensors").stat().st_size
    assert size < 0.1 * (tmp_path / "base/model.safetensors").stat().st_size
    settings = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(tmp_path / "base")

    # Modules are told from what is in none, and layers have their names in transformers' own class.
    in_full = {name.rpartition(".")[0] for name in saved if "lora_" not in name}
    modules = {f"base_model.model.{name}" for name in settings["modules_to_save"]}
    assert in_full == modules | {"base_model.model"}
    assert not any("roberta.encoder.layer." in name for name in saved)


@pytest.fixture
def finished(miniature, processor, tmp_path):
    """Return a function that saves a finished model, an `altclip` or a `dual` encoder with a logit_bias."""

    def finished(kind):
        torch.manual_seed(0)
        towers = (str(miniature / "clip"), str(miniature / "text_encoder"))
        if kind == "altclip":
            model = AltCLIPModel.from_teacher(*towers)
        else:
            model = AltCLIPDualEncoderModel.from_teacher(*towers)
            model.set_logit_bias(-10.0)
        save_model(model, processor, tmp_path / kind)
        return str(tmp_path / kind)

    return finished


def embeddings_of(folder):
    model, processor = load_model(str(folder))
    return embed_texts(model, processor, ["dog face", "红苹果"]), model


def assert_same_model(adapter, merged, base):
    """Check that an adapter's folder gives the model that was saved merged, and not the base."""
    expected, of_merged = embeddings_of(merged)
    found, of_adapter = embeddings_of(adapter)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert (expected - embeddings_of(base)[0]).abs().max() > 1e-3
    by_name = of_adapter.state_dict()
    for name, value in of_merged.state_dict().items():
        torch.testing.assert_close(by_name[name], value, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["altclip", "dual"])
def test_stage_2_saves_an_adapter(kind, finished, train, tmp_path, capsys):
    base = finished(kind)
    given = {
        "model_name_or_path": base,
        "lora_rank": 2,
        "loss": "sigmoid" if kind == "dual" else "contrastive",
    }
    merged = train(stage2, "merged", **given, save_strategy="no")
    adapter = train(stage2, "adapter", **given, lora_output="adapter")
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith(f"Saved an adapter of {base} to {adapter}. Next: ")
    assert said.endswith(f" --tasks my/task.yaml --models {adapter}")

    # The folder is whole, and holds an adapter with the processor.
    assert not (adapter / "config.json").exists() and not (adapter / "model.safetensors").exists()
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} < set(
        read_checksums(adapter)
    )
    assert find_damages(adapter) == [] and has_finished(adapter)
    assert_same_model(adapter, merged, base)

    # A checkpoint holds the whole model, and a resumed run saves the same bytes.
    weights = (adapter / "adapter_model.safetensors").read_bytes()
    assert (adapter / "checkpoint-1/model.safetensors").exists()
    train(stage2, "adapter", **given, lora_output="adapter", resume_from_checkpoint="checkpoint-1")
    assert (adapter / "adapter_model.safetensors").read_bytes() == weights
    assert find_damages(adapter) == []


@pytest.mark.slow
def test_stage_1_saves_an_adapter_of_a_finished_model(finished, train, tmp_path, capsys):
    base = finished("altclip")
    given = {"model_name_or_path": base, "lora_rank": 2, "save_strategy": "no", "replay_languages": []}
    merged = train(stage1, "merged", **given)
    adapter = train(stage1, "adapter", **given, lora_output="adapter")
    assert f"Saved an adapter of {base} to {adapter}. Next: " in capsys.readouterr().out
    assert_same_model(adapter, merged, base)


@pytest.mark.slow
def test_two_processes_save_the_adapter_of_one(finished, miniature, run_python, tmp_path):
    base = finished("altclip")
    flags = ["--model_name_or_path", base, "--lora_rank", "4", "--lora_output", "adapter"]
    flags += ["--dataset", miniature / "dataset", "--languages", "en", "zh", "--max_steps", "3"]
    flags += ["--optim", "sgd", "--learning_rate", "3", "--save_strategy", "no", "--seed", "1"]
    for n_processes, batch_size in ((1, 16), (2, 8)):
        given = ["--output_dir", tmp_path / str(n_processes), "--per_device_train_batch_size", batch_size]
        command = ["training/run_stage1.py", *flags, *given, "--use_cpu"]
        process = run_python("python", *command, processes=n_processes, OMP_NUM_THREADS="1")
        assert process.returncode == 0, process.stderr[-4000:]
    assert find_damages(tmp_path / "2") == []
    assert_same_model(tmp_path / "2", tmp_path / "1", base)


# ---- What is refused ----


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lora_output": "both"}, "lora_output is 'both': choose merged or adapter"),
        ({"lora_rank": None}, "lora_output is adapter without lora_rank: give both, or neither"),
        (
            {"trainable": ["text_model", "vision_model"]},
            "lora_output is adapter, and trainable names vision_model, which learns in full: give none but",
        ),
        ({"push_to_hub": True}, "push_to_hub is true, and the adapter's base is '.*base', a folder of this"),
        (
            {"push_to_hub": True, "model_name_or_path": "a/b", "hub_strategy": "every_save"},
            "hub_strategy is every_save, and lora_output is adapter: checkpoints",
        ),
    ],
)
def test_bad_outputs_are_refused(given, message, adapter_arguments, tmp_path):
    (tmp_path / "base").mkdir()
    with pytest.raises(InputError, match=f"^{message}"):
        adapter_arguments(**given)


def test_a_new_student_has_no_base(arguments):
    with pytest.raises(InputError, match="^lora_output is adapter, and the model is a new one of two others"):
        arguments(lora_output="adapter")


def test_an_adapter_changes_no_configuration(adapter_arguments):
    dual = student_of("siglip", "bert").config
    check_base(adapter_arguments(loss="sigmoid"), dual)
    dual.logit_bias_init_value = None
    with pytest.raises(InputError, match="loss is sigmoid, which gives the model a logit_bias that its base"):
        check_base(adapter_arguments(loss="sigmoid"), dual)

    check_base(adapter_arguments(), dual)
    dims = adapter_arguments(matryoshka_dims=[32, 8])
    with pytest.raises(InputError, match="matryoshka_dims is 32 8, where .* states none: "):
        check_base(dims, dual)
    dual.matryoshka_dims = [32, 8]
    check_base(dims, dual)
    with pytest.raises(InputError, match="matryoshka_dims is none, where .* states 32 8: "):
        check_base(adapter_arguments(), dual)


def test_a_folder_holds_a_model_or_an_adapter(adapter_arguments, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "config.json").touch()
    with pytest.raises(InputError, match=r"holds a model \(config.json\), and lora_output is adapter: give"):
        claim(adapter_arguments())
    claim(adapter_arguments(lora_output="merged"))

    (out / "config.json").rename(out / "adapter_config.json")
    with pytest.raises(InputError, match=r"holds an adapter \(adapter_config.json\), as which the model"):
        claim(adapter_arguments(lora_output="merged"))
    claim(adapter_arguments())


def test_no_training_begins_with_an_adapter(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    message = f"^model_name_or_path '{tmp_path}' is a LoRA or another adapter, and a whole model has to stand"
    with pytest.raises(InputError, match=message):
        check_kind("model_name_or_path", str(tmp_path), FINISHED)


def test_an_adapter_needs_less_room_than_a_model(adapter_arguments, monkeypatch):
    model = student_of("siglip", "bert")
    arguments = adapter_arguments(save_strategy="no")
    add_low_rank(arguments, model)
    n_bytes = bytes_of_adapter(model)
    monkeypatch.setattr("common.output.free_bytes", lambda folder: n_bytes)
    check_room_for_model(arguments, model)
    monkeypatch.setattr("common.output.free_bytes", lambda folder: n_bytes - 1)
    with pytest.raises(InputError, match="the adapter that this training saves"):
        check_room_for_model(arguments, model)
    monkeypatch.setattr("common.output.free_bytes", lambda folder: n_bytes)
    with pytest.raises(InputError, match="the model that this training saves"):
        check_room_for_model(adapter_arguments(save_strategy="no", lora_output="merged"), model)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lora_rank": 0}, "lora_rank is 0: give a whole number from 1"),
        ({"lora_rank": -4}, "lora_rank is -4: give a whole number from 1"),
        ({"lora_rank": None, "lora_alpha": 8.0}, "lora_alpha is 8.0 without lora_rank: give both"),
        ({"lora_alpha": 0.0}, "lora_alpha is 0.0: give a positive number"),
        ({"freeze": ["text_model.pre_LN"]}, "lora_rank is 4, which freezes all weights of the text"),
        ({"lora_alpha": float("inf")}, "lora_alpha is inf: give a positive number"),
        (
            {"text_encoder_name_or_path": None, "model_name_or_path": "model", "new_pieces": 9},
            "new_pieces is 9, whose embeddings would not learn with lora_rank",
        ),
    ],
)
def test_bad_arguments_are_refused(given, message, arguments):
    with pytest.raises(InputError, match=f"^{re.escape(message)}"):
        arguments(**given)


def test_a_text_tower_that_does_not_learn_is_refused(tmp_path):
    with pytest.raises(InputError, match="^lora_rank is 4, and trainable is text_projection: add text_model"):
        ContrastiveArguments(
            model_name_or_path="model",
            dataset="data",
            output_dir=str(tmp_path),
            use_cpu=True,
            lora_rank=4,
            trainable=["text_projection"],
        )


def test_sharded_weights_are_refused(arguments, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(InputError, match="^lora_rank is 4, which FSDP and DeepSpeed do not train here"):
        arguments()


def test_a_rank_above_the_width_is_refused(arguments):
    add_low_rank(arguments(lora_rank=32), student_of("siglip", "bert"))
    with pytest.raises(
        InputError, match=r"^lora_rank is 33, and text_model\.encoder\..* has a width of 32: "
    ):
        add_low_rank(arguments(lora_rank=33), student_of("siglip", "bert"))


def test_without_peft_the_extra_is_named(arguments, monkeypatch):
    model = student_of("siglip", "bert")
    assert add_low_rank(arguments(lora_rank=None), model) is None
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(InputError, match=r'^peft is not installed: pip install "altclip\[peft\]"$'):
        add_low_rank(arguments(), model)


@pytest.mark.slow
def test_two_processes_learn_like_one(pair, train_by_one_and_two):
    """One process has the whole batch, two have halves of it."""
    flags = ["--lora_rank", "4"]
    for name, value in pair.items():
        flags += [f"--{name}", value]
    expected, found = train_by_one_and_two(*flags)
    start = AltCLIPDualEncoderModel.from_teacher(*pair.values()).state_dict()
    moved = {name for name, weight in expected.items() if not torch.equal(weight, start[name])}
    assert any(name.startswith("text_model.encoder.") for name in moved)
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, rtol=1e-4, atol=1e-5)
