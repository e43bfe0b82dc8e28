"""Metrics on cases worked out by hand."""

import pytest
import torch

from benchmarks import metrics
from benchmarks.metrics import retrieval_ranks, retrieval_recall, top_k_accuracy


def test_by_hand():
    """Two images; texts 0 and 1 belong to image 0, text 2 to image 1. Scores (image x text): [.9 .2 .8], [.1 .5 .3]."""
    image_embeds = torch.eye(2)
    text_embeds = torch.tensor([[0.9, 0.1], [0.2, 0.5], [0.8, 0.3]])
    recall = retrieval_recall(image_embeds, text_embeds, torch.tensor([0, 0, 1]), ks=(1, 2))
    assert recall["text_to_image_recall@1"] == pytest.approx(1 / 3)  # only text 0 prefers its image
    assert recall["image_to_text_recall@1"] == pytest.approx(1 / 2)  # image 1 prefers text 1, which is not its own
    assert recall["text_to_image_recall@2"] == recall["image_to_text_recall@2"] == 1
    assert recall["mean_recall"] == pytest.approx((1 / 3 + 1 / 2 + 1 + 1) / 4)


def test_a_collapsed_model_scores_nothing():
    collapsed = torch.nn.functional.normalize(torch.ones(50, 8), dim=-1)
    recall = retrieval_recall(collapsed, collapsed, torch.arange(50))
    assert set(recall.values()) == {0.0}
    assert top_k_accuracy(collapsed, collapsed[:20], torch.zeros(50, dtype=torch.long)) == {"accuracy@1": 0.0, "accuracy@5": 0.0}


@pytest.mark.parametrize("block_rows", [1, 7, 64, 1000])
def test_blocks_do_not_change_the_result(monkeypatch, block_rows):
    torch.manual_seed(0)
    images, owners = torch.randn(40, 16), torch.cat([torch.arange(40), torch.randint(40, (60,))])
    texts = images[owners] + 1.5 * torch.randn(100, 16)
    scores = images @ texts.T
    hits = 0
    for image in range(40):  # the definition, spelled out
        own = owners == image
        hits += int((scores[image][~own] >= scores[image][own].max()).sum() < 5)
    monkeypatch.setattr(metrics, "BLOCK_ROWS", block_rows)
    recall = retrieval_recall(images, texts, owners)
    assert recall["image_to_text_recall@5"] == pytest.approx(hits / 40)
    expected = (scores.T.argsort(1, descending=True)[:, :5] == owners[:, None]).any(1).double().mean()
    assert recall["text_to_image_recall@5"] == pytest.approx(expected.item())


@pytest.mark.parametrize("block_rows", [7, 1000])
@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_ranks_are_those_of_a_full_sort(monkeypatch, distance, block_rows):
    """Vectors of any length, far from the origin and close together; images with one text or several."""
    torch.manual_seed(0)
    images, owners = 100 + torch.randn(40, 16) * torch.rand(40, 1), torch.cat([torch.arange(40), torch.randint(40, (60,))])
    texts = images[owners] + 0.5 * torch.randn(100, 16)
    near = {
        "cosine": -images @ texts.T,
        "euclidean": (images.double()[:, None] - texts.double()[None]).square().sum(-1),
    }[distance]
    text_ranks = [near[:, text].argsort().tolist().index(owner) for text, owner in enumerate(owners.tolist())]
    image_ranks = [(owners[near[image].argsort()] == image).nonzero()[0].item() for image in range(40)]
    monkeypatch.setattr(metrics, "BLOCK_ROWS", block_rows)
    found = retrieval_ranks(images, texts, owners, distance=distance)
    assert found[0].tolist() == text_ranks and found[1].tolist() == image_ranks
    if distance == "euclidean":
        other = retrieval_ranks(images, texts, owners)
        assert (found[0] != other[0]).any() and (found[1] != other[1]).any()
        sorted_by_library = torch.cdist(texts.double(), images.double(), compute_mode="donot_use_mm_for_euclid_dist").argsort(1)
        assert torch.equal((sorted_by_library == owners[:, None]).nonzero()[:, 1], found[0])


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_ties_rank_behind(distance):
    """Images 0 and 2 are equal: a text of either has the other before it."""
    images = torch.tensor([[3.0, 4.0], [-4.0, 3.0], [3.0, 4.0]])
    text_ranks, image_ranks = retrieval_ranks(images, images, torch.arange(3), distance=distance)
    assert text_ranks.tolist() == image_ranks.tolist() == [1, 0, 1]


def test_an_unknown_distance_is_refused():
    with pytest.raises(ValueError, match="distance is 'manhattan': choose cosine or euclidean"):
        retrieval_ranks(torch.eye(2), torch.eye(2), torch.arange(2), distance="manhattan")


def test_top_k_accuracy_by_hand():
    scores = torch.tensor([[0.9, 0.1, 0.0], [0.5, 0.4, 0.6], [0.3, 0.2, 0.1]])
    accuracy = top_k_accuracy(scores, torch.eye(3), torch.tensor([0, 0, 2]), ks=(1, 2))
    assert accuracy == {"accuracy@1": pytest.approx(1 / 3), "accuracy@2": pytest.approx(2 / 3)}


@pytest.mark.parametrize(
    "images,texts,owners,message",
    [
        (torch.eye(2), torch.eye(3), [0, 1, 1], "one dim"),
        (torch.eye(3), torch.eye(3), [0, 1], "3 texts"),
        (torch.eye(3), torch.eye(3), [0, 1, 1], "every image needs a text"),
        (torch.eye(3), torch.eye(3), [0, 1, 5], "every image needs a text"),
        (torch.eye(3), torch.full((3, 3), torch.nan), [0, 1, 2], "not finite"),
    ],
)
def test_bad_input_is_refused(images, texts, owners, message):
    with pytest.raises(ValueError, match=message):
        retrieval_recall(images, texts, torch.tensor(owners))
    with pytest.raises(ValueError):
        top_k_accuracy(torch.eye(2), torch.eye(2), torch.tensor([0, 2]))
