"""Stage 2 on ready image vectors: what is read, what is set aside, and what is refused."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, LargeList, List, Value, load_dataset

from benchmarks import load_model
from common.errors import InputError
from modeling_altclip import AltCLIPDualEncoderModel, AltCLIPProcessor, embed_images
from training import ContrastiveArguments
from training.data.image_vectors import StoredVectors, check_vector_column, keep_vectors
from training.jobs import stage2

from .families import load_tokenizer_of, save_student, save_teacher

WIDTH = 24
QUICK = {
    "languages": ["en", "zh"],
    "max_steps": 2,
    "per_device_train_batch_size": 8,
    "save_strategy": "no",
    "use_cpu": True,
    "disable_tqdm": True,
    "report_to": [],
    "learning_rate": 1e-3,
}


@pytest.fixture
def start(miniature, tmp_path):
    """Save a dual encoder of a CLIP's image tower and a BERT; return its folder."""
    tokenizer = load_tokenizer_of(miniature)
    clip = save_teacher("clip", tmp_path / "clip", load_tokenizer_of(miniature))
    model = AltCLIPDualEncoderModel.from_teacher(clip, save_student("bert", tmp_path / "bert", tokenizer))
    model.save_pretrained(tmp_path / "start")
    _, processor = load_model(clip)
    AltCLIPProcessor(processor.image_processor, tokenizer).save_pretrained(tmp_path / "start")
    return str(tmp_path / "start")


@pytest.fixture
def scenes(miniature):
    return load_dataset(str(miniature / "dataset"), split="train").select(range(24))


@pytest.fixture
def train(start, tmp_path):
    """Return a function that trains stage 2 on a dataset, and returns the folder of the model."""

    def train(dataset, name="out", **given):
        given = QUICK | {"image_embeds_column": "vector"} | given
        output_dir = str(tmp_path / name)
        stage2.main(
            ContrastiveArguments(model_name_or_path=start, dataset=dataset, output_dir=output_dir, **given)
        )
        return output_dir

    return train


def save(rows, vectors, folder):
    """Save the captions of some rows with their vectors, and without images."""
    features = Features({"vector": List(Value("float32")), "captions": rows.features["captions"]})
    saved = Dataset.from_dict({"vector": vectors, "captions": rows["captions"][:]}, features)
    saved.to_parquet(folder / "data/train-00000-of-00001.parquet")
    return str(folder)


@pytest.fixture
def random_vectors():
    return np.random.default_rng(0).normal(size=(24, WIDTH)).astype(np.float32).tolist()


def test_rows_without_a_vector_are_set_aside_and_counted(train, scenes, random_vectors, capsys, tmp_path):
    random_vectors[3] = None
    random_vectors[5] = []
    random_vectors[7][2] = float("nan")
    random_vectors[9] = [0.0] * WIDTH
    dataset = save(scenes, random_vectors, tmp_path / "data")
    folder = train(dataset, cache_dir=str(tmp_path / "cache"))
    printed = capsys.readouterr().out
    assert f"Skipped 4 rows without a vector, listed in {folder}/bad_rows.jsonl." in printed
    assert f"Images are the 20 vectors of {WIDTH} values in column 'vector': no image tower runs" in printed
    assert not (tmp_path / "cache").exists()  # no image was embedded
    lines = [json.loads(line) for line in Path(folder, "bad_rows.jsonl").read_text("utf-8").splitlines()]
    assert {line["row"]: line["problem"] for line in lines} == {
        3: "there is no vector",
        5: "there is no vector",
        7: "a value is not finite",
        9: "all values are zero",
    }
    with pytest.raises(InputError, match="4 of 24 rows have no vector to train on, row 3 first: there is no"):
        train(dataset, "refused", bad_rows="error")


def test_vectors_of_another_width_are_refused(train, scenes, random_vectors, tmp_path):
    random_vectors[4] = random_vectors[4][:20]
    dataset = save(scenes, random_vectors, tmp_path / "data")
    message = f"'vector': row 4 has a vector of 20 values, and the model's embeddings have {WIDTH}: give"
    for dry_run in (False, True):
        with pytest.raises(InputError, match=message):
            train(dataset, dry_run=dry_run)


def test_a_dry_run_needs_no_images(train, scenes, random_vectors, capsys, tmp_path):
    train(save(scenes, random_vectors, tmp_path / "data"), dry_run=True)
    printed = capsys.readouterr().out
    assert "columns vector, captions" in printed
    assert "images per step       8, as vectors of the column vector" in printed


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"image_embeds_column": "nowhere"}, "has no column 'nowhere'; it has vector, captions"),
        ({"image_embeds_column": "captions"}, "column 'captions' of .* must hold lists of floats, not"),
        ({"dataset": "cc3m"}, "image_embeds_column is 'vector', and 'cc3m' is a public corpus"),
    ],
)
def test_what_has_no_vectors_is_refused(given, message, train, scenes, random_vectors, tmp_path):
    given = {"dataset": save(scenes, random_vectors, tmp_path / "data")} | given
    for dry_run in (False, True):
        with pytest.raises(InputError, match=message):
            train(**given, dry_run=dry_run)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"streaming": True, "cache_image_embeds": False}, "and streaming is true, which reads images"),
        ({"cache_image_embeds": False}, "and cache_image_embeds is false"),
        ({"image_views": 2}, "and image_views is 2: vectors have no crops"),
        ({"trainable": ["visual_projection", "logit_scale"]}, "and trainable names visual_projection"),
        ({"trainable": ["logit_scale"], "cache_towers": True}, "cache_towers is true, and image_embeds_col"),
    ],
)
def test_what_needs_images_is_refused_beside_vectors(given, message, tmp_path):
    arguments = {"model_name_or_path": "m", "dataset": "d", "output_dir": str(tmp_path)}
    with pytest.raises(InputError, match=message):
        ContrastiveArguments(**arguments, max_steps=1, image_embeds_column="vector", **given)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("lists", [partial(List, length=2), List, LargeList])
def test_vectors_of_every_type_are_read_where_they_are(dtype, lists, tmp_path):
    values = [[3.0, 4.0], None, [0.0, 2.0], [5.0, 12.0]]
    features = Features({"vector": lists(Value(dtype))})
    check_vector_column(features, "vector", "data")
    rows = Dataset.from_dict({"vector": values}, features).select([3, 1, 2, 0])
    kept, n_skipped = keep_vectors(rows, "vector", 2, "set_aside", str(tmp_path))
    assert n_skipped == 1
    found = StoredVectors(kept, "vector", 2)[[2, 0, 1]]["image_embeds"]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [[0.6, 0.8], [5 / 13, 12 / 13], [0, 1]], atol=1e-6)


@pytest.mark.slow
def test_vectors_train_as_the_images_that_they_are_of(train, start, scenes, tmp_path):
    """Whatever their length is: an embedding is used at unit length."""
    vectors = 3 * embed_images(*load_model(start), scenes["image"])
    with_vectors = train(save(scenes, vectors.tolist(), tmp_path / "data"), "vectors")
    (tmp_path / "images").mkdir()
    scenes.to_parquet(tmp_path / "images/train-00000-of-00001.parquet")
    with_images = train(str(tmp_path / "images"), "images-out", image_embeds_column=None)
    expected = load_model(with_images)[0].state_dict()
    begun = load_model(start)[0].state_dict()
    for name, weight in load_model(with_vectors)[0].state_dict().items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-3, atol=1e-5)
    assert not torch.allclose(begun["text_projection.weight"], expected["text_projection.weight"], atol=1e-4)


@pytest.mark.slow
def test_a_run_resumes_on_the_same_vectors_alone(train, scenes, random_vectors, tmp_path):
    dataset = save(scenes, random_vectors, tmp_path / "data")
    given = {"save_strategy": "steps", "save_steps": 1}
    whole = load_model(train(dataset, **given))[0].state_dict()
    again = load_model(train(dataset, **given, resume_from_checkpoint="checkpoint-1"))[0].state_dict()
    for name, weight in whole.items():
        torch.testing.assert_close(again[name], weight, rtol=0, atol=1e-6)

    save(scenes, random_vectors[::-1], tmp_path / "data")
    with pytest.raises(InputError, match="resume: the data has images other than when the run"):
        train(dataset, **given, resume_from_checkpoint="checkpoint-1")


def test_a_source_of_vectors_has_no_configurations(train, tmp_path):
    """As a source of captioned images has none: its name would be left aside in silence."""
    listed = tmp_path / "sources.yaml"
    listed.write_text(json.dumps([{"data": str(tmp_path), "name": "english"}]))
    with pytest.raises(InputError, match="gives .* the name 'english': for a configuration of captioned"):
        train(str(listed))
