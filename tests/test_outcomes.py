"""Outcomes: metrics by hand and as scikit-learn has them, weights as repetition, and files."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, balanced_accuracy_score, roc_auc_score

from benchmarks.outcomes import (
    ClassOutcomes,
    MultilabelOutcomes,
    RetrievalOutcomes,
    ScoreOutcomes,
    load_outcomes,
)
from benchmarks.recipe import InputError


def outcomes_of(kind, n=60):
    """Outcomes of `n` images, with ties among ranks and scores."""
    generator = torch.Generator().manual_seed(n)

    def draw(high, shape):
        return torch.randint(high, shape, generator=generator)

    if kind == "retrieval":
        owners = torch.cat([torch.arange(n), draw(n, (2 * n,))])
        return RetrievalOutcomes(draw(15, (3 * n,)), draw(12, (n,)), owners)
    if kind == "class":
        return ClassOutcomes(draw(8, (n,)), draw(9, (n,)), 10)
    if kind == "multilabel":
        return MultilabelOutcomes(draw(25, (n, 4)) / 24, draw(3, (n, 4)) == 0)
    return ScoreOutcomes(draw(25, (n,)) / 24, draw(3, (n,)) == 0)


KINDS = ("retrieval", "class", "multilabel", "score")


def repeated(outcomes, counts):
    """The outcomes of a benchmark in which each unit occurs as often as it was drawn."""
    units = torch.arange(len(counts)).repeat_interleave(counts)
    if isinstance(outcomes, RetrievalOutcomes):
        texts = [(outcomes.text_to_image == unit).nonzero()[:, 0] for unit in units]
        owners = torch.arange(len(units)).repeat_interleave(torch.tensor([len(own) for own in texts]))
        return RetrievalOutcomes(outcomes.text_ranks[torch.cat(texts)], outcomes.image_ranks[units], owners)
    if isinstance(outcomes, ClassOutcomes):
        return ClassOutcomes(outcomes.ranks[units], outcomes.labels[units], outcomes.n_classes)
    return type(outcomes)(outcomes.scores[units], outcomes.targets[units])


def test_retrieval_by_hand():
    metrics = RetrievalOutcomes(
        torch.tensor([0, 3, 9, 10]), torch.tensor([0, 5]), torch.tensor([0, 0, 1, 1])
    ).metrics()
    assert metrics["n"] == 2
    assert metrics["n_texts"] == 4
    recalls = {k: metrics[f"text_to_image_recall@{k}"] for k in range(1, 11)}
    assert recalls == {1: 0.25, 2: 0.25, 3: 0.25, **dict.fromkeys(range(4, 10), 0.5), 10: 0.75}
    assert metrics["image_to_text_recall@5"] == 0.5
    assert metrics["image_to_text_recall@6"] == 1.0
    assert metrics["mean_recall"] == pytest.approx((0.25 + 0.5 + 0.75 + 0.5 + 0.5 + 1) / 6)
    assert metrics["text_to_image_rank_p50"] == 6.0
    assert metrics["text_to_image_rank_p25"] == 2.25
    assert metrics["image_to_text_rank_p75"] == 3.75
    assert metrics["image_to_text_rank_p5"] == pytest.approx(0.25)
    assert len(metrics) == 2 + 20 + 1 + 10


def test_classes_by_hand():
    metrics = ClassOutcomes(torch.tensor([0, 0, 0, 4, 5]), torch.tensor([0, 0, 0, 0, 2]), 3).metrics()
    assert metrics == pytest.approx(
        {"n": 5, "accuracy@1": 0.6, "accuracy@5": 0.8, "mean_per_class": 0.375, "mean_top1_top5": 0.7}
    )


def test_eleven_points_by_hand():
    """Right, wrong, right, wrong, wrong, right: precisions 1, 2/3 and 1/2 at recalls 1/3, 2/3 and 1."""
    targets = torch.tensor([1, 0, 1, 0, 0, 1], dtype=torch.bool)
    metrics = MultilabelOutcomes(torch.arange(6.0).flip(0)[:, None], targets[:, None]).metrics()
    assert metrics["map_11_point"] == pytest.approx(
        (4 * 1 + 3 * 2 / 3 + 4 * 1 / 2) / 11
    )  # recalls to .3, to .6, to 1
    assert metrics["mean_average_precision"] == pytest.approx((1 + 2 / 3 + 1 / 2) / 3)


def test_recall_reaches_a_tenth_exactly():
    """Of ten targets the third is found at recall 0.3, which is no binary fraction; what comes before it is right, after it wrong."""
    order = torch.tensor([1, 1, 1] + [0] * 90 + [1] * 7, dtype=torch.bool)
    metrics = MultilabelOutcomes(torch.arange(100.0).flip(0)[:, None], order[:, None]).metrics()
    assert metrics["map_11_point"] == pytest.approx((4 * 1 + 7 * 10 / 100) / 11)


def test_a_class_nobody_shows_is_left_out():
    outcomes = outcomes_of("multilabel")
    more = MultilabelOutcomes(
        torch.cat([outcomes.scores, torch.rand(60, 1)], 1), torch.nn.functional.pad(outcomes.targets, (0, 1))
    )
    assert more.metrics() == outcomes.metrics()


def test_same_numbers_as_scikit_learn():
    classes = outcomes_of("class", 500)
    many = outcomes_of("multilabel", 500)
    two = outcomes_of("score", 500)
    predicted = torch.where(classes.ranks == 0, classes.labels, (classes.labels + 1) % 9)
    assert classes.metrics()["mean_per_class"] == pytest.approx(
        balanced_accuracy_score(classes.labels, predicted), abs=1e-9
    )
    expected = average_precision_score(many.targets, many.scores)
    assert many.metrics()["mean_average_precision"] == pytest.approx(expected, abs=1e-9)
    assert two.metrics()["roc_auc"] == pytest.approx(roc_auc_score(two.targets, two.scores), abs=1e-9)
    weights = torch.randint(4, (3, 500))
    for row, (area, precision) in enumerate(
        zip(two.score(weights)["roc_auc"], many.score(weights)["mean_average_precision"])
    ):
        assert area == pytest.approx(
            roc_auc_score(two.targets, two.scores, sample_weight=weights[row]), abs=1e-9
        )
        expected = average_precision_score(many.targets, many.scores, sample_weight=weights[row])
        assert precision == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_a_weight_repeats(kind):
    """The definition of the bootstrap, spelled out: a unit drawn twice is there twice."""
    outcomes = outcomes_of(kind)
    weights = torch.randint(60, (20, 60), generator=torch.Generator().manual_seed(1)).apply_(
        lambda value: value % 4
    )
    scores = outcomes.score(weights)
    for row, counts in enumerate(weights):
        by_hand = repeated(outcomes, counts).metrics()
        assert {name: values[row].item() for name, values in scores.items()} == pytest.approx(
            {name: value for name, value in by_hand.items() if name in scores}, abs=1e-12
        )
    assert max(values.unique().numel() for values in scores.values()) > 10
    once = outcomes.metrics()
    assert {
        name: values.item() for name, values in outcomes.score(torch.ones(1, 60)).items()
    }.items() <= once.items()


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_read(kind, tmp_path):
    outcomes = replace(outcomes_of(kind), digests=torch.arange(60) - 2**63)
    outcomes.save(tmp_path / "outcomes.npz")
    read = load_outcomes(tmp_path / "outcomes.npz")
    assert type(read) is type(outcomes)
    assert read.metrics() == outcomes.metrics()
    for name, value in vars(outcomes).items():
        assert torch.equal(torch.as_tensor(getattr(read, name)), torch.as_tensor(value))
        assert torch.as_tensor(getattr(read, name)).dtype == torch.as_tensor(value).dtype


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_an_earlier_version_is_read(kind, tmp_path):
    """It has no digests."""
    outcomes = outcomes_of(kind)
    outcomes.save(tmp_path / "outcomes.npz")
    with np.load(tmp_path / "outcomes.npz") as arrays:
        np.savez(
            tmp_path / "earlier.npz", **{name: arrays[name] for name in arrays.files if name != "digests"}
        )
    read = load_outcomes(tmp_path / "earlier.npz")
    assert len(read.digests) == 0
    assert read.digests.dtype == torch.long
    assert read.metrics() == outcomes.metrics()


@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.9, 0.999])
def test_half_a_file_is_refused(share, tmp_path):
    outcomes_of("class").save(tmp_path / "outcomes.npz")
    whole = (tmp_path / "outcomes.npz").read_bytes()
    (tmp_path / "outcomes.npz").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError, match=r"outcomes.npz' cannot be read .*: delete it and evaluate again"):
        load_outcomes(tmp_path / "outcomes.npz")


def test_a_text_of_several_images_is_drawn_with_each():
    """Text 0 is of images 0 and 1, text 1 of image 1 and text 2 of image 2: a draw of one image of two brings half of the text."""
    pairs = torch.tensor([[0, 0], [0, 1], [1, 1], [2, 2]])
    outcomes = RetrievalOutcomes(torch.tensor([0, 9, 9]), torch.tensor([0, 0, 0]), pairs)
    alone = RetrievalOutcomes(torch.tensor([0, 9, 9]), torch.tensor([0, 0, 0]), torch.arange(3))
    assert outcomes.metrics() == alone.metrics()
    assert outcomes.metrics()["text_to_image_recall@1"] == pytest.approx(1 / 3)
    drawn = torch.tensor([[3, 0, 0], [0, 3, 0], [0, 0, 3], [1, 0, 2], [1, 1, 1]])
    scores = outcomes.score(drawn)
    assert scores["text_to_image_recall@1"].tolist() == pytest.approx([1, 1 / 3, 0, 0.5 / 2.5, 1 / 3])
    assert all(values.isfinite().all() for values in scores.values())
    with pytest.raises(InputError, match="rows from 0 to 2"):
        RetrievalOutcomes(torch.zeros(3), torch.zeros(3), pairs + torch.tensor([0, 1]))


@pytest.mark.parametrize("n", range(2, 30))
def test_ranks_of_texts_of_many_images_are_numpys(n):
    """The n-th parts of a weight do not always add up to one."""
    ranks = torch.arange(0, 42, 2)
    pairs = torch.tensor([[0, image] for image in range(n)] + [[text, n + text - 1] for text in range(1, 21)])
    metrics = RetrievalOutcomes(ranks, torch.zeros(n + 20, dtype=torch.long), pairs).metrics()
    for percent in (5, 25, 50, 75, 95):
        assert metrics[f"text_to_image_rank_p{percent}"] == np.percentile(ranks.numpy(), percent), percent


@pytest.mark.parametrize("kind", KINDS)
def test_units_that_differ_are_those_that_move_a_metric(kind):
    """Each unit by itself: if a metric of it changes, the unit is among those that differ."""
    one, other = outcomes_of(kind), outcomes_of(kind)
    if kind == "retrieval":
        other.text_ranks, other.image_ranks = other.text_ranks.roll(1), other.image_ranks.roll(1)
    else:
        getattr(other, other.PER_UNIT).copy_(getattr(other, other.PER_UNIT).roll(1, 0))
    differing = one.differing(other)
    alone = torch.eye(60)
    scores, others = one.score(alone), other.score(alone)
    assert differing.keys() == scores.keys()
    for name, units in differing.items():
        moved = (scores[name] - others[name]).nan_to_num() != 0
        assert units.dtype == torch.bool, name
        assert not (moved & ~units).any(), name
    if kind in ("retrieval", "class"):
        recall = "text_to_image_recall@1" if kind == "retrieval" else "accuracy@1"
        assert 0 < differing[recall].sum() < 60
    if kind == "class":
        assert torch.equal(differing["accuracy@1"], scores["accuracy@1"] != others["accuracy@1"])


@pytest.mark.parametrize(
    "make,message",
    [
        (
            lambda: RetrievalOutcomes(torch.zeros(2), torch.zeros(2), torch.tensor([0, 1, 1])),
            "text_ranks has 2 entries for 3 items",
        ),
        (lambda: RetrievalOutcomes(torch.zeros(2), torch.zeros(2), torch.tensor([0, 2])), "rows from 0 to 1"),
        (lambda: ClassOutcomes(torch.zeros(2), torch.tensor([0, 3]), 3), "rows from 0 to 2"),
        (lambda: ClassOutcomes(torch.zeros(0), torch.zeros(0), 3), "ranks has 0 entries for 0 items"),
        (
            lambda: MultilabelOutcomes(torch.zeros(2, 3), torch.zeros(2, 2)),
            r"\(images, classes\), not \(2, 3\) and \(2, 2\)",
        ),
        (lambda: ScoreOutcomes(torch.zeros(2), torch.zeros(3)), "scores has 2 entries for 3 items"),
        (lambda: load_outcomes("nowhere.npz"), "'nowhere.npz' holds no outcomes"),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
