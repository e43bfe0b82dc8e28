"""Run a script under DeepSpeed on a CPU: `python deepspeed_on_cpu.py SCRIPT ...`. Two of its ways suit GPUs alone.

It would compile, for more than a minute, how processes share memory: a kernel for inference, which training never calls. And ZeRO-3
gathers many weights at once but waits for the last alone. NCCL keeps their order; gloo does not, and now and then a weight is
read before it has arrived (https://github.com/deepspeedai/DeepSpeed/pull/8539).
"""

import runpy
import sys

import deepspeed

gather = deepspeed.comm.all_gather_into_tensor


def gather_and_wait(*args, **kwargs):
    handle = gather(*args, **kwargs)
    if handle is not None:
        handle.wait()
    return handle


deepspeed.comm.all_gather_into_tensor = gather_and_wait
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
