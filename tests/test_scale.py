"""Precision, activation checkpointing and sharding: each leaves the training what it is."""

from dataclasses import dataclass

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.state import AcceleratorState
from accelerate.utils import DeepSpeedPlugin
from datasets import load_dataset
from safetensors.torch import load_file
from torch.nn.functional import normalize
from transformers import AltCLIPModel as NativeAltCLIPModel
from transformers import AutoModel, AutoProcessor, AutoTokenizer
from transformers.modeling_layers import GradientCheckpointingLayer

from common.errors import InputError
from modeling_altclip import AltCLIPModel
from training.arguments import ContrastiveArguments, TeacherLearningArguments
from training.data.examples import CaptionExamples, Collator
from training.data.images import ImageViews
from training.data.tower_cache import image_embeddings, teacher_embeddings
from training.freezing import freeze_all_but
from training.gradient_cache import cached_loss
from training.lifecycle import begin
from training.losses import contrastive_loss
from training.sharding import layer_classes, set_scalars_apart
from training.trainers import ContrastiveTrainer, TeacherLearningTrainer

from .conftest import ROOT

CONFIGURATIONS = ROOT / "training/recipes/accelerate"


def norm_of_first_layer(trained):
    """Return the norm in a tower's first layer.

    It runs whenever the layer does: a recomputed layer is run by its insides, and not by its own forward.
    """
    layers = [part for part in trained.modules() if isinstance(part, GradientCheckpointingLayer)]
    return next(part for part in layers[0].modules() if isinstance(part, torch.nn.LayerNorm))


@dataclass
class Trained:
    """Weights after training, and how often a layer of the text tower ran forward."""

    weights: dict
    n_forwards: int


@pytest.fixture
def train(miniature, tmp_path):
    """Return a function that takes two steps of plain SGD in a stage."""
    clip = miniature / "clip"
    encoder = miniature / "text_encoder"
    defaults = {
        "output_dir": str(tmp_path),
        "dataset": "",
        # The second step sees what the first has changed.
        "max_steps": 2,
        "per_device_train_batch_size": 8,
        "length_groups": 1,
        "use_cpu": True,
        "optim": "sgd",
        "learning_rate": 0.1,
        "save_strategy": "no",
        "disable_tqdm": True,
        "logging_steps": 1,
    }

    def stage0(scenes, given):
        model = AutoModel.from_pretrained(clip)
        processor = AutoProcessor.from_pretrained(clip)
        return ContrastiveTrainer(
            model=model,
            args=ContrastiveArguments(**given, model_name_or_path=""),
            train_dataset=CaptionExamples(scenes, ["en"], "image", inputs=ImageViews(scenes, 1)),
            data_collator=Collator(processor.tokenizer, 77, processor.image_processor),
        )

    def stage1(scenes, given):
        model = AltCLIPModel.from_teacher(str(clip), str(encoder), dropout=0.0)
        processor = AutoProcessor.from_pretrained(clip)
        freeze_all_but(model, ["text_model"])
        targets = teacher_embeddings(scenes, AutoModel.from_pretrained(clip), processor.tokenizer)
        return TeacherLearningTrainer(
            model=model,
            args=TeacherLearningArguments(**given, teacher_name_or_path="", text_encoder_name_or_path=""),
            train_dataset=CaptionExamples(scenes, ["en"], "target", inputs=targets),
            data_collator=Collator(AutoTokenizer.from_pretrained(encoder), 77, processor.image_processor),
        )

    def stage2(scenes, given):
        model = AltCLIPModel.from_teacher(str(clip), str(encoder), dropout=0.0)
        freeze_all_but(model, ["text_model", "text_projection", "logit_scale"])
        processor = AutoProcessor.from_pretrained(clip)
        image_embeds = image_embeddings(ImageViews(scenes, 1), model, processor)
        return ContrastiveTrainer(
            model=model,
            args=ContrastiveArguments(**given, model_name_or_path=""),
            train_dataset=CaptionExamples(scenes, ["en"], "image_embeds", inputs=image_embeds),
            data_collator=Collator(AutoTokenizer.from_pretrained(encoder), 77, processor.image_processor),
        )

    stages = {"stage0": stage0, "stage1": stage1, "stage2": stage2}

    def train(stage, **given):
        torch.manual_seed(0)
        scenes = load_dataset(str(miniature / "dataset"), split="train").select(range(32))
        trainer = stages[stage](scenes, defaults | given)
        runs = []
        norm_of_first_layer(trainer.model).register_forward_hook(lambda *_: runs.append(1))
        trainer.train()
        weights = {name: value.clone() for name, value in trainer.model.state_dict().items()}
        return Trained(weights, len(runs))

    return train


def count_changed(before, after):
    """Return the number of weights that training has changed."""
    return sum(not torch.equal(value, before[name]) for name, value in after.items())


def distance(weights, others):
    """Return the Euclidean distance of two models' weights."""
    squares = [(value - others[name]).square().sum() for name, value in weights.items()]
    return sum(squares) ** 0.5


# Two steps run a layer twice, and once more each with checkpointing. In three chunks the gradient cache runs
# it 2 * 3 times without gradients and 2 * 3 times with them, and checkpointing runs the latter again.
@pytest.mark.parametrize(
    "stage,given,n_forwards,n_again",
    [
        ("stage0", {}, 2, 2),
        ("stage1", {}, 2, 2),
        ("stage2", {}, 2, 2),
        ("stage2", {"gradient_cache_chunk": 3}, 2 * 2 * 3, 2 * 3),
    ],
)
def test_activation_checkpointing_runs_layers_again_and_trains_the_same(
    train, stage, given, n_forwards, n_again
):
    plain = train(stage, **given)
    checkpointed = train(
        stage, **given, gradient_checkpointing=True, gradient_checkpointing_kwargs={"use_reentrant": False}
    )
    assert plain.n_forwards == n_forwards
    assert checkpointed.n_forwards == n_forwards + n_again

    untrained = train(stage, learning_rate=0.0)
    assert count_changed(untrained.weights, plain.weights) > 20
    for name, value in plain.weights.items():
        torch.testing.assert_close(checkpointed.weights[name], value, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("stage", ["stage0", "stage1", "stage2"])
def test_bf16_keeps_float32_weights_and_stays_near(train, stage):
    plain = train(stage).weights
    mixed = train(stage, bf16=True).weights
    start = train(stage, learning_rate=0.0).weights
    assert {value.dtype for value in mixed.values()} == {torch.float32}
    apart = distance(plain, mixed)
    assert apart > 0
    assert apart < 0.1 * distance(plain, start)


@pytest.mark.parametrize(
    "given,expected,dropped",
    [
        ({"use_cpu": True, "fp16": True}, "no", "fp16"),
        ({"use_cpu": True, "bf16": True}, "bf16", None),
        # Nothing is computed, and the memory is that of a GPU.
        ({"dry_run": True, "fp16": True}, "fp16", None),
    ],
)
def test_fp16_on_a_cpu_is_dropped_with_a_line(altclip_folder, tmp_path, capsys, given, expected, dropped):
    arguments = ContrastiveArguments(
        model_name_or_path=str(altclip_folder), dataset="data", output_dir=str(tmp_path / "out"), **given
    )
    assert arguments.mixed_precision == expected
    assert arguments.unsupported_precision == dropped
    begin(arguments)
    said = "fp16 needs a GPU and is disabled: this training computes in float32."
    assert (said in capsys.readouterr().out) == (dropped is not None)


def test_fp16_and_bf16_at_once_are_refused(tmp_path):
    with pytest.raises(ValueError, match="At most one of fp16 and bf16"):
        ContrastiveArguments(
            model_name_or_path="a",
            dataset="data",
            output_dir=str(tmp_path),
            use_cpu=True,
            fp16=True,
            bf16=True,
        )


def test_fp16_with_a_gradient_scaler_goes_through_the_gradient_cache():
    """Put the scaler to work by hand: no training on a CPU is in fp16."""
    torch.manual_seed(0)
    tower = torch.nn.Linear(16, 8)
    texts = torch.randn(12, 16)
    images = normalize(torch.randn(12, 8), dim=-1)

    def loss(embeds):
        return contrastive_loss(images, normalize(embeds.float(), dim=-1), torch.tensor(5.0))

    loss(tower(texts)).backward()
    expected = tower.weight.grad.clone()
    largest = expected.abs().max().item()
    assert largest > 0

    tower.weight.grad = None
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    optimizer = torch.optim.SGD(tower.parameters(), lr=0.1)
    with torch.autocast("cpu", torch.float16):
        value = cached_loss(lambda chunk: (tower(chunk),), texts.split(5), loss)
    scaler.scale(value).backward()
    # The gradients are scaled by 2^12 until the optimizer's step.
    assert tower.weight.grad.abs().max() > 100 * largest
    scaler.unscale_(optimizer)
    # float16 keeps three digits.
    torch.testing.assert_close(tower.weight.grad, expected, atol=2e-3 * largest, rtol=2e-2)


@pytest.mark.parametrize(
    "stage,switches",
    [
        pytest.param("stage0", [], marks=pytest.mark.slow),
        ("stage1", []),
        ("stage2", ["--tile_size", "5", "--gradient_cache_chunk", "3", "--cache_image_embeds", "false"]),
    ],
    ids=["stage0", "stage1", "stage2 in tiles and chunks, frozen images live"],
)
def test_fsdp2_trains_like_one_process_and_saves_an_ordinary_model(
    miniature, run_python, run_under_fsdp2, tmp_path, start_flags, stage, switches
):
    """Train in two processes with half of the batch each, activation checkpointing and all that fsdp2.yaml
    says, against one with none of it.
    """
    recipe = ROOT / f"training/recipes/miniature/{stage}.yaml"
    command = [ROOT / f"training/run_{stage}.py", recipe, *start_flags[stage]]
    command += ["--dataset", miniature / "dataset", "--max_steps", "2", "--bf16", "false"]
    # AdamW divides by the size of gradients, and would hide one that is too large by a factor.
    command += ["--optim", "sgd", "--learning_rate", "0.5", "--warmup_steps", "0"]
    command += ["--validation_split", "validation", "--eval_strategy", "steps", "--eval_steps", "2"]

    of_one = ["--output_dir", tmp_path / "one", "--per_device_train_batch_size", "16"]
    process = run_python("python", *command, *of_one, OMP_NUM_THREADS="1")
    assert process.returncode == 0, process.stderr[-4000:]
    # torch says so of its own accord
    assert "FSDP2-wrapped module" not in process.stderr

    # 2 x 8 = 16 examples a step.
    of_two = ["--output_dir", tmp_path / "two", "--per_device_train_batch_size", "8"]
    process = run_under_fsdp2(*command, *of_two, *switches)
    assert process.returncode == 0, process.stderr[-4000:]
    assert "FSDP2-wrapped module" in process.stderr

    start = miniature / "clip" if stage == "stage0" else tmp_path / "start"
    one = load_file(tmp_path / "one/model.safetensors")
    two = load_file(tmp_path / "two/model.safetensors")
    assert count_changed(load_file(start / "model.safetensors"), one) > 20
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(
            two[name], value, atol=1e-4, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )
    if stage != "stage0":
        NativeAltCLIPModel.from_pretrained(tmp_path / "two")


def test_layers_are_found_in_any_tower(model):
    assert layer_classes(model) == ["CLIPEncoderLayer", "XLMRobertaLayer"]
    assert layer_classes(model.text_model) == ["XLMRobertaLayer"]


@pytest.mark.parametrize("path", sorted(CONFIGURATIONS.glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_reads_every_configuration(path):
    """Load each file: accelerate itself refuses keys that it does not know.

    test_deepspeed.py runs those of DeepSpeed's.
    """
    config = load_config_from_file(str(path))
    # Machines of eight GPUs.
    assert config.num_processes == 8 * config.num_machines
    if path.stem.startswith("zero"):
        plugin = DeepSpeedPlugin(zero_stage=config.deepspeed_config["zero_stage"], zero3_init_flag=False)
        assert plugin.deepspeed_config["zero_optimization"]["stage"] == int(path.stem[-1])
    if path.stem == "fsdp2":
        assert config.fsdp_config["fsdp_version"] == 2
        assert config.fsdp_config["fsdp_state_dict_type"] == "FULL_STATE_DICT"


def test_a_contrastive_loss_is_refused_under_zero3(model, tmp_path, monkeypatch):
    arguments = ContrastiveArguments(
        output_dir=str(tmp_path), model_name_or_path="", dataset="", use_cpu=True
    )
    trainer = ContrastiveTrainer(model=model, args=arguments)
    trainer.is_deepspeed_enabled = True
    plugin = DeepSpeedPlugin(zero_stage=3, zero3_init_flag=False)
    monkeypatch.setattr(AcceleratorState, "deepspeed_plugin", plugin)
    with pytest.raises(InputError, match="take zero2.yaml or fsdp2.yaml"):
        trainer._prepare_for_training(1, None, None)


def test_scalars_get_groups_of_their_own(model):
    """Check this because a fused step refuses a list of whole tensors and tensors in shares."""
    matrices = [value for value in model.parameters() if value.ndim > 1]
    others = [value for value in model.parameters() if value.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.5)
    set_scalars_apart(optimizer)
    first, second, third = optimizer.param_groups
    assert third["params"] == [model.logit_scale]
    assert third["weight_decay"] == 0.0
    assert third["lr"] == 0.5
    assert len(first["params"]) == len(matrices)
    assert len(second["params"]) == len(others) - 1
