"""Ranks per language, and the pictures that show them."""

import pytest
import torch
from datasets import Dataset, Features, Image, List, Value
from matplotlib.axes import Axes

from benchmarks.bootstrap import intervals
from benchmarks.encoder import Encoder
from benchmarks.metrics import retrieval_ranks
from benchmarks.outcomes import RetrievalOutcomes
from benchmarks.results import Result, load_results
from benchmarks.retrieval import evaluate_retrieval
from common.errors import InputError
from common.files.rows import load_rows
from common.models.loading import load_model
from training.parallel.figures import plot_accuracy, plot_ranks, scores_of

# Rows of `captioned` that have no caption in Chinese.
WITHOUT_CHINESE = [3, 4, 6]


@pytest.fixture
def captioned(miniature):
    """Return 60 scenes: a list of one or two captions in English, one or none in Chinese."""
    rows = load_rows(str(miniature / "dataset"), "validation", []).select(range(60))
    english = [caption["en"] for caption in rows["captions"]]
    chinese = [caption["zh"] for caption in rows["captions"]]
    captions = []
    for number in range(60):
        # Rows of odd number have the caption of the row before as well.
        texts = [english[number], english[number - 1]] if number % 2 else [english[number]]
        captions.append({"en": texts, "zh": chinese[number]})
    # Null, empty and an ideographic space.
    for number, blank in zip(WITHOUT_CHINESE, (None, "", "\u3000"), strict=True):
        captions[number]["zh"] = blank
    # Of three captions one is a text.
    captions[5]["en"] = [" ", english[5], None]
    features = Features({"image": Image(), "captions": {"en": List(Value("string")), "zh": Value("string")}})
    return Dataset.from_dict({"image": list(rows["image"]), "captions": captions}, features=features)


@pytest.fixture
def found(altclip_folder):
    """Return a function that evaluates retrieval on rows."""
    model, processor = load_model(str(altclip_folder))

    def found(rows, languages, **options):
        encoder = Encoder(model, processor, normalize=options.get("distance") != "euclidean")
        images = encoder.images(rows["image"])
        return evaluate_retrieval(encoder, images, rows["captions"], languages, **options)

    return found


def with_captions(rows, captions):
    """Return the rows with other captions, in English."""
    column = [{"en": caption} for caption in captions]
    return rows.remove_columns("captions").add_column("captions", column)


def test_rows_with_several_captions_and_with_none(found, captioned, altclip_folder):
    """Check that every caption is asked for its image, and that rows without one are no candidates."""
    outcomes = found(captioned, ["en", "zh"])
    english = outcomes["en"].metrics()
    chinese = outcomes["zh"].metrics()
    # Two captions in each of 30 odd rows, but one in row 5; three rows without Chinese.
    assert (english["n"], english["n_texts"]) == (60, 89)
    assert (chinese["n"], chinese["n_texts"]) == (57, 57)

    kept = [row for row in range(60) if row not in WITHOUT_CHINESE]
    encoder = Encoder(*load_model(str(altclip_folder)))
    images = encoder.images(captioned["image"])
    texts = encoder.texts([captioned[row]["captions"]["zh"] for row in kept])
    text_ranks, image_ranks = retrieval_ranks(images[kept], texts, torch.arange(57))
    alone = found(captioned, ["zh"])["zh"]
    assert alone.text_ranks.tolist() == text_ranks.tolist()
    assert alone.image_ranks.tolist() == image_ranks.tolist()
    assert alone.rows.tolist() == kept


def test_euclidean_distance_is_between_vectors_that_are_not_normalised(found, altclip_folder, miniature):
    rows = load_rows(str(miniature / "dataset"), "validation", []).select(range(60))
    encoder = Encoder(*load_model(str(altclip_folder)), normalize=False)
    texts = encoder.texts([caption["en"] for caption in rows["captions"]])
    images = encoder.images(rows["image"])
    # With unit length both distances would give one order.
    assert (texts.norm(dim=1) - 1).abs().min() > 1e-3

    distances = torch.cdist(texts.double(), images.double())
    n_as_near = (distances <= distances.diag()[:, None]).sum(1)  # the right image is one of them
    outcomes = found(rows, ["en"], distance="euclidean")["en"]
    assert outcomes.text_ranks.tolist() == (n_as_near - 1).tolist()


def test_equal_captions_may_be_one(found, miniature):
    """Give rows 10 and 11 one caption.

    As two texts each competes with its twin, as one it is found by either image.
    """
    rows = load_rows(str(miniature / "dataset"), "validation", []).select(range(60))
    captions = [f"{row} {caption['en']}" for row, caption in enumerate(rows["captions"])]
    captions[10] = captions[11] = "both"
    rows = with_captions(rows, captions)
    two = found(rows, ["en"], merge_captions=False)["en"]
    one = found(rows, ["en"], merge_captions=True)["en"]
    assert len(two.text_ranks) == 60
    assert len(one.text_ranks) == 59
    assert one.n_units == 60
    # The nearer of its two images counts, and the twin is no longer a rival that ties.
    assert one.text_ranks[10] == two.text_ranks[10:12].min()
    assert (two.image_ranks[10:12] == one.image_ranks[10:12] + 1).all()


def test_captions_of_many_images_have_an_interval(found, miniature):
    """Give thirty images two captions.

    A resample that draws no first image of either draws them with the others.
    """
    rows = load_rows(str(miniature / "dataset"), "validation", []).select(range(30))
    rows = with_captions(rows, [["day", "night"][row % 2] for row in range(30)])
    outcomes = found(rows, ["en"], merge_captions=True)["en"]
    assert outcomes.n_units == 30
    assert len(outcomes.text_ranks) == 2
    assert outcomes.text_to_image.shape == (30, 2)
    for low, high in intervals(outcomes, 400).values():
        assert low <= high


def test_what_cannot_be_ranked_is_refused(found, captioned):
    with pytest.raises(InputError, match="distance is 'angle': choose cosine or euclidean"):
        found(captioned, ["en"], distance="angle")
    with pytest.raises(InputError, match="no row has a caption in zh: leave it out of languages"):
        found(captioned.select([3, 4]), ["zh"])


def result(model, language, first, task="test"):
    """Return a result where every image is found at rank `first`, and every text one rank later."""
    ranks = torch.full((8,), first)
    metrics = RetrievalOutcomes(ranks, ranks + 1, torch.arange(8)).metrics()
    return Result(
        model=f"outputs/{model}",
        task=task,
        language=language,
        metrics=metrics,
        kind="retrieval",
        metric="mean_recall",
        dataset="",
        split="",
        weights="",
        command="",
    )


def record_drawn(monkeypatch, name):
    """Return a list that grows by `(arguments, options)` at each call of a method of matplotlib's axes."""
    drawn = []
    original = getattr(Axes, name)

    def draw(self, *args, **options):
        drawn.append((args, options))
        return original(self, *args, **options)

    monkeypatch.setattr(Axes, name, draw)
    return drawn


def test_the_pictures_show_the_results(tmp_path, monkeypatch):
    """Draw bars as means over seeds with their range, and boxes as means of percentiles.

    Languages that were seen come first.
    """
    results = [
        result("english-1", "en", 1),
        result("english-1", "de", 40),
        result("english-1", "de", 0, task="other"),
        result("parallel-1", "en", 2),
        result("parallel-1", "de", 3),
        result("parallel-2", "en", 4),
        result("parallel-2", "de", 5),
    ]
    for made in results:
        made.save(tmp_path)
    groups = {"English only": ["english-1"], "multilingual": ["parallel-1", "parallel-2"]}
    scores = scores_of(load_results(tmp_path), groups, "test")

    bars = record_drawn(monkeypatch, "bar")
    boxes = record_drawn(monkeypatch, "bxp")
    plot_accuracy(scores, ["en"], tmp_path / "accuracy.png")
    plot_ranks(scores, ["en"], tmp_path / "ranks.png", "image_to_text")

    # Recall at 1 to 10: both groups in English, then both in German.
    assert [heights for (_, heights, *_), _ in bars] == [
        [0] + [100] * 9,
        [0, 0, 50, 50] + [100] * 6,
        [0] * 10,
        [0, 0, 0, 50, 50] + [100] * 5,
    ]
    # Ranks 2 and 4: with either seed recall is 0 or 100, and at 3 and 4 the seeds differ.
    _, options = bars[1]
    assert options["yerr"] == [[0, 0, 50, 50] + [0] * 6] * 2
    # A call for each group, with a box for each language.
    english_only, multilingual = (stats for (stats, *_), _ in boxes)
    # Ranks are drawn from 1: 1 -> 2 and 40 -> 41; the mean of 2 and 4 -> 4, of 3 and 5 -> 5.
    assert [box["med"] for box in english_only] == [2, 41]
    assert [box["med"] for box in multilingual] == [4, 5]
    for picture in ("accuracy.png", "ranks.png"):
        assert (tmp_path / picture).stat().st_size > 5000

    with pytest.raises(ValueError, match="no result of 'parallel-3' in 'test'"):
        scores_of(results, {"multilingual": ["parallel-3"]}, "test")
