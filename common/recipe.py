"""Run scripts: parse a recipe, a YAML file whose keys are flags, and the flags that override it."""

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

from .errors import InputError
from .files.text_files import read_text
from .processes import launched_processes, warn_if_launched_alone


class _Parser(HfArgumentParser):
    """An argument parser whose errors are `InputError`s.

    Flags cannot be abbreviated, so that none is taken for another.
    """

    def __init__(self, argument_types: tuple[type, ...]):
        description = (
            "The first argument may be a recipe, `RECIPE.yaml`, with these names as keys. Flags override it."
        )
        super().__init__(argument_types, description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        # argparse names a flag in both spellings, "--max_steps/--max-steps".
        message = re.sub(r"(--\w+)/--[\w-]+", r"\1", message)
        missing = message.removeprefix("the following arguments are required: ")
        if missing != message:
            raise InputError(
                f"missing {missing}: give them as flags, or without the hyphens as keys of a recipe"
            )
        raise InputError(message)


def parse(*argument_types: type, arguments: list[str] | None = None) -> tuple:
    """Fill one instance of each dataclass from `RECIPE.yaml --flag value ...`; flags win over the recipe.

    Args:
        argument_types: dataclasses. A flag is given to every one that has a field of its name.
        arguments: words of a command line, by default of this script's.

    Raises:
        InputError: the recipe does not exist, is not a mapping, or has a key that is no field of the
            dataclasses; a flag is unknown, lacks its value or has one of another type; a field without
            default is missing; or a dataclass refuses a value.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    _check_flags(arguments, argument_types)
    if arguments and arguments[0].endswith((".yaml", ".yml")):
        # argparse takes the last of equal flags: those of the command line follow the recipe's.
        arguments = _recipe_flags(Path(arguments[0]), argument_types) + arguments[1:]
    elif arguments and not arguments[0].startswith("-"):
        raise InputError(
            f"argument {arguments[0]!r} is no recipe: give a file RECIPE.yaml, or flags that begin with --"
        )
    # Not `parse_args_into_dataclasses`, which also reads flags from a file beside the script that nobody
    # named.
    given, unread = _Parser(argument_types).parse_known_args(arguments)
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


def _recipe_flags(path: Path, argument_types: tuple[type, ...]) -> list[str]:
    """Turn a recipe into command-line flags: `{rate: 1.0, names: [a, b]}` -> `--rate=1.0 --names a b`."""
    recipe = read_yaml(path, "recipe")
    if not isinstance(recipe, dict):
        raise InputError(f"recipe {str(path)!r} must be a mapping of flags to values")
    known = _known_names(argument_types)
    flags = []
    for key, value in recipe.items():
        if key not in known:
            close = did_you_mean(key, known)
            hint = f": did you mean {close!r}?" if close else ""
            raise InputError(f"recipe {str(path)!r} has an unknown key {key!r}{hint}")
        if isinstance(value, list) and not known[key]:
            raise InputError(f"recipe {str(path)!r}: {key} is the list {value}: give one value")
        _check_written(key, value, argument_types, str(path))
        flags += _flag(key, value)
    return flags


def _flag(key: str, value: object) -> list[str]:
    """Return the words of one flag; a null gives none, so that the default applies."""
    if value is None:
        return []
    if isinstance(value, list):
        return [f"--{key}", *map(str, value)]
    if isinstance(value, dict):
        value = json.dumps(value)
    return [f"--{key}={value}"]


def _check_written(key: str, value: object, argument_types: tuple[type, ...], path: str) -> None:
    """Refuse words that YAML reads as another type: `no`, `on` and `yes` as booleans, `~` as null."""
    items = value if isinstance(value, list) else [value]
    if isinstance(value, list) and None in items:
        raise InputError(f"recipe {path!r}: {key} is {value}: leave out what is null, or quote it")
    hints = [typing.get_type_hints(argument_type).get(key) for argument_type in argument_types]
    has_boolean = any(isinstance(item, bool) for item in items)
    if has_boolean and not any(_takes_boolean(hint) for hint in hints):
        raise InputError(
            f"recipe {path!r}: {key} is {value}: quote it, YAML takes a bare no, off, yes or on for a boolean"
        )


def _takes_boolean(hint: object) -> bool:
    """Check whether a type is a boolean, or has one among its members."""
    return hint is bool or any(_takes_boolean(member) for member in typing.get_args(hint))


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


def read_yaml(path: Path, what: str) -> object:
    """Read a YAML file.

    Args:
        what: the file's role, for messages: `recipe`, `task`.

    Raises:
        InputError: it does not exist, is a folder, is not UTF-8, is not YAML, or gives a key twice; the
            message names the line.
    """
    if path.is_dir():
        raise InputError(f"{what} {str(path)!r} is a folder: give a YAML file in it")
    if not path.is_file():
        raise InputError(f"{what} {str(path)!r} does not exist: give a YAML file that is there")
    try:
        return yaml.load(read_text(path, what), _UniqueKeyLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark  # counted from 0
        place = f"line {mark.line + 1}, column {mark.column + 1}"
        raise InputError(
            f"{what} {str(path)!r} is no YAML, {place}: {error.problem or error.context}"
        ) from error
    except yaml.YAMLError as error:  # a character that YAML does not allow
        reason = " ".join(str(error).split())
        raise InputError(f"{what} {str(path)!r} is no YAML: {reason}") from error


class _UniqueKeyLoader(yaml.SafeLoader):
    """PyYAML's safe loader, with an error for repeated keys of a mapping; PyYAML itself takes the last."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        # Checked here: constructors add the keys that `<<` merges, which a mapping may override, to its own.
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


def launch(main: Callable, *argument_types: type, one_process: bool = False) -> None:
    """Run a script's `main` on its parsed arguments, and leave the process group that it joined.

    An `InputError` ends the script with one line, even if it quotes several lines of a library's message.

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
        script = Path(sys.argv[0])
        # `python -m training.miniature` is known by the name of its package.
        name = script.parent.name if script.name == "__main__.py" else script.name
        sys.exit(f"{name}: error: {' '.join(str(error).split())}")
    # Threads of the group may still hold tensors. One that returns them while Python ends is interrupted,
    # which aborts the process.
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _print_all_letters() -> None:
    """Print letters that standard output cannot encode as `\\u4f60`, where they would raise an error.

    An example is output under `PYTHONIOENCODING=ascii`.
    """
    sys.stdout.reconfigure(errors="backslashreplace")
