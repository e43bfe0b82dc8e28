"""Compare English captions alone with parallel captions: tables, and the four figures of Krasner & Lanuzo.

python training/run_parallel_experiment.py training/recipes/parallel/experiment_miniature.yaml
"""

from common.launching import launch

if __name__ == "__main__":
    launch("training.jobs.parallel_experiment", one_process=True)
