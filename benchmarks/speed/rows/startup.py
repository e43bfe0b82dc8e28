"""Start Python for a command of ours, and for one that imports what a user of transformers would.

`shape` holds the arguments of Python on both sides, `ours` and `theirs`; both commands have to end in the
same way, with success or without. What is measured is the process that is started, its memory apart.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

Repeats = Iterator[Callable[[], dict]]
_ROOT = Path(__file__).parent.parent.parent.parent


def inputs(folder: Path, shape: dict) -> None:
    """Write nothing: the commands read no file."""


def ours(folder: Path, shape: dict) -> Repeats:
    return _repeats(shape["ours"])


def transformers(folder: Path, shape: dict) -> Repeats:
    return _repeats(shape["theirs"])


def _repeats(arguments: list[str]) -> Repeats:
    def start() -> dict:
        command = [sys.executable, *arguments]
        process = subprocess.run(command, cwd=_ROOT, capture_output=True, check=False)
        return {"succeeds": [process.returncode == 0]}

    # The medians of repeats do without the first, which may read from the disk.
    yield lambda: None
    while True:
        yield start
