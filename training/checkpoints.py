"""Find the checkpoints of a run: which are complete and undamaged, and which one a run resumes from."""

import json
import re
import shutil
import warnings
import zipfile
from pathlib import Path

from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, PreTrainedModel
from transformers.trainer_utils import sort_checkpoints

from common.errors import InputError
from common.files.names import free_path
from modeling_altclip.checksums_altclip import find_damages, has_checksums

from .arguments import StageArguments
from .monitoring import find_not_finite_in

_STATE = "trainer_state.json"
# An empty file that lies in a checkpoint until its checksums are written.
_UNFINISHED = "unfinished.tmp"


def mark_unfinished(checkpoint: Path) -> None:
    """Make the folder of a checkpoint that is going to be saved, with the mark that a killed run leaves."""
    checkpoint.mkdir(parents=True, exist_ok=True)
    (checkpoint / _UNFINISHED).touch()


def mark_finished(checkpoint: Path) -> None:
    """Say that a checkpoint is complete, with its checksums."""
    (checkpoint / _UNFINISHED).unlink()


def remove_unfinished(folder: Path) -> None:
    """Remove the checkpoints that a run began to save and did not finish, with a warning."""
    for checkpoint in _all_checkpoints(folder):
        if (checkpoint / _UNFINISHED).exists():
            shutil.rmtree(checkpoint)
            warnings.warn(f"{checkpoint} was not saved to its end: it is removed", stacklevel=2)


def checkpoint_to_resume(arguments: StageArguments, model: PreTrainedModel) -> str:
    """Return the checkpoint that a run resumes from: the one that is named, or the newest undamaged one.

    The main process chooses, and renames checkpoints that are newer, so that later ones are not mixed with
    them: damaged ones to `damaged-checkpoint-N`, with a warning, and others to `replaced-checkpoint-N`. Those
    that were never saved to their end are removed.

    Raises:
        InputError: there is none, the named one is damaged, it was saved by another number of processes, or
            holds another kind of model. Every process raises it.
    """
    chosen = [None, None]
    if arguments.process_index == 0:
        try:
            chosen[0] = str(_choose(arguments))
        except InputError as error:
            chosen[1] = str(error)
    checkpoint, refusal = broadcast_object_list(chosen)
    if refusal is not None:
        raise InputError(refusal)
    _check_kind(checkpoint, model)
    return checkpoint


def _choose(arguments: StageArguments) -> Path:
    """Choose the checkpoint, see `checkpoint_to_resume`, and rename the newer ones."""
    folder = Path(arguments.output_dir)
    n_processes = arguments.world_size
    if arguments.resume_from_checkpoint is not None:
        checkpoint = _named(folder, arguments.resume_from_checkpoint, n_processes)
        _check_processes(checkpoint, n_processes)
        newer = [other for other in _all_checkpoints(folder) if _step(other) > _step(checkpoint)]
        for other in newer:
            _rename(other, "replaced")
        return checkpoint

    checkpoint, damages = _search(folder, n_processes)
    if checkpoint is not None:
        _check_processes(checkpoint, n_processes)
        _put_aside(damages)
        return checkpoint
    listed = "".join(f"; {checkpoint.name} {damage}" for checkpoint, damage in damages.items())
    raise InputError(
        f"resume: {folder} holds no complete checkpoint{listed}: delete what is there to begin "
        "anew, or give another output_dir"
    )


def _named(folder: Path, name: str, n_processes: int) -> Path:
    """Return the checkpoint that `resume_from_checkpoint` names, as `checkpoint-40` or by its path.

    Raises:
        InputError: it is not one of this folder, or it is damaged.
    """
    checkpoints = _all_checkpoints(folder)
    for checkpoint in checkpoints:
        if name == checkpoint.name or Path(name).resolve() == checkpoint.resolve():
            damage = _find_damage(checkpoint, n_processes)
            if damage is not None:
                raise InputError(f"resume_from_checkpoint: {checkpoint} {damage}: name an earlier one")
            return checkpoint
    there = ", ".join(checkpoint.name for checkpoint in checkpoints) or "none"
    raise InputError(
        f"resume_from_checkpoint {name!r} is no checkpoint of output_dir {str(folder)!r}: it holds {there}"
    )


def _put_aside(damages: dict[Path, str]) -> None:
    """Rename damaged checkpoints, remove those that were never complete, and warn of each."""
    for checkpoint, damage in damages.items():
        was_complete = has_checksums(checkpoint) or _read_step(checkpoint) is not None
        if was_complete and not (checkpoint / _UNFINISHED).exists():
            renamed = _rename(checkpoint, "damaged")
            fate = f"it is skipped, and kept as {renamed.name}"
        else:
            shutil.rmtree(checkpoint)
            fate = "it is removed"
        warnings.warn(f"resume: {checkpoint} {damage}: {fate}", stacklevel=2)


def _rename(checkpoint: Path, prefix: str) -> Path:
    """Rename `checkpoint-40` to `damaged-checkpoint-40`, or `damaged-checkpoint-40.2` if that is taken."""
    return checkpoint.rename(free_path(checkpoint.with_name(f"{prefix}-{checkpoint.name}")))


def _search(folder: Path, n_processes: int) -> tuple[Path | None, dict[Path, str]]:
    """Return the newest undamaged checkpoint, if there is one, and what is wrong with each newer one."""
    damages = {}
    for checkpoint in reversed(_all_checkpoints(folder)):
        damage = _find_damage(checkpoint, n_processes)
        if damage is None:
            return checkpoint, damages
        damages[checkpoint] = damage
    return None, damages


def _find_damage(checkpoint: Path, n_processes: int) -> str | None:
    """Return why a run cannot resume from a checkpoint, as the rest of a sentence; None if it can.

    Its checksums are compared, which are written last. A checkpoint of an older version has none: its files
    are opened, and the Trainer's `trainer_state.json`, which was written last then, has to be there. Weights
    are refused in both that are NaN or infinite.
    """
    if (checkpoint / _UNFINISHED).exists():
        return "was not saved to its end"
    if has_checksums(checkpoint):
        try:
            damages = find_damages(checkpoint)
        except ValueError as error:
            return f"is damaged: {error}"
        if damages:
            return f"is damaged: {'; '.join(damages)}"
    if _read_step(checkpoint) is None:
        return f"has no readable {_STATE}, it was not saved to its end"
    if not has_checksums(checkpoint):
        unreadable = _unreadable_files(checkpoint, n_processes)
        if unreadable:
            return f"has no complete {', '.join(unreadable)}"
    not_finite = find_not_finite_in(checkpoint)
    if not_finite:
        return f"has weights that are NaN or infinite, {not_finite[0]} first"
    return None


def _read_step(checkpoint: Path) -> int | None:
    """Return the step in a checkpoint's `trainer_state.json`; None if the file cannot be read."""
    try:
        state = json.loads((checkpoint / _STATE).read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    step = state.get("global_step") if isinstance(state, dict) else None
    return step if type(step) is int else None


def _unreadable_files(checkpoint: Path, n_processes: int) -> list[str]:
    """List the files of a checkpoint without checksums that are missing or not complete.

    Sharded runs keep weights and optimizer under other names, in files that are not looked into.
    """
    sharded = [path for path in checkpoint.iterdir() if path.is_dir()]
    missing = [] if sharded else _missing_states(checkpoint)
    random_states = ["rng_state.pth"]
    if n_processes > 1:
        random_states = [f"rng_state_{rank}.pth" for rank in range(n_processes)]
    missing += [name for name in random_states if not (checkpoint / name).exists()]

    unreadable = []
    for path in sorted(checkpoint.iterdir()):
        # torch writes zip files, whose list of contents is their end.
        is_torch = path.suffix in (".pt", ".pth", ".bin")
        if is_torch and not zipfile.is_zipfile(path):
            unreadable.append(path.name)
        if path.suffix == ".safetensors" and not _is_safetensors(path):
            unreadable.append(path.name)
    return missing + unreadable


def _missing_states(checkpoint: Path) -> list[str]:
    """List those of optimizer, scheduler and weights that a checkpoint lacks."""
    missing = [] if (checkpoint / "scheduler.pt").is_file() else ["scheduler.pt"]
    if not any(checkpoint.glob("optimizer.*")):  # .bin of FSDP
        missing.append("optimizer.pt")
    if not any(checkpoint.glob("*.safetensors")) and not any(checkpoint.glob("pytorch_model*.bin")):
        missing.append("weights")
    return missing


def _is_safetensors(path: Path) -> bool:
    """Check that the header of a file of weights can be read, and fits its length."""
    try:
        with safe_open(path, framework="pt"):
            return True
    except (SafetensorError, OSError):
        return False


def _check_processes(checkpoint: Path, n_processes: int) -> None:
    """Refuse a checkpoint of another number of processes: each has random numbers of its own.

    Raises:
        InputError: it was saved by more or fewer.
    """
    # One process saves rng_state.pth, several rng_state_0.pth, rng_state_1.pth ...
    n_saved = max(1, len(list(checkpoint.glob("rng_state_*.pth"))))
    if n_saved != n_processes:
        raise InputError(
            f"resume: {checkpoint} was saved by {n_saved} processes, and {n_processes} would resume: start "
            f"{n_saved}, or train anew in another output_dir"
        )


def finished_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder that the Trainer wrote to their end, oldest first.

    It writes `trainer_state.json` after all other files; these are not looked at, see `_find_damage`.
    """
    return [checkpoint for checkpoint in _all_checkpoints(folder) if _read_step(checkpoint) is not None]


def has_checkpoints(folder: Path) -> bool:
    """Return whether a folder holds a checkpoint, undamaged or not."""
    return bool(_all_checkpoints(folder))


def _all_checkpoints(folder: Path) -> list[Path]:
    """Return the folders `checkpoint-N` of a run, complete or not, oldest first."""
    if not folder.is_dir():
        return []
    paths = map(Path, sort_checkpoints(folder))
    return [path for path in paths if re.fullmatch(r"checkpoint-\d+", path.name)]


def _step(checkpoint: Path) -> int:
    """Return the step in the name of a checkpoint."""
    return int(checkpoint.name.rpartition("-")[2])


def _check_kind(checkpoint: str, model: PreTrainedModel) -> None:
    """Refuse a checkpoint of another kind of model: stage 1 once saved the text tower alone."""
    saved = AutoConfig.from_pretrained(checkpoint, trust_remote_code=False).model_type
    if saved != model.config.model_type:
        raise InputError(
            f"resume: {checkpoint} holds a {saved}, and this run trains a {model.config.model_type} "
            "(stage 1 once saved its text tower alone): train anew in another output_dir"
        )


__all__ = [
    "checkpoint_to_resume",
    "finished_checkpoints",
    "has_checkpoints",
    "mark_finished",
    "mark_unfinished",
    "remove_unfinished",
]
