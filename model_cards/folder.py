"""Write the finished folder beside its place and move it there when complete: a failure leaves no half."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.output import check_not_input, check_output_dir
from common.temporary import temporary_path
from modeling_altclip.checksums_altclip import write_checksums

from .eval_results import FOLDER

CARD = "README.md"
# Files that an earlier run may have left and the new one may not replace. transformers would load old shards
# instead of the new weights, or beside them, and read the folder as that of an earlier adapter.
_OUTDATED = (
    "adapter_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "pytorch_model*",
    "loss.png",
    "recall.png",
    "example.png",
    f"{FOLDER}/*.yaml",  # numbers of the weights before
)


def check_output(output_dir: str, stages: list[str]) -> None:
    """Check that the output folder can be written, and is none of the stages, whose weights it would replace.

    Raises:
        InputError: it cannot, or is one.
    """
    check_output_dir(output_dir)
    for stage in stages:
        check_not_input(output_dir, {"one of the stages": stage})


@contextmanager
def whole_folder(output_dir: str) -> Iterator[Path]:
    """Yield a temporary folder, and move its files to `output_dir` at the end.

    An error inside the `with` block leaves `output_dir` as it was. Other files in `output_dir` are kept, such
    as a repository's `.git`. What a killed run leaves, the next one that writes next to it removes.
    """
    folder = Path(output_dir)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # It lies beside the output folder, and so on the same disk, where a file is moved by renaming it.
    temporary = temporary_path(folder.parent)
    temporary.mkdir()
    try:
        yield temporary

        folder.mkdir(exist_ok=True)
        for pattern in _OUTDATED:
            for path in folder.glob(pattern):
                path.unlink()

        # The card is moved last: a folder with the new card has the new weights and checksums as well.
        card = temporary / CARD
        for path in temporary.rglob("*"):
            if path.is_file() and path != card:
                place = folder / path.relative_to(temporary)
                place.parent.mkdir(exist_ok=True)
                os.replace(path, place)
        write_checksums(folder)
        if card.exists():
            os.replace(card, folder / CARD)
    finally:
        shutil.rmtree(temporary)


__all__ = ["CARD", "check_output", "whole_folder"]
