"""Set environment variables that make results repeatable, before torch is loaded.

A variable that is already set is left as it is. `docs/reproducibility.md` says what is promised and what it
costs.
"""

import os

# MKL picks the kernel of a matrix product by the alignment of its buffers, which differs from run to run: on
# some processors the last bits then differ as well. With this it picks by the shapes alone. Read at MKL's
# first call.
os.environ.setdefault("MKL_CBWR", "AUTO")

# OpenMP's threads spin while they wait for one another. Beside any other busy program a thread that waits
# takes the core from the one that it waits for. They sleep after a short spin instead. Read when torch is
# loaded.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
