"""Recipes:

A YAML file whose keys are the flags of a script, and flags on the command line that override it.
"""

import dataclasses
import difflib
import json
import re
import sys
import typing
from collections.abc import Callable, Iterable
from pathlib import Path
from types import UnionType
from typing import NoReturn

import torch
import yaml
from transformers import HfArgumentParser

from .processes import launched_processes, warn_if_launched_alone


class InputError(ValueError):
    """Something the user can mend. Scripts print its message alone and exit with status 1."""


class Parser(HfArgumentParser):
    """An argument parser whose errors are `InputError`s;

    Flags are never abbreviated, so that none is taken for another.
    """

    def __init__(self, argument_types: tuple[type, ...]):
        description = (
            "A recipe may stand first, `RECIPE.yaml`, with the same names as keys; flags win over it."
        )
        super().__init__(argument_types, description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        message = re.sub(r"(--\w+)/--[\w-]+", r"\1", message)  # the other spelling, with hyphens
        missing = message.removeprefix("the following arguments are required: ")
        if missing != message:
            raise InputError(
                f"missing {missing}: give them as flags, or without the hyphens as keys of a recipe"
            )
        raise InputError(message)


def parse(*argument_types: type, arguments: list[str] | None = None) -> tuple:
    """Fill one instance of each dataclass from `RECIPE.yaml --flag value ...`; flags win over the recipe.

    Raises:
        InputError: the recipe is missing, is not a mapping, or has a key that is no field of the dataclasses;
            a flag is unknown, lacks its value or has one of another type; a field without default is given by
            neither; or a dataclass refuses a value.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    check_flags(arguments, argument_types)
    if arguments and arguments[0].endswith((".yaml", ".yml")):
        arguments = recipe_flags(Path(arguments[0]), argument_types) + arguments[1:]
    elif arguments and not arguments[0].startswith("-"):
        raise InputError(
            f"argument {arguments[0]!r} is no recipe: give a file RECIPE.yaml, or flags that begin with --"
        )
    # Not `parse_args_into_dataclasses`, which also reads flags from a file beside the script that nobody
    # named.
    given, unread = Parser(argument_types).parse_known_args(arguments)
    if unread:
        raise InputError(
            f"argument {unread[0]!r} belongs to no flag: flags begin with --, and a recipe stands first"
        )
    return tuple(fill(argument_type, vars(given)) for argument_type in argument_types)


def fill(argument_type: type, values: dict):
    """Build a dataclass from those of the values that are its fields."""
    names = [field.name for field in dataclasses.fields(argument_type) if field.init]
    try:
        return argument_type(**{name: values[name] for name in names})
    except InputError:
        raise
    except (
        ValueError,
        ImportError,
    ) as error:  # transformers' own checks of its arguments, and what they need
        raise InputError(error) from error


def check_flags(arguments: list[str], argument_types: tuple[type, ...]) -> None:
    """Refuse a flag that is none, before all that is missing because of it."""
    known = known_names(argument_types)
    # argparse takes hyphens for underscores, and `--no_FLAG` for `--FLAG false`.
    taken = {"help", *known, *(f"no_{name}" for name in known)}
    for word in arguments:
        name = word.removeprefix("--").partition("=")[0]
        is_flag = word.startswith("--") and name and " " not in name
        if is_flag and name.replace("-", "_") not in taken:
            close = did_you_mean(name, known)
            raise InputError(
                f"unknown flag --{name}: did you mean --{close}?"
                if close
                else f"unknown flag --{name}: see --help"
            )


def recipe_flags(path: Path, argument_types: tuple[type, ...]) -> list[str]:
    """Turn a recipe into the command-line flags that say the same."""
    recipe = read_yaml(path, "recipe")
    if not isinstance(recipe, dict):
        raise InputError(f"recipe {str(path)!r} must be a mapping of flags to values")
    known = known_names(argument_types)
    flags = []
    for key, value in recipe.items():
        if key not in known:
            close = did_you_mean(key, known)
            raise InputError(
                f"recipe {str(path)!r} has an unknown key {key!r}"
                + (f": did you mean {close!r}?" if close else "")
            )
        if isinstance(value, list) and not known[key]:
            raise InputError(f"recipe {str(path)!r}: {key} is the list {value}: give one value")
        check_written(key, value, argument_types, str(path))
        if isinstance(value, list):
            flags += [f"--{key}", *map(str, value)]
        elif isinstance(value, dict):
            flags.append(f"--{key}={json.dumps(value)}")
        elif value is not None:
            flags.append(f"--{key}={value}")
    return flags


def check_written(key: str, value: object, argument_types: tuple[type, ...], path: str) -> None:
    """Refuse what YAML took for something else than was written:

    `no`, `on` and `yes` for booleans, nothing in a list for null.
    """
    hints = [typing.get_type_hints(argument_type).get(key) for argument_type in argument_types]
    if isinstance(value, list) and None in value:
        raise InputError(f"recipe {path!r}: {key} is {value}: leave out what is null, or quote it")
    is_boolean = (
        isinstance(value, bool) or isinstance(value, list) and any(isinstance(item, bool) for item in value)
    )
    if is_boolean and not any(takes_boolean(hint) for hint in hints):
        raise InputError(
            f"recipe {path!r}: {key} is {value}: quote it, YAML takes a bare no, off, yes or on for a boolean"
        )


def takes_boolean(hint: object) -> bool:
    """Return whether a type is a boolean, or one of several types that is."""
    return hint is bool or any(map(takes_boolean, typing.get_args(hint)))


def known_names(argument_types: tuple[type, ...]) -> dict[str, bool]:
    """Return the fields that flags and recipes may give, and whether each takes a list."""
    known = {}
    for argument_type in argument_types:
        hints = typing.get_type_hints(argument_type)
        for field in dataclasses.fields(argument_type):
            if field.init:
                known[field.name] = takes_list(hints[field.name])
    return known


def takes_list(hint: object) -> bool:
    """Return whether a type is a list, or one of several types that is."""
    kinds = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, UnionType) else [hint]
    return any(kind is list or typing.get_origin(kind) is list for kind in kinds)


def did_you_mean(name: object, known: Iterable[str]) -> str | None:
    """Return the known name that is spelled most nearly like `name`, if one is near."""
    return next(iter(difflib.get_close_matches(str(name).replace("-", "_"), known, 1)), None)


def read_yaml(path: Path, what: str) -> object:
    """Read a YAML file.

    Args:
        what: the file's part, for messages: `recipe`, `task`.

    Raises:
        InputError: it does not exist, is a folder, is not UTF-8, is no YAML, or gives a key twice; the
            message names the line.
    """
    if path.is_dir():
        raise InputError(f"{what} {str(path)!r} is a folder: give a YAML file in it")
    if not path.is_file():
        raise InputError(f"{what} {str(path)!r} does not exist: give a YAML file that is there")
    try:
        return yaml.load(read_text(path, what), UniqueKeyLoader)
    except yaml.MarkedYAMLError as error:
        place = f"line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}"
        raise InputError(
            f"{what} {str(path)!r} is no YAML, {place}: {error.problem or error.context}"
        ) from error
    except yaml.YAMLError as error:  # a character that YAML does not allow
        raise InputError(f"{what} {str(path)!r} is no YAML: {' '.join(str(error).split())}") from error


class UniqueKeyLoader(yaml.SafeLoader):
    """PyYAML's safe loader, which takes the last of equal keys, with an error where a mapping has two."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        # Here, since constructors put the keys that are merged by `<<`, which may be given anew, among a
        # mapping's own.
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is given twice: delete one", key_node.start_mark
                )
            seen.add(key)
        return node


def read_text(path: Path, what: str) -> str:
    """Read a text file in UTF-8; one in another encoding, as Excel writes it, is an `InputError`."""
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{what} {str(path)!r} is not UTF-8, at byte {error.start}: save it as UTF-8"
        ) from error


def launch(main: Callable, *argument_types: type, one_process: bool = False) -> None:
    """Run a script's `main` on its parsed arguments, and leave the group of processes that it joined.

    An `InputError` is one line, whatever the library said that it quotes.

    Args:
        one_process: refuse to be one of several processes, each of which would do the whole work and write
            the same files.
    """
    print_all_letters()
    warn_if_launched_alone()
    try:
        if one_process and launched_processes() > 1:
            raise InputError(
                f"{launched_processes()} processes were started, and this script runs in one: start it with "
                "`python`"
            )
        main(*parse(*argument_types))
    except InputError as error:
        script = Path(sys.argv[0])
        name = script.parent.name if script.name == "__main__.py" else script.name
        sys.exit(f"{name}: error: {' '.join(str(error).split())}")
    # Threads of the group may still hold tensors. One that returns them while Python ends is broken off,
    # which aborts the process.
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def print_all_letters() -> None:
    """Print letters that standard output cannot encode, as under `PYTHONIOENCODING=ascii`, by their numbers;

    They would be an error.
    """
    sys.stdout.reconfigure(errors="backslashreplace")
