"""Write the towers of a model as ONNX graphs, by `torch.onnx.export`."""

import logging
import warnings
from collections.abc import Iterable, MutableSequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from common.extras import of_extra
from modeling_altclip import AltCLIPModel

with of_extra("export"):
    import onnx
    import onnxscript  # noqa: F401  (torch.onnx.export needs it)

# What onnxruntime has run since 2024, in browsers too, and all that the graphs need.
OPSET = 18
# A file of protobuf holds 2 GB. Weights of larger graphs lie next to it, as transformers.js looks for them.
_LARGEST_FILE = 1_900_000_000  # bytes
EXTERNAL = "_data"  # text_model.onnx -> text_model.onnx_data


class _TextTower(nn.Module):
    """The text side of a model, from tokens to the embeddings that the projection gives."""

    def __init__(self, model: AltCLIPModel):
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        features = self.model.get_text_features(input_ids=input_ids, attention_mask=attention_mask)
        return features.pooler_output.float()


class _VisionTower(nn.Module):
    """The image side of a model, from pixels to the embeddings that the projection gives."""

    def __init__(self, model: AltCLIPModel):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        # Inputs and outputs are float32 in every format, as transformers.js gives and takes them.
        features = self.model.get_image_features(pixel_values=pixel_values.to(self.model.dtype))
        return features.pooler_output.float()


@dataclass(frozen=True)
class Tower:
    """A tower as it is exported, with the names that transformers.js' `CLIP...ModelWithProjection` expect.

    Attributes:
        name: of the file, without its ending.
        output: name of the output, `(batch, projection_dim)`.
        inputs: example inputs, by name.
        axes: names of the axes that may have any length, by input and number.
    """

    name: str
    output: str
    module: nn.Module
    inputs: dict[str, torch.Tensor]
    axes: dict[str, dict[int, str]]


def towers_of(model: AltCLIPModel, pixel_values: torch.Tensor, text_length: int) -> list[Tower]:
    """Return both towers of a model in eval mode.

    Args:
        pixel_values: of one image, as the processor gives them, `(1, 3, height, width)`.
        text_length: the most tokens of a text.
    """
    # Two texts of two lengths: a batch of one, or one without padding, could be taken for the only case.
    attention_mask = torch.ones(2, min(6, text_length), dtype=torch.long)
    attention_mask[1, -1] = 0
    padding = model.config.get_text_config().pad_token_id or 0
    input_ids = torch.where(attention_mask.bool(), padding + 1, padding)
    any_text = {0: "batch", 1: "tokens"}
    return [
        Tower(
            "text_model",
            "text_embeds",
            _TextTower(model).eval(),
            {"input_ids": input_ids, "attention_mask": attention_mask},
            {"input_ids": any_text, "attention_mask": any_text},
        ),
        Tower(
            "vision_model",
            "image_embeds",
            _VisionTower(model).eval(),
            {"pixel_values": pixel_values.repeat(2, 1, 1, 1)},
            {"pixel_values": {0: "batch"}},
        ),
    ]


def write_graph(tower: Tower, path: Path, *, half: bool = False) -> None:
    """Trace a tower and write its graph.

    Args:
        half: compute in float16.
    """
    module = deepcopy(tower.module).half() if half else tower.module
    # It warns of what it has no operator for (torchvision's), and of names of axes that are the same axis.
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"), torch.no_grad():
            program = torch.onnx.export(
                module,
                kwargs=tower.inputs,
                dynamo=True,
                opset_version=OPSET,
                output_names=[tower.output],
                dynamic_shapes=tower.axes,
                verbose=False,
            )
    finally:
        exporter.setLevel(level)
    save_graph(program.model_proto, path)


def save_graph(graph: onnx.ModelProto, path: Path) -> None:
    """Save a graph as one file, or with its weights in a second one where they are too large for one."""
    n_bytes = sum(len(weight.raw_data) for weight in graph.graph.initializer)
    is_too_large = n_bytes > _LARGEST_FILE
    onnx.save_model(
        graph,
        path,
        save_as_external_data=is_too_large,
        all_tensors_to_one_file=True,
        location=path.name + EXTERNAL,
    )


def linear_layers(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Return the products with weights `(inputs, outputs)`, which are each node's second input."""
    weights = {weight.name for weight in graph.initializer}
    return [node for node in graph.node if node.op_type == "MatMul" and node.input[1] in weights]


def replace_content(field: MutableSequence, values: Iterable) -> None:
    """Replace the content of a repeated field, such as the nodes of a graph."""
    kept = list(values)  # which may be in the field now
    del field[:]
    field.extend(kept)


def external_files(folder: Path) -> Iterable[Path]:
    """Return the files of weights that lie next to a graph."""
    return sorted(folder.glob(f"*.onnx{EXTERNAL}"))


__all__ = [
    "EXTERNAL",
    "OPSET",
    "Tower",
    "external_files",
    "linear_layers",
    "replace_content",
    "save_graph",
    "towers_of",
    "write_graph",
]
