"""Show how the stages of a model were trained: settings, steps, time, machine and versions, as recorded."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from benchmarks.results import format_table
from common.errors import InputError
from common.files.json_files import read_json

from .paths import public_path
from .stages import datasets_of

# What a table shows of a training's settings, where the recipe or the record has it.
_SHOWN = {
    "objective": "objective",
    "loss": "loss",
    "trainable": "trained",
    "freeze": "frozen within",
    "lora_rank": "LoRA rank",
    "matryoshka_dims": "Matryoshka dimensions",
    "max_text_length": "tokens a text",
    "learning_rate": "learning rate",
    "lr_scheduler_type": "schedule",
    "warmup_steps": "warm-up steps",
    "optim": "optimizer",
    "adam_beta1": "Adam's beta 1",
    "adam_beta2": "Adam's beta 2",
    "weight_decay": "weight decay",
    "max_grad_norm": "largest gradient norm",
    "seed": "seed",
}
# As a record writes a value of an enumeration: "SchedulerType.COSINE"
_ENUMERATION = re.compile(r"[A-Z]\w*\.([A-Z_0-9]+)")
_MOST_PARTS = 4  # of a list in a cell


@dataclass(kw_only=True)
class Training:
    """How one stage was trained, or is to be: as far as it is known.

    Attributes:
        settings: those of its recipe, by their names.
        steps: how many it made.
        seconds: how long it took; None also where it was resumed, and only a part was measured.
        machine: its `processes`, `threads`, `device` and `versions`.
    """

    settings: dict = field(default_factory=dict)
    steps: int | None = None
    seconds: float | None = None
    machine: dict = field(default_factory=dict)

    def describe(self) -> dict[str, str]:
        """Return what a card shows, by the titles of a table's rows; empty texts where it is not known."""
        shown = {"data": _format([public_path(name) for name in datasets_of(self.settings)])}
        steps = self.steps or self.settings.get("max_steps")
        epochs = None if steps else self.settings.get("num_train_epochs")
        # What was made in closed form has records of settings that it did not use.
        settings = self.settings if steps or epochs else {}
        shown["steps"] = _format(steps)
        shown["epochs"] = _format(epochs)
        shown["examples a step"] = _format(_examples_per_step(settings))
        shown |= {title: _format(settings.get(name)) for name, title in _SHOWN.items()}
        shown["precision"] = _precision(settings)
        shown["time"] = "" if self.seconds is None else str(timedelta(seconds=round(self.seconds)))
        shown["machine"] = shown["versions"] = ""
        if self.machine:
            shown["machine"] = "{processes} x {device}, {threads} threads".format(**self.machine)
            versions = self.machine["versions"]
            shown["versions"] = ", ".join(f"{name} {versions[name]}" for name in ("torch", "transformers"))
        return shown


def read_training(stage: str) -> Training | None:
    """Read how a stage was trained, but for its data, which are among its origins; None without a record.

    Raises:
        InputError: its record has no settings, or another form.
    """
    path = Path(stage, "run.json")
    if not path.is_file():
        return None
    record = read_json(path, "record")
    log = Path(stage, "trainer_state.json")
    state = read_json(log, "log") if log.is_file() else {}
    try:
        settings = {name: value for name, value in record["settings"].items() if name != "dataset"}
        training = Training(settings=settings, machine=record.get("machine", {}))
        training.steps = state.get("global_step")
        if "resumed_on" not in record:
            times = [
                entry["train_runtime"] for entry in state.get("log_history", []) if "train_runtime" in entry
            ]
            training.seconds = times[-1] if times else None
        training.describe()
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is not a training's record ({error!r}): delete it, or train again"
        ) from error
    return training


def table_of_trainings(trainings: Mapping[str, Training | None]) -> str:
    """Return a table in Markdown, settings by stages; empty where nothing is known of any.

    Args:
        trainings: by the labels of the stages, in training order.
    """
    described = {label: training.describe() for label, training in trainings.items() if training}
    if not described:
        return ""
    rows = []
    for title in next(iter(described.values())):
        values = [shown[title] for shown in described.values()]
        if any(values):
            rows.append([title, *values])
    return format_table(["setting", *described], rows)


def _examples_per_step(settings: dict) -> int | None:
    """Return the examples of a step of all processes: as recorded, or of those that a recipe is made for."""
    if "examples_per_step" in settings:
        return settings["examples_per_step"]
    if "per_device_train_batch_size" not in settings:
        return None
    n_processes = settings.get("dry_run_processes", 1)
    accumulated = settings.get("gradient_accumulation_steps", 1)
    return settings["per_device_train_batch_size"] * accumulated * n_processes


def _precision(settings: dict) -> str:
    for name in ("bf16", "fp16"):
        if settings.get(name):
            return name
    return "float32" if settings.keys() & {"bf16", "fp16"} else ""


def _format(value: object) -> str:
    """Return a setting as text, and nothing for one that is not set: 0.0001 -> "0.0001", 1200 -> "1,200"."""
    if value is None or value == []:
        return ""
    if isinstance(value, list) and len(value) > _MOST_PARTS:
        return f"{value[0]} and {len(value) - 1} more"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:g}"
    enumeration = _ENUMERATION.fullmatch(str(value))
    return enumeration[1].lower() if enumeration else str(value)


__all__ = ["Training", "read_training", "table_of_trainings"]
