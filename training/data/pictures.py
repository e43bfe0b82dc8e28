"""Find pictures that cannot be decoded before training, list them in a file, and skip or refuse them."""

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
_NO_ROW = "no row of the metadata names it"


def keep_readable(
    rows: Dataset, policy: str, output_dir: str, without_row: Sequence[str] = ()
) -> tuple[Dataset, int]:
    """Decode every image of the column `image` once, and keep the rows whose image is readable.

    `datasets` caches what was found for the next run.

    Args:
        policy: `skipped` skips rows whose image cannot be decoded, `error` refuses them.
        output_dir: gets `bad_rows.jsonl`, one line per bad row: its number, the image's path if it has one,
            and the problem; and one line per picture that no row names, whose number is null.
        without_row: the paths of pictures that no row names.

    Returns:
        The good rows, and the number of bad ones, pictures without a row among them.

    Raises:
        InputError: the policy is unknown; or there is a bad row and the policy is `error`; or there is no
            good row.
    """
    check_policy(policy)
    if rows.features["image"] != Image():
        rows = rows.cast_column("image", Image())
    encoded = rows.select_columns(["image"]).cast_column("image", Image(decode=False))
    problems = _find_problems(encoded, rows._fingerprint)
    bad = [number for number, problem in enumerate(problems) if problem]
    if not bad and not without_row:
        return rows, 0

    lines = []
    for number in bad:
        image = encoded[number]["image"] or {}
        lines.append({"row": number, "path": image.get("path"), "problem": problems[number]})
    for path in without_row:
        lines.append({"row": None, "path": path, "problem": _NO_ROW})
    report = Path(output_dir, "bad_rows.jsonl")
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text(_to_jsonl(lines), "utf-8")

    # The report is written first, so that a refused run leaves it behind.
    if bad and (policy == "error" or len(bad) == len(rows)):
        raise InputError(
            f"{len(bad)} of {len(rows)} images cannot be decoded, row {bad[0]} first: {problems[bad[0]]}. "
            f"All are in {report}"
        )
    if policy == "error" and without_row:
        raise InputError(
            f"{len(without_row)} pictures have no row in the metadata, {without_row[0]} first. All are in "
            f"{report}"
        )
    good = [number for number, problem in enumerate(problems) if not problem]
    return rows.select(good), len(lines)


def _find_problems(encoded: Dataset, fingerprint: str) -> list[str]:
    """Return the problem of each undecoded image, an empty string for a good one."""

    def describe(batch: dict) -> dict:
        return {"problem": [_problem_of(image) for image in batch["image"]]}

    # The fingerprint of rows does not change with the files that they name; the cache key needs both.
    return encoded.map(
        describe,
        batched=True,
        remove_columns=["image"],
        features=Features({"problem": Value("string")}),
        new_fingerprint=Hasher.hash([fingerprint, "unreadable", _files_of(encoded)]),
        desc="Decoding images",
    )["problem"][:]


def _to_jsonl(lines: list[dict]) -> str:
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def find_without_row(rows: Dataset, dataset: str) -> list[str]:
    """Return the paths of a folder's pictures that no row of undecoded `image` names."""
    return pictures_without_row(dataset, paths_of(rows.select_columns(["image"])))


def name_without_row(dataset: str, split: str, policy: str, report: Path | None) -> list[str]:
    """List the pictures of a folder that no row of its metadata names, before it is streamed.

    Args:
        policy: as in `keep_readable`.
        report: the file that gets one line per picture; None for a process that does not write it.

    Returns:
        Their paths.

    Raises:
        InputError: there is one, and the policy is `error`.
    """
    if not is_named_by_metadata(dataset):
        return []
    rows = load_rows(dataset, split, ["image"]).cast_column("image", Image(decode=False))
    without_row = find_without_row(rows, dataset)
    if policy == "error" and without_row:
        raise InputError(f"{len(without_row)} pictures have no row in the metadata, {without_row[0]} first")
    if report is not None:
        lines = [{"file": dataset, "row": None, "path": path, "problem": _NO_ROW} for path in without_row]
        # Workers append the bad images of the stream to the same file.
        with report.open("a", encoding="utf-8") as file:
            file.write(_to_jsonl(lines))
    return without_row


def check_policy(policy: str) -> None:
    """Raise an `InputError` if the policy is unknown."""
    if policy not in _POLICIES:
        raise InputError(f"bad_rows is {policy!r}: choose from {', '.join(_POLICIES)}")


def _files_of(encoded: Dataset) -> list[tuple]:
    """Return path, size and time of every file with an image, so that a fixed file is decoded anew."""
    files = []
    for path in paths_of(encoded):
        if path is not None and os.path.isfile(path):
            stat = os.stat(path)
            files.append((path, stat.st_size, stat.st_mtime_ns))
    return files


def _problem_of(image: dict | None) -> str:
    """Return why an undecoded image, `{"bytes", "path"}`, cannot be read; an empty string if it can be."""
    return read_picture(image)[1]


def read_picture(image: dict | None) -> tuple[PillowImage.Image | None, str]:
    """Decode an image, `{"bytes", "path"}`, by Pillow.

    Transparent images stay transparent: `prepare_images` later puts them on the background that an image
    processor expects.

    Returns:
        The image and an empty string; or None and the problem.
    """
    if image is None:
        return None, "there is no image"
    try:
        decoded = Image().decode_example(image)
        read_image(decoded)  # only to see whether it works
        return decoded, ""
    except Exception as error:  # damaged files raise anything: OSError, SyntaxError, struct.error, ...
        return None, f"{type(error).__name__}: {error}"


__all__ = ["check_policy", "find_without_row", "keep_readable", "name_without_row", "read_picture"]
