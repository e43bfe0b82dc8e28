"""Run the checks: `python -m training.gpu_check`, or `make gpu-check`."""

from common.launching import launch

if __name__ == "__main__":
    launch("training.gpu_check.running")
