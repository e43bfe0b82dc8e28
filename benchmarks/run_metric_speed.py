"""What exact retrieval metrics cost: ours against the functions of CLIP_benchmark, on the same random embeddings.

python benchmarks/run_metric_speed.py
python benchmarks/run_metric_speed.py --images 20000 --ours_alone
python benchmarks/run_metric_speed.py --images 500 --dim 64 --threads 2

Each runs in a process of its own, which reads the embeddings from a file: CPU seconds are those of all its threads, memory is its
largest resident size above what it held before (as Linux counts it). The recalls have to agree to 1e-6.
"""

import importlib.util
import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch.nn.functional import normalize

from benchmarks.metrics import retrieval_recall
from benchmarks.recipe import InputError, launch

KS = (1, 5, 10)


@dataclass(kw_only=True)
class SpeedArguments:
    """How many random embeddings, and on how many threads."""

    images: int = field(default=5000, metadata={"help": "Number of images."})
    texts_per_image: int = field(default=5, metadata={"help": "Texts of each image."})
    dim: int = field(default=512, metadata={"help": "Length of an embedding."})
    threads: int = field(default=1, metadata={"help": "Threads of either process."})
    batch_size: int = field(
        default=64, metadata={"help": "Queries that CLIP_benchmark takes at a time; 64 is its default."}
    )
    ours_alone: bool = field(
        default=False, metadata={"help": "Leave CLIP_benchmark out, whose memory grows with images x texts."}
    )


def main(arguments: SpeedArguments) -> None:
    """Measure one after the other, then compare."""
    if not arguments.ours_alone:
        clip_benchmark()  # what is missing shows before the work
    with tempfile.TemporaryDirectory() as folder:
        save_embeddings(Path(folder), arguments)
        print(
            f"{arguments.images} images x {arguments.images * arguments.texts_per_image} texts of {arguments.dim} values, both directions"
        )
        ours = measured("ours", ours_recall, folder, arguments)
        theirs = None if arguments.ours_alone else measured("CLIP_benchmark", their_recall, folder, arguments)
    if theirs:
        difference = max(abs(theirs["recall"][name] - value) for name, value in ours["recall"].items())
        ratios = " ".join(
            f"{name} 1/{theirs[name] / ours[name]:.1f}" for name in ("CPU s", "wall s", "extra MB")
        )
        print(f"ours of theirs: {ratios}; largest difference of a recall {difference:.1e}")
        if difference > 1e-6:
            raise InputError("the recalls differ by more than 1e-6: one of the two is wrong")


def save_embeddings(folder: Path, arguments: SpeedArguments) -> None:
    """Random unit vectors, and texts that lie near their images: about 40 % of them find theirs first among 5,000."""
    generator = torch.Generator().manual_seed(0)
    image_embeds = normalize(torch.randn(arguments.images, arguments.dim, generator=generator), dim=-1)
    text_to_image = torch.arange(arguments.images).repeat_interleave(arguments.texts_per_image)
    noise = torch.randn(len(text_to_image), arguments.dim, generator=generator)
    text_embeds = normalize(0.15 * image_embeds[text_to_image] + 0.05 * noise, dim=-1)
    for name, tensor in {
        "image_embeds": image_embeds,
        "text_embeds": text_embeds,
        "text_to_image": text_to_image,
    }.items():
        np.save(folder / f"{name}.npy", tensor.numpy())


def measured(name: str, recall, folder: str, arguments: SpeedArguments) -> dict:
    """`measure` in a fresh process, shown."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        cost = process.submit(measure, recall, folder, arguments).result()
    shown = " ".join(f"{cost[unit]:9.2f} {unit}" for unit in ("CPU s", "wall s", "extra MB"))
    print(f"{name:16}{shown}   mean recall {cost['recall']['mean_recall']:.6f}")
    return cost


def measure(recall, folder: str, arguments: SpeedArguments) -> dict:
    """The result of `recall` and its cost, after a warm-up on a few rows."""
    torch.set_num_threads(arguments.threads)
    embeds = [
        torch.from_numpy(np.load(Path(folder, f"{name}.npy")))
        for name in ("image_embeds", "text_embeds", "text_to_image")
    ]
    few = min(64, arguments.images)
    recall(
        embeds[0][:few],
        embeds[1][: few * arguments.texts_per_image],
        embeds[2][: few * arguments.texts_per_image],
        arguments,
    )
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    memory, wall, cpu = resident("VmRSS"), time.perf_counter(), time.process_time()
    scores = recall(*embeds, arguments)
    cost = {
        "CPU s": time.process_time() - cpu,
        "wall s": time.perf_counter() - wall,
        "extra MB": resident("VmHWM") - memory,
    }
    return cost | {"recall": scores}


def resident(name: str) -> float:
    """`VmRSS`, the resident size, or `VmHWM`, its peak, of this process in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def ours_recall(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    text_to_image: torch.Tensor,
    arguments: SpeedArguments,
) -> dict:
    return retrieval_recall(image_embeds, text_embeds, text_to_image, KS)


def their_recall(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    text_to_image: torch.Tensor,
    arguments: SpeedArguments,
) -> dict:
    """What `evaluate` of CLIP_benchmark does once it has the embeddings, by its functions."""
    theirs = clip_benchmark()
    scores = text_embeds @ image_embeds.t()
    positive = torch.zeros_like(scores, dtype=torch.bool)
    positive[torch.arange(len(scores)), text_to_image] = True
    recall = {}
    for direction, some, right in (
        ("text_to_image", scores, positive),
        ("image_to_text", scores.T, positive.T),
    ):
        for k in KS:
            found = theirs.batchify(theirs.recall_at_k, some, right, arguments.batch_size, "cpu", k=k)
            recall[f"{direction}_recall@{k}"] = (found > 0).double().mean().item()
    return recall | {"mean_recall": sum(recall.values()) / len(recall)}


def clip_benchmark() -> ModuleType:
    """Its retrieval metrics alone, read from their file: the package itself would import torchvision and open_clip."""
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


if __name__ == "__main__":
    launch(main, SpeedArguments, one_process=True)
