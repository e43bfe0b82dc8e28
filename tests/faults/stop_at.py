"""Run a job and stop it at its N-th write below a folder, by a kill or by a disk that is full from then on.

python stop_at.py kill N BYTES FOLDER COUNT_FILE SCRIPT ...
python stop_at.py fill N BYTES FOLDER COUNT_FILE -m MODULE ...

Writes are files opened for writing, renamed, truncated and removed, and folders made and removed. With BYTES
of -1 the process is killed before the write happens. With another number it is killed within it: once so many
bytes are in the file, and the others are not. `fill` lets no file grow beyond BYTES from then on. With N of 0
nothing happens. The number of writes goes to COUNT_FILE at the end.
"""

import os
import resource
import runpy
import signal
import subprocess
import sys
import traceback
from pathlib import Path

import datasets
import safetensors.torch
import torch

# Events of Python's audit hooks whose first argument is a path.
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}
n_writes = 0


def watch(event: str, given: tuple) -> None:
    """See what Python writes."""
    if event == "open":
        path, _, flags = given
        # O_RDONLY is 0: reading sets neither of the two bits.
        is_write = flags & (os.O_WRONLY | os.O_RDWR)
        if is_write and is_below(path):
            count(path, appends=bool(flags & os.O_APPEND))
    elif event in CHANGES:
        # `shutil.rmtree` names files by their folder's descriptor, the last argument, which is -1 elsewhere.
        by_descriptor = event in ("os.remove", "os.rmdir") and given[-1] >= 0
        # A file may be renamed from outside.
        if by_descriptor or is_below(given[0]) or is_below(given[1]):
            count(given[0], appends=False)


def watched(save):
    """Return a function of native code, which no audit hook sees, that counts as a write."""

    def run(values, path, *args, **kwargs):
        if is_below(path):
            count(path, appends=False)
        return save(values, path, *args, **kwargs)

    return run


def is_below(path: object) -> bool:
    if not isinstance(path, str | Path):  # a descriptor, or a file object
        return False
    return os.path.abspath(path).startswith(FOLDER + os.sep)


def count(path: str | Path, *, appends: bool) -> None:
    """Count a write. At the N-th, kill the process, or see to it that the system does."""
    global n_writes
    n_writes += 1
    if n_writes != STOP_AT:
        return
    if BYTES < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    size = os.path.getsize(path) if appends and os.path.exists(path) else 0
    # A write beyond the limit is cut at it, and the next one ends the process by SIGXFSZ or fails with EFBIG.
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + BYTES, resource.RLIM_INFINITY))


def print_through_a_pipe() -> subprocess.Popen:
    """Send both outputs through a pipe to where they went, since the limit holds for all files of a process.

    `cat` has no limit: it starts before there is one.
    """
    cat = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=2)
    os.dup2(cat.stdin.fileno(), 1)
    os.dup2(cat.stdin.fileno(), 2)
    cat.stdin.close()
    # They may have been files, and a pipe has no position to seek.
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False)
    return cat


def run_to_the_end(command: list[str]) -> int:
    """Run a script or a module as Python does, print its error, and return its exit code."""
    try:
        if command[0] == "-m":
            sys.argv = command[1:]
            runpy.run_module(command[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = command
            sys.path[0] = str(Path(command[0]).parent)
            runpy.run_path(command[0], run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
            return 1
        return end.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


KIND = sys.argv[1]
STOP_AT = int(sys.argv[2])
BYTES = int(sys.argv[3])
FOLDER = os.path.abspath(sys.argv[4])
COUNT_FILE = Path(sys.argv[5])

cat = None
if KIND == "fill":
    cat = print_through_a_pipe()
else:
    # Python ignores the signal, and would go on with an OSError.
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
torch.save = watched(torch.save)
# Not `save_file`: libraries that are imported already have names of their own for it.
safetensors.torch.serialize_file = watched(safetensors.torch.serialize_file)
# Faults fall into the caches that `datasets` makes of its own, too.
datasets.config.HF_DATASETS_CACHE = Path(FOLDER, "datasets")
sys.addaudithook(watch)
exit_code = run_to_the_end(sys.argv[6:])
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
COUNT_FILE.write_text(str(n_writes))
if cat is not None:
    sys.stdout.flush()
    sys.stderr.flush()
    os.close(1)
    os.close(2)
    cat.wait()
    os._exit(exit_code)
sys.exit(exit_code)
