"""Retrieval ranks, recall and top-k accuracy of embeddings: exact, block by block, with ties against the model."""

import torch

BLOCK_ROWS = 1024
DISTANCES = ("cosine", "euclidean")


def retrieval_recall(
    image_embeds: torch.Tensor, text_embeds: torch.Tensor, text_to_image: torch.Tensor, ks: tuple[int, ...] = (1, 5, 10)
) -> dict[str, float]:
    """Share of queries whose right answer is among the first `k`, in both directions (paper 5.1).

    Args:
        image_embeds: unit vectors `(images, dim)`.
        text_embeds: unit vectors `(texts, dim)`.
        text_to_image: LongTensor `(texts,)`, the row of the image that each text describes.
        ks: the depths to report.

    Returns:
        Fractions: `text_to_image_recall@k` and `image_to_text_recall@k` for each `k`, and `mean_recall`, their mean.

    Raises:
        ValueError: as `retrieval_ranks`.
    """
    text_ranks, image_ranks = retrieval_ranks(image_embeds, text_embeds, text_to_image)
    recall = {f"text_to_image_recall@{k}": (text_ranks < k).double().mean().item() for k in ks}
    recall |= {f"image_to_text_recall@{k}": (image_ranks < k).double().mean().item() for k in ks}
    return recall | {"mean_recall": sum(recall.values()) / len(recall)}


def retrieval_ranks(
    image_embeds: torch.Tensor, text_embeds: torch.Tensor, text_to_image: torch.Tensor, *, distance: str = "cosine"
) -> tuple[torch.Tensor, torch.Tensor]:
    """How many wrong answers lie before the right one, for each query of both directions: 0 where it is found first.

    A text has one image; an image may have several texts and is found by the best placed one. A tied competitor counts as
    ahead, so a model whose embeddings have collapsed finds nothing.

    Args:
        image_embeds: `(images, dim)`, unit vectors for `cosine`.
        text_embeds: `(texts, dim)`, likewise.
        text_to_image: LongTensor `(texts,)`, the row of the image that each text describes.
        distance: `cosine`, or `euclidean`, by which the released code of Krasner & Lanuzo orders vectors of any length.

    Returns:
        LongTensors: of each text the rank of its image among all images `(texts,)`, and of each image the rank of its first own
        text among those of other images `(images,)`.

    Raises:
        ValueError: another distance, shapes disagree, a row of `text_to_image` is out of range, an image has no text, or a value
            is not finite.
    """
    _check(image_embeds, text_embeds)
    if distance not in DISTANCES:
        raise ValueError(f"distance is {distance!r}: choose {' or '.join(DISTANCES)}")
    if text_to_image.shape != (len(text_embeds),):
        raise ValueError(f"text_to_image has shape {tuple(text_to_image.shape)}, but there are {len(text_embeds)} texts")
    described = torch.unique(text_to_image)
    if not torch.equal(described, torch.arange(len(image_embeds))):
        raise ValueError(f"text_to_image names {len(described)} of the rows 0 to {len(image_embeds) - 1}: every image needs a text")
    image_ranks = [
        _ranks_among_several(image_embeds[start : start + BLOCK_ROWS], text_embeds, text_to_image, start, distance)
        for start in range(0, len(image_embeds), BLOCK_ROWS)
    ]
    return _ranks(text_embeds, image_embeds, text_to_image, distance), torch.cat(image_ranks)


def top_k_accuracy(image_embeds: torch.Tensor, class_embeds: torch.Tensor, labels: torch.Tensor, ks: tuple[int, ...] = (1, 5)) -> dict:
    """Share of images whose class is among the `k` nearest of `class_embeds` `(classes, dim)`; ties count as ahead.

    Returns:
        Fractions `top_k_accuracy` under the names `accuracy@k`.

    Raises:
        ValueError: shapes disagree, a label is no class, or a value is not finite.
    """
    _check(image_embeds, class_embeds)
    if labels.shape != (len(image_embeds),) or labels.min() < 0 or labels.max() >= len(class_embeds):
        raise ValueError(f"labels must be {len(image_embeds)} class rows from 0 to {len(class_embeds) - 1}")
    ranks = _ranks(image_embeds, class_embeds, labels, "cosine")
    return {f"accuracy@{k}": (ranks < k).double().mean().item() for k in ks}


def _scores(queries: torch.Tensor, candidates: torch.Tensor, distance: str) -> torch.Tensor:
    """Higher is nearer, `(queries, candidates)`. By `euclidean`, the negative squared distance but for the query's own length, which
    changes no order.

    In double precision, since the distance of long vectors that lie close is a small difference of large numbers. `torch.cdist`
    avoids it by doing without matrix products, and took sixteen times as long for 5,000 vectors of 512 values.
    """
    if distance == "cosine":
        return queries @ candidates.T
    candidates = candidates.double()
    return 2 * queries.double() @ candidates.T - candidates.square().sum(1)


def _ranks(queries: torch.Tensor, candidates: torch.Tensor, right: torch.Tensor, distance: str) -> torch.Tensor:
    """0-based rank of candidate `right[q]` for each query. Own and rival scores come from one product, so ties are ties."""
    ranks = []
    for start in range(0, len(queries), BLOCK_ROWS):
        scores = _scores(queries[start : start + BLOCK_ROWS], candidates, distance)
        own = scores.gather(1, right[start : start + BLOCK_ROWS, None])
        ranks.append((scores >= own).sum(1) - 1)
    return torch.cat(ranks)


def _ranks_among_several(
    images: torch.Tensor, texts: torch.Tensor, text_to_image: torch.Tensor, first_row: int, distance: str
) -> torch.Tensor:
    """0-based rank of each image's best own text, counting only the texts of other images as rivals."""
    scores = _scores(images, texts, distance)
    own = text_to_image[None] == torch.arange(first_row, first_row + len(images))[:, None]
    best = scores.masked_fill(~own, -torch.inf).amax(1, keepdim=True)
    return (scores.masked_fill(own, -torch.inf) >= best).sum(1)


def _check(left: torch.Tensor, right: torch.Tensor) -> None:
    if left.ndim != 2 or right.ndim != 2 or left.shape[1] != right.shape[1]:
        raise ValueError(f"embeddings must be (rows, dim) with one dim, not {tuple(left.shape)} and {tuple(right.shape)}")
    if not (left.isfinite().all() and right.isfinite().all()):
        raise ValueError("an embedding is not finite: the model diverged, or half precision overflowed")
