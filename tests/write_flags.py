"""Write `common/flags.json`, the flags of all jobs: `make flags`.

They are those of the parser that reads them, see `common.recipe`, for the version of transformers that is
installed.
"""

import json
import re
from importlib import import_module
from importlib.metadata import version

from altclip.command import _ROAD_JOB, JOBS
from common.flags import FLAGS_FILE, describe_flag
from common.launching import argument_types
from common.recipe import DataclassParser

from .conftest import ROOT

PACKAGES = ("benchmarks", "deploy", "model_cards", "training")


def launched_by_scripts():
    """Return the job of each script: `{"training/run_stage1.py": "training.jobs.stage1"}`."""
    jobs = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            call = re.search(r'^    launch\("(.*?)"', path.read_text("utf-8"), re.MULTILINE)
            if call:
                jobs[path.relative_to(ROOT).as_posix()] = call[1]
    return jobs


def all_jobs():
    """Return the modules of all jobs, of scripts and of the command `altclip`."""
    of_command = {job.module for job in [*JOBS.values(), _ROAD_JOB]}
    return sorted(of_command | set(launched_by_scripts().values()))


def make_table():
    """Return the table; a flag that several jobs have is there once, and one of several forms once for each.

    `{"transformers": "5.23.0", "jobs": {JOB: ["seed", "split 2"]}, "flags": {"seed": ..., "split 2": ...}}`
    """
    jobs, flags = {}, {}
    for job in all_jobs():
        parser = DataclassParser(*argument_types(import_module(job).main))
        of_fields = [action for action in parser._actions if action.dest != "help"]
        jobs[job] = [_name_of(describe_flag(action), flags) for action in of_fields]
    return {"transformers": version("transformers"), "jobs": jobs, "flags": flags}


def _name_of(entry, flags):
    """Return the name of a flag in the table, and enter it if it is new: `split`, then `split 2`."""
    name = plain = entry["spellings"][0].removeprefix("--")
    number = 1
    while flags.setdefault(name, entry) != entry:
        number += 1
        name = f"{plain} {number}"
    return name


def as_text(table):
    """Return the table as the file has it, in which each list of flags and each flag is a line."""
    lines = ["{", f' "transformers": {json.dumps(table["transformers"])},']
    for part in ("jobs", "flags"):
        entries = [
            f"  {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}"
            for key, value in table[part].items()
        ]
        lines.append(f' "{part}": {{\n' + ",\n".join(entries) + "\n }" + ("," if part == "jobs" else ""))
    return "\n".join([*lines, "}", ""])


if __name__ == "__main__":
    FLAGS_FILE.write_text(as_text(make_table()), "utf-8")
