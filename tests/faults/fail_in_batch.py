"""Run a training in which something fails while the N-th batch is made.

python fail_in_batch.py HOW N SCRIPT ...

HOW is `memory` for a MemoryError, `kill` for a SIGKILL of the process, `worker` for a worker of the data
loader that ends, and `lost` for a process that ends while the first of all processes goes on.
"""

import os
import runpy
import signal
import sys
from pathlib import Path

from torch.utils.data import get_worker_info

from training.data.examples import Collator

make_batch = Collator.__call__
n_batches = 0


def fail() -> None:
    if HOW == "memory":
        raise MemoryError
    if HOW == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    is_spared = HOW == "worker" and get_worker_info() is None or HOW == "lost" and os.environ["RANK"] == "0"
    if not is_spared:
        os._exit(3)


def make_batch_or_fail(self, examples):
    global n_batches
    n_batches += 1
    if n_batches == N:
        fail()
    return make_batch(self, examples)


HOW = sys.argv[1]
N = int(sys.argv[2])
Collator.__call__ = make_batch_or_fail
sys.argv = sys.argv[3:]
sys.path[0] = str(Path(sys.argv[0]).parent)
runpy.run_path(sys.argv[0], run_name="__main__")
