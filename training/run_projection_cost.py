r"""Measure a step that trains projections alone: both towers cached, and both live, at base size.

python training/run_projection_cost.py --repeats 3
python training/run_projection_cost.py --batch_size 32768 --tile_size 1024 --cache_dtype float16 \
    --live false --repeats 1
"""

from common.launching import launch

if __name__ == "__main__":
    launch("training.jobs.projection_cost", one_process=True)
