"""Let coverage lead what the checks of test_fuzz.py are given: `make fuzz`.

python -m tests.fuzz.run_atheris recipe names --n_runs 5000

Hypothesis draws examples blindly. Atheris, which is libFuzzer for Python, keeps the inputs that reach a new
line of our packages and changes them further; `fuzz_one_input` makes an example of its bytes. Each check runs
in a process of its own, since libFuzzer ends the process. It writes the input that fails into the output
folder.
"""

import argparse
import multiprocessing
import sys
import tempfile
from pathlib import Path
from time import monotonic

import atheris

ROOT = Path(__file__).parent.parent.parent
# Instrumented are our packages, not the libraries that they call.
PACKAGES = ["benchmarks", "common", "modeling_altclip", "training"]
SECONDS = 10  # that one input may take
MEGABYTES = 2048  # that the process may take
SPAWN = multiprocessing.get_context("spawn")


def run_check(name: str, n_runs: int, output_dir: str) -> None:
    """Give one of the checks `n_runs` inputs; never return."""
    with atheris.instrument_imports(include=PACKAGES):
        from .test_fuzz import check_of  # our packages are imported here, for the first time

    flags = [f"-runs={n_runs}", f"-timeout={SECONDS}", f"-rss_limit_mb={MEGABYTES}"]
    # Long inputs from the start: few bytes make no example.
    flags += ["-seed=16", "-max_len=4096", "-len_control=0", f"-artifact_prefix={output_dir}/{name}-"]
    with tempfile.TemporaryDirectory() as folder:
        atheris.Setup([name, *flags], check_of(name, Path(folder)).hypothesis.fuzz_one_input)
        atheris.Fuzz()


def main(arguments: argparse.Namespace) -> None:
    Path(arguments.output_dir).mkdir(parents=True, exist_ok=True)
    failed = []
    for name in arguments.checks or read_names():
        start = monotonic()
        process = SPAWN.Process(target=run_check, args=(name, arguments.n_runs, arguments.output_dir))
        process.start()
        process.join()
        print(f"{name}: {monotonic() - start:.0f} s, exit code {process.exitcode}", flush=True)
        if process.exitcode:
            failed.append(name)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; their inputs are in {arguments.output_dir}")


def read_names() -> list[str]:
    from .test_fuzz import CHECKS

    return list(CHECKS)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checks", nargs="*", help="names of checks in test_fuzz.py; all by default")
    parser.add_argument("--n_runs", type=int, default=5000, help="inputs of each check")
    parser.add_argument("--output_dir", default="outputs/fuzz", help="where inputs that fail are written")
    main(parser.parse_args())
