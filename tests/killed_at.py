"""Run a script and kill it at its N-th write into a checkpoint, when half of the file is on the disk.

python killed_at.py N SCRIPT ...

Writes are counted, not seconds: the script is killed at the same point on any machine, however busy.
"""

import os
import runpy
import signal
import sys

import safetensors.torch
import torch

n_writes = 0


def count(path):
    """Count a write, and return True if it is the one to be killed at."""
    global n_writes
    if "checkpoint-" in str(path):
        n_writes += 1
    return n_writes == kill_at


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def watch(event, given):
    """Kill at a text file as Python opens it for writing: it is still empty."""
    if event != "open":
        return
    path, _, flags = given
    # O_RDONLY is 0: reading sets neither of the two bits.
    for_writing = flags & (os.O_WRONLY | os.O_RDWR)
    if for_writing and count(path):
        kill()


def halved(save):
    """Kill at a file of tensors: native code writes it, and no audit hook sees that."""

    def run(values, path, *args, **kwargs):
        save(values, path, *args, **kwargs)
        if count(path):
            os.truncate(path, os.path.getsize(path) // 2)
            kill()

    return run


kill_at = int(sys.argv[1])
sys.argv = sys.argv[2:]
sys.path[0] = os.path.dirname(sys.argv[0])
torch.save = halved(torch.save)
# Not `save_file`: libraries that are imported already have names of their own for it.
safetensors.torch.serialize_file = halved(safetensors.torch.serialize_file)
sys.addaudithook(watch)
runpy.run_path(sys.argv[0], run_name="__main__")
