"""Captions and images in files that `datasets` does not read by itself.

- `chinese_clip`: a zip, `{SPLIT: FILE}`. In it `SPLIT_imgs.tsv` has a number and an image in base64 in each
line, and `SPLIT_texts.jsonl`
  a `text` and its `image_ids`.
- `caption_lines`: `{names: FILE, images: FOLDER, LANGUAGE: FILE, ...}`. Each file has a line per image, in
the order of their names.
- `coco_json`: `{captions: FILE, images: FOLDER}`. The JSON's `annotations` have `image_id` and `caption`, its
`images` `id` and
  `file_name`; the task's `where` chooses among its annotations.

Images of the last two are found by name in any folder below the one named.
"""

import base64
import io
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile, ZipFile

from datasets import Dataset, Features, Image, IterableDataset, Value
from datasets.exceptions import DatasetGenerationError

from .cells import texts_of
from .json_files import parse_json, read_json
from .layouts import Rows, captions_by_id, fetch, first, reading_error, with_captions
from .recipe import InputError, read_text

if TYPE_CHECKING:
    from .task import Task

FEATURES = Features({"id": Value("string"), "image": Image(decode=False)})


def read_caption_files(task: "Task", languages: list[str] | None, limit: int | None, streaming: bool) -> Rows:
    """Read the first `limit` images with their captions, or all.

    Raises:
        InputError: a file is not there, may not be read, or does not have the form above.
    """
    languages = languages or task.languages
    if task.layout == "chinese_clip":
        rows, captions = read_chinese_clip(task, streaming)
    else:
        read = read_caption_lines if task.layout == "caption_lines" else read_coco
        images, captions = read(task, languages)
        rows = Dataset.from_dict({"id": list(images), "image": list(map(str, images.values()))}, FEATURES)
        rows = rows.to_iterable_dataset() if streaming else rows
    return with_captions(first(rows, limit), partial(captions_by_id, captions=captions, id="id"), languages)


def read_chinese_clip(task: "Task", streaming: bool) -> tuple[Rows, dict]:
    """Read rows of `id` and `image`, and `{language: {id: texts}}`."""
    path, (language,) = fetch(task, task.data_files[task.split]), task.languages
    captions = defaultdict(list)
    try:
        with ZipFile(path) as archive:
            images, texts = (
                member(archive, f"{task.split}_{name}", task) for name in ("imgs.tsv", "texts.jsonl")
            )
            with archive.open(texts) as lines:
                for line in lines:
                    row = parse_json(line, f"{archive.filename}: a line of {texts}")
                    for number in row["image_ids"]:
                        captions[str(number)] += texts_of(row["text"], "text", joined=task.join_words)
        # Rows are kept by these arguments: a file that was written anew has another date.
        arguments = {"path": str(path), "member": images, "written": path.stat().st_mtime_ns}
        make = IterableDataset.from_generator if streaming else Dataset.from_generator
        rows = make(images_of_zip, features=FEATURES, gen_kwargs=arguments)
    except (OSError, ValueError, KeyError, BadZipFile, DatasetGenerationError) as error:
        raise reading_error(task, error) from error
    return rows, {language: dict(captions)}


def member(archive: ZipFile, name: str, task: "Task") -> str:
    """Find the one file of the archive that has this name, in any folder."""
    found = [path for path in archive.namelist() if Path(path).name == name]
    if len(found) != 1:
        raise InputError(
            f"{archive.filename} has {len(found)} files {name}, of {', '.join(archive.namelist())}: mend "
            f"{task.file}"
        )
    return found[0]


def images_of_zip(path: str, member: str, written: int) -> Iterator[dict]:
    with ZipFile(path) as archive, archive.open(member) as lines:
        for line in io.TextIOWrapper(lines, encoding="ascii"):
            number, image = line.rstrip("\n").split("\t")
            yield {"id": number, "image": {"bytes": base64.b64decode(image), "path": None}}


def read_caption_lines(task: "Task", languages: list[str]) -> tuple[dict[str, Path], dict]:
    """Read `{id: image}` and `{language: {id: texts}}`."""
    names = lines_of(task, "names")
    captions = {}
    for language in languages:
        lines = lines_of(task, language)
        if len(lines) != len(names):
            raise InputError(
                f"{task.data_files[language]} has {len(lines)} lines, {task.data_files['names']} "
                f"{len(names)}: see {task.file}"
            )
        captions[language] = {
            name: texts_of(line, language, joined=task.join_words) for name, line in zip(names, lines)
        }
    return images_by_name(task, {name: name for name in names}), captions


def lines_of(task: "Task", key: str) -> list[str]:
    return read_text(fetch(task, task.data_files[key]), "file").removesuffix("\n").split("\n")


def read_coco(task: "Task", languages: list[str]) -> tuple[dict[str, Path], dict]:
    """Read the same from a JSON file in COCO's form; images without a caption that `where` admits are left
    out.
    """
    (language,) = languages
    path, captions = fetch(task, task.data_files["captions"]), defaultdict(list)
    coco = read_json(path, "file")
    try:
        for annotation in coco["annotations"]:
            if all(annotation[key] == value for key, value in task.where.items()):
                captions[str(annotation["image_id"])] += texts_of(
                    annotation["caption"], "caption", joined=task.join_words
                )
        names = {
            str(image["id"]): image["file_name"] for image in coco["images"] if str(image["id"]) in captions
        }
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} is no JSON in COCO's form, or has no {error}: see {task.file}") from error
    return images_by_name(task, names), {language: dict(captions)}


def images_by_name(task: "Task", names: dict[str, str]) -> dict[str, Path]:
    """Find the images of these names anywhere below the folder of images."""
    folder = fetch(task, task.data_files["images"])
    there = {path.name: path for path in folder.rglob("*")}
    missing = [name for name in names.values() if Path(name).name not in there]
    if missing:
        raise InputError(
            f"{folder} lacks {len(missing)} of {len(names)} images: {', '.join(missing[:5])} ... See "
            f"{task.file}"
        )
    return {id: there[Path(name).name] for id, name in names.items()}
