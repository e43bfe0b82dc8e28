"""Run a job: uninterrupted, stopped at a write, and again as a user would."""

import os
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

from ..conftest import ROOT
from ..newest_checkpoint import newest_undamaged
from ..processes import run_script
from .jobs import Job
from .trees import contents

STOP_AT = Path(__file__).with_name("stop_at.py")
KILLED = (-signal.SIGKILL, -signal.SIGXFSZ)


@dataclass(frozen=True)
class Stop:
    """A write at which a job is stopped.

    Args:
        write: its number, from 1; with 0 nothing is stopped.
        n_bytes: of the file that are written; -1 stops before the file is opened or renamed.
        kind: `kill`, or `fill` for a full disk.
    """

    write: int
    n_bytes: int = -1
    kind: str = "kill"


@dataclass
class Run:
    """How a job ended: its exit code, what it printed as errors, and its writes if it was not killed."""

    code: int
    stderr: str
    n_writes: int | None

    @property
    def was_killed(self) -> bool:
        return self.code in KILLED

    @property
    def last_line(self) -> str:
        lines = self.stderr.strip().splitlines()
        return lines[-1] if lines else ""

    @property
    def has_traceback(self) -> bool:
        return "Traceback (most recent call last)" in self.stderr


@dataclass
class Uninterrupted:
    """What a job wrote that nothing stopped: the number of its writes, and its files."""

    n_writes: int
    files: dict[str, str]


def run_job(job: Job, world: Path, stop: Stop | None = None) -> Run:
    """Run a job as a user does who finds what is there, until it ends or is stopped.

    A training gets `--resume` where there is a checkpoint. An output folder that a job refuses is removed.
    """
    stop = stop or Stop(0)
    flags = []
    if job.resumes and newest_undamaged(world / "out"):
        flags.append("--resume")
    if job.starts_anew:
        shutil.rmtree(world / "out", ignore_errors=True)

    count_file = world.with_name("count.txt")
    count_file.unlink(missing_ok=True)
    words = [STOP_AT, stop.kind, stop.write, stop.n_bytes, world, count_file, *job.words, *flags]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = run_script([str(word) for word in words], environment)
    n_writes = int(count_file.read_text()) if count_file.exists() else None
    return Run(process.returncode, process.stderr, n_writes)


def run_uninterrupted(job: Job, world: Path) -> Uninterrupted:
    """Run a job in an empty folder, and remember what it wrote."""
    shutil.rmtree(world, ignore_errors=True)
    run = run_job(job, world)
    assert run.code == 0, run.stderr[-3000:]
    assert run.n_writes
    return Uninterrupted(run.n_writes, contents(world))
