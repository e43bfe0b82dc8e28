"""Accuracy and ranks per language, the command that measures them and the pictures that show them."""

import json
import re

import pytest
import torch
from datasets import Dataset, Features, Image, List, Value
from matplotlib.axes import Axes

from benchmarks.loading import load_captions, load_model
from benchmarks.ranking import evaluate_ranking, ranking_columns, summarise
from benchmarks.recipe import InputError
from benchmarks.results import Result, load_results
from benchmarks.retrieval import evaluate_retrieval
from model_cards.parallel_plots import plot_accuracy, plot_ranks, scores_of
from modeling_altclip import embed_images, embed_texts

from .conftest import ROOT


@pytest.fixture
def captioned(miniature):
    """60 scenes: a list of one or two captions in English, one or none in Chinese."""
    rows = load_captions(str(miniature / "dataset"), "validation").select(range(60))
    english, chinese = ([caption[language] for caption in rows["captions"]] for language in ("en", "zh"))
    captions = [{"en": [text, english[number - 1]][: 1 + number % 2], "zh": chinese[number]} for number, text in enumerate(english)]
    captions[3]["zh"], captions[4]["zh"] = None, ""
    captions[5]["en"] = ["", english[5], None]
    features = Features({"image": Image(), "captions": {"en": List(Value("string")), "zh": Value("string")}})
    return Dataset.from_dict({"image": list(rows["image"]), "captions": captions}, features=features)


def test_figures_by_hand():
    scores = summarise(torch.tensor([0, 0, 1, 9, 10]), "text_to_image")
    assert [scores[f"text_to_image_accuracy@{k}"] for k in (1, 2, 9, 10)] == [0.4, 0.6, 0.6, 0.8]
    assert [scores[f"text_to_image_rank_p{p}"] for p in (5, 25, 50, 75, 95)] == pytest.approx([0, 0, 1, 9, 9.8])
    assert len(scores) == 15


def test_one_caption_a_row_scores_as_retrieval_does(folder, miniature):
    rows = load_captions(str(miniature / "dataset"), "validation").select(range(60))
    model, processor = load_model(str(folder))
    ranking, recall = evaluate_ranking(model, processor, rows, ["en", "th"]), evaluate_retrieval(model, processor, rows, ["en", "th"])
    for language in ("en", "th"):
        assert ranking[language]["n"] == ranking[language]["n_texts"] == 60
        for direction in ("text_to_image", "image_to_text"):
            for k in (1, 5, 10):
                assert ranking[language][f"{direction}_accuracy@{k}"] == recall[language][f"{direction}_recall@{k}"]


def test_rows_with_several_captions_and_with_none(folder, captioned):
    """Every caption is asked for its image, and rows without one are no candidates."""
    model, processor = load_model(str(folder))
    scores = evaluate_ranking(model, processor, captioned, ["en", "zh"])
    assert (scores["en"]["n"], scores["en"]["n_texts"]) == (60, 89)
    assert (scores["zh"]["n"], scores["zh"]["n_texts"]) == (58, 58)
    kept = captioned.select([row for row in range(60) if row not in (3, 4)])
    assert scores["zh"] == evaluate_ranking(model, processor, kept, ["zh"])["zh"]


def test_euclidean_distance_is_between_vectors_that_are_not_normalised(folder, miniature):
    rows = load_captions(str(miniature / "dataset"), "validation").select(range(60))
    model, processor = load_model(str(folder))
    scores = evaluate_ranking(model, processor, rows, ["en"], distance="euclidean")["en"]
    texts = embed_texts(model, processor, [caption["en"] for caption in rows["captions"]], normalize_embeddings=False)
    images = embed_images(model, processor, rows["image"], normalize_embeddings=False)
    assert (texts.norm(dim=1) - 1).abs().min() > 1e-3
    far = torch.cdist(texts.double(), images.double())
    ranks = (far <= far.diag()[:, None]).sum(1) - 1
    assert scores["text_to_image_rank_p50"] == ranks.double().quantile(0.5).item()
    assert scores["text_to_image_accuracy@5"] == pytest.approx((ranks < 5).double().mean().item())
    torch.testing.assert_close(
        torch.nn.functional.normalize(images, dim=-1), embed_images(model, processor, rows["image"]), rtol=0, atol=1e-6
    )


def test_what_cannot_be_ranked_is_refused(folder, captioned):
    model, processor = load_model(str(folder))
    with pytest.raises(InputError, match="distance is 'angle': choose cosine or euclidean"):
        evaluate_ranking(model, processor, captioned, ["en"], distance="angle")
    with pytest.raises(InputError, match="no row has a caption in zh: leave it out of languages"):
        evaluate_ranking(model, processor, captioned.select([3, 4]), ["zh"])


def test_the_command_keeps_results_and_shows_a_table(folder, miniature, run, tmp_path):
    flags = ["--models", folder, "--dataset", miniature / "dataset", "--splits", "validation", "--languages", "en", "zh"]
    recipe = ROOT / "benchmarks/recipes/miniature_ranking.yaml"
    process = run("python", ROOT / "benchmarks/run_ranking.py", recipe, *flags, "--distance", "euclidean", "--output_dir", tmp_path / "out")
    assert process.returncode == 0, process.stderr
    metrics = json.loads((tmp_path / "out/altclip/ranking_euclidean.validation.zh.json").read_text())["metrics"]
    assert len(metrics) == 32 and metrics["n"] > 100
    shown = ranking_columns(metrics)
    assert re.search(
        rf"\| altclip +\| validation +\| zh +\| {metrics['n']} .*\| {re.escape(shown['T2I rank (quartiles)'])} +\|", process.stdout
    )
    assert f"{metrics['text_to_image_rank_p50']:g} ({metrics['text_to_image_rank_p25']:g} to " in shown["T2I rank (quartiles)"]


def result(model, language, first, split="test"):
    """Everything found at `first`, or one later in the image's direction."""
    ranks = torch.full((8,), first)
    metrics = summarise(ranks, "text_to_image") | summarise(ranks + 1, "image_to_text")
    return Result(f"outputs/{model}", "ranking_cosine", language, metrics, "", split, "", "")


def test_the_pictures_show_the_results(tmp_path, monkeypatch):
    """Bars are means over seeds with their range; boxes are means of percentiles; languages that were seen come first."""
    results = [result("english-1", "en", 1), result("english-1", "de", 40), result("english-1", "de", 0, split="other")]
    for seed, rank in (("parallel-1", 2), ("parallel-2", 4)):
        results += [result(seed, "en", rank), result(seed, "de", rank + 1)]
    for made in results:
        made.save(tmp_path)
    groups = {"English only": ["english-1"], "multilingual": ["parallel-1", "parallel-2"]}
    scores = scores_of(load_results(tmp_path), groups, "ranking_cosine", "test")
    drawn = {}
    for name in ("bar", "bxp"):
        original = getattr(Axes, name)

        def draw(self, *args, name=name, original=original, **options):
            drawn.setdefault(name, []).append((args, options))
            return original(self, *args, **options)

        monkeypatch.setattr(Axes, name, draw)
    plot_accuracy(scores, ["en"], tmp_path / "accuracy.png")
    plot_ranks(scores, ["en"], tmp_path / "ranks.png", "image_to_text")
    assert [args[1] for args, _ in drawn["bar"]] == [[0] + [100] * 9, [0, 0, 50, 50] + [100] * 6, [0] * 10, [0, 0, 0, 50, 50] + [100] * 5]
    assert drawn["bar"][1][1]["yerr"] == [[0, 0, 50, 50] + [0] * 6] * 2
    assert [[box["med"] for box in args[0]] for args, _ in drawn["bxp"]] == [[2, 41], [4, 5]]
    for picture in ("accuracy.png", "ranks.png"):
        assert (tmp_path / picture).stat().st_size > 5000
    with pytest.raises(ValueError, match="no result of 'parallel-3' in ranking_cosine, 'test'"):
        scores_of(results, {"multilingual": ["parallel-3"]}, "ranking_cosine", "test")
