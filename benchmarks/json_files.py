"""JSON, read so that a key which an object has twice is an error: Python, and `datasets` too, take the last without a word."""

import io
import json
import os
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import pyarrow as pa

from .endings import JSON, suffix_of
from .recipe import InputError, read_text

CHECKED_LINES = 10_000


def read_json(path: Path, what: str) -> object:
    """What a JSON file holds.

    Args:
        what: the file's part, for messages: `file`.

    Raises:
        InputError: it does not exist, is not UTF-8, is no JSON, or gives a key of an object twice.
    """
    if not path.is_file():
        raise InputError(f"{what} {str(path)!r} does not exist: give a JSON file that is there")
    return parse_json(read_text(path, what), f"{what} {str(path)!r}")


def parse_json(text: str | bytes, origin: str) -> object:
    """What a JSON text holds, whose errors are `InputError`s that begin with `origin`; so is a key that an object has twice."""
    try:
        return json.loads(text, object_pairs_hook=unique_keys)
    except ValueError as error:
        raise InputError(f"{origin} is no JSON: {error}") from error


def unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A dict of an object's pairs; Python's own takes the last of equal keys, here a second one is a `ValueError`."""
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for number, key in enumerate(keys) if key in keys[:number])
        raise ValueError(f"the key {twice!r} is given twice in one object: delete one")
    return content


def refuse_repeated_keys(paths: Iterable[str]) -> None:
    """Refuse files of JSON, among others here that are passed over, in which an object has a key twice.

    It is for files that `datasets` reads. Of a file with an object in each line the first 10,000 are looked at: whatever writes a key twice
    does so in most of them, and all lines of a corpus would take a minute for each GB. What else is wrong with them `datasets` says.

    Raises:
        InputError: there is one; the message names the file and, where each line is an object, the line.
    """
    for path in paths:
        if suffix_of(path) in JSON and os.path.isfile(path):
            check_keys(path)


def check_keys(path: str) -> None:
    n_read = 0
    try:
        with io.TextIOWrapper(pa.input_stream(path), encoding="utf-8-sig", newline="\n") as lines:
            for line in islice(lines, CHECKED_LINES):
                if not line.isspace():
                    json.loads(line, object_pairs_hook=unique_keys)
                n_read += 1
    except json.JSONDecodeError:
        if n_read == 0:  # one object, or one list, in many lines
            check_whole(path)
    except UnicodeDecodeError:
        return
    except ValueError as error:
        raise InputError(f"{path!r}, line {n_read + 1}: {error}") from error


def holds_rows(path: Path) -> bool:
    """Whether a file of JSON is a list, or has an object in each line; one object alone holds settings or names."""
    with io.TextIOWrapper(pa.input_stream(str(path)), encoding="utf-8-sig", errors="replace") as file:
        first, second = file.readline().strip(), file.readline().strip()
    return first.startswith("[") or bool(second) and first.startswith("{") and first.endswith("}")


def check_whole(path: str) -> None:
    with io.TextIOWrapper(pa.input_stream(path), encoding="utf-8-sig") as file:
        try:
            json.load(file, object_pairs_hook=unique_keys)
        except (json.JSONDecodeError, UnicodeDecodeError):
            return
        except ValueError as error:
            raise InputError(f"{path!r}: {error}") from error


__all__ = ["holds_rows", "parse_json", "read_json", "refuse_repeated_keys", "unique_keys"]
