"""Image-text retrieval as a module of `evaluate`.

`evaluate.load("benchmarks/evaluate_modules/image_text_retrieval")` copies this file and nothing beside it, so
that it imports none of our packages. It returns the numbers of `benchmarks`.
"""

import math

import evaluate
import torch
from datasets import Features, List, Value

_DESCRIPTION = """
How well texts find their images among all images, and images their texts, in the space of a CLIP-like model:
recall at 1 to 10 in both directions, the mean recall of the papers (both directions at 1, 5 and 10), nDCG@10
of the images found by texts, and percentiles of the rank of the right answer. The metrics are exact, and
memory does not grow with images x texts. An image is found by the best of its texts. Ties are ranked
pessimistically.
"""
_INPUTS = """
Args:
    predictions: one embedding for each text, of unit length, `(texts, dim)`.
    references: for each text the row of the image that it describes, `(texts,)`. Every image needs a text.
    image_embeds: embeddings of unit length `(images, dim)`.

Returns:
    `text_to_image_recall@1` to `@10`, `image_to_text_recall@1` to `@10`, `mean_recall` and
    `text_to_image_ndcg@10`, fractions;
    `text_to_image_rank_p5`, `_p25`, `_p50`, `_p75`, `_p95` and those of `image_to_text`, ranks that count
    from 0; `n` images and `n_texts`.

Examples:
    >>> retrieval = evaluate.load("benchmarks/evaluate_modules/image_text_retrieval")
    >>> retrieval.compute(predictions=[[1.0, 0.0], [0.6, 0.8]], references=[0, 1], \
image_embeds=[[1.0, 0.0], [0.0, 1.0]])["mean_recall"]
    1.0
"""
_CITATION = """
@inproceedings{chen-etal-2023-altclip,
    title = "{AltCLIP}: Altering the Language Encoder in {CLIP} for Extended Language Capabilities",
    author = "Chen, Zhongzhi and Liu, Guang and Zhang, Bo-Wen and Yang, Qinghong and Wu, Ledell",
    booktitle = "Findings of the Association for Computational Linguistics: ACL 2023",
    year = "2023",
    pages = "8666--8682",
}
"""

BLOCK_ROWS = 512
_DEPTHS = range(1, 11)
_PERCENTS = (5, 25, 50, 75, 95)


class ImageTextRetrieval(evaluate.Metric):
    """Recall, and percentiles of ranks, in both directions."""

    def _info(self) -> evaluate.MetricInfo:
        features = Features({"predictions": List(Value("float32")), "references": Value("int64")})
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=features,
            license="Apache-2.0",
        )

    def _compute(
        self, predictions: list, references: list, image_embeds: torch.Tensor | list
    ) -> dict[str, float]:
        texts = torch.tensor(predictions)
        images = torch.as_tensor(image_embeds)
        text_to_image = torch.tensor(references)
        _check(images, texts, text_to_image)

        text_ranks, image_ranks = _both_ranks(images, texts, text_to_image)
        recalls = _recalls("text_to_image", text_ranks) | _recalls("image_to_text", image_ranks)
        ranks = _percentiles("text_to_image", text_ranks) | _percentiles("image_to_text", image_ranks)
        six = []
        for direction in ("text_to_image", "image_to_text"):
            six += [recalls[f"{direction}_recall@{k}"] for k in (1, 5, 10)]
        mean = torch.tensor(six, dtype=torch.double).mean().item()
        of_all = {"mean_recall": mean, "text_to_image_ndcg@10": _ndcg(text_ranks)}
        return {"n": len(images), "n_texts": len(texts), **recalls, **of_all, **ranks}


def _recalls(direction: str, ranks: torch.Tensor) -> dict[str, float]:
    """Return the share of the queries of a direction whose right answer is among the first k."""
    return {f"{direction}_recall@{k}": (ranks < k).double().mean().item() for k in _DEPTHS}


def _ndcg(ranks: torch.Tensor) -> float:
    """Return the mean nDCG@10 of queries with one right answer each."""
    gains = [(ranks == rank).sum().item() / math.log2(rank + 2) for rank in range(len(_DEPTHS))]
    return sum(gains) / len(ranks)


def _percentiles(direction: str, ranks: torch.Tensor) -> dict[str, float]:
    """Return percentiles of the ranks of a direction."""
    return {f"{direction}_rank_p{percent}": _percentile(ranks, percent) for percent in _PERCENTS}


def _percentile(ranks: torch.Tensor, percent: int) -> float:
    """Return one percentile, interpolated linearly between the two nearest ranks."""
    place = torch.tensor((len(ranks) - 1) * percent / 100, dtype=torch.double)
    ordered = ranks.double().sort().values
    below = ordered[int(place.floor())]
    above = ordered[int(place.ceil())]
    return torch.lerp(below, above, place - place.floor()).item()


def _check(images: torch.Tensor, texts: torch.Tensor, text_to_image: torch.Tensor) -> None:
    """Check the embeddings and which text belongs to which image.

    Raises:
        ValueError: shapes disagree, a value is not finite, a text describes a row that is no image, or an
            image has no text.
    """
    if images.ndim != 2 or texts.ndim != 2 or images.shape[1] != texts.shape[1]:
        shapes = f"{tuple(images.shape)} and {tuple(texts.shape)}"
        raise ValueError(f"embeddings must be (rows, dim) with one dim, not {shapes}")
    if not (images.isfinite().all() and texts.isfinite().all()):
        raise ValueError("an embedding is not finite: the model diverged, or half precision overflowed")

    is_outside = (text_to_image < 0) | (text_to_image >= len(images))
    outside = is_outside.nonzero()[:, 0].tolist()
    if outside:
        text = outside[0]
        raise ValueError(
            f"text {text} is said to describe image {text_to_image[text]}, "
            f"but the images are the rows 0 to {len(images) - 1}"
        )

    n_texts = text_to_image.bincount(minlength=len(images))
    alone = (n_texts == 0).nonzero()[:, 0].tolist()
    if alone:
        raise ValueError(
            f"image {alone[0]}, of {len(alone)} like it among {len(images)}, is paired with none: "
            "every image needs a text"
        )


def _both_ranks(
    images: torch.Tensor, texts: torch.Tensor, text_to_image: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Count the wrong answers that score as much as the right one, or more, in both directions.

    Returns:
        LongTensors of ranks from 0: of each text's image among all images `(texts,)`, and of each image's
        best own text among the texts of other images `(images,)`.
    """
    # Equal embeddings are multiplied once, and counted as often as they occur: a matrix product may round
    # their scores apart. Embeddings a b a -> distinct [a, b], ids [0, 1, 0], counts [2, 1].
    dtype = torch.promote_types(torch.promote_types(images.dtype, texts.dtype), torch.float32)
    images, image_ids, n_equal_images = images.to(dtype).unique(
        dim=0, return_inverse=True, return_counts=True
    )
    texts, text_ids, n_equal_texts = texts.to(dtype).unique(dim=0, return_inverse=True, return_counts=True)

    # First pass: the score of each text with its own image.
    own_ids = image_ids[text_to_image]
    own = torch.empty(len(text_ids), dtype=dtype)
    for scores, first, rows in _score_blocks(images, texts, text_ids):
        own[rows] = scores[text_ids[rows] - first, own_ids[rows]]
    # An image is found by the best of its texts.
    lowest = torch.full((len(image_ids),), -torch.inf, dtype=dtype)
    best = lowest.scatter_reduce(0, text_to_image, own, "amax")

    # Second pass: count all that score as much, or more. The right answers are among them, so a text starts
    # at -1, and an image at minus the number of its own texts that score best.
    text_ranks = torch.full((len(text_ids),), -1)
    is_best = own == best[text_to_image]
    image_ranks = torch.zeros(len(image_ids), dtype=torch.long)
    image_ranks = image_ranks.index_add(0, text_to_image, -is_best.long())
    for scores, first, rows in _score_blocks(images, texts, text_ids):
        for part in rows.split(BLOCK_ROWS):
            ahead = scores[text_ids[part] - first] >= own[part, None]  # (texts, distinct images)
            text_ranks[part] += (ahead * n_equal_images).sum(1)

        n_equal = n_equal_texts[first : first + len(scores), None]
        for part in torch.arange(len(image_ids)).split(BLOCK_ROWS):
            ahead = scores[:, image_ids[part]] >= best[part]  # (distinct texts, images)
            image_ranks[part] += (ahead * n_equal).sum(0)
    return text_ranks, image_ranks


def _score_blocks(images: torch.Tensor, texts: torch.Tensor, text_ids: torch.Tensor):
    """Score distinct texts with all distinct images, `BLOCK_ROWS` texts at a time.

    Args:
        text_ids: for each text, with repetitions, the row of its embedding in `texts`.

    Yields:
        The scores `(distinct texts, distinct images)`, the row of the first of these in `texts`, and which
        texts have one of these embeddings.
    """
    # Texts of equal embeddings side by side: text_ids [1, 0, 1] -> order [1, 0, 2], sorted_ids [0, 1, 1].
    order = text_ids.argsort(stable=True)
    sorted_ids = text_ids[order]
    for first in range(0, len(texts), BLOCK_ROWS):
        block = texts[first : first + BLOCK_ROWS]
        ends = torch.tensor([first, first + len(block)])
        start, stop = torch.searchsorted(sorted_ids, ends).tolist()
        yield block @ images.T, first, order[start:stop]
