"""Compare our speed and memory with those of other libraries on equal work, see benchmarks/speed/README.md.

make bench-peers
make bench-peers FLAGS="--quick --rows texts classifier"
"""

from common.launching import launch

if __name__ == "__main__":
    launch("benchmarks.speed.job", one_process=True)
