"""Print what becomes of hostile inputs: `python -m tests.hostile`.

A row for each kind: what happens, the seconds that it takes, and by how many MB the memory grows at most, in
a process of its own.
"""

import base64
import resource
import sys
import tempfile
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from PIL import Image
from transformers import CLIPImageProcessor

from benchmarks.results import format_table, path_of
from benchmarks.tasks.templates import load_templates
from modeling_altclip import AltCLIPProcessor
from modeling_altclip.languages_altclip import name_languages
from modeling_altclip.prompts_altclip import read_templates
from training.miniature.scenes import read_concepts
from training.miniature.vocabulary import train_multilingual_tokenizer

from .test_bounds import header_of_png, jpeg_of


def build_processor() -> AltCLIPProcessor:
    """Return a processor with a tokenizer of XLM-R's kind, trained on a few words."""
    texts = []
    for words in read_concepts()["languages"].values():
        texts += words["names"]
    size = {"height": 224, "width": 224}
    return AltCLIPProcessor(
        CLIPImageProcessor(size=size, crop_size=size), train_multilingual_tokenizer(texts, 1500)
    )


def kinds(folder: Path) -> dict[str, Callable[[AltCLIPProcessor], object]]:
    """Return what is tried, by its name; files are made in a folder."""
    photo = folder / "photo.jpg"
    photo.write_bytes(jpeg_of(4000, 3000))
    (folder / "large.jpg").write_bytes(jpeg_of(15_000, 10_000))
    Image.new("1", (13_000, 13_000)).save(folder / "bomb.png")
    (folder / "line.png").write_bytes(header_of_png(1, 400_000))
    bomb = base64.b64encode((folder / "bomb.png").read_bytes()).decode()
    return {
        "a word of 10 MB": lambda process: process(text="x" * 10_000_000),
        "10 MB of spaces": lambda process: process(text=" " * 10_000_000),
        "10 MB of unknown letters": lambda process: process(text="𓀀" * 10_000_000),
        "10 MB of words": lambda process: process(text="dog " * 2_500_000),
        "PNG of 13,000 x 13,000": lambda process: process(images=str(folder / "bomb.png")),
        "the same in base64": lambda process: process(images=bomb),
        "PNG of 1 x 400,000": lambda process: process(images=str(folder / "line.png")),
        "JPEG of 150 megapixels": lambda process: process(images=str(folder / "large.jpg")),
        "32 photos of 12 megapixels": lambda process: process(images=[str(photo)] * 32),
        "array of objects": lambda process: process(images=np.empty((8, 8, 3), dtype=object)),
        "tensor without values": lambda process: process(images=torch.empty(3, 8, 8, device="meta")),
        "template {:>2000000000}": lambda process: read_templates("{:>2000000000}"),
        "template {0.format}": lambda process: load_templates("{0.format}", "en"),
        "language /../../pwned": lambda process: name_languages(["/../../pwned"]),
        "task ../../pwned": lambda process: path_of(Path("out"), "org/model", "../../pwned", "en"),
        "model of 1 MB": lambda process: path_of(Path("out"), "x" * 1_000_000, "pairs", "en").name,
    }


def measure(attempt: Callable, processor: AltCLIPProcessor, queue) -> None:
    """Put the outcome of an attempt, its seconds and its MB into a queue."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = perf_counter()
    try:
        result = attempt(processor)
        outcome = str(result) if isinstance(result, Path | str) else "read"
    except Exception as error:
        outcome = f"{type(error).__name__}: {error}"
    seconds = perf_counter() - start
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # in kB on Linux
    queue.put([outcome[:110], f"{seconds:.2f}", str(grown // 1000)])


def main() -> None:
    torch.set_num_threads(1)
    context = get_context("fork")
    processor = build_processor()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, attempt in kinds(Path(folder)).items():
            queue = context.Queue()
            process = context.Process(target=measure, args=(attempt, processor, queue))
            process.start()
            rows.append([name, *queue.get()])
            process.join()
    sys.stdout.write(format_table(["input", "what happens", "seconds", "MB"], rows) + "\n")


if __name__ == "__main__":
    main()
