"""The layout of the packages: who may import whom, and rules that keep the code readable (CONTRIBUTING.md).

A file is as long as its subject.
"""

import ast
import re
from graphlib import TopologicalSorter

import pytest

from .conftest import ROOT

# Package -> our packages that it may import.
MAY_IMPORT = {
    "modeling_altclip": set(),
    "common": {"modeling_altclip"},
    "benchmarks": {"modeling_altclip", "common"},
    "model_cards": {"benchmarks", "common", "modeling_altclip"},
    "training": {"modeling_altclip", "common", "benchmarks", "model_cards"},
    "deploy": {"modeling_altclip", "common", "benchmarks", "model_cards"},
    "altclip": {"modeling_altclip", "common", "benchmarks", "model_cards", "training", "deploy"},
}
# Launched by path, a script's own folder comes first on the import path: such a file would hide the library.
SHADOWING = {"datasets", "evaluate", "tokenizers", "accelerate", "transformers", "types", "logging", "torch"}
SOURCES = sorted(path for package in MAY_IMPORT for path in (ROOT / package).rglob("*.py"))


def imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        # Relative imports stay within a package.
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_source(path):
    package, tree = path.relative_to(ROOT).parts[0], ast.parse(path.read_text("utf-8"))
    for name in imports(tree):
        top = name.split(".")[0]
        assert top not in MAY_IMPORT or top == package or top in MAY_IMPORT[package], (
            f"imports {name}, which is not below {package}"
        )
        assert not name.split(".")[-1].startswith("run_"), f"imports a script, {name}"
    assert path.stem not in SHADOWING
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            assert lines_of_code(node) < 60, f"{node.name} does not fit a screen"


def lines_of_code(function):
    """Count the lines of a function below its docstring, which may have an example."""
    first = function.body[0]
    is_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    start = first.end_lineno if is_docstring else function.lineno
    return function.end_lineno - start


def test_there_are_sources():
    assert len(SOURCES) > 20


def modules_imported_by(path, known):
    """Yield the modules of ours that a file imports anywhere, in a function or for type checking too."""
    package = list(path.relative_to(ROOT).parent.parts)
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(node, ast.ImportFrom):
            continue
        # `from ..results import Result` in benchmarks/report/page.py -> benchmarks.results
        base = package[: len(package) - node.level + 1] if node.level else []
        module = ".".join([*base, *([node.module] if node.module else [])])
        for name in node.names:
            # `from . import layouts` names a module, `from .layouts import read_layout` a function.
            submodule = f"{module}.{name.name}"
            yield submodule if submodule in known else module


def test_no_circle_of_imports():
    modules = {}
    for path in SOURCES:
        parts = path.relative_to(ROOT).with_suffix("").parts
        modules[".".join(parts).removesuffix(".__init__")] = path
    imported = {}
    for name, path in modules.items():
        imported[name] = set(modules_imported_by(path, modules)) & set(modules) - {name}
    order = list(TopologicalSorter(imported).static_order())  # raises CycleError, which names the circle
    assert set(order) == set(modules)
    assert order.index("common.recipe") < order.index("training.trainers")


COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def below(node, kinds):
    return [child for child in ast.walk(node) if child is not node and isinstance(child, kinds)]


def hard_to_read(tree):
    """Yield the line and the name of what a reader would have to solve."""
    for node in ast.walk(tree):
        if isinstance(node, COMPREHENSIONS) and below(node, COMPREHENSIONS):
            yield node.lineno, "a comprehension inside a comprehension"
        if isinstance(node, ast.IfExp) and below(node, ast.IfExp):
            yield node.lineno, "a conditional expression inside another"
        if isinstance(node, ast.FormattedValue) and below(node, ast.IfExp):
            yield node.lineno, "a conditional expression inside an f-string"
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple):
            for target in node.targets:
                if isinstance(target, ast.Tuple) and len(target.elts) > 2:
                    yield node.lineno, "an assignment of three values"


def test_nothing_has_to_be_solved():
    found = []
    for folder in [*MAY_IMPORT, "examples", "tests"]:
        for path in sorted((ROOT / folder).rglob("*.py")):
            for line, what in hard_to_read(ast.parse(path.read_text("utf-8"))):
                found.append(f"{path.relative_to(ROOT)}:{line}: {what}")
    assert not found


@pytest.mark.parametrize(
    "code",
    [
        "[[b for b in a] for a in c]",
        "sum(x for x in [y for y in z])",
        "a if b else c if d else e",
        "f'{a if b else c}'",
        "a, b, c = 1, 2, 3",
    ],
)
def test_what_has_to_be_solved_is_found(code):
    assert list(hard_to_read(ast.parse(code)))


# Files that write by other means than `common.files.whole_files`, and why.
WRITES_ITSELF = {
    "common/files/whole_files.py",
    "modeling_altclip/checksums_altclip.py",  # its package imports none of ours
    "modeling_altclip/processing_altclip.py",
    "modeling_altclip/tokenizer_files_altclip.py",
    "benchmarks/speed/side_by_side.py",  # logs of processes, which end with them
    "benchmarks/speed/worker.py",  # a file of Linux, which is no file on a disk
    "training/photographs/unpack.py",  # thousands of files, of which a record is written at the end
    "training/miniature/build_asset.py",  # maintainers run it alone, without our packages
}


def writes_of(tree):
    """Yield the line of each call that overwrites a file in place, where a kill would leave half of it."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        modes = [word.value for word in below(node, ast.Constant) if word.value in ("w", "wb")]
        in_place = name.endswith((".write_text", ".write_bytes")) or (name.split(".")[-1] == "open" and modes)
        by_path = name.endswith(".savefig") and ast.unparse(node.args[0]) != "file"
        if in_place or by_path:
            yield node.lineno


def test_files_are_written_whole():
    found = {}
    for path in SOURCES:
        if lines := list(writes_of(ast.parse(path.read_text("utf-8")))):
            found[path.relative_to(ROOT).as_posix()] = lines
    assert set(found) == WRITES_ITSELF, found


# Used by their own module alone, and public all the same.
PUBLIC = {
    "RetrievalBenchmark",  # what a job makes
    "ZeroShotBenchmark",
    "images_of_zip",  # `datasets` names its cache by it
    "ImageTextRetrieval",  # `evaluate.load` finds the class itself
    "MultilabelPrecision",
}


def names_defined_in(tree):
    """Yield the names that the top of a module defines."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    yield target.id


def test_names_that_one_module_uses_are_private():
    words = {}
    for path in [*ROOT.rglob("*.py"), *ROOT.rglob("*.md")]:
        # `make bench-peers` and other commands have environments of their own, .venv-bench and the like.
        top = path.relative_to(ROOT).parts[0]
        if top != "outputs" and not top.startswith(".venv"):
            words[path] = set(re.findall(r"\w+", path.read_text("utf-8")))
    found = []
    for path in SOURCES:
        for name in names_defined_in(ast.parse(path.read_text("utf-8"))):
            is_private = name.startswith("_") or name in PUBLIC or name == "main"
            if not is_private and not any(name in others for file, others in words.items() if file != path):
                found.append(f"{path.relative_to(ROOT)}: {name}")
    assert not found
