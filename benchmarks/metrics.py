"""Retrieval recall and top-k accuracy of unit vectors: exact, block by block, with ties against the model."""

import torch

BLOCK_ROWS = 1024


def retrieval_recall(
    image_embeds: torch.Tensor, text_embeds: torch.Tensor, text_to_image: torch.Tensor, ks: tuple[int, ...] = (1, 5, 10)
) -> dict[str, float]:
    """Share of queries whose right answer is among the first `k`, in both directions (paper 5.1).

    A text has one image; an image may have several texts and is found by the best placed one. A tied competitor counts as
    ahead, so a model whose embeddings have collapsed scores nothing.

    Args:
        image_embeds: `(images, dim)`.
        text_embeds: `(texts, dim)`.
        text_to_image: LongTensor `(texts,)`, the row of the image that each text describes.
        ks: the depths to report.

    Returns:
        Fractions: `text_to_image_recall@k` and `image_to_text_recall@k` for each `k`, and `mean_recall`, their mean.

    Raises:
        ValueError: shapes disagree, a row of `text_to_image` is out of range, an image has no text, or a value is not finite.
    """
    _check(image_embeds, text_embeds)
    if text_to_image.shape != (len(text_embeds),):
        raise ValueError(f"text_to_image has shape {tuple(text_to_image.shape)}, but there are {len(text_embeds)} texts")
    described = torch.unique(text_to_image)
    if not torch.equal(described, torch.arange(len(image_embeds))):
        raise ValueError(f"text_to_image names {len(described)} of the rows 0 to {len(image_embeds) - 1}: every image needs a text")
    text_ranks = _ranks(text_embeds, image_embeds, text_to_image)
    image_ranks = torch.cat(
        [
            _ranks_among_several(image_embeds[start : start + BLOCK_ROWS], text_embeds, text_to_image, start)
            for start in range(0, len(image_embeds), BLOCK_ROWS)
        ]
    )
    recall = {f"text_to_image_recall@{k}": (text_ranks < k).double().mean().item() for k in ks}
    recall |= {f"image_to_text_recall@{k}": (image_ranks < k).double().mean().item() for k in ks}
    return recall | {"mean_recall": sum(recall.values()) / len(recall)}


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
    ranks = _ranks(image_embeds, class_embeds, labels)
    return {f"accuracy@{k}": (ranks < k).double().mean().item() for k in ks}


def _ranks(queries: torch.Tensor, candidates: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """0-based rank of candidate `right[q]` for each query. Own and rival scores come from one product, so ties are ties."""
    ranks = []
    for start in range(0, len(queries), BLOCK_ROWS):
        scores = queries[start : start + BLOCK_ROWS] @ candidates.T
        own = scores.gather(1, right[start : start + BLOCK_ROWS, None])
        ranks.append((scores >= own).sum(1) - 1)
    return torch.cat(ranks)


def _ranks_among_several(images: torch.Tensor, texts: torch.Tensor, text_to_image: torch.Tensor, first_row: int) -> torch.Tensor:
    """0-based rank of each image's best own text, counting only the texts of other images as rivals."""
    scores = images @ texts.T
    own = text_to_image[None] == torch.arange(first_row, first_row + len(images))[:, None]
    best = scores.masked_fill(~own, -torch.inf).amax(1, keepdim=True)
    return (scores.masked_fill(own, -torch.inf) >= best).sum(1)


def _check(left: torch.Tensor, right: torch.Tensor) -> None:
    if left.ndim != 2 or right.ndim != 2 or left.shape[1] != right.shape[1]:
        raise ValueError(f"embeddings must be (rows, dim) with one dim, not {tuple(left.shape)} and {tuple(right.shape)}")
    if not (left.isfinite().all() and right.isfinite().all()):
        raise ValueError("an embedding is not finite: the model diverged, or half precision overflowed")
