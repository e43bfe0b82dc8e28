"""The layout of the packages: who may import whom, and names and sizes that keep the code readable.

A file is as long as its subject.
"""

import ast

import pytest

from .conftest import ROOT

MAY_IMPORT = {
    "modeling_altclip": set(),
    "benchmarks": {"modeling_altclip"},
    "model_cards": {"benchmarks", "modeling_altclip"},
    "training": {"modeling_altclip", "benchmarks", "model_cards"},
    "altclip": {"modeling_altclip", "benchmarks", "model_cards", "training"},
}
# Launched by path, a script's own folder comes first on the import path: such a file would hide the library.
SHADOWING = {"datasets", "evaluate", "tokenizers", "accelerate", "transformers", "types", "logging", "torch"}
SOURCES = sorted(path for package in MAY_IMPORT for path in (ROOT / package).rglob("*.py"))


def imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_source(path):
    package, tree = path.relative_to(ROOT).parts[0], ast.parse(path.read_text("utf-8"))
    for name in imports(tree):
        top = name.split(".")[0]
        assert top not in MAY_IMPORT or top == package or top in MAY_IMPORT[package], (
            f"imports {name}: against the floors"
        )
        assert not name.split(".")[-1].startswith("run_"), f"imports a script, {name}"
    assert path.stem not in SHADOWING
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 60, f"{node.name} does not fit a screen"


def test_there_are_sources():
    assert len(SOURCES) > 20
