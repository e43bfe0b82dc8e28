"""Measure how our costs grow with the amount of work, and fit exponents, see benchmarks/speed/README.md.

make bench-growth
"""

from common.launching import launch

if __name__ == "__main__":
    launch("benchmarks.speed.growth.job", one_process=True)
