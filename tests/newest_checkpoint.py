"""The checkpoint that a run would resume from, found without renaming or removing any."""

from pathlib import Path

from training import checkpoints


def newest_undamaged(folder: str | Path, n_processes: int = 1) -> Path | None:
    checkpoint, _ = checkpoints._search(Path(folder), n_processes)
    return checkpoint
