"""Count the processes of a script, fix the number of threads of each, and name the machine they run on.

This module is imported before torch is, see `common.launching`.
"""

import os
import socket
import warnings
from pathlib import Path

# Environment variables of launchers: torchrun and accelerate, and three kinds of MPI.
_NUMBERS_OF_PROCESSES = ["WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"]


def launched_processes() -> int:
    """Return the number of processes that the launcher started, with this one; 1 without a launcher."""
    numbers = [int(os.environ[name]) for name in _NUMBERS_OF_PROCESSES if name in os.environ]
    return numbers[0] if numbers else 1


def warn_if_launched_alone() -> None:
    """Warn if several processes were requested and one was started, as accelerate does without GPUs.

    `accelerate launch --num_processes 2` sets the address at which the processes meet, as it does not for one
    process, and then starts a single one if it finds no GPU.
    """
    meeting_point = os.environ.get("MASTER_ADDR")
    launched_by_accelerate = "ACCELERATE_MIXED_PRECISION" in os.environ
    if launched_by_accelerate and meeting_point and "WORLD_SIZE" not in os.environ:
        warnings.warn(
            "accelerate was asked for several processes and started one, since it found no GPU: take "
            "`torchrun --nproc_per_node N SCRIPT` in place of `accelerate launch --num_processes N SCRIPT`",
            stacklevel=2,
        )


def fix_threads() -> int:
    """Fix the number of threads of this process at its present value, and return it.

    It is `OMP_NUM_THREADS` if that is set, else the number of cores. Sums of floats depend on it.
    """
    import torch

    n_threads = torch.get_num_threads()
    torch.set_num_threads(n_threads)  # from now on MKL does not choose fewer by itself
    return n_threads


def host() -> str:
    """Name the machine or container within which a process id is unique.

    Containers may all bear the name of their machine, and are told apart by their namespace of process ids.
    """
    namespace = Path("/proc/self/ns/pid")
    if not namespace.exists():
        return socket.gethostname()
    return f"{socket.gethostname()}-{namespace.stat().st_ino}"


__all__ = ["fix_threads", "host", "launched_processes", "warn_if_launched_alone"]
