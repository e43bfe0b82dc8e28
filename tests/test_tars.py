"""Tars of pictures whose names or columns are not all alike:

In training, in evaluation, on the disk and as streams.
"""

import gzip
import io
import json

import pytest
import yaml
from datasets import Image
from PIL import Image as PillowImage

from benchmarks.recipe import InputError
from benchmarks.task import load_task
from training.arguments import ContrastiveArguments
from training.captions import find_form
from training.first_rows import first_captions
from training.session import load_pictures
from training.streaming import CellStream, open_files

from .replicas import write_tar

FORMATS = {"jpg": "JPEG", "jpeg": "JPEG", "webp": "WEBP"}
SHADE = 20  # of a picture's number: what compression leaves of it tells the number


def picture(number, ending="png"):
    buffer = io.BytesIO()
    PillowImage.new("RGB", (16, 16), (SHADE * number, 128, 128)).save(
        buffer, FORMATS.get(ending.lower(), "PNG")
    )
    return buffer.getvalue()


def number_in(image):
    return round(image.convert("RGB").getpixel((5, 5))[0] / SHADE)


def samples(*names, captions="txt"):
    """A picture of each name, and `picture N` in a text file that is named alike."""
    members = {}
    for number, name in enumerate(names):
        stem, _, ending = name.rpartition(".")
        members[name] = picture(number, ending)
        members[f"{stem}.{captions}"] = f"picture {number}".encode()
    return members


def arguments_for(folder, tmp_path, **given):
    options = {
        "disable_tqdm": True,
        "report_to": "none",
        "use_cpu": True,
        "max_steps": 1,
        "cache_image_embeds": False,
        "split": "train",
    }
    return ContrastiveArguments(
        dataset=str(folder), model_name_or_path="", output_dir=str(tmp_path / "out"), **options | given
    )


def on_disk(folder, tmp_path, languages=("en",)):
    """Return `{number of the picture: captions}` as training reads them."""
    rows = load_pictures(arguments_for(folder, tmp_path), list(languages) or None)
    found = {}
    for row in rows.cast_column("image", Image()):
        number = number_in(row["image"])
        found[number] = {language: texts for language, texts in row["captions"].items() if texts}
    return found


def in_a_stream(folder, tmp_path, languages=("en",)):
    """The same of one pass of a stream."""
    rows = open_files(str(folder), "train")
    form = find_form(rows.features, str(folder), languages=list(languages) or None)
    stream = CellStream(rows, form, list(languages) or form.spoken, tmp_path / "bad.jsonl")
    stream.named = set()
    cells = [stream.cell(row, 0) for row in rows]
    return {number_in(cell["image"]): {"en": [cell["text"]]} for cell in cells if cell}


def as_a_task(folder, tmp_path, streaming, **columns):
    task = {
        "kind": "retrieval",
        "dataset": str(folder),
        "split": "train",
        "metric": "mean_recall",
        "layout": "webdataset",
    }
    (tmp_path / "mine.yaml").write_text(
        yaml.safe_dump(task | {"columns": {"captions": {"en": "txt"}} | columns, "languages": ["en"]})
    )
    return {
        number_in(row["image"]): row["captions"]
        for row in load_task(str(tmp_path / "mine.yaml")).rows(streaming=streaming)
    }


WAYS = {
    "training": on_disk,
    "a stream": in_a_stream,
    "a task": lambda folder, tmp_path: as_a_task(folder, tmp_path, False),
    "a task's stream": lambda folder, tmp_path: as_a_task(folder, tmp_path, True),
}
NAMES = {
    "capitals": ["0.JPG", "1.JPG", "2.JPG"],
    "some capitals": ["0.jpg", "1.JPG", "2.Jpg"],
    "another ending first": ["0.png", "1.jpg", "2.jpg", "3.jpg", "4.jpg", "5.jpg", "6.jpg"],
    "another ending last": ["0.jpg", "1.jpg", "2.jpg", "3.jpg", "4.jpg", "5.jpg", "6.png"],
    "every ending": ["0.webp", "1.PNG", "2.jpeg", "3.jpg", "4.JPEG", "5.bmp"],
    "dots": ["a.0.jpg", "a.1.jpg", "a.2.jpg"],
    "dots in some": ["0.jpg", "1.v2.jpg", "2.a.b.JPG", "d.3.png", "d.4.png"],
    "dots, and the name before them": ["a.jpg", "a.1.jpg", "a.2.png"],
    "folders with dots": ["v1.0/0.jpg", "v1.0/1.PNG", "./2.jpg"],
}


@pytest.mark.parametrize("read", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
def test_pictures_are_read_whatever_they_are_called(tmp_path, names, read):
    write_tar(tmp_path / "tars/train/0.tar", samples(*names))
    assert read(tmp_path / "tars", tmp_path) == {
        number: {"en": [f"picture {number}"]} for number in range(len(names))
    }


@pytest.mark.parametrize("read", WAYS.values(), ids=WAYS)
def test_names_begin_anew_in_each_tar(tmp_path, read):
    members = samples("0.jpg", "1.JPG", "2.png", "3.webp")
    for tar, names in enumerate((list(members)[:4], list(members)[4:])):
        write_tar(
            tmp_path / f"tars/train/{tar}.tar",
            {f"{number // 2}{name[1:]}": members[name] for number, name in enumerate(names)},
        )
    assert read(tmp_path / "tars", tmp_path) == {number: {"en": [f"picture {number}"]} for number in range(4)}


def test_a_name_of_another_tar_may_lack_its_picture(tmp_path):
    write_tar(tmp_path / "tars/train/0.tar", samples("0.jpg"))
    write_tar(
        tmp_path / "tars/train/1.tar", {"0.txt": b"of no picture", "1.png": picture(1), "1.txt": b"picture 1"}
    )
    assert on_disk(tmp_path / "tars", tmp_path) == {
        number: {"en": [f"picture {number}"]} for number in (0, 1)
    }


@pytest.mark.parametrize("read", WAYS.values(), ids=WAYS)
def test_the_first_samples_may_lack_a_caption(tmp_path, read):
    members = samples(*(f"{number}.jpg" for number in range(8)), captions="TXT")
    for number in range(6):
        del members[f"{number}.TXT"]
    write_tar(tmp_path / "tars/train/0.tar", members)
    found = {
        number: captions
        for number, captions in read(tmp_path / "tars", tmp_path).items()
        if captions.get("en")
    }
    assert found == {number: {"en": [f"picture {number}"]} for number in (6, 7)}


@pytest.mark.parametrize("read", [on_disk, in_a_stream])
def test_fields_of_json_are_those_of_all_samples(tmp_path, read):
    """A language of later samples, and values of several types, beside a text that is not asked for."""
    members = samples(*(f"{number}.png" for number in range(8)))
    for number in range(8):
        captions = {"en": f"picture {number}"} if number < 7 else {"en": [f"picture {number}"], "zh": "图"}
        fields = {
            "captions": captions,
            "width": 16 if number < 6 else "16",
            "exif": {} if number < 6 else {"a": 1},
        }
        members[f"{number}.JSON"] = json.dumps(fields).encode()
    write_tar(tmp_path / "tars/train/0.tar", dict(sorted(members.items())))
    expected = {number: {"en": [f"picture {number}"]} for number in range(8)}
    if read is on_disk:
        expected[7] |= {"zh": ["图"]}
    found = read(tmp_path / "tars", tmp_path, [])
    assert found.pop(7)["en"][0] in ("picture 7", "图")
    assert found == {number: expected[number] for number in range(7)}
    texts, said = first_captions(arguments_for(tmp_path / "tars", tmp_path))
    assert "picture 3" in texts
    assert "captions in en zh" in said


def test_a_stream_refuses_captions_that_only_later_samples_have(tmp_path, monkeypatch):
    """Of later tars too: no other than the first is fetched to learn the columns."""
    monkeypatch.setattr("benchmarks.tars.N_SEEN", 3)
    later = {
        "a text": ("4.txt", b"x"),
        "a language": ("4.json", b'{"captions": {"en": "a", "zh": "b"}}'),
        "a second picture": ("4.png", picture(4)),
    }
    for name, (file, content) in later.items():
        members = samples(*(f"{number}.jpg" for number in range(5)))
        members |= {f"{number}.json": b'{"captions": {"en": "a"}}' for number in range(5)}
        if name == "a text":
            members = {file: content for file, content in members.items() if not file.endswith("txt")}
        write_tar(tmp_path / f"{name}/train/0.tar", dict(sorted((members | {file: content}).items())))
        with pytest.raises(
            InputError,
            match="the sample '4' has (txt|captions in zh|png), which none of the first tar's first 3 has: put one",
        ):
            in_a_stream(tmp_path / name, tmp_path)
    assert on_disk(tmp_path / "a language", tmp_path, [])[4] == {
        "en": ["a"],
        "zh": ["b"],
    }  # there all samples tell the columns


def test_several_pictures_of_a_sample_are_columns(tmp_path):
    members = {
        "a.jpg": picture(0, "jpg"),
        "a.seg.PNG": picture(5),
        "a.txt": b"picture 0",
        "b.jpg": picture(1, "jpg"),
        "b.txt": b"picture 1",
    }
    write_tar(tmp_path / "tars/train/0.tar", members)
    with pytest.raises(InputError, match="has images in jpg and seg.png: keep one of them"):
        on_disk(tmp_path / "tars", tmp_path)
    for streaming in (False, True):
        expected = {number: {"en": [f"picture {number}"]} for number in (0, 1)}
        assert as_a_task(tmp_path / "tars", tmp_path, streaming, image="jpg") == expected


def test_a_task_may_name_any_of_the_endings(tmp_path):
    write_tar(tmp_path / "tars/train/0.tar", samples("0.png", "1.jpg", "2.webp"))
    for streaming in (False, True):
        assert sorted(as_a_task(tmp_path / "tars", tmp_path, streaming, image="webp")) == [0, 1, 2]


@pytest.mark.parametrize(
    "members,message",
    [
        (
            {"a.jpg": picture(0), "a.JPG": picture(1), "a.txt": b"x"},
            "the sample 'a' has 'jpg' twice: rename one of",
        ),
        ({"a.b.jpg": picture(0), "a.b.txt": b"x", "a.txt": b"y"}, "the sample 'a' has 'txt' twice"),
        (
            {"a.jpg": picture(0), "b.jpg": picture(1), "a.txt": b"x", "b.txt": b"y"},
            "files of 'a' do not stand together: write the tar in",
        ),
        (
            {"a.txt": b"x", "b.txt": b"y", "a.jpg": picture(0), "b.jpg": picture(1)},
            "files of 'a' do not stand together: write the tar in",
        ),
        (
            {"0.jpg": picture(0), "0.txt": b"x", "1.txt": "狗".encode("gbk")},
            "0.tar: the sample behind '0' is not UTF-8, .*save it",
        ),
        ({"README": b"x"}, "the tars hold no file that has a name and an ending"),
        ({"a.txt": b"x"}, "has no column image; its columns are txt"),
    ],
    ids=["two pictures", "two texts", "pictures first", "texts first", "GBK", "no ending", "no picture"],
)
def test_names_that_cannot_be_meant_are_refused(tmp_path, members, message):
    write_tar(tmp_path / "tars/train/0.tar", members)
    for read in (on_disk, in_a_stream):
        with pytest.raises(InputError, match=message):
            read(tmp_path / "tars", tmp_path)


def test_a_bad_picture_is_named_as_in_the_tar(tmp_path):
    write_tar(
        tmp_path / "tars/train/0.tar",
        samples("0.jpg", "b.1.PNG") | {"c.2.HEIC": b"no picture", "c.2.txt": b"x"},
    )
    assert set(on_disk(tmp_path / "tars", tmp_path)) == {0, 1}
    (line,) = map(json.loads, (tmp_path / "out/bad_rows.jsonl").read_text("utf-8").splitlines())
    assert (line["row"], line["path"]) == (2, "c.2.HEIC")


def test_a_byte_order_mark_is_no_part_of_a_caption(tmp_path):
    members = samples("0.png", "1.png") | {"0.txt": "\ufeffpicture 0".encode()}
    write_tar(tmp_path / "tars/train/0.tar", members)
    for read in WAYS.values():
        assert read(tmp_path / "tars", tmp_path)[0] == {"en": ["picture 0"]}


@pytest.mark.parametrize("name,length", [("0.tar", 0), ("0.tar", 600), ("0.tar.gz", 60)])
def test_half_a_tar_is_one_line(tmp_path, name, length):
    write_tar(tmp_path / "whole.tar", samples("0.png", "1.png"))
    content = (tmp_path / "whole.tar").read_bytes()
    content = gzip.compress(content) if name.endswith("gz") else content
    (tmp_path / "tars/train").mkdir(parents=True)
    (tmp_path / "tars/train" / name).write_bytes(content[:length])
    for read in (on_disk, in_a_stream):
        with pytest.raises(InputError, match=f"{name}: the sample behind None cannot be read, .*: mend it"):
            read(tmp_path / "tars", tmp_path)


def test_a_tar_that_was_cut_between_two_samples_is_warned_of(tmp_path, recwarn):
    write_tar(tmp_path / "tars/train/0.tar", samples("0.png", "1.png", "2.png"))
    assert len(on_disk(tmp_path / "tars", tmp_path)) == 3
    assert "does not end" not in str([str(warned.message) for warned in recwarn])
    (tmp_path / "half/train").mkdir(parents=True)
    (tmp_path / "half/train/0.tar").write_bytes(
        (tmp_path / "tars/train/0.tar").read_bytes()[: 8 * 512]
    )  # two pictures, two texts
    for read in (on_disk, in_a_stream):
        with pytest.warns(
            UserWarning,
            match="0.tar does not end as tars do: if it was cut short, its last samples are missing",
        ):
            assert sorted(read(tmp_path / "half", tmp_path)) == [0, 1]
