"""Small copies of benchmarks, byte for byte in the form of their Hub repositories: what the tasks are read from in tests.

Image `i` is grey, of the shade 20 * i; it is of class `CLASSES[i]`, its k-th caption in German is "de 3.1"
for image 3 and k = 1. What a task must not read, such as the other splits, is there and broken.
"""

import base64
import io
import json
import tarfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlparse
from zipfile import ZipFile

import numpy as np
import yaml
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from PIL import Image as PillowImage

N = 6
CLASSES = [2, 0, 1, 1, 0, 0]
SEVERAL = [[2], [0, 1], [], [1], [0, 1, 2], [2]]
NAMES = ["ant", "bee", "cat"]
BROKEN = b"not to be read"


def encoded(number: int, extension: str = "png") -> bytes:
    buffer = io.BytesIO()
    form = {"jpg": "jpeg", "jpeg": "jpeg"}.get(extension, extension)
    PillowImage.new("RGB", (8, 8), (20 * number,) * 3).save(
        buffer, form, **({"lossless": True} if form == "webp" else {"quality": 95})
    )
    return buffer.getvalue()


def number_of(image: PillowImage.Image) -> int:
    return round(image.convert("RGB").getpixel((4, 4))[0] / 20)


def captions_of(number: int, language: str, several: bool) -> list[str]:
    return [f"{language} {number}.{k}" for k in range(3 if several else 1)]


def write_replica(task, folder: Path) -> None:
    """A repository such as the task is read from, with `N` images."""
    writers = {
        "webdataset": write_tars,
        "split_per_language": write_languages,
        "frames": write_frames,
        "chinese_clip": write_zip,
        "caption_lines": write_lines,
        "coco_json": write_coco,
        "table": write_image_folder if task.data_files else write_table,
    }
    writers[task.layout](task, folder)


def write_tars(task, folder: Path) -> None:
    """As `clip_benchmark_export_wds` writes them: two images a tar, keys without file names, text files around."""
    answers = {name: column for name, column in task.columns.items() if name != "image"}
    for shard in range(N // 2):
        members = {}
        for number in (2 * shard, 2 * shard + 1):
            key, extension = f"s{number:07d}", task.columns.get("image", "webp")
            members[f"{key}.{extension}"] = encoded(number, extension)
            if "label" in answers:
                members[f"{key}.cls"] = str(CLASSES[number]).encode()
            elif "labels" in answers:
                members[f"{key}.npy"] = npy(
                    np.array([float(name in SEVERAL[number]) for name in range(3)], dtype=np.float32)
                )
            else:
                members[f"{key}.txt"] = "\n".join(captions_of(number, "en", True)).encode()
        write_tar(folder / "test" / f"{shard}.tar", members)
    (folder / "test/nshards.txt").write_text("3\n")
    (folder / "classnames.txt").write_text("\n".join(NAMES) + "\n")
    (folder / "zeroshot_classification_templates.txt").write_text("a photo of a {c}.\n")
    (folder / "train").mkdir()
    (folder / "train/0.tar").write_bytes(BROKEN)


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
    """A card as `push_to_hub` writes it: it lists all splits and how long they are, one of which is broken."""
    (folder / f"data/{broken}-00000-of-00001.parquet").write_bytes(BROKEN)
    splits = [broken, *splits]
    files = [{"split": split, "path": f"data/{split}-*"} for split in splits]
    info = {"splits": [{"name": split, "num_bytes": 1000, "num_examples": 99} for split in splits]}
    card = {"configs": [{"config_name": "default", "data_files": files}], "dataset_info": info}
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump(card)}---\n")


def write_table(task, folder: Path) -> None:
    columns, features = {}, {}

    def add(column, feature, values):
        columns[column], features[column] = values, feature

    add("id", Value("string"), [f"row-{number}" for number in range(N)])
    add(
        task.columns["image"],
        Image(),
        [{"bytes": encoded(number), "path": f"{number}.png"} for number in range(N)],
    )
    captions = task.columns.get("captions")
    if "label" in task.columns:
        add(task.columns["label"], ClassLabel(names=NAMES), CLASSES)
        add("family", Value("string"), ["insect"] * N)
    elif "labels" in task.columns:
        add(task.columns["labels"], List(Value("int64")), SEVERAL)
    elif isinstance(captions, dict):
        for language, column in captions.items():
            add(column, Value("string"), [captions_of(number, language, False)[0] for number in range(N)])
    else:
        feature = {language: Value("string") for language in task.languages}
        texts = [
            {language: captions_of(number, language, False)[0] for language in task.languages}
            for number in range(N)
        ]
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
    """Images again in each split, as raw structs; the languages' rows in different orders; other columns of the same texts."""
    features = {
        "image_id": Value("string"),
        "image_locale": Value("string"),
        "image": {"bytes": Value("binary"), "path": Value("string")},
    }
    features |= {
        name: List(Value("string"))
        for name in ("captions", "captions_tokenized", "captions_tokenized_lowercase")
    }
    for place, language in enumerate(task.languages):
        order = range(N) if language == task.split else np.roll(range(N), place)
        texts = [captions_of(number, language, True) for number in order]
        # Another language's pictures are never asked for.
        images = [
            {"bytes": encoded(number, "jpg") if language == task.split else BROKEN, "path": f"{number}.jpg"}
            for number in order
        ]
        ids = [f"id{number}" for number in order]
        columns = {"image_id": ids, "image_locale": ["xx"] * N, "image": images, "captions": texts}
        write_parquet(
            folder,
            language,
            columns | {"captions_tokenized": texts, "captions_tokenized_lowercase": texts},
            features,
        )
    write_card(folder, task.languages, broken="xx")


def write_frames(task, folder: Path) -> None:
    """Three frames of each video, of which the middle one is the image; those of a video lie apart."""
    rows = [(frame, number) for frame in (2, 0, 1) for number in range(N)]
    features = {
        "image": Image(),
        "video_id": Value("string"),
        "clip_id": Value("string"),
        "frame": Value("int64"),
    }
    columns = {
        "image": [{"bytes": encoded(number if frame == 1 else 12), "path": None} for frame, number in rows],
        "video_id": [f"g{number // 2:02d}" for _, number in rows],
        "clip_id": [f"c{number % 2:02d}" for _, number in rows],
        "frame": [frame for frame, _ in rows],
        "label": [CLASSES[number] for _, number in rows],
    }
    write_parquet(folder, task.split, columns, features | {"label": ClassLabel(names=NAMES)})
    write_card(folder, [task.split])


def write_zip(task, folder: Path) -> None:
    """As the README of Chinese-CLIP describes them; texts in another order than images, numbers as texts here and as numbers there."""
    (name,) = task.data_files.values()
    with ZipFile(folder / name, "w") as archive:
        for split in ("train", "valid", "test"):
            images = "".join(
                f"{100 + number}\t{base64.b64encode(encoded(number, 'jpg')).decode()}\n"
                for number in range(N)
            )
            texts = [
                (number, text) for number in reversed(range(N)) for text in captions_of(number, "zh", True)
            ]
            lines = [
                {"text_id": i, "text": text, "image_ids": [100 + number]}
                for i, (number, text) in enumerate(texts)
            ]
            folder_in_zip = Path(name).stem
            archive.writestr(f"{folder_in_zip}/{split}_imgs.tsv", images if split == "test" else BROKEN)
            jsonl = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            archive.writestr(f"{folder_in_zip}/{split}_texts.jsonl", jsonl if split == "test" else BROKEN)


def write_lines(task, folder: Path) -> None:
    """The last lines of the files have no end; the images lie in two folders, with others."""
    names = [f"COCO_{'val' if number % 3 else 'train'}2014_{number:012d}.jpg" for number in (*range(N), 11)]
    for number, name in zip((*range(N), 11), names):
        path = folder / "images" / name.split("_")[1] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(number, "jpg"))
    lines = {"names": names[:N]}
    lines |= {
        language: [captions_of(number, language, False)[0] for number in range(N)]
        for language in task.languages
    }
    for key, texts in lines.items():
        path = folder / task.data_files[key]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(texts), encoding="utf-8")


def write_coco(task, folder: Path) -> None:
    """Captions segmented into words, of two sources; the images lie in two folders."""
    images = [{"id": 500 + number, "file_name": f"COCO_val2014_{number:012d}.jpg"} for number in range(N)]
    for number, image in enumerate(images):
        path = folder / "images" / f"part{number % 2}" / image["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(number, "jpg"))
    annotations = [
        {"image_id": 500 + number, "caption": text if source == "zhm" else "别 的", "source": source, "id": k}
        for number in range(N)
        for source in ("cn", "zhm")
        for k, text in enumerate(captions_of(number, "zh", True))
    ]
    (folder / "captions.json").write_text(
        json.dumps({"images": images, "annotations": annotations}), encoding="utf-8"
    )


class Hub(ThreadingHTTPServer):
    """A Hub of data sets at a loopback address, of one commit each: those of `gated/` show nobody more than their card.

    Args:
        folders: `{id: folder}`.
        commits: `{id: hash}`; all zeros for others.

    `asked` keeps what was asked for.
    """

    def __init__(self, folders: dict[str, Path], commits: dict[str, str]):
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.folders, self.commits, self.asked = folders, commits, []
        self.url = f"http://127.0.0.1:{self.server_port}"
        Thread(target=self.serve_forever, daemon=True).start()


class HubHandler(BaseHTTPRequestHandler):
    def log_message(self, *arguments) -> None:
        """Nothing on the terminal."""

    def do_GET(self) -> None:
        parts = [unquote(part) for part in urlparse(self.path).path.strip("/").split("/")]
        parts = parts[1:] if parts[0] == "api" else parts
        if parts == [""]:  # is anybody there?
            return self.answer(200, b"{}")
        dataset, (verb, *rest) = "/".join(parts[1:3]), parts[3:] or ["info"]
        hub = self.server
        hub.asked.append("/".join([dataset, verb, *rest]))
        if dataset.startswith("gated/") and rest[-1:] != ["README.md"]:
            return self.answer(
                401, b"{}", {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"}
            )
        folder, commit = hub.folders[dataset], hub.commits.get(dataset, "0" * 40)
        if rest and rest[0] not in ("main", commit):
            return self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        if verb == "resolve":
            path = folder.joinpath(*rest[1:])
            if not path.is_file():
                return self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
            return self.answer(
                200, path.read_bytes(), {"ETag": f'"{path.stat().st_mtime_ns}"', "X-Repo-Commit": commit}
            )
        if verb == "commits":
            body = [
                {"id": commit, "title": "", "message": "", "authors": [], "date": "2026-01-01T00:00:00.000Z"}
            ]
        elif verb in ("tree", "paths-info"):
            body = self.entries(folder, folder.joinpath(*rest[1:]))
        else:
            body = {"id": dataset, "sha": commit, "siblings": [], "tags": []}
        return self.answer(200, json.dumps(body).encode())

    do_HEAD = do_GET

    def do_POST(self) -> None:
        form = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or "{}")
        folder = self.server.folders["/".join(self.path.split("/")[3:5])]
        paths = [folder / path for path in form["paths"]]
        self.answer(200, json.dumps([self.entry(folder, path) for path in paths if path.exists()]).encode())

    def entries(self, folder: Path, below: Path) -> list[dict]:
        recursive = "recursive=true" in self.path.lower()
        return [
            self.entry(folder, path) for path in sorted(below.rglob("*") if recursive else below.glob("*"))
        ]

    def entry(self, folder: Path, path: Path) -> dict:
        kind, name = ("directory" if path.is_dir() else "file"), str(path.relative_to(folder))
        return {"type": kind, "path": name, "size": path.stat().st_size, "oid": f"{abs(hash(name)):040x}"}

    def answer(self, status: int, body: bytes, headers: dict | None = None) -> None:
        begin, end = 0, len(body)
        if "Range" in self.headers and status == 200:
            first, last = self.headers["Range"].removeprefix("bytes=").split("-")
            begin, end, status = int(first), min(int(last or end) + 1, end), 206
        self.send_response(status)
        for name, value in {
            "Content-Length": end - begin,
            "Content-Type": "application/json",
            **(headers or {}),
        }.items():
            self.send_header(name, str(value))
        if status == 206:
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(body)}")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[begin:end])
