"""The folder that a run writes to: one run's alone, with room for what is to be saved."""

import errno
import json
import math
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import sort_checkpoints

from benchmarks.recipe import InputError
from benchmarks.results import package_versions

from .arguments import StageArguments

RECORD = "run.json"
# Of transformers' own arguments those that the weights depend on; of ours all but these.
LEARNING = (
    "seed",
    "data_seed",
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "optim",
    "weight_decay",
    "max_grad_norm",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "bf16",
    "fp16",
    "train_sampling_strategy",
)
WITHOUT_EFFECT = {
    "resume",
    "dry_run",
    "dry_run_processes",
    "cache_dir",
    "bad_rows",
    "report_to",
    "logging_steps",
    "logging_nan_inf_filter",
    "validation_split",
    "validation_dataset",
    "zero_shot_split",
    "class_names",
    "english_tolerance",
    "metric_for_best_model",
    "remove_unused_columns",
    "ddp_find_unused_parameters",
    "ddp_broadcast_buffers",
    "attn_implementation",
}
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# torch.save keeps no errno, and says this of a short write.
FULL_MESSAGES = (
    "No space left",
    "quota exceeded",
    "File too large",
    "PytorchStreamWriter failed",
    "unexpected pos",
)


def claim(arguments: StageArguments) -> None:
    """See that `output_dir` is this run's alone, and leave a record of the run in it.

    Raises:
        InputError: it holds checkpoints and `resume` is not asked for; or it is, and the run that wrote them had
            other settings.
    """
    folder = Path(arguments.output_dir)
    checkpoints = finished_checkpoints(folder)
    if checkpoints and not arguments.resume:
        raise InputError(
            f"output_dir {str(folder)!r} holds checkpoints of another run, {checkpoints[-1].name} among them: "
            "add --resume to go on with that run, or give another output_dir"
        )
    record = describe(arguments)
    begun = read_record(folder) if arguments.resume else None
    if begun is not None:
        compare(record, begun, folder)
        record = begun | {"resumed_on": [*begun.get("resumed_on", []), record["machine"]]}
    with arguments.main_process_first(desc="writing the record of the run"):
        if arguments.process_index == 0:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / RECORD).write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", "utf-8")


def finished_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints that have their `trainer_state.json`, which the Trainer writes last: a kill leaves half of one."""
    found = []
    for checkpoint in sort_checkpoints(folder) if folder.is_dir() else []:
        if not re.search(r"checkpoint-\d+$", checkpoint):
            continue
        try:
            json.loads(Path(checkpoint, "trainer_state.json").read_text("utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            continue
        found.append(Path(checkpoint))
    return found


def describe(arguments: StageArguments) -> dict[str, dict]:
    """Return what a run's weights depend on: its `settings`, which must not change, and its `machine`, which may.

    In the record of a run that was resumed, `resumed_on` lists the machines that went on with it.
    """
    inherited = {field.name for field in fields(TrainingArguments)}
    own = [field.name for field in fields(arguments) if field.name not in inherited]
    settings = {}
    for name in [*LEARNING, *own]:
        if name not in WITHOUT_EFFECT:
            settings[name] = plain(getattr(arguments, name))
    settings["examples_per_step"] = examples_per_step(arguments)
    machine = {
        "processes": arguments.world_size,
        "threads": torch.get_num_threads(),
        "device": arguments.device.type,
        "versions": package_versions(),
    }
    return {"settings": settings, "machine": machine}


def plain(value):
    """Return a setting as JSON has it; a path that exists as a whole one, so that it can be told from elsewhere."""
    if isinstance(value, str) and Path(value).exists():
        return str(Path(value).resolve())
    return value if isinstance(value, int | float | list | dict | None) else str(value)


def examples_per_step(arguments: StageArguments, n_processes: int | None = None) -> int:
    """Return the size of the batch that one update of the weights is made of, over all processes: by default those that run."""
    of_process = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps
    return of_process * (n_processes or arguments.world_size)


def read_record(folder: Path) -> dict | None:
    """Return the record of the run that a folder is of; None where it was begun before there were records."""
    path = folder / RECORD
    return json.loads(path.read_text("utf-8")) if path.is_file() else None


def compare(record: dict[str, dict], begun: dict[str, dict], folder: Path) -> None:
    """Compare a run that resumes with the record of the one that began in `folder`.

    Raises:
        InputError: settings differ that the weights depend on.
    """
    for name, value in record["settings"].items():
        before = begun["settings"].get(name, value)
        if before != value:
            raise InputError(
                f"resume: {name} was {before!r} when the run in {folder} began, and is {value!r} now: "
                "give the same, or train anew in another output_dir"
            )


def check_room(trainer: Trainer, whole_model: nn.Module) -> None:
    """See before a training that the disk has room for its checkpoints and its end.

    Raises:
        InputError: it has not; the message gives the sizes.
    """
    arguments = trainer.args
    n_checkpoints = count_checkpoints(trainer)
    of_checkpoint, of_model = bytes_of_checkpoint(trainer), bytes_of_weights(whole_model)
    needed = n_checkpoints * of_checkpoint + of_model
    free = free_bytes(arguments.output_dir)
    if free < needed:
        raise InputError(
            f"output_dir {arguments.output_dir!r} has {gigabytes(free)} free, and this training saves a model of "
            f"{gigabytes(of_model)} and {n_checkpoints} checkpoints of {gigabytes(of_checkpoint)}: make room, "
            "save less often (save_steps), keep fewer (save_total_limit 1), or give an output_dir on another disk"
        )


def count_checkpoints(trainer: Trainer) -> int:
    """Return how many more checkpoints will lie on the disk at a time."""
    arguments = trainer.args
    strategy = arguments.save_strategy.value
    if strategy == "no":
        return 0
    n_epochs = math.ceil(arguments.num_train_epochs)
    n_steps = arguments.max_steps
    if n_steps < 1:
        n_steps = n_epochs * math.ceil(len(trainer.train_dataset) / examples_per_step(arguments))
    every = {"steps": arguments.save_steps, "epoch": max(1, n_steps // n_epochs), "best": n_steps}[strategy]
    every = every if every >= 1 else every * n_steps  # below 1 it is a share of all steps
    there = len(finished_checkpoints(Path(arguments.output_dir)))
    count = max(0, math.ceil(n_steps / every) - there)
    if arguments.save_total_limit is None:
        return count
    return min(
        count, max(0, arguments.save_total_limit + 1 - there)
    )  # an old one goes when the new one is written


def bytes_of_weights(model: nn.Module) -> int:
    return sum(value.nbytes for value in model.state_dict().values())


def bytes_of_checkpoint(trainer: Trainer) -> int:
    """Return the size of weights and, of all that learn, AdamW's two states."""
    learning = sum(value.numel() for value in trainer.model.parameters() if value.requires_grad)
    states = 2 if "adam" in trainer.args.optim else 0
    return bytes_of_weights(trainer.model) + states * 4 * learning


def free_bytes(folder: str | Path) -> int:
    """Return what is free where a folder lies, or will lie."""
    there = Path(folder).absolute()
    while not there.exists():
        there = there.parent
    return shutil.disk_usage(there).free


def gigabytes(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.2f} GB"


@contextmanager
def saving(what: str, folder: Path, n_bytes: int) -> Iterator[None]:
    """Turn a failure to write for want of room into one line that says how much is missing.

    What was half written is removed where `folder` is a checkpoint's own; the last whole checkpoint stays.

    Raises:
        InputError: the disk is full, or the file is larger than the user may write.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if not is_full(error):
            raise
        if folder.name.startswith("checkpoint-"):
            shutil.rmtree(folder, ignore_errors=True)
        free = free_bytes(folder)
        missing = max(0, n_bytes - free)
        reason = str(error).splitlines()[0]  # torch's goes on with its own stack
        raise InputError(
            f"{what} could not be saved to {folder}: {reason}. It needs {gigabytes(n_bytes)}, {gigabytes(free)} are free, "
            f"{gigabytes(missing)} are missing. Make room; with save_steps, --resume then goes on from the last whole checkpoint"
        ) from error


def is_full(error: BaseException) -> bool:
    """Return whether an error, or one that it came of, says that there is no room to write."""
    while error is not None:
        if getattr(error, "errno", None) in FULL or any(message in str(error) for message in FULL_MESSAGES):
            return True
        error = error.__cause__ or error.__context__
    return False


__all__ = [
    "bytes_of_checkpoint",
    "bytes_of_weights",
    "check_room",
    "claim",
    "examples_per_step",
    "finished_checkpoints",
    "saving",
]
