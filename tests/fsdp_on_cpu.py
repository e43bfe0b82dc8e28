"""Run a script under FSDP on a CPU: `python fsdp_on_cpu.py SCRIPT ...`.

accelerate supports FSDP only on accelerators; on a CPU it trains with DDP, without a warning. Torch's own
FSDP2 runs on both.
"""

import runpy
import sys

from accelerate.state import AcceleratorState, DistributedType

plain = AcceleratorState.__init__


def begin(state, *args, fsdp_plugin=None, **kwargs):
    plain(state, *args, fsdp_plugin=fsdp_plugin, **kwargs)

    # What accelerate does by itself on a GPU.
    if fsdp_plugin is not None:
        if state._mixed_precision != "no":
            fsdp_plugin.set_mixed_precision(state._mixed_precision)
        state.fsdp_plugin = fsdp_plugin
    if "fsdp_plugin" in vars(state):
        state.distributed_type = DistributedType.FSDP


AcceleratorState.__init__ = begin
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
