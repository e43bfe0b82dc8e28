"""Compare what two runs of a job wrote, byte for byte, apart from times and from how often it was resumed."""

import hashlib
import json
from pathlib import Path

import torch

# Seconds that steps took and numbers made of them; and the Trainer's mean loss, which is of the steps since
# the last resume, divided by the number of all steps.
OF_ONE_CALL = ("_runtime", "_per_second", "_time", "train_loss")
# Files that are compared without what may differ, so that their checksums may differ too.
LOOSELY_COMPARED = ("trainer_state.json", "run.json", "training_args.bin")


def contents(folder: Path, but: str | None = None) -> dict[str, str]:
    """Return `{path: digest}` of all files below a folder, and `{path/: ""}` of its folders.

    Not of `datasets`, the caches of the library: their names have random parts. And not of the file `but`.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name.split("/")[0] == "datasets" or name == but:
            continue
        if path.is_dir():
            found[f"{name}/"] = ""
        else:
            found[name] = hashlib.blake2b(_comparable(path), digest_size=16).hexdigest()
    return found


def differences(found: dict[str, str], expected: dict[str, str]) -> list[str]:
    """Name the files that are missing, that are too many, and that have other bytes."""
    lines = [f"missing {name}" for name in sorted(expected.keys() - found.keys())]
    lines += [f"left behind {name}" for name in sorted(found.keys() - expected.keys())]
    for name in sorted(found.keys() & expected.keys()):
        if found[name] != expected[name]:
            lines.append(f"other bytes in {name}")
    return lines


def _comparable(path: Path) -> bytes:
    """Return the bytes of a file without what may differ between an uninterrupted run and a resumed one."""
    if path.name == "trainer_state.json":
        return _without_calls(path)
    if path.name == "run.json":
        record = json.loads(path.read_text("utf-8"))
        record.pop("resumed_on", None)  # which machines went on with the run
        return json.dumps(record).encode()
    if path.name == "training_args.bin":
        arguments = torch.load(path, weights_only=False).to_dict()
        del arguments["resume"]  # a flag of the second run
        return repr(arguments).encode()
    if path.name == "checksums.json":
        return _without_loosely_compared(path)
    return path.read_bytes()


def _without_loosely_compared(path: Path) -> bytes:
    checksums = json.loads(path.read_text("utf-8"))
    for name in LOOSELY_COMPARED:
        checksums["files"].pop(name, None)
    return json.dumps(checksums).encode()


def _without_calls(path: Path) -> bytes:
    state = json.loads(path.read_text("utf-8"))
    history = []
    for entry in state["log_history"]:
        history.append({name: value for name, value in entry.items() if not name.endswith(OF_ONE_CALL)})
    return json.dumps(state | {"log_history": history}).encode()
