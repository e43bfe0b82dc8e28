"""Change one place of the code at a time, and see whether its tests fail: `make mutants`.

python tests/mutants/run_mutants.py --n_mutants 400 --output_dir outputs/mutants

Cosmic Ray makes the mutants; a seeded sample of them is tested. Its own runner starts a new interpreter for
each, which takes longer to import torch than most tests take to run: here all are forked from one process
that has imported the libraries, but none of our packages. Mutants are written into a copy of the repository.
"""

import argparse
import ast
import difflib
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from queue import Queue

import pytest
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names
from pandas import DataFrame

ROOT = Path(__file__).parent.parent.parent
# Module -> pytest's arguments: the tests that are meant to find its faults, the fastest first, less those
# that train or measure memory for seconds and find none that the others miss.
TESTS = {
    "training/losses.py": ["tests/test_losses.py", "tests/test_loss_parity.py"],
    "training/gradient_cache.py": ["tests/test_loss_parity.py"],
    "training/checkpoints.py": ["tests/test_resuming.py"],
    "modeling_altclip/checksums_altclip.py": ["tests/test_checksum_files.py", "tests/test_pushing.py"],
    "common/arrow_parts.py": ["tests/test_embedding_cache.py"],
    "training/data/tower_cache.py": [
        "tests/test_tower_cache.py",
        "-k=not stage_1_from_the_cache and not train_like and not a_run_that_goes_on",
    ],
    "common/embedding_cache.py": ["tests/test_embedding_cache.py"],
    "benchmarks/metrics.py": ["tests/test_metrics.py", "-k=not memory"],
}
FORKS = multiprocessing.get_context("forkserver")
LEFT_OUT = shutil.ignore_patterns(".git", ".venv*", "outputs", "dist", "__pycache__", ".*_cache")
# Tests that a mutant leaves waiting for ever are stopped after so many times the usual time, and a minute.
PATIENCE = 3


@dataclass(frozen=True)
class Mutant:
    """A module with one change, and what its tests said: `killed`, `survived` or `timed out`."""

    module: str
    operator: str
    occurrence: int

    @property
    def source(self) -> str:
        return (ROOT / self.module).read_text("utf-8")

    def code(self) -> str:
        return mutate_code(self.source, get_operator(self.operator)(), self.occurrence)

    def diff(self) -> str:
        """Return the change without its surroundings, of which the numbers of the lines tell."""
        lines = difflib.unified_diff(
            self.source.splitlines(), self.code().splitlines(), self.module, self.operator, lineterm="", n=1
        )
        return "\n".join(lines)


def find_mutants(module: str) -> list[Mutant]:
    """Return all mutants of a module.

    Operators that take arguments, which replace a variable by a given value, are left out; so are changes of
    type hints, whose `X | None` nobody computes.
    """
    source = (ROOT / module).read_text("utf-8")
    nodes = list(ast_nodes(get_ast(source)))
    hints = find_type_hints(source)
    mutants = []
    for name in sorted(operator_names()):
        operator_class = get_operator(name)
        if operator_class.arguments():
            continue
        places = chain.from_iterable(map(operator_class().mutation_positions, nodes))
        for occurrence, (start, _) in enumerate(places):
            if not any(first <= start < last for first, last in hints):
                mutants.append(Mutant(module, name, occurrence))
    return mutants


def find_type_hints(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Return where type hints begin and end, each as (line, column)."""
    hints = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.arg | ast.AnnAssign):
            hints.append(node.annotation)
        elif isinstance(node, ast.FunctionDef):
            hints.append(node.returns)
    return [
        ((hint.lineno, hint.col_offset), (hint.end_lineno, hint.end_col_offset))
        for hint in hints
        if hint is not None
    ]


def run_tests(folder: Path, tests: list[str], timeout: float) -> str:
    """Run tests in a copy of the repository; return `killed` if one fails, `survived` or `timed out`."""
    process = FORKS.Process(target=_pytest, args=(folder, tests))
    process.start()
    process.join(timeout)
    if process.exitcode is None:
        os.killpg(process.pid, signal.SIGKILL)  # with the scripts that its tests have started
        process.join()
        return "timed out"
    return "survived" if process.exitcode == 0 else "killed"


def _pytest(folder: Path, tests: list[str]) -> None:
    os.setsid()
    os.chdir(folder)
    os.environ |= {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode = True
    with open(folder / "tests.log", "w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        exit_code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests])
    sys.exit(int(exit_code))


def copy_repository(folder: Path) -> Path:
    return Path(shutil.copytree(ROOT, folder, ignore=LEFT_OUT))


def measure_tests(folder: Path, modules: list[str]) -> dict[str, float]:
    """Return the time limit for each module's tests, in seconds.

    Raises:
        SystemExit: they fail without a mutant.
    """
    limits = {}
    for module in modules:
        start = time.monotonic()
        if run_tests(folder, TESTS[module], timeout=3600) != "survived":
            sys.exit(f"the tests of {module} fail as it is: {(folder / 'tests.log').read_text()[-3000:]}")
        limits[module] = 60 + PATIENCE * (time.monotonic() - start)
        print(f"{module}: tests take {time.monotonic() - start:.0f} s", flush=True)
    return limits


def try_mutant(mutant: Mutant, folders: Queue, limits: dict[str, float]) -> str:
    """Write a mutant into a copy that is free, and run its tests."""
    folder = folders.get()
    path = folder / mutant.module
    try:
        path.write_text(mutant.code(), "utf-8")
        end = run_tests(folder, TESTS[mutant.module], limits[mutant.module])
    finally:
        path.write_text(mutant.source, "utf-8")
        folders.put(folder)
    print(f"{end}: {mutant.module} {mutant.operator} {mutant.occurrence}", flush=True)
    return end


def main(arguments: argparse.Namespace) -> None:
    modules = arguments.modules or list(TESTS)
    everything = [mutant for module in modules for mutant in find_mutants(module)]
    n_mutants = min(arguments.n_mutants, len(everything))
    mutants = random.Random(arguments.seed).sample(everything, n_mutants)
    print(f"{n_mutants} of {len(everything)} mutants", flush=True)

    with tempfile.TemporaryDirectory() as temporary:
        folders = Queue()
        for number in range(arguments.processes):
            folders.put(copy_repository(Path(temporary, str(number))))
        limits = measure_tests(Path(temporary, "0"), sorted({mutant.module for mutant in mutants}))
        with ThreadPoolExecutor(arguments.processes) as pool:
            ends = list(pool.map(lambda mutant: try_mutant(mutant, folders, limits), mutants))

    rows = [{"module": mutant.module, "end": end} for mutant, end in zip(mutants, ends)]
    table = DataFrame(rows).value_counts().unstack(fill_value=0)
    table.loc["all"] = table.sum()
    survivors = [mutant.diff() for mutant, end in zip(mutants, ends) if end == "survived"]
    folder = Path(arguments.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "survivors.diff").write_text("\n\n".join(survivors) + "\n", "utf-8")
    (folder / "table.txt").write_text(table.to_string() + "\n", "utf-8")
    print(f"\n{table.to_string()}\n\nThe diffs of {len(survivors)} survivors are in {folder}/survivors.diff.")


if __name__ == "__main__":
    FORKS.set_forkserver_preload(
        ["torch", "transformers", "datasets", "accelerate", "peft", "matplotlib.pyplot"]
    )
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n_mutants", type=int, default=400)
    parser.add_argument("--seed", type=int, default=16)
    parser.add_argument("--processes", type=int, default=1, help="mutants that are tested at a time")
    parser.add_argument("--modules", nargs="+", choices=list(TESTS), help="all by default")
    parser.add_argument("--output_dir", default="outputs/mutants")
    main(parser.parse_args())
