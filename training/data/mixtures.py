"""Mix the rows of several sources into one table, or their examples into one stream."""

from collections.abc import Iterator
from itertools import count

import numpy as np
from datasets import Dataset, concatenate_datasets

from .captions import features_of


def mix_rows(parts: list[Dataset], sources: list[dict]) -> Dataset:
    """Join the rows of several sources, in their order.

    Args:
        parts: rows of `captions`, `{language: [text, ...]}`, and maybe other columns that all parts have.
        sources: those of the parts, as `read_sources` returns them.

    Returns:
        Rows with captions in the languages of all parts, and a column `weight` if a source states one.
    """
    rows = parts[0]
    if len(parts) > 1:
        languages = languages_of(parts)
        rows = concatenate_datasets([_with_languages(part, languages) for part in parts])
    if any("weight" in source for source in sources):
        weights = [float(source.get("weight", 1)) for source in sources]
        n_rows = [len(part) for part in parts]
        # Weights 1 and 2 of sources of 2 and 3 rows -> 1 1 2 2 2
        rows = rows.add_column("weight", np.repeat(weights, n_rows))
    return rows


def languages_of(parts: list[Dataset]) -> list[str]:
    """Return the languages of all parts, in the order in which the parts have them."""
    available = {}
    for part in parts:
        available |= dict.fromkeys(part.features["captions"])
    return list(available)


def _with_languages(rows: Dataset, languages: list[str]) -> Dataset:
    """Return the same rows with captions in each of `languages`, an empty list where they have no text.

    Sources can only be concatenated if all have the same languages in the same order.
    """
    if list(rows.features["captions"]) == languages:
        return rows

    def widen(batch: dict) -> dict:
        widened = []
        for caption in batch["captions"]:
            widened.append({language: caption.get(language, []) for language in languages})
        return {"captions": widened}

    # Other columns may have images, which are not to be copied.
    captions = rows.select_columns(["captions"]).map(
        widen, batched=True, features=features_of(languages), desc="Joining sources"
    )
    others = [column for column in rows.column_names if column != "captions"]
    return concatenate_datasets([rows.select_columns(others), captions], axis=1) if others else captions


def take_turns(shares: list[float]) -> Iterator[int]:
    """Yield the number of the source whose turn it is, without end.

    It is the one that is furthest behind its share, so that each has its share of any number of turns, but
    for one turn or two: shares 2 and 1 -> 0 1 0 0 1 0 ...
    """
    shares = np.array(shares) / sum(shares)
    n_turns = np.zeros(len(shares))
    for number in count(1):
        chosen = int((shares * number - n_turns).argmax())
        n_turns[chosen] += 1
        yield chosen


__all__ = ["languages_of", "mix_rows", "take_turns"]
