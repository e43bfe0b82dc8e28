"""Metrics of embeddings and scores: exact, tile by tile, with ties against the model.

Retrieval and classification ask one question: how many wrong answers lie before the right one? `retrieval_ranks` and `class_ranks`
answer it for both directions of a tile of scores at once, and keep no more than that tile. Two equal vectors are equal answers,
though a matrix product may round their scores apart (it does so for other shapes of the product, and at its edges); such ties
are therefore found by the vectors, not by the scores.

Metrics that are sums over items take `weights` `(resamples, items)`, how often each item was drawn, for the bootstrap.
"""

import hashlib

import torch

BLOCK_ROWS = 512
DISTANCES = ("cosine", "euclidean")


def retrieval_recall(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    text_to_image: torch.Tensor,
    ks: tuple[int, ...] = (1, 5, 10),
) -> dict[str, float]:
    """Share of queries whose right answer is among the first `k`, in both directions (paper 5.1).

    Args:
        image_embeds: unit vectors `(images, dim)`.
        text_embeds: unit vectors `(texts, dim)`.
        text_to_image: LongTensor `(texts,)`, the row of the image that each text describes, or `(pairs, 2)`, as `retrieval_ranks`.
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
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    text_to_image: torch.Tensor,
    *,
    distance: str = "cosine",
) -> tuple[torch.Tensor, torch.Tensor]:
    """How many wrong answers lie before the right one, for each query of both directions: 0 where it is found first.

    A query with several right answers is found by the best placed one, and the others are no rivals. A tied competitor counts as
    ahead, so a model whose embeddings have collapsed finds nothing.

    Args:
        image_embeds: `(images, dim)`, unit vectors for `cosine`.
        text_embeds: `(texts, dim)`, likewise.
        text_to_image: LongTensor `(texts,)`, the row of the image that each text describes. Where a text describes several images,
            `(pairs, 2)`: a text's row and an image's row in each.
        distance: `cosine`, or `euclidean`, by which the released code of Krasner & Lanuzo orders vectors of any length.

    Returns:
        LongTensors: of each text the rank of its image among all images `(texts,)`, and of each image the rank of its first own
        text among those of other images `(images,)`.

    Raises:
        ValueError: another distance, shapes disagree, a row of `text_to_image` is out of range, an image has no text or a text no
            image, or a value is not finite.
    """
    _check_shapes(image_embeds, text_embeds)
    if distance not in DISTANCES:
        raise ValueError(f"distance is {distance!r}: choose {' or '.join(DISTANCES)}")
    pairs = _pairs(text_to_image, len(text_embeds))
    _check_pairs(pairs, len(text_embeds), len(image_embeds))
    return _ranks(image_embeds, text_embeds, pairs, distance)


def class_ranks(image_embeds: torch.Tensor, class_embeds: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """How many wrong classes lie before an image's own, or tie with it.

    Args:
        image_embeds: unit vectors `(images, dim)`.
        class_embeds: unit vectors `(classes, dim)`.
        labels: LongTensor `(images,)`, the row of each image's class.

    Returns:
        LongTensor `(images,)`, 0 where the own class is the nearest.

    Raises:
        ValueError: shapes disagree, a label is no class, or a value is not finite.
    """
    _check_shapes(image_embeds, class_embeds)
    _check_labels(labels, len(image_embeds), len(class_embeds))
    return _ranks(
        class_embeds, image_embeds, torch.stack([torch.arange(len(labels)), labels], dim=1), "cosine"
    )[0]


def ranks_in_scores(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """`class_ranks` where the scores `(items, classes)` are known: how many classes score as much as an item's own, or more.

    Raises:
        ValueError: shapes disagree, a label is no class, or a value is not finite.
    """
    if scores.ndim != 2:
        raise ValueError(f"scores must be (items, classes), not {tuple(scores.shape)}")
    _check_finite(scores)
    _check_labels(labels, *scores.shape)
    return (scores >= scores.gather(1, labels[:, None])).sum(1) - 1


def mean_per_class_accuracy(
    ranks: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """The accuracy of each class that occurs, averaged: a rare class counts as much as a frequent one.

    Args:
        ranks: `(items,)`, 0 where the item's class was found.
        labels: LongTensor `(items,)`.
        weights: `(resamples, items)`, how often each item was drawn.

    Returns:
        A fraction, or `(resamples,)` of them.
    """
    weights = torch.ones(len(ranks)) if weights is None else weights
    by_item = weights.double().T  # rows are added faster than columns
    drawn = by_item.new_zeros(int(labels.max()) + 1, *by_item.shape[1:])
    found = (ranks == 0).nonzero()[:, 0]
    hits = drawn.index_add(0, labels[found], by_item[found])
    return (hits / drawn.index_add(0, labels, by_item)).nanmean(0)


def average_precision(
    scores: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Area below the steps of precision over recall, as scikit-learn has it. Equal scores enter together.

    Args:
        scores: `(items,)`, higher for what is rather thought to be one.
        targets: bool `(items,)`.
        weights: `(resamples, items)`, how often each item was drawn.

    Returns:
        A fraction, or `(resamples,)`; not a number where no target is true.
    """
    hits, drawn = _hits_and_drawn(scores, targets, weights)
    gained = hits.diff(dim=-1, prepend=torch.zeros_like(hits[..., :1]))
    return (gained * _precision(hits, drawn)).sum(-1) / hits[..., -1]


def interpolated_average_precision(
    scores: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean over the recalls 0, 0.1 to 1 of the best precision at that recall or beyond (VOC2007's 11 points).

    Arguments and result are those of `average_precision`.
    """
    hits, drawn = _hits_and_drawn(scores, targets, weights)
    best_from_here = _precision(hits, drawn).flip(-1).cummax(-1).values.flip(-1)
    total = hits[..., -1:]
    # A hit is counted in whole numbers, and 0.3 is none: 10 hits >= 3 total.
    reached = torch.searchsorted(10 * hits, total * torch.arange(11, dtype=torch.double))
    return best_from_here.gather(-1, reached).mean(-1) * (total / total)[..., 0]


def roc_auc(scores: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Share of pairs of a true and a false target in which the true one scores higher; a tie is half a pair.

    Arguments and result are those of `average_precision`; not a number where all targets are equal.
    """
    hits, drawn = _hits_and_drawn(scores, targets, weights)
    hits, drawn = (torch.nn.functional.pad(count, (1, 0)) for count in (hits, drawn))
    return torch.trapezoid(hits, drawn - hits) / (hits[..., -1] * (drawn - hits)[..., -1])


def percentiles(
    values: torch.Tensor, percents: tuple[float, ...], weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Percentiles of `values` `(items,)`, linear between two of them, as `torch.quantile` has them.

    Returns:
        `(percents,)`, or `(resamples, percents)` with `weights` `(resamples, items)`, how often each item was drawn.
    """
    weights = torch.ones(len(values)) if weights is None else weights
    values, order = values.double().sort()
    upto = weights.double()[..., order].cumsum(-1)
    place = (upto[..., -1:] - 1) * torch.tensor(percents, dtype=torch.double) / 100
    below, above = (
        values[torch.searchsorted(upto, end, right=True)] for end in (place.floor(), place.ceil())
    )
    return torch.lerp(below, above, place - place.floor())


def _hits_and_drawn(
    scores: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """From the highest score down: true items, and items, that score as much or more. One column for each score that occurs."""
    if scores.ndim != 1 or scores.shape != targets.shape:
        raise ValueError(
            f"scores and targets must be (items,), not {tuple(scores.shape)} and {tuple(targets.shape)}"
        )
    _check_finite(scores)
    weights = torch.ones(len(scores)) if weights is None else weights
    scores, order = scores.sort(descending=True)
    last = torch.cat([scores.diff() != 0, torch.ones(1, dtype=torch.bool)])
    drawn = weights.double()[..., order]
    return (drawn * targets[order]).cumsum(-1)[..., last], drawn.cumsum(-1)[..., last]


def _precision(hits: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
    return hits / drawn.clamp(min=1)  # in a resample the best items may be missing


def _pairs(text_to_image: torch.Tensor, n_texts: int) -> torch.Tensor:
    """`(pairs, 2)` rows of a text and of its image."""
    if text_to_image.ndim == 2 and text_to_image.shape[1] == 2:
        return text_to_image
    if text_to_image.shape != (n_texts,):
        raise ValueError(
            f"text_to_image has shape {tuple(text_to_image.shape)}, but there are {n_texts} texts"
        )
    return torch.stack([torch.arange(n_texts), text_to_image], dim=1)


def _ranks(
    images: torch.Tensor, texts: torch.Tensor, pairs: torch.Tensor, distance: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ranks of texts and of images: how many rivals score as much as the best right answer, or are equal to it.

    Two passes over tiles of `BLOCK_ROWS` squared: those that hold a right answer give its score, then all of them count. Texts in
    the order of their images leave few tiles to the first pass.
    """
    image_ids, text_ids = _identities(images), _identities(texts)
    order = (
        torch.empty(len(texts), dtype=torch.long).scatter_(0, pairs[:, 0], pairs[:, 1]).argsort(stable=True)
    )
    columns, rows = order.argsort()[pairs[:, 0]], pairs[:, 1]
    n_blocks = -(-len(images) // BLOCK_ROWS)
    tile_of_pair, by_tile = (columns // BLOCK_ROWS * n_blocks + rows // BLOCK_ROWS).sort()
    columns, rows = columns[by_tile], rows[by_tile]
    bounds = torch.searchsorted(
        tile_of_pair, torch.arange(-(-len(texts) // BLOCK_ROWS) * n_blocks + 1)
    ).tolist()

    def tiles(needed):
        """Scores of images and texts, the slices they cover, and the right answers' numbers, for each tile that is needed."""
        for left in range(0, len(texts), BLOCK_ROWS):
            some_texts = texts[order[left : left + BLOCK_ROWS]]
            for top in range(0, len(images), BLOCK_ROWS):
                tile = left // BLOCK_ROWS * n_blocks + top // BLOCK_ROWS
                right = slice(bounds[tile], bounds[tile + 1])
                if needed(right):
                    some_images = images[top : top + BLOCK_ROWS]
                    scores = _scores(some_images, some_texts, distance)
                    yield (
                        scores,
                        slice(top, top + len(some_images)),
                        slice(left, left + len(some_texts)),
                        right,
                    )

    own = torch.empty(len(pairs), dtype=torch.double)
    for scores, image_slice, text_slice, right in tiles(lambda right: right.start < right.stop):
        own[right] = scores[rows[right] - image_slice.start, columns[right] - text_slice.start].double()
    of_text, of_image = (
        _Best(own, columns, rows, image_ids, len(texts)),
        _Best(own, rows, columns, text_ids[order], len(images)),
    )
    for scores, image_slice, text_slice, right in tiles(lambda _: True):
        inside = rows[right] - image_slice.start, columns[right] - text_slice.start
        of_text.count(scores, image_slice, text_slice, inside)
        of_image.count(scores.T, text_slice, image_slice, inside[::-1])
    return of_text.ranks[order.argsort()], of_image.ranks


class _Best:
    """Each query's best right answer, its score and its vector, and the rivals counted ahead of it.

    `own` `(pairs,)` are the scores of the right answers, whose rows are `queries` and `answers`; `ids` tells equal answers.
    """

    def __init__(
        self,
        own: torch.Tensor,
        queries: torch.Tensor,
        answers: torch.Tensor,
        ids: torch.Tensor,
        n_queries: int,
    ):
        self.ids, self.ranks = ids, torch.zeros(n_queries, dtype=torch.long)
        self.scores = torch.full((n_queries,), -torch.inf, dtype=torch.double).scatter_reduce(
            0, queries, own, "amax"
        )
        best = own == self.scores[queries]
        self.own_ids = torch.zeros_like(self.ranks)
        self.own_ids[queries[best]] = ids[answers[best]]
        _, number, count = ids.unique(return_inverse=True, return_counts=True)
        self.has_twin = count[number] > 1

    def count(
        self, scores: torch.Tensor, answers: slice, queries: slice, right: tuple[torch.Tensor, torch.Tensor]
    ) -> None:
        """Add the rivals of one tile `(answers, queries)`; `right` are the places of right answers, which are no rivals."""
        ahead = scores >= self.scores[queries].to(scores.dtype)
        twins = self.has_twin[answers].nonzero()[:, 0]
        if len(twins):
            ahead[twins] |= self.ids[answers][twins, None] == self.own_ids[queries]
        ahead[right] = False
        self.ranks[queries] += ahead.sum(0, dtype=torch.int32)


def _scores(images: torch.Tensor, texts: torch.Tensor, distance: str) -> torch.Tensor:
    """Higher is nearer, `(images, texts)`; by `euclidean`, the negative squared distance.

    That in double precision, since the distance of long vectors that lie close is a small difference of large numbers. `torch.cdist`
    avoids it by doing without matrix products, and took sixteen times as long for 5,000 vectors of 512 values.
    """
    if distance == "cosine":
        dtype = torch.promote_types(torch.promote_types(images.dtype, texts.dtype), torch.float32)
        return images.to(dtype) @ texts.to(dtype).T
    images, texts = images.double(), texts.double()
    return 2 * images @ texts.T - images.square().sum(1, keepdim=True) - texts.square().sum(1)


def _identities(embeds: torch.Tensor) -> torch.Tensor:
    """LongTensor `(rows,)`, one number for equal vectors: a digest of 64 bits, too many for two of a million others to agree."""
    digests = bytearray()
    for block in embeds.split(BLOCK_ROWS):
        if not block.isfinite().all():
            raise ValueError("an embedding is not finite: the model diverged, or half precision overflowed")
        values = block.detach().double() if block.dtype == torch.double else block.detach().float()
        for row in (values + 0.0).numpy():  # -0.0 becomes 0.0
            digests += hashlib.blake2b(row, digest_size=8).digest()
    return torch.frombuffer(digests, dtype=torch.long)


def _check_shapes(left: torch.Tensor, right: torch.Tensor) -> None:
    if left.ndim != 2 or right.ndim != 2 or left.shape[1] != right.shape[1]:
        raise ValueError(
            f"embeddings must be (rows, dim) with one dim, not {tuple(left.shape)} and {tuple(right.shape)}"
        )


def _check_pairs(pairs: torch.Tensor, n_texts: int, n_images: int) -> None:
    for column, n_rows, what, need in ((1, n_images, "image", "a text"), (0, n_texts, "text", "an image")):
        rows = pairs[:, column]
        strange = pairs[(rows < 0) | (rows >= n_rows)].tolist()
        if strange:
            text, image = strange[0]
            raise ValueError(
                f"text {text} is said to describe image {image}, but the {what}s are the rows 0 to {n_rows - 1}"
            )
        alone = torch.ones(n_rows, dtype=torch.bool).index_fill(0, rows, False).nonzero()[:, 0].tolist()
        if alone:
            raise ValueError(
                f"{what} {alone[0]}, of {len(alone)} like it among {n_rows}, is paired with none: every {what} needs {need}"
            )


def _check_finite(scores: torch.Tensor) -> None:
    if not scores.isfinite().all():
        raise ValueError(f"a score of item {(~scores.isfinite()).nonzero()[0, 0]} is not finite")


def _check_labels(labels: torch.Tensor, n_items: int, n_classes: int) -> None:
    if labels.shape != (n_items,):
        raise ValueError(f"labels must be one for each of {n_items} items, not {tuple(labels.shape)}")
    strange = ((labels < 0) | (labels >= n_classes)).nonzero()[:, 0]
    if len(strange):
        raise ValueError(
            f"item {strange[0]} has the label {labels[strange[0]]}, but the classes are the rows 0 to {n_classes - 1}"
        )
