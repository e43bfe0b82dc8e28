"""The paper's ablation on the miniature: five ways to train, with several seeds each; table and plot.

python training/run_ablation.py training/recipes/ablation/miniature.yaml
"""

from common.launching import launch

if __name__ == "__main__":
    launch("training.jobs.ablation", one_process=True)
