"""Run the checks: `python -m training.gpu_check`, or `make gpu-check`."""

from common.recipe import launch

from .arguments import GpuCheckArguments
from .running import main

if __name__ == "__main__":
    launch(main, GpuCheckArguments)
