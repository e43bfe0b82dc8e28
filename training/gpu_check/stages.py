"""Take real steps of stages 1 and 2 on made-up batches, and measure speed, memory and utilisation."""

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch.utils.data import Dataset
from torch.utils.flop_counter import FlopCounterMode
from transformers import PrinterCallback, TrainerCallback

from ..arguments import ContrastiveArguments, StageArguments, TeacherLearningArguments
from ..freezing import freeze_all_but
from ..sharding import whole
from ..teachers import space_of, width_of_targets
from ..trainers import AltCLIPTrainer, ContrastiveTrainer, TeacherLearningTrainer
from .hardware import Hardware, synchronize
from .rows import CheckFailed, Measured
from .shapes import Shape, build_model, make_embeddings, make_pixels, make_texts

_WARM_UP = 3  # steps that are not timed: kernels are chosen and compiled, and memory is taken
_COUNTED = 4  # examples whose operations are counted
_NOTHING = "made up"  # for arguments that name data and models


@dataclass(frozen=True, kw_only=True)
class StageRun:
    """What to measure: a stage with its settings.

    Attributes:
        shape: the model.
        stage: `stage1`, `stage2`, or `stage2_cached`, whose images are embedded already.
        steps: number of timed steps.
        settings: fields of the stage's arguments, such as `{"bf16": True}`.
    """

    shape: Shape
    stage: str
    steps: int
    settings: dict = field(default_factory=dict)


def measure_stage(run: StageRun, hardware: Hardware, device: str) -> Measured:
    """Train for some steps by the stage's own trainer, and measure them.

    Raises:
        CheckFailed: the steps have changed no weight of the text tower.
    """
    with tempfile.TemporaryDirectory() as folder:
        trainer, batch = make_trainer(run, device, folder)
        operations = count_operations(trainer, batch)
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        clock = _Clock(device)
        trainer.add_callback(clock)
        # Under FSDP2 training replaces the weights by shards of them.
        before = _first_matrix(trainer).detach().clone()
        trainer.train()
        _check_learned(before, trainer)

    seconds = statistics.median(clock.seconds[_WARM_UP:])
    n_examples = run.shape.batch_size * trainer.args.world_size
    per_second = operations * run.shape.batch_size / seconds
    is_16_bit = trainer.args.bf16 or trainer.args.fp16
    known = hardware.peak is not None and is_16_bit
    return Measured(
        per_second=n_examples / seconds,
        unit="texts" if run.stage == "stage1" else "pairs",
        peak_bytes=torch.cuda.max_memory_allocated() if device == "cuda" else None,
        operations_per_second=per_second,
        utilisation=per_second / hardware.peak if known else None,
    )


def make_trainer(run: StageRun, device: str, folder: str) -> tuple[AltCLIPTrainer, dict]:
    """Make the trainer of a stage, and the batch that all of its steps are about.

    Args:
        folder: for the trainer's output, of which there is none.
    """
    settings = {
        "output_dir": folder,
        "dataset": _NOTHING,
        "max_steps": _WARM_UP + run.steps,
        "per_device_train_batch_size": run.shape.batch_size,
        "learning_rate": 1e-4,
        "save_strategy": "no",
        "disable_tqdm": True,
        "logging_steps": 10**6,
        "use_cpu": device == "cpu",
    } | run.settings
    if run.stage == "stage1":
        trainer_class = TeacherLearningTrainer
        arguments = TeacherLearningArguments(
            teacher_name_or_path=_NOTHING, text_encoder_name_or_path=_NOTHING, **settings
        )
    else:
        trainer_class = ContrastiveTrainer
        arguments = ContrastiveArguments(model_name_or_path=_NOTHING, **settings)
    # The arguments have chosen the GPU of this process.
    model = build_model(run.shape, arguments.device)
    parts = space_of(model.config).parts if run.stage == "stage1" else arguments.trainable
    freeze_all_but(model, parts)
    batch = _make_batch(run, model)
    trainer = trainer_class(
        model=model, args=arguments, train_dataset=_Examples(arguments), data_collator=_collator(batch)
    )
    trainer.remove_callback(PrinterCallback)  # the table says what is to be said
    return trainer, batch


class _Examples(Dataset):
    """As many examples as a training takes; the collator makes the batch."""

    weights = None

    def __init__(self, arguments: StageArguments):
        self.n_examples = arguments.max_steps * arguments.train_batch_size * arguments.world_size

    def __len__(self) -> int:
        return self.n_examples

    def __getitem__(self, index: int) -> int:
        return index


def _collator(batch: dict[str, torch.Tensor]) -> Callable[[list[int]], dict[str, torch.Tensor]]:
    """Return a collator that gives the same batch at every step, which costs no time."""

    def collate(_: list[int]) -> dict[str, torch.Tensor]:
        return dict(batch)  # a trainer takes values out of it

    return collate


def _make_batch(run: StageRun, model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Make the texts of a batch, and what a stage compares them with."""
    n_examples = run.shape.batch_size
    batch = make_texts(run.shape, n_examples)
    if run.stage == "stage1":
        batch["target"] = make_embeddings(n_examples, width_of_targets(model.config))
    elif run.stage == "stage2_cached":
        batch["image_embeds"] = make_embeddings(n_examples, model.config.projection_dim)
    else:
        batch["pixel_values"] = make_pixels(run.shape, n_examples)
    return batch


def count_operations(trainer: AltCLIPTrainer, batch: dict[str, torch.Tensor]) -> float:
    """Count the operations of the matrix products of an example, forward and backward.

    They are counted on a few examples without a gradient cache or activation checkpointing, which compute
    something twice, and with attention as plain products, which every version of torch counts.
    """
    model = trainer.model
    chunk = trainer.args.gradient_cache_chunk if isinstance(trainer, ContrastiveTrainer) else None
    if chunk is not None:
        trainer.args.gradient_cache_chunk = None
    model.set_attn_implementation("eager")
    model.train()
    few = {name: values[:_COUNTED].to(model.device) for name, values in batch.items()}
    with FlopCounterMode(display=False) as counter:
        trainer.compute_loss(model, few).backward()

    model.zero_grad(set_to_none=True)
    model.set_attn_implementation("sdpa")
    trainer.watch.seen.clear()
    if chunk is not None:
        trainer.args.gradient_cache_chunk = chunk
    return counter.get_total_flops() / len(few["row_ids"])


class _Clock(TrainerCallback):
    """Takes the time from the end of a step to the end of the next, with the reading of its batch."""

    def __init__(self, device: str):
        self.device = device
        self.seconds = []
        self.last = None

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        self.on_step_end(args, state, control)
        self.seconds.clear()

    def on_step_end(self, args, state, control, **kwargs) -> None:
        synchronize(self.device)
        now = time.perf_counter()
        if self.last is not None:
            self.seconds.append(now - self.last)
        self.last = now


def _first_matrix(trainer: AltCLIPTrainer) -> torch.Tensor:
    """Return the first matrix that is trained: of the text tower."""
    learned = [value for value in trainer.model.parameters() if value.requires_grad and value.ndim > 1]
    return learned[0]


def _check_learned(before: torch.Tensor, trainer: AltCLIPTrainer) -> None:
    """Check that steps have changed the weights: a scaler of fp16 may have skipped them all.

    Raises:
        CheckFailed: they have not.
    """
    after = whole(_first_matrix(trainer).detach())
    if torch.equal(before, after):
        raise CheckFailed("the steps have changed no weight")


__all__ = ["StageRun", "count_operations", "make_trainer", "measure_stage"]
