"""Real pictures in many languages: teacher, students, baselines, tests, a plot and a page of pictures.

python training/run_photographs.py training/recipes/photographs/experiment.yaml
python training/run_photographs.py training/recipes/photographs/experiment.yaml --full
"""

from common.launching import launch

if __name__ == "__main__":
    launch("training.jobs.photographs", one_process=True)
