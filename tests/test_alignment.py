"""Alignment in closed form: the regression, what it fits of images and of texts, and how stages use it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from sklearn.linear_model import Ridge
from transformers import AutoProcessor, AutoTokenizer

from common.errors import InputError
from modeling_altclip import AltCLIPDualEncoderModel, AltCLIPProcessor
from training import ContrastiveArguments, TeacherLearningArguments
from training.alignment import assign_folds, fit_alignment
from training.data.examples import CaptionExamples
from training.initialization import draw_examples
from training.jobs import stage1, stage2

from .families import QUICK


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
    for way in (None, "ridge"):
        folder = str(tmp_path / str(way))
        stage2.main(ContrastiveArguments(output_dir=folder, initialize_projection=way, **fixed))
        losses[way] = first_loss(folder)
    assert "Initialized visual_projection: 1,200 pairs" in capsys.readouterr().out
    assert losses["ridge"] < losses[None] - 0.1


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
        (TeacherLearningArguments, STAGE1 | {"initialize_projection": "pca"}, "is 'pca': choose ridge, or"),
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
