"""Spell commands as the user starts them: by the command `altclip`, or by their scripts in a clone."""

import shlex
import sys
from pathlib import Path

# {job: (launcher, script)}
_SCRIPTS = {
    "train alignment": ("accelerate launch --quiet", "training/run_alignment.py"),
    "train stage0": ("accelerate launch --quiet", "training/run_stage0.py"),
    "train stage1": ("accelerate launch --quiet", "training/run_stage1.py"),
    "train stage2": ("accelerate launch --quiet", "training/run_stage2.py"),
    "train text-pretraining": ("accelerate launch --quiet", "training/run_text_pretraining.py"),
    "train parallel": ("accelerate launch --quiet", "training/run_parallel.py"),
    "evaluate retrieval": ("python", "benchmarks/run_retrieval.py"),
    "evaluate zero-shot": ("python", "benchmarks/run_zero_shot.py"),
    "clean": ("python", "training/run_clean.py"),
    "translate": ("python", "training/run_translation.py"),
    "download": ("python", "training/run_download.py"),
    "report": ("python", "benchmarks/run_report.py"),
    "card": ("python -m", "model_cards"),
}


def command_for(job: str) -> str:
    """Return how to start a job: `altclip report`, or `python benchmarks/run_report.py` beside other scripts.

    Args:
        job: the words behind `altclip`. A job without a script is always started by `altclip`.
    """
    if _uses_altclip() or job not in _SCRIPTS:
        return f"altclip {job}"
    return " ".join(_SCRIPTS[job])


def program_for(job: str) -> str:
    """Return the name of a job in a message: `altclip report`, or `benchmarks/run_report.py`."""
    return f"altclip {job}" if _uses_altclip() else _SCRIPTS[job][1]


def evaluation_programs() -> str:
    """Return the names of those that evaluate models, for a message."""
    return "altclip evaluate" if _uses_altclip() else "benchmarks/run_retrieval.py or run_zero_shot.py"


def this_command() -> str:
    """Return this process's command line for a result: `run_retrieval.py --models a --tasks b`.

    The program of `altclip` has several words, which are not quoted as one:
    `altclip evaluate retrieval --models a --tasks b`.
    """
    program = Path(sys.argv[0]).name
    return " ".join([program, *map(shlex.quote, sys.argv[1:])])


def runnable(command: str) -> str:
    """Return the command line of a result as it is typed, with the interpreter and the folder of a script."""
    return command if command.startswith("altclip ") else f"python benchmarks/{command}"


def _uses_altclip() -> bool:
    """Check whether this process is a command of `altclip`, or our package is installed without its scripts.

    `altclip` puts its own name and the job's first into `sys.argv`.
    """
    return sys.argv[0].split(" ")[0] == "altclip" or __name__.startswith("altclip.")


__all__ = ["command_for", "evaluation_programs", "program_for", "runnable", "this_command"]
