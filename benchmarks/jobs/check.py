"""Compare the files of saved folders with the checksums that were written with them."""

from dataclasses import dataclass, field
from pathlib import Path

from common.errors import InputError
from modeling_altclip.checksums_altclip import CHECKSUMS, find_damages, read_checksums, write_checksums

# A folder with one of these is a model's, or an adapter's.
_CONFIGS = ("config.json", "adapter_config.json")


@dataclass(kw_only=True)
class CheckArguments:
    """What is checked."""

    folders: list[str] = field(
        metadata={
            "help": "Folders of models or training runs, which may also stand first without the flag. "
            "Subfolders are checked too."
        }
    )
    rewrite: bool = field(
        default=False,
        metadata={"help": "Accept the files as they are: write the checksums anew, and check nothing."},
    )


def main(arguments: CheckArguments) -> None:
    """Print a line for each folder that has checksums, with its damages.

    Raises:
        InputError: a folder is not there or holds no checksums, or files are damaged.
    """
    n_damaged = 0
    for folder in _find_folders(arguments):
        if arguments.rewrite:
            write_checksums(folder)
        found = _describe_damages(folder)
        n_damaged += found is not None
        print(f"{folder}: {found or _describe_files(folder)}")
    if n_damaged:
        raise InputError(
            f"{n_damaged} of these folders are damaged: get whole copies, or, where a change was made on "
            "purpose, accept it with --rewrite"
        )


def _find_folders(arguments: CheckArguments) -> list[Path]:
    """Find the folders with checksums, in the given ones and below them; with `rewrite`, those of models too.

    Raises:
        InputError: there are none in one of the given folders.
    """
    found = []
    for name in arguments.folders:
        folder = Path(name)
        if not folder.is_dir():
            raise InputError(f"folders {name!r} is no folder: give that of a model or of a training run")
        inside = {path.parent for path in folder.rglob(CHECKSUMS)}
        if arguments.rewrite and any((folder / config).is_file() for config in _CONFIGS):
            inside.add(folder)
        if not inside:
            raise InputError(
                f"folders {name!r} holds no {CHECKSUMS}, so that there is nothing to check: "
                "for a model that another program saved, --rewrite writes it"
            )
        found += sorted(inside)
    return list(dict.fromkeys(found))


def _describe_damages(folder: Path) -> str | None:
    """Return the damages of a folder on one line; None if there are none."""
    try:
        damages = find_damages(folder)
    except ValueError as error:
        return f"damaged: {error}"
    return f"damaged: {'; '.join(damages)}" if damages else None


def _describe_files(folder: Path) -> str:
    """Return how many files are whole, and their size."""
    sizes = [entry["bytes"] for entry in read_checksums(folder).values()]
    return f"whole: {len(sizes)} files, {sum(sizes) / 1e6:,.1f} MB"


__all__ = ["CheckArguments", "main"]
