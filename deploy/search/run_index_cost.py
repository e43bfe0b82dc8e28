"""Measure exact and compressed search on synthetic embeddings: time to build, memory, latency, recall@10.

python deploy/search/run_index_cost.py
python deploy/search/run_index_cost.py --rows 100000 --queries 200
"""

from common.launching import launch

if __name__ == "__main__":
    launch("deploy.search.index_cost_job", one_process=True)
