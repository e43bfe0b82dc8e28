"""A training set with 5 % bad rows of many kinds trains as it does without them, and each kind is counted."""

import io
import json
import re
import struct
import zlib
from collections import Counter
from copy import deepcopy
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Features, Image, List, Value
from PIL import Image as PillowImage
from safetensors.torch import load_file

from .conftest import ROOT

N_ROWS = 440
N_BAD = 22  # 5 %
LANGUAGES = ["en", "zh"]
FEATURES = Features(
    {"image": Image(), "captions": {language: List(Value("string")) for language in LANGUAGES}}
)


class Bad(NamedTuple):
    """A kind of bad row: how many there are, what they hold, and what is said of them.

    Attributes:
        problem: pattern of the reason in `bad_rows.jsonl`; None where a row lacks captions, not its image.
    """

    count: int
    row: dict
    problem: str | None


def encoded(number: int, form: str = "PNG") -> bytes:
    """Return the bytes of a picture of noise, another one for each number."""
    pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    return bytes_of(PillowImage.fromarray(pixels), form)


def bytes_of(picture: PillowImage.Image, form: str) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form)
    return buffer.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    """Return a chunk of a PNG: length, name, content and checksum."""
    checksum = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)


def png_of_size(width: int, height: int) -> bytes:
    """Return a PNG whose header states a size, and that has hardly any pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def damaged() -> bytes:
    """Return a PNG with a flipped byte in its pixels."""
    content = bytearray(encoded(1))
    content[len(content) // 2] ^= 0xFF
    return bytes(content)


def of_image(image: dict | None) -> dict:
    """Return a row with good captions and this image."""
    return {"image": image, "captions": {"en": ["of a bad image"], "zh": ["坏图"]}}


def of_bytes(content: bytes | None, path: str | None = None) -> dict:
    return of_image({"bytes": content, "path": path})


def of_captions(captions: dict | None) -> dict:
    """Return a row with a good image and these captions."""
    return {"image": {"bytes": encoded(10_000), "path": None}, "captions": captions}


INSIDE = "INSIDE"  # stands for the folder of the dataset
SHADES = PillowImage.fromarray(np.full((8, 8), np.nan, np.float32))  # TIFF holds floats, and so NaN
# Kinds that are refused later can be added here.
KINDS = {
    "text": Bad(1, of_bytes(b"no picture"), "Pillow knows no such format"),
    "page of an error": Bad(2, of_bytes(b"<html>404</html>", "a.jpg"), "Pillow knows no such format"),
    "half a PNG": Bad(3, of_bytes(encoded(1)[:1500]), "OSError: .*truncated"),
    "half a JPEG": Bad(1, of_bytes(encoded(1, "JPEG")[:700]), "OSError: .*truncated"),
    "flipped byte": Bad(1, of_bytes(damaged()), "Error|broken|CRC"),
    "empty": Bad(2, of_bytes(b""), "Pillow knows no such format"),
    "no image": Bad(1, of_image(None), "there is no image"),
    "gone file": Bad(1, of_bytes(None, f"{INSIDE}/gone.png"), "FileNotFoundError: .*gone.png"),
    "file elsewhere": Bad(1, of_bytes(None, str(ROOT / "README.md")), "lies outside of the dataset"),
    "no shades": Bad(1, of_bytes(bytes_of(SHADES, "TIFF")), "infinite or no numbers"),
    "too large": Bad(1, of_bytes(png_of_size(20_000, 20_000)), "pixels"),
    "too narrow": Bad(1, of_bytes(png_of_size(1, 400)), "200"),
    "no pixels": Bad(1, of_bytes(png_of_size(0, 0)), "."),
    "no captions": Bad(1, of_captions({"en": None, "zh": None}), None),
    "empty lists": Bad(1, of_captions({"en": [], "zh": []}), None),
    "blank captions": Bad(2, of_captions({"en": ["  \t"], "zh": ["\u3000\u200b"]}), None),
    "null captions": Bad(1, of_captions({"en": [None], "zh": None}), None),
}


def good_row(number: int) -> dict:
    captions = {"en": [f"key {number}"], "zh": [f"狗 {number}"]}
    return {"image": {"bytes": encoded(number), "path": None}, "captions": captions}


def write(rows: list[dict], folder: Path) -> Path:
    folder.mkdir()
    rows = deepcopy(rows)
    for row in rows:
        image = row["image"]
        if image is not None and image["path"] is not None:
            image["path"] = image["path"].replace(INSIDE, str(folder))
    # Not by `datasets`, which would look for the file that is gone.
    pq.write_table(pa.Table.from_pylist(rows, FEATURES.arrow_schema), folder / "train-0.parquet")
    return folder


@pytest.fixture
def train(altclip_folder, run_python, tmp_path):
    """Return a function that trains stage 2 on a dataset; it returns what was printed, and the folder."""

    def train(dataset, *flags):
        folder = tmp_path / f"out of {dataset.name}"
        command = [ROOT / "training/run_stage2.py", ROOT / "training/recipes/miniature/stage2.yaml"]
        command += ["--split", "train"]
        command += ["--model_name_or_path", altclip_folder, "--dataset", dataset, "--languages", *LANGUAGES]
        command += ["--output_dir", folder, "--max_steps", "8", "--per_device_train_batch_size", "64"]
        command += ["--bf16", "false", "--use_cpu", "true", "--logging_steps", "1", *flags]
        process = run_python("python", *command, OMP_NUM_THREADS="1")
        assert process.returncode == 0, process.stderr[-3000:]
        return process.stdout, folder

    return train


def mixed(good: list[dict]) -> tuple[list[dict], dict[int, str]]:
    """Strew the bad rows among the good ones; return all, and the kind of each bad row by its number."""
    kinds = [name for name, bad in KINDS.items() for _ in range(bad.count)]
    random = np.random.default_rng(0)
    places = random.permutation(N_ROWS)[:N_BAD].tolist()
    kind_at = dict(zip(places, kinds, strict=True))
    rest = iter(good)
    rows = []
    for number in range(N_ROWS):
        rows.append(KINDS[kind_at[number]].row if number in kind_at else next(rest))
    return rows, kind_at


# The recipe's frozen image tower embeds all images beforehand; without the cache it does at each step.
@pytest.mark.parametrize("cached", ["true", pytest.param("false", marks=pytest.mark.slow)])
def test_bad_rows_change_nothing_and_are_counted_by_kind(train, tmp_path, cached):
    good = [good_row(number) for number in range(N_ROWS - N_BAD)]
    rows, kind_at = mixed(good)
    flags = ("--cache_image_embeds", cached, "--cache_dir", tmp_path / "cache")
    _, expected = train(write(good, tmp_path / "good"), *flags)
    said, found = train(write(rows, tmp_path / "mixed"), *flags)

    weights = load_file(expected / "model.safetensors")
    assert (found / "model.safetensors").read_bytes() == (expected / "model.safetensors").read_bytes()
    start = load_file(tmp_path / "altclip/model.safetensors")
    assert any(not weights[name].equal(start[name]) for name in weights)  # something was learned

    # Bad images are listed with their row and reason, those of each kind and no others.
    report = (found / "bad_rows.jsonl").read_text("utf-8")
    lines = [json.loads(line) for line in report.splitlines()]
    counted = Counter(kind_at[line["row"]] for line in lines)
    assert counted == {name: bad.count for name, bad in KINDS.items() if bad.problem}
    for line in lines:
        assert re.search(KINDS[kind_at[line["row"]]].problem, line["problem"]), line
    assert f"Skipped {len(lines)} images, listed in {found}/bad_rows.jsonl." in said

    # Rows without a caption are counted as what they would have been: an example in each language.
    n_without = sum(bad.count for bad in KINDS.values() if bad.problem is None)
    n_good = len(good)
    n_kept = n_good + n_without
    n_empty = n_without * len(LANGUAGES)
    assert f"{n_good * 2} examples from {n_kept} rows; skipped: {n_empty} empty" in said
    assert not (expected / "bad_rows.jsonl").exists()


def test_there_are_five_percent_of_at_least_twelve_kinds():
    assert len(KINDS) >= 12
    assert sum(bad.count for bad in KINDS.values()) == N_BAD == 0.05 * N_ROWS
