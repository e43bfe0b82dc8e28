"""Ranks per language, and the pictures that show them."""

import pytest
import torch
from datasets import Dataset, Features, Image, List, Value
from matplotlib.axes import Axes

from benchmarks.encoder import Encoder
from benchmarks.loading import load_captions, load_model
from benchmarks.metrics import retrieval_ranks
from benchmarks.outcomes import RetrievalOutcomes
from benchmarks.recipe import InputError
from benchmarks.results import Result, load_results
from benchmarks.retrieval import evaluate_retrieval
from benchmarks.uncertainty import intervals
from model_cards.parallel_plots import plot_accuracy, plot_ranks, scores_of


@pytest.fixture
def captioned(miniature):
    """60 scenes: a list of one or two captions in English, one or none in Chinese."""
    rows = load_captions(str(miniature / "dataset"), "validation").select(range(60))
    english, chinese = ([caption[language] for caption in rows["captions"]] for language in ("en", "zh"))
    captions = [
        {"en": [text, english[number - 1]][: 1 + number % 2], "zh": chinese[number]}
        for number, text in enumerate(english)
    ]
    captions[3]["zh"], captions[4]["zh"], captions[6]["zh"] = None, "", "\u3000"
    captions[5]["en"] = [" ", english[5], None]
    features = Features({"image": Image(), "captions": {"en": List(Value("string")), "zh": Value("string")}})
    return Dataset.from_dict({"image": list(rows["image"]), "captions": captions}, features=features)


@pytest.fixture
def found(altclip_folder):
    """What `evaluate_retrieval` finds in rows."""
    model, processor = load_model(str(altclip_folder))

    def found(rows, languages, **options):
        encoder = Encoder(model, processor, normalize=options.get("distance") != "euclidean")
        return evaluate_retrieval(
            encoder, encoder.images(rows["image"]), rows["captions"], languages, **options
        )

    return found


def test_rows_with_several_captions_and_with_none(found, captioned, altclip_folder):
    """Every caption is asked for its image, and rows without one are no candidates."""
    encoder = Encoder(*load_model(str(altclip_folder)))
    scores = {language: outcomes.metrics() for language, outcomes in found(captioned, ["en", "zh"]).items()}
    assert (scores["en"]["n"], scores["en"]["n_texts"]) == (60, 89)
    assert (scores["zh"]["n"], scores["zh"]["n_texts"]) == (57, 57)
    kept = [row for row in range(60) if row not in (3, 4, 6)]
    images, texts = (
        encoder.images(captioned["image"]),
        encoder.texts([captioned[row]["captions"]["zh"] for row in kept]),
    )
    alone = retrieval_ranks(images[kept], texts, torch.arange(57))
    chinese = found(captioned, ["zh"])["zh"]
    assert (chinese.text_ranks.tolist(), chinese.image_ranks.tolist()) == tuple(
        ranks.tolist() for ranks in alone
    )
    assert chinese.rows.tolist() == kept


def test_euclidean_distance_is_between_vectors_that_are_not_normalised(found, altclip_folder, miniature):
    rows = load_captions(str(miniature / "dataset"), "validation").select(range(60))
    encoder = Encoder(*load_model(str(altclip_folder)), normalize=False)
    outcomes = found(rows, ["en"], distance="euclidean")["en"]
    texts, images = (
        encoder.texts([caption["en"] for caption in rows["captions"]]),
        encoder.images(rows["image"]),
    )
    assert (texts.norm(dim=1) - 1).abs().min() > 1e-3
    far = torch.cdist(texts.double(), images.double())
    assert outcomes.text_ranks.tolist() == ((far <= far.diag()[:, None]).sum(1) - 1).tolist()


def test_equal_captions_may_be_one(found, miniature):
    """Rows 10 and 11 share a caption:

    As two texts each competes with its twin, as one it is found by either image.
    """
    rows = load_captions(str(miniature / "dataset"), "validation").select(range(60))
    captions = [
        {"en": "both" if row in (10, 11) else f"{row} {caption['en']}"}
        for row, caption in enumerate(rows["captions"])
    ]
    rows = rows.remove_columns("captions").add_column("captions", captions)
    two, one = (found(rows, ["en"], merge_captions=merge)["en"] for merge in (False, True))
    assert (len(two.text_ranks), len(one.text_ranks)) == (60, 59)
    assert one.n_units == 60
    assert one.text_ranks[10] == two.text_ranks[10:12].min()
    assert (two.image_ranks[10:12] == one.image_ranks[10:12] + 1).all()


def test_captions_of_many_images_have_an_interval(found, miniature):
    """Two captions for thirty images:

    A resample that draws no first image of either draws them with the others.
    """
    rows = load_captions(str(miniature / "dataset"), "validation").select(range(30))
    rows = rows.remove_columns("captions").add_column(
        "captions", [{"en": ["day", "night"][row % 2]} for row in range(30)]
    )
    outcomes = found(rows, ["en"], merge_captions=True)["en"]
    assert (outcomes.n_units, len(outcomes.text_ranks), outcomes.text_to_image.shape) == (30, 2, (30, 2))
    ends = intervals(outcomes, 400)
    assert all(low <= high for low, high in ends.values())


def test_what_cannot_be_ranked_is_refused(found, captioned):
    with pytest.raises(InputError, match="distance is 'angle': choose cosine or euclidean"):
        found(captioned, ["en"], distance="angle")
    with pytest.raises(InputError, match="no row has a caption in zh: leave it out of languages"):
        found(captioned.select([3, 4]), ["zh"])


def result(model, language, first, task="test"):
    """Everything found at `first`, or one later in the image's direction."""
    ranks = torch.full((8,), first)
    metrics = RetrievalOutcomes(ranks, ranks + 1, torch.arange(8)).metrics()
    known = {"kind": "retrieval", "metric": "mean_recall"} | dict.fromkeys(
        ("dataset", "split", "weights", "command"), ""
    )
    return Result(model=f"outputs/{model}", task=task, language=language, metrics=metrics, **known)


def test_the_pictures_show_the_results(tmp_path, monkeypatch):
    """Bars are means over seeds with their range;

    Boxes are means of percentiles; languages that were seen come first.
    """
    results = [
        result("english-1", "en", 1),
        result("english-1", "de", 40),
        result("english-1", "de", 0, task="other"),
    ]
    for seed, rank in (("parallel-1", 2), ("parallel-2", 4)):
        results += [result(seed, "en", rank), result(seed, "de", rank + 1)]
    for made in results:
        made.save(tmp_path)
    groups = {"English only": ["english-1"], "multilingual": ["parallel-1", "parallel-2"]}
    scores = scores_of(load_results(tmp_path), groups, "test")
    drawn = {}
    for name in ("bar", "bxp"):
        original = getattr(Axes, name)

        def draw(self, *args, name=name, original=original, **options):
            drawn.setdefault(name, []).append((args, options))
            return original(self, *args, **options)

        monkeypatch.setattr(Axes, name, draw)
    plot_accuracy(scores, ["en"], tmp_path / "accuracy.png")
    plot_ranks(scores, ["en"], tmp_path / "ranks.png", "image_to_text")
    assert [args[1] for args, _ in drawn["bar"]] == [
        [0] + [100] * 9,
        [0, 0, 50, 50] + [100] * 6,
        [0] * 10,
        [0, 0, 0, 50, 50] + [100] * 5,
    ]
    assert drawn["bar"][1][1]["yerr"] == [[0, 0, 50, 50] + [0] * 6] * 2
    assert [[box["med"] for box in args[0]] for args, _ in drawn["bxp"]] == [[2, 41], [4, 5]]
    for picture in ("accuracy.png", "ranks.png"):
        assert (tmp_path / picture).stat().st_size > 5000
    with pytest.raises(ValueError, match="no result of 'parallel-3' in 'test'"):
        scores_of(results, {"multilingual": ["parallel-3"]}, "test")
