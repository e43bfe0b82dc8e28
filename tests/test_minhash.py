"""MinHash finds similar texts as often as its table says, and gives the same hashes everywhere."""

import random

import numpy as np
import pytest

from training.cleaning.minhash import BANDS, band_hashes, comparable, shingles, similarity


def made_up_pairs(n_pairs):
    """Return sentences, and the same with up to five of fourteen words replaced."""
    draw = random.Random(3)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(3, 9))) for _ in range(3000)]
    first, second = [], []
    for _ in range(n_pairs):
        sentence = draw.choices(words, k=14)
        first.append(" ".join(sentence))
        for _ in range(draw.randint(0, 5)):
            sentence[draw.randrange(14)] = draw.choice(words)
        second.append(" ".join(sentence))
    return first, second


def hashes(texts, language="en"):
    return band_hashes(texts, [language] * len(texts))


def test_similar_texts_agree_in_a_band_as_often_as_theory_says():
    first, second = made_up_pairs(6000)
    similarities = np.array([similarity(*pair) for pair in zip(first, second)])
    ours, theirs = hashes(first), hashes(second)
    agree = (ours == theirs).any(axis=0)
    for low in (0.4, 0.5, 0.6, 0.7, 0.8, 0.9):
        chosen = (similarities >= low) & (similarities < low + 0.1)
        expected = 1 - (1 - similarities[chosen] ** 6) ** 12
        # Three standard deviations of the mean of as many draws
        allowed = 3 * np.sqrt((expected * (1 - expected)).sum()) / chosen.sum() + 1e-3
        assert chosen.sum() > 30
        assert abs(agree[chosen].mean() - expected.mean()) < allowed, low
    # Unlike ones never do.
    assert not (ours == np.roll(theirs, 1, axis=1)).any()


def test_bands_and_languages_have_hashes_of_their_own():
    texts = ["a dog in the grass", "un chien dans l'herbe", "a"]
    assert hashes(texts).shape == (BANDS, 3)
    assert len(np.unique(hashes(texts))) == BANDS * 3
    assert not (hashes(texts) == hashes(texts, "fr")).any()


def test_hashes_are_the_same_everywhere():
    """Files of an unfinished cleaning hold them: other hashes would find nothing."""
    assert hashes(["a dog"])[0, 0] == 3570622955896208513


def test_hashes_do_not_depend_on_the_texts_around():
    texts, _ = made_up_pairs(1100)
    texts += ["", "a", "狗", "😀😀", "ab\ncd"]
    alone = np.concatenate([hashes([text]) for text in texts], axis=1)
    assert (hashes(texts) == alone).all()


def test_shingles_count_once():
    assert (hashes(["abcdabcdabcdabcd"]) == hashes(["abcdabcdabcd"])).all()
    assert (hashes(["xabcdabcd"]) != hashes(["abcdabcd"])).any()


@pytest.mark.parametrize(
    "text,expected",
    [("abcde", {"abcd", "bcde"}), ("abcd", {"abcd"}), ("ab", {"ab"}), ("", {""}), ("aaaaaa", {"aaaa"})],
)
def test_shingles(text, expected):
    assert shingles(text) == expected


@pytest.mark.parametrize(
    "first,second,expected",
    [("abcde", "abcde", 1), ("abcde", "abcdf", 1 / 3), ("abcd", "wxyz", 0), ("", "", 1), ("a", "b", 0)],
)
def test_similarity(first, second, expected):
    assert similarity(first, second) == pytest.approx(expected)


def test_what_near_duplicates_may_differ_in():
    assert comparable("  A  Dog\n") == comparable("a dog")
    assert comparable("STRASSE") == comparable("Straße")
