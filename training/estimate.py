"""Dry runs: what a stage would train, on how much, and whether it fits, found out from configurations and a few rows.

The model is built of fake tensors, which have shapes and no contents, and run once: what autograd would keep of the forward
pass is counted, not modelled, with autocast, attention kernel and towers as they will be.
"""

from typing import NamedTuple

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from benchmarks.kinds import load_tokenizer
from modeling_altclip import AltCLIPConfig, AltCLIPModel
from modeling_altclip.texts_altclip import tokenize

from .arguments import ContrastiveArguments, PairArguments, StageArguments, TeacherLearningArguments
from .beginnings import check_models, check_tokenizers
from .first_rows import first_captions
from .freezing import IMAGE_PARTS, freeze_all_but, learns
from .output_folder import examples_per_step
from .session import say

GIB = 2**30
LOGITS = 5  # matrices of them at the peak of `contrastive_loss`: 1,272 MB above its gradients for 8,192 pairs


class Memory(NamedTuple):
    """Bytes that one process holds on its device."""

    weights: int
    gradients: int
    optimizer: int
    buckets: int
    activations: int
    logits: int
    accumulates: bool

    @property
    def peak(self) -> int:
        """Gradients appear as activations go, unless some are there already from an earlier part of the batch."""
        passing, gradients = self.activations + self.logits, self.gradients
        return (
            self.weights
            + self.optimizer
            + self.buckets
            + (passing + gradients if self.accumulates else max(passing, gradients))
        )

    def sharded(self, n_processes: int) -> int:
        """The same under FSDP2, less what is whole for a moment: one layer."""
        shares = (self.weights + self.gradients + self.optimizer) // n_processes
        return shares + self.activations + self.logits


def report(arguments: StageArguments) -> None:
    """Print what a stage would do, and train nothing.

    Raises:
        InputError: data, model or tokenizer are not there or do not fit the stage.
    """
    check_models(arguments)
    check_tokenizers(arguments)
    texts, described = first_captions(arguments)
    argument = tokenizer_argument(arguments)
    tokenizer = load_tokenizer(argument, getattr(arguments, argument))
    with FakeTensorMode():
        model, trained = untrained(arguments)
        lengths = [
            len(ids)
            for ids in tokenize(tokenizer, texts, truncation=True, max_length=arguments.max_text_length)[
                "input_ids"
            ]
        ]
        bounds = {"seen": max(lengths), "at most": arguments.max_text_length}
        memory = {name: estimate(trained, arguments, n_tokens) for name, n_tokens in bounds.items()}
    lines = [
        ("data", f"{arguments.dataset}, split {arguments.split}: {described}"),
        *parameter_lines(model, trained),
        *step_lines(arguments, lengths, trained),
        *memory_lines(memory, bounds, arguments),
    ]
    for name, value in lines:
        say(arguments, f"{name:<22}{value}")
    say(arguments, "Dry run: nothing was trained. Next: the same command without --dry_run.")


def untrained(arguments: StageArguments) -> tuple[PreTrainedModel, PreTrainedModel]:
    """The stage's model by its configurations, and the part of it that the Trainer gets. Loads no weights."""
    if isinstance(arguments, TeacherLearningArguments) and arguments.model_name_or_path is None:
        teacher = AutoConfig.from_pretrained(arguments.teacher_name_or_path)
        encoder = AutoConfig.from_pretrained(arguments.text_encoder_name_or_path)
        model = AltCLIPModel(AltCLIPConfig.from_teacher(teacher, encoder, dropout=arguments.dropout))
        model.set_attn_implementation(arguments.attn_implementation or model.config._attn_implementation)
        return model, model.text_model
    config = AutoConfig.from_pretrained(arguments.model_name_or_path)
    model = AutoModel.from_config(config, attn_implementation=arguments.attn_implementation)
    if isinstance(arguments, TeacherLearningArguments):
        return model, model.text_model
    if isinstance(arguments, ContrastiveArguments):
        freeze_all_but(model, arguments.trainable)
    return model, model


def tokenizer_argument(arguments: StageArguments) -> str:
    """The argument that names the model whose tokenizer is taken."""
    new = isinstance(arguments, TeacherLearningArguments) and arguments.model_name_or_path is None
    return "text_encoder_name_or_path" if new else "model_name_or_path"


def images_live(arguments: StageArguments) -> bool:
    """Whether images go through the model at every step; else there are none, or their vectors are made before."""
    return not isinstance(arguments, TeacherLearningArguments) and not getattr(
        arguments, "cache_image_embeds", False
    )


def estimate(model: nn.Module, arguments: StageArguments, n_tokens: int) -> Memory:
    """What a step needs where every text has `n_tokens`. Weights, gradients and AdamW's two states are float32, under autocast too."""
    trainable = 4 * sum(value.numel() for value in model.parameters() if value.requires_grad)
    n_processes, accumulates = processes(arguments), arguments.gradient_accumulation_steps > 1
    n_rows = arguments.per_device_train_batch_size
    side = 0
    if isinstance(arguments, PairArguments):
        side = min(arguments.tile_size or n_rows * n_processes, n_rows * n_processes)
        n_rows, accumulates = in_chunks(arguments, accumulates)
    return Memory(
        weights=sum(value.nbytes for value in model.parameters()),
        gradients=trainable,
        optimizer=2 * trainable if "adam" in arguments.optim else 0,
        buckets=trainable if n_processes > 1 else 0,
        activations=activations(model, arguments, n_rows, n_tokens),
        logits=LOGITS * 4 * side**2,
        accumulates=accumulates,
    )


def in_chunks(arguments: PairArguments, accumulates: bool) -> tuple[int, bool]:
    """Rows that go through the model at a time, and whether gradients of other rows are there already."""
    n_rows, chunk = arguments.per_device_train_batch_size, arguments.gradient_cache_chunk
    return (n_rows, accumulates) if chunk is None or chunk >= n_rows else (chunk, True)


def activations(model: nn.Module, arguments: StageArguments, n_rows: int, n_tokens: int) -> int:
    """Bytes that autograd keeps of one forward pass, weights aside. Call it, and build `model`, under a `FakeTensorMode`.

    With checkpointing, each layer keeps its input alone, and one layer at a time the rest, when it is computed again.
    """
    own = {value.untyped_storage()._cdata for value in model.parameters()}
    kept, before, layers, inputs = {}, [], [], []

    def keep(value: torch.Tensor) -> torch.Tensor:
        storage = value.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage  # the storage itself, so that no other takes its address
        return value

    def total() -> int:
        return sum(storage.nbytes() for storage in kept.values())

    def enter(layer: nn.Module, arguments: tuple) -> None:
        before.append(total())
        inputs.append(arguments[0].nbytes)

    hooks = []
    for layer in [part for part in model.modules() if isinstance(part, GradientCheckpointingLayer)]:
        hooks.append(layer.register_forward_pre_hook(enter))
        hooks.append(layer.register_forward_hook(lambda *_: layers.append(total() - before.pop())))
    batch = {name: torch.ones(n_rows, n_tokens, dtype=torch.long) for name in ("input_ids", "attention_mask")}
    if images_live(arguments) and learns(model, *IMAGE_PARTS):
        size = model.config.vision_config.image_size
        batch["pixel_values"] = torch.zeros(n_rows, 3, size, size)
    dtype = torch.float16 if arguments.fp16 else torch.bfloat16
    autocast = torch.autocast("cpu", dtype, enabled=arguments.fp16 or arguments.bf16)
    with autocast, torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        model.train()(**batch)
    for hook in hooks:
        hook.remove()
    return total() - sum(layers) + sum(inputs) + max(layers) if arguments.gradient_checkpointing else total()


def processes(arguments: StageArguments) -> int:
    return arguments.dry_run_processes or arguments.world_size


def parameter_lines(model: PreTrainedModel, trained: PreTrainedModel) -> list[tuple[str, str]]:
    towers = ", ".join(f"{name} {size(part):,}" for name, part in model.named_children())
    learning = sum(value.numel() for value in trained.parameters() if value.requires_grad)
    return [
        ("parameters", f"{size(model):,}: {towers}"),
        ("trainable", f"{learning:,}, {100 * learning / size(model):.1f} %"),
    ]


def size(model: nn.Module) -> int:
    return sum(value.numel() for value in model.parameters())


def step_lines(
    arguments: StageArguments, lengths: list[int], trained: PreTrainedModel
) -> list[tuple[str, str]]:
    n_processes, per_device = processes(arguments), arguments.per_device_train_batch_size
    n_examples = examples_per_step(arguments, n_processes)
    n_images = 0 if isinstance(arguments, TeacherLearningArguments) else n_examples
    mean = sum(lengths) / len(lengths)
    vectors = "" if images_live(arguments) or not n_images else ", as vectors made once before training"
    accumulated, most = arguments.gradient_accumulation_steps, n_examples * arguments.max_text_length
    steps = f"{arguments.max_steps:,} steps, {arguments.max_steps * n_examples:,} examples"
    lines = {
        "examples per step": f"{n_examples:,}: {per_device} x {accumulated} accumulated x {n_processes} processes",
        "tokens per step": f"{round(n_examples * mean):,} at the {mean:.1f} a text of {len(lengths)} seen, at most {most:,}",
        "images per step": f"{n_images:,}{vectors}",
        "training": steps if arguments.max_steps > 0 else f"{arguments.num_train_epochs:g} epochs",
    }
    return list(lines.items())


def memory_lines(
    memory: dict[str, Memory], bounds: dict[str, int], arguments: StageArguments
) -> list[tuple[str, str]]:
    worst, n_processes = memory["at most"], processes(arguments)
    fixed = [
        f"{name} {getattr(worst, name) / GIB:.2f}"
        for name in ("weights", "gradients", "optimizer", "buckets", "logits")
    ]
    passing = ", ".join(
        f"{memory[name].activations / GIB:.2f} at {n_tokens} tokens" for name, n_tokens in bounds.items()
    )
    peaks = ", ".join(
        f"{memory[name].peak / GIB:.2f} at {n_tokens} tokens" for name, n_tokens in bounds.items()
    )
    lines = [("memory, GiB", ", ".join(fixed)), ("activations, GiB", passing), ("peak a process, GiB", peaks)]
    if n_processes > 1:
        lines.append(("under FSDP2, GiB", f"{worst.sharded(n_processes) / GIB:.2f}"))
    return lines


__all__ = ["Memory", "activations", "estimate", "report", "untrained"]
