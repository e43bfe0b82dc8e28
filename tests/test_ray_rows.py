"""The steps on single rows for Ray Data decide as `run_clean.py` does."""

import csv
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.errors import InputError
from training.cleaning.arguments import CleaningArguments
from training.cleaning.ray_rows import CleanRows, count_outcomes, kept_rows
from training.jobs import clean

LANGUAGES = ["en", "fr", "zh"]


def write_corpus(path, n_rows=90):
    """Write numbers as texts, of which every fifth row has a flaw of another kind, and a column of none."""
    flaws = ["<b>", "%s", "\u200b", "www.x.org", "&amp;"]
    rows = []
    for number in range(n_rows):
        row = {"en": f"dogs at {number}", "fr": f"chiens par {number}", "zh": f"狗 {number}", "url": "a b"}
        language = LANGUAGES[number % 3]
        if number % 5 == 4:
            row[language] += f" {flaws[number // 5 % 5]}"
        if number % 7 == 6:
            row[language] = None
        rows.append(row)
    table = pa.Table.from_pylist(rows)
    pq.write_table(table, path)
    return table


@pytest.fixture
def cleaned(tmp_path):
    """A table, and the rows and counts that `run_clean.py` makes of it."""
    path = tmp_path / "corpus.parquet"
    table = write_corpus(path)
    settings = {"dataset": str(path), "near_duplicates": 0.0}
    out = tmp_path / "out"
    clean.main(CleaningArguments(output_dir=str(out), **settings))
    rows = []
    for row in pq.read_table(out / "data")["captions"].to_pylist():
        rows.append({language: next(iter(texts), None) for language, texts in row.items()})
    counts = Counter()
    with open(out / "counts.csv", newline="") as file:
        for row in csv.DictReader(file):
            counts[row["language"], row["outcome"]] = int(row["texts"])
    return table, rows, counts


def added_up(rows):
    return Counter({(row["language"], row["outcome"]): row["texts"] for row in rows})


def test_batches_are_cleaned_as_by_the_script(cleaned):
    table, rows, counts = cleaned
    callable_rows = CleanRows(CleaningArguments("", ""), LANGUAGES)
    found, found_counts = [], Counter()
    for batch in table.to_batches(max_chunksize=40):
        result = callable_rows(pa.Table.from_batches([batch]))
        assert len(result) == len(batch)
        found += kept_rows(result).to_pylist()
        found_counts += added_up(count_outcomes(result).to_pylist())
    assert {row.pop("url") for row in found} == {"a b"}
    assert found == rows
    assert found_counts == counts
    assert {"mark-up", "placeholder", "address", "no English"} <= {outcome for _, outcome in counts}


def test_a_batch_without_a_row(cleaned):
    result = CleanRows(CleaningArguments("", ""), LANGUAGES)(cleaned[0].slice(0, 0))
    assert kept_rows(result).schema == cleaned[0].schema
    assert len(count_outcomes(result)) == 0


def test_what_cannot_be_cleaned_is_refused_at_once():
    with pytest.raises(InputError, match="there is no file"):
        CleanRows(CleaningArguments("", "", filter="nowhere.py:f"), LANGUAGES)


@pytest.mark.slow
def test_a_local_cluster_of_ray_keeps_the_same_rows(cleaned, tmp_path):
    ray = pytest.importorskip("ray", reason="needs the extra ray")
    _, rows, counts = cleaned
    arrow = {"batch_format": "pyarrow"}
    ray.init(num_cpus=4, include_dashboard=False, object_store_memory=80_000_000)
    try:
        read = ray.data.read_parquet(str(tmp_path / "corpus.parquet")).repartition(4)
        arguments = CleaningArguments("", "")
        result = read.map_batches(
            CleanRows, fn_constructor_args=[arguments, LANGUAGES], concurrency=2, **arrow
        ).materialize()
        found = result.map_batches(kept_rows, **arrow).take_all()
        grouped = result.map_batches(count_outcomes, **arrow).groupby(["language", "outcome"]).sum("texts")
        totals = grouped.take_all()
    finally:
        ray.shutdown()
    assert {row.pop("url") for row in found} == {"a b"}
    assert sorted(found, key=str) == sorted(rows, key=str)
    assert Counter({(row["language"], row["outcome"]): row["sum(texts)"] for row in totals}) == counts
