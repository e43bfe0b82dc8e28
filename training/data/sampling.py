"""Sampling of the examples of an epoch where languages and sources have unequal amounts of data."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

# Batches that are sorted by length together: enough that each is of nearly one length, few enough that all
# stay random.
WINDOW = 50


class ShareSampler(Sampler[int]):
    """Draws groups of examples in given shares, and the examples of a group in turn.

    An epoch has as many draws as there are examples. No example of a group comes again before all of it has
    come. Epochs differ; a seed and an epoch give the same order in every process.

    Args:
        groups: The group of each example, as a number `(examples,)`.
        shares: The share of each group, in any unit `(groups,)`.
        seed: The seed of all epochs.
        lengths: The length of each example's text, in any unit `(examples,)`. If given, batches are bucketed
            by length.
        batch_size: Examples in a bucketed batch, over all processes.
    """

    def __init__(
        self,
        groups: np.ndarray,
        shares: np.ndarray,
        seed: int,
        lengths: np.ndarray | None = None,
        batch_size: int = 1,
    ):
        self.groups = groups
        self.seed = seed
        self.epoch = 0
        self.lengths = lengths
        self.batch_size = batch_size
        self.counts = share_out(shares, len(groups))

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that is drawn; `EpochCallback` calls it at the beginning of each."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.groups)

    def __iter__(self) -> Iterator[int]:
        random = np.random.default_rng([self.seed, self.epoch])
        drawn = []
        for group, count in enumerate(self.counts):
            # A group that is drawn more often than it has examples goes through several rounds, each in a new
            # order.
            examples = np.flatnonzero(self.groups == group)
            n_rounds = -(-count // len(examples))
            if n_rounds:
                rounds = [random.permutation(examples) for _ in range(n_rounds)]
                drawn.append(np.concatenate(rounds)[:count])

        order = random.permutation(np.concatenate(drawn))
        if self.lengths is not None:
            order = like_lengths(order, self.lengths[order], self.batch_size, random)
        yield from order.tolist()


def like_lengths(
    order: np.ndarray, lengths: np.ndarray, batch_size: int, random: np.random.Generator
) -> np.ndarray:
    """Reorder examples by length bucketing: sort `WINDOW` batches at a time by length, then shuffle these
    batches.

    transformers' `group_by_length` leaves the batches of a window sorted, longest first, and draws from the
    process's own random numbers, so that a run cannot be resumed in the middle of an epoch with the same
    batches.

        examples a b c d of lengths 9 2 8 1, batches of two  ->  sorted d b | c a  ->  shuffled c a | d b

    Args:
        order: Examples in random order `(examples,)`. Those that fill no batch stay at the end.
        lengths: The lengths of their texts, in the same order.
    """
    whole = len(order) // batch_size * batch_size
    parts = []
    for start in range(0, whole, WINDOW * batch_size):
        window = slice(start, min(start + WINDOW * batch_size, whole))
        by_length = lengths[window].argsort(kind="stable")
        batches = order[window][by_length].reshape(-1, batch_size)
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
    """Group examples by language and weight, and compute the share of draws of each group.

    Args:
        languages: The language of each example, as a number `(examples,)`.
        weights: How often each example is to be drawn, relative to others of its language `(examples,)`.
        temperature: At 1 a language's share is its weighted number of examples. Above 1 it is that number to
            the power of 1 / temperature, so that small languages are drawn more often; at infinity all are
            drawn equally often (XLM-R's alpha of 0.3 is 3.3).
        replayed: Numbers of languages that together get the share `replay` of all draws.

    Returns:
        The group of each example `(examples,)` and the shares `(groups,)`.
    """
    if weights is None:
        weights = np.ones(len(languages))
    # languages 0 0 1, weights 1 2 1  ->  groups 0 1 2 of the languages 0 0 1
    (language_of, weight_of), groups = np.unique(np.stack([languages, weights]), axis=1, return_inverse=True)
    language_of = language_of.astype(int)
    groups = groups.reshape(-1)

    sizes = np.bincount(groups) * weight_of
    of_language = np.bincount(language_of, weights=sizes)
    # A language of size n is to get n^(1/T): each of its groups gets its size times n^(1/T - 1).
    shares = sizes * of_language[language_of] ** (1 / temperature - 1)

    if replayed is not None and len(replayed):
        old = np.isin(language_of, replayed)
        shares[old] *= replay / shares[old].sum()
        shares[~old] *= (1 - replay) / shares[~old].sum()
    return groups, shares


def share_out(shares: np.ndarray, total: int) -> list[int]:
    """Round `shares` to whole numbers that add up to `total`: all down, then those of the largest remainders
    up.

    Shares 1 1 2 of a total of 5 are exactly 1.25 1.25 2.5, which gives 1 1 3.
    """
    exact = shares / shares.sum() * total
    counts = np.floor(exact).astype(int)
    n_missing = total - counts.sum()
    for number in np.argsort(counts - exact, kind="stable")[:n_missing]:
        counts[number] += 1
    return counts.tolist()


__all__ = ["ShareSampler", "language_shares"]
