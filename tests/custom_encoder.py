"""A small text encoder of a type that transformers does not know, whose folder brings its code."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

MARKER = """
from pathlib import Path

Path({marker!r}).touch()
"""
CONFIGURATION = """
from transformers import PretrainedConfig


class PebbleConfig(PretrainedConfig):
    model_type = "pebble"

    def __init__(self, vocab_size=4000, hidden_size=16, hidden_dropout_prob=0.1, n_steps=1, **kwargs):
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.hidden_dropout_prob = hidden_dropout_prob
        self.n_steps = n_steps
        super().__init__(**kwargs)
"""
# A file that only the model's file imports.
LAYERS = """
import torch
from torch import nn


class Mixing(nn.Module):
    def __init__(self, width, dropout):
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, states, mask):
        mean = (states * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True)
        return states + self.dropout(torch.tanh(self.linear(states + mean)))
"""
MODELING = """
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from .configuration_pebble import PebbleConfig
from .layers_pebble import Mixing


class PebbleModel(PreTrainedModel):
    config_class = PebbleConfig

    def __init__(self, config):
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        steps = [Mixing(config.hidden_size, config.hidden_dropout_prob) for _ in range(config.n_steps)]
        self.layers = nn.ModuleList(steps)
        self.post_init()

    def _init_weights(self, module):
        if isinstance(module, (nn.Linear, nn.Embedding)):
            module.weight.data.normal_(0, 0.2)

    def get_input_embeddings(self):
        return self.embeddings

    def set_input_embeddings(self, value):
        self.embeddings = value

    def forward(self, input_ids=None, attention_mask=None, **kwargs):
        states = self.embeddings(input_ids)
        mask = attention_mask[..., None].to(states.dtype)
        for layer in self.layers:
            states = layer(states, mask)
        return BaseModelOutput(last_hidden_state=states)
"""
CODE = {
    "configuration_pebble.py": CONFIGURATION,
    "layers_pebble.py": LAYERS,
    "modeling_pebble.py": MODELING,
}
AUTO_MAP = {"AutoConfig": "configuration_pebble.PebbleConfig", "AutoModel": "modeling_pebble.PebbleModel"}
WIDTH = 16


def save_custom_encoder(folder: Path, tokenizer, marker: Path, auto_map: dict = AUTO_MAP) -> Path:
    """Write the folder of the encoder, each of whose files writes `marker` when its code runs."""
    folder.mkdir()
    tokenizer.save_pretrained(folder)
    for name, code in CODE.items():
        (folder / name).write_text(MARKER.format(marker=str(marker)) + code)
    # `n_steps` is not the default of its class, `hidden_size` is.
    config = {"model_type": "pebble", "vocab_size": 4000, "n_steps": 2, "auto_map": auto_map}
    (folder / "config.json").write_text(json.dumps(config))

    draw = torch.Generator().manual_seed(0)
    weights = {"embeddings.weight": torch.randn(4000, WIDTH, generator=draw)}
    for step in range(2):
        weights[f"layers.{step}.linear.weight"] = torch.randn(WIDTH, WIDTH, generator=draw) / 4
        weights[f"layers.{step}.linear.bias"] = torch.zeros(WIDTH)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
