"""Write the finished folder beside its place and move it there when complete: a failure leaves no half."""

import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import psutil

from common.errors import InputError
from common.output import check_output_dir
from common.processes import host
from modeling_altclip.checksums_altclip import write_checksums

CARD = "README.md"
# Files that an earlier run may have left and the new one may not replace. transformers would load old shards
# instead of the new weights, or beside them.
_OUTDATED = (
    "*.safetensors",
    "*.safetensors.index.json",
    "pytorch_model*",
    "loss.png",
    "recall.png",
    "example.png",
)


def check_output(output_dir: str, stages: list[str]) -> None:
    """Check that the output folder can be written, and is none of the stages, whose weights it would replace.

    Raises:
        InputError: it cannot, or is one.
    """
    folder = Path(output_dir)
    check_output_dir(output_dir)
    for stage in stages:
        if Path(stage).exists() and folder.resolve() == Path(stage).resolve():
            raise InputError(
                f"output_dir {output_dir!r} is one of the stages: give another folder for the finished model"
            )


@contextmanager
def whole_folder(output_dir: str) -> Iterator[Path]:
    """Yield a temporary folder, and move its files to `output_dir` at the end.

    An error inside the `with` block leaves `output_dir` as it was. Other files in `output_dir` are kept, such
    as a repository's `.git`. What a run leaves that is killed, the next one for `output_dir` removes.
    """
    folder = Path(output_dir)
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(folder)
    # It lies beside the output folder, and so on the same disk, where a file is moved by renaming it.
    temporary = folder.with_name(f"{_beginning(folder)}{os.getpid()}.{uuid4().hex}.tmp")
    temporary.mkdir()
    try:
        yield temporary

        folder.mkdir(exist_ok=True)
        for pattern in _OUTDATED:
            for path in folder.glob(pattern):
                path.unlink()

        # The card is moved last: a folder with the new card has the new weights and checksums as well.
        card = temporary / CARD
        for path in temporary.iterdir():
            if path != card:
                os.replace(path, folder / path.name)
        write_checksums(folder)
        if card.exists():
            os.replace(card, folder / CARD)
    finally:
        shutil.rmtree(temporary)


def _remove_abandoned(folder: Path) -> None:
    """Remove the temporary folders of processes of this machine that live no more."""
    beginning = _beginning(folder)
    for path in folder.parent.glob(f"{glob.escape(beginning)}*.tmp"):
        # ".altclip.machine-4026532281.4711.0f3a.tmp" -> process 4711
        process_id = path.name.removeprefix(beginning).partition(".")[0]
        if process_id.isdecimal() and not psutil.pid_exists(int(process_id)):
            shutil.rmtree(path)


def _beginning(folder: Path) -> str:
    """Return how the names of a folder's temporary folders begin on this machine."""
    return f".{folder.name}.{host()}."


__all__ = ["CARD", "check_output", "whole_folder"]
