"""`--lora_rank`: which weights learn, what comes out of the training, and what is refused."""

import re
import sys

import pytest
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModel

from common.errors import InputError
from common.models.loading import load_model
from modeling_altclip import AltCLIPDualEncoderModel
from training import ContrastiveArguments, TeacherLearningArguments, freeze_all_but
from training.jobs import stage1, stage2
from training.low_rank import add_low_rank
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


# ---- What is refused ----


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lora_rank": 0}, "lora_rank is 0: give a whole number from 1"),
        ({"lora_rank": -4}, "lora_rank is -4: give a whole number from 1"),
        ({"lora_rank": None, "lora_alpha": 8.0}, "lora_alpha is 8.0 without lora_rank: give both"),
        ({"lora_alpha": 0.0}, "lora_alpha is 0.0: give a positive number"),
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
