"""Modules for `evaluate` load by path without a network, and return the numbers of our functions."""

import ast
import os
import subprocess
import sys

import evaluate
import pytest
import torch
from torch.nn.functional import normalize

from benchmarks.metrics import ranks_in_scores, retrieval_ranks
from benchmarks.outcomes import ClassOutcomes, MultilabelOutcomes, RetrievalOutcomes

from .conftest import ROOT

FOLDER = ROOT / "benchmarks/evaluate_modules"
MODULES = sorted(path for path in FOLDER.iterdir() if path.name != "__pycache__")


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """Return a function that loads a module by name.

    Nothing stays in the home folder, and no module of an earlier run is found there.
    """
    folder = tmp_path_factory.mktemp("evaluate")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evaluate.config.HF_MODULES_CACHE", folder / "modules")
        patch.syspath_prepend(str(folder / "modules"))

        def load(name):
            return evaluate.load(str(FOLDER / name), cache_dir=str(folder))

        yield load


def test_retrieval(load):
    torch.manual_seed(0)
    image_embeds = normalize(torch.randn(30, 16), dim=-1)
    # Each image has a text, and 20 texts belong to any images.
    owners = torch.cat([torch.arange(30), torch.randint(30, (20,))])
    # With so much noise some texts find their image, and some do not.
    text_embeds = normalize(image_embeds[owners] + 0.4 * torch.randn(50, 16), dim=-1)
    expected = RetrievalOutcomes(*retrieval_ranks(image_embeds, text_embeds, owners), owners).metrics()
    metric = load("image_text_retrieval")
    assert metric.compute(predictions=text_embeds, references=owners, image_embeds=image_embeds) == expected
    assert 0 < expected["text_to_image_recall@1"] < 1

    for texts, images in zip(text_embeds.split(20), owners.split(20)):
        metric.add_batch(predictions=texts, references=images)
    assert metric.compute(image_embeds=image_embeds.tolist()) == expected


def test_retrieval_with_ties_and_twins(load, monkeypatch):
    """Compare where most embeddings are tied or equal, within a block and across, and where all are equal."""
    torch.manual_seed(1)
    corners = [[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [0.8, 0.6], [-1.0, 0.0], [0.0, -1.0]]
    corners = normalize(torch.tensor(corners), dim=-1)
    owners = torch.cat([torch.arange(40), torch.randint(40, (30,))])
    drawn = [
        (corners[torch.randint(6, (40,))], corners[torch.randint(6, (70,))]),
        (corners[:1].repeat(40, 1), corners[:1].repeat(70, 1)),
    ]
    metric = load("image_text_retrieval")
    # Ten blocks of the 40 images: equal scores lie within one and across several.
    monkeypatch.setattr(sys.modules[type(metric).__module__], "BLOCK_ROWS", 4)
    for image_embeds, text_embeds in drawn:
        expected = RetrievalOutcomes(*retrieval_ranks(image_embeds, text_embeds, owners), owners).metrics()
        found = metric.compute(predictions=text_embeds, references=owners, image_embeds=image_embeds)
        assert found == pytest.approx(expected)
    assert expected["mean_recall"] == 0  # where all are equal: ties are ranked pessimistically


def test_classification(load):
    torch.manual_seed(0)
    scores = torch.randn(60, 9)
    labels = torch.randint(7, (60,))  # two of the nine classes have no image
    scores[torch.arange(60), labels] += 1
    expected = ClassOutcomes(ranks_in_scores(scores, labels), labels, 9).metrics()
    assert load("zero_shot_classification").compute(predictions=scores, references=labels) == expected
    assert 0 < expected["accuracy@1"] < expected["accuracy@5"] < 1
    assert expected["mean_per_class"] != expected["accuracy@1"]


def test_several_labels(load):
    torch.manual_seed(0)
    scores = torch.randn(60, 4)
    targets = torch.rand(60, 4) < 0.3
    expected = MultilabelOutcomes(scores, targets).metrics()
    assert load("multilabel_precision").compute(predictions=scores, references=targets) == expected
    assert 0.2 < expected["map_11_point"] != expected["mean_average_precision"]


@pytest.mark.parametrize("folder", MODULES, ids=lambda folder: folder.name)
def test_a_module_describes_itself_and_its_example_holds(load, folder):
    metric = load(folder.name)
    assert len(metric.description) > 200
    assert "Returns:" in metric.inputs_description
    assert "@" in metric.citation

    example = metric.inputs_description.split(">>> ")[-1]
    call, answer = example.strip().splitlines()
    assert f"benchmarks/evaluate_modules/{folder.name}" in metric.inputs_description
    name = call.split(".")[0]
    assert str(eval(call, {name: metric})) == answer.strip()  # noqa: S307


def test_a_module_needs_no_package_of_ours(tmp_path):
    """Load modules from another folder.

    Did a module import ours, `evaluate` would ask to install `benchmarks`, a package of somebody else.
    """
    script = """
import evaluate, sys
for path in sys.argv[1:]:
    print(evaluate.load(path, cache_dir='.').name)
assert not {'benchmarks', 'modeling_altclip'} & sys.modules.keys()
"""
    environment = dict(os.environ)
    environment.pop("PYTHONPATH", None)
    environment["HF_MODULES_CACHE"] = str(tmp_path / "modules")
    # -P keeps the current folder off sys.path.
    command = [sys.executable, "-P", "-c", script, *map(str, MODULES)]
    process = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert process.stdout.split() == [path.name for path in MODULES]
    for path in MODULES:
        imported = imports_of((path / f"{path.name}.py").read_text("utf-8"))
        assert imported - sys.stdlib_module_names == {"evaluate", "torch", "datasets"}


def imports_of(source):
    """Return the names of all modules that a source imports."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    return names


def test_what_is_wrong_is_named(load):
    retrieval = load("image_text_retrieval")
    classification = load("zero_shot_classification")
    precision = load("multilabel_precision")
    message = "text 1 is said to describe image 5, but the images are the rows 0 to 1"
    with pytest.raises(ValueError, match=message):
        retrieval.compute(predictions=torch.eye(2), references=[0, 5], image_embeds=torch.eye(2))
    with pytest.raises(ValueError, match="a score of item 1 is not finite"):
        classification.compute(predictions=[[0.9, 0.1], [torch.nan, 0.4]], references=[0, 1])
    with pytest.raises(ValueError, match="item 1 has the label 2, but the classes are the rows 0 to 1"):
        classification.compute(predictions=torch.eye(2), references=[0, 2])
    with pytest.raises(ValueError, match="a score of item 1 is not finite"):
        precision.compute(predictions=[[0.9, 0.1], [0.6, torch.nan]], references=[[1, 0], [0, 1]])


def test_there_are_modules():
    assert len(MODULES) == 3
