"""Languages and sources drawn in the shares that are asked for."""

from collections import Counter

import numpy as np
import pytest

from common.errors import InputError
from training.arguments import ContrastiveArguments, TeacherLearningArguments
from training.data.sampling import WINDOW, ShareSampler, language_shares, like_lengths, share_out

LANGUAGES = np.repeat([0, 1, 3], [800, 80, 20])  # language 2 has no example


def by_temperature(temperature, seed):
    return ShareSampler(*language_shares(LANGUAGES, temperature=temperature), seed)


def languages_of(drawn):
    """Return how many examples of each language were drawn."""
    return Counter(LANGUAGES[list(drawn)].tolist())


@pytest.mark.parametrize("temperature", [1.0, 2.0, 1e9])
def test_shares_by_temperature(temperature):
    drawn = list(by_temperature(temperature, seed=0))
    counts = languages_of(drawn)
    roots = np.array([800, 80, 20]) ** (1 / temperature)  # [1, 1, 1] for a very high temperature
    assert len(drawn) == 900
    assert counts[2] == 0
    assert [counts[0], counts[1], counts[3]] == pytest.approx(900 * roots / roots.sum(), abs=1)


@pytest.mark.parametrize("temperature,expected", [(1.0, [800, 80, 20]), (1e9, [300, 300, 300])])
def test_the_lowest_temperature_keeps_the_shares_and_a_high_one_evens_them(temperature, expected):
    counts = languages_of(by_temperature(temperature, seed=0))
    assert [counts[0], counts[1], counts[3]] == pytest.approx(expected, abs=1)


def test_no_cell_comes_again_before_its_whole_language_has_come():
    # Each language has 300 of 900 draws: 20 examples come 15 times each, and of 800 examples 300 come once.
    drawn = np.array(list(by_temperature(1e9, seed=0)))
    times = Counter(drawn[LANGUAGES[drawn] == 3].tolist())
    assert set(times.values()) == {15}
    assert len(times) == 20
    assert set(Counter(drawn[LANGUAGES[drawn] == 0].tolist()).values()) == {1}
    assert sorted(by_temperature(1.0, seed=0)) == list(range(900))


def test_an_epoch_is_the_same_every_time_and_epochs_differ():
    one = by_temperature(3.3, seed=1)
    other = by_temperature(3.3, seed=1)
    first = list(one)
    assert first == list(other)
    assert LANGUAGES[first[:100]].tolist() != sorted(LANGUAGES[first[:100]].tolist())

    other.set_epoch(1)
    assert list(other) != first
    assert languages_of(other) == languages_of(first)
    assert list(by_temperature(3.3, seed=2)) != first


def test_whole_numbers_add_up():
    # Of equal remainders the first is rounded up.
    assert share_out(np.array([1.0, 1.0, 1.0]), 10) == [4, 3, 3]
    assert share_out(np.array([0.0, 5.0]), 3) == [0, 3]


def test_weights_are_how_often_a_row_is_drawn():
    # Every other example is to be drawn three times as often: a quarter and three quarters of 900.
    weights = np.tile([1.0, 3.0], 450)
    drawn = np.array(list(ShareSampler(*language_shares(LANGUAGES, weights), seed=0)))
    assert Counter(weights[drawn].tolist()) == {1.0: 225, 3.0: 675}
    assert languages_of(drawn) == {0: 800, 1: 80, 3: 20}

    evened = np.array(list(ShareSampler(*language_shares(LANGUAGES, weights, temperature=1e9), seed=0)))
    assert languages_of(evened) == {0: 300, 1: 300, 3: 300}
    assert Counter(weights[evened].tolist()) == {1.0: 225, 3.0: 675}


def test_replayed_languages_get_their_share_of_all():
    groups, shares = language_shares(LANGUAGES, replayed=np.array([0, 1]), replay=0.25)
    drawn = languages_of(ShareSampler(groups, shares, seed=0))
    # A quarter of 900 draws goes to languages 0 and 1, in their own shares of 800 to 80.
    assert drawn[3] == 675
    assert drawn[0] + drawn[1] == 225
    assert drawn[0] == pytest.approx(10 * drawn[1], abs=10)


def test_batches_of_like_length_come_in_random_order():
    random = np.random.default_rng(0)
    # 500 batches of 8, and 7 examples that fill none.
    lengths = random.integers(1, 1000, 4007)
    order = random.permutation(4007)
    drawn = like_lengths(order, lengths[order], 8, random)
    assert sorted(drawn) == list(range(4007))
    assert drawn[4000:].tolist() == order[4000:].tolist()
    assert sorted(drawn[: 8 * WINDOW]) == sorted(order[: 8 * WINDOW])

    batches = lengths[drawn[:4000]].reshape(-1, 8)
    batches_before = lengths[order[:4000]].reshape(-1, 8)
    assert np.ptp(batches, axis=1).mean() < np.ptp(batches_before, axis=1).mean() / 20

    # The batches of a window neither climb nor fall.
    shortest = batches.min(axis=1)[:WINDOW]
    assert (shortest[1:] > shortest[:-1]).mean() == pytest.approx(0.5, abs=0.2)


def test_like_lengths_keep_the_shares_and_the_epochs():
    lengths = np.random.default_rng(0).integers(1, 100, len(LANGUAGES))

    def sampler(lengths):
        return ShareSampler(*language_shares(LANGUAGES, temperature=3.3), 0, lengths, 30)

    plain = list(sampler(None))
    alike = list(sampler(lengths))
    again = sampler(lengths)
    assert list(again) == alike
    assert alike != plain
    assert sorted(alike) == sorted(plain)
    again.set_epoch(1)
    assert list(again) != alike


GIVEN = {"output_dir": "", "dataset": "", "teacher_name_or_path": ""}
ENCODER = {"text_encoder_name_or_path": ""}
FINISHED = {"model_name_or_path": "altclip"}


@pytest.mark.parametrize(
    "flags,message",
    [
        (
            ENCODER | {"temperature": 0.5},
            "temperature is 0.5: 1 takes languages as they are, more favours small ones",
        ),
        (
            ENCODER | {"train_sampling_strategy": "sequential"},
            "train_sampling_strategy is sequential: choose random or group_by_length",
        ),
        (ENCODER | {"objective": "l1"}, "objective is 'l1': choose mse or cosine or contrastive"),
        (ENCODER | {"contrast_scale": 0.0}, "contrast_scale is 0.0: give a number above 0, of 100 at most"),
        ({}, "give text_encoder_name_or_path, or model_name_or_path"),
        (ENCODER | FINISHED, "and not both"),
        (ENCODER | {"new_pieces": 9}, "new_pieces is 9 without model_name_or_path"),
        (
            FINISHED | {"languages": ["th"], "replay_languages": ["en"], "replay": 1.0},
            "replay is 1.0: give a share between 0 and 1",
        ),
        (FINISHED | {"languages": ["th", "en"], "replay_languages": ["en"]}, "both name en"),
        (FINISHED | {"replay_languages": ["en"]}, "both name all"),
        (ENCODER | {"replay_languages": ["en"]}, "replay_languages are en without model_name_or_path"),
    ],
)
def test_bad_choices_are_refused(flags, message):
    with pytest.raises(InputError, match=message):
        TeacherLearningArguments(**GIVEN | flags)


@pytest.mark.parametrize("strategy", ["group_by_length", "batch_rebalance"])
def test_negatives_of_one_length_are_refused(strategy):
    message = f"train_sampling_strategy is {strategy}: negatives would be of one length"
    with pytest.raises(InputError, match=message):
        ContrastiveArguments(
            output_dir="", dataset="", model_name_or_path="", train_sampling_strategy=strategy
        )
