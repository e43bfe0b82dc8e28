"""Scripts in processes of their own, forked from one that has imported the libraries: of a small run the imports are the longest part.

A forked script shares the hash seed of its siblings; a test that two runs give equal bytes starts a process of its own.
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
        "training.session",
        "training.trainers",
        "benchmarks.zero_shot",
        "benchmarks.evaluation",
        "model_cards.plots",
    ]
)
TIMEOUT = 1800  # seconds: what hangs is ended, and what is slow on a busy machine is not


def run_script(words: list[str], environment: dict[str, str], processes: int = 1) -> CompletedProcess:
    """Run `SCRIPT ...` or `-m MODULE ...`; several processes are told of each other as `torchrun` tells them.

    What they print is that of all; the exit code is the first that is not 0.
    """
    meeting = told_of_each_other(processes) if processes > 1 else nullcontext({})
    with meeting as told, tempfile.TemporaryDirectory() as folder:
        outputs = Path(folder, "stdout"), Path(folder, "stderr")
        given = words, environment | told, outputs
        started = [FORKS.Process(target=_run, args=(rank, *given)) for rank in range(processes)]
        for process in started:
            process.start()
        for process in started:
            process.join(TIMEOUT)
            process.kill()
            process.join()
        codes = [process.exitcode for process in started]
        stdout, stderr = (path.read_text(encoding="utf-8", errors="replace") for path in outputs)
    return CompletedProcess(words, next((code for code in codes if code), 0), stdout, stderr)


def spawn(function: Callable, arguments: tuple, processes: int, *, together: bool = True) -> None:
    """Call `function(rank, *arguments)` in each of `processes`, which are told of each other if they run `together`."""
    meeting = told_of_each_other(processes) if together else nullcontext({})
    with meeting as told:
        torch.multiprocessing.start_processes(
            _call, (function, arguments, told), processes, start_method="forkserver"
        )


@contextmanager
def told_of_each_other(processes: int) -> Iterator[dict[str, str]]:
    """Give what `torchrun` tells all of them, environment variables by name.

    As there, the store at which they meet is kept by the process that starts them: a port that was only looked
    up could be another program's by the time the first of them opens it.
    """
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    told = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    told |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
    yield told | {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}


def _begin(rank: int, environment: dict[str, str]) -> None:
    gc.freeze()  # what was imported before the fork is no garbage, and takes long to search
    multiprocessing.set_start_method(None, force=True)  # a script's own workers start as ever
    os.environ |= environment | (
        {"RANK": str(rank), "LOCAL_RANK": str(rank)} if "WORLD_SIZE" in environment else {}
    )


def _call(rank: int, function: Callable, arguments: tuple, told: dict[str, str]) -> None:
    _begin(rank, told)
    function(rank, *arguments)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _run(rank: int, words: list[str], environment: dict[str, str], outputs: tuple[Path, Path]) -> None:
    os.environ.clear()
    _begin(rank, environment)
    for number, path in zip((1, 2), outputs):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
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
    sys.exit(code)  # last words, after the progress bars have gone that the script's frames held
