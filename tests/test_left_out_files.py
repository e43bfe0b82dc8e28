"""No file of a folder of data is left out silently, for its kind or for how its ending is written."""

import gzip
import json
import tarfile
import warnings
import zipfile

import pandas as pd
import pytest
from PIL import Image

from common.errors import InputError
from common.files.rows import load_rows
from training.data.parallel_text import load_parallel_text

ROW = {"en": "a", "fr": "b"}
CAPTIONS = {"en": ["a"], "fr": ["b"]}
# One row, in the form of each ending; `.json` has two, so that its first line is no whole file.
LINES = {".csv": "en,fr\na,b\n", ".tsv": "en\tfr\na\tb\n", ".jsonl": json.dumps(ROW) + "\n", ".txt": "a\n"}
LINES |= {".ndjson": LINES[".jsonl"], ".json": LINES[".jsonl"] * 2}


def write(folder, *names):
    """Files that each hold what their ending says."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        ending = path.suffix.lower()
        if ending in LINES:
            path.write_text(LINES[ending])
        elif ending == ".gz":
            path.write_bytes(gzip.compress(LINES[path.with_suffix("").suffix].encode()))
        elif ending == ".parquet":
            pd.DataFrame([ROW]).to_parquet(path)
        elif ending == ".tar":
            tarfile.open(path, "w").close()
        elif ending == ".zip":
            zipfile.ZipFile(path, "w").close()
        else:
            with path.open("wb") as file:
                # Pictures are read by their content, whatever their ending says.
                Image.new("RGB", (4, 4)).save(file, "PNG")


@pytest.mark.parametrize(
    "names,read,left",
    [
        # One file of each kind; `datasets` reads the kind of which there are most.
        (("a.jsonl", "b.csv"), "files of JSON, such as 'a.jsonl'", "tables, such as 'b.csv'"),
        (("a.json", "b.csv", "c.csv"), "tables, such as 'b.csv'", "files of JSON, such as 'a.json'"),
        (("a.csv", "b.csv", "c.parquet"), "tables, such as 'a.csv'", "parquet files, such as 'c.parquet'"),
        (("a.jsonl", "b.csv.gz"), "files of JSON, such as 'a.jsonl'", "tables, such as 'b.csv.gz'"),
        (
            ("a.txt", "b.txt", "c.ndjson"),
            "files of text, such as 'a.txt'",
            "files of JSON, such as 'c.ndjson'",
        ),
        (
            ("train/a.jsonl", "train/b.parquet"),
            "parquet files, such as 'train/b.parquet'",
            "files of JSON, such as 'train/a.jsonl'",
        ),
        (
            ("00000.tar", "00000.parquet"),
            "parquet files, such as '00000.parquet'",
            "tars, such as '00000.tar'",
        ),
        (
            # One file of each ending.
            ("names.json", "cat/a.png", "dog/b.JPG"),
            "files of JSON, such as 'names.json'",
            "pictures, such as 'cat/a.png'",
        ),
        (("a.zip", "b.csv", "c.tar"), "tables, such as 'b.csv'", "tars, such as 'c.tar'"),
    ],
)
def test_a_folder_of_two_kinds_is_refused(tmp_path, names, read, left):
    write(tmp_path, *names)
    if "names.json" in names:
        # Class names of a user.
        (tmp_path / "names.json").write_text('{"en": ["cat", "dog"]}')
    for load in (
        # Both ways in: images with captions, and parallel text.
        lambda: load_rows(str(tmp_path), "train", []),
        lambda: load_parallel_text(str(tmp_path), "train"),
    ):
        what = left.partition(",")[0]
        message = f"has {read}, and {left}, of which the {what} .\\d. would be left out: put"
        with pytest.raises(InputError, match=message):
            load()


@pytest.mark.parametrize(
    "names", [("a.jsonl", "b.json", "c.ndjson"), ("a.csv", "b.tsv"), ("a.jsonl", "b.jsonl.gz")]
)
def test_files_that_can_be_read_together_are(tmp_path, names):
    write(tmp_path, *names)
    assert load_parallel_text(str(tmp_path), "train")[0]["captions"][:] == [CAPTIONS] * (
        # b.json has two rows.
        len(names) + ("b.json" in names)
    )


@pytest.mark.parametrize(
    "names,message",
    [
        (
            ("a.parquet", "figure.png"),
            "pictures, such as 'figure.png', of which the pictures .1. are not read",
        ),
        (
            ("a.csv", "terms.txt"),
            "files of text, such as 'terms.txt', of which the files of text .1. are not read",
        ),
        (
            ("cat/a.png", "dog/b.png", "c.csv"),
            "tables, such as 'c.csv', of which the tables .1. are not read",
        ),
    ],
)
def test_what_may_stand_beside_data_is_warned_of(tmp_path, names, message):
    write(tmp_path, *names)
    with pytest.warns(UserWarning, match=message):
        assert len(load_rows(str(tmp_path), "train", [])) == len(names) - 1


def test_settings_and_terms_are_no_data(tmp_path):
    write(tmp_path, "cat/a.png", "dog/b.JPG", "dog/c.JPG", "LICENSE.TXT")
    (tmp_path / "names.json").write_text('{"en": ["cat", "dog"]}')
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_rows(str(tmp_path), "train", [])["label"][:] == [0, 1, 1]


@pytest.mark.parametrize(
    "names,odd,fix",
    [
        # `datasets` knows endings in small letters, and those of pictures in capitals too, but no mixture.
        (("cat/a.png", "cat/b.JpG", "dog/c.png"), "cat/b.JpG", "ending .JpG: call it .jpg"),
        (("cat/b.Png", "dog/c.Png"), "cat/b.Png", "ending .Png: call it .png"),
        (("a.png", "b.HEIC"), "b.HEIC", "ending .HEIC: convert it to PNG or JPEG"),
        (("a.csv", "b.CSV"), "b.CSV", "ending .CSV: call it .csv"),
        (("a.Jsonl",), "a.Jsonl", "ending .Jsonl: call it .jsonl"),
        (("a.parquet", "b.Parquet"), "b.Parquet", "ending .Parquet: call it .parquet"),
        (("a.tar", "b.TAR"), "b.TAR", "ending .TAR: call it .tar"),
    ],
)
def test_an_ending_in_other_letters_is_named(tmp_path, names, odd, fix):
    write(tmp_path, *names)
    with pytest.raises(
        InputError,
        match=f"files would be left out, '.*{odd}' first, since `datasets` does not read the {fix}$",
    ):
        load_rows(str(tmp_path), "train", [])


def test_metadata_may_name_pictures_of_any_ending(tmp_path):
    write(tmp_path, "a.JpG", "b.PnG")
    # A name in metadata needs no known ending.
    (tmp_path / "metadata.csv").write_text("file_name,text\na.JpG,x\nb.PnG,y\n")
    assert [image.size for image in load_rows(str(tmp_path), "train", ["image"])["image"][:]] == [(4, 4)] * 2


def test_a_folder_may_itself_be_a_link(tmp_path):
    write(tmp_path / "there", "a.csv", "b.jsonl")
    (tmp_path / "here").symlink_to(tmp_path / "there", target_is_directory=True)
    with pytest.raises(InputError, match="of which the tables .1. would be left out"):
        load_parallel_text(str(tmp_path / "here"), "train")


def test_tables_behind_a_link_are_refused(tmp_path):
    write(tmp_path / "here", "a.csv")
    write(tmp_path / "there", "b.csv")
    (tmp_path / "here/more").symlink_to(tmp_path / "there", target_is_directory=True)
    with pytest.raises(
        InputError,
        match="more' is a link to a folder, whose tables would be left out: put the folder itself there",
    ):
        load_parallel_text(str(tmp_path / "here"), "train")
