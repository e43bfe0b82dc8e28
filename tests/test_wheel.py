"""The wheel: two names at its top, all code and data below them, and nothing of a clone or a user's folder.

It is built without a network, unpacked onto the path, and used from a folder that has packages called
`training`, `benchmarks` and `model_cards` of its own, which end any program that imports them.
"""

import ast
import configparser
import json
import os
import shutil
import subprocess
import sys
import zipfile

import pytest
from PIL import Image

from .conftest import ROOT
from .processes import TIMEOUT

OURS = ["benchmarks", "common", "deploy", "model_cards", "training"]
TOGETHER = ["altclip", "modeling_altclip", *OURS]
TINY = ROOT / "tests/fixtures/v0.1.0/model"
# What a clone has next to its tracked files.
UNTRACKED = [".git", ".venv*", "outputs", "build", "dist", "*.egg-info", "__pycache__"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build the wheel from a copy of the sources, and return the folder that it is unpacked in."""
    folder = tmp_path_factory.mktemp("wheel")
    sources = folder / "sources"
    for package in TOGETHER:
        shutil.copytree(ROOT / package, sources / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    # What an earlier build has left, which must not get into this one.
    stale = sources / "build/lib/altclip/training/removed.py"
    stale.parent.mkdir(parents=True)
    stale.touch()

    # Without isolation pip builds with what is installed, and needs no network.
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps"]
    command += ["--disable-pip-version-check", "--wheel-dir", folder, sources]
    process = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    assert process.returncode == 0, process.stderr
    (built,) = folder.glob("altclip-*-py3-none-any.whl")
    with zipfile.ZipFile(built) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """A user's folder, with images, captions, a task, and packages whose names are those of our folders."""
    folder = tmp_path_factory.mktemp("elsewhere")
    for name in OURS:
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(f'raise SystemExit("this {name} is the user\'s")\n')

    pictures = folder / "pictures"
    pictures.mkdir()
    lines = []
    for colour in ("red", "green", "blue", "black", "white", "pink"):
        Image.new("RGB", (40, 30), colour).save(pictures / f"{colour}.png")
        lines.append(json.dumps({"file_name": f"{colour}.png", "captions": {"en": f"something {colour}"}}))
    (pictures / "metadata.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    (folder / "task.yaml").write_text(
        "kind: retrieval\ndataset: pictures\nsplit: train\nmetric: mean_recall\nlanguages: [en]\n"
        "columns: {image: image, captions: captions}\n",
        "utf-8",
    )
    return folder


@pytest.fixture(scope="module")
def python(wheel, elsewhere):
    """Return a function that runs `python ...` in the user's folder, with the wheel on the path."""

    def run(*words):
        environment = os.environ | {"PYTHONPATH": str(wheel), "OMP_NUM_THREADS": "2"}
        command = [sys.executable, *map(str, words)]
        return subprocess.run(
            command, cwd=elsewhere, env=environment, capture_output=True, text=True, timeout=TIMEOUT
        )

    return run


def test_it_exports_two_names(wheel):
    (information,) = wheel.glob("*.dist-info")
    assert {path.name for path in wheel.iterdir()} == {"altclip", "modeling_altclip", information.name}
    assert (information / "top_level.txt").read_text().split() == ["altclip", "modeling_altclip"]
    for name in ("altclip", "modeling_altclip"):
        # Without this file type checkers ignore a package's annotations.
        assert (wheel / name / "py.typed").exists()


def test_its_metadata_are_complete(wheel):
    (information,) = wheel.glob("*.dist-info")
    metadata = (information / "METADATA").read_text("utf-8").partition("\n\n")[0]
    for field in ("Author", "License-Expression", "Requires-Python", "Summary", "Keywords"):
        assert f"\n{field}: " in metadata
    for url in ("Source", "Documentation", "Changelog", "Issues", "Paper"):
        assert f"\nProject-URL: {url}, https://" in metadata
    for classifier in ("Typing :: Typed", "Programming Language :: Python :: 3.13"):
        assert f"\nClassifier: {classifier}\n" in metadata
    config = configparser.ConfigParser()
    config.read(information / "entry_points.txt")
    assert config["console_scripts"]["altclip"] == "altclip.command:main"


def files_of(folder):
    """Return the files below a folder by their names in it."""
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_every_file_of_the_packages_is_there(wheel):
    """All code and all data: tasks, prompts, class names, recipes, templates and the miniature's drawings."""
    for package in TOGETHER:
        inside = "altclip" if package in OURS else ""
        expected = files_of(ROOT / package)
        assert expected
        found = files_of(wheel / inside / package)
        if package == "altclip":
            found = {name for name in found if name.split("/")[0] not in OURS}
        assert found == expected


def test_no_module_imports_by_a_name_of_the_clone(wheel):
    """Modules of `evaluate`, which are data here, among them."""
    paths = list(wheel.rglob("*.py"))
    assert len(paths) > 100
    n_renamed = 0
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
                # `import altclip.training.x` would bind `altclip`, where the code goes on with `training`.
                assert all(alias.asname or not alias.name.startswith("altclip.") for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            for name in names:
                assert name.split(".")[0] not in OURS, f"{path} imports {name}"
                n_renamed += name.startswith("altclip.")
    assert n_renamed > 200


# All public names, and every other module but those that need an extra; the scripts too, as modules.
IMPORTS = """
import importlib, pkgutil, sys
from pathlib import Path

import modeling_altclip, altclip
import altclip.training, altclip.benchmarks, altclip.model_cards
from altclip.common.extras import MissingExtra

for package in (modeling_altclip, altclip.training, altclip.benchmarks):
    for name in package.__all__:
        assert hasattr(package, name), name

def modules_below(package):
    found = [package.__name__]
    found += [module.name for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
    return found

missing = []
for name in modules_below(altclip) + modules_below(modeling_altclip):
    if name.endswith(".__main__") or name.endswith("build_asset"):
        continue
    try:
        importlib.import_module(name)
    except MissingExtra as error:
        missing.append(str(error))
    except ModuleNotFoundError as error:  # adapters of other libraries
        assert name.startswith("altclip.common.models.from_"), error
        missing.append(str(error))
here = Path(altclip.__file__).parent.parent
ours = [module for name, module in sys.modules.items() if name.startswith(("altclip", "modeling_altclip"))]
assert len(ours) > 100
for module in ours:
    assert here in Path(module.__file__).parents, module
for name in ("training", "benchmarks", "common", "deploy", "model_cards"):
    assert name not in sys.modules
assert altclip.training.checkpoints.InputError is altclip.common.errors.InputError

from altclip.benchmarks.tasks.loading import all_task_names, load_task
assert len([load_task(name) for name in all_task_names()]) > 40

from altclip.command import JOBS, main
for name in JOBS:
    try:
        main([*name.split(), "--help"])
    except SystemExit as end:
        assert not end.code, end.code
"""


def test_every_import_works_beside_packages_of_these_names(python, wheel):
    """Every job has help too, which names the folder of its recipes."""
    process = python("-c", IMPORTS)
    assert process.returncode == 0, process.stderr[-3000:]
    for name in ("train stage0", "evaluate zero-shot", "report", "card", "embed"):
        assert f"\nusage: altclip {name} [-h]" in process.stdout
    recipes = wheel / "altclip/training/recipes"
    assert f"\n{recipes}\n" in process.stdout
    assert (recipes / "altclip/stage1.yaml").exists()


def test_the_users_own_packages_would_have_been_imported(python):
    process = python("-c", "import training")
    assert (process.returncode, process.stderr) == (1, "this training is the user's\n")


# An evaluation and its report in one process, since imports are the longest part of each.
EVALUATE = f"""
from altclip.command import main
main(["evaluate", "retrieval", "--models", {str(TINY)!r}, "--tasks", "task.yaml", "--n_resamples", "50"])
main(["report", "--results", "outputs/results", "--output_dir", "outputs/report"])
"""


@pytest.mark.slow
def test_an_evaluation_and_its_report(python, elsewhere):
    pytest.importorskip("matplotlib")
    process = python("-c", EVALUATE)
    assert process.returncode == 0, process.stderr[-3000:]
    assert "Next: altclip report --results outputs/results --output_dir" in process.stdout
    assert "Saved the report of 1 results." in process.stdout

    (path,) = (elsewhere / "outputs/results").rglob("*.json")
    result = json.loads(path.read_text("utf-8"))
    command = f"altclip evaluate retrieval --models {TINY} --tasks task.yaml --n_resamples 50"
    assert result["command"] == command
    page = (elsewhere / "outputs/report/index.html").read_text("utf-8")
    assert "altclip evaluate retrieval" in page
    assert "python benchmarks" not in page


def test_embeddings_as_a_command(python, elsewhere):
    process = python("-m", "altclip", "embed", TINY, "--images", "pictures", "--output_dir", "embedded")
    assert process.returncode == 0, process.stderr[-3000:]
    assert (elsewhere / "embedded/embeddings.npy").exists()
    items = (elsewhere / "embedded/items.jsonl").read_text("utf-8").splitlines()
    # Six pictures; metadata.jsonl is none.
    assert len(items) == 6


@pytest.mark.slow
def test_it_also_installs_from_the_sdist(tmp_path):
    """Build the sdist, and from it alone the same wheel."""
    build = f"from setuptools import build_meta; print(build_meta.build_sdist({str(tmp_path)!r}))"
    sources = tmp_path / "sources"
    shutil.copytree(ROOT, sources, ignore=shutil.ignore_patterns(*UNTRACKED))
    subprocess.run([sys.executable, "-c", build], cwd=sources, check=True, capture_output=True)
    (sdist,) = tmp_path.glob("altclip-*.tar.gz")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps"]
    subprocess.run([*command, "--wheel-dir", tmp_path, sdist], check=True, capture_output=True)
    (built,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert {name.split("/")[0] for name in names} == {"altclip", "modeling_altclip"}
    for package in OURS:
        below = f"altclip/{package}/"
        found = {name.removeprefix(below) for name in names if name.startswith(below)}
        assert found == files_of(ROOT / package)
