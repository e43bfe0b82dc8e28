"""Measure what encoding labels once saves: our zero-shot pipeline against transformers' own.

python benchmarks/run_pipeline_speed.py
python benchmarks/run_pipeline_speed.py --images 8 --labels 10 --width 64 --layers 2
"""

from common.launching import launch

if __name__ == "__main__":
    launch("benchmarks.jobs.pipeline_speed", one_process=True)
