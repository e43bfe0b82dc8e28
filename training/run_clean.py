"""Clean parallel text for stage 1: what is no translation is removed, counted by reason, and shown.

python training/run_clean.py training/recipes/any_clip/clean.yaml
python training/run_clean.py --dataset corpus.tsv --output_dir outputs/cleaned --processes 4
"""

from common.launching import launch

if __name__ == "__main__":
    launch("training.jobs.clean", one_process=True)
