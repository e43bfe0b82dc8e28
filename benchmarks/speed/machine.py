"""Describe the machine and the versions that a comparison ran on."""

import json
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path

import torch

from common.errors import InputError
from common.processor import read_processor

from .side_by_side import Turns, worker_environment

# Those that decide how fast matrix products are; others are left out.
_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "avx_vnni", "amx_tile", "amx_bf16", "amx_int8")
_PACKAGES = (
    "torch transformers tokenizers numpy pillow datasets accelerate sentence-transformers open_clip_torch "
    "clip-benchmark mteb onnxruntime timm altclip"
).split()
# What torch uses in a worker, and the rate of its matrix products of float32, which are most of the work:
# operations in a CPU second, of all threads together, in billions. `torch.mm` is by MKL on x86, oneDNN is the
# other library that torch may have. The product is of the size that layers have.
_TELL_TORCH = """
import json, time, torch

rows, square = torch.ones(2048, 3072), torch.ones(3072, 3072)

def by_mm():
    torch.mm(rows, square)

def by_onednn():
    torch.ops.mkldnn._linear_pointwise(rows, square, None, "none", [], "")

def rate_of(product):
    product()
    begin = time.process_time()
    for _ in range(5):
        product()
    return 5 * 2 * 2048 * 3072**2 / (time.process_time() - begin) / 1e9

libraries = {"torch.mm": by_mm}
if torch.backends.mkldnn.is_available():
    libraries["oneDNN"] = by_onednn
rates = {name: rate_of(product) for name, product in libraries.items()}
print(json.dumps({"capability": torch.backends.cpu.get_cpu_capability(), "matrix_rates": rates}))
"""


def describe_machine(turns: Turns) -> dict:
    """Return a description for JSON: processor, instructions, cores, load, threads, versions, our commit."""
    model, flags = read_processor()
    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "processor": model,
        "flags": [flag for flag in _FLAGS if flag in flags],
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "system": platform.platform(),
        "gpu": cuda,
        "threads": turns.threads,
        "isa": turns.isa,
        "python": platform.python_version(),
        "versions": _versions(),
        "commit": _commit(),
    } | tell_torch(turns)


def tell_torch(turns: Turns) -> dict:
    """Return what torch uses in the environment of the workers: `capability` and `matrix_rates`.

    Raises:
        InputError: its process ends in an error.
    """
    command = [sys.executable, "-P", "-c", _TELL_TORCH]
    process = subprocess.run(
        command, env=worker_environment(turns), capture_output=True, text=True, check=False
    )
    if process.returncode != 0:
        raise InputError(f"torch does not start in the environment of the workers: {process.stderr.strip()}")
    return json.loads(process.stdout)


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
