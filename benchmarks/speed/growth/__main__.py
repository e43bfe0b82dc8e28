"""`python -m benchmarks.speed.growth`, which `make bench-growth` runs."""

from common.launching import launch

if __name__ == "__main__":
    launch("benchmarks.speed.growth.job", one_process=True)
