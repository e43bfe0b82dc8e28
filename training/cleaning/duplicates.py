"""The second pass: find pairs that may be near-duplicates, by a merge of the sorted hashes on the disk.

A pair's number is its part's times 2^32 plus its place in it, so that numbers follow the order of the rows.
The hashes of one band are merged share by share: a share is a range of hashes, which each part has in one
piece, since its hashes are sorted. No more than about `SHARE_PAIRS` pairs are in memory at once, however many
there are; only pairs of equal hashes cannot be divided.
"""

from math import ceil

import numpy as np

from common.files.whole_files import written_whole

from .checking import column_of, open_checked
from .plan import Plan

SHARE_PAIRS = 2_000_000
_PLACE_BITS = 32


def find_candidates(plan: Plan, n_shares: int, band: int, share: int) -> None:
    """Write which later pairs have the hash of an earlier one, in one band and one share of all hashes.

    The file holds int64 numbers `(2, candidates)`, of later and of earlier pairs, sorted by the later ones.
    Of pairs with equal hashes each is compared with the first one and with the one before it.

    Raises:
        InputError: a part is damaged, or the folder cannot be written.
    """
    path = plan.candidates_path(band, share)
    if path.exists():
        return
    hashes, pairs = _merge(plan, band, share, n_shares)

    # Hashes 3 3 3 8 of pairs 1 2 5 4: the group of 3 begins at place 0.
    is_later = np.zeros(len(hashes), bool)
    is_later[1:] = hashes[1:] == hashes[:-1]
    places = np.arange(len(hashes))
    first_places = np.maximum.accumulate(np.where(is_later, 0, places))
    later = places[is_later]
    with_first = np.stack([pairs[later], pairs[first_places[later]]], axis=1)
    with_previous = np.stack([pairs[later], pairs[later - 1]], axis=1)
    candidates = np.concatenate([with_first, with_previous[first_places[later] != later - 1]])

    # By the later pair, so that each part finds its own in one piece
    order = np.lexsort((candidates[:, 1], candidates[:, 0]))
    with written_whole(path) as file:
        np.save(file, np.ascontiguousarray(candidates[order].T))


def count_shares(n_pairs: int) -> int:
    """Return into how many shares the hashes of a band are divided."""
    return max(1, ceil(n_pairs / SHARE_PAIRS))


def candidates_of(plan: Plan, n_shares: int, bands: int, part: int) -> np.ndarray:
    """Return the candidates among the pairs of one part, sorted, each once, `(candidates, 2)`."""
    bounds = [part << _PLACE_BITS, (part + 1) << _PLACE_BITS]
    found = [np.empty((0, 2), np.int64)]
    for band in range(bands):
        for share in range(n_shares):
            candidates = np.load(plan.candidates_path(band, share), mmap_mode="r")
            start, stop = np.searchsorted(candidates[0], bounds)
            found.append(np.array(candidates[:, start:stop].T))
    candidates = np.concatenate(found)
    order = np.lexsort((candidates[:, 1], candidates[:, 0]))
    candidates = candidates[order]
    is_new = np.ones(len(candidates), bool)
    is_new[1:] = (candidates[1:] != candidates[:-1]).any(axis=1)
    return candidates[is_new]


def part_and_place(pair: int) -> tuple[int, int]:
    """Return the part of a pair, and its place in it."""
    return pair >> _PLACE_BITS, pair & (2**_PLACE_BITS - 1)


def _merge(plan: Plan, band: int, share: int, n_shares: int) -> tuple[np.ndarray, np.ndarray]:
    """Merge a share of one band's hashes from all parts.

    Returns:
        uint64 hashes in ascending order, and the number of each one's pair; pairs of equal hashes are in
        their order.
    """
    # Share 1 of 4 has the hashes from 2^62 up to and with 2^63 - 1. A bound of 2^64 fits no uint64.
    low = np.uint64(2**64 * share // n_shares)
    high = np.uint64(2**64 * (share + 1) // n_shares - 1)
    hashes = []
    pairs = []
    for part in plan.parts:
        table = open_checked(plan.checked_path(part.number))
        sorted_hashes = column_of(table, f"hash_{band:02d}").to_numpy()
        start = np.searchsorted(sorted_hashes, low, side="left")
        stop = np.searchsorted(sorted_hashes, high, side="right")
        places = column_of(table, f"place_{band:02d}").to_numpy()[start:stop]
        hashes.append(np.array(sorted_hashes[start:stop]))
        pairs.append((np.int64(part.number) << np.int64(_PLACE_BITS)) + places.astype(np.int64))
    hashes = np.concatenate(hashes)
    pairs = np.concatenate(pairs)
    # Parts follow each other in order, and a stable sort leaves equal hashes as they are.
    order = np.argsort(hashes, kind="stable")
    return hashes[order], pairs[order]


__all__ = ["candidates_of", "count_shares", "find_candidates", "part_and_place"]
