"""Run scripts: parse a recipe, a YAML file whose keys are flags, and the flags that override it."""

import argparse
import dataclasses
import difflib
import json
import math
import re
import sys
import typing
from collections.abc import Callable, Iterable
from pathlib import Path
from types import UnionType
from typing import NoReturn

import torch
from transformers import HfArgumentParser

from .errors import InputError
from .files.yaml_files import Written, read_as_written
from .output import why_not_written
from .processes import launched_processes, warn_if_launched_alone
from .typed import LARGEST

_MOST_DIGITS = 20


class _Parser(HfArgumentParser):
    """An argument parser whose errors are `InputError`s.

    Flags cannot be abbreviated, so that none is taken for another. Numbers are finite and have 64 bits.

    Attributes:
        places: `{"rate": "recipe 'r.yaml', line 3"}` of the flags that a recipe gives, for messages.
    """

    def __init__(self, argument_types: tuple[type, ...], places: dict[str, str]):
        self.places = places
        description = (
            "The first argument may be a recipe, `RECIPE.yaml`, with these names as keys. Flags override it."
        )
        super().__init__(argument_types, description=description, allow_abbrev=False)
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


def parse(*argument_types: type, arguments: list[str] | None = None) -> tuple:
    """Fill one instance of each dataclass from `RECIPE.yaml --flag value ...`; flags win over the recipe.

    Args:
        argument_types: dataclasses. A flag is given to every one that has a field of its name.
        arguments: words of a command line, by default of this script's.

    Raises:
        InputError: the recipe cannot be read, see `read_as_written`, or has a key that is no field of the
            dataclasses; a flag is unknown, lacks its value or has one of another type; a field without
            default is missing; or a dataclass refuses a value.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    _check_flags(arguments, argument_types)
    places = {}
    if arguments and arguments[0].endswith((".yaml", ".yml")):
        path = Path(arguments[0])
        recipe = read_as_written(path, "recipe")
        places = _places(recipe, path, arguments[1:])
        # argparse takes the last of equal flags: those of the command line follow the recipe's.
        arguments = _recipe_flags(recipe, path, argument_types) + arguments[1:]
    elif arguments and not arguments[0].startswith("-"):
        raise InputError(
            f"argument {arguments[0]!r} is no recipe: give a file RECIPE.yaml, or flags that begin with --"
        )
    # Not `parse_args_into_dataclasses`, which also reads flags from a file beside the script that nobody
    # named.
    given, unread = _Parser(argument_types, places).parse_known_args(arguments)
    if unread:
        raise InputError(
            f"argument {unread[0]!r} belongs to no flag: flags begin with --, and a recipe stands first"
        )
    return tuple(_fill(argument_type, vars(given)) for argument_type in argument_types)


def _fill(argument_type: type, values: dict):
    """Make an instance of a dataclass from those of the values that are its fields."""
    names = [field.name for field in dataclasses.fields(argument_type) if field.init]
    try:
        return argument_type(**{name: values[name] for name in names})
    except InputError:
        raise
    except (ValueError, ImportError) as error:
        # transformers' arguments raise these for values that they refuse, and for packages that they lack.
        raise InputError(error) from error


def _check_flags(arguments: list[str], argument_types: tuple[type, ...]) -> None:
    """Refuse an unknown flag, before argparse complains of everything that is missing because of it."""
    known = _known_names(argument_types)
    # argparse also takes `--no_FLAG`, for `--FLAG false`.
    allowed = {"help", *known, *(f"no_{name}" for name in known)}
    for word in arguments:
        name = word.removeprefix("--").partition("=")[0]
        # A word with a space is a value, as in `--text "--a dash"`.
        is_flag = word.startswith("--") and name and " " not in name
        # argparse takes `--max-steps` for `--max_steps`.
        if is_flag and name.replace("-", "_") not in allowed:
            close = did_you_mean(name, known)
            hint = f"did you mean --{close}?" if close else "see --help"
            raise InputError(f"unknown flag --{name}: {hint}")


def _places(recipe: dict[str, Written], path: Path, arguments: list[str]) -> dict[str, str]:
    """Return where a recipe gives each flag that the command line does not override."""
    overridden = [word.removeprefix("--").partition("=")[0].replace("-", "_") for word in arguments]
    return {
        key: f"recipe {str(path)!r}, line {written.line}"
        for key, written in recipe.items()
        if key not in overridden
    }


def _recipe_flags(recipe: dict[str, Written], path: Path, argument_types: tuple[type, ...]) -> list[str]:
    """Turn a recipe into command-line flags: `{rate: 1.0, names: [a, b]}` -> `--rate=1.0 --names a b`."""
    known = _known_names(argument_types)
    flags = []
    for key, written in recipe.items():
        where = f"recipe {str(path)!r}, line {written.line}"
        if key not in known:
            close = did_you_mean(key, known)
            hint = f"did you mean {close!r}?" if close else "see --help"
            raise InputError(f"{where}: unknown key {key!r}: {hint}")
        if isinstance(written.value, list):
            _check_list(key, written.value, known[key], where)
        flags += _flag(key, written.value)
    return flags


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


def _takes_list(hint: object) -> bool:
    """Check whether a type is a list, or a union with one."""
    is_union = typing.get_origin(hint) in (typing.Union, UnionType)
    members = typing.get_args(hint) if is_union else [hint]
    return any(member is list or typing.get_origin(member) is list for member in members)


def _known_names(argument_types: tuple[type, ...]) -> dict[str, bool]:
    """Return the fields that flags and recipes may give, and whether each takes a list."""
    known = {}
    for argument_type in argument_types:
        hints = typing.get_type_hints(argument_type)
        for field in dataclasses.fields(argument_type):
            if field.init:
                known[field.name] = _takes_list(hints[field.name])
    return known


def did_you_mean(name: object, known: Iterable[str]) -> str | None:
    """Return the known name whose spelling is closest to `name`, if one is close."""
    close = difflib.get_close_matches(str(name).replace("-", "_"), known, 1)
    return close[0] if close else None


def launch(main: Callable, *argument_types: type, one_process: bool = False) -> None:
    """Run a script's `main` on its parsed arguments, and leave the process group that it joined.

    An `InputError` ends the script with one line, even if it quotes several lines of a library's message. So
    does a file that cannot be written, whichever library was writing it.

    Args:
        main: takes an instance of each dataclass.
        argument_types: dataclasses, see `parse`.
        one_process: refuse to run in several processes, each of which would do the whole work and write the
            same files.
    """
    _print_all_letters()
    warn_if_launched_alone()
    try:
        if one_process and launched_processes() > 1:
            raise InputError(
                f"{launched_processes()} processes were started, and this script runs in one: start it with "
                "`python`"
            )
        main(*parse(*argument_types))
    except InputError as error:
        _exit_with(str(error))
    except Exception as error:
        reason = why_not_written(error)
        if reason is None:
            raise
        _exit_with(reason)
    # Threads of the group may still hold tensors. One that returns them while Python ends is interrupted,
    # which aborts the process.
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _exit_with(message: str) -> NoReturn:
    """End the script with one line and exit status 1."""
    script = Path(sys.argv[0])
    # `python -m training.miniature` is known by the name of its package.
    name = script.parent.name if script.name == "__main__.py" else script.name
    sys.exit(f"{name}: error: {' '.join(message.split())}")


def _print_all_letters() -> None:
    """Print letters that standard output cannot encode as `\\u4f60`, where they would raise an error.

    An example is output under `PYTHONIOENCODING=ascii`.
    """
    sys.stdout.reconfigure(errors="backslashreplace")
