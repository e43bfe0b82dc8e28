"""Stage 2, contrastive learning: the text tower learns from images; the image tower is frozen (paper 3.2).

accelerate launch --quiet training/run_stage2.py training/recipes/altclip/stage2.yaml
accelerate launch --quiet training/run_stage2.py training/recipes/miniature/stage2.yaml
accelerate launch --quiet training/run_stage2.py RECIPE.yaml --dataset TARS --streaming \\
    --cache_image_embeds false --shuffle_buffer 1000
"""

from common.launching import launch

if __name__ == "__main__":
    launch("training.jobs.stage2")
