"""How a stage's run begins and ends: seeds, resuming, and the line that says what is where and what to do next."""

import json
import re
from pathlib import Path

import torch
from datasets import Dataset
from transformers import Trainer, set_seed
from transformers.trainer_utils import sort_checkpoints
from transformers.utils import is_matplotlib_available

from benchmarks.loading import load_captions
from benchmarks.recipe import InputError

from .arguments import PairArguments, StageArguments
from .health import FrozenWeights
from .pictures import keep_readable


def begin(arguments: StageArguments) -> None:
    """Seed everything, and flush denormals: they slowed a step on a CPU from tenths of a second to seconds."""
    torch.set_flush_denormal(True)
    set_seed(arguments.seed)


def load_pictures(arguments: PairArguments) -> Dataset:
    """The captioned images to train on, without those that cannot be decoded; says how many those are and where they stand."""
    rows = load_captions(arguments.dataset, arguments.split)
    with arguments.main_process_first(desc="decoding images"):
        rows, n_bad = keep_readable(rows, arguments.bad_rows, arguments.output_dir)
    if n_bad:
        say(arguments, f"Set aside {n_bad} rows with bad images, listed in {arguments.output_dir}/bad_rows.jsonl.")
    return rows


def train(trainer: Trainer, arguments: StageArguments) -> None:
    """Train, from the last checkpoint where `resume` asks for it, and keep the loss curve in `trainer_state.json`.

    Raises:
        InputError: `resume` finds no checkpoint.
    """
    checkpoint = None
    if arguments.resume:
        checkpoint = last_whole_checkpoint(arguments.output_dir, arguments.world_size)
        if checkpoint is None:
            raise InputError(f"resume: {arguments.output_dir} holds no whole checkpoint: set save_steps, or train without --resume")
    cells = trainer.train_dataset
    set_aside = ", ".join(f"{count} {reason}" for reason, count in cells.set_aside.items() if count) or "nothing"
    say(arguments, f"Training on {len(cells)} examples from {len(cells.row_ids)} rows; set aside: {set_aside}.")
    frozen = FrozenWeights(trainer.model)
    trainer.train(resume_from_checkpoint=checkpoint)
    frozen.check()
    trainer.save_state()
    plot(arguments)


def plot(arguments: StageArguments) -> None:
    """Draw the run's curves where matplotlib is installed; it is no dependency, so say so where it is not."""
    if not is_matplotlib_available():
        say(arguments, 'No plots without matplotlib: pip install "altclip[plots]".')
    elif arguments.process_index == 0:
        from model_cards.plots import plot_training

        plot_training(Path(arguments.output_dir), Path(arguments.output_dir, "training.png"))


def say(arguments: StageArguments, message: str) -> None:
    """Print on the main process."""
    if arguments.process_index == 0:
        print(message)


def last_whole_checkpoint(output_dir: str, n_processes: int = 1) -> str | None:
    """The newest checkpoint that was written to its end; a run that is killed while it writes one leaves half of it.

    The Trainer writes `trainer_state.json` last, and every process its own random numbers.
    """
    for folder in reversed([folder for folder in sort_checkpoints(output_dir) if re.search(r"checkpoint-\d+$", folder)]):
        numbers = ["rng_state.pth"] if n_processes == 1 else [f"rng_state_{rank}.pth" for rank in range(n_processes)]
        try:
            json.loads(Path(folder, "trainer_state.json").read_text("utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            continue
        if all(Path(folder, name).exists() for name in numbers):
            return folder
    return None


def finish(arguments: StageArguments, what: str, following: str) -> None:
    """Say on the main process what was saved and which command comes next."""
    say(arguments, f"Saved {what} to {arguments.output_dir}. Next: {following}")
