"""Runs in strange surroundings: folders and their names, locales, an interpreter's switches, numbers of
workers. And they leave nothing behind.
"""

import configparser
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile

import pytest

from . import remove_left_overs
from .conftest import ROOT
from .processes import TIMEOUT

PACKAGES = ["altclip", "modeling_altclip", "benchmarks", "common", "deploy", "model_cards", "training"]

# Scripts one after the other, each in a process that is forked from one that has imported the libraries.
DRIVER = """
import json, os, runpy, sys
import benchmarks.zero_shot, training.lifecycle, training.trainers

def run(words):
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")

for words in json.load(open("scripts.json", encoding="ascii")):
    child = os.fork()
    if child == 0:
        run(words)
        sys.exit()
    if os.waitpid(child, 0)[1]:
        sys.exit(f"failed: {words}")
"""


def run_all(scripts, sources, folder, *switches, **environment):
    """Run `scripts` from `folder`, in an interpreter with these switches and variables."""
    (folder / "driver.py").write_text(DRIVER, "utf-8")
    commands = [list(map(str, words)) for words in scripts]
    (folder / "scripts.json").write_text(json.dumps(commands), "ascii")
    given = os.environ | {"PYTHONPATH": str(sources), "OMP_NUM_THREADS": "1"} | environment
    return subprocess.run(
        [sys.executable, *switches, "driver.py"], cwd=folder, env=given, capture_output=True, timeout=TIMEOUT
    )


@pytest.fixture
def sources(tmp_path):
    """Copy the packages, as a clone that nobody may write to."""
    # Spaces, a letter of Latin-1 and letters beyond it.
    folder = tmp_path / "ein Klon für 中文"
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    paths = [folder, *folder.rglob("*")]
    for path in paths:
        # Nobody may write.
        path.chmod(path.stat().st_mode & 0o555)
    yield folder
    for path in paths:
        # pytest has to delete the folder.
        path.chmod(path.stat().st_mode | 0o200)


def miniature_in(folder, miniature):
    for name in ("dataset", "clip", "text_encoder"):
        shutil.copytree(miniature / name, folder / "outputs/miniature" / name)


def change_times(folder):
    """Return when each file and folder was last changed. Nothing binds root, so a test has to look."""
    return {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}


def whole_road(sources, last_stage):
    """Return the commands of the miniature from its first stage to its card, in two steps each.

    Paths of data and models are the recipes' own.
    """
    training = sources / "training"
    benchmarks = sources / "benchmarks"
    scripts = []
    steps = ["--max_steps", "2", "--logging_steps", "1", "--per_device_train_batch_size", "16"]
    for stage in range(3):
        recipe = training / f"recipes/miniature/stage{stage}.yaml"
        scripts.append([training / f"run_stage{stage}.py", recipe, *steps])
    scripts[-1] += ["--output_dir", last_stage]

    made = ["outputs/miniature/teacher", "outputs/miniature/stage1", last_stage]
    flags = ["--models", *made, "--languages", "en", "zh"]
    for kind in ("retrieval", "zero_shot"):
        recipe = training / f"recipes/miniature/{kind}.yaml"
        scripts.append([benchmarks / f"run_{kind}.py", recipe, *flags, "--limit", "50"])
    scripts.append([benchmarks / "run_report.py", training / "recipes/miniature/report.yaml", *flags])
    scripts.append(["-m", "model_cards", sources / "training/recipes/miniature/card.yaml", "--stages", *made])
    return scripts


@pytest.mark.slow
def test_the_whole_road_in_strange_surroundings(miniature, sources, tmp_path):
    """Run it with spaces and other letters in every path, sources that are not to be written to, another
    working directory, the locale C, a terminal that knows ASCII alone, and no assertions.
    """
    folder = tmp_path / "Häuser und Bäume"
    folder.mkdir()
    miniature_in(folder, miniature)
    before = change_times(sources)
    last_stage = "outputs/miniature/zweite Stufe für 中文"
    variables = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONDONTWRITEBYTECODE": "1"}
    process = run_all(whole_road(sources, last_stage), sources, folder, "-O", **variables)
    assert process.returncode == 0, process.stderr.decode(errors="replace")[-4000:]
    assert change_times(sources) == before

    said = process.stdout.decode("ascii")
    assert "zweite Stufe f\\xfcr \\u4e2d\\u6587" in said  # the terminal's way to show it
    (following,) = re.findall(r"Saved the model to .* Next: (.*)", said)
    shown = last_stage.encode("ascii", "backslashreplace").decode()
    assert shlex.split(following)[-2:] == ["--models", shown]

    outputs = folder / "outputs/miniature"
    assert (folder / last_stage / "model.safetensors").exists()
    assert (outputs / "altclip/README.md").exists()
    (result,) = (outputs / "results/zweite Stufe für 中文").glob("miniature-pairs.zh.json")
    assert json.loads(result.read_text("utf-8"))["model"] == last_stage
    assert "zweite Stufe für 中文" in (outputs / "report/index.html").read_text("utf-8")
    assert {path.name for path in folder.iterdir()} == {"driver.py", "scripts.json", "outputs"}


@pytest.mark.parametrize(
    "stage,flags",
    [pytest.param("stage0", [], marks=pytest.mark.slow), ("stage2", ["--image_views", "2"])],
)
def test_workers_change_no_byte_of_a_model(miniature, start_flags, run_python, tmp_path, stage, flags):
    """Train over several epochs, since workers begin anew with each."""
    command = [ROOT / f"training/run_{stage}.py", ROOT / f"training/recipes/miniature/{stage}.yaml"]
    command += [*start_flags[stage], "--dataset", miniature / "dataset", "--languages", "en"]
    # 256 of 600 examples a step.
    command += ["--max_steps", "6", "--per_device_train_batch_size", "256", *flags]
    weights = []
    for n_workers in ("0", "1", "2", "8"):
        folder = tmp_path / n_workers
        of_run = ["--output_dir", folder, "--dataloader_num_workers", n_workers]
        process = run_python("python", *command, *of_run, OMP_NUM_THREADS="1")
        assert process.returncode == 0, process.stderr
        weights.append((folder / "model.safetensors").read_bytes())
    assert weights.count(weights[0]) == 4


LEAVES = """
import tempfile
from tests.conftest import FOLDER, TEMPORARY

def test_leaves(tmp_path_factory):
    assert tempfile.gettempdir() == TEMPORARY
    assert str(tmp_path_factory.getbasetemp()).startswith(FOLDER)
    (tmp_path_factory.mktemp("big") / "file").touch()
    {leave}
"""


def environment_without_pytest():
    """Return the environment variables that this process would have if it had not been begun by pytest."""
    environment = {}
    for name, value in os.environ.items():
        # Its folder is in the values of TMPDIR and others.
        is_of_this_run = os.environ["ALTCLIP_TESTS"] in value or name.startswith("PYTEST_")
        if not is_of_this_run:
            environment[name] = value
    return environment


@pytest.mark.parametrize(
    "leave,code,switches",
    [
        ("pass", 0, []),
        ("tempfile.mkdtemp(prefix='forgotten-')", 1, ["--numprocesses", "1"]),
    ],
)
@pytest.mark.slow
def test_a_run_of_the_tests_leaves_nothing_and_fails_where_a_test_does(tmp_path, leave, code, switches):
    (tmp_path / "test_leaves.py").write_text(LEAVES.format(leave=leave), "utf-8")
    (tmp_path / "temporary").mkdir()
    environment = environment_without_pytest()
    environment |= {"TMPDIR": str(tmp_path / "temporary"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pytest", "--rootdir", tmp_path, "-p", "tests.conftest"]
    command += ["-p", "no:cacheprovider", *switches, tmp_path]
    process = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=TIMEOUT
    )
    said = process.stdout + process.stderr
    assert "1 passed" in process.stdout, said
    assert process.returncode == code, said
    named = process.stdout.partition("left in the temporary folder")[2]
    assert ("forgotten-" in named) == bool(code)
    assert list((tmp_path / "temporary").iterdir()) == []


def test_the_lowest_versions_are_those_of_the_ranges():
    """Check that `make test-lowest` installs the lowest versions that setup.cfg admits.

    Tools of developers are left out: no user's code meets them.
    """
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", "utf-8")
    ranges = config["options"]["install_requires"].split()
    for name, packages in config["options.extras_require"].items():
        if name not in ("dev", "docs", "mutants", "fuzz", "asset", "browser", "release", "security"):
            ranges += packages.split()

    lines = (ROOT / "constraints-lowest.txt").read_text("utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    for package_range in ranges:  # "deepspeed>=0.19.2,<0.19.8"
        package = re.split(r"[\[><=]", package_range)[0]
        lowest = re.search(r">=([\d.]+)", package_range)[1]
        assert package in pinned
        assert without_zeros(pinned[package]) == without_zeros(lowest), package


def without_zeros(version):
    """Remove the zeros at the end of a version: 2 and 2.0.0 are the same."""
    return re.sub(r"(\.0)+$", "", version)


def test_folders_of_killed_runs_go_with_the_next(tmp_path, monkeypatch):
    # The id of a process that has ended.
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    of_dead_run = f"altclip-tests-{dead.pid}-abc"
    # Of a run that goes on, without an id, and of another program.
    others = [f"altclip-tests-{os.getpid()}-abc", "altclip-tests-of-mine", "another-1-abc"]
    for name in (of_dead_run, *others):
        (tmp_path / name / "tmp").mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    remove_left_overs()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(others)
