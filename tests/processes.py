"""Run scripts in processes forked from one that has imported the libraries.

Imports are the longest part of a small run. A forked script shares the hash seed of its siblings: a test that
two runs give equal bytes has to start a new interpreter.
"""

import gc
import multiprocessing
import os
import runpy
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from subprocess import CompletedProcess

import torch
from torch.distributed import TCPStore

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        "training.lifecycle",
        "training.trainers",
        "benchmarks.zero_shot",
        "benchmarks.evaluation",
        "model_cards.plots",
    ]
)
# Seconds that a script may take, on a busy machine too; what takes longer hangs, and is killed.
TIMEOUT = 1800


def run_script(words: list[str], environment: dict[str, str], processes: int = 1) -> CompletedProcess:
    """Run `SCRIPT ...` or `-m MODULE ...` in `processes`, set up as `torchrun` does if there are several.

    Return the output of all processes together, with the first exit code that is not 0.
    """
    meeting = told_of_each_other(processes) if processes > 1 else nullcontext({})
    with meeting as told, tempfile.TemporaryDirectory() as folder:
        outputs = Path(folder, "stdout"), Path(folder, "stderr")
        environment = environment | told
        started = [
            FORKS.Process(target=_run, args=(rank, words, environment, outputs)) for rank in range(processes)
        ]
        for process in started:
            process.start()
        for process in started:
            process.join(TIMEOUT)
            process.kill()  # does nothing to one that has ended
            process.join()

        stdout, stderr = (path.read_text(encoding="utf-8", errors="replace") for path in outputs)
    failures = [process.exitcode for process in started if process.exitcode]
    exit_code = failures[0] if failures else 0
    return CompletedProcess(words, exit_code, stdout, stderr)


def spawn(function: Callable, arguments: tuple, processes: int, *, together: bool = True) -> None:
    """Call `function(rank, *arguments)` in `processes`, which find each other if they run `together`."""
    meeting = told_of_each_other(processes) if together else nullcontext({})
    with meeting as told:
        torch.multiprocessing.start_processes(
            _call, args=(function, arguments, told), nprocs=processes, start_method="forkserver"
        )


@contextmanager
def told_of_each_other(processes: int) -> Iterator[dict[str, str]]:
    """Yield the environment variables that `torchrun` sets for all of its processes.

    As with `torchrun`, the process that starts the others keeps the store at which they meet: a port that was
    only looked up could be another program's by the time the first of them opens it.
    """
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    told = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    told |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
    yield told | {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}


def _begin(rank: int, environment: dict[str, str]) -> None:
    gc.freeze()  # what was imported before the fork is no garbage, and takes long to search
    multiprocessing.set_start_method(None, force=True)  # a script's own workers start as usual
    os.environ |= environment
    if "WORLD_SIZE" in environment:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}


def _call(rank: int, function: Callable, arguments: tuple, told: dict[str, str]) -> None:
    _begin(rank, told)
    function(rank, *arguments)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _run(rank: int, words: list[str], environment: dict[str, str], outputs: tuple[Path, Path]) -> None:
    os.environ.clear()
    _begin(rank, environment)
    # File descriptor 1 is standard output and 2 standard error. All processes append to the same two files.
    for descriptor, path in zip((1, 2), outputs):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    code = None
    try:
        if words[0] == "-m":
            sys.argv = words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = words
            sys.path[0] = str(Path(words[0]).parent)
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        code = end.code
    # Here, so that an error message comes after the progress bars that the script's frames held.
    sys.exit(code)
