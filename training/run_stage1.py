"""Stage 1, teacher learning: a multilingual text tower learns an English CLIP's text embeddings (paper 3.1).

accelerate launch --quiet training/run_stage1.py training/recipes/altclip/stage1.yaml
accelerate launch --quiet training/run_stage1.py training/recipes/miniature/stage1.yaml
"""

from common.launching import launch

if __name__ == "__main__":
    launch("training.jobs.stage1")
