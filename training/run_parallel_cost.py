"""Measure what further languages cost a step of parallel training, at the paper's sizes.

python training/run_parallel_cost.py --images 8 --repeats 3
"""

from common.launching import launch

if __name__ == "__main__":
    launch("training.jobs.parallel_cost", one_process=True)
