"""Find the checkpoints of a run: which were written to their end, and which one a run resumes from."""

import json
import re
from pathlib import Path

from transformers import AutoConfig, PreTrainedModel
from transformers.trainer_utils import sort_checkpoints

from common.errors import InputError

from .arguments import StageArguments


def checkpoint_to_resume(arguments: StageArguments, model: PreTrainedModel) -> str:
    """Return the checkpoint that `--resume` goes on from, the newest complete one.

    Raises:
        InputError: there is none, or it holds another kind of model.
    """
    checkpoint = last_complete_checkpoint(arguments.output_dir, arguments.world_size)
    if checkpoint is None:
        raise InputError(
            f"resume: {arguments.output_dir} holds no complete checkpoint: "
            "set save_steps, or train without --resume"
        )
    _check_kind(checkpoint, model)
    return checkpoint


def last_complete_checkpoint(output_dir: str, n_processes: int = 1) -> str | None:
    """Return the newest checkpoint that was written to its end; a run that is killed may leave half of one.

    The Trainer writes `trainer_state.json` last, and every process its own random numbers.
    """
    random_states = ["rng_state.pth"]
    if n_processes > 1:
        random_states = [f"rng_state_{rank}.pth" for rank in range(n_processes)]
    for folder in reversed(finished_checkpoints(Path(output_dir))):
        if all((folder / name).exists() for name in random_states):
            return str(folder)
    return None


def finished_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder that its main process finished, oldest first.

    The Trainer writes `trainer_state.json` last: a run that is killed may leave a checkpoint without it, or
    half of it.
    """
    if not folder.is_dir():
        return []
    found = []
    for checkpoint in sort_checkpoints(folder):
        if not re.search(r"checkpoint-\d+$", checkpoint):
            continue
        try:
            json.loads(Path(checkpoint, "trainer_state.json").read_text("utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            continue
        found.append(Path(checkpoint))
    return found


def _check_kind(checkpoint: str, model: PreTrainedModel) -> None:
    """Refuse a checkpoint of another kind of model: stage 1 once saved the text tower alone."""
    saved = AutoConfig.from_pretrained(checkpoint).model_type
    if saved != model.config.model_type:
        raise InputError(
            f"resume: {checkpoint} holds a {saved}, and this run trains a {model.config.model_type} "
            "(stage 1 once saved its text tower alone): train anew in another output_dir"
        )


__all__ = ["checkpoint_to_resume", "finished_checkpoints", "last_complete_checkpoint"]
