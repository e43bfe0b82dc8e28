"""Shared parts of experiments of several trainings: run a script, but not twice, and average over seeds."""

import subprocess
import sys
from pathlib import Path
from statistics import mean, stdev

from common.errors import InputError
from common.files.whole_files import write_text


def run(script: str, *flags) -> None:
    """Run another script; its output goes through.

    Raises:
        InputError: it failed.
    """
    path = Path(__file__).parent.parent / script
    process = subprocess.run([sys.executable, path, *map(str, flags)])
    if process.returncode:
        raise InputError(f"{script} ended with status {process.returncode}: see above")


def run_once(folder: Path, recipes: list[str], script: str, *flags) -> None:
    """Run a script with `run`, unless `made_by.txt` in the folder shows that it has been run.

    The file holds the command and the text of its recipes; where either has changed, the script runs again.
    """
    made_by = folder / "made_by.txt"
    texts = [Path(recipe).read_text("utf-8") for recipe in recipes]
    command = "\n".join([script, *map(str, flags), *texts])
    if not made_by.exists() or made_by.read_text("utf-8") != command:
        run(script, *flags)
        write_text(made_by, command)  # last, so that a run that is killed is not taken for a complete one


def mean_and_deviation(values: list[float], digits: int = 1) -> str:
    """Write the mean of several seeds with their standard deviation, 0 for one seed: `88.2 ± 0.4`."""
    deviation = stdev(values) if len(values) > 1 else 0
    return f"{mean(values):.{digits}f} ± {deviation:.{digits}f}"


__all__ = ["mean_and_deviation", "run", "run_once"]
