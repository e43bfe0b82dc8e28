"""Texts of a corpus are read in slices: their size changes no result, and memory does not hold the texts."""

import io
import math
import sys
from functools import partial
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from datasets.packaged_modules.parquet import parquet as builder

from common.errors import InputError
from common.files.rows import load_rows
from training.data import budgets, examples, parallel_text
from training.data.budgets import Budget, take_budget
from training.data.captions import features_of
from training.data.parallel_text import load_parallel_text, only_captions, open_tables, read_ready
from training.translation import rows as translation_rows
from training.translation.rows import read_split
from training.translation.translating import TranslationArguments

from .cleaning_at_scale import Measured
from .processes import TIMEOUT
from .test_parallel_text import lines

SIZES = [1, 3, 1000]
TEXTS = [
    {"en": "a dog", "de": None, "fr": "un chien"},
    {"en": "", "de": "ein Haus", "fr": None},
    {"en": "a cat", "de": "eine Katze", "fr": None},
    {"en": "a dog", "de": "ein Hund", "fr": "un chien"},
    {"en": None, "de": None, "fr": "une clé"},
    {"en": "a key 🔑", "de": None, "fr": None},
    {"en": "a cat", "de": None, "fr": "un chat"},
]


@pytest.fixture(params=SIZES)
def sized(request, monkeypatch):
    """Read captions in slices of so many rows."""
    slices = partial(examples.caption_slices, n_rows=request.param)
    for module in (budgets, parallel_text, translation_rows):
        monkeypatch.setattr(module, "caption_slices", slices)
    monkeypatch.setattr(parallel_text, "SLICE_ROWS", request.param)
    return request.param


def rows_of(texts, languages=("en", "de", "fr")):
    """Return rows of `captions`, `{language: [text]}`."""
    captions = []
    for row in texts:
        captions.append({name: [row[name]] if row.get(name) is not None else [] for name in languages})
    return Dataset.from_dict({"captions": captions}, features_of(languages))


def english_of(rows):
    return [captions["en"][0] for captions in rows["captions"]]


def test_rows_without_english_are_left_out(sized, tmp_path):
    rows, n_skipped = load_parallel_text(lines(tmp_path / "t.jsonl", TEXTS), "train")
    assert english_of(rows) == ["a dog", "a cat", "a dog", "a key 🔑", "a cat"]
    assert n_skipped == 2


def test_no_english_in_any_slice_is_refused(sized, tmp_path):
    texts = [row | {"en": " "} for row in TEXTS]
    with pytest.raises(InputError, match="has no English text in any row"):
        load_parallel_text(lines(tmp_path / "t.jsonl", texts), "train")


def test_several_texts_in_the_last_row_are_found(sized):
    rows = rows_of(TEXTS).to_list()
    rows[-1]["captions"]["fr"] = ["un chat", "le chat"]
    several = Dataset.from_list(rows, features_of(["en", "de", "fr"]))
    # A column of lists that is not called `captions` is gathered row by row.
    several = several.rename_column("captions", "translation")
    with pytest.raises(InputError, match="'mine' has several texts in fr in a row"):
        only_captions(several, "mine")


def test_a_budget_takes_the_same_rows(sized):
    rows = rows_of([row for row in TEXTS if row["en"]])
    # The first languages beside English are fr, de, de, none and fr: of 4 rows one group gives both.
    taken = take_budget(rows, Budget(4, math.inf))
    assert english_of(taken) == ["a dog", "a cat", "a dog", "a key 🔑"]
    texts = [captions["fr"] for captions in taken["captions"]]
    assert texts == [["un chien"], [], ["un chien"], []]


XLIFF = """<xliff version="1.2"><file source-language="en" target-language="de" original="x"><body>
{units}
</body></file></xliff>"""
UNIT = '<trans-unit id="{0}"><source>text {0}</source><target state="{1}">Text {0}</target></trans-unit>'


def test_entries_that_are_not_ready_are_left_out(sized, tmp_path):
    states = ["new", "translated", "translated", "new", "translated"]
    units = "\n".join(UNIT.format(number, state) for number, state in enumerate(states))
    path = tmp_path / "t.xlf"
    path.write_text(XLIFF.format(units=units))
    rows, skipped = read_ready({"data": str(path)}, "train")
    assert english_of(rows) == ["text 1", "text 2", "text 4"]
    assert skipped.total() == 2


def test_several_captions_are_told_from_one(sized, tmp_path):
    captions = [{"en": ["a dog"]}, {"en": ["a car", "a red car"]}, {"en": ["a key"]}, {"en": ["a cat"]}]
    path = lines(tmp_path / "t.jsonl", [{"captions": row} for row in captions])
    arguments = TranslationArguments(
        dataset=path, splits=["train"], output_dir="out", model_name_or_path="m", target_languages=["de"]
    )
    rows = read_split(arguments, "train")
    assert english_of(rows) == ["a dog", "a car", "a red car", "a key", "a cat"]


class Counted(io.FileIO):
    """A file that notes how many bytes each read of it returns."""

    sizes: ClassVar[list[int]] = []

    def readinto(self, buffer):
        n_bytes = super().readinto(buffer)
        Counted.sizes.append(n_bytes)
        return n_bytes

    def read(self, size=-1):
        content = super().read(size)
        Counted.sizes.append(len(content))
        return content


@pytest.mark.parametrize("form", ["file", "folder"])
def test_parquet_is_not_read_as_a_whole(form, tmp_path, monkeypatch):
    """A file of 200 pieces is read piece by piece (how far ahead depends on the machine)."""
    path = tmp_path / "corpus" / "train.parquet"
    path.parent.mkdir()
    noise = np.random.default_rng(0)
    texts = [noise.bytes(500).hex() for _ in range(2000)]
    pq.write_table(pa.table({"en": texts, "fr": texts}), path, row_group_size=10, write_statistics=False)

    generate = builder.Parquet._generate_tables

    def counted(self, **options):
        # `datasets` replaces the module's `open` whenever it makes a builder.
        monkeypatch.setattr(builder, "open", Counted)
        yield from generate(self, **options)

    monkeypatch.setattr(Counted, "sizes", [])
    monkeypatch.setattr(builder.Parquet, "_generate_tables", counted)
    if form == "file":
        rows = open_tables(str(path), None, "train")
    else:
        rows = load_rows(str(path.parent), "train", [])
    assert rows["fr"][:] == texts
    assert max(Counted.sizes) < 0.05 * path.stat().st_size
    assert sum(Counted.sizes) >= 0.9 * path.stat().st_size


READ = """
import sys
import torch
from common.embedding_cache import cached_column
from training import load_parallel_text
from training.cleaning.plan import begin_or_resume, read_plan
from training.cleaning.arguments import CleaningArguments
from training.data.budgets import Budget, take_budget
from training.data.tower_cache import TextOfRows
from pathlib import Path

path, folder = sys.argv[1:]
plan = read_plan(CleaningArguments(dataset=path, output_dir=folder), Path(folder, ".cleaning"))
begin_or_resume(plan)
rows, _ = load_parallel_text(path, "train")
take_budget(rows, Budget(len(rows) // 2, 2.0))
made = []

def encode(numbers, view):
    made.append(len(numbers))
    return torch.ones(len(numbers), 1)

texts = TextOfRows(rows, "en")
column = cached_column("target", "text", texts, encode, {}, cache_dir=folder, part_length=20_000)
print(len(column), sum(made))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from Linux's /proc")
def test_memory_grows_by_numbers_and_not_by_texts(tmp_path):
    """Texts have 200 bytes a row here; of each row masks, digests and numbers of rows may be kept."""
    peaks = {}
    for n_rows in (200_000, 1_000_000):
        path = tmp_path / f"{n_rows}.parquet"
        noise = np.random.default_rng(0)
        with pq.ParquetWriter(path, pa.schema([("en", pa.string()), ("fr", pa.string())])) as writer:
            for _ in range(0, n_rows, 20_000):
                texts = [noise.bytes(50).hex() for _ in range(20_000)]
                writer.write_table(pa.table({"en": texts, "fr": texts}))
        folder = tmp_path / str(n_rows)
        run = Measured(["-c", READ, path, folder], tmp_path / "log").finish(TIMEOUT)
        assert run.printed()[-1] == f"{n_rows} {n_rows}"
        peaks[n_rows] = run.peak
    growth = (peaks[1_000_000] - peaks[200_000]) * 1e6 / 800_000
    sys.stdout.write(f"MB: {peaks}, bytes a row: {growth:.0f}\n")  # shown by pytest -s
    assert growth < 250
