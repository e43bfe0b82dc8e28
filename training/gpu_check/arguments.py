"""Arguments of `python -m training.gpu_check`."""

from dataclasses import dataclass, field

from common.errors import InputError

from .hardware import DEVICES
from .shapes import SIZES


@dataclass(kw_only=True)
class GpuCheckArguments:
    """What to check, and where the table goes.

    Raises:
        InputError: a value is out of range.
    """

    output_dir: str = field(
        default="outputs/gpu_check",
        metadata={"help": "Folder of the table: gpu_check.md, gpu_check.json and what each check printed."},
    )
    device: str | None = field(
        default=None,
        metadata={"help": "Kind of device: cuda (also AMD's GPUs), mps or cpu. By default the GPU."},
    )
    shapes: str = field(
        default="full",
        metadata={"help": "Size of the models: full, or tiny, which a CPU can compute."},
    )
    checks: list[str] | None = field(
        default=None,
        metadata={
            "help": "Names of checks, in which * stands for anything, such as altclip-stage1-*. By default "
            "all; --dry_run prints them."
        },
    )
    dry_run: bool = field(
        default=False, metadata={"help": "Print the names of the checks, and check nothing."}
    )
    steps: int = field(default=10, metadata={"help": "Number of timed steps of a stage."})
    own_process: bool = field(
        default=True,
        metadata={
            "help": "Do each check in a process of its own, so that none can end another, and all begin with "
            "the GPU's whole memory."
        },
    )
    time_limit: int = field(
        default=900, metadata={"help": "Seconds after which a process of a check is ended, and has failed."}
    )

    def __post_init__(self):
        if self.device not in (None, *DEVICES):
            raise InputError(f"device is {self.device!r}: choose from {', '.join(DEVICES)}")
        if self.shapes not in SIZES:
            raise InputError(f"shapes is {self.shapes!r}: choose from {', '.join(SIZES)}")
        for name in ("steps", "time_limit"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}: give a number from 1")


__all__ = ["GpuCheckArguments"]
