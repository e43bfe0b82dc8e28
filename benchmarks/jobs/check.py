"""Compare saved models, checkpoints, caches and results with the checksums that were written with them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from common.arrow_parts import find_damaged_parts
from common.errors import InputError
from modeling_altclip.checksums_altclip import CHECKSUMS, find_damages, write_checksums

from ..results import find_damaged_results, rewrite_results

# A folder with one of these is a model's, or an adapter's.
_CONFIGS = ("config.json", "adapter_config.json")


@dataclass(kw_only=True)
class CheckArguments:
    """What is checked."""

    folders: list[str] = field(
        metadata={
            "help": "Folders of models, training runs, caches or results, which may also stand first without "
            "the flag. Subfolders are checked too."
        }
    )
    rewrite: bool = field(
        default=False,
        metadata={
            "help": "Accept models and results as they are, and write their checksums anew. A cache is not "
            "accepted: the next run that uses it makes damaged parts anew."
        },
    )


@dataclass(frozen=True)
class _Saved:
    """A folder that was saved with checksums."""

    kind: Literal["model", "cache", "results"]
    folder: Path

    def find_damages(self) -> list[str]:
        """Return what is wrong, a line for each file."""
        if self.kind == "cache":
            return find_damaged_parts(self.folder)
        if self.kind == "results":
            return find_damaged_results(self.folder)
        try:
            return find_damages(self.folder)
        except ValueError as error:  # of the checksums themselves
            return [str(error)]

    def rewrite(self) -> None:
        """Write the checksums anew; those of a cache stay."""
        if self.kind == "model":
            write_checksums(self.folder)
        if self.kind == "results":
            rewrite_results(self.folder)

    def describe(self) -> str:
        """Return the number and the size of all files in the folder."""
        sizes = [path.stat().st_size for path in self.folder.rglob("*") if path.is_file()]
        return f"complete: {self.kind}, {len(sizes)} files, {sum(sizes) / 1e6:,.1f} MB"


def main(arguments: CheckArguments) -> None:
    """Print a line for each folder that has checksums, with its damages.

    Raises:
        InputError: a folder is not there or holds nothing that has checksums, or files are damaged.
    """
    n_damaged = 0
    for saved in _find_all_saved(arguments):
        if arguments.rewrite:
            saved.rewrite()
        damages = saved.find_damages()
        n_damaged += bool(damages)
        outcome = f"damaged: {'; '.join(damages)}" if damages else saved.describe()
        print(f"{saved.folder}: {outcome}")
    if n_damaged:
        raise InputError(
            f"{n_damaged} of these folders are damaged: get complete copies, or, where a change was made on "
            "purpose, accept it with --rewrite"
        )


def _find_all_saved(arguments: CheckArguments) -> list[_Saved]:
    """Find the folders with checksums, in the given ones and below them; with `rewrite`, those of models too.

    Raises:
        InputError: there are none in one of the given folders.
    """
    found = []
    for name in arguments.folders:
        folder = Path(name)
        if not folder.is_dir():
            raise InputError(f"folders {name!r} is no folder: give that of a model, run, cache or of results")
        inside = _find_saved(folder)
        if arguments.rewrite and any((folder / config).is_file() for config in _CONFIGS):
            inside.add(_Saved("model", folder))
        if not inside:
            raise InputError(
                f"folders {name!r} holds no {CHECKSUMS}, cache or results, so that there is nothing to "
                "check: for a model that another program saved, --rewrite writes it"
            )
        found += sorted(inside, key=lambda saved: saved.folder)
    return list(dict.fromkeys(found))


def _find_saved(folder: Path) -> set[_Saved]:
    """Find what was saved with checksums in a folder and below it."""
    found = {_Saved("model", path.parent) for path in folder.rglob(CHECKSUMS)}
    for part in folder.rglob("data/part-*.arrow"):
        found.add(_Saved("cache", part.parent.parent))
    # A result, `imagenet.en.json`, lies next to its per-item results, `imagenet.en.npz`.
    for outcomes in folder.rglob("*.npz"):
        if outcomes.with_suffix(".json").is_file():
            found.add(_Saved("results", outcomes.parent))
    return found


__all__ = ["CheckArguments", "main"]
