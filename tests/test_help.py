"""`--help` of everything that can be run: found by looking, so that a new script is asked too."""

import pytest

from .conftest import ROOT

WORKER = "benchmarks/speed/worker.py"  # started by a program alone, in environments without our packages
PACKAGES = ["modeling_altclip", "benchmarks", "common", "deploy", "model_cards", "training"]


def entry_points():
    """The words behind `python` for each file that can be run."""
    found = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = path.relative_to(ROOT)
            if path.name == "__main__.py":
                found.append(["-m", ".".join(name.parts[:-1])])
            elif name.as_posix() == WORKER:
                continue
            elif 'if __name__ == "__main__":' in path.read_text("utf-8"):
                found.append([str(name)])
    return found


@pytest.mark.parametrize("words", entry_points(), ids=" ".join)
def test_every_script_tells_of_its_flags(run_python, words):
    words = words if words[0] == "-m" else [ROOT / words[0]]
    process = run_python("python", *words, "--help")
    assert process.returncode == 0, process.stderr[-2000:]
    assert "usage: " in process.stdout
    assert process.stdout.count("\n  -") >= 2  # --help, and a flag of its own
    # argparse formats help with %: what it did not format would show.
    assert "%%" not in process.stdout
    assert "%(" not in process.stdout


def test_all_scripts_are_found():
    names = {words[-1].rpartition("/")[2] for words in entry_points()}
    assert {
        "run_zero_shot.py",
        "run_stage2.py",
        "build_asset.py",
        "model_cards",
        "training.miniature",
    } <= names
