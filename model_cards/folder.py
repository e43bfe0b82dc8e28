"""Write the finished folder beside its place and move it there when complete: a failure leaves no half."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import InputError

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
    """Check that the output folder is neither a file nor one of the stages, whose weights it would replace.

    Raises:
        InputError: it is one of these.
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
    """Yield a temporary folder, and move its files to `output_dir` at the end.

    An error inside the `with` block leaves `output_dir` as it was. Other files in `output_dir` are kept, such
    as a repository's `.git`.
    """
    folder = Path(output_dir)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # It lies beside the output folder, and so on the same disk, where a file is moved by renaming it.
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        yield Path(temporary)

        folder.mkdir(exist_ok=True)
        for pattern in _OUTDATED:
            for path in folder.glob(pattern):
                path.unlink()

        # The card is moved last: a folder with the new card has the new weights as well.
        paths = list(Path(temporary).iterdir())
        for path in sorted(paths, key=_is_card):
            os.replace(path, folder / path.name)


def _is_card(path: Path) -> bool:
    return path.name == CARD


__all__ = ["CARD", "check_output", "whole_folder"]
