"""Whatever surrounds a run:

Folders and their names, locales, an interpreter's switches, numbers of workers. And it leaves nothing.
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

PACKAGES = ("modeling_altclip", "benchmarks", "model_cards", "training")

# Scripts one after the other, each in a process that is forked from one that has imported the libraries.
DRIVER = """
import json, os, runpy, sys
import benchmarks.zero_shot, training.session, training.trainers

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
    (folder / "scripts.json").write_text(
        json.dumps([[str(word) for word in words] for words in scripts]), "ascii"
    )
    given = os.environ | {"PYTHONPATH": str(sources), "OMP_NUM_THREADS": "1"} | environment
    return subprocess.run(
        [sys.executable, *switches, "driver.py"], cwd=folder, env=given, capture_output=True, timeout=300
    )


@pytest.fixture
def sources(tmp_path):
    """The packages, as a clone that nobody may write to."""
    folder = tmp_path / "ein Klon für 中文"
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    paths = [folder, *folder.rglob("*")]
    for path in paths:
        path.chmod(path.stat().st_mode & 0o555)
    yield folder
    for path in paths:
        path.chmod(path.stat().st_mode | 0o200)


def states(folder):
    """When each file and folder was last changed. Nothing binds root, so a test has to look."""
    return {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}


def miniature_in(folder, miniature):
    for name in ("dataset", "clip", "text_encoder"):
        shutil.copytree(miniature / name, folder / "outputs/miniature" / name)


def whole_road(sources, last_stage):
    """The miniature from its first stage to its card, in two steps each;

    Paths of data and models are the recipes' own.
    """
    train, evaluate = sources / "training", sources / "benchmarks"
    steps = ["--max_steps", "2", "--logging_steps", "1", "--per_device_train_batch_size", "16"]
    stages = [
        [train / f"run_stage{n}.py", train / f"recipes/miniature/stage{n}.yaml", *steps] for n in range(3)
    ]
    stages[2] += ["--output_dir", last_stage]
    made = ["outputs/miniature/teacher", "outputs/miniature/stage1", last_stage]
    models = ["--models", *made]
    spoken = ["--languages", "en", "zh", "--limit", "50"]
    tests = [
        [evaluate / f"run_{kind}.py", evaluate / f"recipes/miniature_{kind}.yaml", *models, *spoken]
        for kind in ("retrieval", "zero_shot")
    ]
    report = [
        evaluate / "run_report.py",
        evaluate / "recipes/miniature_report.yaml",
        *models,
        "--languages",
        "en",
        "zh",
    ]
    card = ["-m", "model_cards", sources / "model_cards/recipes/miniature.yaml", "--stages", *made]
    return [*stages, *tests, report, card]


def test_the_whole_road_in_strange_surroundings(miniature, sources, tmp_path):
    """Spaces and other letters in every path, sources that are not to be written to, another working
    directory, the locale C, a terminal that knows ASCII alone, and no assertions.
    """
    folder = tmp_path / "Häuser und Bäume"
    folder.mkdir()
    miniature_in(folder, miniature)
    before = states(sources)
    last_stage = "outputs/miniature/zweite Stufe für 中文"
    variables = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONDONTWRITEBYTECODE": "1"}
    process = run_all(whole_road(sources, last_stage), sources, folder, "-O", **variables)
    assert process.returncode == 0, process.stderr.decode(errors="replace")[-4000:]
    assert states(sources) == before
    said = process.stdout.decode("ascii")
    assert "zweite Stufe f\\xfcr \\u4e2d\\u6587" in said  # the terminal's way to show it
    assert (folder / last_stage / "model.safetensors").exists()
    assert (folder / "outputs/miniature/altclip/README.md").exists()
    (result,) = (folder / "outputs/miniature/results/zweite Stufe für 中文").glob("miniature-pairs.zh.json")
    assert json.loads(result.read_text("utf-8"))["model"] == last_stage
    assert "zweite Stufe für 中文" in (folder / "outputs/miniature/report/index.html").read_text("utf-8")
    assert {path.name for path in folder.iterdir()} == {"driver.py", "scripts.json", "outputs"}
    (following,) = re.findall(r"Saved the model to .* Next: (.*)", said)
    assert shlex.split(following)[-2:] == [
        "--models",
        last_stage.encode("ascii", "backslashreplace").decode(),
    ]


@pytest.mark.parametrize("stage,flags", [("stage0", []), ("stage2", ["--image_views", "2"])])
def test_workers_change_no_byte_of_a_model(miniature, start_flags, run_python, tmp_path, stage, flags):
    """Over several epochs, since workers begin anew with each."""
    script, recipe = ROOT / f"training/run_{stage}.py", ROOT / f"training/recipes/miniature/{stage}.yaml"
    shared = [script, recipe, *start_flags[stage], "--dataset", miniature / "dataset", "--languages", "en"]
    shared += ["--max_steps", "6", "--per_device_train_batch_size", "256", *flags]
    weights = []
    for n_workers in ("0", "1", "2", "8"):
        folder = tmp_path / n_workers
        process = run_python(
            "python",
            *shared,
            "--output_dir",
            folder,
            "--dataloader_num_workers",
            n_workers,
            OMP_NUM_THREADS="1",
        )
        assert process.returncode == 0, process.stderr
        weights.append((folder / "model.safetensors").read_bytes())
    assert weights.count(weights[0]) == 4


LEAVES = """
import tempfile
from tests.conftest import FOLDER, TEMPORARY

def test_leaves(tmp_path_factory):
    assert tempfile.gettempdir() == TEMPORARY and str(tmp_path_factory.getbasetemp()).startswith(FOLDER)
    (tmp_path_factory.mktemp("big") / "file").touch()
    {leave}
"""


@pytest.mark.parametrize(
    "leave,code,switches",
    [("pass", 0, []), ("tempfile.mkdtemp(prefix='forgotten-')", 1, ["--numprocesses", "1"])],
)
def test_a_run_of_the_tests_leaves_nothing_and_fails_where_a_test_does(tmp_path, leave, code, switches):
    (tmp_path / "test_leaves.py").write_text(LEAVES.format(leave=leave), "utf-8")
    (tmp_path / "temporary").mkdir()
    begun_here = {name for name, value in os.environ.items() if os.environ["ALTCLIP_TESTS"] in value}
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in begun_here and not name.startswith("PYTEST_")
    }
    environment |= {"TMPDIR": str(tmp_path / "temporary"), "PYTHONPATH": str(ROOT)}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--rootdir",
        tmp_path,
        "-p",
        "tests.conftest",
        "-p",
        "no:cacheprovider",
        *switches,
    ]
    process = subprocess.run(
        [*command, tmp_path], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert "1 passed" in process.stdout, process.stdout + process.stderr
    assert process.returncode == code, process.stdout + process.stderr
    assert ("forgotten-" in process.stdout.partition("left in the temporary folder")[2]) == bool(code)
    assert list((tmp_path / "temporary").iterdir()) == []


def test_the_lowest_versions_are_those_of_the_ranges():
    """What `make test-lowest` installs is what setup.cfg admits;

    Tools of developers aside, which no user's code meets.
    """
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", "utf-8")
    extras = config["options.extras_require"]
    given = config["options"]["install_requires"].split()
    given += [
        word
        for name, words in extras.items()
        if name not in ("dev", "docs", "asset", "release")
        for word in words.split()
    ]
    floors = {re.split(r"[\[><=]", word)[0]: re.search(r">=([\d.]+)", word)[1] for word in given}
    lines = (ROOT / "constraints-lowest.txt").read_text("utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert {name: floor for name, floor in floors.items() if same(pinned.get(name, ""), floor)} == floors, (
        floors,
        pinned,
    )


def same(version, floor):
    """2 and 2.0.0 are the same version."""
    return re.sub(r"(\.0)+$", "", version) == re.sub(r"(\.0)+$", "", floor)


def test_folders_of_killed_runs_go_with_the_next(tmp_path, monkeypatch):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    names = [f"altclip-tests-{number}-abc" for number in (dead.pid, os.getpid())] + [
        "altclip-tests-of-mine",
        "another-1-abc",
    ]
    for name in names:
        (tmp_path / name / "tmp").mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    remove_left_overs()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[1:])
