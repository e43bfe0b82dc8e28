"""Stage 0: train an English CLIP, the teacher. Skip this stage where a trained CLIP is at hand.

accelerate launch --quiet training/run_stage0.py training/recipes/miniature/stage0.yaml
"""

from common.launching import launch

if __name__ == "__main__":
    launch("training.jobs.stage0")
