"""Make a dataset of Tux Paint's stamps: pictures of things, with a description in up to 60 languages.

    data/train.parquet, data/test.parquet   a row has:
        image      PNG, at most 300 pixels wide and high: the stamp on a white square
        captions   {"en": "A crow.", "de": "Eine Krähe.", "sw": null, ...}
        label      its class, such as "bird"; null where it is in none
        file       its path in the package: "animals/birds/crow.png"
    class_names.json                        {"en": ["bird", ...]}
    README.md, origins.yaml

About half are photographs that were cut out, and half are drawings.
"""

import io
import json
import math
from collections import Counter
from pathlib import Path, PurePosixPath

from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as PillowImage

from common.files.whole_files import write_text
from common.files.yaml_files import read_yaml
from common.origins import write_origins
from common.output import saving
from modeling_altclip.images_altclip import read_image

from .descriptions import Stamp, group_stamps, is_for_test, read_stamps
from .packages import Package

_SPLITS = ("train", "test")
_CLASSES: dict[str, str] = read_yaml(Path(__file__).with_name("folders.yaml"), "folders")
_LARGEST = 300  # pixels; the image tower reads 260
_MARGIN = 0.1  # of the longer side, on each side
# A class of fewer would be measured on one or two pictures.
_FEWEST_IN_TEST = 3
_CARD = """---
language: [{languages}]
license: gpl-2.0
configs:
- config_name: default
  data_files:
{files}---

# Stamps of Tux Paint

{n_pictures} pictures of things with a description in up to {n_languages} languages, made of the package
{label} of Debian by `python -m training.photographs`. Its {labels} classes are
the folders in which the stamps lie.

Half of the pictures are to test on: no text of theirs, in any language, is a text of a picture to train on.

Tux Paint's stamps are under the GNU General Public License, version 2 or later, and so are these pictures
and their descriptions. The package's `copyright` names their authors.
Changes: they were put on white squares of at most {largest} pixels.
"""


def write_pictures(stamps_folder: Path, folder: Path, package: Package) -> str:
    """Write the dataset, and return a sentence on what it has and what was left out.

    Args:
        stamps_folder: the unpacked stamps.
        folder: of the dataset.
        package: the one with the stamps.
    """
    stamps, left_out = read_stamps(stamps_folder)
    splits = split_stamps(stamps)
    class_names = _choose_classes(splits["test"])
    languages = sorted({language for stamp in stamps for language in stamp.captions})

    (folder / "data").mkdir(parents=True, exist_ok=True)
    for split, of_split in splits.items():
        rows = [_row(stamp, stamps_folder, languages, class_names) for stamp in of_split]
        dataset = Dataset.from_list(rows, features=_features(languages, class_names))
        with saving(f"split {split}", folder, dataset.data.nbytes):
            dataset.to_parquet(folder / "data" / f"{split}.parquet")
    write_text(folder / "class_names.json", json.dumps({"en": class_names}, indent=1) + "\n")
    _write_card(folder, package, len(stamps), languages, class_names)
    write_origins(folder, [package.origin(rows=len(stamps), languages=languages)])

    omitted = ", ".join(f"{count} {reason}" for reason, count in left_out.items() if count)
    return (
        f"{len(splits['train'])} pictures to train on and {len(splits['test'])} to test on, in "
        f"{len(class_names)} classes and {len(languages)} languages. Left out: {omitted}."
    )


def split_stamps(stamps: list[Stamp]) -> dict[str, list[Stamp]]:
    """Divide stamps into those to train on and those to test on, which have no text in common."""
    splits = {split: [] for split in _SPLITS}
    for group in group_stamps(stamps):
        splits["test" if is_for_test(group) else "train"] += group
    for of_split in splits.values():
        of_split.sort(key=lambda stamp: stamp.file)
    return splits


def _choose_classes(test: list[Stamp]) -> list[str]:
    """Return the names of the classes of which the test has some pictures, sorted."""
    counts = Counter(_class_of(stamp) for stamp in test)
    return sorted(name for name, count in counts.items() if count >= _FEWEST_IN_TEST)


def _class_of(stamp: Stamp) -> str:
    """Return the name of a stamp's folder of the first two levels, which has a class.

    Drawings lie in folders of their own: `animals/birds/cartoon/duck.png` -> `animals/birds` -> "bird".
    """
    folders = [part for part in PurePosixPath(stamp.file).parent.parts if part != "cartoon"]
    return _CLASSES["/".join(folders[:2])]


def on_white(image: PillowImage.Image) -> PillowImage.Image:
    """Put an image, with what is transparent white, in the middle of a white square with a margin.

    It is made smaller where the square would be larger than 300 pixels, and never larger.
    """
    # Squares with a margin of 10 % on each side: 1.2 times the longer side.
    scale = min(1, _LARGEST / (max(image.size) * (1 + 2 * _MARGIN)))
    width = max(1, round(image.width * scale))
    height = max(1, round(image.height * scale))
    side = min(_LARGEST, math.ceil(max(width, height) * (1 + 2 * _MARGIN)))
    shown = read_image(image).resize((width, height), PillowImage.Resampling.LANCZOS)
    square = PillowImage.new("RGB", (side, side), "white")
    square.paste(shown, ((side - width) // 2, (side - height) // 2))
    return square


def _row(stamp: Stamp, stamps_folder: Path, languages: list[str], class_names: list[str]) -> dict:
    png = io.BytesIO()
    with PillowImage.open(stamps_folder / stamp.file) as image:
        on_white(image).save(png, "png")
    name = _class_of(stamp)
    return {
        "image": {"bytes": png.getvalue()},
        "captions": {language: stamp.captions.get(language) for language in languages},
        "label": name if name in class_names else None,
        "file": stamp.file,
    }


def _features(languages: list[str], class_names: list[str]) -> Features:
    captions = {language: Value("string") for language in languages}
    return Features(
        {
            "image": Image(),
            "captions": captions,
            "label": ClassLabel(names=class_names),
            "file": Value("string"),
        }
    )


def _write_card(
    folder: Path, package: Package, n_pictures: int, languages: list[str], class_names: list[str]
) -> None:
    files = "".join(f"  - split: {split}\n    path: data/{split}.parquet\n" for split in _SPLITS)
    card = _CARD.format(
        languages=", ".join(f'"{language}"' for language in languages),  # `no` and `on` are words of YAML
        files=files,
        n_pictures=n_pictures,
        n_languages=len(languages),
        label=package.label,
        labels=len(class_names),
        largest=_LARGEST,
    )
    write_text(folder / "README.md", card)


__all__ = ["on_white", "split_stamps", "write_pictures"]
