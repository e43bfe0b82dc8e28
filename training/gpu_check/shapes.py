"""Shapes of models, as data; models of these shapes with random weights, and batches that are made up."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch.nn.functional import normalize
from transformers import AutoConfig, AutoModel, PreTrainedModel

from common.files.yaml_files import read_yaml

_FILE = Path(__file__).with_name("shapes.yaml")
SIZES = ("full", "tiny")
_FIRST_WORD = 4  # token ids below it are special ones of XLM-R, 1 is its padding
_PADDING = 1


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The shape of a model and of its batches.

    Attributes:
        name: its key in `shapes.yaml`.
        title: how tables name it.
        batch_size: examples in a step of one process.
        pairs: pairs that parity is computed on.
        tokens: the least and the most tokens of a text; all lengths are equally frequent.
        config: the model's `config.json`, as far as it decides the shapes.
    """

    name: str
    title: str
    batch_size: int
    pairs: int
    tokens: list[int]
    config: dict


@cache
def read_shapes(size: str) -> list[Shape]:
    """Read the shapes of a size, `full` or `tiny`."""
    given = read_yaml(_FILE, "shapes")[size]
    return [Shape(name=name, **of_shape) for name, of_shape in given.items()]


def build_model(shape: Shape, device: str | torch.device, attention: str = "sdpa") -> PreTrainedModel:
    """Build the model of a shape; equal calls give equal random weights, on any device.

    Args:
        attention: the attention kernel, `eager` or `sdpa`.
    """
    kwargs = dict(shape.config)
    config = AutoConfig.for_model(kwargs.pop("model_type"), **kwargs)
    torch.manual_seed(0)
    model = AutoModel.from_config(config, attn_implementation=attention, trust_remote_code=False)
    return model.to(device)


def make_texts(shape: Shape, n_texts: int) -> dict[str, torch.Tensor]:
    """Make random texts of ragged lengths, padded on the right, as `Collator` returns distinct texts.

    Returns:
        `input_ids` and `attention_mask` `(texts, tokens)`; `text_rows` and `row_ids` `(texts,)`.
    """
    least, most = shape.tokens
    generator = torch.Generator().manual_seed(1)
    lengths = torch.linspace(least, most, n_texts).round()
    lengths = lengths[torch.randperm(n_texts, generator=generator)]
    attention_mask = (torch.arange(most) < lengths[:, None]).long()
    vocabulary = shape.config["text_config"]["vocab_size"]
    words = torch.randint(_FIRST_WORD, vocabulary, attention_mask.shape, generator=generator)
    rows = torch.arange(n_texts)
    input_ids = torch.where(attention_mask.bool(), words, _PADDING)
    return {"input_ids": input_ids, "attention_mask": attention_mask, "text_rows": rows, "row_ids": rows}


def make_pixels(shape: Shape, n_images: int) -> torch.Tensor:
    """Make images of noise, `(images, channels, height, width)`."""
    side = shape.config["vision_config"]["image_size"]
    return torch.randn(n_images, 3, side, side, generator=torch.Generator().manual_seed(2))


def make_embeddings(n_rows: int, dim: int) -> torch.Tensor:
    """Make random embeddings of unit length, `(rows, dim)`."""
    values = torch.randn(n_rows, dim, generator=torch.Generator().manual_seed(3))
    return normalize(values, dim=-1)


__all__ = ["SIZES", "Shape", "build_model", "make_embeddings", "make_pixels", "make_texts", "read_shapes"]
