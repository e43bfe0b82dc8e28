"""Measure the cost of exact retrieval metrics: ours against the functions of CLIP_benchmark.

python benchmarks/run_metric_speed.py
python benchmarks/run_metric_speed.py --images 20000 --ours_alone
python benchmarks/run_metric_speed.py --images 500 --dim 64 --threads 2
"""

from common.launching import launch

if __name__ == "__main__":
    launch("benchmarks.jobs.metric_speed", one_process=True)
