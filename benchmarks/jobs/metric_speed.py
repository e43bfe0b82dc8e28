"""Measure the cost of exact retrieval metrics: ours against the functions of CLIP_benchmark.

Both get the same random embeddings, and each runs in a process of its own, which reads them from a file. CPU
seconds are those of all its threads. Memory is its largest resident size above what it held before, as Linux
counts it. The recalls have to agree to 1e-6.
"""

import importlib.util
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch.nn.functional import normalize

from benchmarks.metrics import retrieval_recall
from common.errors import InputError

_KS = (1, 5, 10)
_UNITS = ("CPU s", "wall s", "extra MB")
_EMBEDDINGS = ("image_embeds", "text_embeds", "text_to_image")

# A function of image embeddings, text embeddings, `text_to_image` and the arguments, which returns recalls.
_Recall = Callable[..., dict[str, float]]


@dataclass(kw_only=True)
class _SpeedArguments:
    """Number of random embeddings, and of threads."""

    images: int = field(default=5000, metadata={"help": "Number of images."})
    texts_per_image: int = field(default=5, metadata={"help": "Number of texts of each image."})
    dim: int = field(default=512, metadata={"help": "Number of values of an embedding."})
    threads: int = field(default=1, metadata={"help": "Number of threads of either process."})
    batch_size: int = field(
        default=64,
        metadata={"help": "Number of queries that CLIP_benchmark ranks at a time; 64 is its default."},
    )
    ours_alone: bool = field(
        default=False, metadata={"help": "Leave CLIP_benchmark out, whose memory grows with images x texts."}
    )


def main(arguments: _SpeedArguments) -> None:
    """Measure both one after the other, then compare their recalls and costs."""
    if not arguments.ours_alone:
        _load_clip_benchmark()  # fails before the work if it is not installed
    n_texts = arguments.images * arguments.texts_per_image
    theirs = None
    with tempfile.TemporaryDirectory() as folder:
        _save_embeddings(Path(folder), arguments)
        print(f"{arguments.images} images x {n_texts} texts of {arguments.dim} values, both directions")
        ours = _measure_in_process("ours", _our_recall, folder, arguments)
        if not arguments.ours_alone:
            theirs = _measure_in_process("CLIP_benchmark", _their_recall, folder, arguments)
    if theirs is None:
        return

    our_recall = ours["recall"]
    their_recall = theirs["recall"]
    difference = max(abs(their_recall[name] - our_recall[name]) for name in our_recall)
    ratios = {unit: theirs[unit] / ours[unit] for unit in _UNITS}
    shares = " ".join(f"{unit} 1/{ratio:.1f}" for unit, ratio in ratios.items())
    print(f"ours / theirs: {shares}; largest difference in recall {difference:.1e}")
    if difference > 1e-6:
        raise InputError("the recalls differ by more than 1e-6: one of the two is wrong")


def _save_embeddings(folder: Path, arguments: _SpeedArguments) -> None:
    """Save random unit-length embeddings of images, and of texts that lie near their images.

    About 40 % of 25,000 texts find their image first among 5,000.
    """
    generator = torch.Generator().manual_seed(0)
    image_embeds = normalize(torch.randn(arguments.images, arguments.dim, generator=generator), dim=-1)
    text_to_image = torch.arange(arguments.images).repeat_interleave(arguments.texts_per_image)
    noise = torch.randn(len(text_to_image), arguments.dim, generator=generator)
    text_embeds = normalize(0.15 * image_embeds[text_to_image] + 0.05 * noise, dim=-1)
    for name, tensor in zip(_EMBEDDINGS, (image_embeds, text_embeds, text_to_image)):
        np.save(folder / f"{name}.npy", tensor.numpy())


def _measure_in_process(name: str, recall: _Recall, folder: str, arguments: _SpeedArguments) -> dict:
    """Call `_measure` in a fresh process and print the cost."""
    # Spawned and not forked: a copy of this process would hold its memory and its threads.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        cost = process.submit(_measure, recall, folder, arguments).result()
    columns = " ".join(f"{cost[unit]:9.2f} {unit}" for unit in _UNITS)
    print(f"{name:16}{columns}   mean recall {cost['recall']['mean_recall']:.6f}")
    return cost


def _measure(recall: _Recall, folder: str, arguments: _SpeedArguments) -> dict:
    """Return the result of `recall` and its cost by unit, after a warm-up on a few rows."""
    torch.set_num_threads(arguments.threads)
    image_embeds, text_embeds, text_to_image = (
        torch.from_numpy(np.load(Path(folder, f"{name}.npy"))) for name in _EMBEDDINGS
    )
    n_images = min(64, arguments.images)
    n_texts = n_images * arguments.texts_per_image
    recall(image_embeds[:n_images], text_embeds[:n_texts], text_to_image[:n_texts], arguments)

    Path("/proc/self/clear_refs").write_text("5")  # Linux forgets the peak so far
    memory_before = _resident_size("VmRSS")
    wall_start = time.perf_counter()
    cpu_start = time.process_time()
    scores = recall(image_embeds, text_embeds, text_to_image, arguments)
    return {
        "CPU s": time.process_time() - cpu_start,
        "wall s": time.perf_counter() - wall_start,
        "extra MB": _resident_size("VmHWM") - memory_before,
        "recall": scores,
    }


def _resident_size(name: str) -> float:
    """Read this process's resident size (`VmRSS`), or its peak (`VmHWM`), in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):  # "VmRSS:     1234 kB"
            return int(line.split()[1]) / 1024
    raise ValueError(f"/proc/self/status has no {name}")


def _our_recall(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    text_to_image: torch.Tensor,
    arguments: _SpeedArguments,
) -> dict:
    return retrieval_recall(image_embeds, text_embeds, text_to_image, _KS)


def _their_recall(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    text_to_image: torch.Tensor,
    arguments: _SpeedArguments,
) -> dict:
    """Do by the functions of CLIP_benchmark what its `evaluate` does once it has the embeddings."""
    theirs = _load_clip_benchmark()
    scores = text_embeds @ image_embeds.t()
    positive = torch.zeros_like(scores, dtype=torch.bool)
    positive[torch.arange(len(scores)), text_to_image] = True
    directions = {"text_to_image": (scores, positive), "image_to_text": (scores.T, positive.T)}

    recall = {}
    for direction, (queries, right) in directions.items():
        for k in _KS:
            found = theirs.batchify(theirs.recall_at_k, queries, right, arguments.batch_size, "cpu", k=k)
            # Found at all, as CLIP_benchmark counts it, where an image has several texts.
            recall[f"{direction}_recall@{k}"] = (found > 0).double().mean().item()
    return recall | {"mean_recall": sum(recall.values()) / len(recall)}


def _load_clip_benchmark() -> ModuleType:
    """Load its retrieval metrics alone from their file.

    The package itself would import torchvision and open_clip.

    Raises:
        InputError: CLIP_benchmark is not installed.
    """
    package = importlib.util.find_spec("clip_benchmark")
    if package is None:
        raise InputError(
            "CLIP_benchmark is not installed: pip install --no-deps clip-benchmark==1.6.2, or --ours_alone"
        )
    path = Path(package.submodule_search_locations[0], "metrics", "zeroshot_retrieval.py")
    spec = importlib.util.spec_from_file_location("clip_benchmark_retrieval", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
