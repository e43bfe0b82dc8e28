"""Means over languages: of the images that all have, by hand from ranks; which units are of one image, and where that is not known."""

import hashlib
from dataclasses import replace

import pytest
import torch

from benchmarks import means
from benchmarks.means import MeanOutcomes, explain_refusal, units_of_all
from benchmarks.outcomes import ClassOutcomes, MultilabelOutcomes, RetrievalOutcomes, ScoreOutcomes, shorten
from benchmarks.recipe import InputError
from benchmarks.uncertainty import compare, intervals, resamples

ENGLISH, CHINESE = (
    "abcdefgh",
    "xhgbay",
)  # pictures, in another order, of which each language has some that the other lacks
SHARED = "abgh"


def digests_of(pictures):
    return shorten([hashlib.md5(picture.encode()).hexdigest() for picture in pictures])


def retrieval(pictures, seed=0):
    """One to three texts a picture, with ranks that are drawn."""
    generator = torch.Generator().manual_seed(seed)
    owners = torch.arange(len(pictures)).repeat_interleave(torch.arange(len(pictures)) % 3 + 1)
    ranks = [torch.randint(9, (length,), generator=generator) for length in (len(owners), len(pictures))]
    return RetrievalOutcomes(*ranks, owners, digests=digests_of(pictures))


def classes(pictures, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ranks = torch.randint(3, (len(pictures),), generator=generator)
    return ClassOutcomes(ranks, torch.arange(len(pictures)) % 3, 3, digests=digests_of(pictures))


def mean_of(*parts):
    return MeanOutcomes(list(parts), units_of_all(list(parts)))


def test_the_mean_is_that_of_the_shared_images_by_hand():
    """Recall of a language is over the shared images' own queries, with the ranks that they have among all of it."""
    english, chinese = retrieval(ENGLISH, 1), retrieval(CHINESE, 2)
    mean = mean_of(english, chinese)
    by_hand = {"text_to_image_recall@3": [], "image_to_text_recall@3": [], "text_to_image_rank_p25": []}
    for outcomes, pictures in ((english, ENGLISH), (chinese, CHINESE)):
        rows = [pictures.index(picture) for picture in SHARED]
        of_texts = torch.cat([outcomes.text_ranks[outcomes.text_to_image == row] for row in rows])
        by_hand["text_to_image_recall@3"].append((of_texts < 3).double().mean())
        by_hand["image_to_text_recall@3"].append((outcomes.image_ranks[rows] < 3).double().mean())
        by_hand["text_to_image_rank_p25"].append(of_texts.double().quantile(0.25))
    metrics = mean.metrics()
    assert metrics["n"] == 4
    assert not mean.is_whole
    for name, values in by_hand.items():
        assert metrics[name] == pytest.approx(torch.stack(values).mean().item(), abs=1e-12), name
        over_all = (english.metrics()[name] + chinese.metrics()[name]) / 2
        assert metrics[name] != pytest.approx(over_all, abs=1e-3), name


def test_classes_of_the_shared_images_by_hand():
    english, chinese = classes(ENGLISH, 1), classes(CHINESE, 2)
    found = [
        english.ranks[[ENGLISH.index(one) for one in SHARED]] == 0,
        chinese.ranks[[CHINESE.index(one) for one in SHARED]] == 0,
    ]
    assert mean_of(english, chinese).metrics()["accuracy@1"] == pytest.approx(
        torch.cat(found).double().mean().item()
    )
    by_class = []  # over the classes that shared images have
    for outcomes, pictures in ((english, ENGLISH), (chinese, CHINESE)):
        rows = torch.tensor([pictures.index(one) for one in SHARED])
        labels = outcomes.labels[rows]
        by_class.append(
            torch.stack(
                [(outcomes.ranks[rows][labels == label] == 0).double().mean() for label in labels.unique()]
            ).mean()
        )
    assert mean_of(english, chinese).metrics()["mean_per_class"] == pytest.approx(
        torch.stack(by_class).mean().item()
    )


def test_an_image_is_drawn_in_all_languages_at_once():
    """The interval by hand: a resample draws shared pictures, each with its texts in both languages, wherever they stand there."""
    english, chinese = retrieval(ENGLISH, 1), retrieval(CHINESE, 2)
    by_hand = []
    for counts in torch.cat(list(resamples(len(SHARED), 100, seed=3))):
        drawn, scores = torch.arange(len(SHARED)).repeat_interleave(counts), []
        for outcomes, pictures in ((english, ENGLISH), (chinese, CHINESE)):
            rows = [pictures.index(SHARED[place]) for place in drawn]
            ranks = torch.cat([outcomes.text_ranks[outcomes.text_to_image == row] for row in rows])
            scores.append((ranks < 5).double().mean())
        by_hand.append(torch.stack(scores).mean().item())
    expected = (
        torch.tensor(by_hand, dtype=torch.double)
        .quantile(torch.tensor([0.025, 0.975], dtype=torch.double))
        .tolist()
    )
    assert intervals(mean_of(english, chinese), 100, seed=3)["text_to_image_recall@5"] == pytest.approx(
        expected, abs=1e-12
    )
    assert expected[0] < expected[1]


def test_equal_images_in_another_order_are_the_mean_over_all():
    """What a language lists last is drawn with what another lists first: two languages of equal hits are as unsure as one."""
    pictures = "abcdefghijklmnopqrstuvwxyz"
    english = classes(pictures, 1)
    backwards = torch.arange(26).flip(0)
    chinese = ClassOutcomes(
        english.ranks[backwards], english.labels[backwards], 3, digests=english.digests[backwards]
    )
    mean, listed = mean_of(english, chinese), MeanOutcomes([english, chinese])
    assert mean.is_whole
    assert [units.tolist() for units in mean.units] == [list(range(26)), backwards.tolist()]
    assert mean.metrics() == pytest.approx(english.metrics())
    assert listed.metrics() == pytest.approx(english.metrics())
    assert intervals(mean, 100)["accuracy@1"] == pytest.approx(intervals(english, 100)["accuracy@1"])
    assert intervals(listed, 100)["accuracy@1"] != pytest.approx(intervals(english, 100)["accuracy@1"])


@pytest.mark.parametrize(
    "pictures,units",
    [
        (("aab", "ab"), [[0, 2], [0, 1]]),  # once in all
        (("ab", "aab"), [[0, 1], [0, 2]]),
        (("aba", "caa"), [[0, 2], [1, 2]]),  # twice in all
        (("aaaa", "aa", "aaa"), [[0, 1]] * 3),
        (("abc", "cab", "bdc"), [[1, 2], [2, 0], [0, 2]]),
        (("ab", "cd"), [[], []]),
        (("ab", "bc", "ca"), [[], [], []]),  # any two share one
    ],
)
def test_a_picture_is_shared_as_often_as_all_languages_have_it(pictures, units):
    found = units_of_all([classes(own) for own in pictures])
    assert [own.tolist() for own in found] == units
    assert not found[0].numel() or mean_of(*(classes(own) for own in pictures)).metrics()["n"] == len(
        units[0]
    )


def test_digests_tell_pictures_apart_by_64_bits():
    high, low = "f" * 16 + "0" * 16, "0" * 16 + "f" * 16
    assert shorten([high, low, "0" * 15 + "1" + "0" * 16]).tolist() == [-1, 0, 1]
    assert shorten([]).dtype == torch.int64
    with pytest.raises(InputError, match="digests has 2 entries for 3 items"):
        ClassOutcomes(torch.zeros(3), torch.arange(3), 3, digests=torch.arange(2))


def test_a_text_of_several_images_counts_by_those_that_are_shared():
    """Text 0 is of picture a, which is shared, and of b, which is not: it is drawn by half."""
    pairs = torch.tensor([[0, 0], [0, 1], [1, 2]])
    english = RetrievalOutcomes(torch.tensor([0, 9]), torch.zeros(3), pairs, digests=digests_of("abc"))
    chinese = RetrievalOutcomes(torch.zeros(2), torch.zeros(2), torch.arange(2), digests=digests_of("ca"))
    assert mean_of(english, chinese).metrics()["text_to_image_recall@1"] == pytest.approx((0.5 / 1.5 + 1) / 2)


def test_models_are_paired_on_the_shared_images():
    """Units on which they differ are counted among the shared ones alone, and other ones are refused."""
    english, chinese = classes(ENGLISH), classes(CHINESE)
    other = ClassOutcomes(english.ranks.clone(), english.labels, 3, digests=english.digests)
    other.ranks[[ENGLISH.index("c"), ENGLISH.index("h")]] += 9  # c is not shared
    one, two = mean_of(english, chinese), mean_of(other, chinese)
    assert one.differing(two)["accuracy@5"].tolist() == [picture == "h" for picture in SHARED]
    difference = compare(one, two, 100)["accuracy@5"]
    assert difference.difference == pytest.approx(1 / 8)
    assert difference.p == 1  # one image is never enough
    with pytest.raises(InputError, match="units of part 0 differ"):
        compare(one, MeanOutcomes([english, chinese], [one.units[0].flip(0), one.units[1]]))


def test_a_language_of_many_more_images_is_scored_in_blocks(monkeypatch):
    english, chinese = retrieval([f"{number}" for number in range(300)]), retrieval(["7", "250", "260"])
    weights = torch.randint(1, 4, (40, 3))
    at_once, seen = mean_of(english, chinese).score(weights), []
    monkeypatch.setattr(means, "BLOCK_WEIGHTS", 300 * 7)
    score = RetrievalOutcomes.score
    monkeypatch.setattr(
        RetrievalOutcomes, "score", lambda self, given: seen.append(given.shape) or score(self, given)
    )
    in_blocks = mean_of(english, chinese).score(weights)
    assert max(rows * units for rows, units in seen) <= 300 * 7
    assert len(seen) == 7
    assert all(torch.equal(values, at_once[name]) for name, values in in_blocks.items())


def test_why_there_is_no_mean_over_all():
    def explain(*parts):
        units = units_of_all(list(parts))
        mean = MeanOutcomes(list(parts), units) if units and len(units[0]) else None
        return explain_refusal(["en", "zh"], list(parts), units, mean)

    old = replace(retrieval(ENGLISH), digests=None)
    assert explain(old, retrieval(CHINESE)).startswith(
        "no mean over languages, which are not known to be of the same images: evaluate"
    )
    assert (
        explain(retrieval("ab"), retrieval("cd")) == "no mean over languages, which have no image in common."
    )
    reason = "no mean over all images, since the 2 languages have different ones; 'mean of shared images' is over the 4 that all have"
    assert explain(retrieval(ENGLISH), retrieval(CHINESE)) == (
        f"{reason}; each of these, and each of its texts, is ranked among all of its language, from 6 images in zh to 8 in en."
    )
    fewer = ClassOutcomes(torch.zeros(6), torch.zeros(6), 2, digests=digests_of(CHINESE))
    among = "; each of these is ranked among all classes of its language"
    assert explain(classes(ENGLISH), classes(CHINESE)) == f"{reason}{among}, 3 classes."
    assert explain(classes(ENGLISH), fewer) == f"{reason}{among}, from 2 classes in zh to 3 in en."
    scores = [
        ScoreOutcomes(torch.rand(len(own)), torch.arange(len(own)) > 1, digests=digests_of(own))
        for own in (ENGLISH, CHINESE)
    ]
    targets = [torch.ones(len(own), 2).bool() for own in (ENGLISH, CHINESE)]
    labels = [
        MultilabelOutcomes(torch.rand(own.shape), own, digests=digests_of(one))
        for own, one in zip(targets, (ENGLISH, CHINESE))
    ]
    assert explain(*scores) == explain(*labels) == f"{reason}."
    units = units_of_all(scores)
    assert explain_refusal(["en", "zh"], scores, units, None) == f"{reason.partition(';')[0]}."
