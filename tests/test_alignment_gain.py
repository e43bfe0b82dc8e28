"""What a head in closed form gains: runs that differ in it alone, compared on the same images."""

import pytest
import torch

from benchmarks.outcomes import ClassOutcomes
from benchmarks.results import Result, load_results
from common.errors import InputError
from common.recipe import parse
from training import alignment_gain
from training.alignment_gain import GainArguments, gains_table, measure_gains, train_all

from .conftest import ROOT

N = 400  # images
RECIPE = ROOT / "training/recipes/alignment_gain/miniature.yaml"


@pytest.fixture
def arguments(tmp_path):
    flags = ["--steps", "10", "20", "--languages", "en", "zh", "--seeds", "1", "2", "--n_resamples", "400"]
    (given,) = parse(GainArguments, arguments=[str(RECIPE), *flags, "--output_dir", str(tmp_path)])
    return given


def save(folder, model, language, n_missed):
    """Save a result in which the last images are missed; recall is the accuracy here."""
    found = ClassOutcomes((torch.arange(N) < n_missed).long(), torch.arange(N) % 4, 4)
    result = Result(
        model=str(model),
        task="miniature-pairs",
        kind="zero_shot",
        language=language,
        metric="accuracy@1",
        metrics=found.metrics(),
        dataset="",
        split="",
        weights="",
        command="",
        images="same",
    )
    result.save(folder, found)


def test_gains_by_hand(arguments, tmp_path, monkeypatch):
    monkeypatch.setitem(alignment_gain.METRICS, "retrieval", "accuracy@1")
    for one in arguments.runs():
        # The head in closed form misses 100 fewer after 10 steps, and as many after 20.
        n_missed = 200 - 100 * (one.way == "ridge" and one.steps == 10)
        for language in arguments.languages:
            save(tmp_path / "results", tmp_path / one.name, language, n_missed)
    results = load_results(tmp_path / "results")
    gains = measure_gains(results, arguments)
    assert gains[10]["random"] == pytest.approx(0.5)
    assert gains[10]["ridge"] == pytest.approx(0.75)
    assert gains[10]["difference"].difference == pytest.approx(0.25)
    assert gains[10]["difference"].low > 0.1
    assert gains[20]["difference"].p == 1
    header, _, first, second = gains_table(gains).splitlines()
    assert "head in closed form" in header
    assert "| 50.0 " in first and "| 75.0 " in first and "+25.0 (+" in first
    assert "+0.0 (+0.0 to +0.0), p 1" in second

    lacking = [result for result in results if not result.model.endswith("ridge-20-2")]
    with pytest.raises(InputError, match="there is no result of .*ridge-20-2 in 'en'"):
        measure_gains(lacking, arguments)


def test_runs_differ_in_their_head_alone(arguments, monkeypatch):
    ran = []
    monkeypatch.setattr(alignment_gain, "run_once", lambda folder, recipes, *command: ran.append(command))
    train_all(arguments)
    assert len(ran) == 8
    random, ridge = [list(map(str, command)) for command in ran[:2]]
    differing = [pair for pair in zip(random, ridge) if pair[0] != pair[1]]
    assert [first for first, _ in differing] == ["random", random[-1]]
    assert random[-1].endswith("random-10-1") and ridge[-1].endswith("ridge-10-1")


def test_steps_out_of_range_are_refused():
    with pytest.raises(InputError, match="steps has .*0.*: give numbers of steps from 1"):
        parse(GainArguments, arguments=[str(RECIPE), "--steps", "0", "5"])
