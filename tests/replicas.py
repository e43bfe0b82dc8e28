"""Write small copies of benchmarks, in exactly the form of their Hub repositories, for tests that read tasks.

Image `i` is grey, of the shade 20 * i; it is of class `CLASSES[i]`, its k-th caption in German is "de 3.1"
for image 3 and k = 1. What a task must not read, such as the other splits, is there and broken.
"""

import base64
import io
import json
import tarfile
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import yaml
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from PIL import Image as PillowImage

N = 6
CLASSES = [2, 0, 1, 1, 0, 0]
SEVERAL = [[2], [0, 1], [], [1], [0, 1, 2], [2]]  # of tasks where an image may show several classes
NAMES = ["ant", "bee", "cat"]
BROKEN = b"not to be read"


def encoded(number: int, extension: str = "png") -> bytes:
    """Return the bytes of image `number` in a format."""
    form = "jpeg" if extension == "jpg" else extension
    options = {"lossless": True} if form == "webp" else {"quality": 95}
    shade = 20 * number
    buffer = io.BytesIO()
    PillowImage.new("RGB", (8, 8), (shade, shade, shade)).save(buffer, form, **options)
    return buffer.getvalue()


def number_of(image: PillowImage.Image) -> int:
    """Read the number of an image from its shade; JPEG may change the shade a little."""
    red, _, _ = image.convert("RGB").getpixel((4, 4))
    return round(red / 20)


def captions_of(number: int, language: str, several: bool) -> list[str]:
    n_captions = 3 if several else 1
    return [f"{language} {number}.{k}" for k in range(n_captions)]  # "de 3.0", "de 3.1", "de 3.2"


def first_captions(language: str) -> list[str]:
    """Return the first caption of each image."""
    return [captions_of(number, language, False)[0] for number in range(N)]


def write_replica(task, folder: Path) -> None:
    """Write a repository in the form that the task is read from, with `N` images."""
    writers = {
        "webdataset": write_tars,
        "split_per_language": write_languages,
        "split_with_images": write_languages_with_images,
        "language_column": write_questions,
        "frames": write_frames,
        "chinese_clip": write_zip,
        "caption_lines": write_lines,
        "coco_json": write_coco,
        "candidates": write_choices,
        "table": write_image_folder if task.data_files else write_table,
    }
    writers[task.layout](task, folder)


def write_tars(task, folder: Path) -> None:
    """Write tars as `clip_benchmark_export_wds` does: two images a tar, and text files beside them."""
    for shard in range(N // 2):
        members = members_of(task, 2 * shard) | members_of(task, 2 * shard + 1)
        write_tar(folder / "test" / f"{shard}.tar", members)

    (folder / "test/nshards.txt").write_text("3\n")
    (folder / "classnames.txt").write_text("\n".join(NAMES) + "\n")
    (folder / "zeroshot_classification_templates.txt").write_text("a photo of a {c}.\n")
    (folder / "train").mkdir()
    (folder / "train/0.tar").write_bytes(BROKEN)


def members_of(task, number: int) -> dict[str, bytes]:
    """Return the files of one image in a tar: the image, and its label, labels or captions."""
    key = f"s{number:07d}"
    extension = task.columns.get("image", "webp")
    members = {f"{key}.{extension}": encoded(number, extension)}
    if "label" in task.columns:
        members[f"{key}.cls"] = str(CLASSES[number]).encode()
    elif "labels" in task.columns:
        # One number a class, as in VOC 2007: [0, 1] of three classes -> [1.0, 1.0, 0.0]
        present = [float(label in SEVERAL[number]) for label in range(3)]
        members[f"{key}.npy"] = npy(np.array(present, dtype=np.float32))
    else:
        members[f"{key}.txt"] = "\n".join(captions_of(number, "en", True)).encode()
    return members


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def write_parquet(folder: Path, split: str, columns: dict, features: dict) -> None:
    (folder / "data").mkdir(parents=True, exist_ok=True)
    Dataset.from_dict(columns, Features(features)).to_parquet(folder / f"data/{split}-00000-of-00001.parquet")


def write_card(folder: Path, splits: list[str], broken: str = "train") -> None:
    """Write a card as `push_to_hub` does, with all splits and their lengths; one split is broken."""
    (folder / f"data/{broken}-00000-of-00001.parquet").write_bytes(BROKEN)
    splits = [broken, *splits]
    files = [{"split": split, "path": f"data/{split}-*"} for split in splits]
    info = {"splits": [{"name": split, "num_bytes": 1000, "num_examples": 99} for split in splits]}
    card = {"configs": [{"config_name": "default", "data_files": files}], "dataset_info": info}
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump(card)}---\n")


def write_table(task, folder: Path) -> None:
    columns = {}
    features = {}

    def add(column, feature, values):
        columns[column] = values
        features[column] = feature

    add("id", Value("string"), [f"row-{number}" for number in range(N)])
    images = [{"bytes": encoded(number), "path": f"{number}.png"} for number in range(N)]
    add(task.columns["image"], Image(), images)

    captions = task.columns.get("captions")
    if "label" in task.columns:
        add(task.columns["label"], ClassLabel(names=NAMES), CLASSES)
        add("family", Value("string"), ["insect"] * N)
    elif "labels" in task.columns:
        add(task.columns["labels"], List(Value("int64")), SEVERAL)
    elif isinstance(captions, dict):  # a column for each language
        for language, column in captions.items():
            add(column, Value("string"), first_captions(language))
    else:  # one column of {language: text}
        feature = {language: Value("string") for language in task.languages}
        texts = []
        for number in range(N):
            texts.append({language: captions_of(number, language, False)[0] for language in task.languages})
        add(captions, feature, texts)
        add("label", Value("int64"), CLASSES)
    write_parquet(folder, task.split, columns, features)
    write_card(folder, [task.split])


def write_image_folder(task, folder: Path) -> None:
    for number in range(N):
        path = folder / "test" / NAMES[CLASSES[number]] / f"video{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(number, "jpg"))
    (folder / "train/ant").mkdir(parents=True)
    (folder / "train/ant/video9.jpg").write_bytes(BROKEN)


def write_languages(task, folder: Path) -> None:
    """Write a split for each language.

    Each split has the images again, as raw structs, and its rows in an order of its own. XM3600's other
    columns hold the same texts; a cell of xFlickrCO is one text.
    """
    has_one = task.columns["captions"] == "sentences"
    features = {
        task.columns["id"]: Value("string"),
        "image_locale": Value("string"),
        "image": {"bytes": Value("binary"), "path": Value("string")},
    }
    caption_columns = ["captions", "captions_tokenized", "captions_tokenized_lowercase"]
    if has_one:
        del features["image_locale"]
        caption_columns = ["sentences"]
    features |= {name: Value("string") if has_one else List(Value("string")) for name in caption_columns}
    for place, language in enumerate(task.languages):
        order = order_of(task, place, language)
        texts = [captions_of(number, language, True) for number in order]
        if has_one:
            texts = [of_image[0] for of_image in texts]
        images = []
        for number in order:
            # Only the images of the task's own split may be read.
            content = encoded(number, "jpg") if language == task.split else BROKEN
            images.append({"bytes": content, "path": f"{number}.jpg"})
        columns = {
            task.columns["id"]: [f"id{number}" for number in order],
            "image_locale": ["xx"] * N,
            "image": images,
        }
        columns |= {name: texts for name in caption_columns}
        write_parquet(folder, language, {name: columns[name] for name in features}, features)
    write_card(folder, task.languages, broken="xx")


def order_of(task, place: int, language: str) -> list[int]:
    """Return the images of a language in the order of its split, which is another in each language."""
    return list(range(N)) if language == task.split else np.roll(range(N), place).tolist()


def write_languages_with_images(task, folder: Path) -> None:
    """Write a split for each language, as `mteb/wit` has them: images with ids of their own, and captions."""
    features = {"image": Image(), "image_id": Value("string"), "captions": List(Value("string"))}
    for place, language in enumerate(task.languages):
        order = order_of(task, place, language)
        columns = {
            "image": [{"bytes": encoded(number, "jpg"), "path": None} for number in order],
            "image_id": [f"{language}-{number}" for number in order],
            "captions": [captions_of(number, language, True) for number in order],
        }
        write_parquet(folder, language, columns, features)
    write_card(folder, task.languages, broken="xx")


def write_questions(task, folder: Path) -> None:
    """Write a row for each question, as `afaji/cvqa` has them: all languages in one split.

    Each row has the image again. The first questions about all images of a language come before the second
    ones.
    """
    texts = ["ID", "Subset", "Question", "Translated Question", "Category", "Image Type", "Image Source"]
    features = {"image": Image()} | {name: Value("string") for name in [*texts, "License"]}
    features |= {"Options": List(Value("string")), "Translated Options": List(Value("string"))}
    features |= {"Label": Value("int64")}
    columns = {name: [] for name in features}
    for place, language in enumerate(task.languages):
        for k in range(3):
            for number in order_of(task, place, language):
                columns["image"].append({"bytes": encoded(number, "jpg"), "path": None})
                columns["ID"].append(f"{100 * place + number}_{k}")
                columns["Subset"].append(task.where[language])
                columns["Question"].append(captions_of(number, language, True)[k])
                columns["Label"].append(-1)
    n_rows = len(columns["ID"])
    for name in features:
        of_options = [["a", "b", "c", "d"]] if "Options" in name else ["-"]
        columns[name] = columns[name] or of_options * n_rows
    write_parquet(folder, task.split, columns, features)
    write_card(folder, [task.split])


def write_choices(task, folder: Path) -> None:
    """Write images, and three choices of each among four, as mteb's tasks of reranking hold them.

    All first choices come before all second ones. A text chooses among its image and the three after it.
    """
    files = task.data_files
    ids = [f"image-{number}" for number in range(N)]
    images = [{"bytes": encoded(number, "jpg"), "path": None} for number in range(N)]
    corpus = {"id": ids, "image": images, "modality": ["image"] * N}
    _write_file(folder / files["corpus"], corpus, {"image": Image()})
    for language in task.languages:
        texts = []
        owners = []
        for k in range(3):
            for number in range(N):
                texts.append(captions_of(number, language, True)[k])
                owners.append(number)
        queries = [f"query-{place}" for place in range(len(texts))]
        choices = []
        for place, number in enumerate(owners):
            among = [ids[(number + step) % N] for step in range(4)]
            choices.append(np.roll(among, place).tolist())
        name = task.where[language]
        columns = {"id": queries, "text": texts, "modality": ["text"] * len(texts)}
        _write_file(folder / files["queries"].replace("{}", name), columns)
        answers = {"query-id": queries, "corpus-id": [ids[number] for number in owners]}
        answers["score"] = [1] * len(texts)
        _write_file(folder / files["qrels"].replace("{}", name), answers)
        _write_file(
            folder / files["top_ranked"].replace("{}", name), {"query-id": queries, "corpus-ids": choices}
        )


def _write_file(path: Path, columns: dict, features: dict | None = None) -> None:
    """Write one parquet file; columns without a feature have that of their values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset = Dataset.from_dict(columns)
    for name, feature in (features or {}).items():
        dataset = dataset.cast_column(name, feature)
    dataset.to_parquet(path)


def write_frames(task, folder: Path) -> None:
    """Write three frames of each video. The middle one is the image; the frames of a video lie apart."""
    # (2, video 0), (2, video 1), ..., (0, video 0), ..., (1, video 5)
    rows = [(frame, number) for frame in (2, 0, 1) for number in range(N)]
    features = {
        "image": Image(),
        "video_id": Value("string"),
        "clip_id": Value("string"),
        "frame": Value("int64"),
        "label": ClassLabel(names=NAMES),
    }
    images = []
    for frame, number in rows:
        shown = number if frame == 1 else 12  # 12 is no image of the task
        images.append({"bytes": encoded(shown), "path": None})
    columns = {
        "image": images,
        "video_id": [f"g{number // 2:02d}" for _, number in rows],
        "clip_id": [f"c{number % 2:02d}" for _, number in rows],
        "frame": [frame for frame, _ in rows],
        "label": [CLASSES[number] for _, number in rows],
    }
    write_parquet(folder, task.split, columns, features)
    write_card(folder, [task.split])


def write_zip(task, folder: Path) -> None:
    """Write an archive as the README of Chinese-CLIP describes it; only the test split can be read.

    Texts are in another order than images. An image's number is a text in one file and a number in the other.
    """
    images = ""
    for number in range(N):
        content = base64.b64encode(encoded(number, "jpg")).decode()
        images += f"{100 + number}\t{content}\n"

    texts = ""
    text_id = 0
    for number in reversed(range(N)):
        for text in captions_of(number, "zh", True):
            line = {"text_id": text_id, "text": text, "image_ids": [100 + number]}
            texts += json.dumps(line, ensure_ascii=False) + "\n"
            text_id += 1

    (name,) = task.data_files.values()
    inside = Path(name).stem
    with ZipFile(folder / name, "w") as archive:
        for split in ("train", "valid", "test"):
            archive.writestr(f"{inside}/{split}_imgs.tsv", images if split == "test" else BROKEN)
            archive.writestr(f"{inside}/{split}_texts.jsonl", texts if split == "test" else BROKEN)


def write_lines(task, folder: Path) -> None:
    """Write files of one caption a line, without a final newline, and the images in two folders."""
    names = []
    for number in (*range(N), 11):  # 11 is no image of the task
        part = "val2014" if number % 3 else "train2014"
        name = f"COCO_{part}_{number:012d}.jpg"
        path = folder / "images" / part / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(number, "jpg"))
        names.append(name)

    lines = {"names": names[:N]}
    lines |= {language: first_captions(language) for language in task.languages}
    for key, texts in lines.items():
        path = folder / task.data_files[key]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(texts), encoding="utf-8")


def write_coco(task, folder: Path) -> None:
    """Write captions segmented into words, from two sources, and the images in two folders."""
    images = [{"id": 500 + number, "file_name": f"COCO_val2014_{number:012d}.jpg"} for number in range(N)]
    for number, image in enumerate(images):
        path = folder / "images" / f"part{number % 2}" / image["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(number, "jpg"))

    annotations = []
    for number in range(N):
        for source in ("cn", "zhm"):
            for k, text in enumerate(captions_of(number, "zh", True)):
                caption = text if source == "zhm" else "别 的"  # the task reads the source zhm alone
                annotations.append({"image_id": 500 + number, "caption": caption, "source": source, "id": k})
    whole = {"images": images, "annotations": annotations}
    (folder / "captions.json").write_text(json.dumps(whole), encoding="utf-8")
