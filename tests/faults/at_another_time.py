"""Run a script on a machine whose clock jumped by some seconds.

python at_another_time.py SECONDS SCRIPT ...
"""

import runpy
import sys
import time
from pathlib import Path

JUMP = int(sys.argv[1])
seconds_now = time.time
time.time = lambda: seconds_now() + JUMP
sys.argv = sys.argv[2:]
sys.path[0] = str(Path(sys.argv[0]).parent)
runpy.run_path(sys.argv[0], run_name="__main__")
