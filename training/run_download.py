"""Download pictures from a table of addresses with captions in many languages, into tars for stage 2.

make download-env
python training/run_download.py --dataset addresses.parquet --url_column URL --text_column TEXT \\
    --language_column LANGUAGE --output_dir outputs/pictures

img2dataset downloads, in an environment of its own. The same command resumes a run that was killed.
"""

from common.launching import launch

if __name__ == "__main__":
    launch("training.jobs.download", one_process=True)
