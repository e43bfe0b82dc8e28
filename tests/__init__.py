"""Choose the one folder that all test output goes to, before any library is imported."""

import os
import shutil
import tempfile
from pathlib import Path

import psutil

PREFIX = "altclip-tests-"


def remove_left_overs() -> None:
    """Remove the folders of earlier runs that were killed before they could clean up."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*-*"):
        # altclip-tests-4711-x3k_9a -> process 4711
        process_id = folder.name.removeprefix(PREFIX).partition("-")[0]
        if not process_id.isdecimal():
            continue
        if not psutil.pid_exists(int(process_id)):
            shutil.rmtree(folder, ignore_errors=True)


# One folder takes all that a run of the tests writes, and goes with it: temporary files, the folders of
# pytest, caches. Workers of pytest-xdist and the scripts that tests start inherit its name.
IS_FIRST = "ALTCLIP_TESTS" not in os.environ
if IS_FIRST:
    remove_left_overs()
    FOLDER = tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-")
else:
    FOLDER = os.environ["ALTCLIP_TESTS"]

TEMPORARY = os.path.join(FOLDER, "tmp")
os.makedirs(TEMPORARY, exist_ok=True)
tempfile.tempdir = TEMPORARY
os.environ |= {
    "ALTCLIP_TESTS": FOLDER,
    "TMPDIR": TEMPORARY,
    "PYTEST_DEBUG_TEMPROOT": FOLDER,
    "HF_HOME": os.path.join(FOLDER, "huggingface"),
    "HF_DATASETS_CACHE": os.path.join(FOLDER, "datasets"),
    "HF_HUB_OFFLINE": "1",
    "TORCHINDUCTOR_CACHE_DIR": os.path.join(FOLDER, "inductor"),
}
