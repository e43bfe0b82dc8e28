"""Take a budget of rows: from rows at hand, or from a corpus on the Hub, of which little more is downloaded.

A budget of 2 million rows of a corpus of billions must not begin with the download of billions. Its files are
read as a stream, each from its beginning, and only so far as is needed.
"""

import os
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset, IterableDataset

from common.errors import InputError
from common.files.rows import find_builder, open_rows

from .examples import caption_slices
from .sampling import share_out
from .text_tables import from_lines

# Each file that is opened costs a request and some megabytes, so that no fewer rows are taken from one.
LEAST_ROWS = 1000


class Budget(NamedTuple):
    """How many rows to take of a source, and how its languages share them.

    - `n_rows`: the number of rows; None takes all.
    - `temperature`: at 1 a language gets rows in proportion to those that it has. Above 1 it gets them in
      proportion to that number to the power of 1 / temperature, and at infinity all get equally many.
    """

    n_rows: int | None = None
    temperature: float = 1.0


ALL_ROWS = Budget()


def share_budget(budget: Budget, sizes: list[int]) -> list[int]:
    """Share a budget among languages that have so many rows; what a small one lacks goes to the others.

    Example:

    ```python
    >>> from training.data.budgets import Budget, share_budget

    >>> share_budget(Budget(100), [10, 990])
    [1, 99]
    >>> share_budget(Budget(100, temperature=float("inf")), [10, 990])
    [10, 90]
    ```
    """
    available = np.array(sizes)
    total = min(budget.n_rows, int(available.sum()))
    counts = np.zeros(len(available), int)
    while counts.sum() < total:
        # In each round all that is wanted is given, or a language gives all that it has.
        is_open = counts < available
        wanted = share_out(available[is_open] ** (1 / budget.temperature), total - int(counts.sum()))
        counts[is_open] = np.minimum(counts[is_open] + wanted, available[is_open])
    return counts.tolist()


def take_budget(rows: Dataset, budget: Budget) -> Dataset:
    """Return rows of `captions` at equal distances within a budget; all if there are no more.

    A budget of 4 of 10 rows takes the rows 0, 2, 5 and 7. With a temperature each language is counted for
    itself: a row is of the first language beside English that it has.
    """
    n_rows = budget.n_rows
    if n_rows is None or n_rows >= len(rows):
        return rows
    if budget.temperature == 1:
        return rows.select(_at_equal_distances(len(rows), n_rows))

    languages = _first_languages(rows)
    groups = [np.flatnonzero(languages == language) for language in np.unique(languages)]
    counts = share_budget(budget, list(map(len, groups)))
    taken = [group[_at_equal_distances(len(group), count)] for group, count in zip(groups, counts)]
    return rows.select(np.sort(np.concatenate(taken)))


def _at_equal_distances(n_rows: int, n_taken: int) -> np.ndarray:
    """Return the numbers of so many of the rows: 4 of 10 are 0, 2, 5 and 7."""
    return np.arange(n_taken) * n_rows // max(1, n_taken)


def _first_languages(rows: Dataset) -> np.ndarray:
    """Return the number of the first language beside English of each row; -1 where it has English alone."""
    of_slices = []
    for captions in caption_slices(rows):
        found = np.full(len(next(iter(captions.values()))), -1)
        for number, (language, texts) in enumerate(captions.items()):
            has_texts = np.asarray(pc.greater(pc.list_value_length(texts), 0))
            if language != "en":
                found[(found == -1) & has_texts] = number
        of_slices.append(found)
    return np.concatenate(of_slices)


def is_remote(dataset: str) -> bool:
    """Check that a dataset is downloaded: nothing on this machine has its name."""
    return not os.path.exists(dataset)


def download_rows(dataset: str, split: str, n_rows: int, **options) -> Dataset:
    """Take so many rows of a split on the Hub; of the rest little is downloaded, and nothing kept.

    Equally many are taken from the beginning of each file. Where that would be fewer than `LEAST_ROWS` of
    one, they are taken from fewer files, at equal distances. `datasets` keeps the rows on disk, and knows
    them by the files, whose names hold the commit.

    Args:
        options: arguments of `open_rows`.

    Returns:
        The rows, fewer than asked for if there are no more, mapped into memory. Images are undecoded.

    Raises:
        InputError: there is no such split, or as `open_rows`.
    """
    stream = open_rows(dataset, split, streaming=True, **options)
    if n_rows == 0:  # the share of a small language; `datasets` writes no empty table
        return Dataset.from_dict({column: [] for column in stream.features}, stream.features)
    builder = find_builder(dataset, **_of_builder(options))
    return from_lines(
        _rows,
        stream.features,
        dataset=dataset,
        split=split,
        n_rows=n_rows,
        options=options,
        files=tuple(map(str, builder.config.data_files[split])),
    )


def count_rows(dataset: str, split: str, **options) -> int | None:
    """Return the number of rows that the card of a dataset on the Hub states; None where it does not."""
    builder = find_builder(dataset, **_of_builder(options))
    stated = (builder.info.splits or {}).get(split)
    return (stated.num_examples or None) if stated else None


def _of_builder(options: dict) -> dict:
    """Return the arguments that `find_builder` has of those of `open_rows`."""
    return {name: value for name, value in options.items() if name != "image"}


def _rows(dataset: str, split: str, n_rows: int, options: dict, files: tuple[str, ...]) -> Iterator[dict]:
    """Yield the rows of `download_rows`; `files` makes `datasets` read another commit anew."""
    stream = open_rows(dataset, split, streaming=True, **options)
    n_files = stream.num_shards
    shards = [stream.shard(num_shards=n_files, index=number) for number in range(n_files)]
    yield from take_from_files(shards, n_rows)


def take_from_files(files: list[IterableDataset], n_rows: int) -> Iterator[dict]:
    """Yield so many rows of some files, as `download_rows` says.

    What a file lacks is taken from others in another round, behind the rows that were taken from them.
    """
    n_taken = [0] * len(files)
    left = n_rows
    unread = np.arange(len(files))  # files that may have more rows
    while left and len(unread):
        n_chosen = min(len(unread), max(1, left // LEAST_ROWS))
        chosen = unread[_at_equal_distances(len(unread), n_chosen)]
        ended = []
        for number, quota in zip(chosen, share_out(np.ones(n_chosen), left)):
            n_found = 0
            for row in files[number].skip(n_taken[number]).take(quota):
                n_found += 1
                yield row
            n_taken[number] += n_found
            left -= n_found
            if n_found < quota:
                ended.append(number)
        unread = np.setdiff1d(unread, ended)


def check_temperature(value, what: str) -> None:
    """Check the temperature of a budget: a number, or `inf`, which is a text in YAML.

    Args:
        what: names it in the message.

    Raises:
        InputError: it is neither, or below 1.
    """
    if value == "inf":
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 1:
        raise InputError(
            f"{what} is {value!r}: give a number from 1, or inf for equally many rows a language"
        )


__all__ = [
    "ALL_ROWS",
    "Budget",
    "check_temperature",
    "count_rows",
    "download_rows",
    "is_remote",
    "share_budget",
    "take_budget",
    "take_from_files",
]
