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

from common.errors import InputError
from training.data.examples import prepare_images
from training.data.images import ImageViews, keep_readable, read_picture

from .conftest import ROOT


def encoded(color="red", size=(8, 8)):
    """Return the bytes of a PNG of one color."""
    return saved(PillowImage.new("RGB", size, color), "PNG")


def saved(picture, form):
    """Return the bytes of a file."""
    buffer = io.BytesIO()
    picture.save(buffer, form)
    return buffer.getvalue()


@pytest.fixture
def rows(tmp_path):
    """Return six rows, of which the first and the fifth have a picture that can be decoded."""
    broken = encoded(size=(64, 64))
    # A good one, text, half a file, nothing, a good one and a file that is gone.
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
    assert "Pillow knows no such format" in report[0]["problem"]
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
    # The rows are the same, and so is their fingerprint: only the file has changed.
    (tmp_path / "a.png").write_bytes(encoded())
    good, n_bad = keep_readable(rows, "set_aside", str(tmp_path / "out"))
    assert n_bad == 0
    assert good["image"][0].size == (8, 8)


def test_bad_rows_are_refused_where_that_is_asked(rows, tmp_path):
    message = "4 of 6 images cannot be decoded, row 1 first: Pillow knows no such format.*All are in"
    with pytest.raises(InputError, match=message):
        keep_readable(rows, "error", str(tmp_path))
    with pytest.raises(InputError, match="1 of 1 images cannot be decoded"):
        # With no good row left, there is nothing to train on.
        keep_readable(rows.select([1]), "set_aside", str(tmp_path))
    with pytest.raises(InputError, match="bad_rows is 'skip': choose from set_aside, error"):
        keep_readable(rows, "skip", str(tmp_path))


@pytest.mark.parametrize("policy", ["set_aside", "error"])
def test_stage_2_meets_a_bad_picture(altclip_folder, run_python, tmp_path, policy):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    lines = []
    for number in range(4):
        content = b"no picture" if number == 2 else encoded()
        (pictures / f"{number}.png").write_bytes(content)
        lines.append(json.dumps({"file_name": f"{number}.png", "captions": {"en": f"key {number}"}}))
    (pictures / "metadata.jsonl").write_text("\n".join(lines))

    command = [ROOT / "training/run_stage2.py", ROOT / "training/recipes/miniature/stage2.yaml"]
    command += ["--split", "train"]
    command += ["--model_name_or_path", altclip_folder, "--dataset", pictures, "--languages", "en"]
    command += ["--output_dir", tmp_path / "out", "--bad_rows", policy, "--max_steps", "1"]
    command += ["--per_device_train_batch_size", "2", "--bf16", "false", "--use_cpu", "true"]
    process = run_python("python", *command)
    if policy == "error":
        assert process.returncode == 1
        assert "1 of 4 images cannot be decoded, row 2 first" in process.stderr.splitlines()[-1]
    else:
        assert process.returncode == 0, process.stderr
        assert "Skipped 1 images" in process.stdout
        assert "from 3 rows" in process.stdout


def test_transparent_pictures_reach_the_background_of_the_processor(tmp_path):
    """Decode them as they are, in a table and in a stream, and composite them where an image processor
    prepares them.
    """
    # Red below full transparency: it shows only where alpha is dropped.
    transparent = PillowImage.new("RGBA", (8, 8), (255, 0, 0, 0))
    image = {"bytes": saved(transparent, "PNG"), "path": None}
    rows = Dataset.from_dict({"image": [image]}, features=Features({"image": Image(mode="RGB")}))
    good, _ = keep_readable(rows, "error", str(tmp_path))
    in_a_table = good[0]["image"]
    in_a_stream, problem = read_picture(image)
    of_views = ImageViews(good, 2)[[0]]["image"][0]
    assert problem == ""

    for background, color in (("white", [1, 1, 1]), ("black", [0, 0, 0]), ("none", [1, 0, 0])):
        image_processor = CLIPImageProcessor(
            size={"height": 8, "width": 8}, do_center_crop=False, do_normalize=False, background=background
        )
        for picture in (in_a_table, in_a_stream, of_views):
            pixels = prepare_images([picture], image_processor)["pixel_values"]
            assert pixels[0, :, 0, 0].tolist() == color


def test_a_picture_that_decodes_to_no_shades_is_set_aside(tmp_path):
    # TIFF holds floats, and so NaN.
    shades = PillowImage.fromarray(torch.full((8, 8), torch.nan).numpy())
    contents = [encoded(), saved(shades, "TIFF")]
    rows = Dataset.from_dict({"image": [{"bytes": content, "path": None} for content in contents]})
    good, n_bad = keep_readable(rows, "set_aside", str(tmp_path))
    assert len(good) == 1
    assert n_bad == 1
    assert "infinite or no numbers" in (tmp_path / "bad_rows.jsonl").read_text()


def test_pictures_in_a_zip_are_known_by_their_bytes(tmp_path):
    """Give them the digest of a picture beside the zip with the same bytes."""
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
        archive.writestr("a.png", encoded("red"))
    (tmp_path / "a.png").write_bytes(encoded("red"))
    images = [f"zip://a.png::{tmp_path}/pictures.zip", str(tmp_path / "a.png")]
    rows = Dataset.from_dict({"image": images}, features=Features({"image": Image()}))
    digests = ImageViews(rows, 1).digests
    assert digests == [xxh3_128(encoded("red")).hexdigest()] * 2
