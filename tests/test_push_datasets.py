"""Data sets on the Hub: caches, embeddings and the miniature, each with a card, read back by strangers."""

import io
import json
import os
import re
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset, load_dataset
from huggingface_hub import DatasetCard, HfApi, snapshot_download
from PIL import Image

from common.embedding_cache import cached_column
from common.errors import InputError
from deploy.embed import EmbedImages
from deploy.pushing.dataset_card import complete_card
from deploy.pushing.job import PushArguments
from deploy.pushing.job import main as push

from .conftest import ROOT
from .processes import TIMEOUT

TINY = str(ROOT / "tests/fixtures/v0.1.0/model")
KEYS = ["a dog", "a cat", "a dog", "一只猫"]
# Reads the rows by the card alone, checks their number by it, and says what it read and what the card says.
READS = """
import json, sys
from datasets import load_dataset, load_dataset_builder
repo, revision, split, column = sys.argv[1:]
info = load_dataset_builder(repo, revision=revision).info
rows = load_dataset(repo, revision=revision, split=split, verification_mode="all_checks")
counts = {name: found.num_examples for name, found in info.splits.items()}
print(json.dumps({"rows": rows[:][column], "features": str(rows.features), "counts": counts}))
"""


@pytest.fixture
def read_back(hub_server, tmp_path):
    """Return a function that reads a data set in another process, by the real client and `datasets`."""

    def read_back(repo, split, column):
        revision = HfApi().dataset_info(repo).sha
        variables = os.environ | hub_server.variables(tmp_path / "home") | {"PYTHONSAFEPATH": "1"}
        command = [sys.executable, "-c", READS, repo, revision, split, column]
        run = subprocess.run(
            command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=TIMEOUT
        )
        assert run.returncode == 0, run.stderr[-3000:]
        return json.loads(run.stdout.splitlines()[-1])

    return read_back


def push_dataset(folder, repo, **given):
    push(PushArguments(folder=str(folder), repo=repo, repo_type="dataset", **given))


def drawn(color):
    file = io.BytesIO()
    Image.new("RGB", (32, 32), color).save(file, format="PNG")
    return file.getvalue()


@pytest.fixture
def embeddings(tmp_path):
    """Write parquet of `id` and `embedding`, as `EmbedImages` makes them, in two files; return the folder."""
    images = [drawn(color) for color in ("red", "green", "blue")]
    table = EmbedImages(TINY)(pa.table({"id": ["a", "b", "c"], "image": images}))
    rows = Dataset(table.select(["id", "embedding"]))
    folder = tmp_path / "my embeddings"
    folder.mkdir()
    for number in range(2):
        rows.shard(2, number).to_parquet(folder / f"{number:05d}.parquet")
    return folder


def test_embeddings(embeddings, read_back, hub_server, capsys):
    push_dataset(embeddings, "me/embeddings", license="cc-by-4.0")
    printed = capsys.readouterr().out
    assert "README.md" in printed
    assert 'Next: datasets.load_dataset("me/embeddings", revision=' in printed
    said = read_back("me/embeddings", "train", "embedding")
    assert said["counts"] == {"train": 3}
    assert "List(Value('float16'), length=8)" in said["features"]
    here = load_dataset(str(embeddings), split="train")
    np.testing.assert_array_equal(said["rows"], here[:]["embedding"])

    metadata = HfApi().dataset_info("me/embeddings").card_data
    assert metadata.license == "cc-by-4.0"
    assert metadata.configs[0]["data_files"] == [{"split": "train", "path": ["*.parquet"]}]
    assert metadata.dataset_info["splits"][0]["num_examples"] == 3
    card = hub_server.repositories["dataset", "me/embeddings"].file("main", "README.md").content.decode()
    assert "# my embeddings\n" in card
    assert "| default       | embedding | List(Value('float16'), length=8) |" in card

    # The same once more is no commit: the card stays as it is, byte for byte.
    push_dataset(embeddings, "me/embeddings")
    assert "Nothing has changed since the last push" in capsys.readouterr().out


def cache_of(folder, encoded=None):
    """Cache `KEYS` below a folder; `encoded` counts the items that were not there."""

    def encode(rows, view):
        if encoded is not None:
            encoded.append(len(rows))
        return torch.tensor([[float(len(KEYS[row])), 1.0] for row in rows])

    return cached_column("target", "text", pa.array(KEYS, pa.large_string()), encode, {}, cache_dir=folder)


def test_a_cache_is_used_where_it_was_fetched(read_back, tmp_path):
    column = cache_of(tmp_path / "here")
    push_dataset(column.folder, "me/cache", license="mit")
    said = read_back("me/cache", "train", "target")
    assert said["rows"] == [[5.0, 1.0], [5.0, 1.0], [3.0, 1.0]]
    assert said["counts"] == {"train": 3}  # distinct items

    folder = tmp_path / "there" / column.folder.name
    snapshot_download("me/cache", repo_type="dataset", local_dir=folder)
    encoded = []
    fetched = cache_of(tmp_path / "there", encoded)
    assert encoded == []
    np.testing.assert_array_equal(fetched[range(4)]["target"], column[range(4)]["target"])
    text = DatasetCard.load(folder / "README.md").text
    assert "Embeddings of 3 distinct items" in text


def test_the_miniature(miniature, read_back):
    push_dataset(miniature / "dataset", "me/scenes")
    said = read_back("me/scenes", "validation", "captions")
    here = load_dataset(str(miniature / "dataset"), split="validation")
    assert said["rows"] == here[:]["captions"]
    assert said["counts"]["train"] == 600
    metadata = HfApi().dataset_info("me/scenes").card_data
    assert "cc-by-sa-4.0" in metadata.license
    names = [split["name"] for split in metadata.dataset_info["splits"]]
    assert set(names) == {files["split"] for files in metadata.configs[0]["data_files"]}


def test_a_dry_run_completes_the_card_and_connects_to_nothing(embeddings, hub_server, capsys):
    push_dataset(embeddings, "me/embeddings", license="mit", dry_run=True)
    assert hub_server.requests == []
    assert "README.md" in capsys.readouterr().out
    assert DatasetCard.load(embeddings / "README.md").data.license == "mit"


def test_configurations_of_a_card_stay(tmp_path, read_back):
    """Each is described; what the author wrote is kept."""
    configurations = []
    for name, rows in (("small", 1), ("large", 2)):
        (tmp_path / "texts" / name).mkdir(parents=True)
        lines = '{"text": "a dog"}\n' * rows
        (tmp_path / "texts" / name / "a.jsonl").write_text(lines)
        configurations.append(f"- config_name: {name}\n  data_files: {name}/a.jsonl\n")
    card = f"---\nlicense: mit\npretty_name: Dogs\nconfigs:\n{''.join(configurations)}---\n# Dogs\n\nTwo.\n"
    (tmp_path / "texts/README.md").write_text(card)
    push_dataset(tmp_path / "texts", "me/texts")
    metadata = HfApi().dataset_info("me/texts").card_data
    counted = {info["config_name"]: info["splits"][0]["num_examples"] for info in metadata.dataset_info}
    assert counted == {"small": 1, "large": 2}
    assert metadata.pretty_name == "Dogs"
    assert (tmp_path / "texts/README.md").read_text().endswith("---\n# Dogs\n\nTwo.\n")


def test_hostile_names_are_text_in_the_card(tmp_path):
    """Of the folder and of columns: the table keeps its cells, and the metadata their lines."""
    hostile = ["a|b", "<script>", "`code`", "x\n---\nlicense: mit", "---", "[x](http://y)"]
    folder = tmp_path / "a|b <script> `c`"
    folder.mkdir()
    pq.write_table(pa.table({name: [1] for name in hostile}), folder / "rows.parquet")
    complete_card(folder, "cc0-1.0")
    card = DatasetCard.load(folder / "README.md")
    assert card.data.license == "cc0-1.0"
    assert [column["name"] for column in card.data.dataset_info["features"]] == hostile
    rows = [line for line in card.text.splitlines() if line.startswith("|")]
    assert len(rows) == 3 + 2 + len(hostile)
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 4 for row in rows)
    assert "<script" not in card.text.replace("\\<", "")
    assert load_dataset(str(folder), split="train").column_names == hostile


@pytest.mark.parametrize(
    "card,given,message",
    [
        (None, {}, "have no license: add --license"),
        ("---\nlicense: mit\n---\n", {"license": "cc0-1.0"}, "license is 'cc0-1.0', and .* states 'mit'"),
        ("---\nlicense: [mit\n---\n", {}, "metadata of .* cannot be read"),
        ("---\nlicense: mit\nconfigs: 3\n---\n", {}, "datasets.load_dataset cannot read folder"),
    ],
)
def test_cards_that_are_refused(embeddings, hub_server, card, given, message):
    if card is not None:
        (embeddings / "README.md").write_text(card)
    with pytest.raises(InputError, match=message):
        push_dataset(embeddings, "me/embeddings", **given)
    assert hub_server.requests == []


def test_files_outside_of_the_folder_are_refused(embeddings, hub_server):
    """A card may come from elsewhere, and what it names is read before it is pushed."""
    (embeddings.parent / "secrets.txt").write_text("secret")
    card = "---\nlicense: mit\nconfigs:\n- {config_name: default, data_files: ../secrets.txt}\n---\n"
    (embeddings / "README.md").write_text(card)
    with pytest.raises(InputError, match=r"names '../secrets.txt', which lies outside of it"):
        push_dataset(embeddings, "me/embeddings")
    assert hub_server.requests == []


def test_files_that_nobody_could_read_are_refused(embeddings, tmp_path, hub_server):
    whole = (embeddings / "00001.parquet").read_bytes()
    (embeddings / "00001.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="datasets.load_dataset cannot read folder"):
        push_dataset(embeddings, "me/embeddings", license="mit")
    (tmp_path / "vectors").mkdir()
    np.save(tmp_path / "vectors/embeddings.npy", np.eye(2))
    with pytest.raises(InputError, match="cannot read folder .*: give a folder of parquet, Arrow or other"):
        push_dataset(tmp_path / "vectors", "me/vectors", license="mit")
    assert hub_server.requests == []


def test_a_model_has_its_licence_in_its_card():
    with pytest.raises(InputError, match="the card of a model states its own"):
        PushArguments(folder=TINY, repo="me/clip", license="mit")
