"""Embed tiny pictures by two actors of Ray and by one process: equal embeddings, and how many a second.

python deploy/embed/run_throughput.py --model_name_or_path outputs/miniature/altclip
python deploy/embed/run_throughput.py --model_name_or_path outputs/miniature/altclip --pictures 2000
"""

from common.launching import launch

if __name__ == "__main__":
    launch("deploy.embed.throughput_job", one_process=True)
