"""Which examples an epoch takes where languages are unequally rich."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler


class LanguageSampler(Sampler[int]):
    """Draws languages in the proportion of their sizes to the power 1 / `temperature`, and the cells of a language in turn.

    At 1 every cell is drawn once an epoch. Above, small languages are drawn more often than they are rich, at infinity all
    equally often (XLM-R's alpha of 0.3 is a temperature of 3.3). An epoch has as many draws as there are cells. No cell of a
    language comes again before all of it has come. Epochs differ; a seed and an epoch give the same order in every process.

    Args:
        languages: the language of each cell, as a number `(cells,)`.
        temperature: at least 1.
        seed: of all epochs.
    """

    def __init__(self, languages: np.ndarray, temperature: float, seed: int):
        self.languages, self.seed, self.epoch = languages, seed, 0
        sizes = np.bincount(languages).astype(float)
        shares = np.where(sizes > 0, sizes ** (1 / temperature), 0)
        self.counts = share_out(shares, len(languages))

    def set_epoch(self, epoch: int) -> None:
        """Told by accelerate at the beginning of each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.languages)

    def __iter__(self) -> Iterator[int]:
        random = np.random.default_rng([self.seed, self.epoch])
        drawn = []
        for language, count in enumerate(self.counts):
            cells = np.flatnonzero(self.languages == language)
            rounds = -(-count // len(cells)) if count else 0
            drawn += [np.concatenate([random.permutation(cells) for _ in range(rounds)])[:count]] if rounds else []
        yield from random.permutation(np.concatenate(drawn)).tolist()


def share_out(shares: np.ndarray, total: int) -> list[int]:
    """Whole numbers in the proportion of `shares` that add up to `total`: rounded down, and the largest remainders up."""
    exact = shares / shares.sum() * total
    counts = np.floor(exact).astype(int)
    for number in np.argsort(counts - exact, kind="stable")[: total - counts.sum()]:
        counts[number] += 1
    return counts.tolist()


__all__ = ["LanguageSampler"]
