"""Metrics of embeddings and scores: exact, computed tile by tile, with ties ranked pessimistically.

Retrieval and classification ask one question: how many wrong answers are ahead of the right one?
`retrieval_ranks` and `class_ranks` answer it for both directions of a tile of scores at once, and keep no
more than that tile in memory. Two equal embeddings are equal answers, but a matrix product may round their
scores apart (the rounding depends on the shape of the product, and differs at its edges). Ties are therefore
found by comparing the embeddings, not only the scores.

Metrics that are sums over items take `weights` `(resamples, items)`, how often each item was drawn, for the
bootstrap.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from xxhash import xxh3_64_digest

from modeling_altclip.linear_altclip import linear

BLOCK_ROWS = 512  # images and texts of one tile: 1 MB of float32 scores
DISTANCES = ("cosine", "euclidean")


def retrieval_recall(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    text_to_image: torch.Tensor,
    ks: tuple[int, ...] = (1, 5, 10),
) -> dict[str, float]:
    """Compute the share of queries whose right answer is among the first `k`, in both directions (paper 5.1).

    It serves embeddings of one's own. Evaluations keep the ranks of each item, and compute recall from these
    (`outcomes.py`).

    Args:
        image_embeds: unit-length embeddings `(images, dim)`.
        text_embeds: unit-length embeddings `(texts, dim)`.
        text_to_image: LongTensor `(texts,)`, the row of the image that each text describes, or `(pairs, 2)`,
            as in `retrieval_ranks`.
        ks: the depths to report.

    Returns:
        Fractions: `text_to_image_recall@k` and `image_to_text_recall@k` for each `k`, and `mean_recall`,
        their mean.

    Raises:
        TypeError, ValueError: as `retrieval_ranks`.

    Example:

    ```python
    >>> import torch
    >>> from benchmarks import retrieval_recall

    >>> # Two images with a text each; the second text is nearer to the first image
    >>> image_embeds = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> text_embeds = torch.tensor([[1.0, 0.0], [0.8, 0.6]])
    >>> retrieval_recall(image_embeds, text_embeds, text_to_image=torch.tensor([0, 1]), ks=(1,))
    {'text_to_image_recall@1': 0.5, 'image_to_text_recall@1': 1.0, 'mean_recall': 0.75}
    ```
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
    """Count the wrong answers ahead of the right one, for each query of both directions.

    A query with several right answers is ranked by the best of them, and the others are no rivals. Ties are
    ranked pessimistically: a tied wrong answer counts as ahead, so a model whose embeddings have collapsed
    finds nothing.

    Args:
        image_embeds: `(images, dim)`, of unit length for `cosine`.
        text_embeds: `(texts, dim)`, of unit length for `cosine`.
        text_to_image: LongTensor `(texts,)`, the row of the image that each text describes. Where a text
            describes several images, `(pairs, 2)`: the row of a text and the row of an image in each pair.
        distance: `cosine`, or `euclidean`, by which the released code of Krasner & Lanuzo orders embeddings
            that are not normalized.

    Returns:
        Two LongTensors of ranks from 0: of each text's image among all images `(texts,)`, and of each image's
        best own text among the texts of other images `(images,)`.

    Raises:
        TypeError: embeddings are no floats, or `text_to_image` is no LongTensor.
        ValueError: another distance, shapes disagree, there are no images or no texts, a row of
            `text_to_image` is out of range, an image has no text or a text no image, or a value is not
            finite.
    """
    _check_shapes(image_embeds, text_embeds)
    if distance not in DISTANCES:
        raise ValueError(f"distance is {distance!r}: choose {' or '.join(DISTANCES)}")
    pairs = _pairs(text_to_image, len(text_embeds))
    _check_pairs(pairs, len(text_embeds), len(image_embeds))
    return _ranks(image_embeds, text_embeds, pairs, distance)


def class_ranks(image_embeds: torch.Tensor, class_embeds: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Count the wrong classes ahead of each image's own class, or tied with it.

    Args:
        image_embeds: unit-length embeddings `(images, dim)`.
        class_embeds: unit-length embeddings `(classes, dim)`.
        labels: LongTensor `(images,)`, the row of each image's class.

    Returns:
        LongTensor `(images,)`, 0 where the own class is the nearest.

    Raises:
        ValueError: shapes disagree, a label is no class, or a value is not finite.
    """
    _check_shapes(image_embeds, class_embeds)
    _check_labels(labels, len(image_embeds), len(class_embeds))
    # The images are the queries, as texts are in retrieval, and each has one right answer among the classes.
    pairs = torch.stack([torch.arange(len(labels)), labels], dim=1)
    image_ranks, _ = _ranks(class_embeds, image_embeds, pairs, "cosine")
    return image_ranks


def ranks_in_scores(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Count the other classes that score as much as an item's own, or more: `class_ranks` of known scores.

    Args:
        scores: `(items, classes)`.
        labels: LongTensor `(items,)`, the column of each item's class.

    Returns:
        LongTensor `(items,)`, 0 where the own class scores highest.

    Raises:
        ValueError: shapes disagree, a label is no class, or a value is not finite.
    """
    if scores.ndim != 2:
        raise ValueError(f"scores must be (items, classes), not {tuple(scores.shape)}")
    _check_finite(scores)
    _check_labels(labels, *scores.shape)
    own_scores = scores.gather(1, labels[:, None])
    return (scores >= own_scores).sum(1) - 1  # the own class is counted too


def class_scores(image_embeds: torch.Tensor, class_embeds: torch.Tensor) -> torch.Tensor:
    """Compute the cosine of each image with each class, `(images, classes)`.

    Equal embeddings get equal scores. A matrix product alone rounds them apart by the place of their row, so
    that a model with one embedding for all images would rank the images by their places.

    Args:
        image_embeds: unit-length embeddings `(images, dim)`.
        class_embeds: unit-length embeddings `(classes, dim)`.

    Raises:
        ValueError: shapes disagree, or a value is not finite.
    """
    _check_shapes(image_embeds, class_embeds)
    scores = image_embeds @ class_embeds.T
    return scores[first_equal(image_embeds)][:, first_equal(class_embeds)]


def first_equal(embeds: torch.Tensor) -> torch.Tensor:
    """Return the first row that equals each row: of the embeddings a, b, a -> [0, 1, 0]."""
    distinct, of_row = _identities(embeds).unique(return_inverse=True)
    rows = torch.arange(len(embeds))
    first_rows = torch.full((len(distinct),), len(embeds)).scatter_reduce(0, of_row, rows, "amin")
    return first_rows[of_row]


def mean_per_class_accuracy(
    ranks: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Average the accuracies of the classes that occur: a rare class counts as much as a frequent one.

    Args:
        ranks: `(items,)`, 0 where the item's class was found.
        labels: LongTensor `(items,)`.
        weights: `(resamples, items)`, how often each item was drawn.

    Returns:
        A fraction, or `(resamples,)` of them.
    """
    weights = torch.ones(len(ranks)) if weights is None else weights
    by_item = weights.double().T  # rows are added faster than columns
    n_classes = int(labels.max()) + 1
    zeros = by_item.new_zeros(n_classes, *by_item.shape[1:])

    found = (ranks == 0).nonzero()[:, 0]
    hits = zeros.index_add(0, labels[found], by_item[found])
    drawn = zeros.index_add(0, labels, by_item)
    # A class without an item, or with none drawn in a resample, is 0 / 0 and left out of the mean.
    return (hits / drawn).nanmean(0)


def average_precision(
    scores: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Compute the area below the steps of precision over recall, as scikit-learn does.

    Items of equal scores are added to the curve together.

    Args:
        scores: `(items,)`, higher for items that are more likely positive.
        targets: bool `(items,)`.
        weights: `(resamples, items)`, how often each item was drawn.

    Returns:
        A fraction, or `(resamples,)` of them; NaN where no target is true.
    """
    hits, drawn = _hits_and_drawn(scores, targets, weights)
    gained = hits.diff(dim=-1, prepend=torch.zeros_like(hits[..., :1]))
    area = (gained * _precision(hits, drawn)).sum(-1)
    return area / hits[..., -1]


def interpolated_average_precision(
    scores: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Average the best precision at or beyond the recalls 0, 0.1, ..., 1 (the 11 points of VOC2007).

    Arguments and result are those of `average_precision`.
    """
    hits, drawn = _hits_and_drawn(scores, targets, weights)
    # A running maximum from the right: precision [1, .5, .6] -> [1, .6, .6].
    best_from_here = _precision(hits, drawn).flip(-1).cummax(-1).values.flip(-1)
    total = hits[..., -1:]
    # Recall 0.3 is reached where 10 hits >= 3 total: whole numbers, since 0.3 is no exact float.
    reached = torch.searchsorted(10 * hits, total * torch.arange(11, dtype=torch.double))
    at_recalls = best_from_here.gather(-1, reached)
    nan_without_hits = (total / total)[..., 0]  # 1, or NaN where no target is true
    return at_recalls.mean(-1) * nan_without_hits


def roc_auc(scores: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Compute the share of (true, false) pairs of items in which the true one scores higher.

    A tie counts as half a pair. Arguments and result are those of `average_precision`, but NaN where all
    targets are equal.
    """
    hits, drawn = _hits_and_drawn(scores, targets, weights)
    hits = torch.nn.functional.pad(hits, (1, 0))  # the curve begins at (0, 0)
    drawn = torch.nn.functional.pad(drawn, (1, 0))
    false_hits = drawn - hits
    n_pairs = hits[..., -1] * false_hits[..., -1]
    return torch.trapezoid(hits, false_hits) / n_pairs


def percentiles(
    values: torch.Tensor, percents: tuple[float, ...], weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Compute percentiles of `values` `(items,)`, interpolated linearly, as `torch.quantile` does.

    Args:
        percents: from 0 to 100.
        weights: `(resamples, items)`, how often each item was drawn.

    Returns:
        `(percents,)`, or `(resamples, percents)` with `weights`.
    """
    weights = torch.ones(len(values)) if weights is None else weights
    values, order = values.double().sort()
    # Weights [2, 0, 1] -> upto [2, 2, 3]: item 0 fills the places 0 and 1, item 2 the place 2.
    upto = weights.double()[..., order].cumsum(-1)
    last_place = upto[..., -1:] - 1
    place = last_place * torch.tensor(percents, dtype=torch.double) / 100
    below = values[torch.searchsorted(upto, place.floor(), right=True)]
    above = values[torch.searchsorted(upto, place.ceil(), right=True)]
    return torch.lerp(below, above, place - place.floor())


def _hits_and_drawn(
    scores: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Count the true items, and all items, down to each distinct score, from the highest score on.

    Returns:
        Two tensors `(..., distinct scores)`.
    """
    if scores.ndim != 1 or scores.shape != targets.shape:
        raise ValueError(
            f"scores and targets must be (items,), not {tuple(scores.shape)} and {tuple(targets.shape)}"
        )
    _check_finite(scores)
    weights = torch.ones(len(scores)) if weights is None else weights
    scores, order = scores.sort(descending=True)
    # Scores [9, 7, 7, 5] -> last [True, False, True, True]: the last item of each group of equal scores.
    last = torch.cat([scores.diff() != 0, torch.ones(1, dtype=torch.bool)])
    by_score = weights.double()[..., order]
    hits = (by_score * targets[order]).cumsum(-1)[..., last]
    drawn = by_score.cumsum(-1)[..., last]
    return hits, drawn


def _precision(hits: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
    return hits / drawn.clamp(min=1)  # a resample may lack the items of the highest scores


def _pairs(text_to_image: torch.Tensor, n_texts: int) -> torch.Tensor:
    """Return `(pairs, 2)`: the row of a text and the row of its image in each pair.

    Raises:
        ValueError: `text_to_image` is neither `(pairs, 2)` nor `(texts,)`.
    """
    _check_rows("text_to_image", text_to_image)
    if text_to_image.ndim == 2 and text_to_image.shape[1] == 2:
        return text_to_image
    if text_to_image.shape != (n_texts,):
        raise ValueError(
            f"text_to_image has shape {tuple(text_to_image.shape)}, but there are {n_texts} texts"
        )
    # tensor([4, 4, 7]) -> [[0, 4], [1, 4], [2, 7]]
    return torch.stack([torch.arange(n_texts), text_to_image], dim=1)


def _ranks(
    images: torch.Tensor, texts: torch.Tensor, pairs: torch.Tensor, distance: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the ranks of texts among images, and of images among texts.

    A first pass finds the score of each right answer. A second pass counts the rivals: wrong answers that
    score as much as the query's best right answer, or whose embedding equals it.
    """
    image_ids = _identities(images)
    text_ids = _identities(texts)
    check_lengths(images, texts, distance)
    grid = _TileGrid(images, texts, pairs, distance)
    right_scores = grid.right_scores()

    # A text is asked among the images (rows of the grid), an image among the texts (columns of the grid).
    text_rivals = _RivalCounter(right_scores, grid.pair_columns, grid.pair_rows, image_ids, len(texts))
    image_rivals = _RivalCounter(
        right_scores, grid.pair_rows, grid.pair_columns, text_ids[grid.text_order], len(images)
    )
    grid.count_rivals(text_rivals, image_rivals)

    # Text ranks are counted column by column; give them back in the caller's order of texts.
    return text_rivals.ranks[grid.column_of_text], image_rivals.ranks


@dataclass
class _Tile:
    """A block of images, a block of texts, and the right answers among their scores."""

    images: torch.Tensor
    texts: torch.Tensor
    rows: slice  # the images' places in the grid
    columns: slice  # the texts' places in the grid
    pairs: slice  # the right answers inside the tile, by their places in the grid's list of pairs
    right: tuple[torch.Tensor, torch.Tensor]  # their rows and columns, counted from the tile's corner

    @property
    def has_right_answers(self) -> bool:
        return self.pairs.start < self.pairs.stop


class _TileGrid:
    """Scores of all images (rows) with all texts (columns), computed one tile at a time.

    Columns are the texts sorted by their image, so that right answers (`x`) lie near the diagonal and few
    tiles hold one. Four images with six texts and `BLOCK_ROWS` 3 make two by two tiles:

                      columns (texts)
                      0 1 2 | 3 4 5
        row 0         x x . | . . .
        (image) 1     . . x | . . .       numbers of the tiles:   0 | 2
                2     . . . | x . .                              ---+---
                      ------+------                               1 | 3
                3     . . . | . x x

    The first pass skips tile 1, which holds no right answer. The second pass visits all four.

    Attributes:
        text_order: LongTensor `(texts,)`, the row in `texts` of each column.
        column_of_text: LongTensor `(texts,)`, the inverse: the column of each row of `texts`.
        pair_rows, pair_columns: LongTensors `(pairs,)`, the places of the right answers, sorted by tile.
    """

    def __init__(self, images: torch.Tensor, texts: torch.Tensor, pairs: torch.Tensor, distance: str):
        self.images = images
        self.texts = texts
        self.distance = distance

        # Texts of the images [2, 0, 1] -> text_order [1, 2, 0] -> column_of_text [2, 0, 1].
        image_of_text = torch.empty(len(texts), dtype=torch.long).scatter_(0, pairs[:, 0], pairs[:, 1])
        self.text_order = image_of_text.argsort(stable=True)
        self.column_of_text = self.text_order.argsort()

        # Right answers sorted by tile, so that those of one tile are a slice between two bounds.
        rows = pairs[:, 1]
        columns = self.column_of_text[pairs[:, 0]]
        self.n_row_blocks = -(-len(images) // BLOCK_ROWS)  # rounded up
        n_tiles = -(-len(texts) // BLOCK_ROWS) * self.n_row_blocks
        tile_of_pair, by_tile = self._tile_at(rows, columns).sort()
        self.pair_rows = rows[by_tile]
        self.pair_columns = columns[by_tile]
        self.pair_bounds = torch.searchsorted(tile_of_pair, torch.arange(n_tiles + 1)).tolist()

    def right_scores(self) -> torch.Tensor:
        """Compute the score of each right answer, float64 `(pairs,)` sorted by tile: the first pass."""
        scores = torch.empty(len(self.pair_rows), dtype=torch.double)
        for tile in self._tiles():
            if tile.has_right_answers:
                scores[tile.pairs] = self._score(tile)[tile.right].double()
        return scores

    def count_rivals(self, text_rivals: "_RivalCounter", image_rivals: "_RivalCounter") -> None:
        """Count the rivals of both directions in every tile: the second pass."""
        for tile in self._tiles():
            scores = self._score(tile)
            right_rows, right_columns = tile.right
            text_rivals.count(scores, tile.rows, tile.columns, tile.right)
            # Transposed: an answer is a row for the counter, and the answers to an image are the columns.
            image_rivals.count(scores.T, tile.columns, tile.rows, (right_columns, right_rows))

    def _tiles(self) -> Iterator[_Tile]:
        """Visit the tiles, in the order of their numbers."""
        for left in range(0, len(self.texts), BLOCK_ROWS):
            texts = self.texts[self.text_order[left : left + BLOCK_ROWS]]
            for top in range(0, len(self.images), BLOCK_ROWS):
                images = self.images[top : top + BLOCK_ROWS]
                number = self._tile_at(top, left)
                pairs = slice(self.pair_bounds[number], self.pair_bounds[number + 1])
                yield _Tile(
                    images=images,
                    texts=texts,
                    rows=slice(top, top + len(images)),
                    columns=slice(left, left + len(texts)),
                    pairs=pairs,
                    right=(self.pair_rows[pairs] - top, self.pair_columns[pairs] - left),
                )

    def _tile_at(self, row, column):
        """Return the number of the tile that holds a place, of ints or of tensors."""
        return column // BLOCK_ROWS * self.n_row_blocks + row // BLOCK_ROWS

    def _score(self, tile: _Tile) -> torch.Tensor:
        return pair_scores(tile.images, tile.texts, self.distance)


class _RivalCounter:
    """Counts, for each query of one direction, the wrong answers that are ahead of its best right one.

    Args:
        right_scores: float64 `(pairs,)`, the score of each right answer.
        queries: LongTensor `(pairs,)`, the query of each right answer.
        answers: LongTensor `(pairs,)`, the answer itself.
        answer_ids: LongTensor `(answers,)`, equal for equal embeddings.
        n_queries: number of queries, each of which has a right answer.

    Attributes:
        ranks: LongTensor `(queries,)`, the rivals counted so far.
    """

    def __init__(
        self,
        right_scores: torch.Tensor,
        queries: torch.Tensor,
        answers: torch.Tensor,
        answer_ids: torch.Tensor,
        n_queries: int,
    ):
        self.ranks = torch.zeros(n_queries, dtype=torch.long)
        self.answer_ids = answer_ids

        # The best right answer of each query: its score, and the identity of its embedding.
        lowest = torch.full((n_queries,), -torch.inf, dtype=torch.double)
        self.best_scores = lowest.scatter_reduce(0, queries, right_scores, "amax")
        is_best = right_scores == self.best_scores[queries]
        self.best_ids = torch.zeros_like(self.ranks)
        self.best_ids[queries[is_best]] = answer_ids[answers[is_best]]

        # ids [8, 5, 8] -> has_twin [True, False, True]
        _, number, count = answer_ids.unique(return_inverse=True, return_counts=True)
        self.has_twin = count[number] > 1

    def count(
        self, scores: torch.Tensor, answers: slice, queries: slice, right: tuple[torch.Tensor, torch.Tensor]
    ) -> None:
        """Add the rivals of one tile.

        Args:
            scores: `(answers, queries)` of the tile.
            answers, queries: the tile's places among all answers and all queries.
            right: rows and columns of the right answers in the tile, which are no rivals.
        """
        best = self.best_scores[queries].to(scores.dtype)
        # 1 for a rival, else 0: numbers, since PyTorch writes and adds them twice as fast as booleans.
        ahead = torch.ge(scores, best, out=torch.empty_like(scores))
        # An embedding equal to the right one is a rival, even where its score was rounded down.
        twins = self.has_twin[answers].nonzero()[:, 0]
        if len(twins):
            twin_ids = self.answer_ids[answers][twins, None]
            ahead[twins] = ahead[twins].maximum(twin_ids == self.best_ids[queries])
        ahead[right] = 0
        # A product with ones adds up the rows. Sums of so few ones are exact.
        self.ranks[queries] += (ahead.new_ones(len(ahead)) @ ahead).long()


def pair_scores(images: torch.Tensor, texts: torch.Tensor, distance: str) -> torch.Tensor:
    """Compute scores `(images, texts)`: the cosine, or the negative squared distance.

    The distance is computed in double precision: for long embeddings that lie close it is a small difference
    of large numbers. `torch.cdist` avoids that difference by doing without matrix products, and took sixteen
    times as long for 5,000 embeddings of 512 values.
    """
    if distance == "cosine":
        dtype = torch.promote_types(torch.promote_types(images.dtype, texts.dtype), torch.float32)
        return linear(images.to(dtype), texts.to(dtype))
    images, texts = images.double(), texts.double()
    # -|i - t|^2 = 2 i.t - |i|^2 - |t|^2
    return 2 * images @ texts.T - images.square().sum(1, keepdim=True) - texts.square().sum(1)


def check_lengths(images: torch.Tensor, texts: torch.Tensor, distance: str) -> None:
    """Refuse embeddings so long that scores may overflow: what is infinite would tie with the right answer.

    Raises:
        ValueError: they are.
    """
    of_images, of_texts = _largest_value(images), _largest_value(texts)
    dim = images.shape[1]
    if distance == "cosine":
        bound = dim * of_images * of_texts
        dtype = torch.promote_types(torch.promote_types(images.dtype, texts.dtype), torch.float32)
    else:
        bound = dim * (of_images + of_texts) * (of_images + of_texts)
        dtype = torch.double
    if bound >= torch.finfo(dtype).max:
        raise ValueError(
            f"embeddings have values of up to {of_images:.3g} and {of_texts:.3g}, whose scores may overflow: "
            "normalize them first"
        )


def _largest_value(embeds: torch.Tensor) -> float:
    """Return the largest absolute value, without a copy of the embeddings."""
    lowest, highest = embeds.aminmax()
    return max(-lowest.item(), highest.item())


def _identities(embeds: torch.Tensor) -> torch.Tensor:
    """Return a LongTensor `(rows,)` with equal numbers for equal embeddings.

    The numbers are digests of 64 bits: two of a million different embeddings agree with a probability of
    3e-8.

    Raises:
        ValueError: a value is not finite.
    """
    digests = bytearray()
    for block in embeds.split(BLOCK_ROWS):
        if not block.isfinite().all():
            raise ValueError("an embedding is not finite: the model diverged, or half precision overflowed")
        values = block.detach().double() if block.dtype == torch.double else block.detach().float()
        for row in (values + 0.0).numpy():  # -0.0 becomes 0.0, which equals it
            digests += xxh3_64_digest(row)
    return torch.frombuffer(digests, dtype=torch.long)


def _check_shapes(left: torch.Tensor, right: torch.Tensor) -> None:
    """Refuse what is no tensor of floats with values, and embeddings of other shapes or of no rows."""
    for embeddings in (left, right):
        is_tensor = isinstance(embeddings, torch.Tensor) and not embeddings.is_meta
        if not is_tensor or not embeddings.is_floating_point():
            raise TypeError(f"embeddings must be a tensor of floats, not {_describe(embeddings)}")
    if left.ndim != 2 or right.ndim != 2 or left.shape[1] != right.shape[1] or not len(left) * len(right):
        raise ValueError(
            f"embeddings must be (rows, dim) with one dim, not {tuple(left.shape)} and {tuple(right.shape)}"
        )


def _check_rows(name: str, rows: torch.Tensor) -> None:
    """Refuse what is no LongTensor."""
    if not isinstance(rows, torch.Tensor) or rows.dtype != torch.long or rows.is_meta:
        raise TypeError(f"{name} must be a LongTensor, not {_describe(rows)}")


def _describe(value: object) -> str:
    """Name the type of what should be another tensor."""
    return f"one of {value.dtype}" if isinstance(value, torch.Tensor) else type(value).__name__


def _check_pairs(pairs: torch.Tensor, n_texts: int, n_images: int) -> None:
    """Refuse rows out of range, images without a text, and texts without an image."""
    _check_all_paired(pairs, 1, n_images, "image", "a text")
    _check_all_paired(pairs, 0, n_texts, "text", "an image")


def _check_all_paired(pairs: torch.Tensor, column: int, n_rows: int, what: str, need: str) -> None:
    """Check one column of the pairs: each of its values is one of `n_rows` rows, and each row occurs."""
    rows = pairs[:, column]
    strange = pairs[(rows < 0) | (rows >= n_rows)].tolist()
    if strange:
        text, image = strange[0]
        raise ValueError(
            f"text {text} is said to describe image {image}, but the {what}s are the rows 0 to {n_rows - 1}"
        )
    is_alone = torch.ones(n_rows, dtype=torch.bool).index_fill(0, rows, False)
    alone = is_alone.nonzero()[:, 0].tolist()
    if alone:
        raise ValueError(
            f"{what} {alone[0]}, of {len(alone)} like it among {n_rows}, is paired with none: "
            f"every {what} needs {need}"
        )


def _check_finite(scores: torch.Tensor) -> None:
    if not scores.isfinite().all():
        raise ValueError(f"a score of item {(~scores.isfinite()).nonzero()[0, 0]} is not finite")


def _check_labels(labels: torch.Tensor, n_items: int, n_classes: int) -> None:
    _check_rows("labels", labels)
    if labels.shape != (n_items,):
        raise ValueError(f"labels must be one for each of {n_items} items, not {tuple(labels.shape)}")
    strange = ((labels < 0) | (labels >= n_classes)).nonzero()[:, 0]
    if len(strange):
        raise ValueError(
            f"item {strange[0]} has the label {labels[strange[0]]}, "
            f"but the classes are the rows 0 to {n_classes - 1}"
        )
