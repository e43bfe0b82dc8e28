"""Compare one text and one image at a time in torch, and in onnxruntime in float32 and int8, with one thread.

In torch they are compared twice: by transformers' own AltCLIP, and by ours, which on some processors
multiplies by another library (`modeling_altclip/linear_altclip.py`). Gains are over transformers.

The towers have the size of XLM-R base and CLIP's ViT-B/32, and random weights, on which time does not depend.
The vocabulary is small, since of its table one row is read for each token. Times are the processor's, not the
clock's: with one thread they are the same on an idle machine, and what else runs adds little to them. Compare
ratios, within one run.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import torch
import transformers

from common.processor import read_processor
from deploy.onnx.graphs import Tower, towers_of, write_graph
from deploy.onnx.quantizing import quantize
from deploy.onnx.runtime import open_session
from modeling_altclip import AltCLIPConfig, AltCLIPModel

_TEXT_BASE = {"vocab_size": 1000, "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
_VISION_BASE = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "patch_size": 32}
# Instructions that multiply 8-bit integers, without which int8 gains less.
_OF_INT8 = ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")


@dataclass(kw_only=True)
class _LatencyArguments:
    """The sizes of text and towers, and how often each is run."""

    tokens: int = field(default=20, metadata={"help": "Tokens of the text."})
    layers: int = field(default=12, metadata={"help": "Layers of each tower."})
    repeats: int = field(default=15, metadata={"help": "Forwards of each kind, of which the median counts."})


def main(given: _LatencyArguments) -> None:
    """Build both towers, time each in four ways, and print a table."""
    torch.set_num_threads(1)
    print(_describe_processor())
    columns = ["transformers", "ours", "onnx fp32", "onnx int8", "our gain", "fp32 gain", "int8 gain"]
    print(f"{'tower':<14}" + "".join(f"{column:>14}" for column in columns))

    model = _build(given.layers)
    theirs = _as_transformers_has_it(model)
    pixel_values = torch.randn(1, 3, 224, 224)
    of_theirs = towers_of(theirs, pixel_values, given.tokens)
    for tower, their_tower in zip(towers_of(model, pixel_values, given.tokens), of_theirs):
        times = _time_tower(tower, their_tower, _one_item(tower, given.tokens), given.repeats)
        in_ms = "".join(f"{1000 * seconds:>11.1f} ms" for seconds in times)
        gains = "".join(f"{times[0] / seconds:>13.1f}x" for seconds in times[1:])
        print(f"{tower.name:<14}{in_ms}{gains}")


def _build(n_layers: int) -> AltCLIPModel:
    """Build a model with towers of base size."""
    config = AltCLIPConfig(
        text_config={**_TEXT_BASE, "num_hidden_layers": n_layers, "project_dim": 768},
        vision_config={**_VISION_BASE, "num_hidden_layers": n_layers, "image_size": 224},
        projection_dim=512,
    )
    torch.manual_seed(0)
    return AltCLIPModel(config).eval()


def _as_transformers_has_it(model: AltCLIPModel) -> transformers.AltCLIPModel:
    """Return transformers' own AltCLIP with the same weights."""
    with TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return transformers.AltCLIPModel.from_pretrained(folder).eval()


def _one_item(tower: Tower, n_tokens: int) -> dict[str, torch.Tensor]:
    """Return the inputs of one text of `n_tokens` tokens, or of one image."""
    if tower.name == "vision_model":
        return {"pixel_values": torch.randn(1, 3, 224, 224)}
    return {
        "input_ids": torch.randint(5, 999, (1, n_tokens)),
        "attention_mask": torch.ones(1, n_tokens, dtype=torch.long),
    }


def _time_tower(
    tower: Tower, their_tower: Tower, inputs: dict[str, torch.Tensor], repeats: int
) -> list[float]:
    """Return the seconds of one forward by transformers, by ours, and in onnxruntime in float32 and int8."""
    arrays = {name: value.numpy() for name, value in inputs.items()}
    with TemporaryDirectory() as folder:
        paths = [Path(folder, f"{dtype}.onnx") for dtype in ("fp32", "int8")]
        write_graph(tower, paths[0])
        quantize(*paths, "int8", [arrays])
        sessions = [open_session(path, n_threads=1) for path in paths]

    @torch.inference_mode()
    def in_torch(module: torch.nn.Module) -> np.ndarray:
        return module(**inputs).numpy()

    forwards = [partial(in_torch, their_tower.module), partial(in_torch, tower.module)]
    forwards += [lambda session=session: session.run(None, arrays)[0] for session in sessions]
    # In turns, so that all of them meet the same load of the machine.
    rounds = []
    for _ in range(repeats + 1):
        rounds.append([_seconds_of(forward) for forward in forwards])
    return [median(times) for times in zip(*rounds[1:])]  # the first round warms up


def _seconds_of(forward: Callable[[], np.ndarray]) -> float:
    start = time.process_time()
    forward()
    return time.process_time() - start


def _describe_processor() -> str:
    """Name the processor and its instructions for 8-bit integers, as Linux does."""
    model, flags = read_processor()
    if not flags:
        return "The processor's instructions are not known on this system."
    found = [flag for flag in _OF_INT8 if flag in flags]
    has = f"has {', '.join(found)}" if found else "has no instructions for products of int8 (VNNI)"
    return f"{model or 'The processor'} {has}."
