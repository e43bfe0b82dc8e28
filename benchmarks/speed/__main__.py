"""`python -m benchmarks.speed`, which `make bench-peers` runs in the environment of the peers."""

from common.launching import launch

if __name__ == "__main__":
    launch("benchmarks.speed.job", one_process=True)
