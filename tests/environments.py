"""Environments of their own, for packages that the tests' own does without. They are installed from an index: for slow tests."""

import configparser
import os
import re
import subprocess
import sys
from pathlib import Path

from .conftest import ROOT

OF_TRANSFORMERS = ("transformers", "huggingface_hub", "tokenizers")  # what goes with a version of it


def build_environment(
    folder: Path,
    *asked: str,
    upon: Path | None = Path(sys.executable),
    unpinned: tuple[str, ...] = (),
    **variables: str,
) -> Path:
    """A virtual environment with what is `asked` of pip, packages or options; gives its python.

    Args:
        upon: the python of an environment all of whose packages it sees; it holds beside them what is new or of another version.
            By default the running one; of None it sees nothing.
        unpinned: packages that constraints.txt is not to bind.
        variables: of the shell that pip runs in.
    """
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin/python"
    if upon is not None:
        (packages_of(python) / "parent.pth").write_text(f"{packages_of(upon)}\n")
    pins = [
        line
        for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines()
        if re.split("[=<]", line)[0] not in unpinned
    ]
    (folder / "constraints.txt").write_text("\n".join(pins))
    asked = "--constraint", folder / "constraints.txt", *asked
    command = [python, "-m", "pip", "install", "--disable-pip-version-check", "--quiet", *asked]
    subprocess.run(command, check=True, env=shell(**variables))
    return python


def packages_of(python: Path) -> Path:
    """The folder of an environment's packages."""
    command = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    return Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())


def extra(name: str) -> list[str]:
    """The packages of an extra of ours."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", "utf-8")
    return config["options.extras_require"][name].split()


def shell(**variables: str) -> dict[str, str]:
    return {"OMP_NUM_THREADS": "2"} | os.environ | {"PYTHONPATH": str(ROOT)} | variables


def run_in(python: Path, *words: str, cwd: Path = ROOT, **variables: str) -> subprocess.CompletedProcess:
    """Run `python ...` of an environment, from the root of the repository unless told otherwise."""
    command = [python, *map(str, words)]
    return subprocess.run(
        command, cwd=cwd, env=shell(**variables), capture_output=True, text=True, timeout=600
    )
