"""Languages drawn by temperature."""

from collections import Counter

import numpy as np
import pytest

from benchmarks.recipe import InputError
from training.arguments import TeacherLearningArguments
from training.sampling import LanguageSampler, share_out

LANGUAGES = np.repeat([0, 1, 3], [800, 80, 20])  # language 2 has no cell


@pytest.mark.parametrize("temperature,expected", [(1.0, [800, 80, 20]), (2.0, None), (1e9, [300, 300, 300])])
def test_shares_by_temperature(temperature, expected):
    drawn = list(LanguageSampler(LANGUAGES, temperature, seed=0))
    counts = Counter(LANGUAGES[drawn].tolist())
    roots = np.array([800, 80, 20]) ** (1 / temperature)
    assert len(drawn) == 900 and counts[2] == 0
    assert [counts[0], counts[1], counts[3]] == pytest.approx(expected or 900 * roots / roots.sum(), abs=1)


def test_no_cell_comes_again_before_its_whole_language_has_come():
    drawn = np.array(list(LanguageSampler(LANGUAGES, 1e9, seed=0)))
    times = Counter(drawn[LANGUAGES[drawn] == 3].tolist())
    assert set(times.values()) == {15} and len(times) == 20
    assert set(Counter(drawn[LANGUAGES[drawn] == 0].tolist()).values()) == {1}
    assert sorted(LanguageSampler(LANGUAGES, 1.0, seed=0)) == list(range(900))


def test_an_epoch_is_the_same_every_time_and_epochs_differ():
    one, other = LanguageSampler(LANGUAGES, 3.3, seed=1), LanguageSampler(LANGUAGES, 3.3, seed=1)
    first = list(one)
    assert first == list(other) and LANGUAGES[first[:100]].tolist() != sorted(LANGUAGES[first[:100]].tolist())
    other.set_epoch(1)
    assert list(other) != first and Counter(LANGUAGES[list(other)].tolist()) == Counter(LANGUAGES[first].tolist())
    assert list(LanguageSampler(LANGUAGES, 3.3, seed=2)) != first


def test_whole_numbers_add_up():
    assert share_out(np.array([1.0, 1.0, 1.0]), 10) == [4, 3, 3] and share_out(np.array([0.0, 5.0]), 3) == [0, 3]


def test_a_temperature_below_one_is_refused(tmp_path):
    given = {"output_dir": str(tmp_path), "dataset": "", "teacher_name_or_path": "", "text_encoder_name_or_path": ""}
    with pytest.raises(InputError, match="temperature is 0.5: 1 takes languages as they are, more favours small ones"):
        TeacherLearningArguments(**given, temperature=0.5)
