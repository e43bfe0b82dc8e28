"""Check means over languages by hand from ranks.

They are over the images that all languages have; where that is not known there is no mean.
"""

import hashlib
from dataclasses import replace

import pytest
import torch

from benchmarks.bootstrap import compare, intervals, resamples
from benchmarks.outcomes import ClassOutcomes, MultilabelOutcomes, RetrievalOutcomes, ScoreOutcomes, shorten
from benchmarks.report import means
from benchmarks.report.means import MeanOutcomes, explain_refusal, units_of_all
from common.errors import InputError

# A letter is a picture. The languages list them in different orders, and each has some that the other lacks.
ENGLISH = "abcdefgh"
CHINESE = "xhgbay"
SHARED = "abgh"


def digests_of(pictures):
    digests = [hashlib.md5(picture.encode()).hexdigest() for picture in pictures]
    return shorten(digests)


def retrieval(pictures, seed=0):
    """Return outcomes with one to three texts a picture and random ranks."""
    generator = torch.Generator().manual_seed(seed)
    n_texts = torch.arange(len(pictures)) % 3 + 1  # 1, 2, 3, 1, 2, 3, ...
    owners = torch.arange(len(pictures)).repeat_interleave(n_texts)
    text_ranks = torch.randint(9, (len(owners),), generator=generator)
    image_ranks = torch.randint(9, (len(pictures),), generator=generator)
    return RetrievalOutcomes(text_ranks, image_ranks, owners, digests=digests_of(pictures))


def classes(pictures, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ranks = torch.randint(3, (len(pictures),), generator=generator)
    labels = torch.arange(len(pictures)) % 3
    return ClassOutcomes(ranks, labels, 3, digests=digests_of(pictures))


def mean_of(*parts):
    return MeanOutcomes(list(parts), units_of_all(list(parts)))


def ranks_of_texts(outcomes, rows):
    """Return the ranks of the texts of the images in `rows`, image by image."""
    return torch.cat([outcomes.text_ranks[outcomes.text_to_image == row] for row in rows])


def mean_of_hits(hits):
    return hits.double().mean()


def test_the_mean_is_that_of_the_shared_images_by_hand():
    """Recall of a language is over the shared images' own queries, with the ranks that they have among all of
    it.
    """
    english = retrieval(ENGLISH, 1)
    chinese = retrieval(CHINESE, 2)
    mean = mean_of(english, chinese)
    by_hand = {"text_to_image_recall@3": [], "image_to_text_recall@3": [], "text_to_image_rank_p25": []}
    for outcomes, pictures in ((english, ENGLISH), (chinese, CHINESE)):
        rows = [pictures.index(picture) for picture in SHARED]
        of_texts = ranks_of_texts(outcomes, rows)
        by_hand["text_to_image_recall@3"].append(mean_of_hits(of_texts < 3))
        by_hand["image_to_text_recall@3"].append(mean_of_hits(outcomes.image_ranks[rows] < 3))
        by_hand["text_to_image_rank_p25"].append(of_texts.double().quantile(0.25))
    metrics = mean.metrics()
    assert metrics["n"] == 4
    assert not mean.is_whole
    for name, values in by_hand.items():
        assert metrics[name] == pytest.approx(torch.stack(values).mean().item(), abs=1e-12), name
        over_all = (english.metrics()[name] + chinese.metrics()[name]) / 2
        assert metrics[name] != pytest.approx(over_all, abs=1e-3), name


def test_classes_of_the_shared_images_by_hand():
    english = classes(ENGLISH, 1)
    chinese = classes(CHINESE, 2)
    found = []
    by_language = []  # means over the classes that shared images have
    for outcomes, pictures in ((english, ENGLISH), (chinese, CHINESE)):
        rows = torch.tensor([pictures.index(one) for one in SHARED])
        hits = outcomes.ranks[rows] == 0
        found.append(hits)
        labels = outcomes.labels[rows]
        by_class = [mean_of_hits(hits[labels == label]) for label in labels.unique()]
        by_language.append(torch.stack(by_class).mean())

    metrics = mean_of(english, chinese).metrics()
    accuracy = mean_of_hits(torch.cat(found))
    assert metrics["accuracy@1"] == pytest.approx(accuracy.item())
    mean_per_class = torch.stack(by_language).mean()
    assert metrics["mean_per_class"] == pytest.approx(mean_per_class.item())


def test_an_image_is_drawn_in_all_languages_at_once():
    """A resample draws shared pictures, each with its texts in both languages, wherever they stand there."""
    english = retrieval(ENGLISH, 1)
    chinese = retrieval(CHINESE, 2)
    by_hand = []
    for counts in torch.cat(list(resamples(len(SHARED), 100, seed=3))):
        drawn = torch.arange(len(SHARED)).repeat_interleave(counts)  # counts 2, 0, 1, 1 -> 0, 0, 2, 3
        scores = []
        for outcomes, pictures in ((english, ENGLISH), (chinese, CHINESE)):
            rows = [pictures.index(SHARED[place]) for place in drawn]
            scores.append(mean_of_hits(ranks_of_texts(outcomes, rows) < 5))
        by_hand.append(torch.stack(scores).mean().item())

    ends = torch.tensor([0.025, 0.975], dtype=torch.double)
    expected = torch.tensor(by_hand, dtype=torch.double).quantile(ends).tolist()
    found = intervals(mean_of(english, chinese), 100, seed=3)
    assert found["text_to_image_recall@5"] == pytest.approx(expected, abs=1e-12)
    assert expected[0] < expected[1]


def test_equal_images_in_another_order_are_the_mean_over_all():
    """An image listed last in one language is drawn with the same one listed first in another.

    So two languages of equal hits have the interval of one.
    """
    pictures = "abcdefghijklmnopqrstuvwxyz"
    english = classes(pictures, 1)
    backwards = torch.arange(26).flip(0)
    chinese = ClassOutcomes(
        english.ranks[backwards], english.labels[backwards], 3, digests=english.digests[backwards]
    )
    mean = mean_of(english, chinese)
    listed = MeanOutcomes([english, chinese])  # pairs images by their places in the lists
    assert mean.is_whole
    assert [units.tolist() for units in mean.units] == [list(range(26)), backwards.tolist()]
    assert mean.metrics() == pytest.approx(english.metrics())
    assert listed.metrics() == pytest.approx(english.metrics())
    of_english = intervals(english, 100)["accuracy@1"]
    assert intervals(mean, 100)["accuracy@1"] == pytest.approx(of_english)
    assert intervals(listed, 100)["accuracy@1"] != pytest.approx(of_english)


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
    parts = [classes(own) for own in pictures]
    found = units_of_all(parts)
    assert [own.tolist() for own in found] == units
    if units[0]:
        assert mean_of(*parts).metrics()["n"] == len(units[0])


def test_digests_tell_pictures_apart_by_64_bits():
    # The first 16 of 32 hexadecimal digits count: all set is -1 as a signed integer.
    high = "f" * 16 + "0" * 16
    low = "0" * 16 + "f" * 16
    one = "0" * 15 + "1" + "0" * 16
    assert shorten([high, low, one]).tolist() == [-1, 0, 1]
    assert shorten([]).dtype == torch.int64
    with pytest.raises(InputError, match="digests has 2 entries for 3 items"):
        ClassOutcomes(torch.zeros(3), torch.arange(3), 3, digests=torch.arange(2))


def test_a_text_of_several_images_counts_by_those_that_are_shared():
    """Text 0 is of picture a, which is shared, and of b, which is not: it is drawn by half."""
    pairs = torch.tensor([[0, 0], [0, 1], [1, 2]])
    english = RetrievalOutcomes(torch.tensor([0, 9]), torch.zeros(3), pairs, digests=digests_of("abc"))
    chinese = RetrievalOutcomes(torch.zeros(2), torch.zeros(2), torch.arange(2), digests=digests_of("ca"))
    of_english = 0.5 / 1.5  # half of text 0, a hit, and the whole of text 1, a miss
    metrics = mean_of(english, chinese).metrics()
    assert metrics["text_to_image_recall@1"] == pytest.approx((of_english + 1) / 2)


def test_models_are_paired_on_the_shared_images():
    """Units on which they differ are counted among the shared ones alone, and other ones are refused."""
    english = classes(ENGLISH)
    chinese = classes(CHINESE)
    other = ClassOutcomes(english.ranks.clone(), english.labels, 3, digests=english.digests)
    other.ranks[[ENGLISH.index("c"), ENGLISH.index("h")]] += 9  # c is not shared
    one = mean_of(english, chinese)
    two = mean_of(other, chinese)
    assert one.differing(two)["accuracy@5"].tolist() == [picture == "h" for picture in SHARED]
    difference = compare(one, two, 100)["accuracy@5"]
    assert difference.difference == pytest.approx(1 / 8)
    assert difference.p == 1  # one image is never enough
    flipped = MeanOutcomes([english, chinese], [one.units[0].flip(0), one.units[1]])
    with pytest.raises(InputError, match="units of part 0 differ"):
        compare(one, flipped)


def test_a_language_of_many_more_images_is_scored_in_blocks(monkeypatch):
    english = retrieval([f"{number}" for number in range(300)])
    chinese = retrieval(["7", "250", "260"])
    weights = torch.randint(1, 4, (40, 3))
    at_once = mean_of(english, chinese).score(weights)

    shapes = []
    score = RetrievalOutcomes.score

    def recorded(self, given):
        shapes.append(given.shape)
        return score(self, given)

    monkeypatch.setattr(means, "BLOCK_WEIGHTS", 300 * 7)
    monkeypatch.setattr(RetrievalOutcomes, "score", recorded)
    in_blocks = mean_of(english, chinese).score(weights)
    assert max(rows * units for rows, units in shapes) <= 300 * 7
    assert len(shapes) == 7  # English in 6 blocks of 7 of the 40 rows, Chinese in 1
    assert in_blocks.keys() == at_once.keys()
    for name, values in in_blocks.items():
        assert torch.equal(values, at_once[name]), name


def test_why_there_is_no_mean_over_all():
    def explain(*parts):
        units = units_of_all(list(parts))
        mean = MeanOutcomes(list(parts), units) if units and len(units[0]) else None
        return explain_refusal(["en", "zh"], list(parts), units, mean)

    # Outcomes of an earlier version have no digests.
    old = replace(retrieval(ENGLISH), digests=None)
    assert explain(old, retrieval(CHINESE)).startswith(
        "no mean over languages: it is not recorded whether they have the same images. Evaluate"
    )
    nothing_shared = explain(retrieval("ab"), retrieval("cd"))
    assert nothing_shared == "no mean over languages, which have no image in common."

    reason = (
        "no mean over all images, because the 2 languages have different images; "
        "'mean of shared images' is over the 4 images that all of them have"
    )
    among_texts = "; each is ranked among all candidates of its language, from 6 images in zh to 8 in en."
    assert explain(retrieval(ENGLISH), retrieval(CHINESE)) == f"{reason}{among_texts}"
    fewer = ClassOutcomes(torch.zeros(6), torch.zeros(6, dtype=torch.int64), 2, digests=digests_of(CHINESE))
    among = "; each is ranked among all classes of its language"
    assert explain(classes(ENGLISH), classes(CHINESE)) == f"{reason}{among}, 3 classes."
    assert explain(classes(ENGLISH), fewer) == f"{reason}{among}, from 2 classes in zh to 3 in en."

    # Scores and labels of an image are not ranked among others: nothing more to explain.
    scores = []
    labels = []
    for pictures in (ENGLISH, CHINESE):
        n = len(pictures)
        digests = digests_of(pictures)
        scores.append(ScoreOutcomes(torch.rand(n), torch.arange(n) > 1, digests=digests))
        labels.append(MultilabelOutcomes(torch.rand(n, 2), torch.ones(n, 2).bool(), digests=digests))
    assert explain(*scores) == f"{reason}."
    assert explain(*labels) == f"{reason}."

    units = units_of_all(scores)
    assert explain_refusal(["en", "zh"], scores, units, None) == f"{reason.partition(';')[0]}."
