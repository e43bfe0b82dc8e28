"""Every task that comes with the package is read from a small copy in the form its data has on the Hub, whole
and of the right images.
"""

import base64
import json
import logging
import os
import re
from dataclasses import dataclass, replace
from zipfile import ZipFile

import numpy as np
import pytest
import yaml
from datasets import ClassLabel, Dataset, Image, Json, List, Value

from benchmarks.tasks.checks import METRICS, OWN_IMAGES
from benchmarks.tasks.class_names import class_names_of, languages_of
from benchmarks.tasks.description import describe_task
from benchmarks.tasks.loading import all_task_names, load_task
from benchmarks.tasks.reading import own_class_names, read_rows
from benchmarks.tasks.source import commit_of_dataset, fetch
from benchmarks.tasks.task import Task
from benchmarks.tasks.templates import load_templates
from common.errors import InputError
from common.files.table_cells import texts_in_cell
from training.data.captions import Form, read_captions

from . import replicas
from .fake_hub import FakeHub
from .replicas import (
    CLASSES,
    NAMES,
    SEVERAL,
    N,
    captions_of,
    encoded,
    npy,
    number_of,
    order_of,
    write_parquet,
    write_replica,
    write_tar,
)

# Tasks with one caption for each image and language.
ONE_CAPTION = [
    "multi30k",
    "xtd",
    "miniature-pairs",
    "miniature-pairs-unseen-style",
    "xflickrco",
    "xm3600-first-caption",
    "flickr30k-200",
    "photographs",
    "photographs-english",
    "photographs-dictionary",
]

# Tasks in which each language has images of its own.
OF_OWN_IMAGES = [name for name in all_task_names() if load_task(name).layout in OWN_IMAGES]
# Tasks whose rows have more than their captions.
OF_OTHER_ROWS = [*OF_OWN_IMAGES, "mvl-sib"]

# A task of a user's own, as its YAML gives it.
OWN_RETRIEVAL = {
    "kind": "retrieval",
    "dataset": "signs",
    "split": "test",
    "metric": "mean_recall",
    "columns": {"captions": "captions"},
}

OWN_ZERO_SHOT = {
    "kind": "zero_shot",
    "dataset": "a/b",
    "split": "test",
    "metric": "accuracy@1",
    "columns": {"label": "label"},
    "class_names": "dataset",
}


def in_folder(name, folder, **changes) -> Task:
    """Return a task of the package that is read from a folder instead of the Hub."""
    return replace(load_task(name), dataset=str(folder), revision=None, **changes)


def replica(name, folder, **changes) -> Task:
    """Write a copy of a task's data to a folder; return the task that is read from it."""
    # The copy has six images: the numbers of the full data do not hold.
    task = in_folder(name, folder, n_images=N, n_texts={}, **changes)
    write_replica(task, folder)
    return task


def write_task(path, values) -> str:
    """Write the YAML of a user's own task; return its path."""
    path.write_text(yaml.safe_dump(values))
    return str(path)


def image_cells(*numbers) -> list[dict]:
    """Return the cells of a column of images."""
    return [{"bytes": encoded(number), "path": None} for number in numbers]


def answers(rows) -> list:
    """Return `(number of the image, label or captions)` of each row, in their order."""
    return [(number_of(row.pop("image")), *row.values()) for row in rows]


def expected_captions(task, languages) -> list[dict]:
    """Return the captions of each image in `languages`, as the task has to read them."""
    several = task.name.removesuffix("-mixed") not in ONE_CAPTION
    captions = []
    for number in range(N):
        of_image = {language: captions_of(number, language, several) for language in languages}
        if task.join_words:
            of_image = {language: without_spaces(texts) for language, texts in of_image.items()}
        captions.append(of_image)
    return captions


def own_rows(task, languages) -> list[list]:
    """Return the rows of each language, as they have to be read where languages have images of their own."""
    rows = []
    for language in languages:
        of_language = []
        for number in order_of(task, task.languages.index(language), language):
            captions = {other: [] for other in languages}
            captions[language] = captions_of(number, language, True)
            of_language.append((number, captions))
        rows.append(of_language)
    return rows


def without_spaces(texts) -> list[str]:
    return [text.replace(" ", "") for text in texts]


@pytest.mark.parametrize("name", [name for name in all_task_names() if name not in OF_OTHER_ROWS])
def test_every_task_loads_from_its_layout(name, tmp_path):
    languages = load_task(name).languages
    if load_task(name).layout == "split_per_language":
        # Three of many; `no` is Norwegian.
        languages = ["en", "no", "th"]
    task = replica(name, tmp_path, languages=languages)
    requested = languages[-2:] or None

    if task.has_captions:
        answer_column = "captions"
        expected = list(enumerate(expected_captions(task, requested)))
    elif "labels" in task.columns:
        answer_column = "labels"
        expected = list(enumerate(SEVERAL))
    else:
        answer_column = "label"
        expected = list(enumerate(CLASSES))
    if task.layout == "table" and task.data_files:  # files come by class
        expected = sorted(expected, key=lambda pair: pair[1])

    # From the disk, the first two rows, and as a stream.
    rows = read_rows(task, requested)
    assert answers(rows) == expected
    assert set(rows.column_names) == {"image", answer_column}
    assert isinstance(rows.features["image"], Image)
    assert answers(read_rows(task, requested, limit=2)) == expected[:2]
    if task.layout == "frames":
        with pytest.raises(InputError, match="frames.*leave out --streaming"):
            read_rows(task, streaming=True)
    else:
        assert answers(read_rows(task, requested, limit=4, streaming=True)) == expected[:4]
        assert answers(read_rows(task, requested, streaming=True)) == expected


@pytest.mark.parametrize("name", OF_OWN_IMAGES)
def test_languages_with_images_of_their_own_are_read_one_after_the_other(name, tmp_path):
    task = replica(name, tmp_path)
    task = replace(task, n_images={language: N for language in task.languages})
    requested = task.languages[-2:]
    first, second = own_rows(task, requested)
    assert answers(read_rows(task, requested)) == first + second
    # The limit is that of each language: otherwise the second would have no image.
    assert answers(read_rows(task, requested, limit=2)) == first[:2] + second[:2]
    assert answers(read_rows(replace(task, first_caption=True), requested[:1], limit=1)) == [
        (first[0][0], {requested[0]: first[0][1][requested[0]][:1]})
    ]
    if name == "cvqa":
        with pytest.raises(InputError, match="rows of .* are captions.*leave out --streaming"):
            read_rows(task, streaming=True)
    else:
        assert answers(read_rows(task, requested, streaming=True)) == first + second
        assert answers(read_rows(task, requested, limit=4, streaming=True)) == first[:4] + second[:4]


def test_images_and_texts_of_each_language_are_counted(tmp_path, caplog):
    # Of white space alone, one caption in each of two languages of WIT.
    features = {"image": Image(), "image_id": Value("string"), "captions": List(Value("string"))}
    greek = {"image": image_cells(1, 2), "image_id": ["1", "2"], "captions": [["\u00a0"], ["α", "β"]]}
    write_parquet(tmp_path, "el", greek, features)
    write_parquet(tmp_path, "en", greek | {"captions": [["a"], ["b"]]}, features)
    task = in_folder("wit", tmp_path, languages=["el", "en"])
    task = replace(task, n_images={"el": 540, "en": 2}, n_texts={"el": 2, "en": 1000})
    with caplog.at_level(logging.WARNING):
        rows = read_rows(task)
    assert answers(rows)[:2] == [(1, {"el": [], "en": []}), (2, {"el": ["α", "β"], "en": []})]
    assert [message.split(";")[0] for message in caplog.messages] == [
        f"wit: {tmp_path} has 1 images in el",
        f"wit: {tmp_path} has 2 texts in en",
    ]


def test_a_language_that_no_row_has_is_named(tmp_path):
    task = replica("cvqa", tmp_path)
    where = task.where | {"ko": "('Korean', 'Korea')"}
    message = r"column 'Subset' of .* has no \"\('Korean', 'Korea'\)\"; it has .*'Singapore'\).*fix where.ko"
    with pytest.raises(InputError, match=message):
        read_rows(replace(task, where=where), ["ko"])


def test_the_first_caption_of_each_image_may_count_alone(tmp_path):
    task = replica("flickr30k-cn", tmp_path, first_caption=True)
    first = answers(read_rows(task))
    assert [captions for _, captions in first] == [{"zh": [f"zh {number}.0"]} for number in range(N)]


def few_choices(folder) -> Task:
    """Return MVL-SIB in two languages, read from a copy."""
    return replica("mvl-sib", folder, languages=["en", "nqo"])


def test_texts_that_choose_among_images_are_read_with_these(tmp_path):
    task = few_choices(tmp_path)
    for streaming in (False, True):
        rows = list(read_rows(task, ["nqo"], streaming=streaming))
        assert [number_of(row["image"]) for row in rows] == list(range(N))
        assert rows[2]["captions"] == {"nqo": ["nqo 2.0", "nqo 2.1", "nqo 2.2"]}
        # Image 2 is the own one, and those after it are the others, in any order.
        assert [sorted(among) for among in rows[2]["rivals"]["nqo"]] == [[3, 4, 5]] * 3
        assert [sorted(among) for among in rows[4]["rivals"]["nqo"]] == [[0, 1, 5]] * 3
    # Of the first four images only the first has all that its texts choose among.
    few = read_rows(task, limit=4)
    assert [len(row["captions"]["en"]) for row in few] == [3, 0, 0, 0]


@pytest.mark.parametrize(
    "file,change,message",
    [
        ("queries", {"text": ["\u00a0"] * 18}, "query 'query-0' has no text in `queries`"),
        ("queries", {"id": ["other"] * 18}, "query 'query-0' has no text in `queries`"),
        (
            "qrels",
            {"score": [0] * 18},
            "query 'query-0' is of image None in `qrels` and chooses among image-0, ",
        ),
        ("qrels", {"corpus-id": ["image-5"] * 18}, "is of image 'image-5' in `qrels` and chooses among "),
        ("top_ranked", {"corpus-ids": [["image-0"]] * 18}, "another one have to be among these"),
        ("top_ranked", {"corpus-ids": [["image-0", "x"]] * 18}, "chooses 'x', which `corpus` lacks"),
        (
            "top_ranked",
            {"corpus-ids": [["image-0", "image-1", "image-2"], ["image-1", "image-2"]] * 9},
            "texts in en choose among 2 to 3 images: give each as many",
        ),
    ],
)
def test_files_of_choices_that_do_not_fit_are_named(tmp_path, file, change, message):
    task = few_choices(tmp_path)
    path = tmp_path / task.data_files[file].replace("{}", "eng_Latn")
    columns = Dataset.from_parquet(str(path)).to_dict() | change
    if "give each" in message:  # all of image 0 or 1, one after the other
        columns["query-id"] = [f"query-{place % 2}" for place in range(18)]
    Dataset.from_dict(columns).to_parquet(path)
    with pytest.raises(InputError, match=re.escape(message)):
        read_rows(task, ["en"])


def test_ids_of_mteb_are_those_of_its_release():
    """mteb 2.26.24 has these tasks; a name that is written wrongly finds no results there."""
    directions = [
        "Flickr30k{}Retrieval",
        "MSCOCO{}Retrieval",
        "Multi30k{}Retrieval",
        "WIT{}Retrieval",
        "XFlickr30kCo{}Retrieval",
        "XM3600{}Retrieval",
    ]
    retrieval = [name.format(direction) for name in directions for direction in ("T2I", "I2T")]
    sets = """Birdsnap CIFAR10 CIFAR100 Caltech101 Country211 DTD EuroSAT FER2013 FGVCAircraft Food101 GTSRB
        Imagenet1k MNIST OxfordPets PatchCamelyon RESISC45 STL10 SUN397 StanfordCars"""
    classification = [f"{name}ZeroShot" for name in sets.split()]
    ids = [id for name in all_task_names() for id in load_task(name).mteb]
    assert sorted(ids) == sorted([*retrieval, *classification, "RenderedSST2", "MVLSIBSent2Img"])
    assert load_task("xm3600").mteb == ["XM3600T2IRetrieval", "XM3600I2TRetrieval"]


def names_by_metric(metric) -> set[str]:
    return {name for name in all_task_names() if load_task(name).metric == metric}


def test_the_benchmarks_of_the_paper_are_there():
    """Check the rows of its tables, ELEVATER's twenty and the list of its figure 2."""
    assert len(all_task_names("icinw")) == 20
    assert len(all_task_names("imagenet")) == 5
    assert len(all_task_names("clip-benchmark")) == 26
    assert set(all_task_names("world")) == {
        "cvqa",
        "dollar-street",
        "xflickrco-mixed",
        "xm3600-mixed",
        "flickr30k-200",
        "mvl-sib",
        "wit",
        "xflickrco",
        "xm3600",
        "xm3600-first-caption",
    }
    retrieval = set(all_task_names("retrieval"))
    assert retrieval == {
        "flickr30k",
        "flickr30k-cn",
        "mscoco-5k",
        "coco-cn-1k",
        "coco-cn-5k",
        "multi30k",
        "xtd",
        "xm3600",
    }

    # paper 5.1, as ELEVATER
    assert names_by_metric("mean_per_class") == {"fgvc-aircraft", "oxford-pets", "caltech101", "flowers102"}
    assert names_by_metric("mean_top1_top5") == {"kinetics400", "kinetics600"}
    assert names_by_metric("map_11_point") == {"voc2007", "voc2007-multilabel"}
    assert names_by_metric("roc_auc") == {"hateful-memes"}


@pytest.mark.parametrize("name", all_task_names("mixed_pool"))
def test_a_mixed_pool_reads_the_data_of_a_retrieval_task(name):
    pool = vars(load_task(name))
    retrieval = vars(load_task(name.removesuffix("-mixed")))
    differing = {key for key, value in pool.items() if value != retrieval[key]}
    assert differing <= {"name", "file", "kind", "metric", "mteb", "suites", "notes"}
    assert pool["kind"] == "mixed_pool"


@pytest.mark.parametrize("name", all_task_names())
def test_what_is_not_pinned_is_called_unverified(name):
    task = load_task(name)
    if not task.preparation and "revision" not in task.unverified:
        assert task.revision is not None
        assert len(task.revision) == 40
    assert task.has_captions or task.class_names
    assert task.licence, "what its authors, its card or mteb say of it, be it that nothing is stated"
    assert task.metric in METRICS[task.kind]


def test_the_miniatures_own_tasks(miniature):
    """Read the data that the miniature really draws."""
    for name in all_task_names("miniature"):
        task = replace(load_task(name), dataset=str(miniature / "dataset"))
        row = read_rows(task, limit=1)[0]
        assert row["image"].size == (32, 32)
        if task.kind == "retrieval":
            assert list(row["captions"]) == task.languages
            assert all(len(texts) == 1 for texts in row["captions"].values())
        else:
            # outputs/miniature/dataset/classes.json -> classes.json
            names_file = miniature / "dataset" / task.class_names.rpartition("/")[2]
            names = json.loads(names_file.read_text("utf-8"))
            assert len(names["de"]) == task.n_classes
            assert row["label"] < task.n_classes


def test_lines_of_a_tar_are_captions(tmp_path):
    # A caption a line. A backslash and an n are a line break within one; blank lines are none.
    members = {"s0.jpg": encoded(3, "jpg"), "s0.txt": b"A dog.\nIt says:\\nwoof \n\n"}
    write_tar(tmp_path / "test/0.tar", members)
    (row,) = read_rows(in_folder("flickr30k", tmp_path), limit=1)
    assert row["captions"] == {"en": ["A dog.", "It says:\nwoof"]}
    assert number_of(row["image"]) == 3


def test_ones_of_a_vector_are_classes(tmp_path):
    members = {"s0.webp": encoded(5, "webp"), "s0.npy": npy(np.array([0.0, 1.0, 0.0, 0.0, 1.0]))}
    write_tar(tmp_path / "test/0.tar", members)
    (row,) = read_rows(in_folder("voc2007-multilabel", tmp_path), limit=1)
    assert row["labels"] == [1, 4]
    assert number_of(row["image"]) == 5


def test_a_language_without_a_caption_has_none(tmp_path):
    features = {
        "image_id": Value("string"),
        "captions": List(Value("string")),
        "image": {"bytes": Value("binary"), "path": Value("string")},
    }
    images = image_cells(7, 8)
    # White space is no caption, and Maori has no row for image a.
    english = {"image_id": ["a", "b"], "captions": [["A lake."], ["A hill.", " "]], "image": images}
    write_parquet(tmp_path, "en", english, features)
    maori = {"image_id": ["b"], "captions": [["He puke."]], "image": images[:1]}
    write_parquet(tmp_path, "mi", maori, features)

    rows = read_rows(in_folder("xm3600", tmp_path, n_images=2, n_texts={}), ["mi", "en"])
    assert answers(rows) == [(7, {"mi": [], "en": ["A lake."]}), (8, {"mi": ["He puke."], "en": ["A hill."]})]


def test_a_caption_of_a_zip_may_be_of_several_images(tmp_path):
    task = replica("coco-cn-1k", tmp_path)
    images = ""
    for image_id, number in ((7, 2), (12, 4)):
        images += f"{image_id}\t{base64.b64encode(encoded(number)).decode()}\n"
    texts = [
        # Of two images, named in another order than the file of images has.
        {"text_id": 1, "text": "一 只 狗", "image_ids": [12, 7]},
        {"text_id": 2, "text": "猫", "image_ids": [12]},
    ]
    lines = [json.dumps(text, ensure_ascii=False) for text in texts]
    with ZipFile(tmp_path / "COCO-CN.zip", "w") as archive:
        archive.writestr("test_imgs.tsv", images)
        archive.writestr("test_texts.jsonl", "\n".join(lines))
    assert answers(read_rows(task)) == [(2, {"zh": ["一只狗"]}), (4, {"zh": ["一只狗", "猫"]})]


def test_the_users_own_task(tmp_path):
    """Read a folder of images with captions in several languages, some with several or none, and its YAML
    beside it.
    """
    folder = tmp_path / "signs"
    features = {"picture": Image(), "captions": {"en": List(Value("string")), "eo": List(Value("string"))}}
    columns = {
        "picture": image_cells(1, 2),
        "captions": [{"en": ["stop", "halt"], "eo": ["haltu"]}, {"en": ["go"], "eo": None}],
    }
    write_parquet(folder, "test", columns, features)
    own = OWN_RETRIEVAL | {"dataset": str(folder), "languages": ["en", "eo"]}
    task = load_task(write_task(tmp_path / "signs.yaml", own))

    assert task.name == "signs"
    assert answers(read_rows(task)) == [
        (1, {"en": ["stop", "halt"], "eo": ["haltu"]}),
        (2, {"en": ["go"], "eo": []}),
    ]
    assert answers(read_rows(task, ["eo"])) == [(1, {"eo": ["haltu"]}), (2, {"eo": []})]
    with pytest.raises(InputError, match="column 'captions' of .* has no de: choose from en eo"):
        read_rows(replace(task, languages=["en", "eo", "de"]), ["de"])


@pytest.mark.parametrize(
    "kind",
    [Json(), {"en": Json(), "eo": List(Value("string"))}, {"en": List(Value("string")), "eo": Value("null")}],
    ids=str,
)
@pytest.mark.parametrize("streaming", [False, True])
def test_captions_of_rows_that_lack_a_language(tmp_path, kind, streaming):
    """Read rows with keys of their own, cells of several forms, and a language without any text."""
    eo_is_null = isinstance(kind, dict) and kind["eo"] == Value("null")
    if eo_is_null:
        second, eo = {"en": ["go"]}, []
    else:
        second, eo = {"en": "go", "eo": ["iru"]}, ["iru"]

    columns = {"image": image_cells(1, 2, 3), "captions": [{"en": ["stop", "halt"]}, second, None]}
    write_parquet(tmp_path / "signs", "test", columns, {"image": Image(), "captions": kind})
    path = write_task(tmp_path / "signs.yaml", OWN_RETRIEVAL | {"languages": ["en", "eo"]})
    assert answers(read_rows(load_task(path), streaming=streaming)) == [
        (1, {"en": ["stop", "halt"], "eo": []}),
        (2, {"en": ["go"], "eo": eo}),
        (3, {"en": [], "eo": []}),
    ]


@pytest.mark.parametrize("value", ["a text", {"en": 7}, {"en": {"a": "b"}}, {"en": ["a", 7]}], ids=repr)
def test_captions_that_are_no_texts_are_refused(tmp_path, value):
    columns = {"image": image_cells(1, 2), "captions": [{"en": "a"}, value]}
    write_parquet(tmp_path / "signs", "test", columns, {"image": Image(), "captions": Json()})
    path = write_task(tmp_path / "signs.yaml", OWN_RETRIEVAL | {"languages": ["en"]})

    message = "column 'captions' has .* in a row, (which is no text|and no {language: texts})"
    with pytest.raises(InputError, match=message) as error:
        read_rows(load_task(path))
    if isinstance(value, dict):
        assert f"has {value['en']!r} in a row" in str(error.value)


def read_in_training(cell) -> list[str]:
    """Return the English captions that training reads from a cell."""
    return read_captions({"captions": {"en": cell}}, Form("captions", None, None)).get("en", [])


def test_training_and_evaluation_read_and_refuse_texts_alike():
    # Training keeps white space around a text, and evaluation strips it; "　" is an ideographic space.
    for cell, texts in {" a ": [" a "], "　\n": [], "": []}.items():
        for given in (cell, [cell, None]):
            assert read_in_training(given) == texts
            assert texts_in_cell(given, "captions") == [text.strip() for text in texts]

    for cell in (7, [7], {"a": "b"}, [["a"]]):
        with pytest.raises(InputError) as of_training:
            read_in_training(cell)
        with pytest.raises(InputError) as of_evaluation:
            texts_in_cell(cell, "captions")
        assert str(of_training.value) == str(of_evaluation.value)
        assert str(of_training.value) == f"column 'captions' has {cell!r} in a row, which is no text: fix it"


def write_class_names(folder, first_name) -> None:
    names = {"en": {"signs": [first_name, "go"]}, "de": {"signs": ["halt", "los"]}}
    folder.mkdir(exist_ok=True)
    (folder / "names.json").write_text(json.dumps(names))


def test_the_users_own_paths_are_read_from_beside_the_file(tmp_path, monkeypatch):
    """Read them so from any working directory, and before a file of the same name in that directory.

    A file that does not lie beside the YAML is read from the working directory.
    """
    own = tmp_path / "own"
    elsewhere = tmp_path / "elsewhere"
    images = {"image": image_cells(1, 2), "label": [1, 0]}
    write_parquet(own / "data/signs", "test", images, {"image": Image(), "label": Value("int64")})
    write_class_names(own, "stop")
    # A file of the same name, which must not be read instead.
    write_class_names(elsewhere, "another")
    (own / "sentences.json").write_text(json.dumps({"en": ["{}!"]}))
    (elsewhere / "there.json").write_text(json.dumps({"en": ["there", "too"]}))

    signs = OWN_ZERO_SHOT | {"dataset": "data/signs", "templates": "sentences.json"}
    write_task(own / "signs.yaml", signs | {"class_names": "names.json:signs"})
    for_each_language = {"en": "names.json:signs", "de": ["a", "b"], "fr": "there.json"}
    write_task(own / "each.yaml", signs | {"class_names": for_each_language})

    # From the folder of the YAML, from above it, and from next to it.
    for working_directory, prefix in ((own, ""), (tmp_path, "own/"), (elsewhere, "../own/")):
        monkeypatch.chdir(working_directory)
        task = load_task(f"{prefix}signs.yaml")
        assert task.dataset == f"{prefix}data/signs"
        assert answers(read_rows(task)) == [(1, 1), (2, 0)]
        assert class_names_of(task, ["en"], None) == {"en": ["stop", "go"]}
        assert languages_of(task) == ["en", "de"]
        assert load_templates(task.templates, "en") == ["{}!"]
        assert f"reads:      {prefix}data/signs, split test" in describe_task(task)
        assert load_task(f"{prefix}each.yaml").class_names == {
            "en": f"{prefix}names.json:signs",
            "de": ["a", "b"],
            "fr": "there.json",
        }


def test_the_packages_own_paths_are_read_from_the_working_directory():
    assert load_task("xtd").dataset == "data/xtd"
    task = load_task("miniature-concepts")
    assert task.dataset == "outputs/miniature/dataset"
    assert task.class_names.startswith("outputs/miniature/dataset/")


def test_a_row_may_lack_its_captions_or_its_image(tmp_path):
    features = {"image": Image(), "captions": {"en": List(Value("string")), "eo": Value("string")}}
    columns = {"image": [*image_cells(1), None], "captions": [None, {"en": ["go"], "eo": "iru"}]}
    write_parquet(tmp_path, "test", columns, features)
    task = in_folder(
        "multi30k",
        tmp_path,
        data_files=None,
        columns={"captions": "captions"},
        languages=["en", "eo"],
        n_images=2,
        n_texts={"en": 1},
    )
    for rows in (read_rows(task), read_rows(task, streaming=True)):
        first, second = rows
        assert number_of(first["image"]) == 1
        assert first["captions"] == {"en": [], "eo": []}
        assert second == {"image": None, "captions": {"en": ["go"], "eo": ["iru"]}}


def test_labels_that_are_texts_are_numbered_by_the_alphabet(tmp_path):
    features = {"image": Image(), "kind": Value("string")}
    images = image_cells(0, 1, 2)
    # ant is 0 and wren 1, whatever comes first in the data.
    write_parquet(tmp_path, "test", {"image": images, "kind": ["wren", "ant", "wren"]}, features)
    task = in_folder("birdsnap", tmp_path, columns={"label": "kind"}, n_images=3)
    rows = read_rows(task, limit=2)
    assert rows["label"] == [1, 0]
    assert rows.features["label"] == ClassLabel(names=["ant", "wren"])
    with pytest.raises(InputError, match="labels of .* are texts.*leave out --streaming"):
        read_rows(task, streaming=True)

    write_parquet(tmp_path, "test", {"image": images, "kind": ["wren", "ant", None]}, features)
    message = f"row 2 of '{tmp_path}' has the label None, which is no class: leave it out"
    with pytest.raises(InputError, match=message):
        read_rows(task)


def test_names_of_classes_come_with_the_data(tmp_path):
    for name in ("cifar100", "objectnet", "kinetics400", "ucf101"):
        task = replica(name, tmp_path / name)
        assert task.class_names == "dataset"
        assert own_class_names(task, read_rows(task)) == NAMES
    assert own_class_names(task, read_rows(task, limit=1)) == NAMES
    task = replica("gtsrb", tmp_path / "gtsrb")
    assert task.class_names == "clip_benchmark:gtsrb"
    assert own_class_names(task, read_rows(task)) is None
    with pytest.raises(InputError, match="has no file 'names.txt', which .*gtsrb.yaml names"):
        fetch(task, "names.txt")


def test_a_missing_column_is_named(tmp_path):
    cifar = replica("cifar100", tmp_path / "cifar")
    multi30k = replica("multi30k", tmp_path / "multi30k")

    message = "split 'test' has no column 'finelabel'; it has id, img, fine_label, family: "
    message += "fix columns.label of .*cifar100.yaml"
    with pytest.raises(InputError, match=message):
        read_rows(replace(cifar, columns={"image": "img", "label": "finelabel"}))
    with pytest.raises(InputError, match="has no column 'eo'; .*fix columns.captions of .*multi30k.yaml"):
        read_rows(replace(multi30k, columns={"captions": {"en": "eo"}}), ["en"])
    with pytest.raises(InputError, match="column 'family' .* must hold numbers of classes, not .*string"):
        read_rows(replace(cifar, columns={"labels": "family"}))

    message = "column 'image' .* must hold texts, not Image.*fix columns.captions of .*multi30k.yaml"
    with pytest.raises(InputError, match=message):
        read_rows(replace(multi30k, columns={"captions": {"en": "image"}}), ["en"])
    with pytest.raises(InputError, match="column 'en' .* must hold {language: texts}.*captions: {en: en}"):
        read_rows(replace(multi30k, columns={"captions": "en"}), ["en"])


def test_which_column_is_the_image_must_be_clear(tmp_path):
    images = image_cells(1)
    features = {"before": Image(), "after": Image(), "label": Value("int64")}
    write_parquet(tmp_path, "test", {"before": images, "after": images, "label": [0]}, features)
    task = in_folder("dtd", tmp_path, columns={"label": "label"})
    message = "has images in before and after: name one in columns.image of .*dtd.yaml"
    with pytest.raises(InputError, match=message):
        read_rows(task)

    write_parquet(tmp_path, "test", {"label": [0]}, {"label": Value("int64")})
    with pytest.raises(InputError, match="has no column of images among label: name one"):
        read_rows(task)


def test_a_missing_split_is_named(tmp_path):
    with pytest.raises(InputError, match="has no split 'dev'; it has .*test.*: fix `split` of .*dtd.yaml"):
        read_rows(replace(replica("dtd", tmp_path), split="dev"))

    tars = replica("gtsrb", tmp_path / "tars", data_files={"test": "dev/*.tar"})
    with pytest.raises(InputError, match=r"data_files .*dev/\*.tar.*gtsrb.yaml\) cannot be loaded"):
        read_rows(tars)

    of_zip = replica("flickr30k-cn", tmp_path)
    message = "has 0 files dev_imgs.tsv, of Flickr30k-CN/train_imgs.tsv, .*fix .*flickr30k-cn.yaml"
    with pytest.raises(InputError, match=message):
        read_rows(replace(of_zip, split="dev", data_files={"dev": "Flickr30k-CN.zip"}))

    task = replica("xm3600", tmp_path / "xm", languages=["en", "th"])
    with pytest.raises(InputError, match="has no split 'sw'; it has xx, en, th"):
        read_rows(replace(task, languages=["en", "th", "sw"]), ["th", "sw"])


def test_files_that_do_not_agree_are_named(tmp_path):
    task = replica("xtd", tmp_path)
    (tmp_path / task.data_files["pl"]).write_text(
        "a\nb\nc\nd\ne\nf\n"
    )  # the last line may have an end or none
    assert read_rows(task, ["pl"])[5]["captions"] == {"pl": ["f"]}
    (tmp_path / task.data_files["pl"]).write_text("jeden\ndwa")
    with pytest.raises(InputError, match="test_1kcaptions_pl.txt has 2 lines, XTD10/test_image_names.txt 6"):
        read_rows(task, ["pl"])
    (tmp_path / task.data_files["pl"]).write_bytes("狗\n".encode("gbk"))
    with pytest.raises(InputError, match="test_1kcaptions_pl.txt' is not UTF-8, in line 1: save it as UTF-8"):
        read_rows(task, ["pl"])
    next((tmp_path / "images").rglob("*000002.jpg")).unlink()
    with pytest.raises(InputError, match="images lacks 1 of 6 images: COCO_val2014_000000000002.jpg"):
        read_rows(task, ["de"])
    task = replica("coco-cn-5k", tmp_path / "coco")
    with pytest.raises(
        InputError, match="captions.json is no JSON in COCO's form, or has no 'sauce': see .*coco-cn-5k.yaml"
    ):
        read_rows(replace(task, where={"sauce": "zhm"}))
    (tmp_path / "coco" / task.data_files["captions"]).write_bytes('{"狗": 1}'.encode("utf-16"))
    with pytest.raises(InputError, match="captions.json' is not UTF-8, at byte 0: save it as UTF-8"):
        read_rows(task)
    (tmp_path / "zip").mkdir()
    task = replica("flickr30k-cn", tmp_path / "zip")
    (tmp_path / "zip/Flickr30k-CN.zip").write_bytes(b"no zip")
    with pytest.raises(InputError, match="cannot be loaded: File is not a zip file"):
        read_rows(task)


def test_a_language_that_a_task_lacks_is_named(tmp_path):
    with pytest.raises(InputError, match="no text in language zh: choose from en cs de fr"):
        read_rows(replica("multi30k", tmp_path), ["zh"])


def test_files_of_captions_that_do_not_agree_are_named(tmp_path):
    task = replica("xtd", tmp_path)
    polish = tmp_path / task.data_files["pl"]
    polish.write_text("a\nb\nc\nd\ne\nf\n")  # the last line may have an end or none
    assert read_rows(task, ["pl"])[5]["captions"] == {"pl": ["f"]}

    polish.write_text("jeden\ndwa")
    with pytest.raises(InputError, match="test_1kcaptions_pl.txt has 2 lines, XTD10/test_image_names.txt 6"):
        read_rows(task, ["pl"])
    polish.write_bytes("狗\n".encode("gbk"))
    with pytest.raises(InputError, match="test_1kcaptions_pl.txt' is not UTF-8, in line 1: save it as UTF-8"):
        read_rows(task, ["pl"])

    next((tmp_path / "images").rglob("*000002.jpg")).unlink()
    with pytest.raises(InputError, match="images lacks 1 of 6 images: COCO_val2014_000000000002.jpg"):
        read_rows(task, ["de"])


def test_files_of_another_form_are_named(tmp_path):
    task = replica("coco-cn-5k", tmp_path / "coco")
    message = "captions.json is no JSON in COCO's form, or has no 'sauce': see .*coco-cn-5k.yaml"
    with pytest.raises(InputError, match=message):
        read_rows(replace(task, where={"sauce": "zhm"}))
    (tmp_path / "coco" / task.data_files["captions"]).write_bytes('{"狗": 1}'.encode("utf-16"))
    with pytest.raises(InputError, match="captions.json' is not UTF-8, at byte 0: save it as UTF-8"):
        read_rows(task)

    (tmp_path / "zip").mkdir()
    task = replica("flickr30k-cn", tmp_path / "zip")
    (tmp_path / "zip/Flickr30k-CN.zip").write_bytes(b"no zip")
    with pytest.raises(InputError, match="cannot be loaded: File is not a zip file"):
        read_rows(task)


def test_a_folder_to_be_made_is_explained(tmp_path):
    message = "dataset 'data/xtd' does not exist. Clone github.com/adobe-research"
    with pytest.raises(InputError, match=message):
        read_rows(load_task("xtd"))


def test_other_numbers_than_the_tasks_are_told(tmp_path, caplog):
    # The numbers of the full test set; the copy has 6 images with 3 captions each.
    task = replace(replica("flickr30k", tmp_path), n_images=1000, n_texts={"en": 5000})
    with caplog.at_level(logging.WARNING):
        # Who asks for a few images knows that there are more.
        read_rows(task, limit=3)
        assert not caplog.messages
        read_rows(task)
    assert [message.split(";")[0] for message in caplog.messages] == [
        f"flickr30k: {tmp_path} has 6 images",
        f"flickr30k: {tmp_path} has 18 texts in en",
    ]
    caplog.clear()
    read_rows(replace(task, n_images=6, n_texts={"en": 18}))
    assert not caplog.messages


def remove_broken_train_split(folder) -> None:
    """Remove the files that no task may read; a replica is then written anew in their place."""
    for path in list(folder.rglob("*")):
        if path.is_file() and path.parent.name == "train":
            path.unlink()
            path.parent.rmdir()


def replica_of_old_time(name, folder, languages):
    """Make a replica whose files all have one time stamp, as an archive that keeps times gives them."""
    task = replica(name, folder, languages=languages)
    for path in folder.rglob("*"):
        os.utime(path, (1e9, 1e9))
    return task


@pytest.mark.parametrize("name", ["dtd", "gtsrb", "flickr30k-cn", "xm3600"])
def test_a_folder_written_anew_is_read_anew(name, tmp_path, monkeypatch):
    languages = ["en", "th"] if name == "xm3600" else load_task(name).languages
    first = read_rows(replica_of_old_time(name, tmp_path, languages))
    (first_image, first_answer), *_ = answers(first)

    # Other images, classes and captions in the same files.
    monkeypatch.setattr(replicas, "CLASSES", CLASSES[::-1])
    monkeypatch.setattr(replicas, "captions_of", lambda number, language, several: [f"new {number}"])
    monkeypatch.setattr(replicas, "encoded", lambda number, extension="png": encoded(number + 5, extension))
    remove_broken_train_split(tmp_path)
    second = read_rows(replica_of_old_time(name, tmp_path, languages))
    (second_image, second_answer), *_ = answers(second)

    if load_task(name).kind == "zero_shot":
        expected = CLASSES[-1]
    else:
        expected = {language: ["new 0"] for language in languages}
    assert first_image == 0
    assert second_image == 5
    assert second_answer == expected
    assert second_answer != first_answer


ON_A_HUB = """
import json
from dataclasses import replace
from common.errors import InputError
from benchmarks.tasks.loading import load_task
from benchmarks.tasks.reading import read_rows
from benchmarks.tasks.source import commit_of_dataset, full_revision

def outcome(task):
    try:
        return len(read_rows(task))
    except InputError as error:
        return str(error)

short = load_task("imagenet-a")
table = load_task("dtd")
of_zip = load_task("flickr30k-cn")
outcomes = {
    "short": [outcome(short), commit_of_dataset(short)],
    "table": [outcome(table), commit_of_dataset(table), len(list(read_rows(table, streaming=True, limit=2)))],
    "zip": outcome(of_zip),
    "stream": len(list(read_rows(load_task("imagenet-r"), streaming=True, limit=1))),
    "gated": [
        outcome(replace(table, dataset="gated/table", revision=None)),
        outcome(replace(of_zip, dataset="gated/zip")),
    ],
    "no commit": outcome(replace(short, revision="abcdef0")),
    "no revision": outcome(replace(table, revision="f" * 40)),
}
full_revision.cache_clear()
outcomes["again"] = commit_of_dataset(short)
print(json.dumps(outcomes))
"""


@dataclass
class OnAHub:
    """What the script ON_A_HUB printed, and what it requested from the Hub, "owner/name/resolve/..."."""

    outcomes: dict
    requests: list[str]


@pytest.fixture(scope="module")
def on_a_hub(tmp_path_factory, run_python) -> OnAHub:
    """Read tasks from a fake Hub, in a process of its own.

    A first part of a revision, a table with a card, a zip, a stream, gated data sets.
    """
    folder = tmp_path_factory.mktemp("on_a_hub")
    folders = {}
    commits = {}
    for name in ("imagenet-a", "imagenet-r", "dtd", "flickr30k-cn"):
        task = load_task(name)
        (folder / name).mkdir()
        write_replica(task, folder / name)
        folders[task.dataset] = folder / name
        # A short revision stands for the commit that begins with it: 614c3a5 -> 614c3a5000...
        commits[task.dataset] = (task.revision or "").ljust(40, "0")
    folders |= {"gated/table": folder / "dtd", "gated/zip": folder / "flickr30k-cn"}

    hub = FakeHub(folders, commits)
    process = run_python("python", "-c", ON_A_HUB, **hub.variables(folder))
    hub.shutdown()
    assert process.returncode == 0, process.stderr
    return OnAHub(json.loads(process.stdout), hub.requests)


def test_tasks_load_from_a_hub(on_a_hub):
    outcomes = on_a_hub.outcomes
    assert outcomes["short"] == [N, "614c3a5".ljust(40, "0")]
    assert outcomes["table"] == [N, "d2afa97d9f335b1a6b3b09c637aef667f98f966e", 2]
    assert outcomes["zip"] == N
    assert outcomes["stream"] == 1


def test_what_a_hub_refuses_is_explained(on_a_hub):
    outcomes = on_a_hub.outcomes
    for message, dataset in zip(outcomes["gated"], ("gated/table", "gated/zip"), strict=True):
        terms = f"https://huggingface.co/datasets/{dataset}"
        assert f"{dataset!r} is gated: accept its terms at {terms} and log in with" in message
    assert "has 0 commits that begin with abcdef0: give all digits" in outcomes["no commit"]
    assert "revision 'ffff" in outcomes["no revision"]
    assert "cannot be loaded" in outcomes["no revision"]


def test_on_a_hub_only_what_is_asked_for_is_fetched(on_a_hub):
    requests = on_a_hub.requests
    fetched = [path.split("/resolve/")[1] for path in requests if "/resolve/" in path]
    assert any(path.endswith("test/2.tar") for path in fetched)
    assert not any("train" in path for path in fetched)

    of_stream = [path for path in requests if "wds_imagenet-r/resolve" in path]
    assert {path.rpartition("/")[2] for path in of_stream if path.endswith(".tar")} == {"0.tar"}


def test_a_commit_in_the_cache_is_not_asked_for_again(tmp_path, monkeypatch):
    commit = "614c3a5".ljust(40, "0")
    monkeypatch.setattr("benchmarks.tasks.source.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match="ffline"):  # the tests are
        commit_of_dataset(replace(load_task("imagenet-a"), dataset="org/other"))
    (tmp_path / "datasets--org--data/snapshots" / commit).mkdir(parents=True)
    assert commit_of_dataset(replace(load_task("imagenet-a"), dataset="org/data")) == commit


RETRIEVAL = {"kind": "retrieval", "metric": "mean_recall", "class_names": None}
POOL = RETRIEVAL | {
    "kind": "mixed_pool",
    "metric": "image_to_text_preference",
    "languages": ["en", "de"],
    "columns": {"captions": "captions"},
}
CAPTIONS = RETRIEVAL | {"layout": "caption_lines", "columns": {}}
CHOICES = CAPTIONS | {
    "layout": "candidates",
    "metric": "accuracy@1",
    "languages": ["en"],
    "where": {"en": "eng_Latn"},
    "data_files": dict.fromkeys(["corpus", "queries", "qrels", "top_ranked"], "{}.parquet"),
}
OWN_IMAGES_EACH = RETRIEVAL | {
    "layout": "split_with_images",
    "columns": {"image": "image", "captions": "text"},
    "languages": ["en"],
}


def test_the_commit_of_a_short_revision_is_asked_for_once(on_a_hub):
    """Find it in the cache in the next run."""
    assert on_a_hub.outcomes["again"] == on_a_hub.outcomes["short"][1]
    listed = [path for path in on_a_hub.requests if "wds_imagenet-a/commits" in path]
    assert len(listed) == 2  # once for 614c3a5, and once for abcdef0, which stands for nothing


@pytest.mark.parametrize(
    "change,message",
    [
        ({"metrics": "accuracy@1"}, "unknown key 'metrics': did you mean 'metric'"),
        ({"split": None}, "lacks split"),
        ({"kind": "retrival"}, "kind is 'retrival'; choose from retrieval, mixed_pool, zero_shot"),
        (POOL | {"languages": ["en"]}, "has the languages en: a mixed pool needs two or more"),
        (POOL | {"merge_captions": True}, "merge_captions is of retrieval, and not of a mixed pool"),
        (POOL | {"columns": {"label": "label"}}, "`columns` of mixed_pool must name captions, not label"),
        ({"metric": "mean_recall"}, "metric is 'mean_recall'; choose from accuracy@1, mean_per_class"),
        ({"layout": "tabel"}, "layout is 'tabel'; choose from table, webdataset"),
        (
            {"columns": {"captions": {"en": "text"}}},
            "`columns` of zero_shot must name label or labels, not captions",
        ),
        (
            {"columns": {"label": "a", "labels": "b"}},
            "`columns` of zero_shot must name label or labels, not label, labels",
        ),
        (
            {"columns": {"label": "label", "imgae": "image"}},
            "`columns` has an unknown key 'imgae': did you mean 'image'",
        ),
        ({"columns": {"lable": "label"}}, "`columns` has an unknown key 'lable': did you mean 'label'"),
        (
            {"columns": {"label": "label", "video": ["a"]}},
            "`columns` has an unknown key 'video': choose from image, captions, label, lab",
        ),
        (
            {"columns": {"label": ["label", "image"]}},
            r"columns.label is \['label', 'image'\]; it must be the name of a column",
        ),
        (
            {"columns": {"label": "label", "image": None}},
            "columns.image is None; it must be the name of a column",
        ),
        (
            {"layout": "frames", "columns": {"label": "label", "video": "id", "frame": "n"}},
            "columns.video is 'id'; it must be a list of names of columns",
        ),
        (
            RETRIEVAL | {"columns": {"captions": ["en", "de"]}, "languages": ["en"]},
            r"columns.captions is \['en', 'de'\]; it must be the name of a column, or {language: name}",
        ),
        (
            RETRIEVAL
            | {
                "layout": "split_per_language",
                "columns": {"id": "n", "image": "i", "captions": {"en": "text"}},
            },
            "columns.captions is {'en': 'text'}; it must be the name of a column",
        ),
        ({"layout": "frames"}, "`columns` of layout frames must name video, frame"),
        (
            OWN_IMAGES_EACH | {"n_images": 5},
            "n_images is 5; of layout split_with_images give {language: number}",
        ),
        ({"n_images": {"en": 5}}, "n_images is {'en': 5}; of layout table give one number"),
        (
            RETRIEVAL
            | {
                "layout": "language_column",
                "columns": {"id": "id", "image": "image", "captions": "text", "language": "tongue"},
                "languages": ["en", "de"],
                "where": {"en": "English"},
            },
            "`where` has no name in the dataset for de, which `languages` list",
        ),
        (OWN_IMAGES_EACH | {"metric": "accuracy@1"}, "metric accuracy@1 is not of layout split_with_images"),
        (
            CHOICES | {"metric": "mean_recall"},
            "metric mean_recall is not of layout candidates: give accuracy@1",
        ),
        (
            CHOICES | {"data_files": {"corpus": "a"}},
            "`data_files` of layout candidates lack queries, qrels, top",
        ),
        (CHOICES | {"where": {}}, "`where` has no name in the dataset for en, which `languages` list"),
        ({"data_files": {"train": "*.tar"}}, "`data_files` are of train, and not of split 'test'"),
        ({"layout": "coco_json"}, "layout coco_json is of retrieval, with one language in `languages`"),
        (
            CAPTIONS | {"languages": ["en", "de"], "data_files": {"en": "en.txt"}},
            "`data_files` of layout caption_lines lack names, images, de",
        ),
        ({"dataset": ""}, "lacks dataset"),
        ({"languages": "en"}, "languages is 'en', which is no list"),
        ({"revision": 1234567}, "revision is 1234567, which is no str"),
        ({"unverified": ["revison"]}, "calls revison unverified, which are no keys"),
        ({"languages": [False]}, r"languages\[0\] is False, which is no str"),
        ({"data_files": {"test": 1}}, r"data_files\['test'\] is 1, which is no str"),
        ({"n_texts": {"en": True}}, r"n_texts\['en'\] is True, which is no int"),
        ({"class_names": {"en": [1]}}, r"class_names\['en'\]\[0\] is 1, which is no str"),
        ({"unverified": [1]}, r"unverified\[0\] is 1, which is no str"),
        (RETRIEVAL | {"columns": {"captions": "captions"}}, "lacks languages: list those of its captions"),
        (
            RETRIEVAL | {"columns": {"captions": {"en": "text"}}, "languages": ["en", "de"]},
            "`columns.captions` has no column for de",
        ),
        (
            {"columns": {"labels": "labels"}},
            "metric accuracy@1 is not of the column labels: choose from map_11_point, mean_average_pre",
        ),
        (
            {"columns": {"labels": "labels"}, "metric": "roc_auc"},
            "metric roc_auc is not of the column labels",
        ),
        (
            {"metric": "map_11_point"},
            "map_11_point is not of the column label: choose from accuracy@1, mean_per_class, "
            "mean_top1_top5, ",
        ),
        ({"metric": "mean_average_precision"}, ".* or name the column labels, of several classes an image"),
        ({"class_names": None}, "lacks class_names: `dataset` where the label names its classes"),
        ({"templates": "a {name}."}, "'a {name}.' of task .*mine.yaml' has to have {} or {label} once"),
        ({"templates": ["{}", "no slot"]}, "'no slot' of task .*mine.yaml' has to have {} or {label} once"),
    ],
)
def test_a_bad_task_is_refused(change, message, tmp_path):
    path = write_task(tmp_path / "mine.yaml", OWN_ZERO_SHOT)
    assert load_task(path).columns == {"label": "label"}
    write_task(tmp_path / "mine.yaml", OWN_ZERO_SHOT | change)
    with pytest.raises(InputError, match=f"(task .*mine.yaml.*)?{message}") as refused:
        load_task(path)
    assert f"task '{path}'" in str(refused.value)


@pytest.mark.parametrize(
    "content,message",
    [
        (b"kind: zero_shot\ncolumns: {label: [label}\n", "is no YAML, line 2, column 24: "),
        (b"kind: zero_shot\nnotes: \xff\n", "is not UTF-8, at byte 23: save it as UTF-8"),
    ],
)
def test_a_task_that_is_no_yaml_is_refused_by_file_and_line(tmp_path, content, message):
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"task '{path}' {message}"):
        load_task(str(path))


def test_templates_may_be_one_sentence(tmp_path):
    path = write_task(tmp_path / "mine.yaml", OWN_ZERO_SHOT | {"templates": "a {}."})
    assert load_task(path).templates == ["a {}."]


def test_an_unknown_task_is_named(tmp_path):
    with pytest.raises(InputError, match="no task 'flicker30k': did you mean flickr30k, "):
        load_task("flicker30k")
    with pytest.raises(InputError, match="task 'no/such.yaml' does not exist: give a YAML file"):
        load_task("no/such.yaml")


def test_a_dry_run_says_what_would_be_loaded():
    text = describe_task(load_task("xm3600"), ["en", "zh"])
    assert "floschne/xm3600 @ 8d3e5665526c55a5855cd6ddfbaba2032bc7cee4, split en" in text
    assert "3,600 images, texts: 7,200 in en, 7,174 in zh" in text
    assert "unverified: licence" in text
    assert "CC-BY-4.0; not gated" in text

    text = describe_task(load_task("eurosat"))
    assert "differs:    CLIP and ELEVATER use 5,000 images" in text
    assert "5,400 images, 10 classes" in text

    assert "OFA-Sys/chinese-clip-eval, not pinned" in describe_task(load_task("flickr30k-cn"))

    assert "mteb:       XM3600T2IRetrieval, XM3600I2TRetrieval" in describe_task(load_task("xm3600"))
    text = describe_task(load_task("xm3600-first-caption"), ["en"])
    assert "measures:   retrieval, mean_recall, by the first caption of each image, in en" in text
    text = describe_task(load_task("wit"), ["ja", "en"])
    assert "files:      those of splits ja, en" in text
    assert "holds:      images: 842 in ja, 685 in en, texts: 1,000 in ja, 1,000 in en" in text

    text = describe_task(load_task("xtd"), ["ja"])
    assert "STAIR/test_1kcaptions_jp.txt" in text
    assert "captions_zh" not in text
    assert "first:      Clone github.com" in text
