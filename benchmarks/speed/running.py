"""What comparisons and curves have in common: their settings, their names in a YAML file, and the loop."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from datasets import disable_progress_bars
from transformers.utils import logging

from common.errors import InputError
from common.files.yaml_files import read_yaml


class _Measurement(Protocol):
    """A comparison, or a curve."""

    name: str
    work: str


_Item = TypeVar("_Item", bound=_Measurement)
_Result = TypeVar("_Result")


def check_counts(repeats: int, threads: int) -> None:
    """Check the numbers that the user has given.

    Raises:
        InputError: one is below 1.
    """
    if repeats < 1 or threads < 1:
        raise InputError(f"repeats is {repeats} and threads {threads}: give at least 1")


def read_chosen(path: Path, kind: str, flag: str, names: list[str] | None) -> dict[str, dict]:
    """Read all entries of a YAML file, or those of some names, in the order of the names.

    Args:
        kind: what the entries are, for messages.
        flag: the option by which names are chosen.

    Raises:
        InputError: there is none of such a name.
    """
    written = read_yaml(path, kind)
    for name in names or []:
        if name not in written:
            raise InputError(f"{flag}: there is no {name!r}: give some of {' '.join(written)}")
    return {name: written[name] for name in names or written}


def measure_each(
    items: Sequence[_Item],
    measure: Callable[[_Item], _Result],
    save: Callable[[list[_Result], dict[str, str]], object],
) -> tuple[list[_Result], dict[str, str]]:
    """Measure one after the other, without the progress bars of libraries, and go on where one fails.

    Args:
        save: called after each of them with all that there is, so that nothing is lost of an hour's work.

    Returns:
        What was measured, and the reasons of those that failed, by name.
    """
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    disable_progress_bars()
    results = []
    failures = {}
    for number, item in enumerate(items, start=1):
        print(f"{number}/{len(items)} {item.name}: {item.work}", flush=True)
        try:
            results.append(measure(item))
        except InputError as error:
            failures[item.name] = str(error)
            print(f"  failed: {error}", file=sys.stderr, flush=True)
        save(results, failures)
    return results, failures
