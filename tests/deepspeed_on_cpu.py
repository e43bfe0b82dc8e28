"""Run a script under DeepSpeed on a CPU: `python deepspeed_on_cpu.py SCRIPT ...`.

Two of DeepSpeed's habits suit only GPUs:

- It compiles a shared-memory kernel for more than a minute. The kernel serves inference; training never calls
  it.
- ZeRO-3 gathers many weights at once but waits only for the last. NCCL keeps their order; gloo does not, and
  now and then a weight is read before it has arrived (https://github.com/deepspeedai/DeepSpeed/pull/8539).
"""

import runpy
import sys

import deepspeed

gather = deepspeed.comm.all_gather_into_tensor


def gather_and_wait(*args, **kwargs):
    handle = gather(*args, **kwargs)
    if handle is not None:  # None where the call was synchronous
        handle.wait()
    return handle


deepspeed.comm.all_gather_into_tensor = gather_and_wait
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
