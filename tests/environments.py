"""Build virtual environments for packages that the tests' own environment lacks.

Packages come from an index, so these are for slow tests.
"""

import configparser
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from .conftest import ROOT
from .processes import TIMEOUT

# A version of transformers needs its own versions of these.
OF_TRANSFORMERS = ["transformers", "huggingface_hub", "tokenizers"]


def build_environment(
    folder: Path,
    *asked: str,
    upon: Path | None = Path(sys.executable),
    unpinned: Sequence[str] = (),
    **variables: str,
) -> Path:
    """Build a virtual environment with `asked`, the packages and options for pip, and return its python.

    Args:
        upon: the python of another environment, all of whose packages the new one sees: it installs only
            what is new or of another version. By default the running one; with None it sees no others.
        unpinned: packages that constraints.txt does not bind.
        variables: environment variables for pip.
    """
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin/python"
    if upon is not None:  # a .pth file adds the folder that it names to sys.path
        (packages_of(python) / "parent.pth").write_text(f"{packages_of(upon)}\n")

    pins = []
    for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines():
        package = re.split("[=<]", line)[0]  # "torch==2.9.1" -> "torch"
        if package not in unpinned:
            pins.append(line)
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join(pins))

    command = [python, "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
    command += ["--constraint", constraints, *asked]
    subprocess.run(command, check=True, env=shell(**variables))
    return python


def packages_of(python: Path) -> Path:
    """Return the folder of an environment's packages."""
    command = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    process = subprocess.run(command, check=True, capture_output=True, text=True)
    return Path(process.stdout.strip())


def extra(name: str) -> list[str]:
    """Return the packages of one of our extras."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", "utf-8")
    return config["options.extras_require"][name].split()


def shell(**variables: str) -> dict[str, str]:
    """Return the environment variables for a command, with `variables` set or replaced."""
    return {"OMP_NUM_THREADS": "2"} | os.environ | {"PYTHONPATH": str(ROOT)} | variables


def run_in(python: Path, *words: str, cwd: Path = ROOT, **variables: str) -> subprocess.CompletedProcess:
    """Run `python ...` of an environment, by default from the root of the repository."""
    command = [python, *map(str, words)]
    return subprocess.run(
        command, cwd=cwd, env=shell(**variables), capture_output=True, text=True, timeout=TIMEOUT
    )
