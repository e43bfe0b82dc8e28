"""The first pass: clean the rows of each part, and hash what is left of them.

`checked/part-00000.arrow` holds the pairs that are left, an English text with one translation each; a row
of English alone is a pair of English with itself. For each band it also has the hashes of its pairs in
ascending order, and next to each hash its pair's place. So each part is sorted by each band, and the second
pass merges.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa

from common.errors import InputError
from common.files.whole_files import written_whole

from .checks import CheckedRow, RowChecker
from .minhash import BANDS, band_hashes, comparable
from .plan import Part, Plan
from .tally import KEPT, Tally

_PAIRS = pa.schema(
    [
        ("row", pa.int64()),
        ("language", pa.string()),
        ("english", pa.large_string()),
        ("text", pa.large_string()),
    ]
)


def check_part(plan: Plan, number: int) -> None:
    """Clean the rows of one part, and write what is left and the tally; unless it is done already.

    Raises:
        InputError: as `RowChecker`; or the folder cannot be written.
    """
    path = plan.checked_path(number)
    tally_path = path.with_suffix(".json")  # written last, so that it marks the part complete
    if tally_path.exists():
        return
    part = plan.parts[number]
    source = plan.sources[part.source]
    checker = RowChecker(plan.arguments, plan.languages)
    tally = Tally()
    pairs = []
    for place, row in enumerate(_read_rows(plan, part), start=part.start):
        checked = checker.check(row)
        _count(tally, row, checked, {"source": source.data, "row": place})
        pairs += _pairs_of(place, checked.kept)

    table = pa.Table.from_pylist(pairs, _PAIRS)
    if plan.arguments.near_duplicates:
        table = _with_sorted_hashes(table)
    with written_whole(path) as file, pa.ipc.new_file(file, table.schema) as writer:
        # One batch: its columns are then arrays that are mapped into memory as they are.
        writer.write_table(table.combine_chunks())
    tally.save(tally_path)


def open_checked(path: Path) -> pa.Table:
    """Map the pairs and hashes of a part into memory.

    Raises:
        InputError: the file is damaged.
    """
    try:
        return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{path} is damaged, {error}: delete {str(path.parent.parent)!r}") from error


def column_of(table: pa.Table, name: str) -> pa.Array:
    """Return a column of `open_checked` in one piece, which an empty table has not."""
    column = table[name]
    return column.chunk(0) if column.num_chunks else pa.array([], column.type)


def _read_rows(plan: Plan, part: Part) -> list[dict[str, str]]:
    """Read the rows of a part as `{language: text}`, without languages that a row has no text in."""
    rows = plan.sources[part.source].rows.with_format("arrow")
    captions = rows[part.start : part.stop]["captions"].to_pylist()
    read = []
    for row in captions:
        read.append({language: texts[0] for language, texts in row.items() if texts and texts[0] is not None})
    return read


def _count(tally: Tally, row: dict[str, str], checked: CheckedRow, place: dict) -> None:
    """Count what became of the texts of one row.

    Args:
        row: its texts as they were read.
        place: its source and number, for examples.
    """
    tally.rows += 1
    tally.rows_kept += bool(checked.kept)
    english = row.get("en")
    for language in checked.kept:
        tally.texts[language, KEPT] += 1
    for language, reason in checked.removed.items():
        tally.texts[language, reason] += 1
        tally.add_example(reason, place | {"language": language, "english": english, "text": row[language]})
    for language, steps in checked.changes.items():
        for step in steps:
            tally.changes[language, step] += 1
            if language in checked.kept:
                texts = {"english": english, "text": row[language], "other": checked.kept[language]}
                tally.add_example(step, place | {"language": language} | texts)


def _pairs_of(row: int, kept: dict[str, str]) -> list[dict]:
    """Return the pairs of a row, one for each translation."""
    if not kept:
        return []
    english = kept["en"]
    translations = {language: text for language, text in kept.items() if language != "en"}
    pairs = []
    for language, text in (translations or {"en": english}).items():
        pairs.append({"row": row, "language": language, "english": english, "text": text})
    return pairs


def _with_sorted_hashes(table: pa.Table) -> pa.Table:
    """Add the columns `hash_00` and `place_00` of the first band, and so on."""
    both = []
    for english, text in zip(table["english"].to_pylist(), table["text"].to_pylist()):
        both.append(f"{comparable(english)}\n{comparable(text)}")
    hashes = band_hashes(both, table["language"].to_pylist())
    for band in range(BANDS):
        # Hashes 7 3 7 -> 3 7 7 and places 1 0 2: pairs of equal hashes stay in their order.
        order = np.argsort(hashes[band], kind="stable")
        table = table.append_column(f"hash_{band:02d}", pa.array(hashes[band, order]))
        table = table.append_column(f"place_{band:02d}", pa.array(order.astype(np.uint32)))
    return table


__all__ = ["check_part", "column_of", "open_checked"]
