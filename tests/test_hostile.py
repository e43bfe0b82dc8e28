"""Hostile inputs end in what the table of `make hostile` says, ask no server and change nothing outside."""

import re


def test_every_quick_row_ends_as_expected(run_python, tmp_path):
    process = run_python("python", "-m", "tests.hostile", "--quick", "--output", tmp_path / "hostile.md")
    assert process.returncode == 0, process.stderr[-3000:]
    last = (tmp_path / "hostile.md").read_text("utf-8").splitlines()[-1]
    kinds = re.fullmatch(r"(\d+) kinds. Requests to the server: 0. Canary: unchanged.", last)
    assert int(kinds[1]) > 95
