"""Environments of their own, for packages that the tests' own does without. They are installed from an index: for slow tests."""

import configparser
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

from .conftest import ROOT


def build_environment(folder: Path, *asked: str, upon_ours: bool = True, unpinned: tuple[str, ...] = (), **variables: str) -> Path:
    """A virtual environment with what is `asked` of pip, packages or options; gives its python.

    Args:
        upon_ours: it sees all that the running environment has, and holds beside that what is new or of another version.
        unpinned: packages that constraints.txt is not to bind.
        variables: of the shell that pip runs in.
    """
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin/python"
    if upon_ours:
        command = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
        packages = Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())
        (packages / "parent.pth").write_text(sysconfig.get_path("purelib") + "\n")
        pins = [line for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines() if re.split("[=<]", line)[0] not in unpinned]
        (folder / "constraints.txt").write_text("\n".join(pins))
        asked = "--constraint", folder / "constraints.txt", *asked
    command = [python, "-m", "pip", "install", "--disable-pip-version-check", "--quiet", *asked]
    subprocess.run(command, check=True, env=shell(**variables))
    return python


def extra(name: str) -> list[str]:
    """The packages of an extra of ours."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", "utf-8")
    return config["options.extras_require"][name].split()


def shell(**variables: str) -> dict[str, str]:
    return {"OMP_NUM_THREADS": "2"} | os.environ | {"PYTHONPATH": str(ROOT)} | variables


def run_in(python: Path, *words: str, **variables: str) -> subprocess.CompletedProcess:
    """Run `python ...` of an environment from the root of the repository."""
    command = [python, *map(str, words)]
    return subprocess.run(command, cwd=ROOT, env=shell(**variables), capture_output=True, text=True, timeout=600)
