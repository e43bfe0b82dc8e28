"""Stage 1, teacher learning: a multilingual text tower learns an English CLIP's text embeddings (paper 3.1).

accelerate launch --quiet training/run_stage1.py training/recipes/altclip/stage1.yaml
accelerate launch --quiet training/run_stage1.py training/recipes/miniature/stage1.yaml
"""

from common.recipe import launch
from training.arguments import TeacherLearningArguments
from training.jobs.stage1 import main

if __name__ == "__main__":
    launch(main, TeacherLearningArguments)
