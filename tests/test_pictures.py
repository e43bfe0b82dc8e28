"""Rows whose picture cannot be decoded."""

import io
import json

import pytest
from datasets import Dataset, Features, Image, Value
from PIL import Image as PillowImage

from benchmarks.recipe import InputError
from training.pictures import keep_readable

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
    assert list(good["number"]) == [0, 4] and n_bad == 4
    assert [image.getpixel((0, 0)) for image in good["image"]] == [(255, 0, 0), (0, 0, 255)]
    report = [json.loads(line) for line in (tmp_path / "out/bad_rows.jsonl").read_text().splitlines()]
    assert [line["row"] for line in report] == [1, 2, 3, 5] and report[0]["path"] == "a.png"
    assert "cannot identify image" in report[0]["problem"] and "truncated" in report[1]["problem"].lower()
    assert report[2]["problem"] == "there is no image" and "FileNotFoundError" in report[3]["problem"]


def test_good_rows_are_left_as_they_are(rows, tmp_path):
    good = rows.select([0, 4])
    assert keep_readable(good, "error", str(tmp_path / "out")) == (good, 0) and not (tmp_path / "out").exists()


def test_a_mended_file_is_read_anew(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    (tmp_path / "b.png").write_bytes(encoded())
    rows = Dataset.from_dict({"image": [str(tmp_path / "a.png"), str(tmp_path / "b.png")]})
    assert keep_readable(rows, "set_aside", str(tmp_path / "out"))[1] == 1
    (tmp_path / "a.png").write_bytes(encoded())
    good, n_bad = keep_readable(rows, "set_aside", str(tmp_path / "out"))
    assert n_bad == 0 and good["image"][0].size == (8, 8)


def test_bad_rows_are_refused_where_that_is_asked(rows, tmp_path):
    with pytest.raises(InputError, match="4 of 6 images cannot be decoded, row 1 first: UnidentifiedImageError.*All are in"):
        keep_readable(rows, "error", str(tmp_path))
    with pytest.raises(InputError, match="1 of 1 images cannot be decoded"):
        keep_readable(rows.select([1]), "set_aside", str(tmp_path))
    with pytest.raises(InputError, match="bad_rows is 'skip': choose from set_aside, error"):
        keep_readable(rows, "skip", str(tmp_path))


@pytest.mark.parametrize("policy", ["set_aside", "error"])
def test_stage_2_meets_a_bad_picture(folder, run, tmp_path, policy):
    (tmp_path / "pictures").mkdir()
    for number in range(4):
        (tmp_path / f"pictures/{number}.png").write_bytes(encoded() if number != 2 else b"no picture")
    lines = [json.dumps({"file_name": f"{number}.png", "captions": {"en": f"key {number}"}}) for number in range(4)]
    (tmp_path / "pictures/metadata.jsonl").write_text("\n".join(lines))
    process = run(
        *["python", ROOT / "training/run_stage2.py", ROOT / "training/recipes/altclip/stage2.yaml", "--model_name_or_path", folder],
        *["--dataset", tmp_path / "pictures", "--languages", "en", "--output_dir", tmp_path / "out", "--bad_rows", policy],
        *["--max_steps", "1", "--per_device_train_batch_size", "2", "--bf16", "false", "--use_cpu", "true"],
    )
    if policy == "error":
        assert process.returncode == 1 and "1 of 4 images cannot be decoded, row 2 first" in process.stderr.splitlines()[-1]
    else:
        assert process.returncode == 0, process.stderr
        assert "Set aside 1 rows with bad images" in process.stdout and "from 3 rows" in process.stdout
