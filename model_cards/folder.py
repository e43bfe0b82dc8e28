"""The finished folder: it is written beside its place and moved there when it is whole, so that a failure
leaves no half of one.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.recipe import InputError

CARD = "README.md"
# What an earlier card may have left and the new one may lack; old shards would be loaded in place of the new
# weights, or beside them.
OF_BEFORE = (
    "*.safetensors",
    "*.safetensors.index.json",
    "pytorch_model*",
    "loss.png",
    "recall.png",
    "example.png",
)


def check_output(output_dir: str, stages: list[str]) -> None:
    """See that the folder to make is no stage's and no file.

    Raises:
        InputError: it is.
    """
    folder = Path(output_dir)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"output_dir {output_dir!r} is a file: give a folder, there already or not")
    for stage in stages:
        if Path(stage).exists() and folder.resolve() == Path(stage).resolve():
            raise InputError(
                f"output_dir {output_dir!r} is one of the stages: give another folder for the finished model"
            )


@contextmanager
def whole_folder(output_dir: str) -> Iterator[Path]:
    """Give a temporary folder to write to, whose files become those of `output_dir` at the end, the card
    last.

    An error within leaves `output_dir` as it was. Files there that no card makes stay, such as a repository's
    `.git`.
    """
    folder = Path(output_dir)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Beside it, and so on the same disk, where moving a file is renaming it.
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        yield Path(temporary)
        folder.mkdir(exist_ok=True)
        for pattern in OF_BEFORE:
            for old in folder.glob(pattern):
                old.unlink()
        for path in sorted(Path(temporary).iterdir(), key=lambda path: path.name == CARD):
            os.replace(path, folder / path.name)


__all__ = ["CARD", "check_output", "whole_folder"]
