"""The experiment on real pictures: each figure is of the right pictures, and nothing is made twice."""

import json
import re
import shutil
import time

import pytest
import torch
import yaml
from datasets import ClassLabel, Dataset, Image, load_dataset
from PIL import Image as PillowImage
from torch import nn

from benchmarks.bootstrap import compare
from benchmarks.outcomes import RetrievalOutcomes
from benchmarks.results import Result, load_results
from common.errors import InputError
from common.recipe import parse
from training import experiment as shared
from training.experiment import MADE_BY, make_once, seconds_to_make
from training.photographs import comparison as compared
from training.photographs import curves
from training.photographs.comparison import Comparison, compare_models, plot_comparison, save_comparison
from training.photographs.curves import curve_trainings, describe_plan, round_to_four_bits
from training.photographs.descriptions import plain
from training.photographs.dictionary import (
    BY_DICTIONARY,
    FOUND,
    IN_FOLDERS,
    Dictionary,
    Translation,
    build_dictionaries,
    count_pairs,
    units_of,
    write_baselines,
)
from training.photographs.experiment import (
    TEXT,
    PhotographsArguments,
    align,
    evaluate_baselines,
    evaluate_students,
    evaluation_record,
    table_trainings,
    train,
    translate_test,
)
from training.photographs.page import Answer, Query, choose_queries, render_page, save_page
from training.photographs.scores import COLUMNS, PictureMean, Results, score_table
from training.photographs.verdicts import bound_losses, compare_languages, difference_of_means, judge

from .conftest import ROOT

RECIPE = ROOT / "training/recipes/photographs/experiment.yaml"
N = 200  # pictures of the synthetic test
# The pictures that have a caption in each language.
DESCRIBED = {"en": range(N), "de": range(180), "fr": range(20, N), "fi": range(10, 190)}
# How many more pictures than 40 a model fails to find, by column and language.
MISSED = {
    ("before", "en"): 150,
    ("before", "de"): 130,
    ("before", "fr"): 130,
    ("before", "fi"): 130,
    ("dictionary", "de"): 60,
    ("dictionary", "fr"): 60,
    ("linear_head", "fi"): 40,
    ("stage1", "fr"): 50,
    ("stage2", "fr"): 10,
}


@pytest.fixture
def arguments(tmp_path):
    """Return arguments of four languages, of which Finnish is not trained."""
    return PhotographsArguments(
        pictures=str(tmp_path / "pictures"),
        teacher=str(tmp_path / "teacher.yaml"),
        linear_head=str(tmp_path / "linear_head.yaml"),
        stage1=str(tmp_path / "stage1.yaml"),
        stage2=str(tmp_path / "stage2.yaml"),
        trained=["en", "de", "fr"],
        unseen=["fi"],
        n_resamples=400,
        output_dir=str(tmp_path / "out"),
    )


def outcomes(language, n_missed):
    """Return outcomes of which 40 queries, and so many more, find nothing, in both directions."""
    n = len(DESCRIBED[language])
    ranks = torch.where(torch.arange(n) < 40 + n_missed, 100, 0)
    return RetrievalOutcomes(ranks, ranks, torch.arange(n), rows=torch.tensor(DESCRIBED[language]))


def save(arguments, name, column, language, n_missed, *, images="same"):
    """Save a synthetic result of a column in a language."""
    found = outcomes(language, n_missed)
    task = {"teacher": "photographs-english", "dictionary": "photographs-dictionary"}
    result = Result(
        model=f"made/{name}",
        task=task.get(column, "photographs"),
        kind="retrieval",
        language=language,
        metric="mean_recall",
        metrics=found.metrics(),
        dataset="",
        split="",
        weights="",
        command="",
        n_rows=N,
        images=f"{images} in {language}",
    )
    result.save(f"{arguments.output_dir}/results", found)


@pytest.fixture
def results(arguments):
    """Save synthetic results of all columns, with `MISSED`, and read them."""
    for name, column in COLUMNS.items():
        for language in DESCRIBED:
            if name != "dictionary" or language in ("de", "fr"):
                model = column.model.format(seed=1)
                save(arguments, model, name, language, MISSED.get((name, language), 0))
    return read(arguments)


def read(arguments):
    return Results(load_results(f"{arguments.output_dir}/results"), arguments)


def test_the_table_has_every_language_and_column(results):
    table = score_table(results)
    groups = ["en", "de", "fr", "trained, mean without en", "fi", "never trained, mean"]
    assert list(table) == groups
    for group, columns in table.items():
        # English and languages without text have no dictionary.
        has_dictionary = group in ("de", "fr", "trained, mean without en")
        expected = [name for name in COLUMNS if name != "dictionary" or has_dictionary]
        assert list(columns) == expected
    # Of 180 pictures with French captions 40 are not found by the teacher, and 90 after stage 1.
    assert table["fr"]["teacher"].value == pytest.approx(140 / 180)
    assert table["fr"]["stage1"].value == pytest.approx(90 / 180)
    assert table["en"]["teacher"].value == pytest.approx(160 / 200)
    mean = table["trained, mean without en"]["stage1"]
    assert mean.value == pytest.approx((140 / 180 + 90 / 180) / 2)
    assert mean.low < mean.value < mean.high
    assert results.n_pictures("fi") == 180


def test_a_planted_difference_is_found_and_none_is_not(results):
    languages = ["en", "de", "fr"]
    bounds = bound_losses(results, [("stage1", language) for language in languages])
    assert [bound.p <= 0.05 for bound in bounds] == [True, True, False]
    assert [round(180 * bound.difference) for bound in bounds] == [0, 0, -50]
    # Two of three are significant: that they lose less than the margin is all that is known of them.
    assert [bound.bound for bound in bounds[:2]] == [-0.02, -0.02]
    assert bounds[2].bound < -50 / 180

    gains = compare_languages(results, COLUMNS["stage2"], COLUMNS["stage1"], ["de", "fr"])
    assert [gains[language].is_shown for language in ("de", "fr")] == [False, True]
    assert gains["fr"].difference == pytest.approx(40 / 180)
    # Holm: the smaller of two p-values is doubled.
    assert gains["fr"].adjusted == pytest.approx(2 * gains["fr"].p)
    none = difference_of_means(results, COLUMNS["stage1"], COLUMNS["teacher"], ["en"])
    assert (none.difference, none.p) == (0, 1)


def test_each_claim_has_a_verdict(results):
    verdicts = {verdict.claim.split(",")[0]: verdict for verdict in judge(results)}
    shown = {claim: verdict.outcome for claim, verdict in verdicts.items()}
    assert shown == {
        "Teacher learning reaches the teacher": "not shown",
        "Teacher learning lifts other languages": "shown",
        "Contrastive learning lifts retrieval": "shown",
        "English is kept": "shown",
        "Languages that were never trained follow": "shown",
        "Stage 1 is above a translation of the query by a dictionary": "shown",
    }
    reached = verdicts["Teacher learning reaches the teacher"].figures
    assert "2 of 3 trained languages (en de); the worst is fr, -27.8" in reached
    assert "1 gain (fr) and 0 lose" in verdicts["Contrastive learning lifts retrieval"].figures


def test_what_is_worse_is_not_called_better(arguments, results):
    save(arguments, "stage2-1", "stage2", "fr", 110)
    verdicts = {verdict.claim: verdict for verdict in judge(read(arguments))}
    lifts = verdicts["Contrastive learning lifts retrieval"]
    assert lifts.outcome == "the opposite is shown"
    assert "0 gain and 1 lose (fr)" in lifts.figures


def test_the_mean_over_languages_draws_pictures(results):
    whole = PictureMean([outcomes("en", 0)], N)
    other = PictureMean([outcomes("en", 30)], N)
    # Of one language that all pictures have, it is the paired test of its outcomes.
    assert compare(whole, other, 400) == compare(outcomes("en", 0), outcomes("en", 30), 400)

    # Of German the pictures 0 to 39 are not found, and of French, which begins with 20, those to 59.
    both = PictureMean([outcomes("de", 0), outcomes("fr", 0)], N)
    weights = torch.zeros(3, N)
    weights[[0, 1, 2], [20, 45, 150]] = 1
    assert both.score(weights)["mean_recall"].tolist() == [0, 0.5, 1]
    # One picture differs, of the row that it has in the test.
    differs = both.differing(PictureMean([outcomes("de", 0), outcomes("fr", 1)], N))
    assert differs["mean_recall"].nonzero().flatten().tolist() == [60]


def test_results_of_other_pictures_or_none_are_refused(arguments, results):
    save(arguments, "linear_head", "linear_head", "fr", 0, images="others")
    with pytest.raises(InputError, match=r"linear_head/photographs.fr.json is of other pictures than"):
        score_table(read(arguments))
    (arguments.folder("results") / "stage1-1/photographs.fr.json").unlink()
    with pytest.raises(InputError, match="no result of stage1-1 on photographs in 'fr'"):
        judge(read(arguments))


def test_several_seeds_are_a_mean_with_its_spread(arguments, results):
    arguments.full = True
    arguments.seeds = [1, 2]
    for language in DESCRIBED:
        for stage in ("stage1", "stage2"):
            save(arguments, f"{stage}-2", stage, language, 20)
        for seed in (1, 2):
            save(arguments, f"stage2_english-{seed}", "stage2", language, 60)
    found = read(arguments)
    score = found.score(COLUMNS["stage1"], ["en"])
    assert score.seeds == pytest.approx([0.8, 0.7])
    assert score.value == pytest.approx(0.75)
    assert score.to_cell().startswith("75.0 ± 7.1 (")
    assert found.score(COLUMNS["teacher"], ["en"]).to_cell().startswith("80.0 (")
    parallel = judge(found)[-1]
    assert parallel.claim == "Parallel captions in stage 2 are above English captions alone"
    assert parallel.outcome == "shown"


def test_the_report_has_each_figure_in_its_place(arguments, results, tmp_path, monkeypatch):
    made = Comparison(
        arguments=arguments,
        table=score_table(results),
        n_pictures={language: results.n_pictures(language) for language in arguments.languages},
        verdicts=judge(results),
        accuracies={},
        found={"de": 0.5, "fr": 0.25},
    )
    rows = [re.split(r" *\| *", line)[1:-1] for line in made.to_markdown().splitlines() if "|" in line]
    assert rows[0] == ["language", "n", *(column.title for column in COLUMNS.values())]
    by_label = {row[0]: row[1:] for row in rows}
    assert by_label["fr, trained"][0] == "180"
    assert by_label["fr, trained"][5].startswith("50.0 (")
    assert by_label["fi, never trained"][3] == "–"
    assert "have 38% of the words" in made.to_markdown()
    assert "from 25% in fr to 50% in de" in made.to_markdown()

    content = json.loads(made.to_json())
    assert content["mean_recall"]["fr"]["stage1"]["value"] == pytest.approx(0.5)
    assert content["verdicts"]["English is kept"]["tests"].keys() == {"stage1", "stage2"}

    figures = []
    monkeypatch.setattr(compared, "save_figure", lambda figure, picture, dpi: figures.append(figure))
    plot_comparison(made, tmp_path / "photographs.png")
    (axes,) = figures[0].axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels[:4] == ["en (200)", "de (180)", "fr (180)", "trained, mean without en"]
    assert len(axes.containers) == len(COLUMNS)


ROWS = [
    {"en": ["A Dog"], "de": ["ein Hund", "der Hund"], "ja": ["犬"], "fr": None},
    {"en": ["a dog"], "de": ["Ein Hund!"], "ja": None, "fr": ["l'oiseau"]},
    {"en": ["one hound"], "de": ["ein Hund"], "ja": None, "fr": ["un chien"]},
    {"en": ["and"], "de": ["und"], "ja": ["と"], "fr": ["oiseau"]},
    {"en": ["one"], "de": ["ein"], "ja": None, "fr": None},
]


def test_a_dictionary_translates_the_longest_phrases():
    rows = Dataset.from_list([{"captions": captions} for captions in ROWS])
    dictionaries = build_dictionaries(rows, ["en", "de", "ja", "fr"])
    assert list(dictionaries) == ["de", "ja", "fr"]
    # "ein Hund" stands twice beside "a dog", and once beside "one hound".
    german = dictionaries["de"]
    assert german.english == {"ein hund": "a dog", "der hund": "a dog", "und": "and", "ein": "one"}
    assert german.translate("EIN HUND und zwei Katzen.") == Translation("a dog and zwei katzen", 3, 5)
    assert german.translate("ein") == Translation("one", 1, 1)
    assert german.translate("hund ein katze") == Translation("hund one katze", 1, 3)
    assert german.translate("...") == Translation("...", 0, 0)
    # Without spaces between words, unknown characters stay together.
    assert dictionaries["ja"].translate("白い犬と猫。") == Translation("白い a dog and 猫", 2, 5)
    # An apostrophe divides words.
    assert dictionaries["fr"].translate("L’oiseau") == Translation("a dog", 2, 2)
    assert count_pairs(rows, ["en", "de", "fr"]) == 6 + 3


def test_texts_are_normalized_as_the_dictionary_is():
    assert plain("  Ｌ'Oiseau -- BLEU! ") == "l oiseau bleu"
    assert units_of("हिन्दी में", "hi") == ["हिन्दी", "में"]  # vowel signs are no punctuation
    assert units_of("白い 犬", "ja") == ["白", "い", "犬"]
    assert Dictionary("de", {}).translate("Katze") == Translation("katze", 0, 1)


CAPTIONS = [
    {"en": "A dog.", "de": "Ein Hund.", "fr": None},
    {"en": "A cat.", "de": None, "fr": "Un chat."},
    {"en": "A cow.", "de": "Eine Kuh.", "fr": " "},
]


def save_pictures(folder, captions, labels, split="test"):
    """Save pictures of one colour each as a dataset, with captions and labels."""
    rows = []
    for place, (of_row, label) in enumerate(zip(captions, labels)):
        image = PillowImage.new("RGB", (32, 32), (8 * place % 256, 90, 200 - place))
        rows.append({"image": image, "captions": of_row, "label": label, "file": f"{place}.png"})
    dataset = Dataset.from_list(rows).cast_column("image", Image())
    dataset = dataset.cast_column("label", ClassLabel(names=["pet", "cow"]))
    (folder / "data").mkdir(parents=True, exist_ok=True)
    dataset.to_parquet(folder / f"data/{split}.parquet")
    (folder / "class_names.json").write_text(json.dumps({"en": ["pet", "cow"]}))


def test_baselines_are_of_the_same_pictures(tmp_path):
    save_pictures(tmp_path / "pictures", CAPTIONS, [0, None, 1])
    dictionaries = {"de": Dictionary("de", {"ein": "a", "hund": "dog"}), "fr": Dictionary("fr", {})}
    shares = write_baselines(str(tmp_path / "pictures"), dictionaries, ["en", "de", "fr"], str(tmp_path))
    assert shares == {"de": 0.5, "fr": 0}
    assert json.loads((tmp_path / BY_DICTIONARY / FOUND).read_text()) == shares

    rows = load_dataset(str(tmp_path / BY_DICTIONARY), split="test")
    assert rows["captions"][:] == [
        {"de": "a dog", "fr": None},
        {"de": None, "fr": "un chat"},
        {"de": "eine kuh", "fr": None},
    ]
    assert rows["english"][:] == [
        {"en": "A dog.", "de": "A dog.", "fr": None},
        {"en": "A cat.", "de": None, "fr": "A cat."},
        {"en": "A cow.", "de": "A cow.", "fr": None},
    ]
    pictures = load_dataset(str(tmp_path / "pictures"), split="test")
    for name, kept in ((BY_DICTIONARY, [0, 1, 2]), (IN_FOLDERS, [0, 2])):
        copied = load_dataset(str(tmp_path / name), split="test").cast_column("image", Image(decode=False))
        own = pictures.cast_column("image", Image(decode=False)).select(kept)
        assert [image["bytes"] for image in copied["image"]] == [image["bytes"] for image in own["image"]]
    assert load_dataset(str(tmp_path / IN_FOLDERS), split="test")["label"][:] == [0, 1]


def test_queries_are_drawn_by_the_seed():
    captions = []
    for row in range(40):
        of_row = {"en": f"en {row}"}
        for language in ("de", "fr", "es", "it", "nl", "pt", "fi", "sv", "da", "el"):
            of_row[language] = None if language == "fi" and row % 2 else f"{language} {row}"
        captions.append(of_row)
    trained = ["en", "de", "fr", "es", "it", "nl", "pt"]
    unseen = ["fi", "sv", "da", "el"]
    queries = choose_queries(captions, trained, unseen, seed=1)
    assert queries == choose_queries(captions, trained, unseen, seed=1)
    assert queries != choose_queries(captions, trained, unseen, seed=2)
    assert len({query.row for query in queries}) == 12
    assert len({query.language for query in queries}) == 8
    assert len({query.language for query in queries} & set(unseen)) == 3
    assert "en" not in {query.language for query in queries}
    for query in queries:
        assert query.text == f"{query.language} {query.row}"
        assert query.english == f"en {query.row}"


def test_a_page_shows_hostile_captions_as_text():
    hostile = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>"
    test = Dataset.from_list([{"captions": {"en": hostile}}, {"captions": {"en": "a cat"}}])
    images = [PillowImage.new("RGB", (300, 200), color) for color in ("red", "blue")]
    query = Query('de" onload="x', hostile, hostile, 0)
    page = render_page([(query, (Answer("stage <1>", [1, 0], 2),))], test, images, 1, ["en"])
    assert "<script" not in page
    assert "onerror=alert(1)>" not in page.replace("&gt;", "")
    assert 'lang="de&#34; onload=&#34;x"' in page
    assert "stage &lt;1&gt;" in page
    assert page.count("<img") == 2
    # The second picture is the right one.
    assert re.findall(r"<img( class=\"right\")? src=\"data:image/jpeg;base64,", page) == [
        "",
        ' class="right"',
    ]
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert "place 2" in page
    assert "GNU General Public License, version 2" in page


def write_recipes(arguments, **stage1):
    """Write recipes that are read, but not run."""
    content = {
        "text_encoder_name_or_path": "text",
        "dataset": "text",
        "output_dir": "out",
        "max_steps": 80,
        "use_cpu": True,
        "report_to": "none",
    }
    for name in ("teacher", "linear_head", "stage1", "stage2"):
        with open(getattr(arguments, name), "w") as file:
            yaml.safe_dump(content | stage1, file)


def test_the_plan_of_full_counts_every_training(arguments, tmp_path):
    for name, n_rows in {"first": 300, "second": 200}.items():
        (tmp_path / "text" / name).mkdir(parents=True)
        Dataset.from_dict({"en": ["a"] * n_rows}).to_parquet(tmp_path / "text" / name / "part.parquet")
    (tmp_path / "text/list.yaml").write_text("- {data: first, weight: 3}\n- {data: second}\n")
    write_recipes(arguments, dataset=str(tmp_path / "text/list.yaml"))
    assert [training.name for training in table_trainings(arguments)] == ["stage1-1", "stage2-1"]

    arguments.full = True
    arguments.step_shares = [0.25, 0.5]
    arguments.curve_share = 0.25
    arguments.pairs = [100, 1000, 9000]
    arguments.n_languages = [1, 2, 3]
    arguments.ablations = ["capacity --text_head mlp"]
    record = arguments.folder(BY_DICTIONARY)
    record.mkdir(parents=True)
    (record / TEXT).write_text('{"rows": 500, "pairs": 5000}')
    listed = [*table_trainings(arguments), *curve_trainings(arguments)]
    trainings = {training.name: training for training in listed}
    per_seed = [f"{stage}-{seed}" for seed in (1, 2, 3) for stage in ("stage1", "stage2", "stage2_english")]
    # 9,000 pairs and three languages are more than all, or all.
    of_curves = ["steps_20", "steps_40", "random_20", "random_40"]
    of_curves += ["pairs_100", "pairs_1000", "languages_1", "languages_2", "capacity"]
    assert list(trainings) == per_seed + of_curves
    assert trainings["steps_20"].flags == ["--seed", "1", "--max_steps", "20"]
    in_20_steps = trainings["steps_20"].flags
    assert trainings["languages_2"].flags == [*in_20_steps, "--languages", "en", "de"]
    assert trainings["capacity"].flags == [*in_20_steps, "--text_head", "mlp"]
    # 5,000 pairs are in 500 rows, so that 100 of them are in 10.
    first, second = yaml.safe_load(open(trainings["pairs_100"].flags[-1]))
    assert first == {"data": str(tmp_path / "text/first"), "rows": 6, "weight": 3}
    assert second == {"data": str(tmp_path / "text/second"), "rows": 4}
    assert trainings["random_40"].flags[-2:] == ["--initialize_projection", "random"]

    # The first one took ten minutes, nine of them in steps. Of the others eight are whole, two half, seven a
    # quarter as long: 17 starts of a minute, 9 * (8 + 1 + 7 / 4) minutes of steps and 17 evaluations of two.
    assert describe_plan(list(trainings.values()), arguments) == "18 trainings, 18 of them to do."
    first = arguments.folder("stage1-1")
    save_record(first, 600.0)
    log = {"log_history": [{"step": 80, "train_runtime": 540.0}]}
    (first / "trainer_state.json").write_text(json.dumps(log))
    assert describe_plan(list(trainings.values()), arguments) == "18 trainings, 17 of them to do."
    save_record(evaluation_record("linear_head", arguments.retrieval, arguments), 120.0)
    assert describe_plan(list(trainings.values()), arguments) == (
        "18 trainings, 17 of them to do: about 2.5 hours with their evaluation, since the first one took "
        "10.0 minutes and an evaluation 2.0."
    )


def save_record(folder, seconds):
    """Save what `make_once` writes of a folder that it took so long to make."""
    folder.mkdir(parents=True)
    (folder / MADE_BY).write_text("")
    (folder / "made_in_seconds.txt").write_text(f"{seconds}\n")


def test_the_time_of_making_is_remembered(tmp_path):
    assert seconds_to_make(tmp_path / "made") is None
    make_once(tmp_path / "made", "by this", lambda: time.sleep(0.2))
    assert seconds_to_make(tmp_path / "made") >= 0.2


def test_text_of_unknown_size_has_no_curve(arguments, tmp_path):
    (tmp_path / "list.yaml").write_text("- {data: a.tsv}\n- {data: b.tsv}\n")
    write_recipes(arguments, dataset=str(tmp_path / "list.yaml"))
    arguments.full = True
    arguments.pairs = [10]
    record = arguments.folder(BY_DICTIONARY)
    record.mkdir(parents=True)
    (record / TEXT).write_text('{"rows": 500, "pairs": 5000}')
    with pytest.raises(InputError, match="reads .*a.tsv.*a part of each source: clean the text"):
        curve_trainings(arguments)


@pytest.mark.parametrize(
    "flags,message",
    [
        (["--margin", "0"], "margin is 0.0: give the points above 0"),
        (["--trained", "de", "en"], "trained is de en: begin with en"),
        (["--unseen", "de", "fi"], "unseen has de, which trained has too"),
        (["--n_languages", "4", "40"], "n_languages has 40, and trained 17 languages"),
        (["--step_shares", "2"], "give shares between 0 and 1"),
        (["--curve_share", "0.3"], "curve_share is 0.3: give 1, or one of step_shares"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(flags, message):
    with pytest.raises(InputError, match=message):
        parse(PhotographsArguments, arguments=[str(RECIPE), *flags])


def test_four_bits_have_sixteen_values_a_block():
    torch.manual_seed(0)
    module = nn.Linear(64, 4)
    before = module.weight.detach().clone()
    bias = module.bias.detach().clone()
    round_to_four_bits(module)
    assert torch.equal(module.bias, bias)
    for block, original in zip(module.weight.reshape(-1, 32), before.reshape(-1, 32)):
        assert 2 < len(block.unique()) <= 16
        # No value moves by more than half a step, but the one opposite to the largest: 7 is the last step.
        assert (block - original).abs().max() <= original.abs().max() / 8 * 1.01
    odd = nn.Linear(20, 4)
    kept = odd.weight.detach().clone()
    round_to_four_bits(odd)
    assert torch.equal(odd.weight, kept)


LANGUAGES = ["en", "zh", "es", "fr"]


@pytest.fixture
def small(arguments, miniature, tmp_path):
    """Return arguments of an experiment on twelve scenes of the miniature, in four languages."""
    scenes = load_dataset(str(miniature / "dataset"), split="test_pairs").select(range(12))
    captions = []
    for row, of_row in enumerate(scenes["captions"]):
        # As in real data, captions are missing.
        captions.append({language: of_row[language] for language in LANGUAGES} | {"pl": None})
        if row % 3 == 0:
            captions[-1]["zh"] = None
    save_pictures(tmp_path / "pictures", captions, [0, 1, None] * 4)

    arguments.trained = ["en", "zh", "es"]
    arguments.unseen = ["fr"]
    tasks = {"retrieval": "captions", "english": "english", "dictionary": "captions"}
    for name, column in tasks.items():
        of_task = {
            "kind": "retrieval",
            "dataset": "made",
            "split": "test",
            "metric": "mean_recall",
            "columns": {"image": "image", "captions": column},
            "languages": ["zh", "es"] if name == "dictionary" else LANGUAGES,
        }
        path = tmp_path / f"test-{name}.yaml"
        path.write_text(yaml.safe_dump(of_task))
        setattr(arguments, name, str(path))
    folders = {
        "kind": "zero_shot",
        "dataset": "made",
        "split": "test",
        "metric": "accuracy@1",
        "columns": {"image": "image", "label": "label"},
        "class_names": {"en": ["pet", "cow"]},
        "templates": ["A {}."],
    }
    (tmp_path / "folders.yaml").write_text(yaml.safe_dump(folders))
    arguments.folders = str(tmp_path / "folders.yaml")
    encoder = str(miniature / "text_encoder")
    write_recipes(arguments, text_encoder_name_or_path=encoder, dataset=str(miniature / "dataset"))
    return arguments


def test_all_columns_are_made_once_and_of_the_same_pictures(
    small, miniature, altclip_folder, run_python, monkeypatch
):
    """Trainings are replaced by copies of a small model; all the rest is what it is."""
    ran = []

    def run(script, *flags):
        ran.append(script)
        flags = [str(flag) for flag in flags]
        if script.startswith("benchmarks"):
            process = run_python("python", ROOT / script, *flags)
            assert process.returncode == 0, process.stderr[-3000:]
            return
        output_dir = flags[flags.index("--output_dir") + 1]
        is_teacher = output_dir.endswith("teacher")
        shutil.copytree(miniature / "clip" if is_teacher else altclip_folder, output_dir, dirs_exist_ok=True)

    monkeypatch.setattr(shared, "run", run)
    # Once would be 400 resamples a test.
    small.n_resamples = 100

    def make():
        align(small)
        translate_test(small)
        evaluate_baselines(small)
        trainings = table_trainings(small)
        for training in trainings:
            train(training, small)
        evaluate_students([training.name for training in trainings], small)

    make()
    assert sum(script.startswith("training") for script in ran) == 4
    assert sum(script.startswith("benchmarks") for script in ran) == 4 + 3 * 2
    n_made = len(ran)
    make()
    assert len(ran) == n_made

    comparison = compare_models(small)
    assert comparison.n_pictures == {"en": 12, "zh": 8, "es": 12, "fr": 12}
    by_task = {}
    for result in load_results(small.folder("results")):
        if result.kind == "retrieval":
            by_task.setdefault(result.language, set()).add((result.metrics["n"], result.images))
    # In each language all models, and all texts, are of the same pictures.
    assert {language: len(pictures) for language, pictures in by_task.items()} == dict.fromkeys(LANGUAGES, 1)
    assert list(comparison.accuracies) == ["teacher", "linear_head", "stage1", "stage2"]
    save_comparison(comparison)
    for name in ("photographs.md", "photographs.json", "photographs.png"):
        assert (small.folder(name)).stat().st_size > 1000

    page = save_page(small).read_text()
    assert page.count("<section>") == 12
    assert page.count('class="answer"') == 36

    # Another recipe of stage 2 makes its model anew, and nothing else.
    with open(small.stage2, "a") as file:
        file.write("seed: 7\n")
    make()
    assert ran[n_made:] == [
        "training/run_stage2.py",
        "benchmarks/run_retrieval.py",
        "benchmarks/run_zero_shot.py",
    ]


def test_a_second_teacher_is_made_with_all_the_rest(small, monkeypatch):
    made = []

    def run(script, *flags):
        folder = flags[flags.index("--output_dir") + 1]
        folder.mkdir(parents=True)
        made.append(folder.name)

    monkeypatch.setattr(shared, "run", run)
    small.english_teacher = small.teacher
    align(small)
    assert made == ["teacher", "linear_head"]
    small.full = True
    align(small)
    assert made == ["teacher", "linear_head", "english_teacher"]


@pytest.mark.parametrize("curve_share", [0.25, 1.0])
def test_curves_end_with_all_steps_text_and_languages(curve_share, arguments, results, monkeypatch):
    write_recipes(arguments)
    arguments.step_shares = [0.25]
    arguments.curve_share = curve_share
    arguments.pairs = [100]
    arguments.n_languages = [2]
    arguments.ablations = ["capacity --text_head mlp"]
    record = arguments.folder(BY_DICTIONARY)
    record.mkdir(parents=True)
    (record / TEXT).write_text('{"rows": 500, "pairs": 5000}')
    not_found = {"steps_20": 80, "random_20": 100, "pairs_100": 60, "languages_2": 60, "capacity": 60}
    for name, n_missed in (not_found | {"four_bits": 60}).items():
        for language in DESCRIBED:
            save(arguments, name, "stage1", language, n_missed)
    monkeypatch.setattr(curves, "_save_four_bits", lambda arguments: None)
    monkeypatch.setattr(curves, "evaluate_retrieval", lambda name, arguments: None)
    curves.measure_curves(arguments)

    content = json.loads(arguments.folder("curves.json").read_text())
    places = {}
    for title, points in content["curves"].items():
        places[title] = [point["x"] for point in points]
    at_random = places.pop("steps, head at random")
    assert at_random == [20]
    assert places == {"steps": [20, 80], "pairs of texts": [100, 5000], "trained languages": [2, 3]}
    first, last = content["curves"]["trained languages"]
    # Two languages were trained: of 200 and of 180 pictures 100 are not found.
    assert first["trained"]["value"] == pytest.approx((100 / 200 + 80 / 180) / 2)
    # Other groups are of the same languages at every point, whatever was trained.
    assert first.keys() == last.keys()
    assert first["English"]["value"] == pytest.approx(100 / 200)
    assert first["all others of the recipe"]["value"] == pytest.approx(80 / 180)
    assert content["ablations"].keys() == {"capacity", "four_bits"}
    assert content["ablations"]["four_bits"]["high"] < 0
    assert content["gains of a head in closed form"].keys() == {"20"}
    assert content["gains of a head in closed form"]["20"]["low"] > 0
    # What they are compared with has been trained for as many steps.
    if curve_share == 1:
        assert last["never trained"]["value"] == pytest.approx(140 / 180)  # the stage 1 of the table
        assert content["ablations"]["capacity"]["high"] < 0
    else:
        assert last["never trained"]["value"] == pytest.approx(60 / 180)
        assert content["ablations"]["capacity"]["low"] > 0
    assert arguments.folder("curves.png").stat().st_size > 5000
