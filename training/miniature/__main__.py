"""Write the miniature's dataset and untrained towers.

python -m training.miniature --output_dir outputs/miniature
"""

from common.launching import launch

if __name__ == "__main__":
    launch("training.miniature.job", one_process=True)
