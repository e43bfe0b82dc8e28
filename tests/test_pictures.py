"""Rows whose picture cannot be decoded."""

import io
import json
import zipfile

import pytest
import torch
from datasets import Dataset, Features, Image, Value
from PIL import Image as PillowImage
from transformers import CLIPImageProcessor
from xxhash import xxh3_128

from benchmarks.recipe import InputError
from training.data import prepare_images
from training.pictures import keep_readable, read_picture
from training.views import ImageViews

from .conftest import ROOT


def encoded(color="red", size=(8, 8)):
    buffer = io.BytesIO()
    PillowImage.new("RGB", size, color).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def rows(tmp_path):
    broken = encoded(size=(64, 64))
    images = [
        {"bytes": encoded("red"), "path": None},
        {"bytes": b"no picture", "path": "a.png"},
        {"bytes": broken[: len(broken) // 2], "path": "half.png"},
        None,
        {"bytes": encoded("blue"), "path": None},
        {"bytes": None, "path": str(tmp_path / "gone.png")},
    ]
    features = Features({"image": Image(), "number": Value("int64")})
    return Dataset.from_dict({"image": images, "number": list(range(6))}, features=features)


def test_bad_rows_are_set_aside_counted_and_named(rows, tmp_path):
    good, n_bad = keep_readable(rows, "set_aside", str(tmp_path / "out"))
    assert list(good["number"]) == [0, 4]
    assert n_bad == 4
    assert [image.getpixel((0, 0)) for image in good["image"]] == [(255, 0, 0), (0, 0, 255)]
    report = [json.loads(line) for line in (tmp_path / "out/bad_rows.jsonl").read_text().splitlines()]
    assert [line["row"] for line in report] == [1, 2, 3, 5]
    assert report[0]["path"] == "a.png"
    assert "cannot identify image" in report[0]["problem"]
    assert "truncated" in report[1]["problem"].lower()
    assert report[2]["problem"] == "there is no image"
    assert "FileNotFoundError" in report[3]["problem"]


def test_good_rows_are_left_as_they_are(rows, tmp_path):
    good = rows.select([0, 4])
    assert keep_readable(good, "error", str(tmp_path / "out")) == (good, 0)
    assert not (tmp_path / "out").exists()


def test_a_mended_file_is_read_anew(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    (tmp_path / "b.png").write_bytes(encoded())
    rows = Dataset.from_dict({"image": [str(tmp_path / "a.png"), str(tmp_path / "b.png")]})
    assert keep_readable(rows, "set_aside", str(tmp_path / "out"))[1] == 1
    (tmp_path / "a.png").write_bytes(encoded())
    good, n_bad = keep_readable(rows, "set_aside", str(tmp_path / "out"))
    assert n_bad == 0
    assert good["image"][0].size == (8, 8)


def test_bad_rows_are_refused_where_that_is_asked(rows, tmp_path):
    with pytest.raises(
        InputError, match="4 of 6 images cannot be decoded, row 1 first: UnidentifiedImageError.*All are in"
    ):
        keep_readable(rows, "error", str(tmp_path))
    with pytest.raises(InputError, match="1 of 1 images cannot be decoded"):
        keep_readable(rows.select([1]), "set_aside", str(tmp_path))
    with pytest.raises(InputError, match="bad_rows is 'skip': choose from set_aside, error"):
        keep_readable(rows, "skip", str(tmp_path))


@pytest.mark.parametrize("policy", ["set_aside", "error"])
def test_stage_2_meets_a_bad_picture(altclip_folder, run_python, tmp_path, policy):
    (tmp_path / "pictures").mkdir()
    for number in range(4):
        (tmp_path / f"pictures/{number}.png").write_bytes(encoded() if number != 2 else b"no picture")
    lines = [
        json.dumps({"file_name": f"{number}.png", "captions": {"en": f"key {number}"}}) for number in range(4)
    ]
    (tmp_path / "pictures/metadata.jsonl").write_text("\n".join(lines))
    process = run_python(
        *[
            "python",
            ROOT / "training/run_stage2.py",
            ROOT / "training/recipes/altclip/stage2.yaml",
            "--model_name_or_path",
            altclip_folder,
        ],
        *[
            "--dataset",
            tmp_path / "pictures",
            "--languages",
            "en",
            "--output_dir",
            tmp_path / "out",
            "--bad_rows",
            policy,
        ],
        *["--max_steps", "1", "--per_device_train_batch_size", "2", "--bf16", "false", "--use_cpu", "true"],
    )
    if policy == "error":
        assert process.returncode == 1
        assert "1 of 4 images cannot be decoded, row 2 first" in process.stderr.splitlines()[-1]
    else:
        assert process.returncode == 0, process.stderr
        assert "Set aside 1 rows with bad images" in process.stdout
        assert "from 3 rows" in process.stdout


def test_transparent_pictures_reach_the_background_of_the_processor(tmp_path):
    """Decoded as they are, in a table and in a stream, and composited where an image processor prepares them."""
    buffer = io.BytesIO()
    PillowImage.new("RGBA", (8, 8), (255, 0, 0, 0)).save(buffer, "PNG")
    image = {"bytes": buffer.getvalue(), "path": None}
    rows = Dataset.from_dict({"image": [image]}, features=Features({"image": Image(mode="RGB")}))
    good, _ = keep_readable(rows, "error", str(tmp_path))
    streamed, problem = read_picture(image)
    assert problem == ""
    for background, value in (("white", 1), ("black", 0), ("none", [1, 0, 0])):
        options = {"size": {"height": 8, "width": 8}, "do_center_crop": False, "do_normalize": False}
        image_processor = CLIPImageProcessor(**options, background=background)
        for picture in (good[0]["image"], streamed, ImageViews(good, 2)[[0]]["image"][0]):
            pixels = prepare_images([picture], image_processor)
            assert pixels[0, :, 0, 0].tolist() == torch.tensor(value).expand(3).tolist()


def test_a_picture_that_decodes_to_no_shades_is_set_aside(rows, tmp_path):
    buffer = io.BytesIO()
    PillowImage.fromarray(torch.full((8, 8), torch.nan).numpy()).save(buffer, "TIFF")
    rows = Dataset.from_dict(
        {"image": [{"bytes": encoded(), "path": None}, {"bytes": buffer.getvalue(), "path": None}]}
    )
    good, n_bad = keep_readable(rows, "set_aside", str(tmp_path))
    assert len(good) == 1
    assert n_bad == 1
    assert "infinite or no numbers" in (tmp_path / "bad_rows.jsonl").read_text()


def test_pictures_in_a_zip(tmp_path):
    """Known by their bytes, as those beside it."""
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
        archive.writestr("a.png", encoded("red"))
    (tmp_path / "a.png").write_bytes(encoded("red"))
    images = [f"zip://a.png::{tmp_path}/pictures.zip", str(tmp_path / "a.png")]
    rows = Dataset.from_dict({"image": images}, features=Features({"image": Image()}))
    digests = ImageViews(rows, 1).digests
    assert digests == [xxh3_128(encoded("red")).hexdigest()] * 2
