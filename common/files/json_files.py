"""Read JSON so that a repeated key in an object is an error.

Python, and `datasets` too, silently take the last one. `NaN` and `Infinity`, which Python reads, are no JSON.
"""

import io
import json
import math
import os
import re
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from ..errors import InputError
from .archives import open_bounded
from .endings import JSON, suffix_of
from .text_files import read_text

# Texts, of which those before a colon are keys; numbers and words; and the brackets around objects and lists.
_TOKENS = re.compile(
    r'(?P<text>"[^"\\]*(?:\\.[^"\\]*)*")(?P<is_key>\s*:)?|(?P<word>[-+.\w]+)|(?P<bracket>[][{}])', re.DOTALL
)
# Lines of a file that are checked. A program that repeats a key does so in most lines, and all lines of a
# corpus would take a minute for each GB.
_CHECKED_LINES = 10_000


def read_json(path: Path, what: str) -> object:
    """Read a JSON file.

    Args:
        what: the file's role, for messages, such as `file`.

    Raises:
        InputError: it does not exist, is not UTF-8, or as `parse_json`.
    """
    if not os.path.isfile(path):  # `Path.is_file` raises an error for a name that is too long
        raise InputError(f"{what} {str(path)!r} does not exist: give a JSON file that is there")
    return parse_json(read_text(path, what), f"{what} {str(path)!r}")


def parse_json(text: str | bytes, origin: str) -> object:
    """Parse a JSON text.

    Args:
        origin: where the text comes from, the beginning of error messages.

    Raises:
        InputError: it is no JSON, repeats a key of an object, is nested too deeply to be read, or has a
            number that is not finite, or half of a character; the message names the line and the column.
    """
    if isinstance(text, bytes):
        try:
            text = text.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise InputError(f"{origin} is no JSON: {error}") from error
    try:
        content = json.loads(
            text,
            object_pairs_hook=unique_keys,
            **_NUMBERS,
        )
        _refuse_half_characters(text, content)
    except json.JSONDecodeError as error:
        raise InputError(f"{origin} is no JSON: {error}") from error
    except ValueError as error:
        raise InputError(f"{origin} is no JSON, {_first_refused(text)}") from error
    except RecursionError as error:
        raise InputError(f"{origin} is nested too deeply to be read: make it flatter") from error
    return content


def _first_refused(text: str) -> str:
    """Find the first value or key that is refused in a text of JSON, and say where it is and what is wrong.

    Python's reader calls its hooks without a place.
    """
    keys = [set()]  # of each object that is open; those of a list stay empty
    for token in _TOKENS.finditer(text):
        if token["bracket"]:
            if token["bracket"] in "[{":
                keys.append(set())
            else:
                keys.pop()
            continue
        try:
            value = json.loads(token["text"] or token["word"], **_NUMBERS)
            _refuse_half_characters(token[0], value)
        except ValueError as error:
            return f"{_place(text, token.start())}: {error}"
        if token["is_key"]:
            if value in keys[-1]:
                return f"{_place(text, token.start())}: {_said_of_repeated(value)}"
            keys[-1].add(value)
    raise AssertionError("nothing is refused")


def _place(text: str, position: int) -> str:
    """Name the line and the column of a character, both from 1."""
    before = text[:position]
    return f"line {before.count(chr(10)) + 1}, column {position - before.rfind(chr(10))}"


def _finite_number(text: str) -> float:
    """Read a number with a point or an exponent, or one of `NaN`, `Infinity` and `-Infinity`.

    Raises:
        ValueError: it is not finite, as 1e999 is not.
    """
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is no finite number: give one, or null")
    return number


_NUMBERS = {"parse_constant": _finite_number, "parse_float": _finite_number}


def _refuse_half_characters(text: str, content: object) -> None:
    """Refuse texts that no file can hold: `"\\ud83d"` alone is half of `"\\ud83d\\ude00"`.

    Raises:
        ValueError: there is one.
    """
    if "\\ud" not in text and "\\uD" not in text:  # as almost always, and then nothing is to be done
        return
    try:
        json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise ValueError(f"a text has {half!a}, half of a character: delete it") from error


def unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Make a dict of an object's pairs, as `object_pairs_hook` of the `json` module.

    Raises:
        ValueError: a key is repeated.
    """
    content = dict(pairs)
    if len(content) < len(pairs):
        repeated = _first_repeated([key for key, _ in pairs])
        raise ValueError(_said_of_repeated(repeated))
    return content


def _said_of_repeated(key: str) -> str:
    return f"the key {key!r} is given twice in one object: delete one"


def _first_repeated(keys: list[str]) -> str:
    """Return the first key that is equal to an earlier one: ["a", "b", "a"] -> "a"."""
    seen = set()
    for key in keys:
        if key in seen:
            return key
        seen.add(key)
    raise AssertionError("no key is repeated")


def refuse_repeated_keys(paths: Iterable[str]) -> None:
    """Refuse JSON files in which an object repeats a key; other files among `paths` are skipped.

    It is for files that `datasets` reads, which reports all other errors itself. If each line is an object,
    the first 10,000 lines are checked.

    Raises:
        InputError: a key is repeated; the message names the file and, if each line is an object, the line.
    """
    for path in paths:
        if suffix_of(path) in JSON and os.path.isfile(path):
            _check_keys(path)


def _check_keys(path: str) -> None:
    """Check a file line by line, or as a whole if its first line is no JSON by itself."""
    n_read = 0
    try:
        with io.TextIOWrapper(open_bounded(path), encoding="utf-8-sig", newline="\n") as lines:
            for line in islice(lines, _CHECKED_LINES):
                if not line.isspace():
                    json.loads(line, object_pairs_hook=unique_keys)
                n_read += 1
    except json.JSONDecodeError:
        if n_read == 0:  # one object, or one list, in many lines
            _check_whole(path)
    except UnicodeDecodeError:
        return
    except InputError:  # of the reader
        raise
    except RecursionError as error:
        raise InputError(f"{path!r}, line {n_read + 1}: it is nested too deeply: make it flatter") from error
    except ValueError as error:  # of `unique_keys`; those above are ValueErrors too
        raise InputError(f"{path!r}, line {n_read + 1}: {error}") from error


def _check_whole(path: str) -> None:
    """Check a file that is one object or list."""
    with io.TextIOWrapper(open_bounded(path), encoding="utf-8-sig") as file:
        try:
            text = file.read()
        except UnicodeDecodeError:
            return
    try:
        json.loads(text, object_pairs_hook=unique_keys)
    except json.JSONDecodeError:
        return
    except RecursionError as error:
        raise InputError(f"{path!r} is nested too deeply: make it flatter") from error
    except ValueError as error:
        raise InputError(f"{path!r}, {_first_refused(text)}") from error


def holds_rows(path: Path) -> bool:
    """Check that a JSON file is a list, or has an object in each line; one object holds settings or names."""
    with io.TextIOWrapper(open_bounded(path), encoding="utf-8-sig", errors="replace") as file:
        first = file.readline().strip()
        second = file.readline().strip()
    if first.startswith("["):
        return True
    return bool(second) and first.startswith("{") and first.endswith("}")


__all__ = ["holds_rows", "parse_json", "read_json", "refuse_repeated_keys", "unique_keys"]
