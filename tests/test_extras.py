"""Without the library of an extra: its modules say which extra to install, and no other module misses it."""

import configparser
import subprocess
import sys

import pytest

from .conftest import ROOT

# An import fails where sys.modules has None, as if the package were not installed.
WITHOUT = """
import sys
for name in {missing}:
    sys.modules[name] = None
{then}
"""
REPORTS = ["benchmarks.report.plots", "model_cards.plots"]
NEED = {
    "matplotlib": ("plots", [*REPORTS, "training.parallel.figures", "training.cleaning.figure"]),
    "diffusers": ("diffusion", ["training.diffusion"]),
    "lingua": ("cleaning", ["training.cleaning.identification"]),
    "imagehash": ("exclusion", ["training.data.exclusion.pictures"]),
    "faiss": ("search", ["deploy.search.nearest"]),
    "polib": ("formats", ["training.data.formats.gettext"]),
    "onnx": ("export", ["deploy.onnx.graphs", "deploy.onnx.quantizing"]),
}
EXPERIMENTS = [
    "training.ablation",
    "training.families",
    "training.parallel.comparison",
    "training.photographs.comparison",
    "training.photographs.curves",
]


def run_without(missing, then, *words):
    script = WITHOUT.format(missing=missing, then=then)
    return subprocess.run([sys.executable, "-c", script, *words], cwd=ROOT, capture_output=True, text=True)


def test_a_module_names_the_extra_that_it_needs():
    """An error of an import, as whoever tries to import it expects."""
    modules = [(module, library, extra) for library, (extra, names) in NEED.items() for module in names]
    modules += [(module, "matplotlib", "plots") for module in EXPERIMENTS]
    then = f"""
import importlib
for module, library, extra in {modules}:
    try:
        importlib.import_module(module)
    except ImportError as error:
        assert str(error) == f'{{library}} is not installed: pip install "altclip[{{extra}}]"', error
    else:
        sys.exit(f"{{module}} does without {{library}}")
"""
    process = run_without(list(NEED), then)
    assert process.returncode == 0, process.stderr
    extras = configparser.ConfigParser()
    extras.read(ROOT / "setup.cfg")
    for library, (extra, _) in NEED.items():
        assert library in extras["options.extras_require"][extra]


RUN = "import runpy; sys.argv = sys.argv[1:]; sys.path[0] = '.'; "
SEARCH = ["altclip/__main__.py", "search"]
REPORT = ["benchmarks/run_report.py"]
REPORTED = ["--results", "nowhere", "--output_dir", "nowhere"]
# Before anything is evaluated.
RETRIEVAL = ["benchmarks/run_retrieval.py"]
TABLE = ["--models", "nowhere", "--tasks", "xtd", "--title", "A table"]


@pytest.mark.parametrize(
    "program,words,message",
    [
        (REPORT, REPORTED, 'run_report.py: error: matplotlib is not installed: pip install "altclip[plots]"'),
        (
            SEARCH,
            ["nowhere", "a dog"],
            'altclip search: error: faiss is not installed: pip install "altclip[search]"',
        ),
        pytest.param(
            RETRIEVAL,
            TABLE,
            'run_retrieval.py: error: matplotlib is not installed: pip install "altclip[plots]"',
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_script_ends_with_one_line(program, words, message):
    process = run_without(
        list(NEED), RUN + "runpy.run_path(sys.argv[0], run_name='__main__')", *program, *words
    )
    assert (process.returncode, process.stderr.strip().splitlines()[-1]) == (
        1,
        message,
    )
    assert "Traceback" not in process.stderr
    # Help is there without the library.
    process = run_without(
        list(NEED), RUN + "runpy.run_path(sys.argv[0], run_name='__main__')", *program, "--help"
    )
    assert process.returncode == 0
    assert "usage" in process.stdout
