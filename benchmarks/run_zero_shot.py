"""Evaluate zero-shot classification of models, on any of the tasks, in any language that has class names.

python benchmarks/run_zero_shot.py training/recipes/miniature/zero_shot.yaml
python benchmarks/run_zero_shot.py --models BAAI/AltCLIP --tasks imagenet imagenet-sketch --languages en zh
python benchmarks/run_zero_shot.py --models BAAI/AltCLIP --tasks my/task.yaml --class_names names.json \\
    --templates "A photo of {}."
"""

from common.launching import launch

if __name__ == "__main__":
    launch("benchmarks.jobs.zero_shot")
