"""Intervals and paired tests: against resampling by hand, and against what they are to hold."""

import math

import pytest
import torch

from benchmarks import bootstrap
from benchmarks.bootstrap import compare, intervals, resamples
from benchmarks.outcomes import ClassOutcomes, MultilabelOutcomes, RetrievalOutcomes, ScoreOutcomes
from benchmarks.report.comparison import MeanOutcomes
from common.errors import InputError

LABELS = torch.arange(300) % 3


def classes(hits, n=400):
    """Return outcomes of `n` images of four classes, of which the first `hits` are found."""
    # Rank 6 is beyond the five best, so that accuracy@5 misses the image too.
    ranks = 6 * (torch.arange(n) >= hits).long()
    return ClassOutcomes(ranks, torch.arange(n) % 4, 4)


def retrieval(seed=0, n=30):
    """Return random ranks of images with one to four texts each."""
    generator = torch.Generator().manual_seed(seed)
    text_to_image = torch.arange(n).repeat_interleave(torch.arange(n) % 4 + 1)
    text_ranks = torch.randint(12, text_to_image.shape, generator=generator)
    image_ranks = torch.randint(9, (n,), generator=generator)
    return RetrievalOutcomes(text_ranks, image_ranks, text_to_image)


def test_each_resample_draws_as_many_units_as_there_are(monkeypatch):
    blocks = list(resamples(30, 200, seed=0))
    assert len(blocks) == 1
    assert blocks[0].shape == (200, 30)
    assert (blocks[0].sum(1) == 30).all()
    assert blocks[0].double().var() == pytest.approx(29 / 30, rel=0.1)  # of a multinomial's counts
    # Blocks of 7 resamples: 200 are 28 whole blocks and one of 4.
    monkeypatch.setattr(bootstrap, "BLOCK_WEIGHTS", 30 * 7)
    again = list(resamples(30, 200, seed=0))
    assert len(again) == 29
    assert torch.equal(torch.cat(again), blocks[0])
    assert not torch.equal(torch.cat(list(resamples(30, 200, seed=1))), blocks[0])


def test_intervals_are_those_of_resampling_by_hand():
    outcomes = retrieval()
    recalls = []
    for counts in torch.cat(list(resamples(30, 100, seed=3))):
        images = torch.arange(30).repeat_interleave(counts)  # counts [2, 0, 1] -> images [0, 0, 2]
        ranks = torch.cat([outcomes.text_ranks[outcomes.text_to_image == image] for image in images])
        recalls.append((ranks < 5).double().mean())
    expected = torch.stack(recalls).quantile(torch.tensor([0.025, 0.975], dtype=torch.double)).tolist()

    found = intervals(outcomes, 100, seed=3)
    assert found["text_to_image_recall@5"] == pytest.approx(expected, abs=1e-12)
    assert expected[0] < expected[1]
    assert set(found) == set(outcomes.metrics()) - {"n", "n_texts"}
    for name, (low, high) in found.items():
        assert low <= outcomes.metrics()[name] <= high, name


def test_an_interval_is_nearly_wilsons():
    """Compare for a share of independent images, where the bootstrap has a closed form to answer to."""
    low, high = intervals(classes(300), 4000)["accuracy@1"]
    share = 0.75
    z = 1.96  # of 95 %
    n = 400
    centre = share + z**2 / (2 * n)
    reach = z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    # One of 400 images is 0.0025, so that the bounds may be two images apart.
    assert low == pytest.approx((centre - reach) / (1 + z**2 / n), abs=0.006)
    assert high == pytest.approx((centre + reach) / (1 + z**2 / n), abs=0.006)


def test_texts_of_one_image_are_drawn_together():
    """Check that ten copies of one text say no more than one: the interval is that of the images."""
    ranks = torch.randint(2, (200,), generator=torch.Generator().manual_seed(0))
    one = RetrievalOutcomes(ranks, ranks, torch.arange(200))
    ten = RetrievalOutcomes(ranks.repeat_interleave(10), ranks, torch.arange(200).repeat_interleave(10))
    expected = intervals(one)["text_to_image_recall@1"]
    assert intervals(ten)["text_to_image_recall@1"] == pytest.approx(expected, abs=1e-12)


def test_intervals_cover_the_true_value():
    """Draw 200 benchmarks from one population: about 95 % of the intervals hold its true share."""
    generator = torch.Generator().manual_seed(0)
    covered = 0
    for seed in range(200):
        ranks = (torch.rand(150, generator=generator) > 0.6).long()
        outcomes = ClassOutcomes(ranks, torch.arange(150) % 3, 3)
        low, high = intervals(outcomes, 200, seed)["accuracy@1"]
        covered += low <= 0.6 <= high
    # The share of 200 intervals has a standard deviation of 1.5 points around 95.
    assert 0.89 <= covered / 200 <= 0.99


def test_a_seed_decides_the_intervals():
    outcomes = retrieval()
    found = intervals(outcomes, 60, seed=1)
    assert intervals(outcomes, 60, seed=1) == found
    assert intervals(outcomes, 60, seed=2) != found


def test_a_model_is_no_better_than_itself():
    for difference in compare(retrieval(), retrieval(), 50).values():
        assert (difference.difference, difference.low, difference.high) == (0, 0, 0)
        assert difference.p == 1


def test_pairing_shows_what_two_intervals_hide():
    """Find ten more images of 400, beside all the others: the intervals overlap, the difference is sure."""
    better = classes(310)
    worse = classes(300)
    assert intervals(better)["accuracy@1"][0] < intervals(worse)["accuracy@1"][1]
    found = compare(better, worse)["accuracy@1"]
    assert found.difference == pytest.approx(10 / 400)
    assert 0 < found.low < found.high < 0.05
    # No resample of 1,000 has the other sign: 2 * (0 + 1) / (1000 + 1). The sign test's 2 * 0.5**10 is less.
    assert found.p == pytest.approx(2 / 1001)

    other_way = compare(worse, better)["accuracy@1"]
    assert other_way.difference == pytest.approx(-found.difference)
    assert other_way.low == pytest.approx(-found.high)
    assert other_way.high == pytest.approx(-found.low)
    assert other_way.p == found.p


def test_p_is_that_of_the_sign_test():
    """Compare models of which only one finds 40 images, the first 26 of them and the second 14.

    The exact sign test has p = 0.081, a normal approximation 0.058.
    """
    first = torch.zeros(300).long()
    second = torch.zeros(300).long()
    second[:26] = 9
    first[26:40] = 9
    found = compare(ClassOutcomes(first, LABELS, 3), ClassOutcomes(second, LABELS, 3), 4000)["accuracy@1"]
    assert 0.04 < found.p < 0.09
    assert found.low < 0 < found.high


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6])
def test_five_images_are_never_enough(n):
    """Compare a model that is always right with one that is always wrong.

    A resample knows of nothing else, the exact sign test does.
    """
    p_of_sign_test = 2 * 0.5**n
    right = classes(n, n)
    wrong = classes(0, n)
    assert compare(right, wrong, 100)["accuracy@1"].p == pytest.approx(p_of_sign_test)
    assert compare(wrong, right, 100)["accuracy@1"].p == pytest.approx(p_of_sign_test)

    text_to_image = torch.arange(n).repeat_interleave(5)
    found = RetrievalOutcomes(torch.zeros(5 * n).long(), torch.zeros(n), text_to_image)
    # Rank 20 is beyond recall@10, the deepest of all metrics.
    lost = RetrievalOutcomes(torch.full((5 * n,), 20), torch.full((n,), 20.0), text_to_image)
    assert {difference.p for difference in compare(found, lost, 1000).values()} == {p_of_sign_test}

    mean = compare(MeanOutcomes([right, right]), MeanOutcomes([wrong, wrong]), 100)["accuracy@1"]
    assert mean.p == pytest.approx(p_of_sign_test)


def test_images_that_a_metric_does_not_see_do_not_make_it_surer():
    """Find five of 400 images by one model alone.

    All others are ranked otherwise, too, but not found.
    """
    better = classes(300)
    worse = classes(295)
    better.ranks[300:] = 20
    found = compare(better, worse)
    assert found["accuracy@1"].p == pytest.approx(0.0625)  # 2 * 0.5**5, of the five alone
    assert found["accuracy@5"].p == found["accuracy@1"].p


def test_chance_is_rarely_significant():
    """Compare 200 pairs of models that guess."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(120) % 3

    def guess():
        return ClassOutcomes((torch.rand(120, generator=generator) > 0.5).long(), labels, 3)

    significant = 0
    for seed in range(200):
        significant += compare(guess(), guess(), 200, seed)["accuracy@1"].p < 0.05
    # 5 % are expected of 200 pairs, with a standard deviation of 1.5 points.
    assert 0.01 <= significant / 200 <= 0.1


def test_resamples_without_a_class_are_left_out():
    # One positive of 40: (39 / 40)**40 = 36 % of the resamples do not have it.
    rare = torch.arange(40) == 0
    scores = torch.rand(40, generator=torch.Generator().manual_seed(0))
    low, high = intervals(ScoreOutcomes(scores, rare))["roc_auc"]
    assert 0 <= low < high <= 1
    low, high = intervals(MultilabelOutcomes(scores[:, None], rare[:, None]))["map_11_point"]
    assert 0 <= low < high <= 1


@pytest.mark.parametrize(
    "first,second,message",
    [
        (classes(3), retrieval(), "ClassOutcomes and RetrievalOutcomes are outcomes of different tasks"),
        (classes(3), classes(3, n=401), "400 and 401 images"),
        (
            classes(3),
            ClassOutcomes(torch.zeros(400), torch.zeros(400, dtype=torch.long), 4),
            "their labels differ",
        ),
        (
            retrieval(),
            RetrievalOutcomes(torch.zeros(30), torch.zeros(30), torch.arange(30)),
            "their text_to_image differ",
        ),
        (
            MultilabelOutcomes(torch.rand(5, 2), torch.ones(5, 2).bool()),
            MultilabelOutcomes(torch.rand(5, 2), torch.eye(5)[:, :2].bool()),
            "their targets differ",
        ),
    ],
)
def test_other_items_are_refused(first, second, message):
    with pytest.raises(InputError, match=message):
        compare(first, second)


def test_too_few_resamples_are_refused():
    with pytest.raises(InputError, match="n_resamples is 39: draw 40 at least"):
        intervals(classes(3), 39)
