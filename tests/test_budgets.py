"""A budget of rows is shared among languages, and taken from the Hub without a download of the rest."""

import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from datasets import Dataset, IterableDataset

from common.errors import InputError
from training import load_parallel_text, load_source
from training.data import budgets
from training.data.budgets import Budget, count_rows, share_budget, take_budget, take_from_files
from training.data.captions import features_of
from training.data.sources import reading

from .fake_hub import FakeHub

CCMATRIX = load_source("ccmatrix")
CODES = {"de": "en-de", "fr": "en-fr"}
READ = """
import json
from datasets import disable_progress_bars
from common.errors import InputError
from training import load_parallel_text

disable_progress_bars()
found = {}
for name in ("ccmatrix", "again", "unnamed", "uncounted"):
    try:
        rows, _ = load_parallel_text(name + ".yaml", "train", languages=["de", "fr"])
        found[name] = [caption["en"][0][:10].strip() for caption in rows["captions"][:]]
    except InputError as error:
        found[name] = str(error)
print(json.dumps(found))
"""


def write_corpus(folder, n_rows: dict[str, list[int]], length: int = 0, *, states_numbers: bool = True):
    """Write a corpus in the layout of CCMatrix; its card may state the numbers of rows.

    Args:
        n_rows: of each file by language.
        length: bytes that are added to each text, and that cannot be compressed.
    """
    random = np.random.default_rng(0)
    configs, infos = [], []
    for language, sizes in n_rows.items():
        config = CODES[language]
        (folder / config).mkdir(parents=True)
        for number, size in enumerate(sizes):
            noise = [random.bytes(length // 2).hex() for _ in range(size)]
            texts = [f"{language} {number} {row:<6}{noise[row]}" for row in range(size)]
            table = pa.table({"english": texts, "non_english": texts})
            # A row group is the least that is read of a file.
            path = folder / config / f"train-{number:05d}-of-{len(sizes):05d}.parquet"
            pq.write_table(table, path, row_group_size=500)
        files = [{"split": "train", "path": f"{config}/train-*"}]
        configs.append({"config_name": config, "data_files": files})
        columns = [{"name": name, "dtype": "string"} for name in ("english", "non_english")]
        split = {"name": "train", "num_bytes": 0, "num_examples": sum(sizes)}
        infos.append({"config_name": config, "features": columns, "splits": [split]})
    card = {"configs": configs}
    if states_numbers:
        card["dataset_info"] = infos
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump(card)}---\n")


def own_source(dataset) -> dict:
    """Return a source of a user's own in the layout of CCMatrix."""
    columns = {"english": "english", "translation": "non_english"}
    own = {"layout": "pairs", "dataset": str(dataset), "splits": {"train": "train"}, "configs": CODES}
    return own | {"columns": columns, "kind": "mined"}


@pytest.mark.slow
def test_a_budget_is_taken_from_the_hub_without_the_rest(tmp_path, run_python):
    # Four files of about 26 MB. A client reads at least 5 MB of a file that it opens.
    write_corpus(tmp_path / "counted", {"de": [8000, 8000, 8000], "fr": [8000]}, length=3000)
    write_corpus(tmp_path / "uncounted", {"de": [9], "fr": [9]}, states_numbers=False)
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(own_source("me/uncounted")))
    listed = {
        "ccmatrix": {"data": "ccmatrix", "rows": 2000, "temperature": "inf"},
        "again": {"data": "ccmatrix", "rows": 2000, "temperature": "inf"},
        "unnamed": {"data": "me/uncounted", "name": "en-de", "rows": 10},
        "uncounted": {"data": "own.yaml", "rows": 10},
    }
    for name, source in listed.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump([source]))
    folders = {CCMATRIX.dataset: tmp_path / "counted", "me/uncounted": tmp_path / "uncounted"}
    hub = FakeHub(folders, {CCMATRIX.dataset: CCMATRIX.revision})
    process = run_python("python", "-c", READ, cwd=tmp_path, **hub.variables(tmp_path))
    hub.shutdown()
    assert process.returncode == 0, process.stderr
    found = json.loads(process.stdout)

    # A thousand rows of the first of three files, and of the only one. They are sent once.
    expected = [f"{language} 0 {row}" for language in CODES for row in range(1000)]
    assert found["ccmatrix"] == found["again"] == expected
    asked = {request.rpartition("/")[2] for request in hub.requests if "en-de/" in request}
    assert asked == {"train-00000-of-00003.parquet", "train-00000-of-00001.parquet"}
    n_bytes = sum(path.stat().st_size for path in tmp_path.rglob("counted/*/*.parquet"))
    assert hub.n_bytes < n_bytes / 5

    assert "'me/uncounted' has no texts: name its columns by language codes" in found["unnamed"]
    assert found["uncounted"].startswith("source 'own': the card of me/uncounted does not state how many")


@pytest.fixture
def as_if_remote(tmp_path, monkeypatch):
    """Return a function that writes a corpus, whose folder is then read as if it were on the Hub."""
    monkeypatch.setattr(reading, "is_remote", lambda dataset: True)
    monkeypatch.setattr(budgets, "LEAST_ROWS", 4)

    def write(n_rows, *, states_numbers=True, **listed):
        write_corpus(tmp_path / "corpus", n_rows, states_numbers=states_numbers)
        # The card of a folder is not read where its files are named.
        card = {"path": str(tmp_path / "corpus")}
        monkeypatch.setattr(
            reading,
            "count_rows",
            lambda dataset, split, name, **_: count_rows(dataset, split, **card, name=name),
        )
        (tmp_path / "own.yaml").write_text(yaml.safe_dump(own_source("corpus")))
        (tmp_path / "list.yaml").write_text(yaml.safe_dump([{"data": "own.yaml", **listed}]))
        return str(tmp_path / "list.yaml")

    return write


FRENCH = [f"fr 0 {number}" for number in range(10)]


def english(rows) -> list[str]:
    return [caption["en"][0].strip() for caption in rows["captions"][:]]


@pytest.mark.parametrize(
    "listed,expected",
    [
        # 4 of 30 rows, in proportion.
        ({"rows": 4}, ["de 0 0", "de 0 1", "de 0 2", "fr 0 0"]),
        # Equally many.
        ({"rows": 4, "temperature": "inf"}, ["de 0 0", "de 0 1", "fr 0 0", "fr 0 1"]),
        # French has ten, so that German gives the rest, of two files.
        (
            {"rows": 24, "temperature": 1e6},
            [*(f"de 0 {n}" for n in range(7)), *(f"de 1 {n}" for n in range(7)), *FRENCH],
        ),
        # A tiny share may be none.
        ({"rows": 1}, ["de 0 0"]),
    ],
)
def test_a_budget_is_shared_among_the_languages_of_a_corpus(listed, expected, as_if_remote):
    path = as_if_remote({"de": [12, 8], "fr": [10]}, **listed)
    rows, _ = load_parallel_text(path, "train", languages=["de", "fr"])
    assert english(rows) == expected
    assert list(rows.features["captions"]) == ["en", "de", "fr"]


def test_numbers_of_rows_are_needed_only_to_share_by_them(as_if_remote):
    path = as_if_remote({"de": [3], "fr": [9]}, states_numbers=False, rows=8, temperature="inf")
    # German has no more than three, which no card has told.
    rows, _ = load_parallel_text(path, "train", languages=["de", "fr"])
    assert english(rows) == [f"de 0 {n}" for n in range(3)] + [f"fr 0 {n}" for n in range(4)]


def test_one_language_needs_no_numbers_of_rows(as_if_remote):
    path = as_if_remote({"de": [3], "fr": [9]}, states_numbers=False, rows=2)
    assert len(load_parallel_text(path, "train", languages=["fr"])[0]) == 2
    with pytest.raises(InputError, match="does not state how many rows en-de has.*add `temperature: inf`"):
        load_parallel_text(path, "train", languages=["de", "fr"])


@pytest.mark.parametrize(
    "sizes,n_rows,expected",
    [
        # Four of each of two files, at equal distances.
        ([9, 9, 9, 9], 8, {0: 4, 2: 4}),
        # Fewer than four are of one file.
        ([9, 9, 9], 2, {0: 2}),
        # What a short file lacks is taken from the next ones, and behind what was taken.
        ([9, 1, 9], 12, {0: 7, 1: 1, 2: 4}),
        # A file that was passed over is read where the others have ended.
        ([2, 1, 2], 8, {0: 2, 1: 1, 2: 2}),
        ([2, 2], 9, {0: 2, 1: 2}),
        ([0, 0], 9, {}),
    ],
)
def test_rows_are_taken_from_the_beginnings_of_files(sizes, n_rows, expected, monkeypatch):
    monkeypatch.setattr(budgets, "LEAST_ROWS", 4)

    def read(file, size):
        yield from ({"file": file, "row": row} for row in range(size))

    files = [
        IterableDataset.from_generator(read, gen_kwargs={"file": number, "size": size})
        for number, size in enumerate(sizes)
    ]
    found = {}
    for row in take_from_files(files, n_rows):
        found.setdefault(row["file"], []).append(row["row"])
    assert {number: len(rows) for number, rows in found.items()} == expected
    for rows in found.values():
        assert rows == list(range(len(rows)))


@pytest.mark.parametrize(
    "n_rows,temperature,sizes,expected",
    [
        (100, 1, [10, 990], [1, 99]),
        (100, 2, [100, 900], [25, 75]),
        (100, math.inf, [10, 990], [10, 90]),
        # Two are too small, one after the other.
        (90, math.inf, [10, 35, 500], [10, 35, 45]),
        (5000, 2, [10, 990], [10, 990]),
        (3, math.inf, [0, 9], [0, 3]),
        (3, 1, [0, 0], [0, 0]),
    ],
)
def test_shares_of_a_budget(n_rows, temperature, sizes, expected):
    assert share_budget(Budget(n_rows, temperature), sizes) == expected


@pytest.mark.parametrize(
    "budget,expected",
    [
        (Budget(), list(range(10))),
        (Budget(20, 3), list(range(10))),
        (Budget(4), [0, 2, 5, 7]),
        # German is in the rows 0 to 6, of which every second is taken; French in 7 and 8; 9 has no other.
        (Budget(6, math.inf), [0, 2, 4, 7, 8, 9]),
    ],
)
def test_a_budget_of_rows_at_hand(budget, expected):
    captions = []
    for number in range(10):
        texts = {"en": [str(number)], "de": [], "fr": []}
        language = "de" if number < 7 else "fr"
        if number < 9:
            texts[language] = ["x"]
        if number == 0:
            texts["fr"] = ["a second language"]
        captions.append(texts)
    rows = Dataset.from_dict({"captions": captions}, features_of(["en", "de", "fr"]))
    assert [int(text) for text in english(take_budget(rows, budget))] == expected


@pytest.mark.parametrize(
    "listed,message",
    [
        ({"rows": 5, "temperature": 0.5}, "temperature of 'ccmatrix' in .* is 0.5: give a number from 1, or"),
        ({"rows": 5, "temperature": "hot"}, "temperature of 'ccmatrix' in .* is 'hot'"),
        ({"rows": 5, "temperature": True}, "temperature of 'ccmatrix' in .* is True"),
        ({"temperature": 2}, "temperature of 'ccmatrix' in .* shares a budget .*: give `rows` too"),
    ],
)
def test_a_wrong_temperature_is_one_line(listed, message, tmp_path):
    path = tmp_path / "list.yaml"
    path.write_text(yaml.safe_dump([{"data": "ccmatrix", **listed}]))
    with pytest.raises(InputError, match=message) as caught:
        load_parallel_text(str(path), "train", languages=["de"])
    assert "\n" not in str(caught.value)
