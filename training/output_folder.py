"""Check output folders: each belongs to one run, and its disk has room for what will be saved."""

import json
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import fields
from pathlib import Path

import torch
from torch import nn
from transformers import Trainer, TrainingArguments
from transformers import trainer as trainer_module
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import CONFIG_NAME

from benchmarks.results import package_versions
from common import output
from common.errors import InputError
from common.files.whole_files import write_text
from common.models.libraries import source_of
from common.models.low_rank import is_low_rank
from common.origins import Origin, as_records
from common.output import (
    bytes_of_weights,
    check_free,
    check_not_input,
    check_output_dir,
    format_bytes,
    free_bytes,
)
from model_cards.stages import origins_of_model
from modeling_altclip.checksums_altclip import CHECKSUMS, find_damages, has_checksums, read_checksums

from .adapter_output import bytes_of_adapter
from .arguments import StageArguments, say
from .checkpoints import finished_checkpoints, has_checkpoints, remove_unfinished

_RECORD = "run.json"
_SAME_DATA = "give the same data, train anew in another output_dir, or delete {} to resume all the same"
_RESUME = "Make room; with save_steps, --resume then continues from the last complete checkpoint"
# Files of a run that hold paths of this machine: its records, settings, state and logs of TensorBoard, and
# checkpoints that a resumed run has renamed.
_LOCAL = (
    _RECORD,
    "bad_rows*.jsonl",
    "excluded*.jsonl",
    "training_args.bin",
    "trainer_state.json",
    "*tfevents*",
    "damaged-checkpoint-*",
    "replaced-checkpoint-*",
)
# Files of a checkpoint that is pushed by itself: settings with paths, and checksums, which list the settings
# and are written after the push has begun.
_LOCAL_OF_CHECKPOINT = ("training_args.bin", CHECKSUMS, "*.tmp")
# Those of transformers' arguments that the weights depend on.
_LEARNING = (
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
# Those of our arguments that the weights do not depend on; all others count.
_WITHOUT_EFFECT = {
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


def claim(arguments: StageArguments) -> None:
    """Check that `output_dir` belongs to this run alone, and write a record of the run, `run.json`, into it.

    Where `resume` is set and there is nothing to resume, it is unset, with a line: the run begins.

    Raises:
        InputError: it cannot be written to, or is a folder that the run reads; it has checksums that cannot
            be read; it holds a model where an adapter is to be saved, or the reverse; it holds checkpoints
            and `resume` is not set; or it is set, and the run that wrote them had other settings, or it has
            finished its model and left no checkpoint.
    """
    check_output_dir(arguments.output_dir)
    check_not_input(arguments.output_dir, _inputs_of(arguments))
    folder = Path(arguments.output_dir)
    _check_checksums(folder)
    _check_other_output(arguments)
    with arguments.main_process_first(desc="removing what a killed run left"):
        if arguments.process_index == 0:
            remove_unfinished(folder)
    checkpoints = finished_checkpoints(folder)
    if checkpoints and not arguments.resume:
        raise InputError(
            f"output_dir {str(folder)!r} holds checkpoints of another run, {checkpoints[-1].name} among "
            "them: add --resume to go on with that run, or give another output_dir"
        )

    is_named = arguments.resume_from_checkpoint is not None
    if arguments.resume and not is_named and not has_checkpoints(folder):
        _refuse_finished(folder)
        say(arguments, f"{folder} holds no checkpoint to resume from: the training begins at its first step.")
        arguments.resume = False

    record = _describe(arguments) | {"finished": False}
    begun = _read_record(folder) if arguments.resume else None
    if begun is not None:
        _compare(record, begun, folder)
        # The settings and the machine of the first start stay, so that every resume is compared with them.
        resumed_on = [*begun.get("resumed_on", []), record["machine"]]
        record = begun | {"resumed_on": resumed_on, "finished": False}
    _write_record(arguments, record)


def record_finish(arguments: StageArguments) -> None:
    """Record that the run in `output_dir` has saved its model."""
    record = _read_record(Path(arguments.output_dir))
    if record is not None:  # else trained by code of the user's own, which claimed no folder
        _write_record(arguments, record | {"finished": True})


def has_finished(folder: Path) -> bool:
    """Return whether a run has saved its model in a folder, and the model is as it was saved.

    A run of an earlier version did not record that it finished: it has if its model is there.

    Raises:
        InputError: the record of the run is damaged.
    """
    record = _read_record(folder)
    if record is None or not record.get("finished", True) or not has_checksums(folder):
        return False
    try:
        return not find_damages(folder)
    except ValueError:  # the checksums themselves are damaged
        return False


def _refuse_finished(folder: Path) -> None:
    """Refuse to resume in a folder whose model is finished, which would be trained anew.

    Raises:
        InputError: it is.
    """
    if has_finished(folder):
        raise InputError(
            f"resume: {folder} holds a finished model and no checkpoint: leave out --resume to train it "
            "anew, or give another output_dir"
        )


def _check_checksums(folder: Path) -> None:
    """Refuse a folder with damaged checksums before the training, whose model could not be saved into it.

    Raises:
        InputError: they cannot be read.
    """
    if not has_checksums(folder):
        return
    try:
        read_checksums(folder)
    except ValueError as error:
        raise InputError(f"output_dir: {error}") from error


def _check_other_output(arguments: StageArguments) -> None:
    """Refuse a folder with a model for an adapter, and the reverse: of the two, one alone would be read.

    Raises:
        InputError: it holds what this training does not save.
    """
    folder = Path(arguments.output_dir)
    if arguments.saves_adapter and (folder / CONFIG_NAME).is_file():
        raise InputError(
            f"output_dir {str(folder)!r} holds a model ({CONFIG_NAME}), and lora_output is adapter: "
            "give another output_dir"
        )
    if not arguments.saves_adapter and is_low_rank(str(folder)):
        raise InputError(
            f"output_dir {str(folder)!r} holds an adapter (adapter_config.json), as which the model of this "
            "training would be read: give another output_dir"
        )


def claim_data(arguments: StageArguments, n_examples: int, fingerprints: dict[str, str]) -> None:
    """Check that a run that resumes has the data with which it began, and record what they are.

    The names of the data are settings, see `claim`; this sees that what lies under them has changed.

    Args:
        fingerprints: identify parts of the data, as in `{"captions in en": ...}`.

    Raises:
        InputError: there are more or fewer examples, or a part is another.
    """
    folder = Path(arguments.output_dir)
    record = _read_record(folder)
    if record is None:
        return  # trained by code of the user's own, which claimed no folder
    if arguments.resume:
        _compare_data(record, n_examples, fingerprints, folder)
    _write_record(arguments, record | {"examples": n_examples, "data": fingerprints})


def record_exclusion(arguments: StageArguments, tasks: list[str], n_rows: int | None) -> None:
    """Record which tasks were looked for in the training data, and how many rows were removed.

    Those of a stream, None, are not counted beforehand.

    A resumed run is compared by `claim_data`, which sees the rows that are left.
    """
    record = _read_record(Path(arguments.output_dir))
    if record is None:
        return  # trained by code of the user's own, which claimed no folder
    _write_record(arguments, record | {"excluded": {"tasks": tasks, "rows": n_rows}})


def record_sources(arguments: StageArguments, origins: list[Origin]) -> None:
    """Add to a run's record what data it learns from, after its models and what these were made of.

    The record of a model that was trained here is taken over: its folder may be gone when a card is made.

    Args:
        origins: those of the data, with the rows that were read of each, before any is excluded.

    Raises:
        InputError: the record of a model is damaged.
    """
    record = _read_record(Path(arguments.output_dir))
    if record is None:
        return  # trained by code of the user's own, which claimed no folder
    of_models = []
    for name in arguments.models():
        of_models += origins_of_model(name)
    sources = list(record.get("sources", []))
    for source in as_records([*of_models, *origins]):
        if source not in sources:
            sources.append(source)
    _write_record(arguments, record | {"sources": sources})


def _compare_data(record: dict, n_examples: int, fingerprints: dict[str, str], folder: Path) -> None:
    """Compare the data of a run that resumes with the record of the one that began in `folder`.

    Raises:
        InputError: they differ.
    """
    # Earlier versions recorded less.
    before = record.get("examples", n_examples)
    if before != n_examples:
        raise InputError(
            f"resume: the data had {before} examples when the run in {folder} began, and has {n_examples} "
            f"now: {_SAME_DATA.format(folder / _RECORD)}"
        )
    recorded = record.get("data", fingerprints)
    changed = [name for name in {**recorded, **fingerprints} if recorded.get(name) != fingerprints.get(name)]
    if changed:
        raise InputError(
            f"resume: the data has {', '.join(changed)} other than when the run in {folder} began: "
            f"{_SAME_DATA.format(folder / _RECORD)}"
        )


def _write_record(arguments: StageArguments, record: dict) -> None:
    """Write the record of a run on the main process, in whole or not at all."""
    path = Path(arguments.output_dir, _RECORD)
    with arguments.main_process_first(desc="writing the record of the run"):
        if arguments.process_index == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, json.dumps(record, indent=1, ensure_ascii=False) + "\n")


@contextmanager
def without_local_files() -> Iterator[None]:
    """Keep files that hold paths of this machine out of what the Trainer uploads.

    It fixes the patterns of files that it leaves out. More are added in the client that it uploads with.
    Checksums of an earlier push are deleted in the same commit, unless new ones are uploaded.
    """
    client = trainer_module.hf_api()
    upload = client.upload_folder

    def upload_others(*, ignore_patterns=(), path_in_repo=None, **given):
        # The Trainer names a path for checkpoints only, and none for the model's folder.
        local = _LOCAL if path_in_repo is None else _LOCAL_OF_CHECKPOINT
        return upload(
            ignore_patterns=[*ignore_patterns, *local],
            delete_patterns=[CHECKSUMS],
            path_in_repo=path_in_repo,
            **given,
        )

    client.upload_folder = upload_others
    try:
        yield
    finally:
        del client.upload_folder  # the method of its class is there again


def _inputs_of(arguments: StageArguments) -> dict[str, str | None]:
    """Return the models and datasets that a run reads, by argument."""
    inputs = {}
    for field in fields(arguments):
        if field.name.endswith(("name_or_path", "dataset")):
            name = getattr(arguments, field.name)
            inputs[field.name] = None if name is None else source_of(name)
    return inputs


def _describe(arguments: StageArguments) -> dict[str, dict]:
    """Describe what a run's weights depend on: `settings`, which must not change, and `machine`, which may.

    In the record of a run that was resumed, `resumed_on` lists the machines that went on with it.
    """
    inherited = {field.name for field in fields(TrainingArguments)}
    own = [field.name for field in fields(arguments) if field.name not in inherited]
    settings = {}
    for name in [*_LEARNING, *own]:
        if name not in _WITHOUT_EFFECT:
            settings[name] = _plain(getattr(arguments, name))
    settings["examples_per_step"] = examples_per_step(arguments)
    machine = {
        "processes": arguments.world_size,
        "threads": torch.get_num_threads(),
        "device": arguments.device.type,
        "versions": package_versions(),
    }
    return {"settings": settings, "machine": machine}


def _plain(value):
    """Return a setting as a value of JSON.

    A path that exists becomes absolute, so that a run may resume from another working directory.
    """
    if isinstance(value, str) and Path(value).exists():
        return str(Path(value).resolve())
    return value if isinstance(value, int | float | list | dict | None) else str(value)


def examples_per_step(arguments: StageArguments, n_processes: int | None = None) -> int:
    """Return the number of examples in one update of the weights, over all processes.

    By default these are the processes that run.
    """
    per_process = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps
    return per_process * (n_processes or arguments.world_size)


def _read_record(folder: Path) -> dict | None:
    """Return the record of a folder's run; None where it was begun before there were records.

    Raises:
        InputError: the record is damaged.
    """
    path = folder / _RECORD
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text("utf-8"))
        settings = record["settings"]
    except (ValueError, RecursionError, TypeError, KeyError):
        settings = None
    if not isinstance(settings, dict) or not isinstance(record.get("data", {}), dict):
        raise InputError(
            f"resume: {path}, the record of the run's settings, is damaged: remove it to resume without "
            "comparing them, or train anew in another output_dir"
        )
    return record


def _compare(record: dict[str, dict], begun: dict[str, dict], folder: Path) -> None:
    """Compare a run that resumes with the record of the one that began in `folder`.

    Raises:
        InputError: settings differ that the weights depend on.
    """
    changes = []
    for name, (before, value) in _differences(begun["settings"], record["settings"]).items():
        changes.append(f"{name} was {before!r} when the run in {folder} began, and is {value!r} now")
    if changes:
        raise InputError(
            f"resume: {'; '.join(changes)}: give the same, train anew in another output_dir, "
            f"or delete {folder / _RECORD} to resume all the same"
        )


def _differences(before: dict, now: dict) -> dict[str, tuple]:
    """Return the settings that differ, `{name: (before, now)}`; one may be newer than the record of a run."""
    return {name: (before[name], now[name]) for name in now if before.get(name, now[name]) != now[name]}


def changed_settings(arguments: StageArguments) -> dict[str, tuple]:
    """Compare arguments with the finished run in their `output_dir`, as `--resume` does with one that began.

    The number of processes may be another, as long as a step has as many examples. Precision is not compared,
    which a machine may lack. The number of steps is, by which a finished run is another.

    Returns:
        `{setting: (value of that run, value now)}` of those that the weights depend on.

    Raises:
        InputError: the record of the run is damaged.
    """
    folder = Path(arguments.output_dir)
    begun = _read_record(folder)
    if begun is None:
        return {}
    n_processes = begun.get("machine", {}).get("processes", 1)
    now = _describe(arguments)["settings"]
    now["examples_per_step"] = examples_per_step(arguments, n_processes)
    before = begun["settings"] | {name: now[name] for name in ("bf16", "fp16")}
    state = folder / TRAINER_STATE_NAME
    if state.is_file():
        ended = json.loads(state.read_text("utf-8"))
        # Steps count where they are given, as in transformers, else epochs.
        name = "max_steps" if arguments.max_steps > 0 else "num_train_epochs"
        before[name] = ended[name]
        now[name] = math.ceil(getattr(arguments, name))
    return _differences(before, now)


def check_room(trainer: Trainer) -> None:
    """Check before training that the disk has room for its checkpoints and the model.

    Raises:
        InputError: it has not; the message gives the sizes.
    """
    arguments = trainer.args
    n_checkpoints = count_checkpoints(trainer)
    of_checkpoint = bytes_of_checkpoint(trainer.model, arguments)
    of_model = bytes_of_model(trainer.model, arguments)
    needed = n_checkpoints * of_checkpoint + of_model
    free = free_bytes(arguments.output_dir)
    saved = "an adapter" if arguments.saves_adapter else "a model"
    if free < needed:
        raise InputError(
            f"output_dir {arguments.output_dir!r} has {format_bytes(free)} free, and this training saves "
            f"{saved} of {format_bytes(of_model)} and {n_checkpoints} checkpoints of "
            f"{format_bytes(of_checkpoint)}: "
            "make room, save less often (save_steps), keep fewer (save_total_limit 1), "
            "or give an output_dir on another disk"
        )


def count_checkpoints(trainer: Trainer) -> int:
    """Return how many more checkpoints than now will lie on the disk at the same time."""
    arguments = trainer.args
    strategy = arguments.save_strategy.value
    if strategy == "no":
        return 0
    n_epochs = math.ceil(arguments.num_train_epochs)
    n_steps = arguments.max_steps
    if n_steps < 1:
        n_steps = n_epochs * math.ceil(len(trainer.train_dataset) / examples_per_step(arguments))
    steps_between = {"steps": arguments.save_steps, "epoch": max(1, n_steps // n_epochs), "best": n_steps}
    every = steps_between[strategy]
    if every < 1:
        every *= n_steps  # `save_steps` below 1 is a share of all steps

    existing = len(finished_checkpoints(Path(arguments.output_dir)))
    count = max(0, math.ceil(n_steps / every) - existing)
    if arguments.save_total_limit is None:
        return count
    # An old checkpoint is deleted after the new one is written, so that there is one more for a moment.
    return min(count, max(0, arguments.save_total_limit + 1 - existing))


def bytes_of_model(model: nn.Module, arguments: StageArguments) -> int:
    """Return the size of what a training saves at its end: the weights, or those of an adapter alone."""
    return bytes_of_adapter(model) if arguments.saves_adapter else bytes_of_weights(model)


def bytes_of_checkpoint(model: nn.Module, arguments: StageArguments) -> int:
    """Return the size of a checkpoint: the weights, and AdamW's two float32 states of each trainable one."""
    n_learning = sum(value.numel() for value in model.parameters() if value.requires_grad)
    states = 2 if "adam" in arguments.optim else 0
    return bytes_of_weights(model) + states * 4 * n_learning


def check_room_for_model(arguments: StageArguments, model: nn.Module) -> None:
    """Check that the disk has room for the model, and for one checkpoint if any is saved.

    It needs no data, and so can come before anything that takes long; `check_room` knows all checkpoints.

    Args:
        model: has the shapes of the model that is trained; its weights may be fake.

    Raises:
        InputError: there is no room.
    """
    needed = bytes_of_model(model, arguments)
    saved = "adapter" if arguments.saves_adapter else "model"
    what = f"the {saved} that this training saves"
    has_checkpoint = bool(finished_checkpoints(Path(arguments.output_dir)))
    if arguments.save_strategy.value != "no" and not has_checkpoint:
        needed += bytes_of_checkpoint(model, arguments)
        what = f"the {saved} that this training saves, with one checkpoint,"
    check_free(arguments.output_dir, needed, what)


def saving(
    what: str, folder: Path, n_bytes: int, *, is_checkpoint: bool = False
) -> AbstractContextManager[None]:
    """Turn a failure of a training to write to a full disk into one line, as `common.output.saving` does.

    Args:
        is_checkpoint: `folder` is a checkpoint, which is removed where it is incomplete; the last complete
            one stays.
    """
    return output.saving(what, folder, n_bytes, is_new=is_checkpoint, advice=_RESUME)


__all__ = [
    "bytes_of_checkpoint",
    "bytes_of_model",
    "changed_settings",
    "check_room",
    "check_room_for_model",
    "claim",
    "claim_data",
    "examples_per_step",
    "has_finished",
    "record_finish",
    "record_sources",
    "saving",
    "without_local_files",
]
