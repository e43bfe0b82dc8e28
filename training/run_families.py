"""Text encoders of three families learn from a CLIP-like and a SigLIP-like teacher; one table and a plot.

python training/run_families.py training/recipes/families/miniature.yaml
"""

from common.launching import launch

if __name__ == "__main__":
    launch("training.jobs.families", one_process=True)
