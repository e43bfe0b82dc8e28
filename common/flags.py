"""The flags of all jobs, in a table: a wrong flag is refused and help printed without torch.

`flags.json` is written by `make flags` from the parsers that `common.recipe` makes of dataclasses. Many of
the fields are transformers' own, so that the table holds for one version of it alone. Under another one, and
for a job that the table lacks, there is no table, and the parser is made of the dataclasses as ever.
"""

import argparse
import json
from functools import cache
from importlib.metadata import version
from pathlib import Path

from .command_line import FlagParser, read_boolean

FLAGS_FILE = Path(__file__).with_name("flags.json")
# Values of other types are only read as text here; the dataclasses' own parser, which follows, judges them.
_TYPES = {"int": int, "float": float, "str": str, "string_to_bool": read_boolean}


def tabled_parser(job: str) -> FlagParser | None:
    """Make the parser of a job's flags from the table, or return None if the table does not hold for it.

    Args:
        job: its module, such as `training.jobs.stage1`.
    """
    table = _read_table()
    if table["transformers"] != version("transformers") or job not in table["jobs"]:
        return None
    parser = FlagParser()
    for name in table["jobs"][job]:
        _add_flag(parser, table["flags"][name])
    return parser


def _add_flag(parser: FlagParser, entry: dict) -> None:
    """Add a flag as `describe_flag` describes it."""
    options = {key: value for key, value in entry.items() if key not in ("spellings", "type")}
    if "type" in entry:
        options["type"] = _TYPES[entry["type"]]
    parser.add_argument(*entry["spellings"], **options)


def describe_flag(action: argparse.Action) -> dict[str, object]:
    """Describe a flag of a parser by `add_argument`'s keywords, with the type by its name."""
    entry = {"spellings": action.option_strings, "help": action.help}
    if action.nargs == 0:  # `--no_FLAG`, which takes no value
        return entry | {"action": "store_false", "dest": action.dest, "default": action.default}
    type_name = getattr(action.type, "__name__", None)
    if type_name in _TYPES:
        entry["type"] = type_name
    if action.choices is not None:
        entry["choices"] = list(action.choices)
    for key in ("nargs", "const", "default"):
        value = getattr(action, key)
        if value is not None:
            entry[key] = value
    if action.required:
        entry["required"] = True
    return entry


@cache
def _read_table() -> dict:
    return json.loads(FLAGS_FILE.read_text("utf-8"))


__all__ = ["FLAGS_FILE", "describe_flag", "tabled_parser"]
