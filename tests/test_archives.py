"""Archives that unpack to far more than they are."""

import bz2
import gzip
import io
import json
import tarfile
from zipfile import ZIP_DEFLATED, ZipFile

import pytest

from benchmarks.tasks.reading import read_rows
from benchmarks.tasks.task import Task
from common.errors import InputError
from common.files import archives
from common.files.archives import refuse_bombs
from common.files.rows import load_rows
from training.data.parallel_text import load_parallel_text
from training.data.streaming import open_files


@pytest.fixture
def bomb(tmp_path, monkeypatch):
    """Return a folder with a zip of 3 MB of zeros; the bounds are lowered to match."""
    monkeypatch.setattr(archives, "_HARMLESS", 2**20)
    folder = tmp_path / "bomb"
    folder.mkdir()
    with ZipFile(folder / "a.zip", "w", ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(3 * 2**20))
        archive.writestr("metadata.jsonl", json.dumps({"file_name": "a.png", "captions": {"en": "a"}}))
        archive.writestr("test_imgs.tsv", "1\tAA\n")
        archive.writestr("test_texts.jsonl", json.dumps({"text": "a", "image_ids": [1]}))
    return folder


MESSAGE = r"a.zip has [\d,]+ bytes and unpacks to [\d,]+: if you trust it, unpack it yourself"


def test_a_zip_that_unpacks_to_far_more_is_refused(bomb):
    for read in (lambda: load_rows(str(bomb), "train", ["image"]), lambda: open_files(str(bomb), "train")):
        with pytest.raises(InputError, match=MESSAGE):
            read()
    task = Task(
        name="own",
        file="own.yaml",
        kind="retrieval",
        dataset=str(bomb),
        split="test",
        metric="mean_recall",
        layout="chinese_clip",
        data_files={"test": "a.zip"},
        languages=["zh"],
    )
    with pytest.raises(InputError, match=MESSAGE):
        read_rows(task)


def test_zips_of_ordinary_rates_are_read(bomb, monkeypatch):
    monkeypatch.setattr(archives, "_MOST_TIMES", 2000)
    refuse_bombs([str(bomb / "a.zip"), str(bomb / "missing.zip"), "hf://datasets/a/b@main/a.zip"])
    (bomb / "b.zip").write_bytes(b"no zip")
    refuse_bombs([str(bomb / "b.zip")])


@pytest.mark.parametrize("compress,ending", [(gzip.compress, ".gz"), (bz2.compress, ".bz2")])
@pytest.mark.parametrize(
    "name,text",
    [
        ("a.tsv", b"en\tzh\n" + b"a\tb\n" * 2**19),
        ("a.csv", b"en,zh\n" + b"a,b\n" * 2**19),
        ("a.csv", b"en,zh\n" + bytes(2**21)),
        ("a.jsonl", b'{"en": "a", "zh": "b"}' + b" " * 2**21),
        ("a.json", b"[\n" + b" " * 2**21),
    ],
    ids=["lines of tsv", "lines of csv", "a line of csv", "a line of jsonl", "json"],
)
def test_a_compressed_table_is_read_up_to_a_bound(tmp_path, monkeypatch, name, text, compress, ending):
    """The bound ends a file that is one line as well, which no reader of lines would."""
    monkeypatch.setattr(archives, "_HARMLESS", 2**20)
    monkeypatch.setattr(archives, "_MOST_TIMES", 1)
    path = tmp_path / (name + ending)
    path.write_bytes(compress(text))
    with pytest.raises(
        InputError, match=rf"{name}{ending} has [\d,]+ bytes and unpacks to more than 1,048,576"
    ):
        load_parallel_text(str(path), "train")


@pytest.mark.parametrize("ending", ["gz", "bz2"])
def test_the_files_of_a_compressed_tar_are_read_up_to_a_bound(tmp_path, monkeypatch, ending):
    monkeypatch.setattr(archives, "_HARMLESS", 2**20)
    with tarfile.open(tmp_path / f"train.tar.{ending}", f"w:{ending}") as archive:
        for number in range(5):
            for kind, content in (("txt", b"a dog"), ("png", bytes(2**18))):
                info = tarfile.TarInfo(f"{number}.{kind}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    with pytest.raises(InputError, match=rf"train.tar.{ending} has [\d,]+ bytes and unpacks to more than"):
        load_rows(str(tmp_path), "train", [])


@pytest.mark.parametrize("ending", ["tar", "tar.gz"])
def test_a_file_of_a_tar_is_read_up_to_a_bound(tmp_path, monkeypatch, ending):
    monkeypatch.setattr(archives, "MOST_BYTES", 2**20)
    mode = "w:gz" if ending == "tar.gz" else "w"
    with tarfile.open(tmp_path / f"train.{ending}", mode) as archive:
        for name, content in (("a.txt", b"a dog"), ("a.png", bytes(2**20 + 1))):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    with pytest.raises(InputError, match="a.png has more than 1,048,576 bytes"):
        load_rows(str(tmp_path), "train", [])
