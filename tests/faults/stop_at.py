"""Run a job and kill it at its N-th write below a folder.

python stop_at.py N BYTES FOLDER COUNT_FILE SCRIPT ...
python stop_at.py N BYTES FOLDER COUNT_FILE -m MODULE ...

Writes are files opened for writing, renamed, truncated and removed, and folders made and removed. With BYTES
of -1 the process is killed before the write happens. With another number it is killed within it: once so many
bytes are in the file, and the others are not. With N of 0 nothing is killed. The number of writes goes to
COUNT_FILE at the end.
"""

import os
import resource
import runpy
import signal
import sys
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
    # A write beyond the limit is cut at it, and the next one ends the process by SIGXFSZ.
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + BYTES, resource.RLIM_INFINITY))


STOP_AT = int(sys.argv[1])
BYTES = int(sys.argv[2])
FOLDER = os.path.abspath(sys.argv[3])
COUNT_FILE = Path(sys.argv[4])
command = sys.argv[5:]

# Python ignores the signal, and would go on with an OSError.
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
torch.save = watched(torch.save)
# Not `save_file`: libraries that are imported already have names of their own for it.
safetensors.torch.serialize_file = watched(safetensors.torch.serialize_file)
# Kills fall into the caches that `datasets` makes of its own, too.
datasets.config.HF_DATASETS_CACHE = Path(FOLDER, "datasets")
sys.addaudithook(watch)
try:
    if command[0] == "-m":
        sys.argv = command[1:]
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = command
        sys.path[0] = str(Path(command[0]).parent)
        runpy.run_path(command[0], run_name="__main__")
finally:
    COUNT_FILE.write_text(str(n_writes))
