"""Damage one file of a folder, and see whether the job that reads it notices.

A damage is `noticed` where the job ends with one line. It is `harmless` where the job ends in the same bytes:
the file does not matter, or it was passed over. It is `silent` where the job ends well in other bytes, and
`raw` where it ends with a traceback.
"""

import random
import shutil
from dataclasses import dataclass
from pathlib import Path

from .jobs import Job
from .running import run_job
from .trees import contents, differences


@dataclass(frozen=True)
class Damage:
    """One changed place of one file: a flipped bit, or everything behind it cut off."""

    file: str
    place: int
    bit: int | None  # None where the file is cut


def draw_damage(chance: random.Random, folder: Path, *, cuts: bool) -> Damage:
    """Draw a file and a place in it; small files are drawn as often as large ones.

    The code that transformers copies beside the weights is left out: no job reads it.
    """
    files = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.stat().st_size and path.suffix != ".py":
            files.append(path)
    path = chance.choice(files)
    place = chance.randrange(path.stat().st_size)
    bit = None if cuts else chance.randrange(8)
    return Damage(path.relative_to(folder).as_posix(), place, bit)


def apply_damage(damage: Damage, folder: Path) -> None:
    """Flip the bit, or cut the file."""
    path = folder / damage.file
    content = bytearray(path.read_bytes())
    if damage.bit is None:
        content = content[: damage.place]
    else:
        content[damage.place] ^= 1 << damage.bit
    path.write_bytes(content)


def read_damaged(job: Job, world: Path, state: Path, below: str, damage: Damage) -> tuple[str, str]:
    """Restore `state` as `world`, damage a file below a folder of it, run the job, and judge how that ends.

    Args:
        state: a folder like `world` in which the job, undamaged, ends as in `state.whole`.
        below: the folder within `world` that is damaged.

    Returns:
        `noticed`, `harmless`, `silent` or `raw`; and the error's last line, or the files that differ.
    """
    expected = state.with_suffix(".whole")
    shutil.rmtree(world, ignore_errors=True)
    shutil.copytree(state, world)
    apply_damage(damage, world / below)
    run = run_job(job, world)
    if run.code != 0:
        return ("raw" if run.has_traceback else "noticed"), run.last_line

    # The damaged file itself may still lie there.
    name = Path(below, damage.file).as_posix()
    lines = differences(contents(world, but=name), contents(expected, but=name))
    return ("silent" if lines else "harmless"), "; ".join(lines)
