"""Parallel multilingual pre-training: two encoders learn from images with captions in several languages.

All captions of an image come in one step (Krasner & Lanuzo).

accelerate launch --quiet training/run_parallel.py training/recipes/parallel_coco/parallel.yaml
accelerate launch --quiet training/run_parallel.py training/recipes/parallel_coco/parallel.yaml \\
    --languages en --output_dir outputs/parallel_coco/english
accelerate launch --quiet training/run_parallel.py training/recipes/parallel/miniature.yaml
"""

from common.launching import launch

if __name__ == "__main__":
    launch("training.jobs.parallel")
