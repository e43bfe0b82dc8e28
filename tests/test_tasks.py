"""Every task that comes with the package is read from a small copy in the form its data has on the Hub, whole
and of the right images.
"""

import base64
import json
import logging
from dataclasses import replace
from zipfile import ZipFile

import numpy as np
import pytest
import yaml
from datasets import ClassLabel, Dataset, Features, Image, Json, List, Value

from benchmarks.cells import texts_of
from benchmarks.classes import class_names_of, languages_of
from benchmarks.prompts import load_templates
from benchmarks.recipe import InputError
from benchmarks.task import Task, all_task_names, describe, load_task
from benchmarks.task_checks import METRICS
from training.captions import Form, read_captions

from . import replicas
from .replicas import (
    CLASSES,
    NAMES,
    SEVERAL,
    Hub,
    N,
    captions_of,
    encoded,
    npy,
    number_of,
    write_parquet,
    write_replica,
    write_tar,
)

ONE_CAPTION = ("multi30k", "xtd", "miniature-pairs", "miniature-pairs-unseen-style")


def replica(name, folder, **changes) -> Task:
    """A task that is read from a copy of its data in a folder."""
    task = replace(load_task(name), n_images=N, n_texts={}, dataset=str(folder), revision=None, **changes)
    write_replica(task, folder)
    return task


def answers(rows) -> list:
    """What the rows say of each image, by its number, in their order."""
    return [(number_of(row.pop("image")), *row.values()) for row in rows]


@pytest.mark.parametrize("name", all_task_names())
def test_every_task_loads_from_its_layout(name, tmp_path):
    languages = load_task(name).languages
    if load_task(name).layout == "split_per_language":
        languages = ["en", "no", "th"]
    task = replica(name, tmp_path, languages=languages)
    asked = languages[-2:] or None
    if task.kind == "retrieval":
        unspaced = [{lang: captions_of(i, lang, name not in ONE_CAPTION) for lang in asked} for i in range(N)]
        if task.join_words:
            unspaced = [
                {lang: [text.replace(" ", "") for text in texts] for lang, texts in row.items()}
                for row in unspaced
            ]
        expected, columns = list(enumerate(unspaced)), {"image", "captions"}
    else:
        labels = SEVERAL if "labels" in task.columns else CLASSES
        expected, columns = (
            list(enumerate(labels)),
            {"image", next(iter(task.columns.keys() & {"label", "labels"}))},
        )
    if task.layout == "table" and task.data_files:  # files come by class
        expected = sorted(expected, key=lambda pair: pair[1])
    rows = task.rows(asked)
    assert answers(rows) == expected
    assert set(rows.column_names) == columns
    assert isinstance(rows.features["image"], Image)
    assert answers(task.rows(asked, limit=2)) == expected[:2]
    if task.layout == "frames":
        with pytest.raises(InputError, match="frames.*leave out --streaming"):
            task.rows(streaming=True)
    else:
        assert answers(task.rows(asked, limit=4, streaming=True)) == expected[:4]
        assert answers(task.rows(asked, streaming=True)) == expected


def test_the_benchmarks_of_the_paper_are_there():
    """The rows of its tables, ELEVATER's twenty and the list of its figure 2."""
    assert len(all_task_names("icinw")) == 20
    assert len(all_task_names("imagenet")) == 5
    assert len(all_task_names("clip-benchmark")) == 26
    retrieval = {
        "flickr30k",
        "flickr30k-cn",
        "mscoco-5k",
        "coco-cn-1k",
        "coco-cn-5k",
        "multi30k",
        "xtd",
        "xm3600",
    }
    assert set(all_task_names("retrieval")) == retrieval
    metrics = {name: load_task(name).metric for name in all_task_names()}
    per_class = {"fgvc-aircraft", "oxford-pets", "caltech101", "flowers102"}  # paper 5.1, as ELEVATER
    assert {name for name, metric in metrics.items() if metric == "mean_per_class"} == per_class
    assert {name for name, metric in metrics.items() if metric == "mean_top1_top5"} == {
        "kinetics400",
        "kinetics600",
    }
    assert {name for name, metric in metrics.items() if metric == "map_11_point"} == {
        "voc2007",
        "voc2007-multilabel",
    }
    assert {name for name, metric in metrics.items() if metric == "roc_auc"} == {"hateful-memes"}


@pytest.mark.parametrize("name", all_task_names())
def test_what_is_not_pinned_is_called_unverified(name):
    task = load_task(name)
    if not task.preparation:
        assert (task.revision is not None and len(task.revision) == 40) or "revision" in task.unverified
    assert task.kind == "retrieval" or task.class_names
    assert task.licence, "what its authors, its card or mteb say of it, be it that nothing is stated"
    assert task.metric in METRICS[task.kind]


def test_the_miniatures_own_tasks(miniature):
    """Of the data that the miniature really draws."""
    for name in all_task_names("miniature"):
        task = replace(load_task(name), dataset=str(miniature / "dataset"))
        row = task.rows(limit=1)[0]
        assert row["image"].size == (32, 32)
        if task.kind == "retrieval":
            assert list(row["captions"]) == task.languages
            assert all(len(texts) == 1 for texts in row["captions"].values())
        else:
            names = json.loads(
                (miniature / "dataset" / task.class_names.rpartition("/")[2]).read_text("utf-8")
            )
            assert len(names["de"]) == task.n_classes > row["label"]


def test_lines_of_a_tar_are_captions(tmp_path):
    members = {"s0.jpg": encoded(3, "jpg"), "s0.txt": b"A dog.\nIt says:\\nwoof \n\n"}
    write_tar(tmp_path / "test/0.tar", members)
    (row,) = replace(load_task("flickr30k"), dataset=str(tmp_path), revision=None).rows(limit=1)
    assert row["captions"] == {"en": ["A dog.", "It says:\nwoof"]}
    assert number_of(row["image"]) == 3


def test_ones_of_a_vector_are_classes(tmp_path):
    members = {"s0.webp": encoded(5, "webp"), "s0.npy": npy(np.array([0.0, 1.0, 0.0, 0.0, 1.0]))}
    write_tar(tmp_path / "test/0.tar", members)
    (row,) = replace(load_task("voc2007-multilabel"), dataset=str(tmp_path), revision=None).rows(limit=1)
    assert row["labels"] == [1, 4]
    assert number_of(row["image"]) == 5


def test_a_language_without_a_caption_has_none(tmp_path):
    features = {"image_id": Value("string"), "captions": List(Value("string"))}
    raw = {"image": {"bytes": Value("binary"), "path": Value("string")}}
    images = [{"bytes": encoded(number), "path": None} for number in (7, 8)]
    write_parquet(
        tmp_path,
        "en",
        {"image_id": ["a", "b"], "captions": [["A lake."], ["A hill.", " "]], "image": images},
        features | raw,
    )
    write_parquet(
        tmp_path, "mi", {"image_id": ["b"], "captions": [["He puke."]], "image": images[:1]}, features | raw
    )
    rows = replace(load_task("xm3600"), dataset=str(tmp_path), revision=None, n_images=2, n_texts={}).rows(
        ["mi", "en"]
    )
    assert answers(rows) == [(7, {"mi": [], "en": ["A lake."]}), (8, {"mi": ["He puke."], "en": ["A hill."]})]


def test_a_caption_of_a_zip_may_be_of_several_images(tmp_path):
    task = replica("coco-cn-1k", tmp_path)
    with ZipFile(tmp_path / "COCO-CN.zip", "w") as archive:
        archive.writestr(
            "test_imgs.tsv",
            f"7\t{base64.b64encode(encoded(2)).decode()}\n12\t{base64.b64encode(encoded(4)).decode()}\n",
        )
        archive.writestr(
            "test_texts.jsonl",
            '{"text_id": 1, "text": "一 只 狗", "image_ids": [12, 7]}\n{"text_id": 2, "text": "猫", "image_ids": [12]}',
        )
    assert answers(task.rows()) == [(2, {"zh": ["一只狗"]}), (4, {"zh": ["一只狗", "猫"]})]


def test_the_users_own_task(tmp_path):
    """A folder of images with captions in several languages, some with several or none, and its YAML beside
    it.
    """
    folder = tmp_path / "signs"
    features = {"picture": Image(), "captions": {"en": List(Value("string")), "eo": List(Value("string"))}}
    columns = {
        "picture": [encoded(1), encoded(2)],
        "captions": [{"en": ["stop", "halt"], "eo": ["haltu"]}, {"en": ["go"], "eo": None}],
    }
    columns["picture"] = [{"bytes": image, "path": None} for image in columns["picture"]]
    write_parquet(folder, "test", columns, features)
    task = {
        "kind": "retrieval",
        "dataset": str(folder),
        "split": "test",
        "metric": "mean_recall",
        "columns": {"captions": "captions"},
    }
    (tmp_path / "signs.yaml").write_text(yaml.safe_dump(task | {"languages": ["en", "eo"]}))
    task = load_task(str(tmp_path / "signs.yaml"))
    assert task.name == "signs"
    assert answers(task.rows()) == [
        (1, {"en": ["stop", "halt"], "eo": ["haltu"]}),
        (2, {"en": ["go"], "eo": []}),
    ]
    assert answers(task.rows(["eo"])) == [(1, {"eo": ["haltu"]}), (2, {"eo": []})]
    with pytest.raises(InputError, match="column 'captions' of .* has no de: choose from en eo"):
        replace(task, languages=["en", "eo", "de"]).rows(["de"])


@pytest.mark.parametrize(
    "kind",
    [Json(), {"en": Json(), "eo": List(Value("string"))}, {"en": List(Value("string")), "eo": Value("null")}],
    ids=str,
)
@pytest.mark.parametrize("streaming", [False, True])
def test_captions_of_rows_that_lack_a_language(tmp_path, kind, streaming):
    """Keys of each row's own, cells of several forms, or a language without any text."""
    has_eo = not (isinstance(kind, dict) and kind["eo"] == Value("null"))
    captions = [
        {"en": ["stop", "halt"]},
        {"en": ["go"] if not has_eo else "go"} | ({"eo": ["iru"]} if has_eo else {}),
        None,
    ]
    images = [{"bytes": encoded(number), "path": None} for number in (1, 2, 3)]
    write_parquet(
        tmp_path / "signs",
        "test",
        {"image": images, "captions": captions},
        {"image": Image(), "captions": kind},
    )
    task = {
        "kind": "retrieval",
        "dataset": "signs",
        "split": "test",
        "metric": "mean_recall",
        "columns": {"captions": "captions"},
    }
    (tmp_path / "signs.yaml").write_text(yaml.safe_dump(task | {"languages": ["en", "eo"]}))
    rows = load_task(str(tmp_path / "signs.yaml")).rows(streaming=streaming)
    eo = ["iru"] if has_eo else []
    assert answers(rows) == [
        (1, {"en": ["stop", "halt"], "eo": []}),
        (2, {"en": ["go"], "eo": eo}),
        (3, {"en": [], "eo": []}),
    ]


@pytest.mark.parametrize("value", ["a text", {"en": 7}, {"en": {"a": "b"}}, {"en": ["a", 7]}], ids=repr)
def test_captions_that_are_no_texts_are_refused(tmp_path, value):
    images = [{"bytes": encoded(number), "path": None} for number in (1, 2)]
    write_parquet(
        tmp_path / "signs",
        "test",
        {"image": images, "captions": [{"en": "a"}, value]},
        {"image": Image(), "captions": Json()},
    )
    task = {
        "kind": "retrieval",
        "dataset": "signs",
        "split": "test",
        "metric": "mean_recall",
        "columns": {"captions": "captions"},
    }
    (tmp_path / "signs.yaml").write_text(yaml.safe_dump(task | {"languages": ["en"]}))
    with pytest.raises(
        InputError, match="column 'captions' has .* in a row, (which is no text|and no {language: texts})"
    ) as error:
        load_task(str(tmp_path / "signs.yaml")).rows()
    if isinstance(value, dict):
        assert f"has {value['en']!r} in a row" in str(error.value)


def test_training_and_evaluation_read_and_refuse_texts_alike():
    for cell, texts in {" a ": [" a "], "　\n": [], "": []}.items():
        for given in (cell, [cell, None]):
            assert (
                read_captions({"captions": {"en": given}}, Form("captions", None, None)).get("en", [])
                == texts
            )
            assert texts_of(given, "captions") == [text.strip() for text in texts]
    for cell in (7, [7], {"a": "b"}, [["a"]]):
        with pytest.raises(InputError) as of_training:
            read_captions({"captions": {"en": cell}}, Form("captions", None, None))
        with pytest.raises(InputError) as of_evaluation:
            texts_of(cell, "captions")
        assert str(of_training.value) == str(of_evaluation.value)
        assert str(of_training.value) == f"column 'captions' has {cell!r} in a row, which is no text: mend it"


def test_the_users_own_paths_are_read_from_beside_the_file(tmp_path, monkeypatch):
    """From any working directory, and before what it has of the same name;

    What does not lie there, from it.
    """
    own, elsewhere = tmp_path / "own", tmp_path / "elsewhere"
    images = {"image": [{"bytes": encoded(number), "path": None} for number in (1, 2)], "label": [1, 0]}
    write_parquet(own / "data/signs", "test", images, {"image": Image(), "label": Value("int64")})
    for folder, name in ((own, "stop"), (elsewhere, "another")):
        folder.mkdir(exist_ok=True)
        (folder / "names.json").write_text(
            json.dumps({"en": {"signs": [name, "go"]}, "de": {"signs": ["halt", "los"]}})
        )
    (own / "sentences.json").write_text(json.dumps({"en": ["{}!"]}))
    (elsewhere / "there.json").write_text(json.dumps({"en": ["there", "too"]}))
    task = {
        "kind": "zero_shot",
        "dataset": "data/signs",
        "split": "test",
        "metric": "accuracy@1",
        "columns": {"label": "label"},
    }
    task |= {"class_names": "names.json:signs", "templates": "sentences.json"}
    (own / "signs.yaml").write_text(yaml.safe_dump(task))
    (own / "each.yaml").write_text(
        yaml.safe_dump(
            task | {"class_names": {"en": "names.json:signs", "de": ["a", "b"], "fr": "there.json"}}
        )
    )
    for folder, prefix in ((own, ""), (tmp_path, "own/"), (elsewhere, "../own/")):
        monkeypatch.chdir(folder)
        task = load_task(f"{prefix}signs.yaml")
        assert task.dataset == f"{prefix}data/signs"
        assert answers(task.rows()) == [(1, 1), (2, 0)]
        assert class_names_of(task, ["en"], None) == {"en": ["stop", "go"]}
        assert languages_of(task) == [
            "en",
            "de",
        ]
        assert load_templates(task.templates, "en") == ["{}!"]
        assert f"reads:      {prefix}data/signs, split test" in describe(task)
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
    columns = {
        "image": [{"bytes": encoded(1), "path": None}, None],
        "captions": [None, {"en": ["go"], "eo": "iru"}],
    }
    write_parquet(tmp_path, "test", columns, features)
    changes = {
        "columns": {"captions": "captions"},
        "languages": ["en", "eo"],
        "n_images": 2,
        "n_texts": {"en": 1},
    }
    task = replace(load_task("multi30k"), dataset=str(tmp_path), revision=None, data_files=None, **changes)
    for rows in (task.rows(), task.rows(streaming=True)):
        first, second = rows
        assert number_of(first["image"]) == 1
        assert first["captions"] == {"en": [], "eo": []}
        assert second == {"image": None, "captions": {"en": ["go"], "eo": ["iru"]}}


def test_labels_that_are_texts_are_numbered_by_the_alphabet(tmp_path):
    features = {"image": Image(), "kind": Value("string")}
    images = [{"bytes": encoded(number), "path": None} for number in range(3)]
    write_parquet(tmp_path, "test", {"image": images, "kind": ["wren", "ant", "wren"]}, features)
    task = replace(
        load_task("birdsnap"), dataset=str(tmp_path), revision=None, columns={"label": "kind"}, n_images=3
    )
    rows = task.rows(limit=2)
    assert rows["label"] == [1, 0]
    assert rows.features["label"] == ClassLabel(names=["ant", "wren"])
    with pytest.raises(InputError, match="labels of .* are texts.*leave out --streaming"):
        task.rows(streaming=True)
    write_parquet(tmp_path, "test", {"image": images, "kind": ["wren", "ant", None]}, features)
    with pytest.raises(
        InputError, match=f"row 2 of '{tmp_path}' has the label None, which is no class: leave it out"
    ):
        task.rows()


def test_names_of_classes_come_with_the_data(tmp_path):
    for name in ("cifar100", "objectnet", "kinetics400", "ucf101"):
        task = replica(name, tmp_path / name)
        assert task.class_names == "dataset"
        assert task.own_class_names(task.rows()) == NAMES
    assert task.own_class_names(task.rows(limit=1)) == NAMES
    task = replica("gtsrb", tmp_path / "gtsrb")
    assert task.class_names == "clip_benchmark:gtsrb"
    assert task.own_class_names(task.rows()) is None
    with pytest.raises(InputError, match="has no file 'names.txt', which .*gtsrb.yaml names"):
        task.fetch("names.txt")


def test_a_missing_column_is_named(tmp_path):
    task = replica("cifar100", tmp_path)
    message = "split 'test' has no column 'finelabel'; it has id, img, fine_label, family: mend columns.label of .*cifar100.yaml"
    with pytest.raises(InputError, match=message):
        replace(task, columns={"image": "img", "label": "finelabel"}).rows()
    with pytest.raises(InputError, match="has no column 'eo'; .*mend columns.captions of .*multi30k.yaml"):
        replace(replica("multi30k", tmp_path / "m"), columns={"captions": {"en": "eo"}}).rows(["en"])
    with pytest.raises(InputError, match="column 'family' .* must hold numbers of classes, not .*string"):
        replace(task, columns={"labels": "family"}).rows()
    with pytest.raises(
        InputError,
        match="column 'image' .* must hold texts, not Image.*mend columns.captions of .*multi30k.yaml",
    ):
        replace(
            load_task("multi30k"),
            dataset=str(tmp_path / "m"),
            revision=None,
            columns={"captions": {"en": "image"}},
        ).rows(["en"])
    with pytest.raises(InputError, match="column 'en' .* must hold {language: texts}.*captions: {en: en}"):
        replace(
            load_task("multi30k"), dataset=str(tmp_path / "m"), revision=None, columns={"captions": "en"}
        ).rows(["en"])


def test_which_column_is_the_image_must_be_clear(tmp_path):
    images = [{"bytes": encoded(1), "path": None}]
    features = {"before": Image(), "after": Image(), "label": Value("int64")}
    write_parquet(tmp_path, "test", {"before": images, "after": images, "label": [0]}, features)
    task = replace(load_task("dtd"), dataset=str(tmp_path), revision=None, columns={"label": "label"})
    with pytest.raises(
        InputError, match="has images in before and after: name one in columns.image of .*dtd.yaml"
    ):
        task.rows()
    Dataset.from_dict({"label": [0]}, Features({"label": Value("int64")})).to_parquet(
        tmp_path / "data/test-00000-of-00001.parquet"
    )
    with pytest.raises(InputError, match="has no column of images among label: name one"):
        task.rows()


def test_a_missing_split_is_named(tmp_path):
    with pytest.raises(InputError, match="has no split 'dev'; it has .*test.*: mend `split` of .*dtd.yaml"):
        replace(replica("dtd", tmp_path), split="dev").rows()
    tars = replica("gtsrb", tmp_path / "tars", data_files={"test": "dev/*.tar"})
    with pytest.raises(InputError, match=r"data_files .*dev/\*.tar.*gtsrb.yaml\) cannot be loaded"):
        tars.rows()
    with pytest.raises(
        InputError,
        match="has 0 files dev_imgs.tsv, of Flickr30k-CN/train_imgs.tsv, .*mend .*flickr30k-cn.yaml",
    ):
        replace(replica("flickr30k-cn", tmp_path), split="dev", data_files={"dev": "Flickr30k-CN.zip"}).rows()
    task = replica("xm3600", tmp_path / "xm", languages=["en", "th"])
    with pytest.raises(InputError, match="has no split 'sw'; it has xx, en, th"):
        replace(task, languages=["en", "th", "sw"]).rows(["th", "sw"])


def test_files_that_do_not_agree_are_named(tmp_path):
    task = replica("xtd", tmp_path)
    (tmp_path / task.data_files["pl"]).write_text(
        "a\nb\nc\nd\ne\nf\n"
    )  # the last line may have an end or none
    assert task.rows(["pl"])[5]["captions"] == {"pl": ["f"]}
    (tmp_path / task.data_files["pl"]).write_text("jeden\ndwa")
    with pytest.raises(InputError, match="test_1kcaptions_pl.txt has 2 lines, XTD10/test_image_names.txt 6"):
        task.rows(["pl"])
    (tmp_path / task.data_files["pl"]).write_bytes("狗\n".encode("gbk"))
    with pytest.raises(InputError, match="test_1kcaptions_pl.txt' is not UTF-8, at byte 0: save it as UTF-8"):
        task.rows(["pl"])
    next((tmp_path / "images").rglob("*000002.jpg")).unlink()
    with pytest.raises(InputError, match="images lacks 1 of 6 images: COCO_val2014_000000000002.jpg"):
        task.rows(["de"])
    task = replica("coco-cn-5k", tmp_path / "coco")
    with pytest.raises(
        InputError, match="captions.json is no JSON in COCO's form, or has no 'sauce': see .*coco-cn-5k.yaml"
    ):
        replace(task, where={"sauce": "zhm"}).rows()
    (tmp_path / "coco" / task.data_files["captions"]).write_bytes('{"狗": 1}'.encode("utf-16"))
    with pytest.raises(InputError, match="captions.json' is not UTF-8, at byte 0: save it as UTF-8"):
        task.rows()
    (tmp_path / "zip").mkdir()
    task = replica("flickr30k-cn", tmp_path / "zip")
    (tmp_path / "zip/Flickr30k-CN.zip").write_bytes(b"no zip")
    with pytest.raises(InputError, match="cannot be loaded: File is not a zip file"):
        task.rows()


def test_a_language_that_a_task_lacks_is_named(tmp_path):
    with pytest.raises(InputError, match="no text in language zh: choose from en cs de fr"):
        replica("multi30k", tmp_path).rows(["zh"])


def test_a_folder_to_be_made_is_explained(tmp_path):
    with pytest.raises(
        InputError, match="dataset 'data/xtd' does not exist. Clone github.com/adobe-research"
    ):
        load_task("xtd").rows()


def test_other_numbers_than_the_tasks_are_told(tmp_path, caplog):
    task = replace(replica("flickr30k", tmp_path), n_images=1000, n_texts={"en": 5000})
    with caplog.at_level(logging.WARNING):
        task.rows(limit=3)
        assert not caplog.messages
        task.rows()
    assert [message.split(";")[0] for message in caplog.messages] == [
        f"flickr30k: {tmp_path} has 6 images",
        f"flickr30k: {tmp_path} has 18 texts in en",
    ]
    caplog.clear()
    replace(task, n_images=6, n_texts={"en": 18}).rows()
    assert not caplog.messages


@pytest.mark.parametrize("name", ["dtd", "gtsrb", "flickr30k-cn", "xm3600"])
def test_a_folder_written_anew_is_read_anew(name, tmp_path, monkeypatch):
    languages = ["en", "th"] if name == "xm3600" else load_task(name).languages
    first = answers(replica(name, tmp_path, languages=languages).rows())
    monkeypatch.setattr(replicas, "CLASSES", CLASSES[::-1])
    monkeypatch.setattr(replicas, "captions_of", lambda number, language, several: [f"new {number}"])
    monkeypatch.setattr(replicas, "encoded", lambda number, extension="png": encoded(number + 5, extension))
    for path in [path for path in tmp_path.rglob("*") if path.parent.name == "train" and path.is_file()]:
        path.unlink()
        path.parent.rmdir()
    second = answers(replica(name, tmp_path, languages=languages).rows())
    assert first[0][0] == 0
    assert second[0][0] == 5
    new = (
        CLASSES[-1]
        if load_task(name).kind == "zero_shot"
        else {language: ["new 0"] for language in languages}
    )
    assert second[0][1] == new != first[0][1]


ON_A_HUB = """
import json
from dataclasses import replace
from benchmarks.layouts import full_revision
from benchmarks.recipe import InputError
from benchmarks.task import load_task

def said(task):
    try:
        return len(task.rows())
    except InputError as error:
        return str(error)

short = load_task("imagenet-a")
table = load_task("dtd")
print(json.dumps({
    "short": [said(short), short.commit()],
    "table": [said(table), table.commit(), len(list(table.rows(streaming=True, limit=2)))],
    "zip": said(load_task("flickr30k-cn")),
    "stream": len(list(load_task("imagenet-r").rows(streaming=True, limit=1))),
    "gated": [said(replace(table, dataset="gated/table", revision=None)), said(replace(load_task("flickr30k-cn"), dataset="gated/zip"))],
    "no commit": said(replace(short, revision="abcdef0")),
    "no revision": said(replace(table, revision="f" * 40)),
    "again": full_revision.cache_clear() or short.commit(),
}))
"""


def test_on_a_hub_only_what_is_asked_for_is_fetched(tmp_path, run_python):
    """Against a server at a loopback address:

    A first part of a revision, a table with a card, a zip, a stream, gated data sets.
    """
    tasks = [load_task(name) for name in ("imagenet-a", "imagenet-r", "dtd", "flickr30k-cn")]
    for task in tasks:
        (tmp_path / task.name).mkdir()
        write_replica(task, tmp_path / task.name)
    folders = {task.dataset: tmp_path / task.name for task in tasks}
    commits = {task.dataset: (task.revision or "").ljust(40, "0") for task in tasks}
    hub = Hub(folders | {"gated/table": tmp_path / "dtd", "gated/zip": tmp_path / "flickr30k-cn"}, commits)
    environment = {
        "HF_ENDPOINT": hub.url,
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(tmp_path / "home"),
        "NO_PROXY": "127.0.0.1",
    }
    process = run_python("python", "-c", ON_A_HUB, **environment, HF_DATASETS_CACHE=str(tmp_path / "cache"))
    hub.shutdown()
    assert process.returncode == 0, process.stderr
    said = json.loads(process.stdout)
    assert said["short"] == [N, "614c3a5".ljust(40, "0")]
    assert said["table"] == [
        N,
        "d2afa97d9f335b1a6b3b09c637aef667f98f966e",
        2,
    ]
    assert said["zip"] == N
    assert said["stream"] == 1
    for message, dataset in zip(said["gated"], ("gated/table", "gated/zip")):
        assert (
            f"{dataset!r} is gated: accept its terms at https://huggingface.co/datasets/{dataset} and log in "
            "with" in message
        )
    assert "has 0 commits that begin with abcdef0: give all digits" in said["no commit"]
    assert "revision 'ffff" in said["no revision"]
    assert "cannot be loaded" in said["no revision"]
    fetched = [path.split("/resolve/")[1] for path in hub.asked if "/resolve/" in path]
    assert any(path.endswith("test/2.tar") for path in fetched)
    assert not any("train" in path for path in fetched)
    # What a first part of a revision stands for is asked once: the next run finds it in the cache.
    listed = [path for path in hub.asked if "wds_imagenet-a/commits" in path]
    assert said["again"] == said["short"][1] and len(listed) == 2  # and once for what stands for nothing
    streamed = {
        path.rpartition("/")[2]
        for path in hub.asked
        if "wds_imagenet-r/resolve" in path and path.endswith(".tar")
    }
    assert streamed == {"0.tar"}


def test_a_commit_in_the_cache_is_not_asked_for_again(tmp_path, monkeypatch):
    commit = "614c3a5".ljust(40, "0")
    monkeypatch.setattr("benchmarks.layouts.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match="ffline"):  # the tests are
        replace(load_task("imagenet-a"), dataset="org/other").commit()
    (tmp_path / "datasets--org--data/snapshots" / commit).mkdir(parents=True)
    assert replace(load_task("imagenet-a"), dataset="org/data").commit() == commit


RETRIEVAL = {"kind": "retrieval", "metric": "mean_recall", "class_names": None}
CAPTIONS = RETRIEVAL | {"layout": "caption_lines", "columns": {}}


@pytest.mark.parametrize(
    "change,message",
    [
        ({"metrics": "accuracy@1"}, "unknown key 'metrics': did you mean 'metric'"),
        ({"split": None}, "lacks split"),
        ({"kind": "retrival"}, "kind is 'retrival'; choose from retrieval, zero_shot"),
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
        ({"data_files": {"train": "*.tar"}}, "`data_files` are of train, and not of split 'test'"),
        ({"layout": "coco_json"}, "layout coco_json is of retrieval, with one language in `languages`"),
        (
            CAPTIONS | {"languages": ["en", "de"], "data_files": {"en": "en.txt"}},
            "`data_files` of layout caption_lines lack names, images, de",
        ),
        ({"languages": "en"}, "languages is 'en', which is no list"),
        ({"revision": 1234567}, "revision is 1234567, which is no str"),
        ({"unverified": ["revison"]}, "calls revison unverified, which are no keys"),
        ({"languages": [False]}, "language False: quote it"),
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
        ({"templates": "a {name}."}, "template 'a {name}.' of task .*mine.yaml' has to have {} once"),
        ({"templates": ["{}", "no slot"]}, "template 'no slot' of task .*mine.yaml' has to have {} once"),
    ],
)
def test_a_bad_task_is_refused(change, message, tmp_path):
    task = {
        "kind": "zero_shot",
        "dataset": "a/b",
        "split": "test",
        "metric": "accuracy@1",
        "columns": {"label": "label"},
    }
    task |= {"class_names": "dataset"}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(task))
    assert load_task(str(tmp_path / "mine.yaml")).columns == {"label": "label"}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(task | change))
    with pytest.raises(InputError, match=f"(task .*mine.yaml.*)?{message}") as refused:
        load_task(str(tmp_path / "mine.yaml"))
    assert f"task '{tmp_path / 'mine.yaml'}'" in str(refused.value)


def test_a_task_that_is_no_yaml_is_refused_by_file_and_line(tmp_path):
    path = tmp_path / "mine.yaml"
    for text, what in (
        (b"kind: zero_shot\ncolumns: {label: [label}\n", "is no YAML, line 2, column 24: "),
        (b"kind: zero_shot\nnotes: \xff\n", "is not UTF-8, at byte 23: save it as UTF-8"),
    ):
        path.write_bytes(text)
        with pytest.raises(InputError, match=f"task '{path}' {what}"):
            load_task(str(path))


def test_templates_may_be_one_sentence(tmp_path):
    task = {
        "kind": "zero_shot",
        "dataset": "a/b",
        "split": "test",
        "metric": "accuracy@1",
        "columns": {"label": "label"},
    }
    (tmp_path / "mine.yaml").write_text(
        yaml.safe_dump(task | {"class_names": "dataset", "templates": "a {}."})
    )
    assert load_task(str(tmp_path / "mine.yaml")).templates == ["a {}."]


def test_an_unknown_task_is_named(tmp_path):
    with pytest.raises(InputError, match="no task 'flicker30k': did you mean flickr30k, "):
        load_task("flicker30k")
    with pytest.raises(InputError, match="task 'no/such.yaml' does not exist: give a YAML file"):
        load_task("no/such.yaml")


def test_a_dry_run_says_what_would_be_loaded():
    text = describe(load_task("xm3600"), ["en", "zh"])
    assert "floschne/xm3600 @ 8d3e5665526c55a5855cd6ddfbaba2032bc7cee4, split en" in text
    assert "3,600 images, texts: 7,200 in en, 7,174 in zh" in text
    assert "unverified: licence" in text
    assert "CC-BY-4.0; not gated" in text
    text = describe(load_task("eurosat"))
    assert "differs:    CLIP and ELEVATER use 5,000 images" in text
    assert "5,400 images, 10 classes" in text
    assert "OFA-Sys/chinese-clip-eval, not pinned" in describe(load_task("flickr30k-cn"))
    text = describe(load_task("xtd"), ["ja"])
    assert "STAIR/test_1kcaptions_jp.txt" in text
    assert "captions_zh" not in text
    assert "first:      Clone github.com" in text
