"""Precision, activation checkpointing and sharding: each leaves the training what it is."""

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.state import AcceleratorState
from accelerate.utils import DeepSpeedPlugin
from datasets import load_dataset
from safetensors.torch import load_file
from transformers import AltCLIPModel as NativeAltCLIPModel
from transformers import AutoModel, AutoProcessor, AutoTokenizer
from transformers.modeling_layers import GradientCheckpointingLayer

from benchmarks.recipe import InputError
from modeling_altclip import AltCLIPModel
from training.arguments import ContrastiveArguments, TeacherLearningArguments
from training.data import CaptionCells, Collator
from training.freezing import freeze_all_but
from training.frozen import image_vectors, teacher_vectors
from training.gradient_cache import cached_loss
from training.losses import contrastive_loss
from training.sharding import layer_classes, set_scalars_apart
from training.trainers import ContrastiveTrainer, TeacherLearningTrainer
from training.views import ImageViews

from .conftest import ROOT

CONFIGURATIONS = ROOT / "training/recipes/accelerate"


@pytest.fixture
def train(miniature, tmp_path):
    """Two steps of plain SGD;

    Gives the weights after, and how often a layer of the text tower ran forward.
    """

    def train(stage, **given):
        torch.manual_seed(0)
        model = AltCLIPModel.from_teacher(
            str(miniature / "clip"), str(miniature / "text_encoder"), dropout=0.0
        )
        teacher = AutoModel.from_pretrained(miniature / "clip")
        processor, tokenizer = (
            AutoProcessor.from_pretrained(miniature / "clip"),
            AutoTokenizer.from_pretrained(miniature / "text_encoder"),
        )
        scenes = load_dataset(str(miniature / "dataset"), split="train").select(range(32))
        shared = {
            "output_dir": str(tmp_path),
            "dataset": "",
            "max_steps": 2,
            "per_device_train_batch_size": 8,
            "use_cpu": True,
        }
        shared |= {
            "optim": "sgd",
            "learning_rate": 0.1,
            "save_strategy": "no",
            "disable_tqdm": True,
            "logging_steps": 1,
        } | given
        if stage == "stage1":
            inputs, column, trained = (
                teacher_vectors(scenes, teacher, processor.tokenizer),
                "target",
                model.text_model,
            )
            arguments = TeacherLearningArguments(
                **shared, teacher_name_or_path="", text_encoder_name_or_path=""
            )
        else:
            freeze_all_but(model, ["text_model", "text_projection", "logit_scale"])
            trained = model if stage == "stage2" else teacher
            inputs, column = ImageViews(scenes, 1), "image"
            if stage == "stage2":
                inputs, column = image_vectors(inputs, model, processor), "image_embeds"
            arguments = ContrastiveArguments(**shared, model_name_or_path="")
        trainer_class = TeacherLearningTrainer if stage == "stage1" else ContrastiveTrainer
        collator = Collator(
            processor.tokenizer if stage == "stage0" else tokenizer, 77, processor.image_processor
        )
        trainer = trainer_class(
            model=trained,
            args=arguments,
            train_dataset=CaptionCells(scenes, ["en"], column, inputs=inputs),
            data_collator=collator,
        )
        ran = []
        layers = [part for part in trained.modules() if isinstance(part, GradientCheckpointingLayer)]
        # The norm, since a recomputed layer is run by its insides.
        norm = next(part for part in layers[0].modules() if isinstance(part, torch.nn.LayerNorm))
        norm.register_forward_hook(lambda *_: ran.append(1))
        trainer.train()
        return {name: value.clone() for name, value in trained.state_dict().items()}, len(ran)

    return train


@pytest.mark.parametrize("stage,chunk", [("stage0", None), ("stage1", None), ("stage2", None), ("stage2", 3)])
def test_activation_checkpointing_runs_layers_again_and_trains_the_same(train, stage, chunk):
    given = {} if chunk is None else {"gradient_cache_chunk": chunk}
    plain, ran = train(stage, **given)
    checkpointed, ran_again = train(
        stage, **given, gradient_checkpointing=True, gradient_checkpointing_kwargs={"use_reentrant": False}
    )
    forwards = {None: 2, 3: 2 * 2 * 3}[chunk]  # two steps; in three chunks, each of them twice
    assert (ran, ran_again) == (forwards, forwards + (2 if chunk is None else 2 * 3))
    untrained, _ = train(stage, learning_rate=0.0)
    assert sum(not torch.equal(value, untrained[name]) for name, value in plain.items()) > 20
    for name, value in plain.items():
        torch.testing.assert_close(checkpointed[name], value, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("stage", ["stage0", "stage1", "stage2"])
def test_bf16_keeps_float32_weights_and_stays_near(train, stage):
    plain, _ = train(stage)
    mixed, _ = train(stage, bf16=True)
    start, _ = train(stage, learning_rate=0.0)
    assert {value.dtype for value in mixed.values()} == {torch.float32}
    steps, apart = (
        sum((a[name] - b[name]).square().sum() for name in a) ** 0.5
        for a, b in ((plain, start), (plain, mixed))
    )
    assert 0 < apart < 0.1 * steps


def test_fp16_with_a_gradient_scaler_goes_through_the_gradient_cache():
    """accelerate trains in float32 where fp16 is asked for on a CPU, so the scaler is put to work by hand."""
    torch.manual_seed(0)
    tower, texts = torch.nn.Linear(16, 8), torch.randn(12, 16)
    images = torch.nn.functional.normalize(torch.randn(12, 8), dim=-1)

    def loss(embeds):
        return contrastive_loss(
            images, torch.nn.functional.normalize(embeds.float(), dim=-1), torch.tensor(5.0)
        )

    loss(tower(texts)).backward()
    expected, tower.weight.grad = tower.weight.grad.clone(), None
    assert expected.abs().max() > 0
    scaler, optimizer = (
        torch.amp.GradScaler("cpu", init_scale=2.0**12),
        torch.optim.SGD(tower.parameters(), lr=0.1),
    )
    with torch.autocast("cpu", torch.float16):
        value = cached_loss(lambda chunk: (tower(chunk),), texts.split(5), loss)
    scaler.scale(value).backward()
    assert tower.weight.grad.abs().max() > 100 * expected.abs().max()
    scaler.unscale_(optimizer)
    torch.testing.assert_close(
        tower.weight.grad, expected, atol=2e-3 * expected.abs().max().item(), rtol=2e-2
    )


@pytest.mark.parametrize(
    "stage,switches",
    [
        ("stage0", []),
        ("stage1", []),
        ("stage2", ["--tile_size", "5", "--gradient_cache_chunk", "3", "--cache_image_embeds", "false"]),
    ],
    ids=["stage0", "stage1", "stage2 in tiles and chunks, frozen images live"],
)
def test_fsdp2_trains_like_one_process_and_saves_an_ordinary_model(
    miniature, run_python, run_under_fsdp2, tmp_path, start_flags, stage, switches
):
    """Two processes with half of the batch each, activation checkpointing and all that fsdp2.yaml says,
    against one with none of it.
    """
    weights = {}
    for processes in (1, 2):
        command = [
            ROOT / f"training/run_{stage}.py",
            ROOT / f"training/recipes/miniature/{stage}.yaml",
            *start_flags[stage],
        ]
        command += [
            "--dataset",
            miniature / "dataset",
            "--output_dir",
            tmp_path / str(processes),
            "--max_steps",
            "2",
        ]
        command += [
            "--per_device_train_batch_size",
            str(16 // processes),
            "--bf16",
            "false",
            "--optim",
            "sgd",
            "--learning_rate",
            "0.5",
        ]
        command += [
            "--warmup_steps",
            "0",
            "--validation_split",
            "validation",
            "--eval_strategy",
            "steps",
            "--eval_steps",
            "2",
        ]
        process = (
            run_python("python", *command, OMP_NUM_THREADS="1")
            if processes == 1
            else run_under_fsdp2(*command, *switches)
        )
        assert process.returncode == 0, process.stderr[-4000:]
        assert ("FSDP2-wrapped module" in process.stderr) == (
            processes == 2
        )  # torch says so of its own accord
        weights[processes] = load_file(tmp_path / str(processes) / "model.safetensors")
    start = load_file((miniature / "clip" if stage == "stage0" else tmp_path / "start") / "model.safetensors")
    assert sum(not torch.equal(value, start[name]) for name, value in weights[1].items()) > 20
    assert weights[1].keys() == weights[2].keys()
    for name, value in weights[1].items():
        torch.testing.assert_close(
            weights[2][name], value, atol=1e-4, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )
    if stage != "stage0":
        NativeAltCLIPModel.from_pretrained(tmp_path / "2")


def test_layers_are_found_in_any_tower(model):
    assert layer_classes(model) == ["CLIPEncoderLayer", "XLMRobertaLayer"]
    assert layer_classes(model.text_model) == ["XLMRobertaLayer"]


@pytest.mark.parametrize("path", sorted(CONFIGURATIONS.glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_reads_every_configuration(path):
    """accelerate itself refuses keys that it does not know; test_deepspeed.py runs those of DeepSpeed's."""
    config = load_config_from_file(str(path))
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
    monkeypatch.setattr(
        AcceleratorState, "deepspeed_plugin", DeepSpeedPlugin(zero_stage=3, zero3_init_flag=False)
    )
    with pytest.raises(InputError, match="take zero2.yaml or fsdp2.yaml"):
        trainer._prepare_for_training(1, None, None)


def test_scalars_get_groups_of_their_own(model):
    """A fused step refuses a list of whole tensors and tensors in shares."""
    matrices, others = (
        [value for value in model.parameters() if (value.ndim > 1) == matrix] for matrix in (True, False)
    )
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}], lr=0.5
    )
    set_scalars_apart(optimizer)
    first, second, third = optimizer.param_groups
    assert third["params"] == [model.logit_scale]
    assert third["weight_decay"] == 0.0
    assert third["lr"] == 0.5
    assert len(first["params"]) == len(matrices)
    assert len(second["params"]) == len(others) - 1
