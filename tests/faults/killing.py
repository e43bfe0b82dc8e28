"""Run a job, kill it at a drawn write, run it again as a user would, and compare what is there."""

import os
import random
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

from training.checkpoints import last_complete_checkpoint

from ..conftest import ROOT
from ..processes import run_script
from .jobs import Job
from .trees import contents, differences

STOP_AT = Path(__file__).with_name("stop_at.py")
KILLED = (-signal.SIGKILL, -signal.SIGXFSZ)
# Bytes of a file that are written before the kill; -1 kills before the file is opened or renamed.
BYTES = (-1, -1, 0, 10, 1000)


@dataclass
class Uninterrupted:
    """What a job wrote that nothing stopped: the number of its writes, and its files."""

    n_writes: int
    files: dict[str, str]


@dataclass
class Outcome:
    """How a job ended that was killed: at which writes, and what was wrong; nothing where all is equal."""

    stops: list[tuple[int, int]]
    n_kills: int
    faults: list[str]


def run_job(
    job: Job, world: Path, stop: tuple[int, int] = (0, -1), flags: tuple = ()
) -> tuple[int, str, int | None]:
    """Run a job until it ends or is killed at its N-th write.

    Returns:
        The exit code, the last line that it printed as an error, and the number of writes; None if killed.
    """
    count_file = world.with_name("count.txt")
    count_file.unlink(missing_ok=True)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    words = [STOP_AT, *stop, world, count_file, *job.words, *flags]
    process = run_script([str(word) for word in words], environment)
    lines = process.stderr.strip().splitlines() or [""]
    n_writes = int(count_file.read_text()) if count_file.exists() else None
    return process.returncode, lines[-1], n_writes


def run_uninterrupted(job: Job, world: Path) -> Uninterrupted:
    """Run a job in an empty folder, and remember what it wrote."""
    shutil.rmtree(world, ignore_errors=True)
    code, line, n_writes = run_job(job, world)
    assert code == 0, line
    assert n_writes
    return Uninterrupted(n_writes, contents(world))


def draw_stops(chance: random.Random, n_writes: int) -> list[tuple[int, int]]:
    """Draw the writes to be killed at: one, or a second one in the run that goes on."""
    n_stops = chance.choice([1, 1, 2])
    return [(chance.randint(1, n_writes), chance.choice(BYTES)) for _ in range(n_stops)]


def kill_and_go_on(job: Job, world: Path, whole: Uninterrupted, stops: list[tuple[int, int]]) -> Outcome:
    """Kill a job at each of the stops, run it to its end, and compare its files with those of `whole`."""
    shutil.rmtree(world, ignore_errors=True)
    outcome = Outcome(stops, 0, [])
    for stop in stops:
        code, line, _ = run_job(job, world, stop, ways_on(job, world))
        if code in KILLED:
            outcome.n_kills += 1
        elif code != 0:
            # A stop beyond the last write of a run that goes on ends no run.
            outcome.faults.append(f"ended with {code}: {line}")
    code, line, _ = run_job(job, world, flags=ways_on(job, world))
    if code != 0:
        outcome.faults.append(f"did not go on, exit code {code}: {line}")
    else:
        outcome.faults += differences(contents(world), whole.files)
    return outcome


def ways_on(job: Job, world: Path) -> tuple[str, ...]:
    """Do what a user does before a job is run again, and return the flags that this run needs."""
    out = world / "out"
    if job.resumes:
        return ("--resume",) if last_complete_checkpoint(str(out)) else ()
    if job.starts_anew:
        shutil.rmtree(out, ignore_errors=True)
    return ()
