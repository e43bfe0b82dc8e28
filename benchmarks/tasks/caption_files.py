"""Readers of captions and images in files that `datasets` does not read by itself.

- `chinese_clip`: a zip, `{SPLIT: FILE}`. Each line of its `SPLIT_imgs.tsv` has a number and an image in
  base64; each line of its `SPLIT_texts.jsonl` has a `text` and its `image_ids`.
- `caption_lines`: `{names: FILE, images: FOLDER, LANGUAGE: FILE, ...}`. Each file has a line per image, in
  the order of the names.
- `coco_json`: `{captions: FILE, images: FOLDER}`. The JSON has `annotations` with `image_id` and `caption`,
  and `images` with `id` and `file_name`; the task's `where` selects among the annotations.

Images of the last two are found by name in any folder below the one named.
"""

import base64
import io
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from datasets import Dataset, Features, Image, IterableDataset, Value
from datasets.exceptions import DatasetGenerationError

from common.errors import InputError
from common.files.archives import refuse_bombs
from common.files.contents import content_digest
from common.files.json_files import parse_json, read_json
from common.files.table_cells import texts_in_cell
from common.files.text_files import lines_of

from .captions import Rows, add_captions, captions_by_id, first
from .source import fetch, reading_error
from .task import Task

_FEATURES = Features({"id": Value("string"), "image": Image(decode=False)})


def read_caption_files(task: Task, languages: list[str] | None, limit: int | None, streaming: bool) -> Rows:
    """Read the first `limit` images with their captions, or all.

    Raises:
        InputError: a file does not exist, cannot be read, or does not have the form above.
    """
    languages = languages or task.languages
    if task.layout == "chinese_clip":
        rows, captions = _read_chinese_clip(task, streaming)
    else:
        read = _read_caption_lines if task.layout == "caption_lines" else _read_coco
        images, captions = read(task, languages)
        columns = {"id": list(images), "image": [str(path) for path in images.values()]}
        rows = Dataset.from_dict(columns, _FEATURES)
        if streaming:
            rows = rows.to_iterable_dataset()
    captions_of = partial(captions_by_id, captions=captions, id="id")
    return add_captions(first(rows, limit), captions_of, languages, only_first=task.first_caption)


def _read_chinese_clip(task: Task, streaming: bool) -> tuple[Rows, dict]:
    """Read rows of `id` and `image`, and `{language: {id: texts}}`."""
    path = fetch(task, task.data_files[task.split])
    refuse_bombs([str(path)])
    (language,) = task.languages
    captions = defaultdict(list)
    try:
        with ZipFile(path) as archive:
            images = _find_member(archive, f"{task.split}_imgs.tsv", task)
            texts = _find_member(archive, f"{task.split}_texts.jsonl", task)
            with archive.open(texts) as lines:
                for line in lines:
                    row = parse_json(line, f"{archive.filename}: a line of {texts}")
                    for number in row["image_ids"]:
                        captions[str(number)] += texts_in_cell(row["text"], "text", joined=task.join_words)
        # `datasets` caches rows by these arguments: a file with other contents has another digest.
        arguments = {"path": str(path), "member": images, "contents": content_digest(path)}
        make = IterableDataset.from_generator if streaming else Dataset.from_generator
        rows = make(images_of_zip, features=_FEATURES, gen_kwargs=arguments)
    except (OSError, ValueError, KeyError, TypeError, BadZipFile, DatasetGenerationError) as error:
        raise reading_error(task, error) from error
    return rows, {language: dict(captions)}


def _find_member(archive: ZipFile, name: str, task: Task) -> str:
    """Return the path of the one file of this name, in any folder of the archive.

    Raises:
        InputError: there is none, or there are several.
    """
    found = [path for path in archive.namelist() if Path(path).name == name]
    if len(found) != 1:
        raise InputError(
            f"{archive.filename} has {len(found)} files {name}, of {', '.join(archive.namelist())}: fix "
            f"{task.file}"
        )
    return found[0]


def images_of_zip(path: str, member: str, contents: str) -> Iterator[dict]:
    """Yield the images in the lines of a zip's file: `1000002\\tiVBORw0...` is a number and base64.

    `datasets` derives the names of its cache files from the names of this function and of its arguments.
    """
    with ZipFile(path) as archive, archive.open(member) as lines:
        for line in io.TextIOWrapper(lines, encoding="ascii"):
            number, image = line.rstrip("\n").split("\t")
            yield {"id": number, "image": {"bytes": base64.b64decode(image), "path": None}}


def _read_caption_lines(task: Task, languages: list[str]) -> tuple[dict[str, Path], dict]:
    """Read `{id: image}` and `{language: {id: texts}}`."""
    names = list(lines_of(fetch(task, task.data_files["names"])))
    captions = {}
    for language in languages:
        lines = list(lines_of(fetch(task, task.data_files[language])))
        if len(lines) != len(names):
            raise InputError(
                f"{task.data_files[language]} has {len(lines)} lines, {task.data_files['names']} "
                f"{len(names)}: see {task.file}"
            )
        captions[language] = {}
        for name, line in zip(names, lines):
            captions[language][name] = texts_in_cell(line, language, joined=task.join_words)
    return _find_images(task, {name: name for name in names}), captions


def _read_coco(task: Task, languages: list[str]) -> tuple[dict[str, Path], dict]:
    """Read `{id: image}` and `{language: {id: texts}}` from a JSON file in COCO's form.

    Images without a caption that `where` selects are left out.
    """
    (language,) = languages
    path = fetch(task, task.data_files["captions"])
    captions = defaultdict(list)
    coco = read_json(path, "file")
    try:
        for annotation in coco["annotations"]:
            if all(annotation[key] == value for key, value in task.where.items()):
                texts = texts_in_cell(annotation["caption"], "caption", joined=task.join_words)
                captions[str(annotation["image_id"])] += texts
        names = {}
        for image in coco["images"]:
            if str(image["id"]) in captions:
                names[str(image["id"])] = str(image["file_name"])
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} is no JSON in COCO's form, or has no {error}: see {task.file}") from error
    return _find_images(task, names), {language: dict(captions)}


def _find_images(task: Task, names: dict[str, str]) -> dict[str, Path]:
    """Return the paths of the images of these names, `{id: path}`, in any folder below the one of images.

    Raises:
        InputError: an image is missing.
    """
    folder = fetch(task, task.data_files["images"])
    paths = {path.name: path for path in folder.rglob("*")}
    # COCO's `file_name` may have a folder, as in `val2014/1.jpg`, which the images here may not lie in.
    missing = [name for name in names.values() if Path(name).name not in paths]
    if missing:
        raise InputError(
            f"{folder} lacks {len(missing)} of {len(names)} images: {', '.join(missing[:5])} ... "
            f"See {task.file}"
        )
    return {id: paths[Path(name).name] for id, name in names.items()}
