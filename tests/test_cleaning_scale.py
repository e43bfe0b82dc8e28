"""Cleaning of a million made-up rows: speed, memory, and equal bytes for any processes and after kills."""

import os
import signal
import sys
import time

import psutil
import pyarrow.parquet as pq
import pytest

from .cleaning_at_scale import cleaning, write_rows
from .processes import TIMEOUT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="memory is read from Linux's /proc"),
]
MOST_MEMORY = 1500  # MB of one process, with 450 of libraries


def kill_when(run, folder, pattern, n_files):
    """Kill the script when it has written so many files, and see all its processes end."""
    while len(list((folder / ".cleaning").glob(pattern))) < n_files:
        assert run.process.poll() is None, run.log.read_text("utf-8")[-2000:]
        time.sleep(0.05)
    family = run.family()
    os.kill(run.process.pid, signal.SIGKILL)
    run.process.wait()
    _, alive = psutil.wait_procs(family, timeout=60)
    assert alive == []


def bytes_in(folder):
    return {
        path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


@pytest.mark.parametrize("n_rows", [60_000, 1_000_000])
def test_a_million_rows(tmp_path, n_rows):
    rows = tmp_path / "rows.parquet"
    n_expected = write_rows(rows, n_rows)
    expected = None
    for processes in (1, 2, 4):
        folder = tmp_path / f"by_{processes}"
        run = cleaning(rows, folder, processes).finish(TIMEOUT)
        # Shown by pytest -s
        sys.stdout.write(f"{processes} processes: {n_rows / run.seconds:.0f} rows a second, {run}\n")
        assert run.peak_of_one < MOST_MEMORY
        expected = expected or bytes_in(folder)
        assert bytes_in(folder) == expected
    n_kept = sum(pq.ParquetFile(path).metadata.num_rows for path in folder.glob("data/*/*.parquet"))
    # Of pairs that are 0.8 alike 3 % are missed; of these, nearly all are more alike.
    assert n_expected <= n_kept <= 1.0001 * n_expected

    killed = tmp_path / "killed"
    kill_when(cleaning(rows, killed, 2), killed, "checked/*.json", 2)
    kill_when(cleaning(rows, killed, 4), killed, "tallies/*.json", 1)
    cleaning(rows, killed, 1).finish(TIMEOUT)
    assert bytes_in(killed) == expected
