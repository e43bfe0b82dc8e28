"""Run a script and print how many floating-point operations its matrix products take.

python count_operations.py SCRIPT ...

The count depends only on the work, not on the processor or on what else runs on it.
"""

import os
import runpy
import sys

from torch.utils.flop_counter import FlopCounterMode

# The script sees the arguments and the import path that it would have by itself.
sys.argv = sys.argv[1:]
sys.path[0] = os.path.dirname(sys.argv[0])
with FlopCounterMode(display=False) as counter:
    runpy.run_path(sys.argv[0], run_name="__main__")
sys.stdout.write(f"{counter.get_total_flops()}\n")
