"""Pictures that cannot be decoded: found before training, named in a file, set aside or refused."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset, Features, Image, Value
from datasets.fingerprint import Hasher
from PIL import Image as PillowImage

from benchmarks.loading import load_rows
from benchmarks.picture_folders import is_named_by_metadata, paths_of, pictures_without_row
from benchmarks.recipe import InputError
from modeling_altclip.images_altclip import read_image

_POLICIES = ("set_aside", "error")
NO_ROW = "no row of the metadata names it"


def keep_readable(
    rows: Dataset, policy: str, output_dir: str, without_row: Sequence[str] = ()
) -> tuple[Dataset, int]:
    """Decode every image of the column `image` once; `datasets` keeps what was found for the next run.

    Args:
        policy: `set_aside` leaves out rows whose image cannot be decoded, `error` refuses them.
        output_dir: gets `bad_rows.jsonl`, a line a bad row: its number, the image's path if it has one, and
            what is wrong; and a line a picture that no row names, whose number is null.
        without_row: the paths of such pictures.

    Returns:
        The good rows and the number of bad ones, pictures without a row among them.

    Raises:
        InputError: another policy; or there is a bad row, and `error` was asked for, or no good one.
    """
    check_policy(policy)
    rows = rows if rows.features["image"] == Image() else rows.cast_column("image", Image())
    encoded = rows.select_columns(["image"]).cast_column("image", Image(decode=False))
    found = encoded.map(
        lambda batch: {"problem": [_problem_of(image) for image in batch["image"]]},
        batched=True,
        remove_columns=["image"],
        features=Features({"problem": Value("string")}),
        new_fingerprint=Hasher.hash([rows._fingerprint, "unreadable", _files_of(encoded)]),
        desc="Decoding images",
    )["problem"][:]
    bad = [number for number, what in enumerate(found) if what]
    if not bad and not without_row:
        return rows, 0
    report = Path(output_dir, "bad_rows.jsonl")
    report.parent.mkdir(parents=True, exist_ok=True)
    paths = [(encoded[number]["image"] or {}).get("path") for number in bad]
    lines = [{"row": number, "path": path, "problem": found[number]} for number, path in zip(bad, paths)]
    lines += [{"row": None, "path": path, "problem": NO_ROW} for path in without_row]
    report.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), "utf-8")
    if bad and (policy == "error" or len(bad) == len(rows)):
        raise InputError(
            f"{len(bad)} of {len(rows)} images cannot be decoded, row {bad[0]} first: {found[bad[0]]}. All "
            f"are in {report}"
        )
    if policy == "error" and without_row:
        raise InputError(
            f"{len(without_row)} pictures have no row in the metadata, {without_row[0]} first. All are in "
            f"{report}"
        )
    return rows.select([number for number, what in enumerate(found) if not what]), len(lines)


def find_without_row(rows: Dataset, dataset: str) -> list[str]:
    """Return the pictures of a folder that no row of `image`, undecoded, names."""
    return pictures_without_row(dataset, paths_of(rows.select_columns(["image"])))


def name_without_row(dataset: str, split: str, policy: str, report: Path | None) -> list[str]:
    """Name the pictures of a folder that no row of its metadata names, before it is streamed.

    Args:
        policy: as in `keep_readable`.
        report: the file that gets a line a picture; None of a process that writes none.

    Returns:
        Their paths.

    Raises:
        InputError: there is one, and `error` was asked for.
    """
    if not is_named_by_metadata(dataset):
        return []
    rows = load_rows(dataset, split, ["image"]).cast_column("image", Image(decode=False))
    without_row = find_without_row(rows, dataset)
    if policy == "error" and without_row:
        raise InputError(f"{len(without_row)} pictures have no row in the metadata, {without_row[0]} first")
    if report is not None:
        lines = [{"file": dataset, "row": None, "path": path, "problem": NO_ROW} for path in without_row]
        with report.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return without_row


def check_policy(policy: str) -> None:
    """Raise an `InputError` if the policy is unknown."""
    if policy not in _POLICIES:
        raise InputError(f"bad_rows is {policy!r}: choose from {', '.join(_POLICIES)}")


def _files_of(encoded: Dataset) -> list[tuple]:
    """Return path, size and time of every file with an image, so that a fixed file is decoded anew."""
    paths = paths_of(encoded)
    files = []
    for path in paths:
        if path is not None and os.path.isfile(path):
            stat = os.stat(path)
            files.append((path, stat.st_size, stat.st_mtime_ns))
    return files


def _problem_of(image: dict | None) -> str:
    """Return why an undecoded image, `{"bytes", "path"}`, cannot be read; an empty string if it can be."""
    return read_picture(image)[1]


def read_picture(image: dict | None) -> tuple[PillowImage.Image | None, str]:
    """Return an undecoded image, `{"bytes", "path"}`, as Pillow decodes it, and ""; or none, and what is
    wrong.

    It is left to `prepare_images` to put it on the background of an image processor.
    """
    if image is None:
        return None, "there is no image"
    try:
        decoded = Image().decode_example(image)
        read_image(decoded)
        return decoded, ""
    except Exception as error:
        return None, f"{type(error).__name__}: {error}"


__all__ = ["NO_ROW", "check_policy", "find_without_row", "keep_readable", "name_without_row", "read_picture"]
