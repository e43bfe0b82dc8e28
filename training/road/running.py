"""Run the steps of a road that are not finished, each in a process of its own, and print what was done.

A road can be killed at any moment, and goes on when the command is repeated: every step is skipped, resumed
or begun by what lies in its folder, see `state.py`. A process that a killed command has left is ended first.
"""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from common.commands import command_for
from common.errors import InputError
from common.files.locks import holding

from ..checkpoints import has_checkpoints
from .state import (
    State,
    check_recipes,
    find_state,
    is_recorded,
    record_begin,
    record_end,
    record_path,
    set_aside,
)
from .steps import JOBS, Step

# Environment variable of the processes that do steps: the lock of their road.
_MARK = "ALTCLIP_ROAD"


@dataclass(frozen=True)
class Launch:
    """How trainings are launched by accelerate.

    Attributes:
        num_processes: number of processes; accelerate's own default if None.
        accelerate_config: its configuration file.
    """

    num_processes: int | None = None
    accelerate_config: str | None = None

    def command_of(self, step: Step) -> list[str]:
        """Return the command line of a step: by accelerate for a training, which resumes what is begun."""
        if not JOBS[step.job].is_training:
            return [sys.executable, *step.words]
        flags = ["--quiet"]
        if self.accelerate_config is not None:
            flags += ["--config_file", self.accelerate_config]
        if self.num_processes is not None:
            flags += ["--num_processes", str(self.num_processes)]
        launcher = [sys.executable, "-m", "accelerate.commands.launch", *flags]
        return [*launcher, *step.words, "--resume", "true"]


@dataclass(frozen=True)
class _Row:
    """A row of the table: what was done about a step, and how long it took."""

    step: Step
    outcome: str
    seconds: float


def run_road(
    folder: str,
    road: list[Step],
    chosen: list[Step],
    launch: Launch,
    start: Callable[[list[str], dict[str, str]], int] | None = None,
) -> None:
    """Do the chosen steps of a road that are not finished, in order, and print a table.

    Args:
        folder: of the recipes, for messages.
        road: all steps.
        chosen: those to do.
        start: runs a command line with environment variables, and returns its exit status.

    Raises:
        InputError: another command is at work on this road; a finished step has other settings than its
            recipe; a recipe is wrong; or a step ended without a result.
        SystemExit: a step failed, with its exit status; or the command was interrupted.
    """
    start = start or _start
    rows = []
    are_checked = False
    with _alone(folder, road) as lock:
        for number, step in enumerate(chosen, 1):
            state = find_state(step, road)
            if state.kind == "finished":
                if not is_recorded(step):
                    record_end(step, road)
                rows.append(_Row(step, "skipped", 0.0))
                continue
            if not are_checked:
                check_recipes(chosen[number - 1 :])
                are_checked = True
            outcome = _prepare(step, state)
            print(f"Step {number} of {len(chosen)}, {step.job}: {outcome} ({step.recipe}).", flush=True)
            record_begin(step, road)
            begin = time.monotonic()
            status = start(launch.command_of(step), {_MARK: lock})
            if status:
                _fail(step, status, folder)
            record_end(step, road)
            if find_state(step, road).kind != "finished":
                raise InputError(
                    f"step {step.job} ended without an error, and {step.output_dir} holds nothing finished: "
                    f"see above, and whether recipe {str(step.recipe)!r} has a dry_run"
                )
            rows.append(_Row(step, outcome, time.monotonic() - begin))
    _report(rows)


def _prepare(step: Step, state: State) -> str:
    """Put aside what is outdated, and return what is going to be done: resumed or run."""
    if state.kind == "outdated":
        kept = set_aside(step.output_dir)
        print(f"{step.output_dir} is outdated: {state.why}. It is kept as {kept}.")
        return "run"
    is_training = JOBS[step.job].is_training
    is_resumed = state.kind == "begun" and not JOBS[step.job].is_cheap
    if is_training:
        is_resumed = has_checkpoints(step.output_dir)
    return "resumed" if is_resumed else "run"


def _fail(step: Step, status: int, folder: str) -> None:
    """End the command with the exit status of a step that failed, and one line.

    Raises:
        SystemExit: always.
    """
    if status < 0:  # ended by a signal; shells count these from 128
        status = 128 - status
    print(
        f"{sys.argv[0]}: error: step {step.job} ended with status {status} ({step.recipe}), for the reason "
        f"above; then go on with: altclip train {shlex.quote(folder)}",
        file=sys.stderr,
    )
    sys.exit(status)


def _report(rows: list[_Row]) -> None:
    """Print the table of steps, where the result is, and what comes next."""
    width = max(len(row.step.job) for row in rows)
    print()
    for row in rows:
        line = f"{row.step.job:{width}}  {row.outcome:7}  {row.seconds:8,.1f} s  {row.step.output_dir}"
        print(line)
    if all(row.outcome == "skipped" for row in rows):
        print("All of these steps were finished and whole: nothing was done.")
    print(_describe_result([row.step for row in rows]))


def _describe_result(steps: list[Step]) -> str:
    """Say where the result of a road is, and which command comes next."""
    by_job = {step.job: shlex.quote(str(step.output_dir)) for step in steps}
    if "card" in by_job:
        return f"The finished model is in {by_job['card']}. Next: altclip push {by_job['card']} YOUR/MODEL"
    models = [step for step in steps if JOBS[step.job].is_training]
    if models:
        folder = by_job[models[-1].job]
        evaluate = f"{command_for('evaluate retrieval')} --tasks my/task.yaml --models {folder}"
        return f"The last model is in {folder}. Next: {evaluate}"
    last = by_job[steps[-1].job]
    return f"The result is in {last}. Next: see what it holds"


def _start(command: list[str], variables: dict[str, str]) -> int:
    """Run a command line, and return its exit status; it ends with this process.

    Raises:
        SystemExit: this process was asked to end, by SIGINT or SIGTERM.
    """

    def stop(number: int, _frame) -> None:
        sys.exit(128 + number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    process = subprocess.Popen(command, env=os.environ | variables)
    try:
        return process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if process.poll() is None:
            _end_marked(variables[_MARK])
            process.wait()


@contextmanager
def _alone(folder: str, road: list[Step]) -> Iterator[str]:
    """Keep other commands out of a road, and end what a killed one has left running.

    Yields:
        The path of the lock, which marks the processes of the road.

    Raises:
        InputError: another command holds the lock.
    """
    path = record_path(road[0]).with_name(f"{Path(folder).resolve().name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    refusal = f"folder {folder!r} is in use by another command, which holds {path}: wait for it, or end it"
    with holding(path, refusal):
        ended = " ".join(map(str, _end_marked(str(path))))
        if ended:
            print(f"Ended what a killed command had left running: process {ended}.")
        yield str(path)


def _end_marked(mark: str) -> list[int]:
    """End the processes that do steps of a road, and return their numbers.

    They resume where they were, as after any kill. A launcher passes the mark on to those that it starts.
    """
    ended = []
    for process in psutil.process_iter():
        # It may end meanwhile, or be another user's.
        with suppress(psutil.Error, OSError):
            if process.environ().get(_MARK) == mark and process.pid != os.getpid():
                process.kill()
                ended.append(process)
    psutil.wait_procs(ended, timeout=60)
    return [process.pid for process in ended]


__all__ = ["Launch", "run_road"]
