"""Tars of pictures whose names or columns are not all alike, in training, in evaluation, on the disk and as
streams.
"""

import bz2
import gzip
import io
import json
import lzma
from functools import partial

import pyarrow as pa
import pytest
import yaml
from datasets import Image
from PIL import Image as PillowImage

from benchmarks.tasks.loading import load_task
from benchmarks.tasks.reading import read_rows
from common.errors import InputError
from training.arguments import ContrastiveArguments
from training.data.captions import find_form
from training.data.loading import load_image_rows, load_images
from training.data.preview import first_captions
from training.data.streaming import ExampleStream, open_files

from .replicas import write_tar

FORMATS = {"jpg": "JPEG", "jpeg": "JPEG", "webp": "WEBP"}
SHADE = 20  # of a picture's number: what compression leaves of it tells the number


def picture(number, ending="png"):
    """Return the bytes of a picture in the format of an ending."""
    buffer = io.BytesIO()
    image = PillowImage.new("RGB", (16, 16), (SHADE * number, 128, 128))
    image.save(buffer, FORMATS.get(ending.lower(), "PNG"))
    return buffer.getvalue()


def number_in(image):
    """Read the number of a picture from its shade."""
    red, _, _ = image.convert("RGB").getpixel((5, 5))
    return round(red / SHADE)


def samples(*names, captions="txt"):
    """Return a picture of each name, and `picture N` in a text file that is named alike."""
    members = {}
    for number, name in enumerate(names):
        stem, _, ending = name.rpartition(".")
        members[name] = picture(number, ending)
        members[f"{stem}.{captions}"] = f"picture {number}".encode()
    return members


def arguments_for(folder, tmp_path, **given):
    """Return the arguments of a stage that reads the tars."""
    defaults = {
        "dataset": str(folder),
        "output_dir": str(tmp_path / "out"),
        "model_name_or_path": "",
        "disable_tqdm": True,
        "report_to": "none",
        "use_cpu": True,
        "max_steps": 1,
        "cache_image_embeds": False,
        "split": "train",
    }
    return ContrastiveArguments(**defaults | given)


def on_disk(folder, tmp_path, languages=("en",)):
    """Return `{number of the picture: captions}` as training reads them."""
    rows = load_images(arguments_for(folder, tmp_path), list(languages) or None)
    found = {}
    for row in rows.cast_column("image", Image()):
        number = number_in(row["image"])
        found[number] = {language: texts for language, texts in row["captions"].items() if texts}
    return found


def in_a_stream(folder, tmp_path, languages=("en",)):
    """Return the same of one pass of a stream."""
    rows = open_files(str(folder), "train")
    form = find_form(rows.features, str(folder), languages=list(languages) or None)
    stream = ExampleStream(rows, form, list(languages) or form.available, tmp_path / "bad.jsonl")
    stream.named = set()
    examples = [stream.example(row, 0) for row in rows]
    return {number_in(example["image"]): {"en": [example["text"]]} for example in examples if example}


def as_a_task(folder, tmp_path, streaming, **columns):
    """Return the same as a task reads it."""
    task = {
        "kind": "retrieval",
        "dataset": str(folder),
        "split": "train",
        "metric": "mean_recall",
        "layout": "webdataset",
        "columns": {"captions": {"en": "txt"}, **columns},
        "languages": ["en"],
    }
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(task))
    rows = read_rows(load_task(str(path)), streaming=streaming)
    return {number_in(row["image"]): row["captions"] for row in rows}


WAYS = {
    "training": on_disk,
    "a stream": in_a_stream,
    "a task": lambda folder, tmp_path: as_a_task(folder, tmp_path, False),
    "a task's stream": lambda folder, tmp_path: as_a_task(folder, tmp_path, True),
}
# `datasets` learns the columns of tars from their first five samples: later ones may not be alike.
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


def expected_captions(numbers):
    """Return `{number of the picture: captions}` as `samples` writes them."""
    return {number: {"en": [f"picture {number}"]} for number in numbers}


@pytest.mark.parametrize("read", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
def test_pictures_are_read_whatever_they_are_called(tmp_path, names, read):
    write_tar(tmp_path / "tars/train/0.tar", samples(*names))
    assert read(tmp_path / "tars", tmp_path) == expected_captions(range(len(names)))


@pytest.mark.parametrize("read", WAYS.values(), ids=WAYS)
def test_names_begin_anew_in_each_tar(tmp_path, read):
    members = samples("0.jpg", "1.JPG", "2.png", "3.webp")
    # Tar 0 has pictures 0 and 1.
    first = {name: content for name, content in members.items() if name[0] in "01"}
    write_tar(tmp_path / "tars/train/0.tar", first)
    # In the second tar pictures 2 and 3 are called 0 and 1: "3.webp" -> "1.webp"
    second = {}
    for name, content in members.items():
        if name[0] in "23":
            second[f"{int(name[0]) - 2}{name[1:]}"] = content
    write_tar(tmp_path / "tars/train/1.tar", second)
    assert read(tmp_path / "tars", tmp_path) == expected_captions(range(4))


def test_a_name_of_another_tar_may_lack_its_picture(tmp_path):
    write_tar(tmp_path / "tars/train/0.tar", samples("0.jpg"))
    # Name 0 stands in both tars: its text here must not be that of the picture there.
    members = {"0.txt": b"of no picture", "1.png": picture(1), "1.txt": b"picture 1"}
    write_tar(tmp_path / "tars/train/1.tar", members)
    assert on_disk(tmp_path / "tars", tmp_path) == expected_captions([0, 1])


@pytest.mark.parametrize("read", WAYS.values(), ids=WAYS)
def test_the_first_samples_may_lack_a_caption(tmp_path, read):
    members = samples(*(f"{number}.jpg" for number in range(8)), captions="TXT")
    # More samples without a caption than those from which `datasets` learns columns.
    for number in range(6):
        del members[f"{number}.TXT"]
    write_tar(tmp_path / "tars/train/0.tar", members)
    found = read(tmp_path / "tars", tmp_path)
    with_caption = {number: captions for number, captions in found.items() if captions.get("en")}
    assert with_caption == expected_captions([6, 7])


@pytest.mark.parametrize("read", [on_disk, in_a_stream])
def test_fields_of_json_are_those_of_all_samples(tmp_path, read):
    """Read a language of later samples, and values of several types, beside a text that is not asked for."""
    members = samples(*(f"{number}.png" for number in range(8)))
    for number in range(8):
        fields = {"captions": {"en": f"picture {number}"}, "width": 16, "exif": {}}
        if number >= 6:
            # Fields that change their type would break a table, though nobody asked for them.
            fields |= {"width": "16", "exif": {"a": 1}}
        if number == 7:
            fields["captions"] = {"en": ["picture 7"], "zh": "图"}
        members[f"{number}.JSON"] = json.dumps(fields).encode()
    write_tar(tmp_path / "tars/train/0.tar", dict(sorted(members.items())))

    found = read(tmp_path / "tars", tmp_path, [])
    assert found.pop(7)["en"][0] in ("picture 7", "图")
    assert found == expected_captions(range(7))
    texts, said = first_captions(arguments_for(tmp_path / "tars", tmp_path))
    assert "picture 3" in texts
    assert "captions in en zh" in said


@pytest.mark.parametrize(
    "file,content,named",
    [
        ("4.txt", b"x", "txt"),
        ("4.json", b'{"captions": {"en": "a", "zh": "b"}}', "captions in zh"),
        ("4.png", picture(4), "png"),
    ],
    ids=["a text", "a language", "a second picture"],
)
def test_a_stream_refuses_columns_that_only_later_samples_have(tmp_path, monkeypatch, file, content, named):
    """Refuse those of later tars too: no other than the first is fetched to learn the columns."""
    # Sample 4 is then beyond those that tell a stream its columns.
    monkeypatch.setattr("common.files.tars.N_SEEN", 3)
    members = {}
    for number in range(5):
        members[f"{number}.jpg"] = picture(number, "jpg")
        members[f"{number}.json"] = b'{"captions": {"en": "a"}}'
        if file != "4.txt":
            members[f"{number}.txt"] = f"picture {number}".encode()
    members[file] = content
    write_tar(tmp_path / "tars/train/0.tar", dict(sorted(members.items())))
    message = f"the sample '4' has {named}, which none of the first tar's first 3 has: put one"
    with pytest.raises(InputError, match=message):
        in_a_stream(tmp_path / "tars", tmp_path)
    if named == "captions in zh":  # on disk, all samples tell the columns
        assert on_disk(tmp_path / "tars", tmp_path, [])[4] == {"en": ["a"], "zh": ["b"]}


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
        assert as_a_task(tmp_path / "tars", tmp_path, streaming, image="jpg") == expected_captions([0, 1])


def test_a_task_may_name_any_of_the_endings(tmp_path):
    write_tar(tmp_path / "tars/train/0.tar", samples("0.png", "1.jpg", "2.webp"))
    for streaming in (False, True):
        # One ending stands for the pictures of all.
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
            # Sorted by their endings, as some programs pack them.
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
    members = samples("0.jpg", "b.1.PNG") | {"c.2.HEIC": b"no picture", "c.2.txt": b"x"}
    write_tar(tmp_path / "tars/train/0.tar", members)
    assert set(on_disk(tmp_path / "tars", tmp_path)) == {0, 1}
    (text,) = (tmp_path / "out/bad_rows.jsonl").read_text("utf-8").splitlines()
    line = json.loads(text)
    assert line["row"] == 2
    assert line["path"] == "c.2.HEIC"


def test_a_byte_order_mark_is_no_part_of_a_caption(tmp_path):
    members = samples("0.png", "1.png") | {"0.txt": "\ufeffpicture 0".encode()}
    write_tar(tmp_path / "tars/train/0.tar", members)
    for read in WAYS.values():
        assert read(tmp_path / "tars", tmp_path)[0] == {"en": ["picture 0"]}


@pytest.mark.parametrize(
    "ending,compress",
    [
        ("gz", gzip.compress),
        ("bz2", bz2.compress),
        ("xz", lzma.compress),
        ("zst", partial(pa.compress, codec="zstd", asbytes=True)),
    ],
)
def test_tars_are_unpacked(tmp_path, ending, compress):
    folder = tmp_path / "tars/train"
    dog = {"0.png": picture(3), "0.txt": b"a dog"}
    cat = {"1.png": picture(4), "1.txt": b"a cat"}
    write_tar(folder / "0.tar", {".hidden.png": b"", **dog, **cat})
    content = (folder / "0.tar").read_bytes()
    (folder / "0.tar").unlink()
    packed = folder / f"0.tar.{ending}"
    packed.write_bytes(compress(content))
    rows = load_image_rows(str(tmp_path / "tars"), "train", ["en"])
    assert [captions["en"] for captions in rows["captions"][:]] == [["a dog"], ["a cat"]]
    assert len(list(open_files(str(tmp_path / "tars"), "train"))) == 2

    half = compress(content)
    packed.write_bytes(half[: len(half) // 2])
    with pytest.raises(InputError, match="cannot be read|cannot be loaded: Truncated compressed stream"):
        load_image_rows(str(tmp_path / "tars"), "train", ["en"])


# Nothing, a header of 512 bytes with part of its file, and the beginning of a gzip.
@pytest.mark.parametrize("name,length", [("0.tar", 0), ("0.tar", 600), ("0.tar.gz", 60)])
def test_half_a_tar_is_one_line(tmp_path, name, length):
    write_tar(tmp_path / "whole.tar", samples("0.png", "1.png"))
    content = (tmp_path / "whole.tar").read_bytes()
    if name.endswith("gz"):
        content = gzip.compress(content)
    (tmp_path / "tars/train").mkdir(parents=True)
    (tmp_path / "tars/train" / name).write_bytes(content[:length])
    for read in (on_disk, in_a_stream):
        with pytest.raises(InputError, match=f"{name}: the sample behind None cannot be read, .*: fix it"):
            read(tmp_path / "tars", tmp_path)


def test_a_tar_that_is_compressed_in_parts_is_refused(tmp_path):
    """Only the first part would be read: of two parts half of the samples were lost in silence."""
    write_tar(tmp_path / "whole.tar", samples("0.png", "1.png", "2.png", "3.png"))
    content = (tmp_path / "whole.tar").read_bytes()
    tar = tmp_path / "tars/train/0.tar.gz"
    tar.parent.mkdir(parents=True)
    middle = 8 * 512  # behind two pictures with their texts
    tar.write_bytes(gzip.compress(content[:middle]) + gzip.compress(content[middle:]))
    message = "0.tar.gz is compressed in several parts, of which only the first would be read: unpack it"
    for read in WAYS.values():
        with pytest.raises(InputError, match=message):
            read(tmp_path / "tars", tmp_path)
    tar.write_bytes(gzip.compress(content) + bytes(512))  # padded
    for read in WAYS.values():
        assert sorted(read(tmp_path / "tars", tmp_path)) == [0, 1, 2, 3]


def test_a_tar_that_was_cut_between_two_samples_is_warned_of(tmp_path, recwarn):
    whole = tmp_path / "tars/train/0.tar"
    write_tar(whole, samples("0.png", "1.png", "2.png"))
    assert len(on_disk(tmp_path / "tars", tmp_path)) == 3
    assert not [warned for warned in recwarn if "does not end" in str(warned)]

    half = tmp_path / "half/train/0.tar"
    half.parent.mkdir(parents=True)
    half.write_bytes(whole.read_bytes()[: 8 * 512])  # two pictures, two texts
    message = "0.tar does not end as tars do: if it was cut short, its last samples are missing"
    for read in (on_disk, in_a_stream):
        with pytest.warns(UserWarning, match=message):
            assert sorted(read(tmp_path / "half", tmp_path)) == [0, 1]
