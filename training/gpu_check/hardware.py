"""The hardware and the versions that a table belongs to, and the peak speed of known GPUs."""

import platform
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch

from common.files.yaml_files import read_yaml
from common.output import format_bytes

_FILE = Path(__file__).with_name("peaks.yaml")
_LIBRARIES = ("torch", "transformers", "accelerate")
DEVICES = ("cuda", "mps", "cpu")


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """What the checks ran on.

    Attributes:
        name: of the GPU, or of the processor.
        n_devices: number of GPUs, or 1.
        memory: of one GPU, with its unit; None where it is the machine's own.
        peak: 16-bit operations a second, without sparsity; None if it is unknown.
        system: operating system and processor.
        versions: of libraries, Python and CUDA.
    """

    name: str
    n_devices: int
    memory: str | None
    peak: float | None
    system: str
    versions: dict[str, str]


def find_device() -> str | None:
    """Return the kind of GPU that torch can compute on, `cuda` (also AMD's) or `mps`; None without one."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return None if accelerator is None or accelerator.type not in DEVICES else accelerator.type


def describe_hardware(device: str) -> Hardware:
    """Describe this machine and the libraries."""
    versions = {name: version(name) for name in _LIBRARIES} | {"python": platform.python_version()}
    system = f"{platform.system()} {platform.machine()}"
    if device != "cuda":
        name = f"{device} ({platform.processor() or platform.machine()})"
        return Hardware(name=name, n_devices=1, memory=None, peak=None, system=system, versions=versions)
    runtime = {"CUDA": torch.version.cuda, "ROCm": torch.version.hip}
    versions |= {name: number for name, number in runtime.items() if number}
    name = torch.cuda.get_device_name()
    return Hardware(
        name=name,
        n_devices=torch.cuda.device_count(),
        memory=format_bytes(torch.cuda.get_device_properties().total_memory),
        peak=find_peak(name),
        system=system,
        versions=versions,
    )


@cache
def _peaks() -> list[dict]:
    return read_yaml(_FILE, "peaks")["gpus"]


def find_peak(name: str) -> float | None:
    """Return a GPU's peak of 16-bit operations a second by its name; None if `peaks.yaml` has none.

    Example:

    ```python
    >>> from training.gpu_check.hardware import find_peak

    >>> find_peak("NVIDIA H100 80GB HBM3"), find_peak("Tesla K80")
    (989000000000000.0, None)
    ```
    """
    words = name.lower()
    for gpu in _peaks():
        if all(word in words for word in gpu["words"]):
            return gpu["teraflops"] * 1e12
    return None


def synchronize(device: str) -> None:
    """Wait until the device has done its work; a CPU has."""
    if device != "cpu":
        torch.accelerator.synchronize()


__all__ = ["DEVICES", "Hardware", "describe_hardware", "find_device", "find_peak", "synchronize"]
