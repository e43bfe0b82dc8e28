"""Verify what the public corpora of `training/data/sources` state, or list what is unverified."""

from dataclasses import dataclass, field
from pathlib import Path

from common.errors import InputError
from training.data.sources.loading import all_source_names, load_source
from training.data.sources.source import Source
from training.data.sources.verification import check_network, state, verify_source


@dataclass(kw_only=True)
class VerifyArguments:
    """What is verified."""

    sources: list[str] | None = field(
        default=None,
        metadata={
            "help": "Names of public corpora, or YAML files of your own, which may also stand first without "
            "the flag. By default all corpora of the package."
        },
    )
    list_only: bool = field(
        default=False, metadata={"help": "List what is unverified, and ask the Hub for nothing."}
    )


def main(arguments: VerifyArguments) -> None:
    """Print a table of the fields that are unverified, and of what the Hub says about them.

    Raises:
        InputError: there is no such source, the Hub cannot be reached, or a field differs.
    """
    sources = [load_source(name) for name in arguments.sources or all_source_names()]
    if arguments.list_only:
        _print_table(_list_unverified(sources))
        return
    for source in sources:
        if Path(source.dataset).is_dir():
            raise InputError(
                f"source {source.name!r} lies in the folder {source.dataset}, and not on the Hub"
            )

    check_network()
    table = [("source", "field", "in the file", "on the Hub", "verdict")]
    n_differing = 0
    for source in sources:
        for finding in verify_source(source):
            table.append((finding.source, finding.field, finding.stated, finding.found, finding.verdict))
            n_differing += finding.verdict == "differs"
    _print_table(table)
    if n_differing:
        raise InputError(
            f"{n_differing} fields differ from the Hub: correct them in the files of these sources, and take "
            "what is as stated out of their `unverified`"
        )


def _list_unverified(sources: list[Source]) -> list[tuple[str, ...]]:
    table = [("source", "field", "in the file")]
    for source in sources:
        table += [(source.name, name, state(source, name)) for name in source.unverified]
    return table


def _print_table(table: list[tuple[str, ...]]) -> None:
    """Print rows in columns of equal width; the last one is as long as it is."""
    widths = [max(map(len, column)) for column in zip(*table)]
    for row in table:
        cells = [cell.ljust(width) for cell, width in zip(row[:-1], widths)]
        print("  ".join([*cells, row[-1]]))


__all__ = ["main"]
