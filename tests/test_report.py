"""Check the report: tables, marks of models that cannot be told apart, printed numbers, figures and pages."""

import csv
import json
import math
import os
import re
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from itertools import combinations
from statistics import mean

import pytest
import torch
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.bootstrap import intervals
from benchmarks.outcomes import ClassOutcomes, RetrievalOutcomes, load_outcomes
from benchmarks.report.caveats import caveats
from benchmarks.report.comparison import Comparison, Number
from benchmarks.report.findings import describe_findings
from benchmarks.report.formatting import label, short_names
from benchmarks.report.means import MEAN, SHARED_MEAN
from benchmarks.report.page import Report
from benchmarks.report.plots import draw_pictures, plot_heat_map, plot_languages, plot_recall_curves
from benchmarks.report.published import compare_with_published, load_published, load_sources
from benchmarks.report.selection import ReportArguments, count_gaps, select_results
from benchmarks.report.tables import TableArguments, make_tables
from benchmarks.results import Result, load_results, rewrite_results
from benchmarks.tasks.loading import load_task
from common.errors import InputError
from common.recipe import parse

from .conftest import ROOT

RECIPES = [
    *sorted((ROOT / "benchmarks/recipes").glob("paper_*.yaml")),
    *sorted((ROOT / "benchmarks/recipes").glob("world_*_report.yaml")),
    ROOT / "training/recipes/miniature/report.yaml",
]
RECALL = [
    "text_to_image_recall@1",
    "text_to_image_recall@5",
    "text_to_image_recall@10",
    "image_to_text_recall@1",
    "image_to_text_recall@5",
    "image_to_text_recall@10",
    "mean_recall",
]


def bare(**given):
    """Return a result with the given fields, and all others empty."""
    known = {
        "kind": "zero_shot",
        "metric": "accuracy@1",
        "dataset": "org/data",
        "split": "test",
        "weights": "w" * 64,
        "command": "",
        "metrics": {"n": 2, "accuracy@1": 0.5},
    }
    return Result(**known | given)


def outcomes_of(right, kind="zero_shot", n=200, labels=None, pictures=None):
    """Return outcomes of `n` items: each in `right` (a set of rows) is found first, and the others thirtieth.

    `pictures` are a number for each item, by which the same image is known in another language.
    """
    if pictures is not None:
        n = len(pictures)
    # Rank 29 is beyond every k, so that all recalls and accuracies of a result are equal.
    ranks = torch.tensor([0 if row in right else 29 for row in range(n)])
    if kind == "retrieval":
        outcomes = RetrievalOutcomes(ranks, ranks, torch.arange(n))
    else:
        outcomes = ClassOutcomes(ranks, torch.arange(n) % 40 if labels is None else labels, 40)
    if pictures is not None:
        outcomes.digests = torch.tensor(pictures)
    return outcomes


def save(folder, model, task, language, right, kind="zero_shot", **given):
    """Save a result with its outcomes and return it.

    `n`, `labels` and `pictures` are those of `outcomes_of`; whatever else is given are fields of the result.
    """
    items = {name: given.pop(name) for name in ("n", "labels", "pictures") if name in given}
    outcomes = outcomes_of(right, kind, **items)
    metrics = outcomes.metrics()
    # Equal numbers of items without pictures stand for equal images.
    images = str(items["pictures"]) if "pictures" in items else f"first {metrics['n']}"
    fields = {
        "model": model,
        "task": task,
        "language": language,
        "kind": kind,
        "metric": "mean_recall" if kind == "retrieval" else "accuracy@1",
        "metrics": metrics,
        "intervals": {name: list(pair) for name, pair in intervals(outcomes).items()},
        "images": images,
        "revision": "abc",
        "command": "run_it.py --flag",
    }
    result = bare(**fields | given)
    result.save(folder, outcomes)
    return result


@pytest.fixture
def three(tmp_path):
    """Save results of three models: `near` lacks one item that `best` finds, `far` lacks 60 and Chinese."""
    for language in ("en", "zh"):
        # 80.0 and 79.5 % of 200, and 50.0 %.
        save(tmp_path, "org/best", "photos", language, set(range(160)))
        save(tmp_path, "org/near", "photos", language, set(range(1, 160)))
    save(tmp_path, "org/far", "photos", "en", set(range(100)))
    return tmp_path


def compare(folder, *, means=False, **names):
    chosen = [names.get(axis) for axis in ("models", "tasks", "languages")]
    results, _ = select_results([str(folder)], *chosen)
    return Comparison(results, means=means)


def row_names(table):
    return [name for name, _ in table.rows]


def test_results_keep_what_came_of_each_item(tmp_path):
    result = save(tmp_path, "org/model", "photos", "zh", {0, 1}, n=8)
    (read,) = load_results(tmp_path)
    assert read == result
    assert read.path == tmp_path / "model/photos.zh.json"
    assert read.outcomes().metrics() == result.metrics
    assert result.metrics["accuracy@1"] == 0.25
    assert "path" not in json.loads(read.path.read_text())
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["photos.zh.json", "photos.zh.npz"]

    match = "photos.zh.json is a result of model 'org/model', not of 'you/model': give another output_dir"
    with pytest.raises(InputError, match=match):
        save(tmp_path, "you/model", "photos", "zh", {0}, n=8)
    others = [
        ({"limit": 8}, "limit none, not of 8"),
        ({"prompts": "b" * 64}, "other templates or class names"),
    ]
    for given, message in others:
        match = f"photos.zh.json is a result of {message}: give another output_dir, or delete it"
        with pytest.raises(InputError, match=match):
            save(tmp_path, "org/model", "photos", "zh", {0}, n=8, **given)
    assert load_results(tmp_path) == [result]

    path = bare(model="org/model", task="scenes", language="zh").save(tmp_path)
    assert path.name == "scenes.zh.json"
    path = bare(model="m_clip:org/text+org/clip", task="a", language="en").save(tmp_path)
    # A folder's name has no colon and no slash.
    assert path.parent.name == "m_clip-org-text+org-clip"
    with pytest.raises(InputError, match="no outcomes beside .*: evaluate 'org/model' on 'scenes' again"):
        load_results(tmp_path)[-1].outcomes()


def test_a_result_gives_way_to_one_of_other_weights_or_with_a_warning_of_other_images(tmp_path, caplog):
    """A model may be trained again, and a folder of images written again."""
    before = bare(
        model="org/model",
        task="photos",
        language="en",
        metric="accuracy@1",
        metrics={"n": 8, "accuracy@1": 0.5},
        data="1",
    )
    for again in (before, replace(before, weights="other")):
        again.save(tmp_path)
    assert not caplog.text
    assert load_results(tmp_path)[0].weights == "other"
    replace(before, data="2", metrics={"n": 9, "accuracy@1": 0.4}).save(tmp_path)
    assert "photos.en.json: the images or texts differ from those" in caplog.text
    assert "accuracy@1 0.5 of n 8 is replaced by accuracy@1 0.4 of n 9" in caplog.text
    assert load_results(tmp_path)[0].metrics["n"] == 9


def test_a_killed_run_leaves_no_result_without_its_items(tmp_path, monkeypatch):
    def killed(descriptor):
        raise KeyboardInterrupt  # when the file of outcomes is written, and not yet on the disk

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, "org/model", "photos", "zh", {0})
    assert load_results(tmp_path) == []
    assert list((tmp_path / "model").iterdir()) == []


def test_models_that_cannot_be_told_apart_are_marked(three):
    comparison = compare(three, models=["org/far", "org/near", "org/best"])
    numbers = {(number.model, number.language): number for number in comparison.numbers()}
    assert [key for key, number in numbers.items() if number.best] == [("org/best", "en"), ("org/best", "zh")]
    assert [key for key, number in numbers.items() if number.tied] == [("org/near", "en"), ("org/near", "zh")]
    found = comparison.difference("org/best", "org/far", "photos", "en", "accuracy@1")
    assert found.difference == pytest.approx(0.3)
    low, high = numbers["org/near", "en"].interval
    assert low < 159 / 200 < high
    assert 0.09 < high - low < 0.14  # 2 * 1.96 * sqrt(0.795 * 0.205 / 200) = 0.112

    (table,) = make_tables(comparison, comparison.numbers(), TableArguments(rows="language", columns="model"))
    assert table.heading == "photos, top-1 accuracy"
    assert table.columns == ["far", "near", "best"]
    # Two lines of headings come before English and Chinese.
    english, chinese = table.to_markdown().splitlines()[2:4]
    cells = [text.strip() for text in english.split("|")[1:-1]]
    without_widths = [re.sub(r"±\d+\.\d", "±", text) for text in cells]
    assert without_widths == ["en", "50.0 ±", "79.5 ± ≈", "**80.0** ±"]
    low, high = numbers["org/far", "en"].interval
    assert cells[1] == f"50.0 ±{100 * (high - low) / 2:.1f}"
    cells = [text.strip() for text in chinese.split("|")[1:-1]]
    without_widths = [re.sub(r"±\d+\.\d", "±", text) for text in cells]
    assert without_widths == ["zh", "–", "79.5 ± ≈", "**80.0** ±"]
    assert count_gaps(comparison, comparison.numbers()) == {"org/far": (1, 2)}  # 1 of 2 numbers is missing


def test_other_items_are_not_compared(three):
    save(three, "org/short", "photos", "en", set(range(10)), n=20)
    comparison = compare(three, languages=["en"])
    marks = {number.model: (number.best, number.tied, number.untested) for number in comparison.numbers()}
    assert marks == {
        "org/best": (True, False, False),
        "org/far": (False, False, False),
        "org/near": (False, True, False),
        "org/short": (False, False, True),
    }
    (table,) = make_tables(comparison, comparison.numbers(), TableArguments())
    assert re.search(r"\| short +\| 50\.0 ±\d+\.\d ° +\|", table.to_markdown())
    assert "short was evaluated on other items." in describe_findings(comparison)[0][1]


def test_the_mean_over_languages_knows_that_they_share_their_images(three):
    """A mean of two languages with the same hits is as uncertain as either.

    Were the languages drawn by themselves, it would seem more certain.
    """
    comparison = compare(three, means=True)
    numbers = {(number.model, number.language): number for number in comparison.numbers()}
    assert numbers["org/best", MEAN].value == pytest.approx(0.8)
    assert numbers["org/best", MEAN].interval == pytest.approx(numbers["org/best", "en"].interval)
    assert numbers["org/best", MEAN].best
    assert numbers["org/near", MEAN].tied
    assert ("org/far", MEAN) not in numbers
    arguments = TableArguments(rows="model", columns="language")
    (table,) = make_tables(comparison, list(numbers.values()), arguments)
    assert table.columns == ["en", "zh", "mean"]
    assert row_names(table) == ["best", "far", "near"]
    ((heading, words),) = describe_findings(comparison)
    assert heading == "photos, top-1 accuracy"
    assert words.startswith("best scores 80.0 % (")
    assert "It is ahead of far by 30.0 points in en (+" in words
    assert (
        "It does not differ significantly from near in the mean of 2 languages (+0.5 points, +0.0 to +"
        in words
    )
    assert words.endswith("no single language differs significantly.")


UNKNOWN_NOTE = (
    "no mean over languages: it is not recorded whether they have the same images. "
    "Evaluate again to record it."
)


@pytest.mark.parametrize("means", [True, False])
def test_languages_of_other_images_have_no_mean(tmp_path, monkeypatch, means):
    """Of 30 images 20 have a caption in Chinese: each language is described by itself, and nothing is
    averaged.
    """
    for language, n in (("en", 30), ("zh", 20)):
        save(tmp_path, "x/good", "scenes", language, set(range(18)), n=n, kind="retrieval")
        save(tmp_path, "x/bad", "scenes", language, set(range(3)), n=n, kind="retrieval")
        save(tmp_path, "x/good", "pairs", language, set(range(18)), n=30, kind="retrieval")
    comparison = compare(tmp_path, means=means)
    assert comparison.without_mean == (["scenes"] if means else [])
    tasks_with_mean = [task for _, task, language in comparison.results if language == MEAN]
    assert tasks_with_mean == (["pairs"] if means else [])

    numbers = comparison.numbers()
    marks = {(number.language, number.best) for number in numbers if number.model == "x/good"}
    assert marks >= {("en", True), ("zh", True)}
    words = dict(describe_findings(comparison))["scenes, mean recall"]
    assert words == (
        "In 2 languages good scores, in percent, from 60.0 in en to 90.0 in zh. "
        "Compared with bad in 2 languages, for which there is no mean: significantly ahead in 2 of them."
    )
    note = f"scenes: {UNKNOWN_NOTE}"
    assert caveats(comparison) == ([note] if means else [])

    drawn = draw(monkeypatch, "plot")
    draw_pictures(comparison, numbers, tmp_path)
    labels = [options["label"] for _, options in drawn["plot"] if "label" in options]
    assert sorted(labels) == ["bad, 2 languages"] * 2 + ["good, 2 languages"] * 2 + ["good, mean of 2"] * 2


DIFFERENT_IMAGES = (
    "no mean over all images, because the 2 languages have different images; "
    "'mean of shared images' is over the"
)
RANKED_AMONG = "each is ranked among all candidates of its language, from 24 images in zh to 30 in en."
SHARED_NOTE = f"scenes: {DIFFERENT_IMAGES} 20 images that all of them have; {RANKED_AMONG}"


@pytest.fixture
def different(tmp_path):
    """Save results in which English has pictures 0 to 29 and Chinese 33 down to 10.

    Of the 20 that both have, 10 to 29, `good` finds 10 to 21 and `bad` 10 and 11.
    """
    english = list(range(30))
    chinese = list(range(33, 9, -1))
    for model, first_lost in (("x/good", 22), ("x/bad", 12)):
        found = {*range(10, first_lost), *range(30, 34)}
        for language, pictures in (("en", english), ("zh", chinese)):
            right = {row for row, picture in enumerate(pictures) if picture in found}
            save(tmp_path, model, "scenes", language, right, kind="retrieval", pictures=pictures)
        save(tmp_path, model, "pairs", "en", set(range(9)), n=30, kind="retrieval")
        save(tmp_path, model, "pairs", "zh", set(range(9)), n=30, kind="retrieval")
    return tmp_path


def test_languages_of_different_images_have_a_mean_over_those_that_all_have(different):
    comparison = compare(different, means=True)
    numbers = {(number.model, number.task, number.language): number for number in comparison.numbers()}
    assert comparison.values("language") == ["en", "zh", MEAN, SHARED_MEAN]
    assert comparison.without_mean == ["scenes"]
    of_means = {(task, language) for _, task, language in numbers if language in (MEAN, SHARED_MEAN)}
    assert of_means == {("pairs", MEAN), ("scenes", SHARED_MEAN)}
    good = numbers["x/good", "scenes", SHARED_MEAN]
    bad = numbers["x/bad", "scenes", SHARED_MEAN]
    assert good.value == pytest.approx(12 / 20)
    assert bad.value == pytest.approx(2 / 20)
    assert good.n == 20
    assert good.best
    assert bad.tied is False
    # English has 10 to 21 of 30; Chinese these and the 4 of its own, 30 to 33, of 24.
    assert numbers["x/good", "scenes", "en"].value == pytest.approx(12 / 30)
    assert numbers["x/good", "scenes", "zh"].value == pytest.approx(16 / 24)
    # Both languages find the same 12 of 20, so the interval is that of a single list with 12 hits.
    ranks = torch.arange(20) // 12 * 9
    of_one_list = intervals(ClassOutcomes(ranks, torch.zeros(20).long(), 1))
    assert good.interval == pytest.approx(of_one_list["accuracy@1"])
    assert caveats(comparison) == [SHARED_NOTE]
    assert count_gaps(comparison, list(numbers.values())) == {}

    words = dict(describe_findings(comparison))["scenes, mean recall"]
    low, high = (f"{100 * end:.1f}" for end in good.interval)
    assert words.startswith(
        "In 2 languages good scores, in percent, from 40.0 in en to 66.7 in zh; "
        f"in their mean on the 20 images that all have, 60.0 ({low} to {high}). "
        "It is ahead of bad by 50.0 points in the mean of 2 languages, on the 20 images that all have (+"
    )


def tick_labels(axes):
    return [text.get_text() for text in axes.get_xticklabels()]


def test_pictures_name_a_mean_of_shared_images(different, monkeypatch):
    comparison = compare(different, means=True)
    drawn = draw(monkeypatch, "plot")
    figures = keep_figures(monkeypatch)
    numbers = comparison.numbers()
    plot_languages(comparison, numbers, different / "languages.png")
    plot_heat_map(comparison, numbers, different / "heat_map.png")
    plot_recall_curves(comparison, different / "recall.png")
    shared = "mean\nof\nshared\nimages"
    bars, heat_map = figures[:2]
    assert tick_labels(bars.axes[0]) == ["en", "zh", "mean"]
    assert tick_labels(bars.axes[1]) == ["en", "zh", shared]
    assert tick_labels(heat_map.axes[0]) == ["en", "zh", "mean", shared]
    assert tick_labels(heat_map.axes[1]) == ["en", "zh", "mean", shared]

    # 12 of 20 are found at any k.
    labels = {options["label"]: args[1] for args, options in drawn["plot"] if "label" in options}
    assert labels["good, mean of 2 on 20 shared images"] == pytest.approx([60] * 10)
    assert "good, mean of 2" in labels
    assert not any(label.endswith("2 languages") for label in labels)


def test_a_mean_of_shared_images_is_named_so_wherever_it_stands(different):
    """It never stands in the column or row of a mean over all images.

    Its heading has the number of images where all of a table have equally many.
    """
    comparison = compare(different, means=True)
    numbers = comparison.numbers()
    tables = make_tables(comparison, numbers, TableArguments(rows="model", columns="language"))
    assert [(table.heading, table.columns[2:]) for table in tables] == [
        ("pairs, mean recall", ["mean"]),
        ("scenes, mean recall", ["mean of 20 shared images"]),
    ]
    tables = make_tables(comparison, numbers, TableArguments(rows="language", columns="task"))
    assert tables
    for table in tables:
        assert row_names(table) == ["en", "zh", "mean", "mean of 20 shared images"]
        # Columns are the tasks: pairs, which has a mean over all, and scenes.
        of_all, of_shared = (row for _, row in table.rows[2:])
        assert [number is None for number in of_all] == [False, True]
        assert [number is None for number in of_shared] == [True, False]

    results = [result for result in comparison.results.values() if result.path]
    Report("", "", describe_findings(comparison), tables, caveats(comparison), [], [], {}, results).save(
        different
    )
    with (different / "numbers.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["language"] not in ("en", "zh")]
    assert [(row["task"], row["language"], row["n"]) for row in rows[:2]] == [
        ("pairs", "mean", "30"),
        ("scenes", SHARED_MEAN, "20"),
    ]
    page = (different / "index.html").read_text("utf-8")
    assert page.count('<tr class="mean">') == 4
    assert page.count("<th>mean of 20 shared images</th>") == 2
    assert SHARED_NOTE in (different / "report.md").read_text("utf-8")

    for language, pictures in (("en", [1, 2, 3]), ("zh", [2, 3, 4])):
        save(different, "x/good", "others", language, {0}, kind="retrieval", pictures=pictures)
    comparison = compare(different, means=True, models=["x/good"])
    (table,) = make_tables(comparison, comparison.numbers(), TableArguments(rows="language", columns="task"))
    name, row = table.rows[-1]
    assert name == SHARED_MEAN  # without a number: its images are not equally many in all tasks
    # others, pairs and scenes: `pairs` has all images in both languages.
    assert [number and number.n for number in row] == [2, None, 20]


def test_means_are_not_held_against_printed_ones(different):
    """A printed mean is over the languages, and the images, of whoever printed it."""
    printed = next(one for one in load_published() if one.language == "mean")
    published = [
        replace(printed, model="x/good", task=task, language=language, metric="mean_recall")
        for task in ("scenes", "pairs")
        for language in ("en", MEAN, SHARED_MEAN)
    ]
    found = compare_with_published(compare(different, means=True).numbers(), published)
    compared = {(difference.number.task, difference.number.language) for difference in found}
    assert compared == {("scenes", "en"), ("pairs", "en")}


def test_of_some_models_it_is_not_known_which_images_languages_share(different):
    """One has results of an earlier version, one shares no image, and one has other images in Chinese."""
    for path in (different / "bad").glob("scenes.*.npz"):
        replace(load_outcomes(path), digests=None).save(path)
    rewrite_results(different / "bad")
    for model, chinese in (("x/none", range(40, 64)), ("x/other", range(6, 30))):
        save(different, model, "scenes", "en", {0}, kind="retrieval", pictures=list(range(30)))
        save(different, model, "scenes", "zh", {0}, kind="retrieval", pictures=list(chinese))
    comparison = compare(different, means=True, tasks=["scenes"])
    numbers = {number.model: number for number in comparison.numbers() if number.language == SHARED_MEAN}
    assert numbers.keys() == {"x/good", "x/other"}
    assert numbers["x/good"].best
    assert numbers["x/other"].untested
    assert caveats(comparison) == [
        f"scenes, bad: {UNKNOWN_NOTE}",
        f"scenes, good: {DIFFERENT_IMAGES} 20 images that all of them have; {RANKED_AMONG}",
        "scenes, none: no mean over languages, which have no image in common.",
        f"scenes, other: {DIFFERENT_IMAGES} 24 images that all of them have; {RANKED_AMONG}",
    ]
    _, words = describe_findings(comparison)[0]
    assert "Compared with bad in 2 languages, for which there is no mean: significantly" in words
    assert not comparison.can_average("x/good", "scenes", ["en", "zh"])
    assert comparison.can_average("x/good", "scenes", ["zh"])


def test_a_model_of_other_captions_or_fewer_languages_beside_one_with_a_mean_of_shared_images(different):
    """Other captions of the same images are not paired; a model without a language lacks that, and no mean.

    A model with all captions has the mean over all.
    """
    english = {"pictures": list(range(30)), "data": "0"}
    for model, n_chinese, data in (("x/good", 20, "1"), ("x/recaptioned", 20, "2"), ("x/whole", 30, "1")):
        chinese = {"pictures": list(range(n_chinese)), "data": data}
        save(different, model, "more", "en", {0}, kind="retrieval", **english)
        save(different, model, "more", "zh", {0}, kind="retrieval", **chinese)
    save(different, "x/english", "more", "en", {0}, kind="retrieval", **english)
    comparison = compare(different, means=True, tasks=["more"])
    numbers = comparison.numbers()
    of_means = {number.model: number.language for number in numbers if number.language not in ("en", "zh")}
    assert of_means == {"x/good": SHARED_MEAN, "x/recaptioned": SHARED_MEAN, "x/whole": MEAN}
    assert comparison.difference("x/good", "x/recaptioned", "more", SHARED_MEAN, "mean_recall") is None
    assert comparison.mean_difference("x/good", "x/whole", "more", ["en", "zh"], "mean_recall") is None
    assert count_gaps(comparison, numbers) == {"x/english": (1, 2)}
    (note,) = caveats(comparison)
    assert note.startswith("more, good, recaptioned: no mean over all images")


def test_different_weights_have_no_mean_of_shared_images(tmp_path):
    for language, weights, pictures in (("en", "1" * 64, [1, 2, 3]), ("zh", "2" * 64, [2, 3, 4])):
        save(tmp_path, "m/x", "photos", language, {0}, weights=weights, pictures=pictures)
    comparison = compare(tmp_path, means=True)
    assert comparison.values("language") == ["en", "zh"]
    note = "photos: no mean over all images, because the 2 languages have different images."
    assert caveats(comparison)[0] == note


def test_equal_images_in_another_order_have_the_mean_over_all(tmp_path):
    save(tmp_path, "m/x", "photos", "en", {0, 1}, pictures=[1, 2, 3, 4], images=None)
    save(tmp_path, "m/x", "photos", "zh", {0}, pictures=[4, 2, 1, 3])  # its own digests are what counts
    comparison = compare(tmp_path, means=True)
    assert comparison.values("language") == ["en", "zh", MEAN]
    assert comparison.without_mean == []
    assert caveats(comparison) == []
    assert comparison.results["m/x", "photos", MEAN].metrics["accuracy@1"] == pytest.approx((0.5 + 0.25) / 2)


@pytest.mark.parametrize("images", [("first half", "second half"), (None, None), (None, "all")])
def test_equally_many_images_that_are_not_known_to_be_the_same_have_no_mean(tmp_path, images):
    """Results are known to be of the same images by `images` alone; the models are paired on equal images."""
    for kind in ("zero_shot", "retrieval"):
        for language, of_language in zip(("en", "zh"), images):
            save(tmp_path, "org/model", kind, language, set(range(160)), kind=kind, images=of_language)
            save(tmp_path, "org/other", kind, language, set(range(90)), kind=kind, images="first half")
    comparison = compare(tmp_path, means=True)
    assert comparison.without_mean == ["retrieval", "zero_shot"]
    assert ("org/other", "zero_shot", MEAN) in comparison.results
    assert ("org/model", "zero_shot", MEAN) not in comparison.results
    assert not comparison.can_average("org/model", "retrieval", ["en", "zh"])
    assert comparison.can_average("org/model", "retrieval", ["zh"])
    difference = comparison.difference("org/model", "org/other", "retrieval", "zh", "mean_recall")
    is_tested = images[1] in (None, "first half")
    assert (difference is not None) == is_tested
    of_means = comparison.mean_difference("org/other", "org/model", "retrieval", ["en", "zh"], "mean_recall")
    assert of_means is None


def test_a_model_whose_weights_changed_has_no_mean(tmp_path):
    """Its folder holds another model when Chinese is evaluated."""
    for language, weights in (("en", "1" * 64), ("zh", "2" * 64)):
        save(tmp_path, "m/x", "photos", language, set(range(160)), weights=weights)
        save(tmp_path, "m/y", "photos", language, set(range(90)))
    comparison = compare(tmp_path, means=True)
    assert [key[0] for key in comparison.results if key[2] == MEAN] == ["m/y"]
    assert comparison.without_mean == []
    note = (
        "x was evaluated with different weights, so there is no mean: 11111111 (photos in en); "
        "22222222 (photos in zh). Evaluate all languages with the same weights."
    )
    assert caveats(comparison) == [note]
    assert "Compared with y in 2 languages, for which there is no mean" in describe_findings(comparison)[0][1]


def test_one_model_alone_is_not_the_best(three):
    alone = compare(three, models=["org/far"]).numbers()
    assert [(number.value, number.best) for number in alone] == [(0.5, False)]
    numbers = compare(three, models=["org/far", "org/near"]).numbers()
    best = {(number.model, number.language) for number in numbers if number.best}
    assert best == {("org/near", "en")}


def test_tasks_of_several_metrics_say_which(tmp_path):
    """A metric stands beside each task, in rows or columns, and in the heading where all tasks have one."""
    save(tmp_path, "org/model", "photos", "en", {0})
    save(tmp_path, "org/model", "scenes", "en", {0}, kind="retrieval")
    comparison = compare(tmp_path)
    tasks = ["photos, top-1 accuracy", "scenes, mean recall"]
    (table,) = make_tables(comparison, comparison.numbers(), TableArguments(rows="model", columns="task"))
    assert table.heading == "en"
    assert table.columns == tasks
    (table,) = make_tables(comparison, comparison.numbers(), TableArguments(rows="task", columns="model"))
    assert row_names(table) == tasks

    arguments = TableArguments(columns="task", metrics=["accuracy@1"])
    (table,) = make_tables(comparison, comparison.numbers(["accuracy@1"]), arguments)
    assert table.heading == "en, top-1 accuracy"
    assert table.columns == ["photos"]


def test_the_page_says_how_many_images_each_number_is_of():
    def images(*counts):
        results = []
        for place, n in enumerate(counts):
            results.append(bare(model=f"m/{place}", task="a", language="en", metrics={"n": n}))
        _, rows = Report("", "", [], [], [], [], [], {}, results).provenance()[0]
        return rows[0][-2:]

    # Two counts are both named, in ascending order; more are a range.
    assert images(1000, 40) == [1, "40 or 1,000"]
    assert images(40, 1000) == [1, "40 or 1,000"]
    assert images(1000, 1000) == [1, "1,000"]
    assert images(*range(1000, 1009)) == [1, "9 counts, 1,000 to 1,008"]


def test_names_that_nobody_proofread_are_said(tmp_path):
    ours = {"class_names": {"en": "clip_benchmark", "ko": "altclip:imagenet"}}
    given = {"class_names": {"ko": ["names", "of", "a", "user"]}}
    for model, definition in {"org/one": ours, "org/two": ours, "org/mine": given}.items():
        for task in ("photos", "sketches"):
            save(tmp_path, model, task, "ko", {0}, definition=definition)
        save(tmp_path, model, "photos", "en", {0}, definition=definition)
    said = "photos, sketches in ko: the class names are ours, written by a language model and not proofread."
    assert caveats(compare(tmp_path)) == [said]
    assert not caveats(compare(tmp_path, models=["org/mine"]))
    assert not caveats(compare(tmp_path, languages=["en"]))


def test_pairs_are_of_the_same_pictures(tmp_path):
    """A folder's path does not matter: what counts is its content, and which images had a class name."""
    here = {"dataset": "./photos", "data": "1" * 32}
    elsewhere = {"dataset": "/data/photos", "data": "1" * 32}
    other_pictures = {"dataset": "./photos", "data": "2" * 32}
    prompts = "a" * 64
    # 75 % of 200, five points below `best`.
    hits = set(range(150))
    for language in ("en", "zh"):
        save(tmp_path, "org/best", "photos", language, set(range(160)), prompts=prompts, **here)
        save(tmp_path, "org/moved", "photos", language, set(range(159)), prompts=prompts, **elsewhere)
        save(tmp_path, "org/worded", "photos", language, hits, prompts="b" * 64, **here)
    save(tmp_path, "org/redrawn", "photos", "en", hits, prompts=prompts, **here)
    save(tmp_path, "org/redrawn", "photos", "zh", hits, prompts=prompts, **other_pictures)
    save(tmp_path, "org/named", "photos", "en", hits, labels=torch.arange(200) % 39, **here)
    # Results of an earlier version do not say what was in the folder.
    save(tmp_path, "org/old", "photos", "en", hits, dataset="./photos")
    save(tmp_path, "org/lost", "photos", "en", hits, dataset="/data/photos")

    comparison = compare(tmp_path, means=True)
    untested = {(number.model, number.language) for number in comparison.numbers() if number.untested}
    assert untested == {("org/redrawn", "zh"), ("org/redrawn", MEAN), ("org/lost", "en"), ("org/named", "en")}
    found = comparison.difference("org/best", "org/worded", "photos", "en", "accuracy@1")
    # Other prompts do not keep models from being compared: a caveat names them.
    assert found.difference == pytest.approx(0.05)
    assert caveats(comparison) == ["photos in en, zh: evaluated with other prompts than best: worded."]
    results = [result for result in comparison.results.values() if result.model in ("org/best", "org/worded")]
    report = Report("", "", [], [], [], [], [], {}, results)
    line = (
        "photos, SHA-256 of class names and templates: "
        "en aaaaaaaa (best) or bbbbbbbb (worded); zh aaaaaaaa (best) or bbbbbbbb (worded)"
    )
    assert report.prompts() == [line]
    assert f"- {line}\n" in report.to_markdown()
    assert f"<li>{line}</li>" in report.to_html(tmp_path)


def test_layouts_of_the_papers(tmp_path):
    """Table 1 has tasks across, a table a language; Table 2 metrics across, a table a task.

    The lists have tasks down and models across.
    """
    for model in ("a/one", "b/two"):
        for language in ("en", "zh"):
            save(tmp_path, model, "imagenet", language, {0, 1, 2, 3}, n=8)
        save(tmp_path, model, "imagenet-a", "en", {0}, n=8)
        save(tmp_path, model, "flickr30k", "en", set(range(4)), n=40, kind="retrieval")
    comparison = compare(tmp_path, tasks=["imagenet", "imagenet-a"])
    arguments = TableArguments(rows="model", columns="task")
    english, chinese = make_tables(comparison, comparison.numbers(), arguments)
    assert english.heading == "en, top-1 accuracy"
    assert english.columns == ["imagenet", "imagenet-a"]
    assert chinese.heading == "zh, top-1 accuracy"
    assert chinese.columns == ["imagenet"]
    assert len(english.rows) == 2
    for _, row in english.rows:
        assert [number.value for number in row] == [0.5, 0.125]

    arguments = TableArguments(rows="task", columns="model")
    listed, _ = make_tables(comparison, comparison.numbers(), arguments)
    assert listed.columns == ["one", "two"]
    assert row_names(listed) == ["imagenet", "imagenet-a"]

    comparison = compare(tmp_path, tasks=["flickr30k"])
    arguments = TableArguments(rows="model", columns="metric", metrics=RECALL)
    (table,) = make_tables(comparison, comparison.numbers(RECALL), arguments)
    assert table.heading == "flickr30k, en"
    assert table.columns == [
        "T2I R@1",
        "T2I R@5",
        "T2I R@10",
        "I2T R@1",
        "I2T R@5",
        "I2T R@10",
        "mean recall",
    ]
    # 4 of 40 at every k.
    assert [number.value for number in table.rows[0][1]] == pytest.approx([0.1] * 7)


@pytest.mark.parametrize("path", RECIPES, ids=[path.stem for path in RECIPES])
def test_recipes_are_read(path):
    report, table = parse(ReportArguments, TableArguments, arguments=[str(path)])
    assert report.tasks
    assert report.languages
    assert table.title != TableArguments().title
    assert report.output_dir.startswith("outputs/")
    assert {table.rows, table.columns} & {"model"}


def test_printed_numbers_are_copied_right():
    """In each row of Table 2 the last number is the mean of the six before it: a wrong digit would show."""
    published = load_published()
    rows = {}
    for one in published:
        if one.place == "Table 2":
            rows.setdefault((one.task, one.model), []).append(one)
    assert len(rows) == 5 + 7 + 5 + 7 + 5  # models of each of its five tasks
    for row in rows.values():
        assert [one.metric for one in row] == RECALL
        # Numbers are printed with one digit of a percentage after the point.
        assert mean(one.value for one in row[:6]) == pytest.approx(row[6].value, abs=0.001 + 1e-9)

    count = {}
    for one in published:
        count[one.source, one.place] = count.get((one.source, one.place), 0) + 1
    assert count["P2", "Table 1"] == 50
    assert count["P2", "Table 3"] == 3 + 6 * 8
    assert count["P2", "Table 4"] == 20
    assert count["P1i", "Table 1 of v1"] == 21
    assert count["FLh", "README of m18"] == 21
    assert count["BAB", "XTD"] == 48
    assert count["ML", "evaluation.ipynb"] == 30
    assert count["ML", "Figure 4"] == 32
    assert len(published) == 1977 + 3 * 16
    keys = [(one.model, one.task, one.language, one.metric, one.source, one.place) for one in published]
    assert len(set(keys)) == len(keys)
    shares = [one.value for one in published if "_rank_" not in one.metric]
    assert min(shares) >= 0
    assert max(shares) <= 1


def test_a_printed_row_of_another_length_is_refused(tmp_path):
    content = {"sources": {"P": {"kind": "paper", "title": "T"}}, "models": {}}
    table = {
        "source": "P",
        "place": "Table 9",
        "task": "a",
        "language": ["en", "zh"],
        "metric": "accuracy@1",
        "scores": {"M": [1.0]},
    }
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(content | {"tables": [table]}))
    with pytest.raises(ValueError, match="Table 9 of P.*'M' has 1 values for 2 columns"):
        load_published(tmp_path / "p.yaml")


def test_our_numbers_beside_the_printed_ones():
    """Our numbers are within tolerance if their interval reaches what was printed.

    Of AltCLIP on ImageNet that is 74.5 in English; in Chinese 59.6, 59.6 in the first version, and 59.21
    where others evaluated it again.
    """
    inside = Number("BAAI/AltCLIP", "imagenet", "en", "accuracy@1", 0.740, (0.736, 0.7446), 50000)
    outside = Number("BAAI/AltCLIP", "imagenet", "zh", "accuracy@1", 0.590, (0.586, 0.5954), 50000)
    again = Number("BAAI/AltCLIP-m9", "xtd", "tr", "image_to_text_recall@10", 0.431, (0.4, 0.46), 1000)
    own = Number("me/mine", "imagenet", "en", "accuracy@1", 0.9, (0.89, 0.91), 50000)
    published = load_published()
    first, second, third = compare_with_published([inside, outside, again, own], published)
    assert first.within
    assert first.difference == pytest.approx(-0.005)  # 74.46 + 0.05 reaches 74.5
    assert not second.within
    assert [one.value for one in second.paper] == pytest.approx([0.596, 0.596])
    (again,) = second.again
    assert again.where == "ZHC, classification"
    assert again.value == pytest.approx(0.5921)
    assert third.within
    assert third.paper == []
    assert third.difference == pytest.approx(0)
    assert load_sources([first]).keys() == {"P2"}
    assert load_sources([first, second]).keys() == {"P2", "P1i", "ZHC"}
    (mine,) = compare_with_published([own], published, "BAAI/AltCLIP")
    assert not mine.within
    assert mine.difference == pytest.approx(0.9 - 0.745)


def test_a_model_of_another_library_is_held_against_its_own_numbers():
    name = "m_clip:M-CLIP/XLM-Roberta-Large-Vit-L-14+openai/clip-vit-large-patch14"
    ours = Number(name, "imagenet", "en", "accuracy@1", 0.523, (0.52, 0.526), 50000)
    (found,) = [one for one in compare_with_published([ours], load_published()) if one.paper]
    assert found.number.model == name
    assert found.paper[0].value == pytest.approx(0.523)
    assert found.within


def test_a_number_of_other_images_is_not_judged():
    """Birdsnap has 1,851 images today: a number of 100 of them says nothing about the printed one."""
    model = "BAAI/AltCLIP-m18"
    published = [one for one in load_published() if (one.model, one.task) == (model, "birdsnap")]
    (printed,) = published
    interval = (printed.value, printed.value)
    whole = Number(model, "birdsnap", "en", printed.metric, printed.value, interval, 1851)
    differences = compare_with_published([whole, replace(whole, n=100)], published)
    assert [(one.within, one.reason) for one in differences] == [(True, ""), (None, "n 100 of 1,851")]

    result = bare(model=model, task="birdsnap", language="en", metrics={"n": 100})
    report = Report("", "", [], [], [], [], differences, {}, [result])
    agreement = "1 of 1 numbers are within tolerance of the published ones. 1 more could not be judged."
    assert report.agreement() == agreement
    _, rows = report.difference_table()
    assert [row[-2:] for row in rows] == [["+0.0", "yes"], ["+0.0", "n 100 of 1,851"]]
    remark = (
        "birdsnap: Of the original 2,443 test images those whose links still work; "
        "they show 490 of the 500 classes."
    )
    assert report.remarks() == [remark]
    assert f"- {remark}" in report.to_markdown()


def test_a_number_of_the_classes_that_a_language_names_is_judged():
    """Babel-ImageNet names 885 of 1,000 classes in Chinese: 44,250 of the 50,000 images that were read."""
    key = {"model": "BAAI/AltCLIP-m9", "task": "babel-imagenet", "language": "zh"}
    published = [one for one in load_published() if key.items() <= vars(one).items()]

    def judged(n_rows, class_names):
        # 885 classes x 50 images = 44,250.
        result = bare(**key, n_rows=n_rows, definition={"class_names": class_names})
        number = Number(*key.values(), "accuracy@1", published[0].value, (0, 1), 44250, result=result)
        return [(one.within, one.reason) for one in compare_with_published([number], published)]

    own_names = load_task("babel-imagenet").class_names
    assert judged(50000, own_names) == [(True, "")]
    assert judged(44250, own_names) == [(None, "n 44,250 of 50,000")]
    assert judged(50000, "mine.json") == [(None, "n 44,250 of 50,000")]


def draw(monkeypatch, *names):
    """Record calls of methods of `Axes`: `{method: [(arguments, options)]}`."""
    drawn = {name: [] for name in names}

    def recorded(name):
        original = getattr(Axes, name)

        def record(self, *args, **options):
            drawn[name].append((args, options))
            return original(self, *args, **options)

        return record

    for name in names:
        monkeypatch.setattr(Axes, name, recorded(name))
    return drawn


def keep_figures(monkeypatch):
    """Collect figures in place of saving them."""
    figures = []

    def keep(self, *_, **__):
        figures.append(self)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


def test_the_pictures_show_the_numbers(tmp_path, monkeypatch):
    for language, hits in (("en", 10), ("de", 20)):
        save(tmp_path, "x/old", "scenes", language, set(range(hits)), n=40, kind="retrieval")
        save(tmp_path, "x/new", "scenes", language, set(range(30)), n=40, kind="retrieval")
    save(tmp_path, "x/first", "scenes", "en", set(range(30)), n=40, kind="retrieval")
    comparison = compare(tmp_path, means=True, models=["x/first", "x/old", "x/new"], languages=["en", "de"])
    numbers = comparison.numbers()
    drawn = draw(monkeypatch, "bar", "axhline", "imshow", "plot", "vlines")
    pictures = draw_pictures(comparison, numbers, tmp_path)
    names = [name for name, _ in pictures]
    assert names == ["languages.png", "differences.png", "heat_map.png", "recall.png"]
    assert min((tmp_path / name).stat().st_size for name in names) > 5000

    # Bars, in percent: the old model in English, German and their mean, then the new one.
    heights = [args[1] for args, _ in drawn["bar"]]
    assert heights == [pytest.approx([25, 50, 37.5]), pytest.approx([75, 75, 75])]
    (of_old_in_german,) = [one for one in numbers if (one.model, one.language) == ("x/old", "de")]
    low, high = of_old_in_german.interval
    arguments, _ = drawn["vlines"][1]
    assert arguments[1:] == pytest.approx((100 * low, 100 * high))
    arguments, _ = drawn["axhline"][0]
    assert arguments == (75.0,)  # a model of one language beside models of two

    # The heat map has a grid for each model; the first has no German, and so no mean.
    first, *others = (args[0] for args, _ in drawn["imshow"])
    assert first[0][0] == 75
    assert len(first[0]) == 3
    assert all(math.isnan(value) for value in first[0][1:])
    assert others == [[pytest.approx([25, 50, 37.5])], [pytest.approx([75, 75, 75])]]

    # Differences have an interval and a dot each, which is white where the difference may be none.
    found = comparison.difference("x/new", "x/old", "scenes", "de", "mean_recall")
    whiskers = [args[1:] for args, _ in drawn["vlines"] if isinstance(args[1], float)]
    assert (100 * found.low, 100 * found.high) in whiskers
    dots = [args[1] for args, options in drawn["plot"] if "markerfacecolor" in options]
    assert [round(value, 9) for value in dots] == [0, 50, 25, 37.5]
    faces = [options["markerfacecolor"] for _, options in drawn["plot"] if "markerfacecolor" in options]
    assert [face == "white" for face in faces] == [True, False, False, False]

    # Recall at 1 to 10: of each model in English, in the mean, and over languages.
    curves = [list(args[1]) for args, _ in drawn["plot"] if len(args) > 2]
    assert curves == [[75] * 10, [37.5] * 10, [75] * 10] * 2


def test_titles_of_panels_do_not_overlap(tmp_path, monkeypatch):
    for task in (f"concepts-in-an-unseen-style-{number}" for number in range(4)):
        save(tmp_path, "x/new", task, "en", {0}, n=8)
    comparison = compare(tmp_path)
    figures = keep_figures(monkeypatch)
    plot_languages(comparison, comparison.numbers(), tmp_path / "languages.png")
    (figure,) = figures
    figure.draw_without_rendering()
    titles = [axes.title.get_window_extent() for axes in figure.axes]
    assert len(titles) == 4
    for one, other in combinations(titles, 2):
        assert not one.overlaps(other)


class Tags(HTMLParser):
    """Open tags, and the addresses of whatever the page loads."""

    def __init__(self):
        super().__init__()
        self.open = []
        self.sources = []

    def handle_starttag(self, tag, attributes):
        self.sources += [value for name, value in attributes if name in ("src", "href")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_one_file_that_says_what_the_results_say(three):
    comparison = compare(three, means=True)
    numbers = comparison.numbers()
    ours = Number("BAAI/AltCLIP", "imagenet", "en", "accuracy@1", 0.9, (0.89, 0.91), 50000)
    fields = {"model": "BAAI/AltCLIP", "task": "imagenet", "language": "en", "metrics": {"n": 50000}}
    printed = bare(**fields, dataset="<data> & more")
    report = Report(
        title="Photos & <more>",
        about="",
        findings=describe_findings(comparison),
        tables=make_tables(comparison, numbers, TableArguments(rows="language", columns="model")),
        notes=["far lacks 1 of 2 numbers."],
        pictures=draw_pictures(comparison, numbers, three),
        differences=compare_with_published([ours], load_published()),
        sources={"P2": "the paper"},
        results=[*load_results(three), printed],
    )
    report.save(three)

    page = (three / "index.html").read_text()
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    # The three figures, as part of the page: it loads no other file.
    assert len(tags.sources) == 3
    assert all(source.startswith("data:image/png;base64,") for source in tags.sources)
    assert "<h1>Photos &amp; &lt;more&gt;</h1>" in page
    assert "&lt;data&gt; &amp; more" in page
    # In English, in Chinese and in the mean; `far` has neither Chinese nor a mean.
    assert page.count("<b>80.0</b>") == 3
    assert page.count("≈</span>") == 3
    assert page.count('<td class="gap">–</td>') == 2

    text = (three / "report.md").read_text()
    assert "![" in text
    assert "(languages.png)" in text
    headings = re.findall("^## (.*)$", text, flags=re.MULTILINE)
    assert headings == ["Findings", "Numbers", "Comparison with published numbers", "Sources of the numbers"]
    assert headings == re.findall("<h2>(.*)</h2>", page)
    assert "### photos, top-1 accuracy\n" in text
    assert "far lacks 1 of 2 numbers." in text
    assert "0 of 1 numbers are within tolerance" in text
    line = (
        r"\| AltCLIP +\| imagenet +\| en +\| top-1 accuracy +\| 74\.5 \(P2, Table 1\) +\| – +"
        r"\| 90\.0 ±1\.0 +\| \+15\.5 +\| \*\*no"
    )
    assert re.search(line, text)

    rows = list(csv.DictReader((three / "numbers.csv").open()))
    # Three numbers each of `best` and `near`, one of `far`.
    assert len(rows) == 7
    assert {row["value"] for row in rows if row["model"] == "org/far"} == {"0.5"}


def test_what_cannot_be_reported_is_refused(three, tmp_path_factory):
    with pytest.raises(InputError, match="results folder 'nowhere' does not exist"):
        select_results(["nowhere"], None, None, None)
    match = "no results in .* for language fr: .*name what is there: model .*; task .*; language .*en"
    with pytest.raises(InputError, match=match):
        select_results([str(three)], None, None, ["fr"])
    _, missing = select_results([str(three)], None, ["photos", "scenes"], ["en", "de"])
    assert missing == ["scenes", "de"]
    by_file = select_results([str(three)], None, ["my/photos.yaml"], ["en"])
    by_name = select_results([str(three)], None, ["photos"], ["en"])
    assert by_file == by_name
    with pytest.raises(InputError, match="no result has the metric mean_recall: choose from accuracy@1"):
        compare(three).numbers(["mean_recall"])
    with pytest.raises(InputError, match="columns is 'split': choose from model task language metric"):
        TableArguments(columns="split")
    with pytest.raises(InputError, match="rows and columns are both 'task'"):
        TableArguments(rows="task")
    with pytest.raises(InputError, match="name the metrics"):
        TableArguments(columns="metric")

    copy = tmp_path_factory.mktemp("copy")
    save(copy, "org/best", "photos", "en", {0})
    results = load_results(three) + load_results(copy)
    with pytest.raises(InputError, match="are of the same model, task and language: keep one"):
        Comparison(results, means=False)
    (copy / "best/photos.en.npz").unlink()
    with pytest.raises(InputError, match="no outcomes beside the result"):
        compare(copy)

    (copy / "config.json").write_text("{}")
    match = "config.json is not a result .*: delete it, or move it to another folder"
    with pytest.raises(InputError, match=match):
        compare(copy)
    (copy / "config.json").write_bytes("à".encode("latin-1"))
    with pytest.raises(InputError, match="config.json is not a result .*can't decode"):
        compare(copy)


def test_names_in_tables():
    names = {"org/model": "model", "m_clip:org/text+org/clip": "text"}
    assert short_names(list(names)) == names
    assert label("image_to_text_recall@10", {}) == "I2T R@10"
    assert label("mean_per_class", {}) == "mean per class"
    assert label("org/model", {"org/model": "model"}) == "model"
    assert label("flickr30k", {}) == "flickr30k"


def test_the_command(three, run_python, tmp_path):
    command = [ROOT / "benchmarks/run_report.py", ROOT / "training/recipes/miniature/report.yaml"]
    folders = ["--results", three, "--output_dir", tmp_path / "out"]
    chosen = ["--models", "org/best", "org/far", "--tasks", "photos", "--languages", "en", "zh", "fr"]
    process = run_python("python", *command, *folders, *chosen)
    assert process.returncode == 0, process.stderr
    assert re.search(r"\| en +\| \*\*80\.0\*\* ±\d\.\d \| 50\.0 ±\d\.\d \|", process.stdout)
    assert "far lacks 1 of 2 numbers.\nNo results at all of fr." in process.stdout
    last_line = f"Saved the report of 3 results. Next: open {tmp_path / 'out/index.html'}\n"
    assert process.stdout.endswith(last_line)
    names = ["differences.png", "heat_map.png", "index.html", "languages.png", "numbers.csv", "report.md"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names

    process = run_python("python", *command, "--results", tmp_path / "none")
    assert process.returncode == 1
    assert "run_report.py: error: results folder" in process.stderr


@pytest.mark.parametrize("target,scripts", [("2", ["retrieval"]), ("4", ["retrieval", "zero_shot"])])
def test_make_evaluates_a_table_of_a_paper_in_one_command_a_kind(target, scripts):
    """The recipe names the table, so that the evaluation writes its report: no flag has to be passed on."""
    command = ["make", "--no-print-directory", "--dry-run", f"paper-table-{target}"]
    variables = ["MODEL=org/name", "FLAGS=--limit 3 --output_dir x/y-z"]
    process = subprocess.run([*command, *variables], cwd=ROOT, capture_output=True, text=True, check=True)
    lines = [line for line in process.stdout.splitlines() if "benchmarks/run_" in line]
    recipe = f"benchmarks/recipes/paper_table_{target}.yaml"
    assert len(lines) == len(scripts)
    for line, kind in zip(lines, scripts):
        assert f"run_{kind}.py {recipe} --models org/name" in line
        assert line.endswith("--limit 3 --output_dir x/y-z")


def test_results_without_intervals_are_described_without_them(tmp_path):
    """Their files are read, as others may have written them."""
    save(tmp_path, "x/good", "scenes", "en", set(range(18)), n=20)
    (result,) = load_results(tmp_path)
    interval = result.intervals.pop(result.metric)
    ((_, words),) = describe_findings(Comparison([result], means=False))
    assert words == "good scores 90.0 % in en."
    result.intervals[result.metric] = interval
    ((_, words),) = describe_findings(Comparison([result], means=False))
    assert re.match(r"good scores 90.0 % \(\d+\.\d to \d+\.\d\) in en\.", words)
