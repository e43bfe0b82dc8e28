"""AltDiffusion: train Stable Diffusion to read AltCLIP's text embeddings (paper 5.4).

accelerate launch --quiet training/run_diffusion.py training/recipes/altdiffusion/diffusion.yaml
"""

from common.launching import launch

if __name__ == "__main__":
    launch("training.jobs.diffusion")
