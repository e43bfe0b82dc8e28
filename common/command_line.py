"""Read a command line, `RECIPE.yaml --flag value ...`, and refuse what is wrong with it.

This module imports neither torch nor transformers, so that a wrong flag is refused at once.
"""

import argparse
import difflib
import json
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from .errors import InputError
from .files.yaml_files import Written, read_as_written
from .typed import LARGEST

_MOST_DIGITS = 20
_TRUE = ("yes", "true", "t", "y", "1")
_FALSE = ("no", "false", "f", "n", "0")


class FlagParser(argparse.ArgumentParser):
    """An argument parser whose errors are `InputError`s.

    Flags cannot be abbreviated, so that none is taken for another. Numbers are finite and have 64 bits.

    Attributes:
        places: `{"rate": "recipe 'r.yaml', line 3"}` of the flags that a recipe gives, for messages.
    """

    def __init__(self, **options):
        description = (
            "The first argument may be a recipe, `RECIPE.yaml`, with these names as keys. Flags override it."
        )
        shows_defaults = argparse.ArgumentDefaultsHelpFormatter
        super().__init__(
            description=description, allow_abbrev=False, formatter_class=shows_defaults, **options
        )
        self.places = {}
        self.register("type", int, _read_integer)
        self.register("type", float, _read_float)

    def error(self, message: str) -> NoReturn:
        # argparse names a flag in both spellings, "--max_steps/--max-steps".
        message = re.sub(r"(--\w+)/--[\w-]+", r"\1", message)
        missing = message.removeprefix("the following arguments are required: ")
        if missing != message:
            raise InputError(
                f"missing {missing}: give them as flags, or without the hyphens as keys of a recipe"
            )
        flag = re.match(r"argument --(\w+): ", message)
        place = self.places.get(flag[1]) if flag else None
        raise InputError(f"{message} ({place})" if place else message)

    def flags(self) -> dict[str, argparse.Action]:
        """Return the flags by the names that recipes have for them, with `help` but not `--no_FLAG`."""
        by_name = {}
        for action in self._actions:
            by_name.setdefault(action.dest, action)
        return by_name


def read_boolean(text: str) -> bool:
    """Read a boolean, in the words of transformers' `string_to_bool`.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    word = text.lower()
    if word not in _TRUE + _FALSE:
        raise argparse.ArgumentTypeError(
            f"Truthy value expected: got {text} but expected one of yes/no, true/false, t/f, y/n, 1/0 (case "
            "insensitive)."
        )
    return word in _TRUE


def _read_integer(text: str) -> int:
    """Read a whole number.

    Raises:
        ValueError: it is none.
        argparse.ArgumentTypeError: it is too large for datasets and torch, or for Python to read.
    """
    if len(text) > _MOST_DIGITS or abs(int(text)) > LARGEST:
        raise argparse.ArgumentTypeError(f"{text[:_MOST_DIGITS]} is too large: give a smaller number")
    return int(text)


def _read_float(text: str) -> float:
    """Read a number that is finite: a rate of NaN or infinity would end in a model of NaN.

    Raises:
        ValueError: it is no number.
        argparse.ArgumentTypeError: it is NaN or infinite.
    """
    number = float(text)
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text[:_MOST_DIGITS]} is not finite: give a finite number")
    return number


def read_command_line(parser: FlagParser, words: list[str]) -> dict[str, object]:
    """Return the values of all flags by their names; flags win over the recipe.

    Args:
        words: what follows the program on the command line.

    Raises:
        InputError: the recipe cannot be read, see `read_as_written`, or has a key that is no flag; a flag is
            unknown, lacks its value or has one of another type; or a flag without default is missing.
        SystemExit: help was asked for, and has been printed.
    """
    _check_flags(words, parser)
    if words and words[0].endswith((".yaml", ".yml")):
        path = Path(words[0])
        recipe = read_as_written(path, "recipe")
        parser.places = _places(recipe, path, words[1:])
        # argparse takes the last of equal flags: those of the command line follow the recipe's.
        words = _recipe_flags(recipe, path, parser) + words[1:]
    elif words and not words[0].startswith("-"):
        raise InputError(
            f"argument {words[0]!r} is no recipe: give a file RECIPE.yaml, or flags that begin with --"
        )
    # Not HfArgumentParser's `parse_args_into_dataclasses`, which also reads flags from a file beside the
    # script that nobody named.
    given, unread = parser.parse_known_args(words)
    if unread:
        raise InputError(
            f"argument {unread[0]!r} belongs to no flag: flags begin with --, and a recipe stands first"
        )
    return vars(given)


def _check_flags(words: list[str], parser: FlagParser) -> None:
    """Refuse an unknown flag, before argparse complains of everything that is missing because of it."""
    known = _keys(parser)
    # argparse also takes `--no_FLAG`, for `--FLAG false`.
    allowed = {"help", *known, *(f"no_{name}" for name in known)}
    for word in words:
        name = word.removeprefix("--").partition("=")[0]
        # A word with a space is a value, as in `--text "--a dash"`.
        is_flag = word.startswith("--") and name and " " not in name
        # argparse takes `--max-steps` for `--max_steps`.
        if is_flag and name.replace("-", "_") not in allowed:
            close = did_you_mean(name, known)
            hint = f"did you mean --{close}?" if close else "see --help"
            raise InputError(f"unknown flag --{name}: {hint}")


def _keys(parser: FlagParser) -> list[str]:
    """Return the names that a recipe may have as keys."""
    return [name for name in parser.flags() if name != "help"]


def _places(recipe: dict[str, Written], path: Path, words: list[str]) -> dict[str, str]:
    """Return where a recipe gives each flag that the command line does not override."""
    overridden = [word.removeprefix("--").partition("=")[0].replace("-", "_") for word in words]
    return {
        key: f"recipe {str(path)!r}, line {written.line}"
        for key, written in recipe.items()
        if key not in overridden
    }


def _recipe_flags(recipe: dict[str, Written], path: Path, parser: FlagParser) -> list[str]:
    """Turn a recipe into command-line flags: `{rate: 1.0, names: [a, b]}` -> `--rate=1.0 --names a b`."""
    known = _keys(parser)
    words = []
    for key, written in recipe.items():
        where = f"recipe {str(path)!r}, line {written.line}"
        if key not in known:
            close = did_you_mean(key, known)
            hint = f"did you mean {close!r}?" if close else "see --help"
            raise InputError(f"{where}: unknown key {key!r}: {hint}")
        if isinstance(written.value, list):
            takes_list = parser.flags()[key].nargs == "+"
            _check_list(key, written.value, takes_list, where)
        words += _flag(key, written.value)
    return words


def _check_list(key: str, items: list[str | None], takes_list: bool, where: str) -> None:
    """Refuse a list for a flag of one value, and items that would be lost or be taken for flags."""
    if not takes_list:
        raise InputError(f"{where}: {key} is a list of {len(items)}: give one value")
    if None in items:
        raise InputError(f"{where}: {key} is {items}: leave out what is null, or quote it")
    for item in items:
        # A word with a space is a value, as in `["--a dash"]`, and -1 is a number.
        if item.startswith("--") and " " not in item:
            raise InputError(f"{where}: {key} has {item!r}, which is a flag: give it a line of its own")


def _flag(key: str, value: str | list[str] | dict | None) -> list[str]:
    """Return the words of one flag; a null gives none, so that the default applies."""
    if value is None:
        return []
    if isinstance(value, list):
        return [f"--{key}", *value]
    if isinstance(value, dict):
        value = json.dumps(value)
    return [f"--{key}={value}"]


def did_you_mean(name: object, known: Iterable[str]) -> str | None:
    """Return the known name whose spelling is closest to `name`, if one is close."""
    close = difflib.get_close_matches(str(name).replace("-", "_"), known, 1)
    return close[0] if close else None


__all__ = ["FlagParser", "did_you_mean", "read_boolean", "read_command_line"]
