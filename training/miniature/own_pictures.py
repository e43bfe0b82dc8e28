"""Draw a stand-in for a user's own pictures: 400 scenes in a style that the miniature never saw.

python -m training.miniature.own_pictures --output_dir outputs/own_pictures
"""

from common.launching import launch

if __name__ == "__main__":
    launch("training.jobs.own_pictures", one_process=True)
