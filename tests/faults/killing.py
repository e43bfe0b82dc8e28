"""Stop a job at drawn writes, run it again, and compare what is there with an uninterrupted run."""

import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from .jobs import Job
from .running import Stop, Uninterrupted, run_job
from .trees import contents, differences

# Bytes of a file that are written before a kill; -1 kills before the file is opened or renamed.
BYTES = (-1, -1, 0, 10, 1000)
# A disk with room for small files, and one without any.
ROOM = (0, 2_000, 200_000)


@dataclass
class Outcome:
    """How a job ended that was stopped, and what was wrong; nothing where all is equal."""

    stops: list[Stop]
    n_stopped: int = 0
    faults: list[str] = field(default_factory=list)


def draw_kills(chance: random.Random, n_writes: int) -> list[Stop]:
    """Draw the writes to be killed at: one, or a second one in the run that goes on."""
    n_stops = chance.choice([1, 1, 2])
    return [Stop(chance.randint(1, n_writes), chance.choice(BYTES)) for _ in range(n_stops)]


def draw_full_disk(chance: random.Random, n_writes: int) -> list[Stop]:
    """Draw the write from which on the disk is full."""
    return [Stop(chance.randint(1, n_writes), chance.choice(ROOM), "fill")]


def stop_and_go_on(job: Job, world: Path, whole: Uninterrupted, stops: list[Stop]) -> Outcome:
    """Stop a job at each of the writes, run it to its end, and compare its files with those of `whole`.

    A stop beyond the last write of a run that goes on stops nothing, and is not counted. Where the disk is
    full, a job may still end well: what it could not write may be a cache that it does without.
    """
    shutil.rmtree(world, ignore_errors=True)
    outcome = Outcome(stops)
    # Right where an earlier run had all of its output, and was killed at its last writes.
    refusals = []
    for stop in stops:
        run = run_job(job, world, stop)
        is_refusal = stop.kind == "fill" and run.code == 1
        if run.was_killed or is_refusal:
            outcome.n_stopped += 1
        elif run.code != 0:
            refusals.append(f"ended with {run.code}: {run.last_line}")
        if is_refusal and run.has_traceback:
            outcome.faults.append(f"not one line on a full disk, but a traceback: {run.last_line}")

    run = run_job(job, world)
    was_done = job.says_done is not None and job.says_done in run.last_line
    if not was_done:
        outcome.faults += refusals
    if run.code != 0 and not was_done:
        outcome.faults.append(f"did not go on, exit code {run.code}: {run.last_line}")
    else:
        outcome.faults += differences(contents(world), whole.files)
    return outcome
