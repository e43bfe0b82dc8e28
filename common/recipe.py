"""Fill dataclasses from a recipe, a YAML file whose keys are flags, and from flags that override it."""

import dataclasses
import sys

from transformers import HfArgumentParser
from transformers.hf_argparser import string_to_bool

from .command_line import FlagParser, read_boolean, read_command_line
from .errors import InputError


class DataclassParser(FlagParser, HfArgumentParser):
    """A parser whose flags are the fields of dataclasses."""

    def __init__(self, *argument_types: type):
        super().__init__(dataclass_types=argument_types)
        # The same words, as a parser has that is made without transformers, see `common.flags`.
        self.register("type", string_to_bool, read_boolean)


def parse(*argument_types: type, arguments: list[str] | None = None) -> tuple:
    """Fill one instance of each dataclass from `RECIPE.yaml --flag value ...`; flags win over the recipe.

    Args:
        argument_types: dataclasses. A flag is given to every one that has a field of its name.
        arguments: words of a command line, by default of this script's.

    Raises:
        InputError: as `read_command_line`, where the fields of the dataclasses are the flags; or a dataclass
            refuses a value.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    values = read_command_line(DataclassParser(*argument_types), arguments)
    return tuple(_fill(argument_type, values) for argument_type in argument_types)


def _fill(argument_type: type, values: dict[str, object]):
    """Make an instance of a dataclass from those of the values that are its fields."""
    names = [field.name for field in dataclasses.fields(argument_type) if field.init]
    try:
        return argument_type(**{name: values[name] for name in names})
    except InputError:
        raise
    except (ValueError, ImportError) as error:
        # transformers' arguments raise these for values that they refuse, and for packages that they lack.
        raise InputError(error) from error


__all__ = ["DataclassParser", "parse"]
