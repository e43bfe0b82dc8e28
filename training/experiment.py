"""Shared parts of experiments of several trainings: run a script, but not twice, and average over seeds."""

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev

from benchmarks.results import Result
from common.errors import InputError
from common.files.whole_files import write_text

MADE_BY = "made_by.txt"
_MADE_IN = "made_in_seconds.txt"
METRICS = {"retrieval": "mean_recall", "zero_shot": "accuracy@1"}  # by the kind of a task


@dataclass(kw_only=True)
class ExperimentArguments:
    """Arguments of every experiment that is tested by a retrieval and by a zero-shot task."""

    dataset: str = field(metadata={"help": "Images with captions and class names, such as the miniature's."})
    retrieval: str = field(metadata={"help": "The retrieval task to test on."})
    zero_shot: str = field(metadata={"help": "The zero-shot task to test on."})
    output_dir: str = field(metadata={"help": "Folder for models, results, table and plot."})


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
    texts = [Path(recipe).read_text("utf-8") for recipe in recipes]
    command = "\n".join([script, *map(str, flags), *texts])
    make_once(folder, command, lambda: run(script, *flags))


def make_once(folder: Path, made_by: str, make: Callable[[], object]) -> None:
    """Call `make`, unless `made_by.txt` in the folder shows that the same has made the folder before.

    Args:
        made_by: all that decides what is made.
    """
    record = folder / MADE_BY
    if not record.exists() or record.read_text("utf-8") != made_by:
        start = time.monotonic()
        make()
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / _MADE_IN, f"{time.monotonic() - start:.1f}\n")
        write_text(record, made_by)  # last, so that what is killed is not taken for complete


def seconds_to_make(folder: Path) -> float | None:
    """Return how long `make_once` took to make a folder; None where it has not made it."""
    record = folder / _MADE_IN
    return float(record.read_text("utf-8")) if record.exists() else None


def mean_and_deviation(values: list[float], digits: int = 1) -> str:
    """Write the mean of several seeds with their standard deviation, 0 for one seed: `88.2 ± 0.4`."""
    deviation = stdev(values) if len(values) > 1 else 0
    return f"{mean(values):.{digits}f} ± {deviation:.{digits}f}"


def evaluate_models(models: list[str], arguments: ExperimentArguments, *flags) -> None:
    """Evaluate models on both tasks of an experiment; results go into the folder `results`.

    Args:
        flags: further ones for both evaluations.
    """
    output_dir = Path(arguments.output_dir, "results")
    shared = ["--models", *models, *flags, "--dataset", arguments.dataset, "--output_dir", output_dir]
    run("benchmarks/run_retrieval.py", *shared, "--tasks", arguments.retrieval)
    class_names = Path(arguments.dataset, "class_names.json")
    zero_shot = ["--tasks", arguments.zero_shot, "--class_names", class_names]
    run("benchmarks/run_zero_shot.py", *shared, *zero_shot)


def result_of(results: list[Result], model: str, language: str) -> Result:
    """Return the result of a model in a language, among those of one task.

    Raises:
        InputError: there is none.
    """
    for result in results:
        if result.model == model and result.language == language:
            return result
    raise InputError(
        f"there is no result of {model} in {language!r}: delete the folder of results and repeat"
    )


__all__ = [
    "MADE_BY",
    "METRICS",
    "ExperimentArguments",
    "evaluate_models",
    "make_once",
    "mean_and_deviation",
    "result_of",
    "run",
    "run_once",
    "seconds_to_make",
]
