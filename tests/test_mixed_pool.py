"""A mixed-language pool: known preferences of made embeddings, tiles against plain loops, and the command."""

import shutil
from dataclasses import replace

import pytest
import torch
from matplotlib.axes import Axes
from torch.nn.functional import normalize

from benchmarks import mixed_pool
from benchmarks.bootstrap import compare, intervals
from benchmarks.encoder import Encoder
from benchmarks.jobs.report import main as report
from benchmarks.jobs.retrieval import RetrievalArguments
from benchmarks.jobs.retrieval import main as evaluate
from benchmarks.mixed_pool import evaluate_mixed_pool, measure_preference
from benchmarks.outcomes import PoolOutcomes, load_outcomes, number_languages
from benchmarks.report.comparison import Comparison
from benchmarks.report.plots import plot_preferences
from benchmarks.report.selection import ReportArguments
from benchmarks.report.tables import TableArguments
from benchmarks.results import Result, load_results
from benchmarks.tasks.checks import METRICS
from benchmarks.tasks.loading import load_task
from common.errors import InputError
from common.files.rows import load_rows
from common.models.loading import load_model
from model_cards.card import render_card
from model_cards.sections import make_sections

CODES = ["en", "de", "zh", "th"]
DIRECTIONS = ["image_to_text", "text_to_text"]


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def whole_numbers(*shape, seed=0):
    """Return embeddings of few whole numbers: their scores are exact, and many are equal."""
    return torch.randint(-2, 3, shape, generator=torch.Generator().manual_seed(seed)).float()


def metrics_of(images, texts, image_of_text=None):
    """Return the metrics of each language of a pool, with one text an image by default."""
    places = torch.arange(len(images)) if image_of_text is None else image_of_text
    found = measure_preference(images, texts, places, CODES[: len(texts)])
    return {language: outcomes.metrics() for language, outcomes in found.items()}


def plain(queries, image_of_query, texts, image_of_text, given):
    """Count as `PoolOutcomes` explains, one query and one pair of languages after the other.

    Args:
        given: the language of the queries, None of images, which are asked for each language.

    Returns:
        `(queries, languages, 3)`; zeros in other languages than the given one.
    """
    n_languages = len(texts)
    counts = torch.zeros(len(queries), n_languages, 3, dtype=torch.long)
    for number, (query, image) in enumerate(zip(queries, image_of_query)):
        is_right = image_of_text == image
        best_wrong = [(texts[one][~is_right] @ query).max() for one in range(n_languages)]
        best_right = [(texts[one][is_right] @ query).max() for one in range(n_languages)]
        for a in range(n_languages) if given is None else [given]:
            for b in range(n_languages):
                if a == b:
                    continue
                counts[number, a, 0] += best_wrong[a] >= best_right[b]
                # The right text is left out in one language, and then, for an image, in the other.
                for right in [best_right[b], best_right[a]] if given is None else [best_right[b]]:
                    if max(best_wrong[a], best_wrong[b]) < right:
                        continue
                    counts[number, a, 1] += 1
                    counts[number, a, 2] += int(best_wrong[a] >= best_wrong[b]) + int(
                        best_wrong[a] > best_wrong[b]
                    )
    return counts


def plain_ranks(images, texts, image_of_text):
    """Count the wrong texts of all languages that score as much as the best right one of each, up to ten."""
    ranks = torch.zeros(len(images), len(texts), dtype=torch.long)
    for number, image in enumerate(images):
        is_right = image_of_text == number
        wrong = (texts[:, ~is_right] @ image).flatten()
        for language in range(len(texts)):
            best = (texts[language][is_right] @ image).max()
            ranks[number, language] = min(10, int((wrong >= best).sum()))
    return ranks


@pytest.mark.parametrize("tile", [1, 100, 2**24])
@pytest.mark.parametrize("n_languages", [2, 4])
def test_tiles_count_as_plain_loops_do(monkeypatch, tile, n_languages):
    """Compare on scores with many ties, with texts that are equal, and with one to three texts an image."""
    monkeypatch.setattr(mixed_pool, "TILE_SCORES", tile)
    image_of_text = torch.tensor([0, 1, 1, 2, 3, 3, 3, 4, 5, 6, 6, 7, 8])
    images = whole_numbers(9, 4)
    texts = images[image_of_text] + whole_numbers(n_languages, 13, 4, seed=1)
    texts[1, 3] = texts[0, 7]
    found = measure_preference(images, texts, image_of_text, CODES[:n_languages])

    of_images = plain(images, torch.arange(9), texts, image_of_text, None)
    ranks = plain_ranks(images, texts, image_of_text)
    n_ties = 0
    for number, outcomes in enumerate(found.values()):
        assert torch.equal(outcomes.image_counts, of_images[:, number])
        assert torch.equal(outcomes.image_ranks, ranks[:, number])
        of_texts = plain(texts[number], image_of_text, texts, image_of_text, number)[:, number]
        summed = torch.zeros(9, 3, dtype=torch.long).index_add(0, image_of_text, of_texts)
        assert torch.equal(outcomes.text_counts, summed)
        assert outcomes.n_texts.tolist() == [1, 2, 1, 3, 1, 1, 2, 1, 1]
        assert 0 < of_images[:, number, 0].sum() < 9 * (n_languages - 1)
        n_ties += (of_texts[:, 2] % 2).sum()
    assert n_ties > 0


def test_the_order_of_languages_changes_nothing():
    images, texts = draw(30, 8), draw(3, 30, 8, seed=1)
    one = measure_preference(images, texts, torch.arange(30), ["en", "de", "zh"])
    other = measure_preference(images, texts[[2, 0, 1]], torch.arange(30), ["zh", "en", "de"])
    for language in one:
        assert one[language].metrics() == other[language].metrics()
        assert torch.equal(one[language].items["pool"], other[language].items["pool"])


@pytest.mark.parametrize("noise", [0.0, 0.5, 5.0])
def test_a_model_that_ignores_languages_has_no_preference(noise):
    """Texts are the same in all languages: they tie, and with any number of errors the preference is 0.5."""
    content = normalize(draw(200, 16), dim=1)
    images = normalize(content + noise * draw(200, 16, seed=1), dim=1)
    for metrics in metrics_of(images, content.repeat(3, 1, 1)).values():
        assert [metrics[f"{direction}_preference"] for direction in DIRECTIONS] == [0.5, 0.5]
        # A translation is as near as the text itself, while an image may be nearer to the texts of another.
        assert metrics["text_to_text_overtaken"] == 0
        errors = 1 - ((images @ content.T).argmax(1) == torch.arange(200)).double().mean()
        assert metrics["image_to_text_overtaken"] == pytest.approx(errors)
        assert (errors > 0) == (noise > 0)


def test_noise_of_its_own_in_each_language_is_no_preference():
    """Understand all languages equally badly: the intervals of about 95 % of the preferences hold 0.5."""
    content = draw(300, 16)
    images = normalize(content, dim=1)
    texts = normalize(content + 2 * draw(4, 300, 16, seed=1), dim=2)
    holds = []
    for outcomes in measure_preference(images, texts, torch.arange(300), CODES).values():
        ends = intervals(outcomes, n_resamples=200)
        metrics = outcomes.metrics()
        for direction in DIRECTIONS:
            low, high = ends[f"{direction}_preference"]
            holds.append(low <= 0.5 <= high)
            assert metrics[f"{direction}_preference"] == pytest.approx(0.5, abs=0.05)
            assert metrics[f"{direction}_overtaken"] > 0.5
    assert sum(holds) >= 7


@pytest.mark.parametrize("noise", [0.0, 5.0])
def test_a_model_that_goes_by_language_prefers_it_wholly(noise):
    """Put languages on axes of their own, far longer than content.

    Texts prefer their own language, and images, which lie between, the languages in an order.
    """
    content = normalize(draw(50, 16), dim=1)
    texts = normalize(content + noise * draw(3, 50, 16, seed=1), dim=2)
    axes = torch.eye(3).repeat_interleave(50, 0).view(3, 50, 3)
    # 10 for the first language, 5 for the second, 0 for the third.
    of_images = torch.tensor([10.0, 5.0, 0.0]).expand(50, 3)
    found = metrics_of(torch.cat([content, of_images], 1), torch.cat([texts, 10 * axes], 2))
    for metrics in found.values():
        assert metrics["text_to_text_preference"] == 1
        assert metrics["text_to_text_overtaken"] == 1
    first, second, third = found.values()
    assert first["image_to_text_preference"] == first["image_to_text_overtaken"] == 1
    # The second is always ahead of the third, and never of the first.
    assert second["image_to_text_overtaken"] == 0.5
    assert second["image_to_text_preference"] == pytest.approx(0.5, abs=0.2)
    assert third["image_to_text_preference"] == third["image_to_text_overtaken"] == 0
    # Only a text in the first language is before the wrong ones of that language.
    assert third["image_to_text_recall@10"] == 0


def test_a_collapsed_model_prefers_nothing_and_finds_nothing():
    one = normalize(draw(1, 8), dim=1)
    for metrics in metrics_of(one.expand(40, 8), one.expand(3, 40, 8)).values():
        assert metrics["image_to_text_recall@10"] == 0
        assert metrics["image_to_text_overtaken"] == metrics["text_to_text_overtaken"] == 1
        assert metrics["image_to_text_preference"] == metrics["text_to_text_preference"] == 0.5


def test_equal_texts_tie_where_a_product_rounds_them_apart(monkeypatch):
    """Round each text's score by its place: the texts of two languages are still the same."""
    exact = mixed_pool.pair_scores

    def rounded(queries, texts, distance):
        return exact(queries, texts, distance) + 1e-3 * torch.arange(len(texts)) / len(texts)

    images = normalize(draw(50, 8), dim=1)
    texts = normalize(draw(50, 8, seed=1), dim=1).repeat(2, 1, 1)
    before = metrics_of(images, texts)
    monkeypatch.setattr(mixed_pool, "pair_scores", rounded)
    after = metrics_of(images, texts)
    assert [after[code]["image_to_text_preference"] for code in ("en", "de")] == [0.5, 0.5]
    assert after["en"] == after["de"]
    assert before["en"]["image_to_text_preference"] == 0.5


def test_by_hand():
    """Two images; of the German texts one is nearer to the other image than the English text is."""
    images = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    english = torch.tensor([[0.5, 0.1], [0.3, 0.6]])
    german = torch.tensor([[0.9, 0.8], [0.0, 0.9]])
    found = measure_preference(images, torch.stack([english, german]), torch.arange(2), ["en", "de"])
    # Image 0: right en 0.5, de 0.9; wrong en 0.3, de 0.0. No error.
    # Image 1: right en 0.6, de 0.9; wrong en 0.1, de 0.8. German 0.8 is ahead of English 0.6.
    assert found["en"].image_counts.tolist() == [[0, 0, 0], [0, 1, 0]]
    assert found["de"].image_counts.tolist() == [[0, 0, 0], [1, 1, 2]]
    assert found["en"].image_ranks.tolist() == [0, 1]
    # English text 0: right de 0.53; wrong en 0.21, de 0.09. Text 1: right de 0.54; wrong en 0.21, de 0.75.
    assert found["en"].text_counts.tolist() == [[0, 0, 0], [0, 1, 0]]
    # German text 0: right en 0.53; wrong en 0.75, de 0.72. Text 1: right en 0.54; wrong en 0.09, de 0.72.
    assert found["de"].text_counts.tolist() == [[1, 1, 0], [1, 1, 2]]
    metrics = found["de"].metrics()
    assert metrics["image_to_text_overtaken"] == 0.5
    assert metrics["image_to_text_preference"] == 1
    assert metrics["text_to_text_overtaken"] == 1
    assert metrics["text_to_text_preference"] == 0.5
    assert (metrics["n"], metrics["n_texts"]) == (2, 4)


def test_euclidean_distance_orders_by_distance():
    """Of embeddings that are not normalized a product prefers the long ones, and the distance does not."""
    images = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    texts = torch.stack([images, 9 * torch.tensor([[1.0, 0.2], [0.2, 1.0]])])
    by_distance = measure_preference(images, texts, torch.arange(2), ["en", "de"], distance="euclidean")
    by_product = measure_preference(images, texts, torch.arange(2), ["en", "de"])
    assert by_distance["en"].metrics()["image_to_text_preference"] == 1
    assert by_product["de"].metrics()["image_to_text_preference"] == 1


def test_models_are_compared_in_the_same_pool():
    images, texts = draw(60, 8), draw(3, 60, 8, seed=1)
    places = torch.arange(60)
    preferring = texts + torch.tensor([3.0, 0.0, 0.0])[:, None, None] * images.mean(0)
    first = measure_preference(images, preferring, places, CODES[:3])["en"]
    second = measure_preference(images, texts, places, CODES[:3])["en"]
    difference = compare(first, second, n_resamples=100)["image_to_text_preference"]
    expected = first.metrics()["image_to_text_preference"] - second.metrics()["image_to_text_preference"]
    assert difference.difference == pytest.approx(expected)
    assert difference.low <= difference.difference <= difference.high
    # Equal outcomes do not differ in anything.
    assert {found.p for found in compare(first, first, n_resamples=40).values()} == {1.0}

    others = measure_preference(images, texts, places, ["en", "de", "ko"])["en"]
    with pytest.raises(InputError, match="their pool differ"):
        compare(first, others, n_resamples=40)


def test_images_differ_in_the_metrics_that_their_counts_are_of():
    """Of two images the first has a wrong answer in the other language, and the second another rank."""
    pool = number_languages("en", ["en", "de"])
    image_counts = torch.tensor([[0, 1, 0], [0, 0, 0]])
    text_counts = torch.tensor([[1, 1, 2], [1, 1, 1]])
    first = PoolOutcomes(torch.tensor([0, 0]), image_counts, text_counts, torch.ones(2).long(), pool)
    second = replace(
        first,
        image_counts=image_counts + torch.tensor([[0, 0, 2], [0, 0, 0]]),
        image_ranks=torch.tensor([0, 3]),
    )
    differing = {name: units.tolist() for name, units in first.differing(second).items()}
    assert differing["image_to_text_preference"] == [True, False]
    assert differing["image_to_text_overtaken"] == [False, False]
    assert differing["text_to_text_preference"] == differing["text_to_text_overtaken"] == [False, False]
    assert differing["image_to_text_recall@1"] == [False, True]
    assert differing["image_to_text_recall@4"] == [False, False]


def test_outcomes_are_kept(tmp_path):
    outcomes = measure_preference(draw(9, 4), draw(2, 9, 4, seed=1), torch.arange(9), ["en", "de"])["de"]
    outcomes.save(tmp_path / "pool.npz")
    loaded = load_outcomes(tmp_path / "pool.npz")
    assert isinstance(loaded, PoolOutcomes)
    assert loaded.metrics() == outcomes.metrics()
    assert torch.equal(loaded.pool, outcomes.pool)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_counts": [[0, 3, 0]] * 2}, "image_counts of item 0 are .0, 3, 0., which no query can have"),
        ({"image_counts": [[2, 1, 0]] * 2}, "which no query can have"),
        ({"text_counts": [[0, 1, 3], [0, 0, 0]]}, "text_counts of item 0"),
        ({"text_counts": [[-1, 0, 0], [0, 0, 0]]}, "text_counts of item 0"),
        ({"text_counts": [[0, 0], [0, 0]]}, "text_counts has the shape .2, 2.: give .images, 3."),
        ({"text_counts": [[0, 0, 0]]}, "text_counts has 1 entries for 2 items"),
        ({"image_ranks": [0, -1]}, "image_ranks must be a list of numbers from 0"),
        ({"n_texts": [1, 0], "text_counts": [[0, 0, 0]] * 2}, "n_texts has a 0: every image in the pool has"),
        ({"pool": [7]}, "pool has the shape .1,.: give two languages or more"),
    ],
)
def test_impossible_outcomes_are_refused(changes, message):
    given = {
        "image_ranks": [0, 1],
        "image_counts": [[0, 1, 0]] * 2,
        "text_counts": [[0, 1, 0]] * 2,
        "n_texts": [1, 1],
        "pool": number_languages("en", ["de", "en"]).tolist(),
    }
    tensors = {name: torch.tensor(values) for name, values in (given | changes).items()}
    with pytest.raises(InputError, match=message):
        PoolOutcomes(**tensors)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_embeds": draw(2, 5, 3)}, "text_embeds must be .languages, texts, dim., here .2, 5, 4."),
        ({"text_embeds": draw(3, 5, 4)}, "text_embeds must be"),
        ({"languages": ["en", "en"]}, "needs two or more, each once"),
        ({"languages": ["en"], "text_embeds": draw(1, 5, 4)}, "needs two or more"),
        ({"image_of_text": torch.tensor([0, 1, 2, 3, 3])}, "each of the 5 images needs a text"),
        ({"image_of_text": torch.tensor([0, 1, 2, 3, 5])}, "names 5 rows from 0 to 5"),
        ({"image_embeds": draw(1, 4), "image_of_text": torch.zeros(5).long()}, "are of 1 images"),
        ({"image_embeds": draw(5, 4) / 0}, "not finite"),
        ({"text_embeds": draw(2, 5, 4) / 0}, "not finite"),
        ({"text_embeds": draw(2, 5, 4) * 1e38}, "may overflow"),
    ],
)
def test_what_is_no_pool_is_refused(changes, message):
    given = {
        "image_embeds": draw(5, 4),
        "text_embeds": draw(2, 5, 4),
        "image_of_text": torch.arange(5),
        "languages": ["en", "de"],
    }
    with pytest.raises(ValueError, match=message):
        measure_preference(**(given | changes))


class ByNumber(Encoder):
    """Encoder of texts such as `3 de`, of which the number says the place on a circle."""

    def __init__(self):
        """Hold no model."""

    def texts(self, texts):
        angles = torch.tensor([float(text.split()[0]) for text in texts])
        return torch.stack([angles.cos(), angles.sin()], dim=1)


def test_the_pool_has_equally_many_texts_of_each_image(caplog):
    """Leave out the images that lack a language, and the last texts of languages that have more."""
    captions = [
        {"en": ["0 a", "9 b"], "de": "0.1 a"},
        {"en": "1 a", "de": [" ", None]},
        {"en": ["2 a", "2.1 b", "9 c"], "de": ["2.2 a", "", "2.3 b"]},
    ]
    images = ByNumber().texts(["0", "1", "2"])
    found = evaluate_mixed_pool(ByNumber(), images, captions, ["en", "de"])
    assert found["en"].rows.tolist() == found["de"].rows.tolist() == [0, 2]
    assert found["en"].n_texts.tolist() == [1, 2]
    assert found["en"].metrics()["n_texts"] == 6
    assert "1 of 3 images are left out, which lack a language, and 2 texts of the others" in caplog.text

    texts = torch.stack([ByNumber().texts(["0", "2", "2.1"]), ByNumber().texts(["0.1", "2.2", "2.3"])])
    expected = measure_preference(images[[0, 2]], texts, torch.tensor([0, 1, 1]), ["en", "de"])
    for language, outcomes in found.items():
        assert outcomes.metrics() == expected[language].metrics()


@pytest.mark.parametrize(
    ("languages", "message"),
    [
        (["en"], "languages are en: a mixed pool needs two or more"),
        (["en", "de"], "1 of 3 rows have a caption in each of en de: a mixed pool needs two or more"),
    ],
)
def test_too_few_languages_or_images_are_refused(languages, message):
    captions = [{"en": "0 a", "de": "0 b"}, {"en": "1 a", "de": None}, {"en": "2 a", "de": ""}]
    images = ByNumber().texts(["0", "1", "2"])
    with pytest.raises(InputError, match=message):
        evaluate_mixed_pool(ByNumber(), images, captions, languages)


def save_pool(folder, model, languages=CODES, preferred=0.0):
    """Save the results of a model on 40 images; English texts are nearer to all images by `preferred`."""
    content = normalize(draw(40, 8), dim=1)
    texts = normalize(content + 2 * draw(4, 40, 8, seed=1), dim=2)[: len(languages)]
    nearness = torch.zeros(len(languages), 40, 1)
    nearness[0] = preferred
    images = torch.cat([content, torch.ones(40, 1)], 1)
    texts = torch.cat([texts, nearness], 2)
    results = []
    found = measure_preference(images, texts, torch.arange(40), languages)
    for language, outcomes in found.items():
        result = Result(
            model=model,
            task="photos-mixed",
            kind="mixed_pool",
            language=language,
            metric="image_to_text_preference",
            metrics=outcomes.metrics(),
            intervals={name: list(ends) for name, ends in intervals(outcomes, 100).items()},
            dataset="org/photos",
            split="test",
            images="these",
            definition={"pool": languages},
            weights="w" * 64,
            command="run_retrieval.py",
        )
        result.save(folder, outcomes)
        results.append(result)
    return results


@pytest.fixture
def two_models(tmp_path):
    """Save results of a model that prefers no language, and of one that prefers English."""
    save_pool(tmp_path, "org/plain")
    save_pool(tmp_path, "org/preferring", preferred=0.8)
    return tmp_path


def test_the_report_says_which_languages_are_preferred(two_models, capsys):
    metrics = [*METRICS["mixed_pool"], "image_to_text_overtaken", "image_to_text_recall@1"]
    layout = TableArguments(rows="language", columns="model", metrics=metrics)
    report(ReportArguments(output_dir=str(two_models)), layout)
    text = (two_models / "report.md").read_text("utf-8")
    results = load_results(two_models / "preferring")
    of_images = {result.language: 100 * result.metrics["image_to_text_preference"] for result in results}
    lowest = min(of_images, key=of_images.get)
    assert f"from {of_images[lowest]:.1f} in {lowest} to {of_images['en']:.1f} in en" in text
    mean = {}
    for metric in ("text_to_text_preference", "image_to_text_overtaken"):
        mean[metric] = sum(100 * result.metrics[metric] for result in results) / len(results)
    overtaken = f"{mean['image_to_text_overtaken']:.1f} % of cases for images"
    assert f"preferring puts a wrong text ahead of the right text in another language in {overtaken}" in text
    assert f"the text's own language is {mean['text_to_text_preference']:.1f} in the mean, from" in text
    # All languages but English are behind it, and are so by more than chance.
    assert "the intervals of 0 of 4 languages leave out 50 %" in text
    assert "the intervals of 4 of 4 languages leave out 50 %" in text
    assert "what one language gains another one loses. No model is marked as the best." in text
    assert (two_models / "preference.png").stat().st_size > 10_000

    # No model is the best but in recall.
    tables = text.partition("## Sources")[0].partition("## Numbers")[2].split("### photos-mixed, ")[1:]
    by_metric = {table.partition("\n")[0]: table for table in tables}
    assert [name for name, table in by_metric.items() if "**" in table] == ["I2T R@1"]
    assert list(by_metric)[:3] == ["I2T language preference", "T2T language preference", "I2T overtaken"]


def test_the_plot_shows_the_numbers(two_models, monkeypatch):
    drawn = []
    plot = Axes.plot

    def noted(axes, *values, **style):
        drawn.append(values)
        return plot(axes, *values, **style)

    monkeypatch.setattr(Axes, "plot", noted)
    comparison = Comparison(load_results(two_models), means=True)
    plot_preferences(comparison, two_models / "preference.png")
    expected = []
    for metric in ("image_to_text_preference", "text_to_text_preference"):
        for offset, model in ((-0.125, "org/plain"), (0.125, "org/preferring")):
            results = comparison.results_of(model, "photos-mixed")
            for tick, language in enumerate(comparison.languages_of(model, "photos-mixed")):
                expected.append((tick + offset, 100 * results[language].metrics[metric]))
    assert drawn == expected


def test_a_card_says_what_the_share_is(tmp_path):
    results = save_pool(tmp_path, "mine")
    (section,) = make_sections(results, ["mine"])
    card = render_card("Mine", "org/mine", results, ["mine"], license=None, about="A model.")
    assert f"| en       | {100 * results[0].metrics['image_to_text_preference']:.1f}" in section.table(
        ["mine"]
    )
    assert section.table(["mine"]) in card.text
    assert "50 % is no preference" in card.text
    (entry, *_) = card.data.eval_results
    assert entry.metric_type == "image_to_text_preference"
    assert (entry.task_type, entry.task_name) == ("image-feature-extraction", "Image-text retrieval")


def test_a_result_of_another_pool_is_kept(tmp_path):
    save_pool(tmp_path, "mine")
    save_pool(tmp_path, "mine")  # the same once more
    with pytest.raises(InputError, match="en.json is a result of pool .'en', 'de', 'zh', 'th'., not of"):
        save_pool(tmp_path, "mine", ["en", "de"])


@pytest.fixture
def task(miniature, tmp_path):
    """Write a task of the user's own on 30 images of the miniature; return its path."""
    lines = [
        "kind: mixed_pool",
        f"dataset: {miniature / 'dataset'}",
        "split: validation",
        "columns: {image: image, captions: captions}",
        "languages: [en, zh, ar]",
        "metric: image_to_text_preference",
    ]
    path = tmp_path / "find-mixed.yaml"
    path.write_text("\n".join(lines))
    return str(path)


def test_the_command_evaluates_a_mixed_pool(task, altclip_folder, tmp_path, capsys, caplog):
    """Evaluate in all languages, and skip a model that reads English only."""
    copy = tmp_path / "english"
    shutil.copytree(altclip_folder, copy)
    arguments = RetrievalArguments(
        models=[str(altclip_folder), str(copy)],
        english_only=[str(copy)],
        tasks=[task],
        limit=30,
        n_resamples=40,
        cache_dir=str(tmp_path / "cache"),
        output_dir=str(tmp_path / "out"),
    )
    evaluate(arguments, TableArguments())
    assert f"find-mixed: skipped for {copy}, which reads English only" in caplog.text
    table = capsys.readouterr().out
    assert "I2T overtaken" in table
    assert "T2T preference" in table

    results = load_results(tmp_path / "out")
    assert [result.language for result in results] == ["ar", "en", "zh"]
    rows = load_rows(load_task(task).dataset, "validation", []).select(range(30))
    encoder = Encoder(*load_model(str(altclip_folder)))
    images = encoder.images(rows["image"])
    expected = evaluate_mixed_pool(encoder, images, rows["captions"], ["en", "zh", "ar"])
    for result in results:
        assert result.pool == ["en", "zh", "ar"]
        assert result.metrics == pytest.approx(expected[result.language].metrics())
        assert result.metrics["n_texts"] == 90
        low, high = result.intervals["image_to_text_preference"]
        assert 0 <= low <= result.metrics["image_to_text_preference"] <= high <= 1

    with pytest.raises(InputError, match="find-mixed.en.json is a result of pool"):
        evaluate(replace(arguments, languages=["en", "zh"]), TableArguments())
    with pytest.raises(
        InputError, match="task 'find-mixed' has en alone, and a mixed pool needs two or more"
    ):
        evaluate(replace(arguments, languages=["en"]), TableArguments())
    with pytest.raises(InputError, match="read English only, .* or is alone in a mixed pool"):
        evaluate(replace(arguments, models=[str(copy)]), TableArguments())


MEASURE = """
import torch
from torch.nn.functional import normalize

from benchmarks.mixed_pool import measure_preference

def resident(name):
    with open("/proc/self/status") as status:
        for line in status:  # "VmRSS:     123456 kB"
            if line.startswith(name):
                return int(line.split()[1]) / 1024

images = normalize(torch.randn(600, 16), dim=1)
texts = normalize(torch.randn(36, 1200, 16), dim=2)
languages = [f"l{number}" for number in range(36)]
image_of_text = torch.arange(600).repeat_interleave(2)
measure_preference(images[:2], texts[:2, :4], image_of_text[:4], languages[:2])
with open("/proc/self/clear_refs", "w") as control:
    control.write("5")  # forget the peak so far
before = resident("VmRSS")
measure_preference(images, texts, image_of_text, languages)
print(resident("VmHWM") - before)
"""


@pytest.mark.slow
def test_memory_is_that_of_a_tile(run_python, tmp_path):
    """Compare 43,200 texts with one another: all their scores would have 7,465 MB."""
    (tmp_path / "measure.py").write_text(MEASURE)
    process = run_python("python", tmp_path / "measure.py")
    assert process.returncode == 0, process.stderr
    assert float(process.stdout) < 400
