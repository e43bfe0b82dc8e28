"""How a stage's run begins and ends: seeds, resuming, and the line that says what is where and what to do next."""

from pathlib import Path

import torch
from transformers import Trainer, set_seed
from transformers.trainer_utils import get_last_checkpoint

from benchmarks.recipe import InputError

from .arguments import StageArguments


def begin(arguments: StageArguments) -> None:
    """Seed everything, and flush denormals: they slowed a step on a CPU from tenths of a second to seconds."""
    torch.set_flush_denormal(True)
    set_seed(arguments.seed)


def train(trainer: Trainer, arguments: StageArguments) -> None:
    """Train, from the last checkpoint where `resume` asks for it, and keep the loss curve in `trainer_state.json`.

    Raises:
        InputError: `resume` finds no checkpoint.
    """
    checkpoint = None
    if arguments.resume:
        output_dir = Path(arguments.output_dir)
        checkpoint = get_last_checkpoint(output_dir) if output_dir.is_dir() else None
        if checkpoint is None:
            raise InputError(f"resume: {arguments.output_dir} holds no checkpoint: set save_steps, or train without --resume")
    if trainer.is_world_process_zero():
        cells = trainer.train_dataset
        print(f"Training on {len(cells)} examples from {len(cells.row_ids)} rows; {cells.n_empty} captions are missing or empty.")
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_state()


def finish(arguments: StageArguments, what: str, following: str) -> None:
    """Say on the main process what was saved and which command comes next."""
    if arguments.process_index == 0:
        print(f"Saved {what} to {arguments.output_dir}. Next: {following}")
