"""Measure what length bucketing of prompts saves: our zero-shot classifier against CLIP_benchmark's.

pip install --no-deps clip-benchmark==1.6.2
python benchmarks/run_classifier_speed.py
python benchmarks/run_classifier_speed.py --classes 2 --width 64 --layers 2
"""

from common.launching import launch

if __name__ == "__main__":
    launch("benchmarks.jobs.classifier_speed", one_process=True)
