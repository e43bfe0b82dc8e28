"""Measure what a head in closed form gains stage 1 in steps, on held-out images, by a paired test.

python training/run_alignment_gain.py training/recipes/alignment_gain/miniature.yaml
"""

from common.launching import launch

if __name__ == "__main__":
    launch("training.jobs.alignment_gain", one_process=True)
