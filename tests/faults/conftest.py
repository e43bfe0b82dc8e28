"""Inputs that all faults share, written once."""

import shutil

import pytest

from .jobs import other_jobs, training_jobs, write_inputs
from .running import run_uninterrupted


@pytest.fixture
def tell(request):
    """Return a function that prints a line of a table at once, past the capture of output."""
    plugins = request.config.pluginmanager
    reporter = plugins.get_plugin("terminalreporter")
    capture = plugins.get_plugin("capturemanager")

    def tell(line):
        with capture.global_and_fixture_disabled():
            reporter.write_line(line)

    return tell


@pytest.fixture(scope="session")
def inputs(miniature, tmp_path_factory):
    """Return the folder of what the jobs read."""
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(miniature, folder)
    return folder


@pytest.fixture(scope="session")
def jobs(miniature, inputs, tmp_path_factory):
    """Return all jobs by name, and the folder that they write below."""
    world = tmp_path_factory.mktemp("faults") / "world"
    jobs = training_jobs(miniature, inputs, world) | other_jobs(miniature, inputs, world)
    # What the report and the card are made of.
    for name in ("retrieval", "zero-shot"):
        run_uninterrupted(jobs[name], world)
        shutil.copytree(world / "out", inputs / "results", dirs_exist_ok=True)
    return jobs, world
