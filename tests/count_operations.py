"""Run a script and print how many floating-point operations its matrix products take.

python count_operations.py SCRIPT ...

They depend on the work alone: on no processor, and on nothing else that runs on it.
"""

import os
import runpy
import sys

from torch.utils.flop_counter import FlopCounterMode

sys.argv = sys.argv[1:]
sys.path[0] = os.path.dirname(sys.argv[0])
with FlopCounterMode(display=False) as counter:
    runpy.run_path(sys.argv[0], run_name="__main__")
sys.stdout.write(f"{counter.get_total_flops()}\n")
