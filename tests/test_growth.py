"""How the cost of our side grows with the size of its work: the fits, the curves, and a tiny run of one."""

import numpy as np
import pytest

from benchmarks.speed.growth import job
from benchmarks.speed.growth.curves import Curve, load_curves
from benchmarks.speed.growth.fit import fit_line, fit_power_law
from benchmarks.speed.growth.measuring import fit_growth
from benchmarks.speed.growth.report import BEGIN, draw_growth, interpret, make_table
from benchmarks.speed.report import fill_readme
from common.errors import InputError
from common.files.json_files import read_json

from .conftest import ROOT


def test_a_power_law_is_found():
    law = fit_power_law([1, 2, 4, 8], [3, 12, 48, 192])
    assert law.exponent == pytest.approx(2)
    assert law.factor == pytest.approx(3)
    assert law.off_by == pytest.approx(0, abs=1e-9)
    assert law.at(16) == pytest.approx(768)


def test_least_squares_are_those_of_logarithms():
    # Logarithms to base 2 of sizes are 0, 1, 2, of costs 0, 1, 5: the slope is (5 - 0) / 2, through the mean.
    law = fit_power_law([1, 2, 4], [1, 2, 32])
    assert law.exponent == pytest.approx(2.5)
    assert np.log2(law.factor) == pytest.approx(2 - 2.5)
    # The fit says 2 ** -0.5, 2 ** 2 and 2 ** 4.5, and the second cost, 2, is half of what it says.
    assert law.off_by == pytest.approx(1)


def test_a_line_is_found():
    line = fit_line([1, 2, 3, 9], [7, 9, 11, 23])
    assert (line.fixed, line.slope) == (pytest.approx(5), pytest.approx(2))
    assert line.off_by == pytest.approx(0, abs=1e-9)
    # Its power law looks slower than linear.
    assert fit_power_law([1, 2, 3, 9], [7, 9, 11, 23]).exponent < 0.6


def test_a_line_weighs_errors_by_the_cost():
    # Twice the cost at the large size would draw a line of plain differences there; by relative errors the
    # small ones are fitted as well.
    line = fit_line([1, 2, 3, 1000], [1, 2, 3, 2000])
    assert abs(line.at(1) - 1) < 0.5


@pytest.mark.parametrize(
    ("sizes", "costs", "message"),
    [
        ([1, 2], [1, 2], "at least 3"),
        ([1, 2, 2], [1, 2, 2], "each once"),
        ([1, 2, 3], [1, 2], "3 sizes and 2 costs"),
        ([1, 2, 3], [0, 1, 2], "cost of .* is not a positive number"),
        ([1, 2, 3], [1, float("nan"), 2], "cost of .* is not a positive number"),
        ([0, 2, 3], [1, 1, 2], "size of .* is not a positive number"),
    ],
)
@pytest.mark.parametrize("fit", [fit_power_law, fit_line])
def test_what_has_no_law_is_refused(fit, sizes, costs, message):
    with pytest.raises(InputError, match=message):
        fit(sizes, costs)


def test_a_line_below_zero_is_refused():
    with pytest.raises(InputError, match="no straight line fits"):
        fit_line([1, 2, 3], [1000, 1, 100])


def curve(**changes):
    values = {
        "name": "curve",
        "row": "recall",
        "work": "recall",
        "axis": "images",
        "key": "images",
        "sizes": [8, 16, 32],
        "expected": {"cpu": 2},
        "why": "every text is compared with every image",
    }
    return Curve(**values | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sizes": [8, 16]}, "at least 3"),
        ({"sizes": [8, 32, 16]}, "ascending"),
        ({"sizes": [0, 8, 16]}, "positive"),
        ({"expected": {}}, "give exponents of cpu or memory"),
        ({"expected": {"wall": 1}}, "give exponents of cpu or memory"),
    ],
)
def test_wrong_curves_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        curve(**changes)


def test_a_curve_is_a_row_at_several_sizes():
    row = curve(shape={"dim": 64}).at(16)
    assert row.shape == {"images": 16, "texts_per_image": 5, "dim": 64}
    assert row.peers == {}
    with pytest.raises(InputError, match="row 'recall' has no 'pictures' in its shape"):
        curve(key="pictures").at(8)


def test_a_list_grows_by_its_values():
    languages = curve(row="nine-languages", key="languages", sizes=[1, 2, 10])
    assert languages.at(2).shape["languages"] == ["en", "ru"]
    with pytest.raises(InputError, match="size 10 is more than the 9 languages"):
        languages.at(10)


def test_all_curves_have_their_rows():
    curves = load_curves()
    assert [each.name for each in curves] == ["batch", "texts", "images", "languages", "vocabulary", "recall"]
    for each in curves:
        for size in each.sizes:
            row = each.at(size)
            # What is fixed is in the row as well, so that no name is misspelled.
            assert set(row.shape) == set(curve(row=each.row, key=each.key).at(1).shape)


def test_unknown_curves_are_refused():
    with pytest.raises(InputError, match="curves: there is no 'rain'"):
        load_curves(["batch", "rain"])


def repeats_of(costs, memory=1e6):
    return {size: [{"cpu": cpu, "wall": cpu, "memory": memory}] for size, cpu in costs.items()}


def test_growth_is_told_in_a_sentence():
    growth = fit_growth(curve(fixed_part="images"), repeats_of({8: 3.0, 16: 4.0, 32: 6.0}))
    sentence = interpret(growth)
    assert "expected exponent of CPU seconds 2, fitted 0.50" in sentence
    assert "2.00 CPU seconds are fixed, 33 % of the cost at 32" in sentence
    assert "2 above a fixed part" in make_table([growth])


def test_memory_is_left_out_where_it_is_not_known():
    both = {"cpu": 2, "memory": 1}
    growth = fit_growth(curve(expected=both), repeats_of({8: 1, 16: 4, 32: 16}, memory=None))
    assert list(growth.laws) == ["cpu"]
    known = fit_growth(curve(expected=both), repeats_of({8: 1, 16: 4, 32: 16}))
    assert known.laws["memory"].exponent == pytest.approx(0, abs=1e-9)


def test_a_curve_is_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(job, "load_curves", lambda names: [curve(shape={"dim": 64})])
    # So short a work may take no CPU time that the system counts.
    monkeypatch.setattr(job, "fit_growth", lambda each, measured: fit_growth(each, at_least(measured, 1e-3)))
    job.main(job._GrowthArguments(repeats=1, output_dir=str(tmp_path)))
    saved = read_json(tmp_path / "growth.json", "growth")
    (found,) = saved["curves"]
    assert set(found["repeats"]) == {"8", "16", "32"}
    assert found["curve"]["name"] == "curve"
    assert set(found["laws"]) == {"cpu"}
    assert (tmp_path / "growth.png").stat().st_size > 1000
    assert "| curve " in (tmp_path / "growth.md").read_text("utf-8")
    printed = capsys.readouterr().out
    assert "8 images:" in printed
    assert "every text is compared with every image; expected exponent" in printed


def at_least(repeats, seconds):
    for costs in sum(repeats.values(), []):
        costs["cpu"] = max(costs["cpu"], seconds)
    return repeats


def test_a_curve_that_fails_leaves_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(job, "load_curves", lambda names: [curve(name="wrong", key="pictures"), curve()])
    given = repeats_of({8: 1.0, 16: 4.0, 32: 16.0})

    def measure_size(of, size, turns):
        of.at(size)
        return given[size]

    monkeypatch.setattr(job, "measure_size", measure_size)
    with pytest.raises(InputError, match="1 of the curves have no figures: wrong"):
        job.main(job._GrowthArguments(output_dir=str(tmp_path)))
    saved = read_json(tmp_path / "growth.json", "growth")
    assert "has no 'pictures'" in saved["failures"]["wrong"]
    assert saved["curves"][0]["laws"]["cpu"]["exponent"] == pytest.approx(2)


def test_no_repeats_are_refused():
    with pytest.raises(InputError, match="give at least 1"):
        job._GrowthArguments(repeats=0)


def test_panels_of_all_curves_are_drawn(tmp_path):
    of = {"cpu": 2, "memory": 1}
    growths = [
        fit_growth(curve(expected=of, fixed_part="images"), repeats_of({8: 3, 16: 4, 32: 6})) for _ in "abc"
    ]
    draw_growth(growths, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").stat().st_size > 1000


def test_the_readme_has_a_place_for_the_table(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text((ROOT / "benchmarks/speed/README.md").read_text("utf-8"), "utf-8")
    fill_readme(readme, "| ratios |")
    fill_readme(readme, "| exponents |", BEGIN)
    filled = readme.read_text("utf-8")
    assert "| ratios |" in filled and "| exponents |" in filled
