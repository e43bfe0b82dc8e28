"""What experiments of several trainings share: other scripts run in their turn, and none again that has been run."""

import subprocess
import sys
from pathlib import Path

from benchmarks.recipe import InputError


def run(script: str, *flags) -> None:
    """Run another script; what it says goes through.

    Raises:
        InputError: it failed.
    """
    process = subprocess.run([sys.executable, Path(__file__).parent.parent / script, *map(str, flags)])
    if process.returncode:
        raise InputError(f"{script} ended with status {process.returncode}: see above")


def run_once(folder: Path, recipes: list[str], script: str, *flags) -> None:
    """`run`, unless `made_by.txt` in the folder says that the same command has made it, by the same recipes."""
    made_by = folder / "made_by.txt"
    wanted = "\n".join([script, *map(str, flags), *(Path(recipe).read_text("utf-8") for recipe in recipes)])
    if not made_by.exists() or made_by.read_text("utf-8") != wanted:
        run(script, *flags)
        made_by.write_text(wanted, "utf-8")


__all__ = ["run", "run_once"]
