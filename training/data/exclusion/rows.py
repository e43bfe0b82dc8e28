"""Remove the rows of training data that are in a test, and list them."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset, Image

from common.errors import InputError
from common.files.whole_files import write_text
from common.images import path_of

from ...arguments import ExclusionArguments, say
from ...output_folder import record_exclusion
from ..examples import caption_slices
from .tasks import Found, TaskIndex, load_task_index

_REPORT = "excluded.jsonl"
# A column with the number that a row had before others were dropped.
_ROW = "__row__"


def number_rows(rows: Dataset) -> Dataset:
    """Add the column `__row__`, by which `exclude_tests` reports rows, whatever is dropped in between."""
    return rows.add_column(_ROW, np.arange(len(rows)))


def exclude_tests(arguments: ExclusionArguments, rows: Dataset) -> Dataset:
    """Return the rows that are in no test of `exclude_tasks`; all without it.

    A row goes if any of its captions, in any language, is equal or nearly equal to one of a test, or if its
    `image` is. `excluded.jsonl` in the output folder has a line per row that went, `run.json` the tasks and
    how many rows went. Each process looks at its share of the rows.

    Args:
        rows: have `captions`, `{language: [text, ...]}`, and maybe `image` and the column `__row__`, which is
            dropped.

    Raises:
        InputError: as `load_task_index`; or no row is left.
    """
    if not arguments.exclude_tasks:
        return rows
    index = open_index(arguments, pictures="image" in rows.column_names)
    lines = _find_rows(index, rows)
    report = Path(arguments.output_dir, _REPORT)
    with arguments.main_process_first(desc="listing excluded rows"):
        if arguments.process_index == 0:
            report.parent.mkdir(parents=True, exist_ok=True)
            written = [json.dumps(line, ensure_ascii=False) + "\n" for line in lines.values()]
            write_text(report, "".join(written))
    if len(lines) == len(rows):
        raise InputError(
            f"exclude_tasks: all {len(rows)} rows of dataset {arguments.dataset!r} are in "
            f"{' '.join(index.tasks)}, see {report}: give data to train on"
        )
    record_exclusion(arguments, index.tasks, len(lines))

    by_picture = sum("path" in line for line in lines.values())
    say(
        arguments,
        f"Excluded {len(lines)} of {len(rows)} rows that are in a test, {len(lines) - by_picture} by a "
        f"caption and {by_picture} by the picture, listed in {report}.",
    )
    if _ROW in rows.column_names:
        rows = rows.remove_columns(_ROW)
    return rows.select([place for place in range(len(rows)) if place not in lines])


def open_index(arguments: ExclusionArguments, *, pictures: bool) -> TaskIndex:
    """Read the tasks of `exclude_tasks`, and print what is looked for and which tasks cannot be read.

    Raises:
        InputError: as `load_task_index`.
    """
    with arguments.main_process_first(desc="reading tests"):
        index = load_task_index(
            arguments.exclude_tasks, pictures=pictures, short=arguments.exclude_short_captions
        )
    say(arguments, f"Looking for {index.summary()} in the training data.")
    for name, reason in index.unread.items():
        say(arguments, f"NOT looked for: {name}, which cannot be read: {reason}")
    if index.captions.n_short:
        say(arguments, f"{index.captions.n_short} captions are too short to look for.")
    return index


def _find_rows(index: TaskIndex, rows: Dataset) -> dict[int, dict]:
    """Look all rows up, each process its share of them.

    Returns:
        A line of the report for each row that is in a test, by the row's place among `rows`, in order:

        {17: {"row": 20, "task": "xm3600", "item": 403, "why": "equal caption", "language": "de", ...}}
    """
    state = PartialState()
    # Places 0 to 9 of 3 processes -> 0 to 3, 4 to 6, 7 to 9
    places = np.array_split(np.arange(len(rows)), state.num_processes)[state.process_index]
    share = rows.select(places)
    numbers = np.asarray(share[_ROW][:]) if _ROW in rows.column_names else places

    lines = _find_by_captions(index, share)
    if index.pictures is not None:
        # A row that is found by both is listed by its caption.
        lines = _find_by_pictures(index, share) | lines
    found = []
    for place in sorted(lines):
        line = {"row": int(numbers[place])} | lines[place]
        found.append((int(places[place]), line))
    return dict(gather_object(found))


def _find_by_captions(index: TaskIndex, rows: Dataset) -> dict[int, dict]:
    """Return a line for each row with a caption that is in a test, without the row's number."""
    lines = {}
    first = 0
    for captions in caption_slices(rows):
        texts, owners = _texts_of(captions)
        best = {}
        for found in index.find_captions(texts):
            place = first + owners[found.number]
            if place not in best or found.closeness > best[place].closeness:
                best[place] = found
        for place, found in best.items():
            lines[place] = line_of(found) | {"language": found.language, "text": texts[found.number]}
        first += len(next(iter(captions.values())))
    return lines


def _texts_of(captions: dict[str, pa.Array]) -> tuple[list[str], list[int]]:
    """Return the texts of a slice of rows in all languages, and the row of each, counted within the slice.

    The texts of a row follow one another, in the order of its languages.
    """
    texts = []
    owners = []
    for of_language in captions.values():
        owners.append(np.asarray(pc.list_parent_indices(of_language)))
        texts.append(pc.list_flatten(of_language))
    texts = pa.concat_arrays(texts)
    owners = np.concatenate(owners)
    shown = np.asarray(pc.fill_null(pc.greater(pc.binary_length(texts), 0), False))
    order = np.flatnonzero(shown)
    order = order[np.argsort(owners[order], kind="stable")]
    return texts.take(pa.array(order)).to_pylist(), owners[order].tolist()


def _find_by_pictures(index: TaskIndex, rows: Dataset) -> dict[int, dict]:
    """Return a line for each row whose picture is in a test, without the row's number."""
    # Imported here, since the extra is needed for pictures alone.
    from .pictures import hash_rows

    hashes, owners = [], []
    for place, of_row in enumerate(hash_rows(rows)):
        hashes += of_row
        owners += [place] * len(of_row)
    encoded = rows.select_columns(["image"]).cast_column("image", Image(decode=False))
    lines = {}
    for found in index.find_pictures(hashes):
        place = owners[found.number]
        lines[place] = line_of(found) | {"path": path_of(encoded[place]["image"])}
    return lines


def line_of(found: Found) -> dict:
    """Return what a line of the report says of a row's test."""
    return {"task": found.task, "item": found.item, "why": found.why}


__all__ = ["exclude_tests", "line_of", "number_rows", "open_index"]
