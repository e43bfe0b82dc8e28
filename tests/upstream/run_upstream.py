"""Run transformers' own common tests on our models, processor and configurations: `make test-upstream`.

transformers tests each of its models by the same few hundred tests: saving and loading, initialization,
gradients, checkpointing, embeddings, attention kernels, outputs. What works with transformers' own models has
to work with ours.

Its sdist on PyPI carries these tests (`tests/test_*_common.py`), but not all that they import, and no model's
own tests. The folder `tree` beside this file holds what is missing, and is laid over the unpacked tests:

- `tests/utils`, `tests/generation`, `tests/exporters` and `utils`: stand-ins for files of transformers, with
  the names that the common tests import. Tests of `generate` and of export, which these files hold, are not
  run.
- `tests/models/altclip`: our models, each with a small configuration and inputs, in the form that the common
  tests ask for. Pairs of towers stand for the dual encoders.
- `conftest.py`: the exceptions, which fail with a reason. They are run all the same, have to fail, and are
  printed at the end.

`test_pipeline_mixin.py` is an exception as a whole: it takes its tests of pipelines from another folder that
the sdist leaves out, and its models from the Hub. `tests/test_pipeline.py` has ours.

The version is the one that `constraints.txt` names, and has to be installed. Flags that are not known here go
to pytest.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[2]
TREE = Path(__file__).parent / "tree"
# Without -W ignore, each of transformers' own marks, which pytest does not know here, would be a warning.
SETTINGS = "[pytest]\naddopts = -q -W ignore -p no:cacheprovider\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--sdist",
        type=Path,
        help="transformers-VERSION.tar.gz, where it is there already; else pip downloads it",
    )
    arguments, for_pytest = parser.parse_known_args()
    pinned = pinned_version()
    installed = version("transformers")
    if installed != pinned:
        parser.error(
            f"transformers {installed} is installed, but constraints.txt names {pinned}: run make install"
        )

    with tempfile.TemporaryDirectory(prefix="altclip-upstream-") as folder:
        sdist = arguments.sdist or download(pinned, Path(folder, "sdist"))
        tests = Path(folder, "unpacked")
        lay_out(sdist, pinned, tests)
        # The unpacked folder comes first: its package is called `tests`, as ours is.
        paths = [str(tests), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        surroundings = os.environ | {
            "PYTHONPATH": os.pathsep.join(paths),
            # Tests that ask the Hub fail at once, instead of waiting for it.
            "HF_HUB_OFFLINE": "1",
            "TMPDIR": folder,
        }
        command = [sys.executable, "-m", "pytest", "tests/models", *for_pytest]
        return subprocess.run(command, cwd=tests, env=surroundings).returncode


def pinned_version() -> str:
    """Return the version of transformers that constraints.txt names."""
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    return next(line.partition("==")[2] for line in lines if line.startswith("transformers=="))


def download(pinned: str, folder: Path) -> Path:
    """Download transformers' sdist with pip, and return the file."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--no-binary", ":all:"]  # no wheel, which has no tests
    command += ["--dest", str(folder), f"transformers=={pinned}"]
    subprocess.run(command, check=True)
    return next(folder.glob("transformers-*.tar.gz"))


def lay_out(sdist: Path, pinned: str, folder: Path) -> None:
    """Unpack the tests of an sdist into `folder`; add the files of `tree` and the settings of pytest."""
    inside = f"transformers-{pinned}/tests/"
    with tarfile.open(sdist) as archive:
        members = [member for member in archive.getmembers() if member.name.startswith(inside)]
        for member in members:
            member.name = member.name.removeprefix(f"transformers-{pinned}/")
        archive.extractall(folder, members, filter="data")
    shutil.copytree(TREE, folder, dirs_exist_ok=True)
    (folder / "pytest.ini").write_text(SETTINGS, "utf-8")


if __name__ == "__main__":
    sys.exit(main())
