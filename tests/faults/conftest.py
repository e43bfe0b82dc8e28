"""Inputs that all faults share, written once."""

import shutil

import pytest

from .jobs import other_jobs, training_jobs, write_inputs
from .running import run_uninterrupted


@pytest.fixture
def tell(request):
    """Return a function that prints a line of a table at once, past the capture of output."""
    return request.config.pluginmanager.get_plugin("terminalreporter").write_line


@pytest.fixture(scope="session")
def jobs(miniature, tmp_path_factory):
    """Return all jobs by name, and the folder that they write below."""
    inputs = tmp_path_factory.mktemp("inputs")
    world = tmp_path_factory.mktemp("faults") / "world"
    write_inputs(miniature, inputs)
    jobs = training_jobs(miniature, inputs, world) | other_jobs(miniature, inputs, world)
    # What the report and the card are made of.
    for name in ("retrieval", "zero-shot"):
        run_uninterrupted(jobs[name], world)
        shutil.copytree(world / "out", inputs / "results", dirs_exist_ok=True)
    return jobs, world
