"""List the checks of a device: steps of the stages, parity, and several processes."""

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial

from common.errors import InputError

from .arguments import GpuCheckArguments
from .hardware import Hardware
from .parity import compare_kernels, compare_losses, compare_with_cpu
from .processes import compare_processes
from .rows import Measured
from .shapes import Shape, read_shapes
from .stages import StageRun, measure_stage

# Precisions and switches of stage 1, and the fields of the arguments that set them.
_STAGE1 = {
    "float32": {},
    "bf16": {"bf16": True},
    "fp16": {"fp16": True},
    "bf16-compiled": {"bf16": True, "torch_compile": True},
    "bf16-checkpointing": {"bf16": True, "gradient_checkpointing": True},
}
_LOSS_PAIRS = {"full": 4096, "tiny": 64}


@dataclass(frozen=True, kw_only=True)
class Check:
    """A check: its name, on which model it is done, and what does it.

    Attributes:
        launcher: `python`, or what starts two processes: `torchrun`, or `fsdp2` for accelerate with
            `fsdp2.yaml`.
    """

    name: str
    shapes: str
    measure: Callable[[], Measured]
    launcher: str = "python"

    @property
    def n_processes(self) -> int:
        return 1 if self.launcher == "python" else 2


def list_checks(arguments: GpuCheckArguments, hardware: Hardware, device: str) -> list[Check]:
    """List the checks that were asked for.

    Raises:
        InputError: a pattern of `checks` fits none.
    """
    checks = []
    for shape in read_shapes(arguments.shapes):
        checks += _stage_checks(shape, arguments, hardware, device)
        checks += _kernel_checks(shape, device)
    n_pairs = _LOSS_PAIRS[arguments.shapes]
    loss_check = partial(compare_losses, n_pairs, device)
    checks.append(Check(name="parity-losses-tiled", shapes=f"{n_pairs} pairs", measure=loss_check))
    if device != "cpu":
        for shape in read_shapes("tiny"):
            against_cpu = partial(compare_with_cpu, shape, device)
            checks.append(Check(name=f"{shape.name}-parity-cpu", shapes=shape.title, measure=against_cpu))
    checks += _process_checks(arguments, hardware, device)

    if arguments.checks is None:
        return checks
    for pattern in arguments.checks:
        if not any(_is_chosen(check, [pattern]) for check in checks):
            raise InputError(f"checks has {pattern!r}, which is none of them: --dry_run prints them")
    return [check for check in checks if _is_chosen(check, arguments.checks)]


def _is_chosen(check: Check, patterns: list[str]) -> bool:
    """Return whether one of the patterns fits the name of a check."""
    return any(fnmatchcase(check.name, pattern) for pattern in patterns)


def _stage_checks(shape: Shape, arguments: GpuCheckArguments, hardware: Hardware, device: str) -> list[Check]:
    """List the steps of stages 1 and 2 on one GPU."""
    runs = []
    for name, settings in _STAGE1.items():
        if device == "cuda" or "fp16" not in settings:  # the Trainer scales float16 on these alone
            runs.append((f"stage1-{name}", "stage1", settings))
    chunk = shape.batch_size // 4
    in_chunks = {"bf16": True, "gradient_cache_chunk": chunk, "tile_size": chunk}
    runs += [
        ("stage2-bf16", "stage2", {"bf16": True}),
        ("stage2-bf16-gradient-cache", "stage2", in_chunks),
        ("stage2-cached-bf16", "stage2_cached", {"bf16": True}),
    ]
    checks = []
    for name, stage, settings in runs:
        run = StageRun(shape=shape, stage=stage, steps=arguments.steps, settings=settings)
        measure = partial(measure_stage, run, hardware, device)
        checks.append(Check(name=f"{shape.name}-{name}", shapes=shape.title, measure=measure))
    return checks


def _kernel_checks(shape: Shape, device: str) -> list[Check]:
    """List the comparisons with eager attention in float32 on the same device."""
    kernels = {"sdpa": {}, "compiled": {"compiles": True}, "bf16": {"bf16": True}}
    checks = []
    for name, switches in kernels.items():
        measure = partial(compare_kernels, shape, device, **switches)
        checks.append(Check(name=f"{shape.name}-parity-{name}", shapes=shape.title, measure=measure))
    return checks


def _process_checks(arguments: GpuCheckArguments, hardware: Hardware, device: str) -> list[Check]:
    """List what takes two processes, where there are two GPUs, or a CPU that they share."""
    if device != "cpu" and hardware.n_devices < 2:
        return []
    (small, *_) = read_shapes("tiny")
    measure = partial(compare_processes, small, device)
    checks = [Check(name="ddp-parity", shapes=small.title, measure=measure, launcher="torchrun")]
    launchers = {"ddp": "torchrun"}
    if device == "cuda":  # accelerate shards nothing on a CPU
        launchers["fsdp2"] = "fsdp2"
    for shape in read_shapes(arguments.shapes):
        for name, launcher in launchers.items():
            run = StageRun(shape=shape, stage="stage2_cached", steps=arguments.steps, settings={"bf16": True})
            measure = partial(measure_stage, run, hardware, device)
            name = f"{shape.name}-stage2-cached-bf16-{name}"
            checks.append(Check(name=name, shapes=shape.title, measure=measure, launcher=launcher))
    return checks


__all__ = ["Check", "list_checks"]
