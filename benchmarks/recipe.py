"""Recipes: a YAML file whose keys are the flags of a script, and flags on the command line that override it."""

import dataclasses
import difflib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import yaml
from transformers import HfArgumentParser


class InputError(ValueError):
    """Something the user can mend. Scripts print its message alone and exit with status 1."""


def parse(*argument_types: type, arguments: list[str] | None = None) -> tuple:
    """Fill one instance of each dataclass from `RECIPE.yaml --flag value ...`; flags win over the recipe.

    Raises:
        InputError: the recipe is missing, is not a mapping, or has a key that is no field of the dataclasses.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0].endswith((".yaml", ".yml")):
        arguments = recipe_flags(Path(arguments[0]), argument_types) + arguments[1:]
    return HfArgumentParser(argument_types).parse_args_into_dataclasses(arguments)


def recipe_flags(path: Path, argument_types: tuple[type, ...]) -> list[str]:
    """Turn a recipe into the command-line flags that say the same."""
    if not path.is_file():
        raise InputError(f"recipe {str(path)!r} does not exist")
    recipe = yaml.safe_load(path.read_text("utf-8"))
    if not isinstance(recipe, dict):
        raise InputError(f"recipe {str(path)!r} must be a mapping of flags to values")
    known = [field.name for argument_type in argument_types for field in dataclasses.fields(argument_type) if field.init]
    flags = []
    for key, value in recipe.items():
        if key not in known:
            close = difflib.get_close_matches(key, known, 1)
            raise InputError(f"recipe {str(path)!r} has an unknown key {key!r}" + (f": did you mean {close[0]!r}?" if close else ""))
        if isinstance(value, list):
            flags += [f"--{key}", *map(str, value)]
        elif value is not None:
            flags.append(f"--{key}={json.dumps(value) if isinstance(value, dict) else value}")
    return flags


def launch(main: Callable, *argument_types: type) -> None:
    """Run a script's `main` on its parsed arguments, and leave the group of processes that it joined."""
    print_all_letters()
    try:
        main(*parse(*argument_types))
    except InputError as error:
        sys.exit(f"{Path(sys.argv[0]).name}: error: {error}")
    # Threads of the group may still hold tensors. One that returns them while Python ends is broken off, which aborts the process.
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def print_all_letters() -> None:
    """Print letters that standard output cannot encode, as under `PYTHONIOENCODING=ascii`, by their numbers; they would be an error."""
    sys.stdout.reconfigure(errors="backslashreplace")
