"""Folders of pictures with metadata:

What is missing is counted and named, and no name of a picture hides the others.
"""

import json
import re
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from zipfile import ZipFile

import pytest
from datasets import Dataset, Image
from PIL import Image as PillowImage

from benchmarks.loading import load_rows
from benchmarks.recipe import InputError
from benchmarks.task import load_task
from training.arguments import ContrastiveArguments
from training.first_rows import first_captions
from training.parallel_text import load_parallel_text
from training.session import load_pictures, stream_pictures
from training.streaming import open_files
from training.validation import load_captioned

from .replicas import write_tar
from .test_pictures import encoded


def write(folder, pictures, rows, name="metadata.jsonl"):
    """Pictures, and metadata with a row for each of `rows`."""
    folder.mkdir()
    for number, picture in enumerate(pictures):
        (folder / picture).parent.mkdir(exist_ok=True)
        PillowImage.new("RGB", (8, 8), (9 * number, 3, 90)).save(folder / picture)
    if name == "metadata.csv":
        lines = [
            "file_name,text,language",
            *(f"{row},picture {number},en" for number, row in enumerate(rows)),
        ]
    else:
        lines = [
            json.dumps({"file_name": row, "captions": {"en": f"picture {number}"}})
            for number, row in enumerate(rows)
        ]
    (folder / name).write_text("\n".join(lines) + "\n", "utf-8")
    return folder


def arguments(folder, tmp_path, bad_rows="set_aside"):
    """What reading pictures asks of a stage's arguments."""
    return SimpleNamespace(
        dataset=str(folder),
        split="train",
        text_column=None,
        bad_rows=bad_rows,
        output_dir=str(tmp_path / "out"),
        resume=False,
        shuffle_buffer=0,
        seed=0,
        process_index=0,
        local_process_index=0,
        world_size=1,
        dataloader_num_workers=0,
        main_process_first=lambda **_: nullcontext(),
    )


def reported(tmp_path, name="bad_rows.jsonl"):
    lines = [json.loads(line) for line in (tmp_path / "out" / name).read_text("utf-8").splitlines()]
    return {(line["row"], Path(line["path"]).name, line["problem"].partition(":")[0]) for line in lines}


BAD = {(1, "gone.png", "FileNotFoundError"), (None, "c.png", "no row of the metadata names it")}


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv"])
def test_missing_pictures_and_missing_rows_are_counted_and_named(tmp_path, capsys, name):
    folder = write(tmp_path / "pictures", ["a.png", "b.png", "c.png"], ["a.png", "gone.png", "b.png"], name)
    assert len(load_pictures(arguments(folder, tmp_path), None)) == 2
    assert "Set aside 2 rows with bad images, listed in" in capsys.readouterr().out
    assert reported(tmp_path) == BAD
    with pytest.raises(
        InputError, match="1 of 3 images cannot be decoded, row 1 first: FileNotFoundError.*gone.png"
    ):
        load_pictures(arguments(folder, tmp_path, "error"), None)


def test_a_picture_without_row_is_refused_where_errors_are_asked_for(tmp_path):
    folder = write(tmp_path / "pictures", ["a.png", "b.png"], ["b.png"])
    for read in (load_pictures, stream_pictures):
        with pytest.raises(InputError, match="1 pictures have no row in the metadata, .*a.png first"):
            read(arguments(folder, tmp_path, "error"), ["en"])


def test_a_stream_names_the_same(tmp_path):
    folder = write(tmp_path / "pictures", ["a.png", "b.png", "c.png"], ["a.png", "gone.png", "b.png"])
    cells = iter(stream_pictures(arguments(folder, tmp_path), ["en"]))
    assert [next(cells)["text"] for _ in range(4)] == ["picture 0", "picture 2"] * 2
    assert reported(tmp_path, "bad_rows.0.jsonl") == BAD
    with pytest.raises(InputError, match="1 pictures have no row|cannot be decoded"):
        next(iter(stream_pictures(arguments(folder, tmp_path, "error"), ["en"])))


def archive(path, pictures, rows=None):
    """A zip of pictures, with metadata of some where `rows` are given."""
    path.parent.mkdir(exist_ok=True)
    with ZipFile(path, "w") as file:
        for picture in pictures:
            file.writestr(picture, encoded("red"))
        if rows is not None:
            lines = [json.dumps({"file_name": row, "captions": {"en": row}}) for row in rows]
            file.writestr("metadata.jsonl", "\n".join(lines))


def in_one_zip(folder):
    archive(folder / "p.zip", ["a.png", "sub/b.JpG", "__MACOSX/._a.png", "notes.txt"], ["a.png"])


def in_a_zip_without_metadata(folder):
    archive(folder / "p.zip", ["a.png"], ["a.png"])
    archive(folder / "q.zip", ["b.png"])


def beside_a_zip(folder):
    archive(folder / "p.zip", ["a.png"], ["a.png"])
    (folder / "b.png").write_bytes(encoded("red"))


def in_a_zip_beside_metadata(folder):
    write(folder, ["a.png"], ["a.png"])
    archive(folder / "p.zip", ["b.png"])


def behind_a_link(folder):
    there = folder.parent / "there"
    write(there, ["a.png", "b.png"], ["a.png"])
    folder.symlink_to(there, target_is_directory=True)


def below_metadata_of_a_split(folder):
    folder.mkdir()
    write(folder / "train", ["a.png", "b.png"], ["a.png"])
    write(folder / "test", ["c.png", "d.png"], ["c.png"])


@pytest.mark.parametrize(
    "make",
    [
        in_one_zip,
        in_a_zip_without_metadata,
        beside_a_zip,
        in_a_zip_beside_metadata,
        behind_a_link,
        below_metadata_of_a_split,
    ],
)
def test_pictures_that_no_row_names_are_told_wherever_they_lie(tmp_path, capsys, make):
    make(tmp_path / "pictures")
    task = tmp_path / "mine.yaml"
    task.write_text(TASK.format(dataset=tmp_path / "pictures"), "utf-8")
    message = "1 pictures of dataset .* have no row in its metadata and are left out, .*b.(png|JpG).* first"
    assert len(load_pictures(arguments(tmp_path / "pictures", tmp_path), None)) == 1
    assert re.search(message, capsys.readouterr().out)
    stream_pictures(arguments(tmp_path / "pictures", tmp_path), ["en"])
    assert re.search(message, capsys.readouterr().out)
    with pytest.warns(UserWarning, match=message):
        assert len(load_task(str(task)).rows()) == 1


def test_where_all_are_named_nothing_is_told(tmp_path, capsys, recwarn):
    archive(tmp_path / "pictures/p.zip", ["a.png", "sub/b.png"], ["a.png", "sub/b.png"])
    archive(tmp_path / "pictures/q.zip", ["a.png"], ["a.png"])
    assert len(load_pictures(arguments(tmp_path / "pictures", tmp_path), None)) == 3
    assert "left out" not in capsys.readouterr().out
    assert not recwarn.list


TASK = """kind: retrieval
dataset: {dataset}
split: train
metric: mean_recall
languages: [en]
columns: {{captions: captions}}
"""


def test_evaluation_and_validation_refuse_missing_pictures_at_once(tmp_path):
    folder = write(tmp_path / "pictures", ["a.png"], ["a.png", "gone.png", "lost.png"])
    (tmp_path / "mine.yaml").write_text(TASK.format(dataset=folder), "utf-8")
    for read in (
        load_task(str(tmp_path / "mine.yaml")).rows,
        lambda: load_captioned(str(folder), "train", ["en"]),
    ):
        with pytest.raises(InputError, match="names 2 of 3 pictures that are not there, .*gone.png first"):
            read()


def test_evaluation_tells_of_pictures_without_row(tmp_path):
    folder = write(tmp_path / "pictures", ["a.png", "b.png", "c.png"], ["a.png"])
    (tmp_path / "mine.yaml").write_text(TASK.format(dataset=folder), "utf-8")
    with pytest.warns(
        UserWarning,
        match="2 pictures of dataset .* have no row in its metadata and are left out, .*b.png first",
    ):
        assert len(load_task(str(tmp_path / "mine.yaml")).rows()) == 1


NAMES = [
    "train station.png",
    "test tube.png",
    "train.png",
    "dev board.png",
    "a [b] *.png",
    "图 片.png",
    "train/x.png",
    "c#d%20.png",
]


@pytest.mark.parametrize("name", NAMES)
def test_no_name_hides_the_others(tmp_path, name):
    names = ["harbour.png", "market.png", name]
    (tmp_path / "mine.yaml").write_text(TASK.format(dataset=tmp_path / "pictures"), "utf-8")
    folder = write(tmp_path / "pictures", names, names)
    (folder / "notes.txt").write_text("hi")
    captions = load_pictures(arguments(folder, tmp_path), None)["captions"][:]
    assert captions == [{"en": "picture 0"}, {"en": "picture 1"}, {"en": "picture 2"}]
    cells = iter(stream_pictures(arguments(folder, tmp_path), ["en"]))
    assert {next(cells)["text"] for _ in range(3)} == {"picture 0", "picture 1", "picture 2"}
    assert len(load_task(str(tmp_path / "mine.yaml")).rows()) == 3
    flags = {"dataset": str(folder), "output_dir": str(tmp_path), "model_name_or_path": "m", "use_cpu": True}
    assert set(first_captions(ContrastiveArguments(**flags))[0]) == {"picture 0", "picture 1", "picture 2"}


def test_a_folder_may_be_called_like_a_glob(tmp_path):
    names = ["a.png", "b.png"]
    folder = write(tmp_path / "photos [2023] *", names, names)
    (tmp_path / "mine.yaml").write_text(TASK.format(dataset=f"'{folder}'"), "utf-8")
    assert len(load_pictures(arguments(folder, tmp_path), None)) == 2
    cells = iter(stream_pictures(arguments(folder, tmp_path), ["en"]))
    assert {next(cells)["text"] for _ in range(2)} == {"picture 0", "picture 1"}
    assert len(load_task(str(tmp_path / "mine.yaml")).rows()) == 2
    (folder / "metadata.jsonl").rename(folder / "notes.txt")
    with pytest.raises(InputError, match=r"takes \* \? \[ \] in a folder's name for wildcards: rename it"):
        load_rows(str(folder), "train", ["image"])


@pytest.mark.parametrize("name", ["dog/train1.png", "dog/test bench.png"])
def test_a_folder_of_classes_says_what_was_taken_for_a_split(tmp_path, name):
    for number, picture in enumerate(["cat/a.png", "dog/b.png", name]):
        (tmp_path / "pictures" / picture).parent.mkdir(parents=True, exist_ok=True)
        PillowImage.new("RGB", (8, 8), (9 * number, 3, 90)).save(tmp_path / "pictures" / picture)
    message = f"2 of 3 pictures would be left out, since the name of '{name}' is taken for that of the split"
    with pytest.raises(InputError, match=message):
        load_rows(str(tmp_path / "pictures"), "train", ["image"])


@pytest.mark.parametrize("ending,what", [("tar", "tars"), ("parquet", "parquet files")])
def test_files_of_data_say_what_was_taken_for_a_split(tmp_path, ending, what):
    for number, name in enumerate(["market", "test tube", "harbour"]):
        path = tmp_path / f"data/{name}.{ending}"
        if ending == "tar":
            write_tar(path, {f"{number}.png": encoded("red"), f"{number}.txt": b"x"})
        else:
            image = [{"bytes": encoded("red"), "path": None}]
            path.parent.mkdir(exist_ok=True)
            Dataset.from_dict({"image": image, "captions": [{"en": "x"}]}).cast_column(
                "image", Image()
            ).to_parquet(path)
    message = f"2 of 3 {what} would be left out, since the name of 'test tube.{ending}' is taken for that of the split 'test': rename it"
    for read in (
        lambda: load_rows(str(tmp_path / "data"), "test", []),
        lambda: open_files(str(tmp_path / "data"), "test"),
    ):
        with pytest.raises(InputError, match=message):
            read()
    (tmp_path / f"data/test tube.{ending}").rename(tmp_path / f"data/tube.{ending}")
    assert len(load_rows(str(tmp_path / "data"), "train", [])) == 3


TABLES = {"csv": "en,zh\na,x\n", "tsv": "en\tzh\na\tx\n", "jsonl": '{"en": "a", "zh": "x"}\n'}


@pytest.mark.parametrize("ending,content", TABLES.items())
def test_tables_of_text_say_what_was_taken_for_a_split(tmp_path, ending, content):
    for name in ("market", "test tube", "harbour"):
        (tmp_path / f"{name}.{ending}").write_text(content)
    with pytest.raises(
        InputError,
        match=f"2 of 3 .* would be left out, since the name of 'test tube.{ending}' is taken for that of",
    ):
        load_parallel_text(str(tmp_path), "test")
    (tmp_path / f"test tube.{ending}").rename(tmp_path / f"tube.{ending}")
    assert len(load_parallel_text(str(tmp_path), "train")[0]) == 3


def test_a_link_to_a_folder_of_pictures_is_refused_unless_metadata_name_them(tmp_path):
    folder = write(tmp_path / "pictures", ["a.png"], [])
    elsewhere = write(tmp_path / "elsewhere", ["sub/b.png"], [])
    for metadata in (folder / "metadata.jsonl", elsewhere / "metadata.jsonl"):
        metadata.unlink()
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    assert len(load_rows(str(folder), "train", ["image"])) == 1
    (folder / "linked").symlink_to(elsewhere, target_is_directory=True)
    with pytest.raises(
        InputError,
        match="linked' is a link to a folder, whose pictures would be left out: put the folder itself there",
    ):
        load_rows(str(folder), "train", ["image"])
    lines = [
        json.dumps({"file_name": name, "captions": {"en": name}}) for name in ("a.png", "linked/sub/b.png")
    ]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    assert load_pictures(arguments(folder, tmp_path), None)["captions"][:] == [
        {"en": "a.png"},
        {"en": "linked/sub/b.png"},
    ]


METADATA = {
    "metadata.csv": "file_name,text\na.png,{}\n",
    "metadata.jsonl": '{{"file_name": "a.png", "text": "{}"}}\n',
}


@pytest.mark.parametrize("encoding", ["gbk", "utf-16", "cp1252"])
@pytest.mark.parametrize("name,content", METADATA.items(), ids=METADATA)
def test_metadata_in_another_encoding_is_named(tmp_path, encoding, name, content):
    folder = write(tmp_path / "pictures", ["a.png"], [])
    (folder / "metadata.jsonl").unlink()
    (folder / name).write_bytes(content.format("é").encode(encoding))
    (tmp_path / "mine.yaml").write_text(
        TASK.format(dataset=folder).replace("captions: captions", "captions: {en: text}"), "utf-8"
    )
    for read in (
        lambda: load_pictures(arguments(folder, tmp_path), ["en"]),
        lambda: next(iter(stream_pictures(arguments(folder, tmp_path), ["en"]))),
        lambda: load_task(str(tmp_path / "mine.yaml")).rows(),
    ):
        with pytest.raises(
            InputError, match=f"cannot be loaded: .*{name} is not UTF-8, .*: save it as UTF-8"
        ):
            read()


def test_half_a_zip_is_one_line(tmp_path):
    (tmp_path / "p.zip").write_bytes(b"PK\3\4 and no more")
    for read in (
        lambda: load_rows(str(tmp_path), "train", []),
        lambda: stream_pictures(arguments(tmp_path, tmp_path), ["en"]),
    ):
        with pytest.raises(InputError, match="cannot be loaded: File is not a zip file"):
            read()


def test_folders_of_splits_stay_splits(tmp_path):
    for split, picture in (("train", "a.png"), ("test", "train b.png")):
        (tmp_path / "pictures").mkdir(exist_ok=True)
        write(tmp_path / "pictures" / split, [picture], [picture])
    assert len(load_rows(str(tmp_path / "pictures"), "train", ["image"])) == 1
    assert len(load_rows(str(tmp_path / "pictures"), "test", ["image"])) == 1


@pytest.mark.parametrize(
    "metadata,message",
    [
        (
            b'{"file_name": "a.png", "text": "x"}\n{"file_name": "a.png",\n',
            "cannot be loaded: JSON parse error",
        ),
        (b'{"file_name": "/etc/a.png", "text": "x"}\n', "cannot be loaded: .*must be a relative path"),
        (b'{"name": "a.png", "text": "x"}\n', "cannot be loaded: `file_name`.*must be present"),
    ],
)
def test_metadata_that_cannot_be_read_is_one_line(tmp_path, metadata, message):
    folder = write(tmp_path / "pictures", ["a.png"], [])
    (folder / "metadata.jsonl").write_bytes(metadata)
    with pytest.raises(InputError, match=message):
        load_rows(str(folder), "train", ["image"])


def test_blank_lines_a_byte_order_mark_and_repeated_pictures_are_read(tmp_path):
    folder = write(tmp_path / "pictures", ["a.png", "b.png"], [])
    lines = '\ufeff{"file_name": "a.png", "text": "x"}\n\n{"file_name": "b.png", "text": "y"}\n{"file_name": "a.png", "text": "z"}\n'
    (folder / "metadata.jsonl").write_text(lines, "utf-8")
    assert load_rows(str(folder), "train", ["image"])["text"][:] == ["x", "y", "z"]
