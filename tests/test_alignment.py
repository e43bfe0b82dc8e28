"""Alignment in closed form: the regression, what it fits of images and of texts, and how stages use it."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, load_dataset
from PIL import Image
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from sklearn.linear_model import Ridge
from torch.nn.functional import normalize
from transformers import (
    AutoProcessor,
    AutoTokenizer,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
)

from common.errors import InputError
from common.models.loading import load_model
from modeling_altclip import AltCLIPDualEncoderModel, AltCLIPProcessor, embed_images, embed_texts
from modeling_altclip.embedding import encode_images, encode_texts
from training import AlignmentArguments, ContrastiveArguments, TeacherLearningArguments
from training.alignment import assign_folds, fit_alignment
from training.classifier_rows import ClassRows
from training.data.examples import CaptionExamples
from training.initialization import draw_examples
from training.jobs import alignment, stage1, stage2
from training.road.plan import print_plan
from training.road.steps import read_road
from training.whitening import fit_whitening

from .families import (
    QUICK,
    SIZE,
    VISION,
    load_tokenizer_of,
    save_image_encoder,
    save_sentence_encoder,
    save_student,
)


@pytest.fixture
def random():
    return np.random.default_rng(0)


def draw_pairs(random, n_pairs, *, n_inputs=6, n_outputs=3, noise=0.0, mean=0.0):
    """Draw inputs, their targets by a random map, and noise of a standard deviation."""
    inputs = random.normal(size=(n_pairs, n_inputs)) + mean
    targets = inputs @ random.normal(size=(n_inputs, n_outputs)) + random.normal(size=n_outputs)
    return inputs, targets + noise * random.normal(size=targets.shape)


# The regression


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("penalty", [1e-3, 7.0, 1e4])
@pytest.mark.parametrize("weighted", [True, False])
def test_a_map_is_that_of_scikit_learn(random, intercept, penalty, weighted):
    # A large mean, which would hide how inputs differ, and more pairs than a slice has.
    inputs, targets = draw_pairs(random, 9000, noise=1.0, mean=100.0)
    weights = random.random(9000) if weighted else None
    expected = Ridge(alpha=penalty, fit_intercept=intercept, solver="svd")
    expected.fit(inputs, targets, sample_weight=weights)
    found = fit_alignment(inputs, targets, weights=weights, penalties=[penalty], intercept=intercept).map
    np.testing.assert_allclose(found.weight, expected.coef_, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.bias, np.broadcast_to(expected.intercept_, 3), rtol=0, atol=1e-6)
    np.testing.assert_allclose(found(inputs[:5]), expected.predict(inputs[:5]), rtol=0, atol=1e-6)


def test_a_map_solves_the_normal_equations(random):
    inputs, targets = draw_pairs(random, 50, noise=1.0)
    found = fit_alignment(inputs, targets, penalties=[2.0], intercept=False).map
    expected = np.linalg.solve(inputs.T @ inputs + 2.0 * np.eye(6), inputs.T @ targets)
    np.testing.assert_allclose(found.weight.T, expected, rtol=0, atol=1e-9)
    assert not found.bias.any()


@pytest.mark.parametrize("intercept", [True, False])
def test_held_out_errors_are_those_of_maps_without_the_fold(random, intercept):
    inputs, targets = draw_pairs(random, 60, noise=1.0, mean=3.0)
    weights = random.random(60)
    groups = random.integers(0, 20, 60)
    penalties = [0.1, 10.0]
    found = fit_alignment(
        inputs, targets, weights=weights, groups=groups, penalties=penalties, intercept=intercept
    )
    expected = dict.fromkeys(penalties, 0.0)
    of_mean = 0.0
    for fold in range(5):
        held = found.folds == fold
        kept = {"sample_weight": weights[~held]}
        for penalty in penalties:
            ridge = Ridge(alpha=penalty, fit_intercept=intercept)
            ridge.fit(inputs[~held], targets[~held], **kept)
            distances = np.square(targets[held] - ridge.predict(inputs[held])).sum(1)
            expected[penalty] += weights[held] @ distances / weights.sum()
            if penalty == found.penalty:
                np.testing.assert_allclose(found.of_other_folds[fold].weight, ridge.coef_, atol=1e-8)
        mean = np.average(targets[~held], axis=0, weights=weights[~held])
        of_mean += weights[held] @ np.square(targets[held] - mean).sum(1) / weights.sum()
    for penalty in penalties:
        assert found.errors[0.0, penalty] == pytest.approx(expected[penalty], rel=1e-9)
    assert found.error_of_mean == pytest.approx(of_mean, rel=1e-9)
    assert found.error == min(found.errors.values())
    assert found.explained == pytest.approx(1 - found.error / of_mean)


def test_a_judge_chooses_in_place_of_the_error(random):
    inputs, targets = draw_pairs(random, 40, n_inputs=20, noise=30.0)
    folds = assign_folds(40, None, 5, 0)

    def judge(maps):
        """Return the length of all held-out predictions, which the largest penalty makes least."""
        return sum(fitted(inputs[folds == fold]).norm().item() for fold, fitted in enumerate(maps))

    given = {"penalties": [1e-3, 1e3]}
    assert fit_alignment(inputs, targets, **given, judge=judge).penalty == 1e3
    longest = fit_alignment(inputs, targets, **given, judge=lambda maps: -judge(maps))
    assert longest.penalty == 1e-3
    assert longest.error > min(longest.errors.values())
    np.testing.assert_array_equal(longest.folds, folds)


@pytest.mark.parametrize(("noise", "better"), [(0.0, 1e-3), (30.0, 1e3)])
def test_the_noise_decides_on_the_penalty(random, noise, better):
    inputs, targets = draw_pairs(random, 40, n_inputs=20, noise=noise)
    assert fit_alignment(inputs, targets, penalties=[1e-3, 1e3]).penalty == better


def test_default_penalties_follow_the_scale_of_inputs(random):
    inputs, targets = draw_pairs(random, 100, noise=5.0)
    found = fit_alignment(inputs, targets)
    scaled = fit_alignment(1000 * inputs, targets)
    assert scaled.penalty == pytest.approx(1e6 * found.penalty)
    np.testing.assert_allclose(scaled.map.weight * 1000, found.map.weight, rtol=1e-6)


def test_no_group_is_split(random):
    groups = random.integers(0, 40, 300)
    folds = assign_folds(300, groups, 5, seed=0)
    for group in np.unique(groups):
        assert len(set(folds[groups == group])) == 1
    sizes = np.bincount(folds, minlength=5)
    assert sizes.sum() == 300
    assert sizes.max() - sizes.min() < 10
    assert not np.array_equal(folds, assign_folds(300, groups, 5, seed=1))
    assert np.array_equal(folds, assign_folds(300, groups, 5, seed=0))


def test_copies_of_a_pair_mislead_only_where_they_are_in_several_folds(random):
    """With as many inputs as distinct pairs, a map that has seen a copy knows its target by heart."""
    inputs, targets = draw_pairs(random, 20, n_inputs=20, noise=10.0)
    copies = np.repeat(np.arange(20), 10)
    seen = fit_alignment(inputs[copies], targets[copies])
    unseen = fit_alignment(inputs[copies], targets[copies], groups=copies)
    assert seen.error < 0.01 * seen.error_of_mean
    assert unseen.error > 0.3 * unseen.error_of_mean


def test_a_weight_counts_as_so_many_copies(random):
    inputs, targets = draw_pairs(random, 30, noise=1.0)
    times = random.integers(0, 4, 30)
    copies = np.repeat(np.arange(30), times)
    weighted = fit_alignment(inputs, targets, weights=times.astype(float), penalties=[1.0])
    repeated = fit_alignment(inputs[copies], targets[copies], penalties=[1.0])
    np.testing.assert_allclose(weighted.map.weight, repeated.map.weight, atol=1e-9)


def test_extra_pairs_are_learned_from_and_not_tested_on(random):
    inputs, targets = draw_pairs(random, 40, noise=1.0)
    more = random.normal(size=(8, 6)), random.normal(size=(8, 3))
    found = fit_alignment(inputs, targets, extra=more, extra_weights=[0.5], penalties=[1.0])
    # 40 pairs of weight 1, and 8 that weigh half as much together.
    weights = np.repeat([1.0, 0.5 * 40 / 8], [40, 8])
    joined = [np.concatenate(both) for both in zip((inputs, targets), more)]
    expected = Ridge(alpha=1.0).fit(*joined, sample_weight=weights)
    np.testing.assert_allclose(found.map.weight, expected.coef_, atol=1e-9)
    assert len(found.folds) == 40


@pytest.mark.parametrize(("is_true", "chosen"), [(True, 1.0), (False, 0.0)])
def test_extra_pairs_get_weight_where_they_help(random, is_true, chosen):
    inputs, targets = draw_pairs(random, 200, noise=1.0, n_inputs=20)
    more = inputs[100:], targets[100:] if is_true else -targets[100:]
    found = fit_alignment(inputs[:20], targets[:20], extra=more, extra_weights=[0.0, 1.0])
    assert found.extra_weight == chosen


def with_nan(values):
    values = values.copy()
    values[1, 0] = np.nan
    return values


X = np.random.default_rng(1).normal(size=(10, 4))
Y = np.random.default_rng(2).normal(size=(10, 2))


@pytest.mark.parametrize(
    ("inputs", "targets", "options", "message"),
    [
        (with_nan(X), Y, {}, "inputs have NaN or infinite values, row 1 first"),
        (X, with_nan(Y), {}, "targets have NaN or infinite values, row 1 first"),
        (X, Y[:9], {}, "10 inputs and 9 targets: give as many of both"),
        (X[:0], Y[:0], {}, "0 pairs have 0 groups"),
        (X[:4], Y[:4], {}, "n_folds is 5, and 4 pairs have 4 groups that differ: give more"),
        (X, Y, {"groups": np.repeat([0, 1], 5)}, "10 pairs have 2 groups that differ"),
        (X, Y, {"groups": np.arange(9)}, "groups has 9 values for 10 pairs"),
        (X, Y, {"weights": np.ones(9)}, r"weights have the shape \(9,\) for 10 pairs"),
        (X, Y, {"weights": -np.ones(10)}, "weights have values below 0"),
        (X, Y, {"weights": np.zeros(10)}, "weights of all pairs in fold 0 are 0"),
        (X, Y, {"n_folds": 1}, "n_folds is 1: give 2 or more"),
        (X, Y, {"penalties": []}, "penalties are .*: give one or more numbers from 0"),
        (X, Y, {"penalties": [-1.0]}, "penalties are .*: give one or more numbers from 0"),
        (X, Y[:, 0], {}, r"targets have the shape \(10,\): give rows of numbers"),
    ],
)
def test_what_cannot_be_fitted_is_refused(inputs, targets, options, message):
    with pytest.raises(InputError, match=message):
        fit_alignment(inputs, targets, **options)


def test_inputs_without_any_difference_predict_the_mean(random):
    targets = random.normal(size=(20, 3))
    found = fit_alignment(torch.ones(20, 4), targets)
    np.testing.assert_allclose(found.map(np.ones((1, 4))), targets.mean(0)[None], atol=1e-9)


# Before the first step of a stage


def first_loss(folder):
    return json.loads(Path(folder, "trainer_state.json").read_text())["log_history"][0]["loss"]


@pytest.fixture
def teach(miniature, tmp_path):
    """Return a function that runs two steps of stage 1, and returns its folder."""
    fixed = QUICK | {
        "teacher_name_or_path": str(miniature / "clip"),
        "text_encoder_name_or_path": str(miniature / "text_encoder"),
        "dataset": str(miniature / "dataset"),
        "cache_dir": str(tmp_path / "cache"),
        "logging_steps": 1,
        "save_strategy": "no",
    }

    def teach(name, **given):
        folder = str(tmp_path / name)
        stage1.main(TeacherLearningArguments(output_dir=folder, **fixed | given))
        return folder

    return teach


@pytest.mark.parametrize("options", [{}, {"text_head_norm": True}, {"text_head": "mlp"}])
def test_stage1_begins_with_a_fitted_head(teach, options, capsys):
    plain = teach("plain", **options)
    capsys.readouterr()
    fitted = teach("fitted", **options, initialize_projection="ridge", initialize_rows=400)
    said = capsys.readouterr().out
    assert "Initialized the text head: 400 pairs, penalty " in said
    assert first_loss(fitted) < 0.5 * first_loss(plain)


def test_stage2_begins_with_a_fitted_projection_of_images(miniature, teach, tmp_path, capsys):
    clip = AltCLIPDualEncoderModel.from_towers(
        str(miniature / "clip"), str(miniature / "text_encoder"), projection_dim=24
    )
    clip.save_pretrained(tmp_path / "start")
    image_processor = AutoProcessor.from_pretrained(miniature / "clip").image_processor
    tokenizer = AutoTokenizer.from_pretrained(miniature / "text_encoder")
    AltCLIPProcessor(image_processor, tokenizer).save_pretrained(tmp_path / "start")
    fixed = QUICK | {
        "model_name_or_path": str(tmp_path / "start"),
        "dataset": str(miniature / "dataset"),
        "cache_dir": str(tmp_path / "cache"),
        "trainable": ["visual_projection", "logit_scale"],
        "logging_steps": 1,
        "per_device_train_batch_size": 64,
    }
    losses = {}
    for way in ("random", "ridge"):
        folder = str(tmp_path / way)
        stage2.main(ContrastiveArguments(output_dir=folder, initialize_projection=way, **fixed))
        losses[way] = first_loss(folder)
    assert "Initialized visual_projection: 1,200 pairs" in capsys.readouterr().out
    assert losses["ridge"] < losses["random"] - 0.1


def test_a_resumed_run_keeps_the_weights_of_its_checkpoint(teach, capsys):
    given = {"initialize_projection": "ridge", "initialize_rows": 400, "save_strategy": "steps"}
    folder = Path(teach("out", **given))
    whole = load_file(folder / "model.safetensors")
    shutil.rmtree(folder / "checkpoint-2")
    (folder / "model.safetensors").unlink()
    capsys.readouterr()
    teach("out", **given, resume=True)
    said = capsys.readouterr().out
    assert "The projection is not initialized: the checkpoint has its weights." in said
    assert "Initialized" not in said
    resumed = load_file(folder / "model.safetensors")
    assert resumed.keys() == whole.keys()
    for name, value in whole.items():
        assert torch.equal(resumed[name], value), name


@pytest.mark.parametrize(("objective", "is_unit"), [("mse", False), ("cosine", True), ("contrastive", True)])
def test_targets_have_unit_length_where_lengths_are_free(teach, miniature, objective, is_unit):
    given = {"initialize_projection": "ridge", "initialize_rows": 400, "learning_rate": 1e-12}
    model, processor = load_model(teach(objective, objective=objective, text_pooling="mean", **given))
    captions = [caption["en"] for caption in read_scenes(miniature, 200)["captions"]]
    found = embed_texts(model, processor, captions, normalize_embeddings=False)
    teacher, teacher_processor = load_model(str(miniature / "clip"))
    targets = embed_texts(teacher, teacher_processor, captions, normalize_embeddings=False)
    expected = normalize(targets.mean(0) if not is_unit else normalize(targets, dim=-1).mean(0), dim=0)
    length = (found @ expected).mean()
    of_targets = 1.0 if is_unit else targets.norm(dim=-1).mean()
    assert 0.5 * of_targets < length < 1.1 * of_targets


def test_two_processes_begin_as_one(train_by_one_and_two, start_flags):
    ridge = ["--initialize_projection", "ridge", "--initialize_rows", "400"]
    one, two = train_by_one_and_two(*start_flags["stage1"], *ridge)
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=0, atol=2e-6, msg=name)


STAGE1 = {"teacher_name_or_path": "t", "text_encoder_name_or_path": "e"}
PROJECTION = ["visual_projection", "logit_scale"]


@pytest.mark.parametrize(
    ("stage", "given", "message"),
    [
        (
            TeacherLearningArguments,
            STAGE1 | {"initialize_projection": "pca"},
            "is 'pca': choose random or ridge",
        ),
        (
            TeacherLearningArguments,
            STAGE1 | {"initialize_projection": "ridge", "initialize_rows": 99},
            "initialize_rows is 99, on .*: give 100 or more",
        ),
        (
            TeacherLearningArguments,
            {"model_name_or_path": "m", "initialize_projection": "ridge"},
            "model_name_or_path is a finished model, whose trained head it would replace: leave it out",
        ),
        (
            ContrastiveArguments,
            {"model_name_or_path": "m", "initialize_projection": "ridge"},
            "trainable is text_model .*: add --trainable visual_projection logit_scale, or leave it out",
        ),
        (
            ContrastiveArguments,
            {
                "model_name_or_path": "m",
                "initialize_projection": "ridge",
                "trainable": [*PROJECTION, "text_model"],
                "cache_image_embeds": False,
            },
            "needs the outputs of both towers, and trainable names text_model, .*: train projections alone",
        ),
        (
            ContrastiveArguments,
            {
                "model_name_or_path": "m",
                "initialize_projection": "ridge",
                "trainable": PROJECTION,
                "cache_image_embeds": False,
                "cache_towers": False,
            },
            "and cache_image_embeds is false, .*: train projections alone first",
        ),
    ],
)
def test_what_cannot_be_initialized_is_refused(stage, given, message):
    with pytest.raises(InputError, match=message):
        stage(dataset="d", output_dir="o", use_cpu=True, **given)


def test_a_dry_run_says_what_is_fitted(teach, capsys):
    teach("dry", initialize_projection="ridge", dry_run=True)
    said = capsys.readouterr().out
    assert "the last layer of the text head by ridge regression on at most 20,000 texts, before" in said


def test_heavier_rows_are_drawn_first():
    captions = [{"en": f"a {number}"} for number in range(300)]
    weights = [0.0] * 100 + [1.0] * 100 + [50.0] * 100
    rows = Dataset.from_dict({"captions": captions, "target": [[0.0]] * 300, "weight": weights})
    examples = CaptionExamples(rows, ["en"], "target")
    drawn = examples.places[draw_examples(examples, 100, seed=0), 0]
    light, medium, heavy = np.bincount(drawn // 100, minlength=3)
    assert (light, heavy > 80) == (0, True)
    assert 0 < medium < 20


def test_examples_are_drawn_evenly_over_the_languages():
    captions = [{"en": f"a {number}", "zh": None if number % 10 else f"b {number}"} for number in range(100)]
    rows = Dataset.from_dict({"captions": captions, "target": [[0.0]] * 100})
    examples = CaptionExamples(rows, ["en", "zh"], "target")
    drawn = draw_examples(examples, 40, seed=0)
    assert len(set(drawn.tolist())) == 40
    # All 10 of Chinese, and English for the rest.
    assert np.bincount(examples.places[drawn, 1]).tolist() == [30, 10]
    assert np.bincount(examples.places[draw_examples(examples, 12, seed=0), 1]).tolist() == [6, 6]
    assert not np.array_equal(drawn, draw_examples(examples, 40, seed=1))
    assert len(draw_examples(examples, None, seed=0)) == 110


# The job: images


@pytest.fixture(scope="module")
def sentence_encoder(miniature, tmp_path_factory):
    """Return the folder of a sentence encoder that pools and normalizes, and has a prompt of its own."""
    folder = tmp_path_factory.mktemp("sentences")
    bert = save_student("bert", folder / "bert", load_tokenizer_of(miniature))
    modules = [Transformer(bert, max_seq_length=77), Pooling(32, pooling_mode="mean"), Normalize()]
    prompts = {"prompts": {"caption": "key "}, "default_prompt_name": "caption"}
    SentenceTransformer(modules=modules, device="cpu", **prompts).save_pretrained(str(folder / "whole"))
    return str(folder / "whole")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """Return the folder of a classifier of images into six classes."""
    folder = str(tmp_path_factory.mktemp("classifier"))
    torch.manual_seed(3)
    names = dict(enumerate(["apple, Malus", "key", "cat", "dog", "bird", "tree"]))
    # Weights so large that features differ from image to image.
    config = ViTConfig(**VISION, id2label=names, initializer_range=0.2)
    ViTForImageClassification(config).eval().save_pretrained(folder)
    ViTImageProcessorPil(**SIZE).save_pretrained(folder)
    return folder


@pytest.fixture
def align(miniature, sentence_encoder, classifier, tmp_path):
    """Return a function that aligns images with captions, and returns its folder."""
    fixed = {
        "image_model_name_or_path": classifier,
        "teacher_name_or_path": f"sentence_transformers:{sentence_encoder}",
        "dataset": str(miniature / "dataset"),
        "cache_dir": str(tmp_path / "cache"),
        "use_cpu": True,
        "disable_tqdm": True,
    }

    def align(name="out", **given):
        folder = str(tmp_path / name)
        alignment.main(AlignmentArguments(output_dir=folder, **fixed | given))
        return folder

    return align


def read_scenes(miniature, n_rows):
    return load_dataset(str(miniature / "dataset"), split="train").select(range(n_rows))


def test_images_are_aligned_with_a_sentence_encoder(align, miniature, sentence_encoder, capsys):
    folder = align(class_weight=0.1)
    said = capsys.readouterr().out
    assert "The 6 classes weigh 0.1 of all captioned images." in said
    assert "600 pairs, penalty " in said
    assert f"Saved the aligned model to {folder}. Next: " in said

    model, processor = load_model(folder)
    scenes = read_scenes(miniature, 8)
    captions = [caption["en"] for caption in scenes["captions"]]
    theirs = SentenceTransformer(sentence_encoder, device="cpu").encode(captions, convert_to_tensor=True)
    torch.testing.assert_close(embed_texts(model, processor, captions), theirs, rtol=0, atol=1e-6)

    def pooled(**inputs):
        return model.vision_model(**inputs).pooler_output

    before = encode_images(model, processor.image_processor, scenes["image"], pooled)
    projection = model.visual_projection
    expected = normalize(before @ projection.weight.T + projection.bias, dim=-1)
    found = embed_images(model, processor, scenes["image"])
    torch.testing.assert_close(found, expected.detach(), rtol=0, atol=1e-5)
    assert 1 <= model.logit_scale.exp().item() <= 100.01


COLOURS = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220), "white": (240, 240, 240)}
THINGS = ["apple", "key", "cat", "dog", "bird", "tree", "fish", "horse", "moon", "sun", "book", "shoe"]


def draw_plain_image(random, colour):
    pixels = random.normal(COLOURS[colour], 20, size=(32, 32, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("whiten", [False, True])
def test_images_that_were_not_fitted_find_their_captions(align, random, tmp_path, whiten):
    """The towers are untrained: what they tell apart is the colour of an image, and of a caption."""
    rows = []
    for colour in COLOURS:
        rows += [{"image": draw_plain_image(random, colour), "text": f"{colour} {thing}"} for thing in THINGS]
    (tmp_path / "images").mkdir()
    Dataset.from_list(rows).to_parquet(tmp_path / "images/train.parquet")
    model, processor = load_model(align(dataset=str(tmp_path / "images"), whiten_texts=whiten))

    names = list(COLOURS)
    classes = embed_texts(model, processor, [f"{colour} star" for colour in names])
    right = []
    for number, colour in enumerate(names):
        images = embed_images(model, processor, [draw_plain_image(random, colour) for _ in range(5)])
        right.append((images @ classes.T).argmax(1) == number)
    assert torch.cat(right).float().mean() > 0.8


def test_the_projection_is_the_regression_of_captions_on_features(align, miniature, capsys):
    model, processor = load_model(align(class_weight=0.0))
    penalty = float(re.search(r"600 pairs, penalty (\S+) of 10", capsys.readouterr().out)[1])
    scenes = read_scenes(miniature, 600)

    def pooled(**inputs):
        return model.vision_model(**inputs).pooler_output

    features = encode_images(model, processor.image_processor, scenes["image"], pooled)
    texts = embed_texts(model, processor, [caption["en"] for caption in scenes["captions"]])
    expected = Ridge(alpha=penalty).fit(features.double(), texts.double())
    found = model.visual_projection.weight.detach().numpy()
    # The penalty is printed in three digits.
    np.testing.assert_allclose(found, expected.coef_, rtol=0, atol=1e-2 * np.abs(expected.coef_).max())


def test_texts_are_whitened_by_captions_and_classes(align, miniature, sentence_encoder, capsys):
    plain, processor = load_model(align("plain"))
    capsys.readouterr()
    whitened, _ = load_model(align("whitened", whiten_texts=True))
    assert "The text projection whitens, by the embeddings of 606 texts." in capsys.readouterr().out

    def pooled(**inputs):
        return plain.text_model(**inputs).pooler_output

    texts = [caption["en"] for caption in read_scenes(miniature, 600)["captions"]]
    texts += [f"A {name}." for name in ("apple", "key", "cat", "dog", "bird", "tree")]
    states = encode_texts(plain, processor.tokenizer, texts, pooled)
    expected = fit_whitening(states)
    found = whitened.text_projection.weight.detach().double()
    torch.testing.assert_close(found, expected.weight, rtol=1e-3, atol=1e-3 * found.abs().max().item())
    embeddings = embed_texts(whitened, processor, texts, normalize_embeddings=False)
    assert embeddings.mean(0).abs().max() < 0.01 * embeddings.std(0).max()
    # The projection of images is fitted to what the texts have become.
    assert not torch.allclose(whitened.visual_projection.weight, plain.visual_projection.weight, atol=1e-3)


def test_two_processes_align_as_one(align, sentence_encoder, classifier, miniature, run_python, tmp_path):
    command = [
        "training/run_alignment.py",
        "--image_model_name_or_path",
        classifier,
        "--teacher_name_or_path",
    ]
    command += [f"sentence_transformers:{sentence_encoder}", "--dataset", miniature / "dataset"]
    command += ["--cache_dir", tmp_path / "cache of two", "--output_dir", tmp_path / "two", "--use_cpu"]
    command += ["--whiten_texts", "true"]
    process = run_python("python", *command, processes=2, OMP_NUM_THREADS="1")
    assert process.returncode == 0, process.stderr[-4000:]
    one = load_file(Path(align("one", whiten_texts=True), "model.safetensors"))
    two = load_file(tmp_path / "two/model.safetensors")
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(
            two[name], value, rtol=1e-3, atol=1e-3 * value.abs().max().item(), msg=name
        )


def test_class_names_are_read_from_a_file(align, tmp_path, capsys):
    names = tmp_path / "names.json"
    names.write_text(json.dumps(["apple", "key", "cat", "dog", "bird", "tree"]))
    align(class_names=str(names), class_template="a picture of {name}")
    assert "The 6 classes weigh " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (["apple", "key"], "class_names has 2 names, .* has 6 classes: give one name a class"),
        ({"en": ["apple"]}, "is no list of names"),
    ],
)
def test_class_names_that_do_not_fit_are_refused(align, tmp_path, content, message):
    names = tmp_path / "names.json"
    names.write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        align(class_names=str(names))


def test_an_encoder_has_no_class_names(align, tmp_path, capsys):
    encoder = save_image_encoder(tmp_path / "vit")
    align(image_model_name_or_path=encoder)
    assert "classes" not in capsys.readouterr().out
    names = tmp_path / "names.json"
    names.write_text(json.dumps(["apple"]))
    with pytest.raises(InputError, match="is no classifier: leave it out, or give the classifier"):
        align(image_model_name_or_path=encoder, class_names=str(names))


def test_a_sentence_encoder_with_another_layer_is_refused(align, miniature, tmp_path):
    teacher = save_sentence_encoder(tmp_path / "dense", load_tokenizer_of(miniature))
    with pytest.raises(InputError, match="more than a transformer and its pooling: Dense. Give a sentence"):
        align(teacher_name_or_path=teacher)


def test_rows_of_a_classifier_take_the_mean_and_spread_of_features():
    rows = ClassRows(["a", "b"], torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
    features = rows.as_features(torch.tensor([10.0, 20.0]), spread=2.0)
    assert features.tolist() == [[8.0, 20.0], [12.0, 20.0]]


# The job: texts


@pytest.mark.parametrize("kind", ["altclip", "altclip_dual_encoder"])
def test_a_text_head_is_aligned_with_a_teacher(miniature, tmp_path, kind, capsys):
    options = {} if kind == "altclip" else {"text_pooling": "mean"}
    folder = str(tmp_path / "out")
    alignment.main(
        AlignmentArguments(
            teacher_name_or_path=str(miniature / "clip"),
            text_encoder_name_or_path=str(miniature / "text_encoder"),
            dataset=str(miniature / "dataset"),
            languages=["en", "zh"],
            output_dir=folder,
            cache_dir=str(tmp_path / "cache"),
            use_cpu=True,
            **options,
        )
    )
    assert "Fitted in " in capsys.readouterr().out
    model, processor = load_model(folder)
    assert model.config.model_type == kind
    teacher, teacher_processor = load_model(str(miniature / "clip"))
    captions = read_scenes(miniature, 200)["captions"]
    english = [caption["en"] for caption in captions]
    targets = embed_texts(teacher, teacher_processor, english, normalize_embeddings=False)
    for language in ("en", "zh"):
        texts = [caption[language] for caption in captions]
        found = embed_texts(model, processor, texts, normalize_embeddings=False)
        error = (found - targets).square().sum()
        of_mean = (targets - targets.mean(0)).square().sum()
        assert error < 0.9 * of_mean, language


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"teacher_name_or_path": "t"}, "image_model_name_or_path is missing: give the image encoder"),
        ({"image_model_name_or_path": "i"}, "teacher_name_or_path is missing: give the sentence encoder"),
        (
            {"image_model_name_or_path": "i", "teacher_name_or_path": "open_clip:ViT-B-32/openai"},
            "whose texts no tower of transformers encodes",
        ),
        (STAGE1 | {"lora_rank": 4}, "lora_rank is 4, and alignment fits one layer without steps"),
        (STAGE1 | {"class_names": "names.json"}, "which no classifier helps: leave out one of the two"),
        (STAGE1 | {"n_folds": 1}, "n_folds is 1: give 2 or more"),
        (STAGE1 | {"whiten_texts": True}, "whiten_texts is true, and text_encoder_name_or_path fits a text"),
        (STAGE1 | {"max_pairs": 4}, "max_pairs is 4: give at least one for each of n_folds"),
        (STAGE1 | {"class_weight": -1.0}, "class_weight is -1.0: give a number from 0"),
        (STAGE1 | {"class_template": "A thing."}, "class_template is 'A thing.' without {name}"),
    ],
)
def test_arguments_of_an_alignment_are_checked(given, message):
    with pytest.raises(InputError, match=message):
        AlignmentArguments(dataset="d", output_dir="o", use_cpu=True, **given)


def test_a_dry_run_of_an_alignment_fits_nothing(align, tmp_path, capsys):
    folder = align(dry_run=True)
    said = capsys.readouterr().out
    assert "by ridge regression in 5 folds" in said
    assert "captions in en" in said
    assert not Path(folder).exists()


def test_an_alignment_is_a_step_of_a_road(miniature, sentence_encoder, classifier, tmp_path, capsys):
    road = tmp_path / "road"
    road.mkdir()
    aligned = tmp_path / "aligned"
    write_yaml(
        road / "alignment.yaml",
        image_model_name_or_path=classifier,
        teacher_name_or_path=f"sentence_transformers:{sentence_encoder}",
        dataset=str(miniature / "dataset"),
        output_dir=str(aligned),
    )
    write_yaml(
        road / "stage1.yaml",
        teacher_name_or_path=str(aligned),
        text_encoder_name_or_path=str(miniature / "text_encoder"),
        dataset=str(miniature / "dataset"),
        languages=["en", "zh"],
        max_steps=2,
        output_dir=str(tmp_path / "taught"),
    )
    steps = read_road(road)
    assert [step.job for step in steps] == ["alignment", "stage1"]
    print_plan(steps, steps)
    said = capsys.readouterr().out
    assert "of which one layer is fitted without steps" in said


def write_yaml(path, **settings):
    path.write_text("".join(f"{name}: {json.dumps(value)}\n" for name, value in settings.items()))
