"""Measure a step that trains projections alone: both towers cached, and both live, at base size.

The towers are XLM-R base and ViT-B/32, with random weights; nothing is downloaded. Both ways take turns, on
the same pairs and from the same weights, which are compared after each step. A step is forward, backward and
an update by SGD, on one thread. With the cache it also reads and collates a batch; live, pixels and tokens
are there already. With `--live false` the towers have one layer, since no step runs them, and the widths of
base size. The memory is the largest that the process has held, libraries included, with two batches of the
cache, as a loader holds them. Pages of the cache's files count as long as they are mapped; they are named by
themselves, since the system takes them back where it needs memory.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import torch
from datasets import Dataset
from transformers import CLIPVisionConfig, XLMRobertaConfig

from benchmarks.results import format_table
from common.embedding_cache import CachedColumn, cached_column
from modeling_altclip import AltCLIPDualEncoderConfig, AltCLIPDualEncoderModel
from training.arguments import ContrastiveArguments
from training.data.examples import CachedCollator, CaptionExamples
from training.freezing import freeze_all_but
from training.trainers import ContrastiveTrainer

_TRAINABLE = ["visual_projection", "text_projection", "logit_scale"]
_ENCODED = 32  # pairs that pass the towers at once before the measurement
_LEARNING_RATE = 0.1


@dataclass(kw_only=True)
class _CostArguments:
    """What to measure."""

    batch_size: int = field(default=256, metadata={"help": "Number of pairs in a batch."})
    tokens: int = field(default=14, metadata={"help": "Number of tokens of a caption."})
    tile_size: int | None = field(
        default=None, metadata={"help": "Number of rows and columns of logits that are in memory at a time."}
    )
    gradient_cache_chunk: int | None = field(
        default=None, metadata={"help": "Number of pairs whose projections are in memory at a time."}
    )
    cache_dtype: str = field(
        default="float32", metadata={"help": "Data type of the cached outputs: float32 or float16."}
    )
    live: bool = field(default=True, metadata={"help": "Also measure a step that runs both towers."})
    repeats: int = field(
        default=3, metadata={"help": "Number of steps of each way, of which the fastest counts."}
    )


def main(arguments: _CostArguments) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = _build_model(n_layers=12 if arguments.live else 1)
    freeze_all_but(model, _TRAINABLE)
    with tempfile.TemporaryDirectory() as folder:
        pairs = _draw_pairs(arguments) if arguments.live else None
        trainer = _make_trainer(model, _cache(model, pairs, arguments, folder), arguments, folder)
        steps = {"cached": _CachedBatches(trainer, arguments.batch_size).step}
        if arguments.live:
            steps["live"] = partial(_loss, trainer, pairs)
        measured = _measure(steps, model, arguments.repeats)
        _print_seconds(measured, arguments)
        _print_memory()


def _build_model(n_layers: int) -> AltCLIPDualEncoderModel:
    """Build XLM-R base beside ViT-B/32, with random weights."""
    vocab_size = 250002 if n_layers > 1 else 10
    text = XLMRobertaConfig(vocab_size=vocab_size, num_hidden_layers=n_layers)
    text.max_position_embeddings = 514
    text.type_vocab_size = 1
    # CLIPVisionConfig's own values are those of ViT-B/32.
    vision = CLIPVisionConfig(num_hidden_layers=n_layers)
    config = AltCLIPDualEncoderConfig(text_config=text, vision_config=vision)
    return AltCLIPDualEncoderModel(config).eval()  # without dropout, as frozen towers run in training


def _draw_pairs(arguments: _CostArguments) -> dict[str, torch.Tensor]:
    """Draw a batch of random images and texts."""
    n_pairs = arguments.batch_size
    size = (n_pairs, arguments.tokens)
    return {
        "input_ids": torch.randint(4, 250000, size),  # below 4 are special tokens
        "attention_mask": torch.ones(size, dtype=torch.long),
        "text_rows": torch.arange(n_pairs),
        "row_ids": torch.arange(n_pairs),
        "pixel_values": torch.randn(n_pairs, 3, 224, 224),
    }


def _cache(
    model: AltCLIPDualEncoderModel,
    pairs: dict[str, torch.Tensor] | None,
    arguments: _CostArguments,
    folder: str,
) -> CaptionExamples:
    """Cache the towers' outputs of the pairs; without pairs, random values for two batches."""
    n_rows = arguments.batch_size if pairs is not None else 2 * arguments.batch_size
    texts = [str(number) for number in range(n_rows)]
    rows = Dataset.from_dict({"captions": [{"en": text} for text in texts], "image_pooler_output": texts})
    encoders = {"text_pooler_output": _random_outputs, "image_pooler_output": _random_outputs}
    if pairs is not None:
        encoders["text_pooler_output"] = partial(_outputs_of_texts, model, pairs)
        encoders["image_pooler_output"] = partial(_outputs_of_images, model, pairs)

    columns = {}
    for name, encode in encoders.items():
        columns[name] = _cache_column(name, texts, encode, arguments.cache_dtype, folder)
    examples = CaptionExamples(rows, ["en"], "image_pooler_output", inputs=columns["image_pooler_output"])
    return examples.with_texts(columns["text_pooler_output"])


def _cache_column(name: str, texts: list[str], encode: Callable, dtype: str, folder: str) -> CachedColumn:
    def encode_rows(rows: np.ndarray, view: int) -> torch.Tensor:
        parts = np.split(rows, range(_ENCODED, len(rows), _ENCODED))
        with torch.inference_mode():
            return torch.cat([encode(torch.from_numpy(part)) for part in parts])

    keys = pa.array(texts, pa.large_string())
    made_by = {"weights": "random"}
    return cached_column(name, "text", keys, encode_rows, made_by, cache_dir=folder, dtype=dtype)


def _random_outputs(rows: torch.Tensor) -> torch.Tensor:
    return torch.randn(len(rows), 768)


def _outputs_of_texts(
    model: AltCLIPDualEncoderModel, pairs: dict[str, torch.Tensor], rows: torch.Tensor
) -> torch.Tensor:
    ids = pairs["input_ids"][rows]
    return model.text_model(input_ids=ids, attention_mask=pairs["attention_mask"][rows]).pooler_output


def _outputs_of_images(
    model: AltCLIPDualEncoderModel, pairs: dict[str, torch.Tensor], rows: torch.Tensor
) -> torch.Tensor:
    return model.vision_model(pixel_values=pairs["pixel_values"][rows]).pooler_output


def _make_trainer(
    model: AltCLIPDualEncoderModel, examples: CaptionExamples, arguments: _CostArguments, folder: str
) -> ContrastiveTrainer:
    given = ContrastiveArguments(
        model_name_or_path="",
        dataset="",
        output_dir=str(Path(folder, "run")),
        trainable=_TRAINABLE,
        tile_size=arguments.tile_size,
        gradient_cache_chunk=arguments.gradient_cache_chunk,
        use_cpu=True,
    )
    return ContrastiveTrainer(model=model, args=given, train_dataset=examples, data_collator=CachedCollator())


class _CachedBatches:
    """Steps on cached pairs; the next batch is read while one is in memory, as a loader does."""

    def __init__(self, trainer: ContrastiveTrainer, batch_size: int):
        self.trainer = trainer
        self.batch_size = batch_size
        self.n_read = 0
        self.batch = self.read()

    def read(self) -> dict[str, torch.Tensor]:
        examples = self.trainer.train_dataset
        first = self.n_read * self.batch_size % len(examples)
        self.n_read += 1
        return self.trainer.data_collator(examples.__getitems__(range(first, first + self.batch_size)))

    def step(self) -> torch.Tensor:
        batch = self.batch
        self.batch = self.read()
        return _loss(self.trainer, batch)


def _loss(trainer: ContrastiveTrainer, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    model = trainer.model.train()  # as the Trainer does at each step
    return trainer.compute_loss(model, dict(batch))


@dataclass
class _Way:
    """What was measured of a way to take a step, one figure a step, and its weights."""

    weights: dict[str, torch.Tensor]
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def _measure(
    steps: dict[str, Callable[[], torch.Tensor]], model: AltCLIPDualEncoderModel, repeats: int
) -> dict[str, _Way]:
    """Take steps of each way in turn, so that a busy machine slows all alike."""
    learning = {name: value for name, value in model.named_parameters() if value.requires_grad}
    optimizer = torch.optim.SGD(learning.values(), lr=_LEARNING_RATE)
    start = {name: value.detach().clone() for name, value in learning.items()}
    ways = {way: _Way(start) for way in steps}
    for number in range(1, repeats + 1):
        for way, step in steps.items():
            _copy(ways[way].weights, learning)
            wall_before = time.perf_counter()
            cpu_before = time.process_time()
            step().backward()
            optimizer.step()
            optimizer.zero_grad()
            ways[way].wall.append(time.perf_counter() - wall_before)
            ways[way].cpu.append(time.process_time() - cpu_before)
            ways[way].weights = {name: value.detach().clone() for name, value in learning.items()}
        if "live" in ways:
            _print_difference(ways, start, number)
    return ways


@torch.no_grad()
def _copy(weights: dict[str, torch.Tensor], learning: dict[str, torch.Tensor]) -> None:
    for name, value in weights.items():
        learning[name].copy_(value)


def _print_difference(ways: dict[str, _Way], start: dict[str, torch.Tensor], number: int) -> None:
    """Print how far the weights of both ways are apart, next to how far they have moved."""
    cached = ways["cached"].weights
    live = ways["live"].weights
    apart = max((cached[name] - live[name]).abs().max().item() for name in start)
    moved = max((live[name] - start[name]).abs().max().item() for name in start)
    print(f"After step {number} no weight differs by more than {apart:.1e}; one has moved by {moved:.1e}.")


def _print_seconds(ways: dict[str, _Way], arguments: _CostArguments) -> None:
    rows = []
    for way, measured in ways.items():
        rows.append([way, f"{1000 * min(measured.wall):.1f}", f"{1000 * min(measured.cpu):.1f}"])
    print(format_table([f"step of {arguments.batch_size} pairs", "ms", "ms of CPU"], rows))
    if "live" in ways:
        wall = min(ways["live"].wall) / min(ways["cached"].wall)
        cpu = min(ways["live"].cpu) / min(ways["cached"].cpu)
        print(f"Cached towers take {wall:.0f} times the steps in a second ({cpu:.0f} by CPU time).")


def _print_memory() -> None:
    """Print the most memory that this process has held, where Linux tells."""
    status = Path("/proc/self/status")
    if not status.exists():
        return
    (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
    largest = int(line.split()[1]) * 1024 / 1e6  # "VmHWM:     123456 kB"
    maps = psutil.Process().memory_maps()
    of_cache = sum(mapped.rss for mapped in maps if mapped.path.endswith(".arrow")) / 1e6
    print(f"The process has held {largest:.0f} MB at most, of which {of_cache:.0f} MB were mapped files.")
