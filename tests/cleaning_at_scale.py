"""Clean made-up rows as many as you like, mix them, and print speed and memory.

python -m tests.cleaning_at_scale --rows 10000000 --processes 2 --folder outputs/scale

The rows take about 130 bytes of disk each, the cleaning four times as many while it runs. Memory is read from
Linux's /proc: what is no mapped file, over all processes together.
"""

import argparse
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from .conftest import ROOT

ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}
_GROUP = 20_000  # rows that are written at a time
_N_WORDS = 20_000  # of each vocabulary
_ALPHABETS = {"en": "abcdefghijklmnopqrstuvwxyz", "fr": "abcdefghijklmnopqrstuvwxyzéàè"}


def vocabularies():
    """Return made-up words by language: letters of an alphabet, and pairs of Chinese characters."""
    draw = random.Random(1)
    words = {}
    for language, letters in _ALPHABETS.items():
        words[language] = ["".join(draw.choices(letters, k=draw.randint(3, 9))) for _ in range(_N_WORDS)]
    characters = [chr(0x4E00 + number) for number in range(3000)]
    words["zh"] = ["".join(draw.choices(characters, k=2)) for _ in range(_N_WORDS)]
    return words


def write_rows(path, n_rows, language="fr"):
    """Write made-up sentences in English and another language, one column each.

    A fifth repeats any of the rows before, half of these with a change. A twentieth has English in place of
    the translation, and as many have mark-up.

    Returns:
        how many rows a cleaning must keep: the sentences that pass the other steps at least once.
    """
    words = vocabularies()
    space = "" if language == "zh" else " "
    schema = pa.schema([("en", pa.string()), (language, pa.string())])
    is_kept = bytearray(n_rows)
    draw = random.Random(2)
    rows = []
    with pq.ParquetWriter(path, schema) as writer:
        for number in range(n_rows):
            is_repeated = number > 0 and draw.random() < 0.2
            sentence = draw.randrange(number) if is_repeated else number
            # A sentence follows from its number, so that none has to be kept in memory.
            of_sentence = random.Random(sentence)
            places = [of_sentence.randrange(_N_WORDS) for _ in range(of_sentence.randint(6, 15))]
            english = " ".join(words["en"][place] for place in places)
            text = space.join(words[language][place] for place in places)
            if is_repeated and draw.random() < 0.5:
                english += " !"
            flaw = draw.random()
            if flaw < 0.05:
                text = english
            elif flaw < 0.1:
                text = f"<b>{text}</b>"
            else:
                is_kept[sentence] = 1
            rows.append({"en": english, language: text})
            if len(rows) == _GROUP or number == n_rows - 1:
                writer.write_table(pa.Table.from_pylist(rows, schema))
                rows = []
    return sum(is_kept)


class Measured:
    """A command in a process of its own, of which time and memory are measured.

    Args:
        words: what follows `python`.
        log: file of what it prints.

    Attributes:
        seconds: of wall time, once `finish` has returned.
        cpu_seconds: of all processes together.
        peak: the most MB of memory that all processes had together.
        peak_of_one: the most MB that one of them had.
    """

    def __init__(self, words, log):
        self.log = Path(log)
        self._start = time.monotonic()
        self._cpu = {}
        self.peak = self.peak_of_one = 0
        with open(log, "w") as file:
            self.process = subprocess.Popen(
                [sys.executable, *map(str, words)], cwd=ROOT, env=ENVIRONMENT, stdout=file, stderr=file
            )

    def family(self):
        """Return the process and all that it started."""
        try:
            own = psutil.Process(self.process.pid)
            return [own, *own.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def printed(self):
        """Return what it printed, without the bars of progress."""
        lines = self.log.read_text("utf-8").splitlines()
        return [line for line in lines if "it/s]" not in line and "part/s]" not in line]

    def finish(self, timeout=None):
        """Wait for the end, which must be a good one."""
        while self.process.poll() is None and (timeout is None or time.monotonic() - self._start < timeout):
            self._look()
            time.sleep(0.2)
        self.seconds = time.monotonic() - self._start
        self.cpu_seconds = sum(self._cpu.values())
        if self.process.poll() != 0:
            raise AssertionError(self.log.read_text("utf-8")[-2000:])
        return self

    def _look(self):
        """Note the time and the memory of all processes that are there now."""
        memory = [0]
        for process in self.family():
            try:
                times = process.cpu_times()
            except psutil.Error:  # it has ended meanwhile
                continue
            self._cpu[process.pid] = times.user + times.system
            memory.append(anonymous_memory(process.pid))
        self.peak = max(self.peak, sum(memory))
        self.peak_of_one = max(self.peak_of_one, *memory)

    def __str__(self):
        return (
            f"{self.seconds:.0f} s wall, {self.cpu_seconds:.0f} s of processors; memory at most "
            f"{self.peak} MB over all processes, {self.peak_of_one} MB in one"
        )


def anonymous_memory(pid):
    """Return the MB of a process that are no mapped files; of one that has ended 0."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return int(status.partition("RssAnon:")[2].split()[0]) // 1000 if "RssAnon:" in status else 0


def cleaning(dataset, output_dir, processes, *flags):
    """Start `run_clean.py`, measured."""
    words = [ROOT / "training/run_clean.py", "--dataset", dataset, "--output_dir", output_dir]
    return Measured([*words, "--processes", processes, *flags], f"{output_dir}.log")


MIXING = """
import sys
from training import load_parallel_text
from training.data.examples import CaptionExamples
from training.data.sampling import ShareSampler, language_shares
import numpy as np

rows, n_skipped = load_parallel_text(sys.argv[1], split="train")
rows = rows.add_column("target", np.zeros(len(rows), np.int8))
languages = list(rows.features["captions"])
examples = CaptionExamples(rows, languages, "target")
groups, shares = language_shares(examples.places[:, 1], examples.weights, temperature=2)
drawn = np.fromiter(iter(ShareSampler(groups, shares, seed=0)), np.int64)
counts = np.bincount(examples.places[drawn, 1])
drawn = dict(zip(languages, counts.tolist()))
print(f"{len(examples)} examples of {len(rows)} rows; drawn: {drawn}")
"""


def say(*lines):
    """Print lines at once, so that a log shows how far a long run is."""
    sys.stdout.write("\n".join([*lines, ""]))
    sys.stdout.flush()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--folder", type=Path, required=True)
    given, flags = parser.parse_known_args()
    given.folder.mkdir(parents=True)

    start = time.monotonic()
    # Two sources, of which one is drawn twice as often
    n_human = given.rows // 10
    n_kept = write_rows(given.folder / "web.parquet", given.rows - n_human)
    n_kept += write_rows(given.folder / "human.parquet", n_human, "zh")
    say(f"wrote {given.rows} rows in {time.monotonic() - start:.0f} s")
    sources = given.folder / "sources.yaml"
    sources.write_text(
        "- {data: web.parquet, kind: machine}\n- {data: human.parquet, kind: human, weight: 2}\n"
    )

    output_dir = given.folder / "cleaned"
    run = cleaning(sources, output_dir, given.processes, *flags).finish()
    say(*run.printed()[-2:])
    rate = given.rows / run.seconds
    say(f"cleaned by {given.processes} processes: {rate:.0f} rows a second, {run}")
    found = sum(pq.ParquetFile(path).metadata.num_rows for path in output_dir.glob("data/*/*.parquet"))
    say(f"kept {found} rows, expected {n_kept}")

    run = Measured(["-c", MIXING, output_dir / "sources.yaml"], given.folder / "mixed.log").finish()
    say(run.printed()[-1], f"mixed: {run}")


if __name__ == "__main__":
    main()
