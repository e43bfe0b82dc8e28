"""Holm's procedure by known values, and lower bounds that say what its tests say."""

import math

import pytest
import torch

from benchmarks.bootstrap import compare, resampled_differences
from benchmarks.multiple_tests import check_resamples_for, holm, lower_bound, lower_bounds, p_above
from benchmarks.outcomes import ClassOutcomes
from common.errors import InputError


@pytest.mark.parametrize(
    ("p_values", "expected"),
    [
        # 4 x 0.005, 3 x 0.01, 2 x 0.03, and 0.04 not below the one before; as R's p.adjust(method = "holm").
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        # 0.6 would become 1.2.
        ([0.6, 0.6], [1.0, 1.0]),
        ([0.02], [0.02]),
    ],
)
def test_holm_by_known_values(p_values, expected):
    assert holm(p_values) == pytest.approx(expected)


def test_holm_rejects_step_by_step():
    """By its definition: the smallest p of m against level / m, the next against level / (m - 1), until one
    fails."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        p_values = (torch.rand(7, generator=generator) ** 4).tolist()
        rejected = set()
        for n_left, p in zip(range(7, 0, -1), sorted(p_values)):
            if p > 0.05 / n_left:
                break
            rejected.add(p)
        adjusted = holm(p_values)
        assert {p for p, after in zip(p_values, adjusted) if after <= 0.05} == rejected


@pytest.mark.parametrize("p_values", [[], [0.5, 1.5], [-0.1], [math.nan]])
def test_holm_takes_probabilities_alone(p_values):
    with pytest.raises(InputError, match="p_values"):
        holm(p_values)


def test_a_bound_is_where_the_test_turns():
    resampled = torch.arange(999.0).flip(0)
    # 5 % of 1000 are 50: with one added, 49 resamples may be at most the margin, 0 to 48.
    assert lower_bound(resampled, 0.05) == 49
    assert p_above(resampled, 48.9) == pytest.approx(0.05)
    assert p_above(resampled, 49) == pytest.approx(0.051)


def test_bounds_say_what_the_tests_say():
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(4, 1999, generator=generator).double()
    resampled = noise + torch.tensor([3.0, 2.0, -1.0, -2.0])[:, None]
    tested = lower_bounds(resampled, margin=-2.0)
    # The first two are shown to be above; no more is known of them once the others are not.
    assert [p <= 0.05 for p in tested.p_values] == [True, True, False, False]
    assert tested.bounds[:2] == [-2.0, -2.0]
    # The others are tested at half the level, and are not above the margin.
    assert tested.bounds[2:] == [lower_bound(row, 0.025) for row in resampled[2:]]
    assert max(tested.bounds[2:]) <= -2

    # All are: each at a quarter of the level.
    above = lower_bounds(resampled[:2].repeat(2, 1), margin=-2.0)
    assert max(above.p_values) <= 0.05
    assert above.bounds[0] == lower_bound(resampled[0], 0.05 / 4) > -2
    # By Holm's procedure the last is tested at 5 %, and its bound at a quarter of that would be below.
    last = torch.cat([torch.full((100,), -3.0), torch.full((3900,), 1.0)]).double()
    all_above = lower_bounds(torch.stack([torch.ones(4000).double(), last]), margin=-2.0)
    assert max(all_above.p_values) <= 0.05
    assert all_above.bounds == [1.0, -2.0]


def test_too_few_resamples_are_refused():
    # 0.05 / 114 is 1 / 2280.
    check_resamples_for(114, 2279)
    with pytest.raises(InputError, match="n_resamples is 2278: draw 2279 at least, or the smallest p"):
        check_resamples_for(114, 2278)
    with pytest.raises(InputError, match="n_resamples is 30: draw 39 at least.*among 2 tests"):
        lower_bounds(torch.zeros(2, 30), margin=-1.0)
    with pytest.raises(InputError, match="n_resamples is 10: draw 19 at least"):
        lower_bound(torch.zeros(10), 0.05)


def test_resampled_differences_are_those_of_the_paired_test():
    generator = torch.Generator().manual_seed(2)
    labels = torch.arange(60) % 3
    first, second = (ClassOutcomes(torch.randint(3, (60,), generator=generator), labels, 3) for _ in range(2))
    found = resampled_differences(first, second, 200, seed=4)["accuracy@1"]
    paired = compare(first, second, 200, seed=4)["accuracy@1"]
    ends = found.quantile(torch.tensor([0.025, 0.975]).double()).tolist()
    assert ends == pytest.approx([paired.low, paired.high])
    assert found.mean() == pytest.approx(paired.difference, abs=0.03)
    with pytest.raises(InputError, match="labels differ"):
        resampled_differences(first, ClassOutcomes(second.ranks, labels.flip(0), 3), 200)
