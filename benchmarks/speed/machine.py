"""Describe the machine and the versions that a comparison ran on."""

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path

import torch

# Those that decide how fast matrix products are; others are left out.
_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "avx_vnni", "amx_tile", "amx_bf16", "amx_int8")
_PACKAGES = (
    "torch transformers tokenizers numpy pillow datasets accelerate sentence-transformers open_clip_torch "
    "clip-benchmark mteb onnxruntime timm altclip"
).split()
_CPU_INFO = Path("/proc/cpuinfo")


def describe_machine(threads: int) -> dict:
    """Return a description for JSON: processor, cores, load, threads, versions and our commit."""
    model, flags = _processor()
    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "processor": model,
        "flags": flags,
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "system": platform.platform(),
        "gpu": cuda,
        "threads": threads,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "versions": _versions(),
        "commit": _commit(),
    }


def _processor() -> tuple[str, list[str]]:
    """Return the processor's name and those of its flags that matter; Linux tells them."""
    if not _CPU_INFO.exists():
        return platform.processor(), []
    lines = _CPU_INFO.read_text().splitlines()
    # "model name\t: AMD EPYC"; ARM has "Features" in place of "flags".
    values = dict(line.replace("\t", "").split(": ", 1) for line in lines if ": " in line)
    flags = values.get("flags", values.get("Features", "")).split()
    return values.get("model name", platform.processor()), [flag for flag in _FLAGS if flag in flags]


def _versions() -> dict[str, str]:
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "none"
    # In a folder of its own: see `worker.py`.
    for found in distributions(name="torchvision", path=[str(Path(sys.prefix, "torchvision"))]):
        versions["torchvision"] = found.version
    return versions


def _commit() -> str | None:
    """Return the commit of a clone; None where there is none."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return said.stdout.strip() or None
