"""Tell whether a step of a road is finished and whole, from what lies in its folder and from a record.

The record of a step, `OUTPUT_DIR/../.road/NAME.JOB.json`, lies next to the output folder and not in it, where
it would be published. It is written when a step begins, with the settings as its recipe has them and with
digests of what the step reads, and once more when it has ended, with digests of what it made:

    {"settings": {"teacher_name_or_path": "outputs/teacher", "max_steps": "1000", ...},
     "inputs": {"outputs/teacher": "5f0c..."}, "made": {"checksums.json": "99aa..."}}

So a stage 1 that was trained anew makes stage 2 train anew, and what was trained without a road, which has no
record, is taken as it is.
"""

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

from common.errors import InputError
from common.files.contents import content_digest
from common.files.json_files import read_json
from common.files.names import free_path
from common.files.whole_files import write_text
from common.files.yaml_files import read_yaml
from modeling_altclip.checksums_altclip import CHECKSUMS, find_damages, has_checksums

from ..output_folder import changed_settings, has_finished
from .steps import JOBS, Step, read_arguments

# Keys of recipes that name folders which a step does not read its input from.
_NO_INPUTS = ("output_dir", "cache_dir", "logging_dir", "environment")
_READ_WHOLE = 1_000_000  # bytes; of larger files the size counts


@dataclass(frozen=True)
class State:
    """What is known about a step.

    Attributes:
        kind: finished: it is done and whole; outdated: what its folder holds was made from something else, or
            is not whole, and cannot be continued; begun: its folder holds something, which the job continues
            or replaces; new: its folder holds nothing.
        why: of an outdated step.
    """

    kind: Literal["finished", "outdated", "begun", "new"]
    why: str = ""


def find_state(step: Step, road: list[Step]) -> State:
    """Tell the state of a step, without changing anything.

    Args:
        road: all steps of the road, from whose output folders the step may read.

    Raises:
        InputError: it is finished, and was made with other settings than its recipe has now; or a record of
            it is damaged.
    """
    folder = step.output_dir
    if not folder.is_dir() or not any(folder.iterdir()):
        return State("new")
    record = _read_record(step)
    changed_inputs = _changed_inputs(step, record, road)
    if JOBS[step.job].is_cheap:
        is_same = record is not None and record["settings"] == step.settings and not changed_inputs
        return State("finished" if is_same and _has_pages(step, record) else "begun")

    if changed_inputs:
        return State("outdated", f"{changed_inputs[0]} is another than the one that it was made from")
    if not _is_done(step, record):
        return State("begun")
    made = _digest_made(step)
    is_recorded = record is not None and record["made"] is not None
    if is_recorded and not JOBS[step.job].is_training and not record["made"].items() <= made.items():
        return State("outdated", "it no longer holds all files that the step made")
    # A training that is not the one of the record was done without a road, with settings of its own.
    is_other = is_recorded and record["made"] != made
    if record is None or record["settings"] != step.settings or is_other:
        _refuse_other_settings(step, record)
    return State("finished")


def record_begin(step: Step, road: list[Step]) -> None:
    """Record with what settings a step begins, and from what."""
    _write_record(step, road, made=None)


def record_end(step: Step, road: list[Step]) -> None:
    """Record what a step has made: now it is finished."""
    _write_record(step, road, made=_digest_made(step))


def is_recorded(step: Step) -> bool:
    """Return whether the record of a finished step is of what its folder holds and of its recipe."""
    record = _read_record(step)
    if record is None or record["settings"] != step.settings or record["made"] is None:
        return False
    return record["made"].items() <= _digest_made(step).items()


def set_aside(folder: Path) -> Path:
    """Rename an output folder whose content is outdated, so that nothing of it is lost; return its new name.

    `stage2` becomes `stage2.replaced`, or `stage2.replaced.2` if that is taken.
    """
    return folder.rename(free_path(folder.with_name(f"{folder.name}.replaced")))


def check_recipes(steps: list[Step]) -> None:
    """Check the keys and values of recipes, before hours are spent on the first of them.

    Raises:
        InputError: the first that is wrong, as the job itself would.
    """
    _in_new_process(_parse_all, steps)


def _in_new_process(function, *arguments):
    """Call a function in a process of its own, and return what it returns.

    transformers' arguments take hold of a GPU, and set environment variables for the whole process.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


def _parse_all(steps: list[Step]) -> None:
    """Parse recipes as their jobs do."""
    for step in steps:
        try:
            read_arguments(step)
        except InputError as error:
            raise InputError(f"step {step.job}: {error}") from error


def _changes(step: Step) -> dict[str, tuple]:
    """Return the settings with which a finished training's recipe would train another model now."""
    return changed_settings(read_arguments(step))


def _refuse_other_settings(step: Step, record: dict | None) -> None:
    """Refuse a finished step that was made with other settings than its recipe has now.

    A training is asked which settings its weights depend on; all count for the other jobs.

    Raises:
        InputError: it was.
    """
    if JOBS[step.job].is_training:
        changes = _in_new_process(_changes, step)
    elif record is None:
        return  # made without a road: nothing is known about it
    else:
        before = record["settings"]
        names = [name for name in {**before, **step.settings} if before.get(name) != step.settings.get(name)]
        changes = {name: (before.get(name), step.settings.get(name)) for name in names}
    for name, (before, now) in changes.items():
        line = f", line {step.lines[name]}" if name in step.lines else ""
        raise InputError(
            f"step {step.job} is finished in {step.output_dir} with {name} {before!r}, and recipe "
            f"{str(step.recipe)!r}{line} has {now!r}: delete the folder {str(step.output_dir)!r}, or give "
            "another output_dir"
        )


def _is_done(step: Step, record: dict | None) -> bool:
    """Return whether a job has ended in a step's folder, by what it leaves there, else by the record."""
    job = JOBS[step.job]
    if job.is_training:
        return has_finished(step.output_dir)
    if job.finished_by is not None:
        return (step.output_dir / job.finished_by).exists()
    # A download can be repeated, and fetches what is missing.
    has_made = record is not None and bool(record["made"])
    return has_made and record["made"].items() <= _digest_made(step).items()


def _has_pages(step: Step, record: dict) -> bool:
    """Return whether all files are there that a cheap job has made, which may have been edited since.

    Those of a model are compared with its checksums.
    """
    if not record["made"] or not record["made"].keys() <= _digest_made(step).keys():
        return False
    try:
        return not has_checksums(step.output_dir) or not find_damages(step.output_dir)
    except ValueError:  # the checksums themselves are damaged
        return False


def _digest_made(step: Step) -> dict[str, str]:
    """Return a digest of each file that a step has made, by name; of a large file its size."""
    digests = {}
    for path in sorted(step.output_dir.glob(JOBS[step.job].makes)):
        if path.is_file() and path.suffix != ".tmp":
            size = path.stat().st_size
            name = path.relative_to(step.output_dir).as_posix()
            digests[name] = content_digest(path) if size <= _READ_WHOLE else f"{size} bytes"
    return digests


def _changed_inputs(step: Step, record: dict | None, road: list[Step]) -> list[str]:
    """List the inputs of a step that are others than when it began; those of other settings are left out."""
    if record is None:
        return []
    now = _digest_inputs(step, road)
    return [name for name, digest in now.items() if record["inputs"].get(name, digest) != digest]


def _digest_inputs(step: Step, road: list[Step]) -> dict[str, str]:
    """Return a digest of each local input that is known: models, what steps made, lists beside the recipe."""
    digests = {}
    for name, value in step.settings.items():
        if name in _NO_INPUTS:
            continue
        for text in _texts_in(value):
            digest = _digest_input(text, step, road)
            if digest is not None:
                digests[text] = digest
    return digests


def _texts_in(value: object) -> Iterator[str]:
    """Yield the texts in a setting, which may be a list or a mapping."""
    if isinstance(value, str):
        yield value
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _texts_in(item)


def _digest_input(name: str, step: Step, road: list[Step]) -> str | None:
    """Return a digest of what a setting names; None if it names nothing that is known."""
    path = Path(name)
    try:
        exists = path.exists()
    except (OSError, ValueError):  # a text that is no name of a file
        return None
    if not name.strip() or not exists:
        return None
    if has_checksums(path):
        return hashlib.sha256((path / CHECKSUMS).read_bytes()).hexdigest()
    for other in road:
        is_earlier = list(JOBS).index(other.job) < list(JOBS).index(step.job)
        if is_earlier and path.resolve().is_relative_to(other.output_dir.resolve()):
            made = json.dumps(_digest_made(other))
            return hashlib.sha256(made.encode()).hexdigest()
    is_beside = path.resolve().is_relative_to(step.recipe.parent.resolve())
    if is_beside and path.suffix in (".yaml", ".yml"):
        listed = json.dumps(read_yaml(path, "list of sources"))  # without comments
        return hashlib.sha256(listed.encode()).hexdigest()
    return None


def record_path(step: Step) -> Path:
    """Return the file of a step's record."""
    folder = step.output_dir.resolve()
    return folder.parent / ".road" / f"{folder.name}.{step.job}.json"


def _read_record(step: Step) -> dict | None:
    """Return the record of a step; None if it has none.

    Raises:
        InputError: it is damaged.
    """
    path = record_path(step)
    if not path.is_file():
        return None
    record = read_json(path, "record of a step")
    is_record = isinstance(record, dict) and record.keys() == {"settings", "inputs", "made"}
    if not is_record or not isinstance(record["settings"], dict) or not isinstance(record["inputs"], dict):
        raise InputError(f"{path} is no record of step {step.job}: delete it, to take the step as it is")
    return record


def _write_record(step: Step, road: list[Step], made: dict[str, str] | None) -> None:
    """Write the record of a step."""
    record = {"settings": step.settings, "inputs": _digest_inputs(step, road), "made": made}
    path = record_path(step)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(record, ensure_ascii=False, indent=1) + "\n")


__all__ = [
    "State",
    "check_recipes",
    "find_state",
    "is_recorded",
    "record_begin",
    "record_end",
    "record_path",
    "set_aside",
]
