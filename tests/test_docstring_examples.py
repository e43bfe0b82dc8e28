"""Examples of the public API: every public name has one in its docstring, and it prints what it shows.

The examples name what `make demo` makes in outputs/miniature. Here they run beside an untrained miniature of
that name, so they show only what does not depend on weights: shapes, counts, and values worked out by hand.
"""

import doctest
import importlib
import inspect
import re
import shutil

import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, CLIPImageProcessor

from modeling_altclip import AltCLIPModel, AltCLIPProcessor

from .conftest import ROOT

PACKAGES = ["modeling_altclip", "training", "benchmarks"]
BLOCK = re.compile(r"^ *```(?:python|pycon)\n(.*?)^ *```$", flags=re.DOTALL | re.MULTILINE)
# What a summary may not begin with: a function's begins with a verb, as "Return", a class's may with a noun.
NO_VERBS = {"A", "All", "An", "Each", "Every", "How", "If", "The", "This", "What", "Whether", "Which"}
NO_NOUNS = {"Every", "How", "The", "What", "Whether"}


def public_names():
    """Return `(name, object)` of everything that the packages export."""
    found = []
    for package in PACKAGES:
        module = importlib.import_module(package)
        for name in module.__all__:
            found.append(pytest.param(getattr(module, name), id=f"{package}.{name}"))
    return found


def examples_in(text):
    """Return the fenced blocks of a text that are sessions of Python, `>>>` and output."""
    return [block for block in BLOCK.findall(text) if ">>> " in block]


def run_example(block, name):
    """Run a session, and return what differs from the output that it shows."""
    # In an empty namespace: an example imports all that it uses.
    example = doctest.DocTestParser().get_doctest(block, {}, name, name, 0)
    differences = []
    # "..." stands for what differs from run to run, as the seconds that a training took.
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS, verbose=False)
    runner.run(example, out=differences.append)
    return "".join(differences)


@pytest.fixture(scope="module")
def demo(tmp_path_factory, miniature):
    """Return a folder with an untrained outputs/miniature, in the layout that `make demo` gives it."""
    folder = tmp_path_factory.mktemp("demo")
    outputs = folder / "outputs/miniature"
    shutil.copytree(miniature, outputs)
    shutil.copytree(miniature / "clip", outputs / "teacher")
    shutil.copytree(ROOT / "tests/fixtures/v0.1.0/results", outputs / "results")

    torch.manual_seed(0)
    AltCLIPModel.from_teacher(str(outputs / "clip"), str(outputs / "text_encoder")).save_pretrained(
        outputs / "altclip"
    )
    image_processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    tokenizer = AutoTokenizer.from_pretrained(outputs / "text_encoder")
    AltCLIPProcessor(image_processor, tokenizer).save_pretrained(outputs / "altclip")
    Image.new("RGB", (60, 40), "red").save(outputs / "altclip/example.png")
    return folder


@pytest.mark.parametrize("item", public_names())
def test_a_public_name_is_documented(item):
    summary = inspect.getdoc(item).splitlines()[0]
    first = summary.split()[0]
    if inspect.isclass(item):
        assert first not in NO_NOUNS
    else:
        assert first.istitle()
        assert first.isalpha()
        assert first not in NO_VERBS
    assert summary.endswith((".", ":")), f"the summary is longer than a line: {summary}"


@pytest.mark.parametrize("item", public_names())
def test_the_example_of_a_public_name(item, demo, monkeypatch):
    blocks = examples_in(item.__doc__)
    assert len(blocks) == 1
    if not inspect.isclass(item):
        assert f"{item.__name__}(" in blocks[0]
    monkeypatch.chdir(demo)
    assert run_example(blocks[0], item.__name__) == ""


def test_an_example_shows_real_output():
    differences = run_example(">>> sum([1, 2])\n4\n>>> missing\n", "sum")
    assert "Expected:\n    4\nGot:\n    3" in differences
    assert "NameError" in differences


def test_training_in_python(demo, monkeypatch):
    """The session in docs/training.md: a dataset, arguments and a trainer, ten statements in all."""
    (block,) = examples_in((ROOT / "docs/training.md").read_text("utf-8"))
    statements = doctest.DocTestParser().get_examples(block)
    assert len([statement for statement in statements if "import" not in statement.source]) <= 10
    monkeypatch.chdir(demo)
    assert run_example(block, "docs/training.md") == ""
    trained = AltCLIPModel.from_pretrained(demo / "outputs/trained_in_python").state_dict()
    before = AltCLIPModel.from_pretrained(demo / "outputs/miniature/altclip").state_dict()
    moved = {name.split(".")[0] for name, value in trained.items() if not torch.equal(value, before[name])}
    # What stage 2 trains by default.
    assert moved == {"text_model", "text_projection", "logit_scale"}


def test_the_api_page_lists_every_package():
    page = (ROOT / "docs/api.md").read_text("utf-8")
    for package in PACKAGES:
        assert f"::: {package}\n    options:\n      members: true\n" in page
