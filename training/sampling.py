"""Which examples an epoch takes where languages and sources are unequally rich."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

WINDOW = 50  # batches sorted by length together: enough that each is of nearly one length, few enough that all stay random


class ShareSampler(Sampler[int]):
    """Draws groups of cells in the shares that are theirs, and the cells of a group in turn.

    An epoch has as many draws as there are cells. No cell of a group comes again before all of it has come. Epochs differ; a
    seed and an epoch give the same order in every process.

    Args:
        groups: the group of each cell, as a number `(cells,)`.
        shares: of each group, in any unit `(groups,)`.
        seed: of all epochs.
        lengths: of each cell's text, in any unit `(cells,)`: where given, each batch is of like length.
        batch_size: of the batches then made, over all processes.
    """

    def __init__(
        self,
        groups: np.ndarray,
        shares: np.ndarray,
        seed: int,
        lengths: np.ndarray | None = None,
        batch_size: int = 1,
    ):
        self.groups, self.seed, self.epoch = groups, seed, 0
        self.lengths, self.batch_size = lengths, batch_size
        self.counts = share_out(shares, len(groups))

    def set_epoch(self, epoch: int) -> None:
        """Told at the beginning of each epoch, by `views.TellEpoch`."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.groups)

    def __iter__(self) -> Iterator[int]:
        random = np.random.default_rng([self.seed, self.epoch])
        drawn = []
        for group, count in enumerate(self.counts):
            cells = np.flatnonzero(self.groups == group)
            rounds = -(-count // len(cells))
            drawn += (
                [np.concatenate([random.permutation(cells) for _ in range(rounds)])[:count]] if rounds else []
            )
        order = random.permutation(np.concatenate(drawn))
        yield from (
            order
            if self.lengths is None
            else like_lengths(order, self.lengths[order], self.batch_size, random)
        ).tolist()


def like_lengths(
    order: np.ndarray, lengths: np.ndarray, batch_size: int, random: np.random.Generator
) -> np.ndarray:
    """`order` in batches of like length, which come in random order: of `WINDOW` batches at a time the cells are sorted by length.

    transformers' `group_by_length` leaves the batches of a window sorted, longest first, and draws from the process's own random
    numbers, so that a run cannot be resumed in the middle of an epoch with the same batches.

    Args:
        order: cells in random order `(cells,)`; those that fill no batch stay at the end.
        lengths: of their texts, in the same order.
    """
    whole = len(order) // batch_size * batch_size
    parts = []
    for start in range(0, whole, WINDOW * batch_size):
        window = slice(start, min(start + WINDOW * batch_size, whole))
        batches = order[window][lengths[window].argsort(kind="stable")].reshape(-1, batch_size)
        parts.append(random.permutation(batches).reshape(-1))
    return np.concatenate([*parts, order[whole:]])


def language_shares(
    languages: np.ndarray,
    weights: np.ndarray | None = None,
    *,
    temperature: float = 1.0,
    replayed: np.ndarray | None = None,
    replay: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Groups of cells of one language and one weight, and the share of draws that each is to have.

    Args:
        languages: of each cell, as a number `(cells,)`.
        weights: how often each cell is to be drawn, relative to others of its language `(cells,)`.
        temperature: at 1 a language's share is its weighted number of cells; above, that to the power 1 / temperature: small
            languages are drawn more often than they are rich, at infinity all equally (XLM-R's alpha of 0.3 is 3.3).
        replayed: numbers of languages that together get the share `replay` of all draws.

    Returns:
        The group of each cell `(cells,)` and the shares `(groups,)`.
    """
    weights = np.ones(len(languages)) if weights is None else weights
    (language_of, weight_of), groups = np.unique(np.stack([languages, weights]), axis=1, return_inverse=True)
    language_of, groups = language_of.astype(int), groups.reshape(-1)
    sizes = np.bincount(groups) * weight_of
    of_language = np.bincount(language_of, weights=sizes)
    shares = sizes * of_language[language_of] ** (1 / temperature - 1)
    if replayed is not None and len(replayed):
        old = np.isin(language_of, replayed)
        shares[old] *= replay / shares[old].sum()
        shares[~old] *= (1 - replay) / shares[~old].sum()
    return groups, shares


def share_out(shares: np.ndarray, total: int) -> list[int]:
    """Whole numbers in the proportion of `shares` that add up to `total`: rounded down, and the largest remainders up."""
    exact = shares / shares.sum() * total
    counts = np.floor(exact).astype(int)
    for number in np.argsort(counts - exact, kind="stable")[: total - counts.sum()]:
        counts[number] += 1
    return counts.tolist()


__all__ = ["ShareSampler", "language_shares"]
