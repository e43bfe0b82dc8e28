"""A dataset without rows, or without a caption, ends every job in one line that says so."""

import json
import re
from pathlib import Path

import pyarrow
import pytest
from datasets import Dataset, load_dataset
from pyarrow import parquet

from benchmarks.jobs import embed
from benchmarks.jobs.embed import EmbedArguments
from common.errors import InputError
from common.files.rows import load_rows
from training.translation.rows import distinct_sentences, read_split
from training.translation.translating import TranslationArguments

from .conftest import ROOT

RECIPES = {"parallel": "parallel/miniature.yaml", "text_pretraining": "parallel/text_miniature.yaml"}
WITHOUT = ["rows", "captions"]


@pytest.fixture
def rows(miniature):
    return load_dataset(str(miniature / "dataset"), split="validation[:6]")


@pytest.fixture
def write_without(rows, tmp_path):
    """Return a function that writes a dataset without rows, or with rows whose captions are blank."""

    def write_without(what):
        if what == "rows":
            written = rows.select([])
        else:
            blank = [dict.fromkeys(captions, " ") for captions in rows["captions"]]
            columns = {name: rows[name] for name in rows.column_names}
            written = Dataset.from_dict(columns | {"captions": blank}, features=rows.features)
        folder = tmp_path / "nothing"
        folder.mkdir()
        written.to_parquet(folder / "train.parquet")
        return folder

    return write_without


@pytest.fixture
def run_job(run_python, tmp_path):
    """Return a function that runs a script, and returns the one line of its error."""

    def run_job(script, *flags):
        process = run_python("python", ROOT / script, *flags, "--output_dir", tmp_path / "out")
        assert process.returncode == 1, process.stderr[-3000:]
        assert "Traceback" not in process.stderr
        assert not list((tmp_path / "out").rglob("*.safetensors"))
        last = process.stderr.strip().splitlines()[-1]
        assert f"{Path(script).name}: error: " in last
        return last

    return run_job


@pytest.fixture
def train_on(miniature, start_flags, run_job):
    """Return a function that trains a stage on a dataset, as `run_job`."""
    texts = ["--text_encoder_name_or_path", miniature / "text_encoder"]
    start_flags["text_pretraining"] = texts
    start_flags["parallel"] = [*texts, "--image_encoder_name_or_path", miniature / "clip"]

    def train_on(stage, dataset, *flags):
        recipe = ROOT / "training/recipes" / RECIPES.get(stage, f"miniature/{stage}.yaml")
        flags = [*start_flags[stage], *flags, "--dataset", dataset, "--split", "train", "--max_steps", "2"]
        return run_job(f"training/run_{stage}.py", recipe, *flags)

    return train_on


@pytest.mark.parametrize("what", WITHOUT)
@pytest.mark.parametrize("stage", ["stage0", "stage1", "stage2", "parallel", "text_pretraining"])
def test_a_training(stage, what, train_on, write_without):
    dataset = write_without(what)
    said = {
        "rows": ".*it has no rows, give another split, or data",
        "captions": " has no (English )?text in ",
    }
    assert re.search(f"dataset '{dataset}'{said[what]}", train_on(stage, dataset))


@pytest.mark.parametrize("what", WITHOUT)
def test_a_training_on_a_stream(what, train_on, write_without):
    error = train_on("stage2", write_without(what), "--streaming", "--cache_image_embeds", "false")
    assert "none of a reader's files has a caption in en zh" in error


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_a_dry_run(stage, train_on, write_without):
    assert "nothing' has no rows: give another split" in train_on(stage, write_without("rows"), "--dry_run")


@pytest.fixture
def evaluate_on(miniature, run_job, tmp_path):
    """Return a function that evaluates the untrained CLIP on a dataset, as `run_job`."""

    def evaluate_on(kind, dataset, *flags):
        task = {"kind": kind, "dataset": str(dataset), "split": "train"}
        if kind == "retrieval":
            task |= {"metric": "mean_recall", "columns": {"image": "image", "captions": "captions"}}
        else:
            task |= {"metric": "accuracy@1", "columns": {"image": "image", "label": "label"}}
            task |= {"class_names": str(miniature / "dataset/class_names.json"), "templates": ["{}"]}
        (tmp_path / "mine.yaml").write_text(json.dumps(task | {"languages": ["en"]}))
        flags = ["--models", miniature / "clip", "--tasks", tmp_path / "mine.yaml", *flags]
        return run_job(f"benchmarks/run_{kind}.py", *flags)

    return evaluate_on


@pytest.mark.parametrize("flags", [[], ["--streaming"]])
@pytest.mark.parametrize("kind", ["retrieval", "zero_shot"])
def test_an_evaluation(kind, flags, evaluate_on, write_without):
    dataset = write_without("rows")
    error = evaluate_on(kind, dataset, *flags)
    assert f"dataset '{dataset}'" in error
    assert "has no rows" in error


def test_a_retrieval_without_captions(evaluate_on, write_without):
    dataset = write_without("captions")
    error = evaluate_on("retrieval", dataset)
    assert f"task 'mine' of dataset '{dataset}': no row has a caption in en: leave it out of" in error


@pytest.mark.parametrize("what", WITHOUT)
def test_a_translation(what, write_without, tmp_path):
    dataset = str(write_without(what))
    arguments = TranslationArguments(
        dataset=dataset,
        splits=["train"],
        target_languages=["cs"],
        output_dir=str(tmp_path / "out"),
        model_name_or_path="a",
    )
    with pytest.raises(InputError, match=f"dataset '{dataset}'.* has no (rows, give|caption in en to)"):
        distinct_sentences([read_split(arguments, "train")], "en", dataset)


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_an_embedding(content, miniature, tmp_path):
    (tmp_path / "texts.txt").write_text(content)
    (tmp_path / "images").mkdir()
    given = {"model_name_or_path": str(miniature / "clip"), "output_dir": str(tmp_path / "out")}
    with pytest.raises(InputError, match=f"texts '{tmp_path}/texts.txt' has no text: write one text a line"):
        embed.main(EmbedArguments(texts=str(tmp_path / "texts.txt"), **given))
    with pytest.raises(InputError, match=f"images is '{tmp_path}/images', and none of its 0"):
        embed.main(EmbedArguments(images=str(tmp_path / "images"), **given))


def test_a_parquet_file_whose_first_rows_are_none(tmp_path):
    """As PyArrow and pandas write an empty table, where `datasets` asks for batches of no rows."""
    table = pyarrow.table({"image": pyarrow.array([], pyarrow.binary())})
    parquet.write_table(table, tmp_path / "train.parquet")
    message = f"dataset '{tmp_path}', split 'train' cannot be loaded: one of its parquet files begins without"
    with pytest.raises(InputError, match=message):
        load_rows(str(tmp_path), "train", [])
