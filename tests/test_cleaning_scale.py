"""Cleaning of a million made-up rows: speed, memory, and equal bytes for any processes and after kills."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from .conftest import ROOT
from .processes import TIMEOUT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="memory is read from Linux's /proc"),
]
MOST_MEMORY = 1500  # MB of one process, with 450 of libraries


def write_rows(path, n_rows):
    """Write made-up sentences in English and French.

    A fifth repeats one of the last rows, half of these with a change, and a tenth fails other steps.
    """
    draw = random.Random(1)
    english = [
        "".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(3, 9))) for _ in range(20_000)
    ]
    french = [
        "".join(draw.choices("abcdefghijklmnopqrstuvwxyzéàè", k=draw.randint(3, 9))) for _ in range(20_000)
    ]
    schema = pa.schema([("en", pa.string()), ("fr", pa.string())])
    recent, rows = [], []
    with pq.ParquetWriter(path, schema) as writer:
        for number in range(n_rows):
            words = [draw.randrange(20_000) for _ in range(draw.randint(6, 15))]
            row = {
                "en": " ".join(english[word] for word in words),
                "fr": " ".join(french[word] for word in words),
            }
            if recent and draw.random() < 0.2:
                row = dict(draw.choice(recent))
                row["en"] += draw.choice(["", " !"])
            recent.append(row)
            recent = recent[-20_000:] if len(recent) > 40_000 else recent
            flaw = draw.random()
            if flaw < 0.05:
                row = row | {"fr": row["en"]}
            elif flaw < 0.1:
                row = row | {"fr": f"<b>{row['fr']}</b>"}
            rows.append(row)
            if len(rows) == 20_000 or number == n_rows - 1:
                writer.write_table(pa.Table.from_pylist(rows, schema))
                rows = []


class Run:
    """The script in a process of its own, on the rows."""

    def __init__(self, rows, output_dir, processes):
        self.output_dir = output_dir
        words = [ROOT / "training/run_clean.py", "--dataset", rows, "--output_dir", output_dir]
        words += ["--processes", str(processes)]
        self.log = open(f"{output_dir}.log", "w")
        self.process = subprocess.Popen(
            [sys.executable, *words], cwd=ROOT, env=ENVIRONMENT, stdout=self.log, stderr=self.log
        )

    def family(self):
        try:
            own = psutil.Process(self.process.pid)
            return [own, *own.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def finish(self):
        """Wait for the end; return the seconds, and the MB of memory of the largest process."""
        start = time.monotonic()
        peak = 0
        while self.process.poll() is None and time.monotonic() - start < TIMEOUT:
            peak = max(peak, *[anonymous_memory(process.pid) for process in self.family()], 0)
            time.sleep(0.2)
        self.log.close()
        assert self.process.wait(timeout=1) == 0, Path(self.log.name).read_text("utf-8")[-2000:]
        return time.monotonic() - start, peak

    def kill_when(self, pattern, n_files):
        """Kill the script when it has written so many files, and see all its processes end."""
        while len(list((self.output_dir / ".cleaning").glob(pattern))) < n_files:
            assert self.process.poll() is None, Path(self.log.name).read_text("utf-8")[-2000:]
            time.sleep(0.05)
        family = self.family()
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.log.close()
        _, alive = psutil.wait_procs(family, timeout=60)
        assert alive == []


ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}


def anonymous_memory(pid):
    """Return the MB of a process that are no mapped files; of one that has ended 0."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return int(status.partition("RssAnon:")[2].split()[0]) // 1000 if "RssAnon:" in status else 0


def bytes_in(folder):
    return {
        path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


@pytest.mark.parametrize("n_rows", [60_000, 1_000_000])
def test_a_million_rows(tmp_path, n_rows):
    rows = tmp_path / "rows.parquet"
    write_rows(rows, n_rows)
    expected = None
    figures = []
    for processes in (1, 2, 4):
        folder = tmp_path / f"by_{processes}"
        seconds, peak = Run(rows, folder, processes).finish()
        figures.append(f"{processes} processes: {n_rows / seconds:.0f} rows a second, {peak} MB")
        assert peak < MOST_MEMORY
        expected = expected or bytes_in(folder)
        assert bytes_in(folder) == expected

    killed = tmp_path / "killed"
    Run(rows, killed, 2).kill_when("checked/*.json", 2)
    Run(rows, killed, 4).kill_when("tallies/*.json", 1)
    Run(rows, killed, 1).finish()
    assert bytes_in(killed) == expected
    sys.stdout.write("\n".join(figures) + "\n")  # shown by pytest -s
