"""Rows and cards of a dataset that name addresses and files outside of it, and datasets without contents."""

import json
from functools import partial
from pathlib import Path

from benchmarks.tasks.reading import read_rows
from common.files.rows import load_rows
from training.arguments import ContrastiveArguments
from training.data.loading import load_examples

from ..test_outside import BROKEN_CARDS, HUB, png, task_of, write
from .place import Place, Row

OUTSIDE = "lies outside of "


def rows(place: Place) -> list[Row]:
    return [*_named_by_rows(place), *_named_by_cards(place), *_without_contents(place)]


def _train(dataset: Path) -> None:
    arguments = ContrastiveArguments(
        dataset=str(dataset),
        model_name_or_path="",
        output_dir=f"{dataset}-out",
        use_cpu=True,
        report_to="none",
        bad_rows="error",
    )
    load_examples(arguments, ["en"])


def _dataset_of(place: Place, *paths: str) -> Path:
    """Write a dataset whose images are named by paths."""
    folder = place.new_folder()
    write(folder, [{"bytes": None, "path": path} for path in paths])
    return folder


def _named_by_rows(place: Place) -> list[Row]:
    paths = {
        "an address": f"{place.url}/a.png",
        "a zip at an address": f"zip://a.png::{place.url}/a.zip",
        "another repository": f"{HUB}/a.png",
        "/etc/passwd": "/etc/passwd",
        "/dev/zero": "/dev/zero",
        "a picture elsewhere": str(place.canary),
    }
    rows = []
    for name, path in paths.items():
        folder = _dataset_of(place, path)
        rows.append(Row(f"row that names {name}, trained on", partial(_train, folder), OUTSIDE))
        task = task_of(folder, "zero_shot")
        evaluate = partial(read_rows, task, ["en"])
        rows.append(Row(f"row that names {name}, evaluated", evaluate, "pictures that lie outside of it"))

    folder = place.new_folder()
    (folder / "link.png").symlink_to(place.canary)
    write(folder, [{"bytes": None, "path": str(folder / "link.png")}])
    return [*rows, Row("row that names a link to elsewhere", partial(_train, folder), OUTSIDE)]


def _named_by_cards(place: Place) -> list[Row]:
    secret = place.root / "secret.parquet"
    files = {"an address": f"{place.url}/train.parquet", "a file outside": str(secret)}
    cards = {}
    for name, file in files.items():
        config = {"config_name": "default", "data_files": file}
        cards[f"card whose data_files are {name}"] = (json.dumps({"configs": [config]}), OUTSIDE)
    cards["card with code"] = (BROKEN_CARDS["code"], "README.md")
    cards["card whose anchors explode"] = (BROKEN_CARDS["explosion"], "README.md")
    cards["card that contains itself"] = (BROKEN_CARDS["cycle"], "README.md")

    rows = []
    for name, (text, expected) in cards.items():
        folder = place.new_folder()
        write(folder, [{"bytes": png("green"), "path": None}])
        (folder / "README.md").write_text(f"---\n{text}\n---\n")
        rows.append(Row(name, partial(load_rows, str(folder), "train", ["image"]), expected))
    return rows


def _without_contents(place: Place) -> list[Row]:
    empty = _dataset_of(place)
    unreadable = place.new_folder()
    write(unreadable, [{"bytes": b"no image", "path": None}])
    captionless = place.new_folder()
    (captionless / "in.png").write_bytes(png("green"))
    row = {"image": str(captionless / "in.png"), "captions": {"en": " "}}
    (captionless / "train.jsonl").write_text(json.dumps(row) + "\n")
    return [
        Row("dataset without rows", partial(_train, empty), "begins without rows"),
        Row("dataset without a caption", partial(_train, captionless), "has no text in en"),
        Row("dataset called ''", partial(load_rows, "", "train", []), "give a folder, or a Hub id"),
        Row("image of other bytes", partial(_train, unreadable), "cannot be decoded"),
    ]
