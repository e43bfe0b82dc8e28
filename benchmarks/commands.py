"""Spell a job as the user starts it: by the command `altclip`, or by its script in a clone."""

import sys

_SCRIPTS = {
    "train stage0": "accelerate launch --quiet training/run_stage0.py",
    "train stage1": "accelerate launch --quiet training/run_stage1.py",
    "train stage2": "accelerate launch --quiet training/run_stage2.py",
    "train parallel": "accelerate launch --quiet training/run_parallel.py",
    "evaluate retrieval": "python benchmarks/run_retrieval.py",
    "evaluate zero-shot": "python benchmarks/run_zero_shot.py",
    "report": "python benchmarks/run_report.py",
    "card": "python -m model_cards",
    "embed": "altclip embed",  # the only way
}


def command_for(job: str) -> str:
    """Return how to start a job: `altclip report`, or `python benchmarks/run_report.py` beside other scripts.

    `altclip` sets the first of `sys.argv` to its own name and the job's. An installed package has no scripts.

    Args:
        job: the words behind `altclip`.
    """
    runs_altclip = sys.argv[0].split(" ")[0] == "altclip"
    is_installed = __name__.startswith("altclip.")
    return f"altclip {job}" if runs_altclip or is_installed else _SCRIPTS[job]


__all__ = ["command_for"]
