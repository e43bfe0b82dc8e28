"""Evaluate image-text retrieval of one or more models, on any of the tasks, in any of their languages.

python benchmarks/run_retrieval.py training/recipes/miniature/retrieval.yaml
python benchmarks/run_retrieval.py --models BAAI/AltCLIP-m9 --tasks xm3600 flickr30k my/task.yaml \\
    --languages en zh ja
accelerate launch --quiet benchmarks/run_retrieval.py --models BAAI/AltCLIP --tasks mscoco-5k
"""

from common.launching import launch

if __name__ == "__main__":
    launch("benchmarks.jobs.retrieval")
