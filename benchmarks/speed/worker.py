"""Run one side of a comparison: set it up, then repeat its work whenever a line arrives on standard input.

The line says what to tell of the repeat: `measure` its costs, or `count` its operations.

python -P benchmarks/speed/worker.py benchmarks/speed/rows/texts.py ours FOLDER '{"texts": 100}'

The side is a generator function of the file, called with the folder of its inputs and its shape. It yields a
function for each repeat. What it does before it yields is not measured, and the first function only warms up.
A function returns its results, `{name: array}`, which have to equal those of the other side.

This file imports none of our packages: see `rows/__init__.py`.
"""

import json
import os
import resource
import runpy
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

_KILOBYTE = 1024
# Of torchvision's compiled operators, those that its import needs.
_OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def main(file: str, side: str, folder: str, shape: str, torchvision: str | None = None) -> None:
    """Answer each line with the costs or the operations of a repeat, as a line of JSON.

    Args:
        torchvision: the folder of torchvision, for a side that needs it.
    """
    answers = _keep_standard_output()
    if torchvision is not None:
        operators = _use_torchvision(torchvision)  # noqa: F841  (forgotten as soon as nothing refers to them)
    repeats = runpy.run_path(file)[side](Path(folder), json.loads(shape))
    next(repeats)()
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        if line == "count\n":
            answer = {"operations": _count_operations(next(repeats))}
        else:
            answer, results = _measure(next(repeats))
            np.savez(Path(folder, f"{side}.npz"), **results)
        print(json.dumps(answer), file=answers, flush=True)


def _keep_standard_output():
    """Return standard output as a file of its own, and send what libraries print to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


def _use_torchvision(folder: str):
    """Make torchvision importable, whose operators do not fit a build of torch for CPUs.

    PyPI's torchvision is built for CUDA. Beside a torch for CPUs its import fails for two operators that
    nothing here calls; declared, they suffice. It is in a folder of its own, since transformers would use an
    installed one on all sides.
    """
    import torch

    sys.path.append(folder)
    operators = torch.library.Library("torchvision", "DEF")
    for signature in _OPERATORS:
        operators.define(signature)
    return operators


def _measure(work: Callable[[], dict]) -> tuple[dict[str, float | None], dict]:
    """Return the costs of some work, and its results.

    The costs are `cpu`, seconds of all threads of this process and of the processes that it has waited for;
    `wall`, seconds; and `memory`, bytes at the peak of this process above what it held before, which Linux
    alone tells (None elsewhere).
    """
    held = _forget_peak()
    cpu_before = _cpu_seconds()
    wall_before = time.perf_counter()
    results = work()
    wall = time.perf_counter() - wall_before
    cpu = _cpu_seconds() - cpu_before
    memory = None if held is None else _resident_bytes("VmHWM") - held
    return {"cpu": cpu, "wall": wall, "memory": memory}, results


def _count_operations(work: Callable[[], dict]) -> int:
    """Count the operations of the matrix products of some work, padding and gradients included."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

    def of_attention(query_shape, key_shape, value_shape, *_, **__) -> int:
        return sdpa_flop_count(query_shape, key_shape, value_shape)

    def of_its_gradient(gradient_shape, query_shape, key_shape, value_shape, *_, **__) -> int:
        return sdpa_backward_flop_count(gradient_shape, query_shape, key_shape, value_shape)

    # The counter knows attention on GPUs alone.
    on_cpu = {
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: of_attention,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: of_its_gradient,
    }
    with FlopCounterMode(display=False, custom_mapping=on_cpu) as counter:
        work()
    return counter.get_total_flops()


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(of.ru_utime + of.ru_stime for of in used)


def _forget_peak() -> int | None:
    """Let Linux forget this process's peak, and return the bytes that it holds now."""
    forget = Path("/proc/self/clear_refs")
    if not forget.exists():
        return None
    with forget.open("w") as file:
        file.write("5")
    return _resident_bytes("VmRSS")


def _resident_bytes(name: str) -> int:
    """Read this process's resident size (`VmRSS`), or its peak (`VmHWM`)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):  # "VmRSS:     1234 kB"
            return int(line.split()[1]) * _KILOBYTE
    raise ValueError(f"/proc/self/status has no {name}")


if __name__ == "__main__":
    main(*sys.argv[1:])
