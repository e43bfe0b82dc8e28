"""The dry run of all roads: `make data-dry-run`."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from .conftest import ROOT
from .processes import TIMEOUT

pytestmark = pytest.mark.slow


def run(folder, *roads):
    command = [sys.executable, "-W", "ignore", "-m", "tests.data_dry_run", *roads]
    environment = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=TIMEOUT
    )


def test_all_roads_run_dry():
    process = run(ROOT)
    assert process.returncode == 0, process.stderr[-3000:]
    # Stage 1 of five roads and stage 2 of four
    assert process.stdout.count("Dry run: nothing was trained.") == 9
    page = (ROOT / "docs/data.md").read_text("utf-8")
    rows = [line for line in process.stdout.splitlines() if line.startswith("| ")]
    for row in rows:
        cells = [cell.strip() for cell in row.split("|")]
        assert " | ".join(cells).strip() in page, rows


# What the plan alone does not find; `test_road_plan.py` has the rest.
@pytest.mark.parametrize(
    ("file", "before", "after", "message"),
    [
        ("stage2.yaml", "max_steps", "text_column: nowhere\nmax_steps", "nowhere"),
        ("stage1.yaml", "intfloat/multilingual-e5-base", "intfloat/no-such-model", "no configuration"),
    ],
)
def test_a_recipe_that_names_what_does_not_exist_ends_it(tmp_path, file, before, after, message):
    clone = tmp_path / "clone"
    left_out = shutil.ignore_patterns(".venv*", ".git", "outputs", "__pycache__")
    shutil.copytree(ROOT, clone, ignore=left_out)
    recipe = clone / "training/recipes/any_clip" / file
    text = recipe.read_text("utf-8")
    assert before in text
    recipe.write_text(text.replace(before, after), "utf-8")
    process = run(clone, "any_clip")
    assert process.returncode == 1
    said = process.stderr.strip().splitlines()[-1]
    assert said.startswith("error: ")
    assert re.search(message, said), said
