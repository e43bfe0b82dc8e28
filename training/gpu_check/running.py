"""Do the checks one after the other, each in a process of its own, and write the table after each."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import torch

from common.errors import InputError
from common.files.whole_files import write_text
from common.output import check_output_dir
from common.processes import launched_processes

from .arguments import GpuCheckArguments
from .checks import Check, list_checks
from .hardware import describe_hardware, find_device
from .rows import Row, failed, guarded
from .table import describe, read_rows, write_rows

_NO_GPU = 2  # exit status
_FSDP2 = Path(__file__).parents[1] / "recipes/accelerate/fsdp2.yaml"


def main(arguments: GpuCheckArguments) -> None:
    """Do the checks, print each with what came of it, and write the table.

    Raises:
        InputError: a pattern of `checks` fits none, or the folder cannot be written.
        SystemExit: with status 2 if there is no such device, and 1 if a check has failed.
    """
    device = arguments.device or find_device()
    if device is None or device not in ("cpu", find_device()):
        print(
            "gpu_check: error: there is no GPU that torch can compute on: to try the checks on a CPU, "
            'make gpu-check FLAGS="--device cpu --shapes tiny"',
            file=sys.stderr,
        )
        sys.exit(_NO_GPU)
    hardware = describe_hardware(device)
    checks = list_checks(arguments, hardware, device)
    if arguments.dry_run:
        print("\n".join(check.name for check in checks))
        return
    n_visible = torch.cuda.device_count()
    if not arguments.own_process and launched_processes() == 1 and n_visible > 1:
        raise InputError(
            f"own_process is false, and a training in this process would take all {n_visible} GPUs: set "
            "CUDA_VISIBLE_DEVICES to one of them, or leave it out"
        )

    folder = Path(arguments.output_dir)
    check_output_dir(folder)
    folder.mkdir(parents=True, exist_ok=True)
    is_first = int(os.environ.get("RANK", "0")) == 0
    rows = []
    for number, check in enumerate(checks, 1):
        row = _do(check, arguments, device)
        rows.append(row)
        if is_first:
            print(f"[{number}/{len(checks)}] {check.name}: {describe(row)}", flush=True)
            write_rows(folder, hardware, rows)
    if is_first:
        _end(folder, rows)


def _do(check: Check, arguments: GpuCheckArguments, device: str) -> Row:
    """Do a check, in this process or in one of its own."""
    if arguments.own_process:
        return _in_own_process(check, arguments, device)
    if check.n_processes != launched_processes():
        return failed(check.name, check.shapes, f"it takes {check.n_processes} processes: set own_process")
    return guarded(check.name, check.shapes, check.measure)


def _end(folder: Path, rows: list[Row]) -> None:
    """Say where the table is, and end with status 1 if a check has failed."""
    n_failed = sum(row.failure is not None for row in rows)
    print(
        f"{len(rows) - n_failed} of {len(rows)} checks passed. Next: read {folder / 'gpu_check.md'}, and do "
        "what its last line says."
    )
    if n_failed:
        sys.exit(1)


def _in_own_process(check: Check, arguments: GpuCheckArguments, device: str) -> Row:
    """Do a check in a process of its own, or in two, which write their row into a folder of the check."""
    folder = Path(arguments.output_dir, "checks", check.name)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gpu_check.json").unlink(missing_ok=True)
    flags = {
        "output_dir": folder,
        "device": device,
        "shapes": arguments.shapes,
        "checks": check.name,
        "steps": arguments.steps,
        "own_process": "false",
    }
    command = [*_launcher(check), "-m", __package__]
    for name, value in flags.items():
        command += [f"--{name}", str(value)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | _visible(check)
    )
    try:
        printed, _ = process.communicate(timeout=arguments.time_limit)
    except subprocess.TimeoutExpired:
        _kill(process)
        printed, _ = process.communicate()
        write_text(folder / "log.txt", printed)
        return failed(check.name, check.shapes, f"it has not ended after {arguments.time_limit} s")
    write_text(folder / "log.txt", printed)
    rows = read_rows(folder)
    if rows:
        return rows[0]
    reason = f"its process ended with status {process.returncode}, see {folder / 'log.txt'}"
    return failed(check.name, check.shapes, reason)


def _launcher(check: Check) -> list[str]:
    """Return the words that start a module in the processes of a check."""
    launchers = {
        "python": [sys.executable],
        "torchrun": [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"],
        "fsdp2": [sys.executable, "-m", "accelerate.commands.launch", "--quiet"]
        + ["--config_file", str(_FSDP2), "--num_processes", "2"],
    }
    return launchers[check.launcher]


def _visible(check: Check) -> dict[str, str]:
    """Let a check of one process see one GPU: the Trainer would take all."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES", "0")
    return {"CUDA_VISIBLE_DEVICES": given.split(",")[0]} if check.n_processes == 1 else {}


def _kill(process: subprocess.Popen) -> None:
    """Kill a process and those that it has started: a launcher would leave its own running."""
    started = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    for child in started:
        child.kill()


__all__ = ["main"]
