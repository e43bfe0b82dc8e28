"""Rows are those that lie in the folder now, whatever `datasets` kept of it."""

import os

import pytest
from datasets import Dataset

from common.errors import InputError
from common.files.rows import load_rows
from training.data.parallel_text import load_parallel_text

CARD = """---
configs:
- config_name: de
  data_files: [{split: train, path: de.parquet}]
- config_name: fr
  data_files: [{split: train, path: fr.parquet}]
---
"""


# German is the English in capitals: "a dog" -> "A DOG".
def write(folder, texts, name="train"):
    Dataset.from_dict({"captions": [{"en": text, "de": text.upper()} for text in texts]}).to_parquet(
        folder / f"{name}.parquet"
    )


@pytest.fixture
def dataset(tmp_path):
    """A folder with a card: of such a folder `datasets` looks at the card alone."""
    folder = tmp_path / "dataset"
    folder.mkdir()
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files: [{split: train, path: train.parquet}]\n---\n"
    )
    write(folder, ["a dog", "a cat"])
    return folder


def test_a_folder_written_anew_is_read_anew(dataset):
    first = load_rows(str(dataset), "train", ["captions"])
    write(dataset, ["a key", "a fish"])
    second = load_rows(str(dataset), "train", ["captions"])
    assert [caption["en"] for caption in second["captions"]] == ["a key", "a fish"]
    assert first._fingerprint != second._fingerprint  # by which columns made of the rows are kept
    assert load_rows(str(dataset), "train", [])._fingerprint == second._fingerprint


def test_only_the_split_that_is_asked_for_is_read(dataset):
    # Without the card, `datasets` finds splits by the names of files, and would read all of them.
    (dataset / "README.md").unlink()
    (dataset / "validation.parquet").write_bytes(b"no parquet")
    assert len(load_rows(str(dataset), "train", ["captions"])) == 2
    with pytest.raises(InputError, match="'validation' cannot be loaded"):
        load_rows(str(dataset), "validation", ["captions"])


def test_folders_of_one_name_are_told_apart(dataset, tmp_path):
    load_rows(str(dataset), "train", ["captions"])
    other = tmp_path / "elsewhere" / "dataset"
    other.mkdir(parents=True)
    (other / "README.md").write_text((dataset / "README.md").read_text())
    write(other, ["a boat"])
    # The same name, card and time: the path alone tells the files apart.
    times = os.stat(dataset / "train.parquet")
    os.utime(other / "train.parquet", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert len(load_rows(str(other), "train", ["captions"])) == 1


def test_a_configuration_is_chosen_by_name(tmp_path):
    (tmp_path / "README.md").write_text(CARD)
    # Of different length, so that the number of rows says which was read.
    for name, texts in (("de", ["a dog"]), ("fr", ["a key", "a cat"])):
        write(tmp_path, texts, name)
    assert len(load_rows(str(tmp_path), "train", ["captions"], "fr")) == 2
    with pytest.raises(InputError, match="config name|Config name"):
        load_rows(str(tmp_path), "train", ["captions"])
    (tmp_path / "sources.yaml").write_text(
        f"- {{data: {tmp_path}, name: de}}\n- {{data: {tmp_path}, name: fr}}\n"
    )
    rows, _ = load_parallel_text(str(tmp_path / "sources.yaml"), "train")
    assert [caption["en"] for caption in rows["captions"]] == [["a dog"], ["a key"], ["a cat"]]
