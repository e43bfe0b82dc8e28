"""No row and no card of a dataset makes a reader open a file or an address outside of it.

Every dataset here names an image at a loopback server, which must see no request, and one elsewhere on this
machine, a red picture that must not be read. Both can be decoded: whoever opened them would go on.
"""

import io
import json
import os
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from threading import Thread

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, Image, Json, List, Value
from PIL import Image as PillowImage

from benchmarks.encoder import CachedEncoder
from benchmarks.tasks.reading import read_rows
from benchmarks.tasks.task import Task
from common.errors import InputError
from common.files import outside
from common.files.contents import contents_of
from common.files.outside import Source
from common.files.rows import load_rows, open_rows
from common.images import MOST_BYTES, decode_image, encoded_bytes
from model_cards import job as card_job
from training.arguments import ContrastiveArguments, TeacherLearningArguments
from training.data.loading import load_examples, load_images
from training.data.parallel_text import load_parallel_text
from training.data.preview import first_captions
from training.translation.rows import read_split, save
from training.translation.translating import TranslationArguments
from training.validation import load_evaluated

from .conftest import ROOT
from .fake_hub import FakeHub

GREEN, RED = (0, 128, 0), (255, 0, 0)
CAPTIONS = [{"en": f"text {number}"} for number in range(4)]


def png(color) -> bytes:
    buffer = io.BytesIO()
    PillowImage.new("RGB", (8, 8), color).save(buffer, "PNG")
    return buffer.getvalue()


class Server(ThreadingHTTPServer):
    """Serves a red picture at any address of this machine, and counts the requests."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.n_requests = 0
        self.url = f"http://127.0.0.1:{self.server_port}"
        Thread(target=self.serve_forever, daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.n_requests += 1
        self.send_response(200)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(png("red"))

    do_HEAD = do_GET

    def log_message(self, *arguments):
        """Print nothing on the terminal."""


@pytest.fixture
def server():
    with Server() as server:
        yield server
        server.shutdown()
        assert server.n_requests == 0


@pytest.fixture
def dataset(tmp_path, server):
    """Return a folder of four rows: green in the row, green in the folder, red outside, red at an address."""
    folder = tmp_path / "dataset"
    (folder / "pictures").mkdir(parents=True)
    (folder / "pictures/in.png").write_bytes(png("green"))
    (tmp_path / "canary.png").write_bytes(png("red"))
    images = [
        {"bytes": png("green"), "path": None},
        {"bytes": None, "path": str(folder / "pictures/in.png")},
        {"bytes": None, "path": str(tmp_path / "canary.png")},
        {"bytes": None, "path": f"{server.url}/a.png"},
    ]
    write(folder, images)
    return folder


def write(folder, images):
    """Write rows of images as parquet, which names files instead of holding them as `to_parquet` would."""
    columns = {"image": images, "captions": CAPTIONS[: len(images)], "label": [0] * len(images)}
    features = Features({"image": Image(), "captions": {"en": Value("string")}, "label": Value("int64")})
    # Through Arrow, since `Dataset.from_dict` drops the bytes of images whose path is a file.
    schema = features.arrow_schema
    pq.write_table(pa.table(columns, schema), folder / "train-00000.parquet")


@pytest.fixture
def arguments(dataset, tmp_path):
    """Return a function that makes the arguments of stage 2."""

    def arguments(**changes):
        given = {
            "dataset": str(dataset),
            "model_name_or_path": "",
            "output_dir": str(tmp_path / "out"),
            "use_cpu": True,
            "report_to": "none",
        }
        return ContrastiveArguments(**given | changes)

    return arguments


def reported(tmp_path, name="bad_rows.jsonl") -> dict:
    lines = map(json.loads, (tmp_path / "out" / name).read_text("utf-8").splitlines())
    return {line["row"]: line["problem"] for line in lines}


def colors(images) -> list:
    return [image.convert("RGB").getpixel((0, 0)) for image in images]


def assert_refused(problems):
    assert sorted(problems) == [2, 3]
    for problem in problems.values():
        assert problem.startswith("it lies outside of the dataset")
        assert "--allow_outside_images" in problem


def test_training_counts_them_as_bad_rows(arguments, tmp_path, capsys):
    rows = load_images(arguments(), ["en"])
    assert colors(rows["image"]) == [GREEN, GREEN]
    assert_refused(reported(tmp_path))
    assert "Skipped 2 images" in capsys.readouterr().out
    views = load_examples(arguments(), ["en"], n_views=2).inputs
    views.set_epoch(1)
    assert len(views.digests) == 2
    assert colors(views[[0, 1]]["image"]) == [GREEN, GREEN]


def test_training_refuses_them_where_errors_are_asked_for(arguments):
    with pytest.raises(InputError, match="2 of 4 images cannot be decoded, row 2 first: it lies outside"):
        load_images(arguments(bad_rows="error"), ["en"])


def test_a_stream_counts_them_as_bad_rows(arguments, tmp_path):
    stream = load_examples(arguments(streaming=True, max_steps=1, cache_image_embeds=False), ["en"])
    examples = iter(stream)
    assert colors([next(examples)["image"] for _ in range(4)]) == [GREEN] * 4
    assert_refused(reported(tmp_path, "bad_rows.0.jsonl"))


@pytest.mark.parametrize("streaming", [False, True])
def test_the_flag_allows_files_outside(arguments, dataset, tmp_path, streaming):
    images = [{"bytes": None, "path": str(tmp_path / "canary.png")}]
    write(dataset, images)
    given = {"streaming": True, "max_steps": 1, "cache_image_embeds": False} if streaming else {}
    examples = load_examples(arguments(allow_outside_images=True, **given), ["en"])
    image = next(iter(examples))["image"] if streaming else examples[0]["image"]
    assert colors([image]) == [RED]


UNTYPED = {
    "paths in JSON": ("train.jsonl", lambda images: [image["path"] for image in images]),
    "dicts in JSON": ("train.jsonl", lambda images: images),
    "paths in parquet": ("train.parquet", lambda images: [image["path"] for image in images]),
    "dicts in parquet": ("train.parquet", lambda images: images),
}


@pytest.mark.parametrize("column", ["image", "picture"])
@pytest.mark.parametrize("form", UNTYPED)
def test_a_column_of_another_type_opens_none(tmp_path, server, arguments, form, column):
    """JSON and plain parquet have texts or dicts, which become images only when they are read."""
    folder = tmp_path / "untyped"
    folder.mkdir()
    (folder / "in.png").write_bytes(png("green"))
    paths = [str(folder / "in.png"), str(tmp_path / "canary.png"), f"{server.url}/a.png"]
    file, values_of = UNTYPED[form]
    images = values_of([{"bytes": None, "path": path} for path in paths])
    table = pa.table({column: images, "captions": CAPTIONS[:3], "label": [0, 0, 0]})
    if file.endswith(".parquet"):
        pq.write_table(table, folder / file)
    else:
        (folder / file).write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))

    if column == "image":
        assert colors(load_images(arguments(dataset=str(folder)), ["en"])["image"]) == [GREEN]
        assert sorted(reported(tmp_path)) == [1, 2]
        given = {"streaming": True, "max_steps": 1, "cache_image_embeds": False}
        examples = iter(load_examples(arguments(dataset=str(folder), **given), ["en"]))
        assert colors([next(examples)["image"] for _ in range(2)]) == [GREEN] * 2
        assert sorted(reported(tmp_path, "bad_rows.0.jsonl")) == [1, 2]
    task = task_of(folder, "zero_shot", columns={"image": column, "label": "label"})
    with pytest.raises(InputError, match="names 2 of 3 pictures that lie outside of it"):
        read_rows(task)
    streamed = read_rows(task, streaming=True).cast_column("image", Image(decode=False))
    for row in islice(streamed, 1, None):
        with pytest.raises(ValueError, match="it lies outside of the dataset"):
            decode_image(row["image"])


@pytest.mark.parametrize("value", [7, True, [{"path": "/etc/passwd"}], ["/etc/passwd"], {"file": "a.png"}])
def test_a_column_that_holds_no_images_is_refused(tmp_path, arguments, value):
    folder = tmp_path / "untyped"
    folder.mkdir()
    (folder / "train.jsonl").write_text(json.dumps({"image": value, "captions": CAPTIONS[0]}) + "\n")
    for given in ({}, {"streaming": True, "max_steps": 1, "cache_image_embeds": False}):
        with pytest.raises(InputError, match="column 'image' of .* holds .*: give images, their bytes or"):
            load_examples(arguments(dataset=str(folder), **given), ["en"])


def test_a_dry_run_opens_none(arguments, dataset, tmp_path):
    texts, _ = first_captions(arguments())
    assert texts == [f"text {number}" for number in range(4)]
    given = {"dataset": str(dataset), "output_dir": str(tmp_path / "out"), "use_cpu": True}
    stage1 = TeacherLearningArguments(teacher_name_or_path="a", text_encoder_name_or_path="b", **given)
    assert first_captions(stage1)[0] == texts
    rows, _ = load_parallel_text(str(dataset), "train")
    assert len(rows) == 4


def task_of(dataset, kind, **changes) -> Task:
    columns = {"retrieval": {"captions": "captions"}, "zero_shot": {"label": "label"}}
    metrics = {"retrieval": "mean_recall", "zero_shot": "accuracy@1"}
    given = {"columns": columns[kind], "metric": metrics[kind], "languages": ["en"]}
    given |= {"name": "own", "file": "own.yaml", "kind": kind, "dataset": str(dataset), "split": "train"}
    return Task(**given | changes)


@pytest.mark.parametrize("kind", ["retrieval", "zero_shot"])
@pytest.mark.parametrize("streaming", [False, True])
def test_a_benchmark_refuses_them(dataset, model, processor, tmp_path, kind, streaming):
    encoder = CachedEncoder(model, processor, cache_dir=str(tmp_path / "cache"))
    message = "2 of 4 pictures that lie outside of it"
    if streaming:
        message = "the image of row 2 cannot be read: it lies outside of the dataset"
    with pytest.raises(InputError, match=message):
        encoder.rows(read_rows(task_of(dataset, kind), ["en"], streaming=streaming))
    # The first rows hold none.
    write(dataset, [{"bytes": None, "path": str(dataset / "pictures/in.png")}])
    embeddings, _, _ = encoder.rows(read_rows(task_of(dataset, kind), ["en"], streaming=streaming))
    assert len(embeddings) == 1


@pytest.mark.parametrize("name", ["canary.png", "{tmp_path}/canary.png"])
def test_bytes_in_a_row_are_not_replaced_by_a_file(dataset, tmp_path, monkeypatch, arguments, name):
    """Decode the bytes, though the path beside them is that of a file, here or elsewhere."""
    monkeypatch.chdir(tmp_path)
    write(dataset, [{"bytes": png("green"), "path": name.format(tmp_path=tmp_path)}])
    for streaming in (False, True):
        for kind in ("retrieval", "zero_shot"):
            rows = read_rows(task_of(dataset, kind), ["en"], streaming=streaming)
            assert colors([row["image"] for row in rows]) == [GREEN]
    examples = load_examples(arguments(streaming=True, max_steps=1, cache_image_embeds=False), ["en"])
    assert colors([next(iter(examples))["image"]]) == [GREEN]


def test_validation_refuses_them(dataset):
    with pytest.raises(InputError, match="names 2 of 4 pictures that lie outside of it, .*canary.png first"):
        load_evaluated(str(dataset), "train", ["en"])


def test_a_translated_dataset_holds_none(dataset, tmp_path):
    translation = TranslationArguments(
        dataset=str(dataset),
        splits=["train"],
        target_languages=["de"],
        output_dir=str(tmp_path / "translated"),
        model_name_or_path="a",
    )
    save({"train": read_split(translation, "train")}, translation.output_dir)
    (written,) = (tmp_path / "translated/data").iterdir()
    contents = [image["bytes"] for image in pq.read_table(written)["image"].to_pylist()]
    assert contents[:2] == [png("green")] * 2
    assert png("red") not in contents


def test_a_card_shows_none(dataset, tmp_path, altclip_folder):
    write(dataset, [{"bytes": None, "path": str(tmp_path / "canary.png")}])
    card = card_job.CardArguments(
        title="a",
        repo="a/b",
        stages=[str(altclip_folder)],
        output_dir=str(tmp_path / "card"),
        dataset=str(dataset),
        example_split="train",
    )
    with pytest.raises(InputError, match="the first image of example_split 'train' .* lies outside"):
        card_job.main(card)


@pytest.mark.parametrize("nested", [False, True])
def test_a_stream_keeps_other_columns_as_they_are(tmp_path, server, nested):
    """Leave JSON decoded, and open no image in a list or in another column."""
    kinds = {"image": Image(), "other": List(Image()) if nested else Image(), "meta": Json()}
    elsewhere = {"bytes": None, "path": f"{server.url}/a.png"}
    row = {
        "image": {"bytes": png("green"), "path": None},
        "other": [elsewhere] if nested else elsewhere,
        "meta": {"a": [1, "b"]},
    }
    features = Features(kinds)
    rows = Dataset.from_list([row], features=features)
    pq.write_table(rows.data.table.cast(features.arrow_schema), tmp_path / "train.parquet")
    (read,) = open_rows(str(tmp_path), "train", streaming=True, path=str(tmp_path))
    assert read["meta"] == {"a": [1, "b"]}
    assert read["image"]["bytes"] == png("green")
    loaded = open_rows(str(tmp_path), "train", path=str(tmp_path)).remove_columns("other")
    assert loaded[0]["meta"] == {"a": [1, "b"]}


def test_ordinary_rows_are_left_as_they_are(tmp_path):
    """Give them the fingerprint that `datasets` gives to these contents, by which its caches are found."""
    folder = tmp_path / "dataset"
    folder.mkdir()
    write(folder, [{"bytes": png("green"), "path": "http://host/name.png"}])
    files = {"train": [str(folder / "train-00000.parquet")]}
    contents = contents_of(files["train"])
    plain = datasets.load_dataset(str(folder), data_files=files, split="train", description=contents)
    assert load_rows(str(folder), "train", ["image"])._fingerprint == plain._fingerprint


HUB = "hf://datasets/org/name@" + "0" * 40
ELSEWHERE = [
    "http://host/a.png",
    "https://host/a.png",
    "s3://bucket/a.png",
    "memory://a.png",
    f"{HUB}/a.png",
    "zip://a.png::http://host/b.zip",
    "/etc/passwd",
    "/dev/zero",
    "a.png",
    "",
    r"\\host\share\a.png",
    "//host/share/a.png",
    "~/a.png",
]


def test_what_is_inside(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a.png").write_bytes(png("green"))
    (tmp_path / "outside.png").write_bytes(png("red"))
    (folder / "link.png").symlink_to(tmp_path / "outside.png")
    (folder / "own_link.png").symlink_to(folder / "a.png")
    (folder / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "data-evil").mkdir()
    os.mkfifo(folder / "pipe.png")
    local = Source(str(folder), [str(folder / "train.parquet")])
    hub = Source("org/name", [f"{HUB}/train.parquet"])

    for path in ("a.png", "missing.png", "own_link.png", "../data/a.png", "sub/../a.png"):
        assert local.holds(f"{folder}/{path}")
    assert local.holds(f"zip://b/a.png::{folder}/pictures.zip")
    assert local.holds(f"zip://a.png::zip://b.zip::{folder}/pictures.zip")
    for path in ("link.png", "up/outside.png", "pipe.png", "../outside.png", "../data-evil/a.png", "\0.png"):
        assert not local.holds(f"{folder}/{path}")
    for path in ELSEWHERE:
        assert not local.holds(path), path
    for opener in ("file://", "local://", "simplecache::", "simplecache::file://", "https://host/::"):
        assert not local.holds(f"{opener}{folder}/a.png")

    assert hub.holds(f"{HUB}/images/a.png")
    assert hub.holds(f"zip://a.png::{HUB}/b.zip")
    other_revision = HUB.replace("0", "1")
    for path in (f"{other_revision}/a.png", "hf://datasets/org/name2/a.png", f"{HUB}/../../a.png"):
        assert not hub.holds(path), path


def test_the_hubs_cache_is_inside(tmp_path, monkeypatch):
    """Follow its links, from the files of a revision to where their contents lie."""
    repository = tmp_path / "datasets--org--name"
    snapshot = repository / "snapshots/123"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    (repository / "blobs/abc").write_bytes(png("green"))
    (snapshot / "a.png").symlink_to("../../blobs/abc")
    monkeypatch.setattr(outside, "HF_HUB_CACHE", str(tmp_path))
    for dataset in ("org/name", str(snapshot)):
        assert Source(dataset, []).holds(str(snapshot / "a.png"))
    assert not Source("org/other", []).holds(str(snapshot / "a.png"))


ON_A_HUB = """
import json
from common.errors import InputError
from common.files.rows import load_rows, open_rows

loaded = load_rows("a/pictures", "train", ["image"])
colors = [image.convert("RGB").getpixel((0, 0)) for image in loaded["image"]]
stream = open_rows("a/pictures", "train", streaming=True, path="a/pictures")
streamed = [row["image"]["path"] for row in stream]
try:
    load_rows("a/card", "train", ["image"])
except InputError as error:
    print(json.dumps([colors, streamed, str(error)]))
"""


def test_images_and_cards_on_the_hub(tmp_path, server, run_python):
    """Read the images of a repository, loaded and streamed, and refuse a card that names an address."""
    for name in ("pictures", "card"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(png("green"))
    config = {"config_name": "default", "data_files": f"{server.url}/train.parquet"}
    (tmp_path / "card/README.md").write_text(f"---\n{json.dumps({'configs': [config]})}\n---\n")
    hub = FakeHub({"a/pictures": tmp_path / "pictures", "a/card": tmp_path / "card"}, {})
    process = run_python("python", "-c", ON_A_HUB, **hub.variables(tmp_path))
    hub.shutdown()
    assert process.returncode == 0, process.stderr
    colors, streamed, refused = json.loads(process.stdout)
    assert colors == [list(GREEN)]
    assert streamed == [f"hf://datasets/a/pictures@{'0' * 40}/a.png"]
    assert "README.md of dataset 'a/card' names 'http://127.0.0.1" in refused


FILES = {
    "address": "{url}/train.parquet",
    "archive": "zip://train.parquet::{url}/a.zip",
    "parent": "../secret.parquet",
    "absolute": "{tmp_path}/secret.parquet",
}


@pytest.mark.parametrize("card", ["README.md", ".huggingface.yaml"])
@pytest.mark.parametrize("form", ["plain", "list", "splits", "folder"])
@pytest.mark.parametrize("kind", FILES)
def test_a_card_that_names_files_outside_is_refused(tmp_path, server, card, form, kind):
    folder = tmp_path / "dataset"
    folder.mkdir()
    write(folder, [{"bytes": png("green"), "path": None}])
    (tmp_path / "secret.parquet").write_bytes((folder / "train-00000.parquet").read_bytes())
    file = FILES[kind].format(url=server.url, tmp_path=tmp_path)
    splits = [{"split": "train", "path": [file]}]
    files = {"plain": file, "list": [file], "splits": splits, "folder": file}[form]
    config = {"config_name": "default", "data_dir" if form == "folder" else "data_files": files}
    text = json.dumps({"configs": [config]})
    (folder / card).write_text(f"---\n{text}\n---\n" if card == "README.md" else text)

    message = f"{card} of dataset '.*dataset' names '.*', which lies outside of it: take it out"
    with pytest.raises(InputError, match=message):
        load_rows(str(folder), "train", ["image"])
    with pytest.raises(InputError, match=message):
        read_rows(task_of(folder, "retrieval"))


BROKEN_CARDS = {
    "code": "configs: !!python/object/apply:os.system ['true']",
    "tab": "configs:\n\t- a",
    "half": "configs: [a",
    "list": "- a",
    "number": "configs: 3",
    "numbers": "configs: [1, 2]",
    "cycle": "configs:\n- config_name: default\n  data_files: &a\n  - *a",
    "explosion": "a0: &a0 [x, x, x, x]\n"
    + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9))
    + "configs:\n- config_name: default\n  data_files: *a8",
    "columns": "dataset_info:\n  features: 5",
    "long": f"configs: {'x' * 10_000}",
}


@pytest.mark.parametrize("card", ["README.md", ".huggingface.yaml"])
@pytest.mark.parametrize("kind", BROKEN_CARDS)
def test_a_card_that_cannot_be_read_is_named_in_one_line(tmp_path, card, kind):
    folder = tmp_path / "dataset"
    folder.mkdir()
    write(folder, [{"bytes": png("green"), "path": None}])
    text = BROKEN_CARDS[kind]
    (folder / card).write_text(f"---\n{text}\n---\n" if card == "README.md" else text)
    for read in (
        lambda: load_rows(str(folder), "train", ["image"]),
        lambda: read_rows(task_of(folder, "retrieval")),
    ):
        with pytest.raises(InputError) as refused:
            read()
        assert "dataset" in str(refused.value)
        assert "\n" not in str(refused.value)
        assert len(str(refused.value)) < 1500


def test_an_ampersand_in_a_card_is_no_anchor(tmp_path):
    """A card's numbers as keys, which our own YAML refuses, are read as `datasets` reads them."""
    folder = tmp_path / "dataset"
    folder.mkdir()
    write(folder, [{"bytes": png("green"), "path": None}])
    (folder / "README.md").write_text("---\npretty_name: Q&A *all*\nsizes:\n  1: small\n---\n")
    assert colors(load_rows(str(folder), "train", ["image"])["image"]) == [GREEN]


def test_a_card_may_name_its_own_files(dataset):
    write(dataset, [{"bytes": None, "path": str(dataset / "pictures/in.png")}])
    for path in ("train-*", "./train-00000.parquet", str(dataset / "train-*")):
        config = {"config_name": "default", "data_files": [{"split": "train", "path": path}]}
        (dataset / "README.md").write_text(f"---\n{json.dumps({'configs': [config]})}\n---\n")
        assert colors(load_rows(str(dataset), "train", ["image"])["image"]) == [GREEN]


def test_an_image_of_a_zip_is_read_up_to_a_bound(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(3 * 2**20))
        archive.writestr("b.png", png("green"))
    monkeypatch.setattr("common.images.MOST_BYTES", 2**20)
    assert colors([decode_image({"bytes": None, "path": f"zip://b.png::{tmp_path}/a.zip"})]) == [GREEN]
    for read in (encoded_bytes, decode_image):
        with pytest.raises(ValueError, match="its file has more than .* bytes"):
            read({"bytes": None, "path": f"zip://a.png::{tmp_path}/a.zip"})
    assert MOST_BYTES == 2**29


def test_one_module_opens_datasets_and_one_opens_images():
    """No other reader gets round the check: `datasets`' loaders and openers have one door each."""
    doors = {
        "load_dataset(": ["common/files/rows.py"],
        "load_dataset_builder(": ["common/files/rows.py"],
        "xopen(": ["common/images.py"],
        "decode_example(": ["common/images.py"],
    }
    sources = {}
    for room in ("benchmarks", "common", "deploy", "model_cards", "modeling_altclip", "training"):
        for path in (ROOT / room).rglob("*.py"):
            code = [line for line in path.read_text("utf-8").splitlines() if ">>>" not in line]
            sources[path.relative_to(ROOT).as_posix()] = "\n".join(code)
    for call, expected in doors.items():
        assert sorted(name for name, code in sources.items() if call in code) == expected
