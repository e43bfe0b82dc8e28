"""The third pass: compare the candidates' texts, and write the rows that are kept as parquet.

A pair is removed if its English and its translation are both as similar as `near_duplicates` says to those of
an earlier pair in the same language. The earlier one may itself be removed for one before it: the first pair
of such a chain is kept. Of the others, those are removed that are less similar to their English than
`least_similarity`.
"""

from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from common.files.whole_files import written_whole

from .checking import column_of, open_checked
from .checks import NEAR_DUPLICATE, NO_TRANSLATION, NOT_SIMILAR
from .duplicates import candidates_of, part_and_place
from .minhash import BANDS, comparable, similarity
from .plan import Part, Plan
from .tally import KEPT, Tally


class _Pairs:
    """The pairs of one part, mapped into memory."""

    def __init__(self, plan: Plan, part: int):
        self._table = open_checked(plan.checked_path(part))

    @cached_property
    def languages(self) -> pa.Array:
        return column_of(self._table, "language")

    @cached_property
    def english(self) -> pa.Array:
        return column_of(self._table, "english")

    @cached_property
    def texts(self) -> pa.Array:
        return column_of(self._table, "text")

    @cached_property
    def rows(self) -> list[int]:
        return column_of(self._table, "row").to_pylist()

    def __getitem__(self, place: int) -> tuple[str, str, str]:
        """Return a pair's language, English and text."""
        return self.languages[place].as_py(), self.english[place].as_py(), self.texts[place].as_py()


def finish_part(plan: Plan, n_shares: int, number: int) -> None:
    """Write the rows of a part that are kept, and its tally; unless it is done already.

    Raises:
        InputError: a part is damaged, or the folder cannot be written.
    """
    if plan.tally_path(number).exists():
        return
    part = plan.parts[number]
    source = plan.sources[part.source]
    tally = Tally.load(plan.checked_path(number).with_suffix(".json"))
    pairs = _Pairs(plan, number)
    similarities = None
    if plan.similarity_weights is not None:
        similarities = np.load(plan.similarities_path(number))
    removed = _removed(plan, pairs, similarities, number, n_shares)

    kept = {}  # {row: {language: text}}, in the order of the rows
    compared = {}  # {row: {language: similarity}}
    columns = [column.to_pylist() for column in (pairs.languages, pairs.english, pairs.texts)]
    for place, (row, language, english, text) in enumerate(zip(pairs.rows, *columns)):
        if place not in removed:
            kept.setdefault(row, {"en": english})[language] = text
            if similarities is not None and language != "en":
                compared.setdefault(row, {})[language] = similarities[place]
            continue
        reason, other = removed[place]
        tally.texts[language, KEPT] -= 1
        tally.texts[language, reason] += 1
        example = {"source": source.data, "row": row, "language": language, "english": english}
        tally.add_example(reason, example | {"text": text, "other": other})
    _count_english(tally, pairs, kept)
    if kept:
        _write_rows(plan, part, kept, compared)
    tally.save(plan.tally_path(number))


def _removed(
    plan: Plan, pairs: _Pairs, similarities: np.ndarray | None, part: int, n_shares: int
) -> dict[int, tuple[str, str]]:
    """Return the places of pairs that are removed, with the reason, and what the report shows beside it."""
    removed = {}
    least = plan.arguments.least_similarity
    if least is not None:
        # NaN, of English alone, is not less.
        for place in np.flatnonzero(similarities < np.float32(least)).tolist():
            removed[place] = NOT_SIMILAR, f"{similarities[place]:.3f}"
    if plan.arguments.near_duplicates:
        for place, earlier in _near_duplicates(plan, pairs, part, n_shares).items():
            removed[place] = NEAR_DUPLICATE, earlier
    return removed


def _near_duplicates(plan: Plan, pairs: _Pairs, part: int, n_shares: int) -> dict[int, str]:
    """Return the places of pairs that are near-duplicates of earlier ones, with the earlier one's text."""
    candidates = candidates_of(plan, n_shares, BANDS, part)
    # By the earlier pair, so that one other part is open at a time
    candidates = candidates[candidates[:, 1].argsort(kind="stable")]
    opened = part
    earlier_pairs = pairs
    earlier_of = {}
    for later, earlier in candidates.tolist():
        _, place = part_and_place(later)
        if place in earlier_of:
            continue
        earlier_part, earlier_place = part_and_place(earlier)
        if earlier_part != opened:
            earlier_pairs = pairs if earlier_part == part else _Pairs(plan, earlier_part)
            opened = earlier_part
        candidate = earlier_pairs[earlier_place]
        if _are_similar(pairs[place], candidate, plan.arguments.near_duplicates):
            earlier_of[place] = candidate[2]
    return earlier_of


def _are_similar(pair: tuple[str, str, str], other: tuple[str, str, str], least: float) -> bool:
    """Return whether two pairs of one language are similar in both of their texts."""
    if pair[0] != other[0]:
        return False  # their hashes are equal by chance
    for text, other_text in zip(pair[1:], other[1:]):
        if text != other_text and similarity(comparable(text), comparable(other_text)) < least:
            return False
    return True


def _count_english(tally: Tally, pairs: _Pairs, kept: dict[int, dict[str, str]]) -> None:
    """Count the English texts of rows that this pass leaves nothing of."""
    gone = set(pairs.rows) - set(kept)
    tally.rows_kept -= len(gone)
    alone = set()  # rows of English alone, whose English is counted already
    for row, language in zip(pairs.rows, pairs.languages.to_pylist()):
        if row in gone and language == "en":
            alone.add(row)
    n_followed = len(gone) - len(alone)
    tally.texts["en", KEPT] -= n_followed
    tally.texts["en", NO_TRANSLATION] += n_followed


def _write_rows(
    plan: Plan, part: Part, kept: dict[int, dict[str, str]], compared: dict[int, dict[str, np.float32]]
) -> None:
    """Write the rows that are kept, with their numbers, and with `similarity` if a model compares.

    `captions` is `{language: [text]}` with all languages of the run, `similarity` is `{language: number}`
    with all but English.
    """
    captions = []
    for texts in kept.values():
        captions.append(
            {language: [texts[language]] if language in texts else [] for language in plan.languages}
        )
    kind = pa.struct([(language, pa.list_(pa.string())) for language in plan.languages])
    table = pa.table({"captions": pa.array(captions, kind), "row": pa.array(list(kept), pa.int64())})

    others = [language for language in plan.languages if language != "en"]
    if plan.similarity_weights is not None and others:
        kind = pa.struct([(language, pa.float32()) for language in others])
        values = [compared.get(row, {}) for row in kept]
        table = table.append_column("similarity", pa.array(values, kind))
    with written_whole(plan.data_path(part)) as file:
        pq.write_table(table, file)


__all__ = ["finish_part"]
