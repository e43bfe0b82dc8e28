"""Images to train on: those that cannot be decoded are skipped or refused before training begins, and the
others are shown in views. `streaming` skips those of a stream as they come.

With `image_views` above 1, epochs take turns: one shows each image as it is, each of the others one crop of
it. A crop depends on nothing but the image and the view's number, so that a frozen tower can encode it
beforehand, and a run resumes exactly.
"""

import json
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset, Features, Image, Value
from datasets.fingerprint import Hasher
from PIL.Image import Image as PillowImage
from transformers import TrainerCallback

from common.errors import InputError
from common.files.image_folders import images_without_row, is_named_by_metadata, paths_of
from common.files.rows import load_rows
from common.files.whole_files import write_text
from common.images import decode_image, digest_of, encoded_bytes, path_of, why_unreadable
from modeling_altclip.images_altclip import read_image

SMALLEST_AREA = 0.9  # of a crop, as open_clip's default
_POLICIES = ("set_aside", "error")
_NO_ROW = "no row of the metadata names it"


def keep_readable(
    rows: Dataset, policy: str, output_dir: str, without_row: Sequence[str] = ()
) -> tuple[Dataset, int]:
    """Decode every image of the column `image` once, and keep the rows whose image is readable.

    `datasets` caches what was found for the next run.

    Args:
        policy: `set_aside` skips rows whose image cannot be decoded, `error` refuses them.
        output_dir: gets `bad_rows.jsonl`, one line per bad row: its number, the image's path if it has one,
            and the problem; and one line per picture that no row names, whose number is null.
        without_row: the paths of pictures that no row names.

    Returns:
        The good rows, and the number of images that are skipped, pictures without a row among them.

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
        image = encoded[number]["image"]
        path = path_of(image) if image else None
        lines.append({"row": number, "path": path, "problem": problems[number]})
    for path in without_row:
        lines.append({"row": None, "path": path, "problem": _NO_ROW})
    report = write_bad_rows(lines, output_dir)

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


def write_bad_rows(lines: list[dict], output_dir: str) -> Path:
    """Write `bad_rows.jsonl` of rows that are skipped, and return its path."""
    report = Path(output_dir, "bad_rows.jsonl")
    report.parent.mkdir(parents=True, exist_ok=True)
    write_text(report, _to_jsonl(lines))
    return report


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
        new_fingerprint=Hasher.hash([fingerprint, "unreadable", stats_of_files(encoded)]),
        desc="Decoding images",
    )["problem"][:]


def _to_jsonl(lines: list[dict]) -> str:
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def find_without_row(rows: Dataset, dataset: str) -> list[str]:
    """Return the paths of a folder's pictures that no row of undecoded `image` names."""
    return images_without_row(dataset, paths_of(rows.select_columns(["image"])))


def name_without_row(
    dataset: str, split: str, policy: str, report: Path | None, *, allow_outside: bool = False
) -> list[str]:
    """List the pictures of a folder that no row of its metadata names, before it is streamed.

    Args:
        policy: as in `keep_readable`.
        report: the file that gets one line per picture; None for a process that does not write it.
        allow_outside: as for `load_rows`.

    Returns:
        Their paths.

    Raises:
        InputError: there is one, and the policy is `error`.
    """
    if not is_named_by_metadata(dataset):
        return []
    rows = load_rows(dataset, split, ["image"], allow_outside=allow_outside)
    rows = rows.cast_column("image", Image(decode=False))
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


def stats_of_files(encoded: Dataset) -> list[tuple]:
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


def read_picture(image: dict | None) -> tuple[PillowImage | None, str]:
    """Decode an undecoded image, `{"bytes", "path"}`.

    Transparent images stay transparent: `prepare_images` later puts them on the background that an image
    processor expects.

    Returns:
        The image and an empty string; or None and the problem.
    """
    if image is None:
        return None, "there is no image"
    try:
        decoded = decode_image(image)
        read_image(decoded)  # only to see whether it works
        return decoded, ""
    except Exception as error:  # decoders raise whatever they like
        return None, why_unreadable(error)


class ImageViews:
    """Images of a dataset's rows, in the view of the epoch.

    `views[[5, 0]]` is `{"image": [picture of row 5, of row 0]}`.

    View 0 is the picture. Any other is a square crop of 90 to 100 % of the largest square's area, at a place
    drawn from the picture's digest and the view's number: CLIP's only augmentation is a random square crop
    (Radford et al. 2021, 2.4). None is mirrored: captions tell left from right, and signs are to be read.

    Args:
        rows: have the column `image`.
        n_views: how many there are; epoch e shows view e modulo `n_views`.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> from PIL import Image
    >>> from training import ImageViews

    >>> rows = Dataset.from_dict({"image": [Image.new("RGB", (64, 48)), Image.new("RGB", (32, 32))]})
    >>> views = ImageViews(rows, n_views=2)
    >>> [image.size for image in views[[1, 0]]["image"]]
    [(32, 32), (64, 48)]
    ```
    """

    def __init__(self, rows: Dataset, n_views: int):
        self.rows = rows.select_columns(["image"])
        self.n_views = n_views
        self.view = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch's view: the views take turns, one per epoch."""
        self.view = epoch % self.n_views

    def __getitem__(self, rows: Sequence[int]) -> dict[str, list[PillowImage]]:
        images = self.rows[rows]["image"]
        if self.view > 0:
            images = [_crop(image, self.digests[row], self.view) for row, image in zip(rows, images)]
        return {"image": images}

    @cached_property
    def digests(self) -> list[str]:
        """XXH3-128 of each picture's encoded bytes, whether they lie in the table or in a file; each process
        reads its share.
        """
        encoded = self.rows.cast_column("image", Image(decode=False))
        state = PartialState()
        share = encoded.shard(state.num_processes, state.process_index, contiguous=True)
        digests = []
        for batch in share.iter(1000):
            digests += [digest_of(encoded_bytes(image)) for image in batch["image"]]
        return gather_object(digests)


def _crop(image: PillowImage, digest: str, view: int) -> PillowImage:
    """Crop a picture to a view; equal for equal pictures, wherever and in whatever order they are read."""
    random = np.random.default_rng([int(digest, 16), view])
    # The root turns a share of the area into one of the edge.
    share = random.uniform(SMALLEST_AREA, 1) ** 0.5
    side = max(1, round(min(image.size) * share))
    left, top = [int(random.integers(edge - side + 1)) for edge in image.size]
    return image.crop((left, top, left + side, top + side))


class EpochCallback(TrainerCallback):
    """Tells views, or a sampler, of the epoch. accelerate tells neither reliably: no dataset whose sampler
    has a `set_epoch` too, and after a resume with several processes no sampler.
    """

    def __init__(self, dataset):
        self.dataset = dataset

    def on_epoch_begin(self, args, state, control, **_):
        self.dataset.set_epoch(int(state.epoch or 0))


__all__ = [
    "EpochCallback",
    "ImageViews",
    "check_policy",
    "find_without_row",
    "keep_readable",
    "name_without_row",
    "read_picture",
    "stats_of_files",
    "write_bad_rows",
]
