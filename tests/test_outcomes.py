"""Check outcomes: metrics by hand and against scikit-learn, weights as repetition, and files."""

from dataclasses import replace

import numpy as np
import pytest
import pytrec_eval
import torch
from sklearn.metrics import average_precision_score, balanced_accuracy_score, ndcg_score, roc_auc_score
from torch.nn.functional import normalize, one_hot

from benchmarks.metrics import retrieval_ranks
from benchmarks.outcomes import (
    ClassOutcomes,
    MultilabelOutcomes,
    RetrievalOutcomes,
    ScoreOutcomes,
    load_outcomes,
)
from common.errors import InputError


def outcomes_of(kind, n=60):
    """Return outcomes of `n` images, with ties among ranks and scores."""
    generator = torch.Generator().manual_seed(n)

    def draw(high, shape):
        return torch.randint(high, shape, generator=generator)

    if kind == "retrieval":
        owners = torch.cat([torch.arange(n), draw(n, (2 * n,))])  # each image has one text at least
        return RetrievalOutcomes(draw(15, (3 * n,)), draw(12, (n,)), owners)
    if kind == "class":
        return ClassOutcomes(draw(8, (n,)), draw(9, (n,)), 10)
    if kind == "multilabel":
        return MultilabelOutcomes(draw(25, (n, 4)) / 24, draw(3, (n, 4)) == 0)
    return ScoreOutcomes(draw(25, (n,)) / 24, draw(3, (n,)) == 0)


KINDS = ["retrieval", "class", "multilabel", "score"]


def repeated(outcomes, counts):
    """Return the outcomes of a benchmark in which each unit occurs as often as it was drawn."""
    units = torch.arange(len(counts)).repeat_interleave(counts)  # counts 2, 0, 1 -> units 0, 0, 2
    if isinstance(outcomes, RetrievalOutcomes):
        texts = [(outcomes.text_to_image == unit).nonzero()[:, 0] for unit in units]
        n_texts = torch.tensor([len(own) for own in texts])
        owners = torch.arange(len(units)).repeat_interleave(n_texts)
        return RetrievalOutcomes(outcomes.text_ranks[torch.cat(texts)], outcomes.image_ranks[units], owners)
    if isinstance(outcomes, ClassOutcomes):
        return ClassOutcomes(outcomes.ranks[units], outcomes.labels[units], outcomes.n_classes)
    return type(outcomes)(outcomes.scores[units], outcomes.targets[units])


def test_retrieval_by_hand():
    text_ranks = torch.tensor([0, 3, 9, 10])
    image_ranks = torch.tensor([0, 5])
    text_to_image = torch.tensor([0, 0, 1, 1])
    metrics = RetrievalOutcomes(text_ranks, image_ranks, text_to_image).metrics()
    assert metrics["n"] == 2
    assert metrics["n_texts"] == 4
    recalls = {k: metrics[f"text_to_image_recall@{k}"] for k in range(1, 11)}
    # Ranks count from 0: rank 3 is within the first 4, rank 9 within the first 10.
    assert recalls == {1: 0.25, 2: 0.25, 3: 0.25, **dict.fromkeys(range(4, 10), 0.5), 10: 0.75}
    assert metrics["image_to_text_recall@5"] == 0.5
    assert metrics["image_to_text_recall@6"] == 1.0
    assert metrics["mean_recall"] == pytest.approx((0.25 + 0.5 + 0.75 + 0.5 + 0.5 + 1) / 6)
    assert metrics["text_to_image_rank_p50"] == 6.0
    assert metrics["text_to_image_rank_p25"] == 2.25
    assert metrics["image_to_text_rank_p75"] == 3.75
    assert metrics["image_to_text_rank_p5"] == pytest.approx(0.25)
    # Rank 0 has a gain of 1, rank 3 of 1 / log2(5), rank 9 of 1 / log2(11), and rank 10 none.
    assert metrics["text_to_image_ndcg@10"] == pytest.approx((1 + 0.430677 + 0.289065 + 0) / 4, abs=1e-6)
    assert len(metrics) == 2 + 20 + 2 + 10  # counts, recalls at 1 to 10, their mean, nDCG, rank percentiles


def test_ndcg_is_that_of_pytrec_eval_and_scikit_learn():
    """mteb computes it by pytrec_eval, from the same scores."""
    generator = torch.Generator().manual_seed(0)
    owners = torch.arange(40).repeat_interleave(2)
    images = normalize(torch.randn(40, 8, generator=generator), dim=-1)
    texts = normalize(images[owners] + torch.randn(80, 8, generator=generator), dim=-1)
    scores = (texts @ images.T).numpy()
    relevant = one_hot(owners, 40).numpy()

    found = RetrievalOutcomes(*retrieval_ranks(images, texts, owners), owners).metrics()
    assert found["text_to_image_ndcg@10"] == pytest.approx(ndcg_score(relevant, scores, k=10), abs=1e-9)
    right = {str(text): {str(image.item()): 1} for text, image in enumerate(owners)}
    run = {}
    for text, of_images in enumerate(scores.tolist()):
        run[str(text)] = {str(image): score for image, score in enumerate(of_images)}
    by_query = pytrec_eval.RelevanceEvaluator(right, {"ndcg_cut.10"}).evaluate(run)
    expected = np.mean([measures["ndcg_cut_10"] for measures in by_query.values()])
    assert found["text_to_image_ndcg@10"] == pytest.approx(expected, abs=1e-9)
    assert 0.2 < expected < 0.8


def test_a_text_of_several_images_has_no_ndcg():
    """Its rank is that of the best of them, and the others' are not known."""
    pairs = torch.tensor([[0, 0], [0, 1], [1, 1]])
    metrics = RetrievalOutcomes(torch.tensor([0, 1]), torch.tensor([0, 0]), pairs).metrics()
    assert "text_to_image_recall@10" in metrics
    assert "text_to_image_ndcg@10" not in metrics


def test_classes_by_hand():
    ranks = torch.tensor([0, 0, 0, 4, 5])
    labels = torch.tensor([0, 0, 0, 0, 2])
    expected = {
        "n": 5,
        "accuracy@1": 0.6,
        "accuracy@5": 0.8,
        "mean_per_class": 0.375,  # of 3/4 in class 0 and 0/1 in class 2; class 1 is not shown
        "mean_top1_top5": 0.7,
    }
    assert ClassOutcomes(ranks, labels, 3).metrics() == pytest.approx(expected)


def test_eleven_points_by_hand():
    """Precisions are 1, 2/3 and 1/2 at recalls 1/3, 2/3 and 1."""
    targets = torch.tensor([1, 0, 1, 0, 0, 1], dtype=torch.bool)  # from the highest score to the lowest
    scores = torch.arange(6.0).flip(0)
    metrics = MultilabelOutcomes(scores[:, None], targets[:, None]).metrics()
    of_11_points = [1] * 4 + [2 / 3] * 3 + [1 / 2] * 4  # recalls 0 to 0.3, 0.4 to 0.6, 0.7 to 1
    assert metrics["map_11_point"] == pytest.approx(sum(of_11_points) / 11)
    assert metrics["mean_average_precision"] == pytest.approx((1 + 2 / 3 + 1 / 2) / 3)


def test_recall_reaches_a_tenth_exactly():
    """Of ten targets the third is found at recall 0.3, which is no binary fraction."""
    targets = torch.tensor([1, 1, 1] + [0] * 90 + [1] * 7, dtype=torch.bool)
    scores = torch.arange(100.0).flip(0)
    metrics = MultilabelOutcomes(scores[:, None], targets[:, None]).metrics()
    # Recalls 0 to 0.3 have precision 1; from 0.4 on the best is that of all: 10 targets among 100.
    assert metrics["map_11_point"] == pytest.approx((4 * 1 + 7 * 10 / 100) / 11)


def test_a_class_nobody_shows_is_left_out():
    outcomes = outcomes_of("multilabel")
    scores = torch.cat([outcomes.scores, torch.rand(60, 1)], 1)
    targets = torch.nn.functional.pad(outcomes.targets, (0, 1))  # a column of False
    assert MultilabelOutcomes(scores, targets).metrics() == outcomes.metrics()


def test_same_numbers_as_scikit_learn():
    classes = outcomes_of("class", 500)
    many = outcomes_of("multilabel", 500)
    two = outcomes_of("score", 500)
    predicted = torch.where(classes.ranks == 0, classes.labels, (classes.labels + 1) % 9)
    expected = balanced_accuracy_score(classes.labels, predicted)
    assert classes.metrics()["mean_per_class"] == pytest.approx(expected, abs=1e-9)
    expected = average_precision_score(many.targets, many.scores)
    assert many.metrics()["mean_average_precision"] == pytest.approx(expected, abs=1e-9)
    expected = roc_auc_score(two.targets, two.scores)
    assert two.metrics()["roc_auc"] == pytest.approx(expected, abs=1e-9)

    weights = torch.randint(4, (3, 500))
    areas = two.score(weights)["roc_auc"]
    precisions = many.score(weights)["mean_average_precision"]
    for own, area, precision in zip(weights, areas, precisions, strict=True):
        expected = roc_auc_score(two.targets, two.scores, sample_weight=own)
        assert area == pytest.approx(expected, abs=1e-9)
        expected = average_precision_score(many.targets, many.scores, sample_weight=own)
        assert precision == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_a_weight_repeats(kind):
    """A unit drawn twice counts as two units, by the definition of the bootstrap."""
    outcomes = outcomes_of(kind)
    weights = torch.randint(60, (20, 60), generator=torch.Generator().manual_seed(1)) % 4
    scores = outcomes.score(weights)
    for row, counts in enumerate(weights):
        metrics = repeated(outcomes, counts).metrics()
        by_hand = {name: value for name, value in metrics.items() if name in scores}
        of_row = {name: values[row].item() for name, values in scores.items()}
        assert of_row == pytest.approx(by_hand, abs=1e-12)
    assert max(values.unique().numel() for values in scores.values()) > 10  # resamples differ

    with_ones = outcomes.score(torch.ones(1, 60))
    of_all = {name: values.item() for name, values in with_ones.items()}
    assert of_all.items() <= outcomes.metrics().items()


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_read(kind, tmp_path):
    outcomes = replace(outcomes_of(kind), digests=torch.arange(60) - 2**63)
    outcomes.save(tmp_path / "outcomes.npz")
    read = load_outcomes(tmp_path / "outcomes.npz")
    assert type(read) is type(outcomes)
    assert read.metrics() == outcomes.metrics()
    for name, value in vars(outcomes).items():
        found = torch.as_tensor(getattr(read, name))
        expected = torch.as_tensor(value)
        assert torch.equal(found, expected), name
        assert found.dtype == expected.dtype, name


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_an_earlier_version_is_read(kind, tmp_path):
    """An earlier version wrote no digests."""
    outcomes = outcomes_of(kind)
    outcomes.save(tmp_path / "outcomes.npz")
    with np.load(tmp_path / "outcomes.npz") as arrays:
        earlier = {name: arrays[name] for name in arrays.files if name != "digests"}
    np.savez(tmp_path / "earlier.npz", **earlier)
    read = load_outcomes(tmp_path / "earlier.npz")
    assert len(read.digests) == 0
    assert read.digests.dtype == torch.long
    assert read.metrics() == outcomes.metrics()


@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.9, 0.999])
def test_half_a_file_is_refused(share, tmp_path):
    path = tmp_path / "outcomes.npz"
    outcomes_of("class").save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError, match=r"outcomes.npz' cannot be read .*: delete it and evaluate again"):
        load_outcomes(path)


def test_a_text_of_several_images_is_drawn_with_each():
    """A draw of one of a text's two images brings half of the text."""
    # Text 0 is of images 0 and 1, text 1 of image 1 and text 2 of image 2.
    pairs = torch.tensor([[0, 0], [0, 1], [1, 1], [2, 2]])
    outcomes = RetrievalOutcomes(torch.tensor([0, 9, 9]), torch.tensor([0, 0, 0]), pairs)
    alone = RetrievalOutcomes(torch.tensor([0, 9, 9]), torch.tensor([0, 0, 0]), torch.arange(3))
    expected = alone.metrics()
    del expected["text_to_image_ndcg@10"]
    assert outcomes.metrics() == expected
    assert outcomes.metrics()["text_to_image_recall@1"] == pytest.approx(1 / 3)
    # Text 0 alone is found: recall is the weight of text 0 over that of all texts.
    expected_of_draw = {
        (3, 0, 0): 1,
        (0, 3, 0): 1.5 / (1.5 + 3),
        (0, 0, 3): 0,
        (1, 0, 2): 0.5 / (0.5 + 2),
        (1, 1, 1): 1 / 3,
    }
    scores = outcomes.score(torch.tensor(list(expected_of_draw)))
    assert scores["text_to_image_recall@1"].tolist() == pytest.approx([*expected_of_draw.values()])
    assert all(values.isfinite().all() for values in scores.values())
    with pytest.raises(InputError, match="rows from 0 to 2"):
        RetrievalOutcomes(torch.zeros(3), torch.zeros(3), pairs + torch.tensor([0, 1]))


@pytest.mark.parametrize("n", range(2, 30))
def test_ranks_of_texts_of_many_images_are_numpys(n):
    """Percentiles are exact, although n times 1/n is not always 1 in floating point."""
    ranks = torch.arange(0, 42, 2)
    # Text 0 is of the first n images; texts 1 to 20 are of one image each.
    of_text_0 = [[0, image] for image in range(n)]
    of_others = [[text, n + text - 1] for text in range(1, 21)]
    pairs = torch.tensor(of_text_0 + of_others)
    metrics = RetrievalOutcomes(ranks, torch.zeros(n + 20, dtype=torch.long), pairs).metrics()
    for percent in (5, 25, 50, 75, 95):
        assert metrics[f"text_to_image_rank_p{percent}"] == np.percentile(ranks.numpy(), percent), percent


@pytest.mark.parametrize("kind", KINDS)
def test_units_that_differ_are_those_that_move_a_metric(kind):
    """If a metric of a unit by itself changes, the unit is among those that differ."""
    one = outcomes_of(kind)
    other = outcomes_of(kind)
    if kind == "retrieval":
        other.text_ranks = other.text_ranks.roll(1)
        other.image_ranks = other.image_ranks.roll(1)
    else:
        per_unit = getattr(other, other.PER_UNIT)
        per_unit.copy_(per_unit.roll(1, 0))
    differing = one.differing(other)

    alone = torch.eye(60)  # a draw of each unit by itself
    scores = one.score(alone)
    others = other.score(alone)
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
    "make,arguments,message",
    [
        (
            RetrievalOutcomes,
            (torch.zeros(2), torch.zeros(2), torch.tensor([0, 1, 1])),
            "text_ranks has 2 entries for 3 items",
        ),
        (
            RetrievalOutcomes,
            (torch.zeros(2), torch.zeros(2), torch.tensor([0, 2])),
            "rows from 0 to 1",
        ),
        (ClassOutcomes, (torch.zeros(2), torch.tensor([0, 3]), 3), "rows from 0 to 2"),
        (ClassOutcomes, (torch.zeros(0), torch.zeros(0), 3), "ranks has 0 entries for 0 items"),
        (
            MultilabelOutcomes,
            (torch.zeros(2, 3), torch.zeros(2, 2)),
            r"\(images, classes\), not \(2, 3\) and \(2, 2\)",
        ),
        (ScoreOutcomes, (torch.zeros(2), torch.zeros(3)), "scores has 2 entries for 3 items"),
        (load_outcomes, ("nowhere.npz",), "'nowhere.npz' holds no outcomes"),
    ],
)
def test_bad_input_is_refused(make, arguments, message):
    with pytest.raises(InputError, match=message):
        make(*arguments)
