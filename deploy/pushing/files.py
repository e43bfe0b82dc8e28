"""What of a folder is pushed, and what stays here: states and records of a training, logs, caches."""

import os
from collections import Counter
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from common.errors import InputError

RECORD = ".altclip_push.json"
_CARD = "README.md"
# Why a file stays here, by patterns of its name or of the name of a folder that it is in.
_LEFT_OUT = {
    "in checkpoints": ("checkpoint-*", "*-checkpoint-*", "last-checkpoint"),
    "with the state of an optimizer": (
        "optimizer*",
        "scheduler.pt",
        "scaler.pt",
        "rng_state*",
        "global_step*",
        "pytorch_model_fsdp_*",
    ),
    "with records of a training": (
        "training_args.bin",
        "trainer_state.json",
        "run.json",
        "bad_rows*.jsonl",
        "excluded*.jsonl",
    ),
    "with logs": ("*tfevents*", "runs", "wandb", "mlruns", "*.log"),
    "in caches": ("__pycache__", "*.pyc", "*.tmp", "*.lock", "*.incomplete"),
}
# Hidden files that belong to a repository; any other one, such as `.env` or `.git`, stays.
_SHOWN = (".eval_results", ".gitattributes")


@dataclass(frozen=True)
class PushedFile:
    """A file, its name in the repository, with `/`, and its size."""

    name: str
    path: Path
    n_bytes: int


@dataclass(frozen=True)
class Contents:
    """The files of a folder that are pushed, the card first; and how many are not, by the reason."""

    files: list[PushedFile]
    left_out: Counter

    @property
    def names(self) -> set[str]:
        return {file.name for file in self.files}

    @property
    def n_bytes(self) -> int:
        return sum(file.n_bytes for file in self.files)


def read_contents(folder: Path) -> Contents:
    """List the files of a folder and of the folders below it.

    Raises:
        InputError: it is no folder, has nothing to push, or has a link to what lies outside of it.
    """
    if not folder.is_dir():
        raise InputError(f"folder {str(folder)!r} is no folder: give the one that is to be pushed")
    files = []
    left_out = Counter()
    for path in sorted(_walk(folder)):
        name = path.relative_to(folder).as_posix()
        reason = _why_left_out(name)
        if name == RECORD:
            continue
        if reason is not None:
            left_out[reason] += 1
            continue
        _check_inside(path, folder)
        files.append(PushedFile(name, path, path.stat().st_size))
    if not files:
        raise InputError(f"folder {str(folder)!r} has no file to push: give the folder of a finished model")
    # The card is read first, as in the list that is shown.
    files.sort(key=lambda file: file.name != _CARD)
    return Contents(files, left_out)


def _walk(folder: Path) -> list[Path]:
    """Return all files below a folder; a link to a folder counts as a file, which is then checked."""
    found = []
    for parent, folders, names in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        found += [Path(parent, name) for name in [*names, *links]]
    return found


def _why_left_out(name: str) -> str | None:
    """Return why a file is not pushed: `checkpoint-2/model.safetensors` -> "in checkpoints"."""
    parts = name.split("/")
    for reason, patterns in _LEFT_OUT.items():
        if any(fnmatch(part, pattern) for part in parts for pattern in patterns):
            return reason
    if any(part.startswith(".") and part not in _SHOWN for part in parts):
        return "hidden"
    return None


def _check_inside(path: Path, folder: Path) -> None:
    """Refuse a link that leads out of the folder: what it leads to was not named, and links to folders."""
    is_inside = folder.resolve() in path.resolve().parents
    if not is_inside or not path.is_file():
        raise InputError(
            f"{str(path)!r} is a link to a folder, to nothing, or to what lies outside of the folder that is "
            "pushed: put a copy in its place"
        )


__all__ = ["RECORD", "Contents", "PushedFile", "read_contents"]
