"""What is known of the processes that run a script: how many there are, on what, with how many threads each."""

import os
import warnings

import torch
from accelerate.utils.environment import get_int_from_env

# How launchers tell: torchrun and accelerate, and three kinds of MPI.
NUMBERS_OF_PROCESSES = ["WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"]


def launched_processes() -> int:
    """Return how many processes the launcher started, of which this is one; 1 without a launcher."""
    return get_int_from_env(NUMBERS_OF_PROCESSES, 1)


def warn_if_launched_alone() -> None:
    """Warn where a launcher was asked for several processes and started one, as accelerate does without GPUs.

    `accelerate launch --num_processes 2` says where the processes are to meet, which it does not do for one alone,
    and then starts a single one where it finds no GPU.
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
    """Fix the number of threads of this process to what it is now, and return it.

    It is `OMP_NUM_THREADS` where that is set, else the number of cores. Sums of floats depend on it.
    """
    n_threads = torch.get_num_threads()
    torch.set_num_threads(n_threads)  # from now on MKL does not choose fewer by itself
    return n_threads


__all__ = ["fix_threads", "launched_processes", "warn_if_launched_alone"]
