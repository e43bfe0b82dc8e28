"""Quantize the weights of ONNX graphs to 8 or 4 bits, by onnxruntime."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from common.extras import of_extra

from .graphs import linear_layers, replace_content, save_graph
from .smoothing import smooth

# The third of these configures the logging of the whole process, unless it has a handler.
_HANDLER = logging.NullHandler()
logging.getLogger().addHandler(_HANDLER)
with of_extra("export"):
    import onnx
    from onnx import TensorProto, helper, numpy_helper
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
logging.getLogger().removeHandler(_HANDLER)

# Weights of so many inputs share a scale, as in transformers.js' own models.
_BLOCK_SIZE = 32
# The products are computed in 8-bit integers too, which is what makes them fast on a CPU.
_IN_INTEGERS = 4
_BITS = {"q8": 8, "q4": 4}


def quantize(source: Path, target: Path, dtype: str, examples: Sequence[dict[str, np.ndarray]]) -> None:
    """Quantize a float32 graph.

    In `int8` each output of a linear layer has a scale, and its whole input one that is found as it runs;
    outliers of inputs are moved into the weights before (see `smoothing`), and layers that narrow, the second
    of a feed-forward network, are quantized as in `q8`. In `q8` and `q4` each 32 weights have a scale, and
    each 32 values of the input. `int8` is faster, and `q8` closer to float32. Token embeddings have 8 bits
    and a scale for each token in all of them.

    Args:
        target: in a folder that may have other files of this graph afterwards.
        dtype: `int8`, `q8` or `q4`.
        examples: inputs of the graph, by which `int8` finds outliers.
    """
    prepared = target.with_name("prepared.onnx")
    if dtype == "int8":
        graph = smooth(source, examples, prepared)
    else:
        graph = onnx.load_model(source)
    _quantize_embeddings(graph)
    with _quiet():
        if dtype == "int8":
            graph = _quantize_in_blocks(graph, bits=8, left_out=_layers_that_do_not_narrow(graph))
            save_graph(graph, prepared)
            quantize_dynamic(
                prepared,
                target,
                op_types_to_quantize=["MatMul"],
                per_channel=True,
                weight_type=QuantType.QInt8,
            )
        else:
            save_graph(_quantize_in_blocks(graph, bits=_BITS[dtype], left_out=[]), target)


def _quantize_in_blocks(graph: onnx.ModelProto, *, bits: int, left_out: list[str]) -> onnx.ModelProto:
    """Quantize the weights of linear layers in blocks of their inputs, but for those of some nodes."""
    quantizer = MatMulNBitsQuantizer(
        graph,
        bits=bits,
        block_size=_BLOCK_SIZE,
        is_symmetric=True,
        accuracy_level=_IN_INTEGERS,
        nodes_to_exclude=left_out,
    )
    quantizer.process()
    return quantizer.model.model


def _layers_that_do_not_narrow(graph: onnx.ModelProto) -> list[str]:
    """Return the names of the linear layers with as many outputs as inputs, or more."""
    shapes = {weight.name: weight.dims for weight in graph.graph.initializer}
    names = []
    for layer in linear_layers(graph.graph):
        n_inputs, n_outputs = shapes[layer.input[1]]
        if n_outputs >= n_inputs:
            names.append(layer.name)
    return names


def _quantize_embeddings(model: onnx.ModelProto) -> None:
    """Give tables that rows are looked up in 8 bits and a scale for each row.

    onnxruntime's own quantizer gives a table one scale, by the largest value of all tokens, and loses several
    times as much. `Gather(table, rows)` becomes `Cast(Gather(integers, rows)) * Gather(scales, rows)`.
    """
    graph = model.graph
    weights = {weight.name: weight for weight in graph.initializer}
    nodes = []
    quantized = {}
    for node in graph.node:
        table = weights.get(node.input[0]) if node.op_type == "Gather" else None
        if table is None or table.data_type != TensorProto.FLOAT or len(table.dims) != 2:
            nodes.append(node)
            continue
        quantized[table.name] = table
        nodes += _look_up(table.name, *node.input[1:], *node.output)

    for table in quantized.values():
        integers, scales = _by_row(numpy_helper.to_array(table))
        graph.initializer.append(numpy_helper.from_array(integers, f"{table.name}_int8"))
        graph.initializer.append(numpy_helper.from_array(scales, f"{table.name}_scales"))
        graph.initializer.remove(table)
    replace_content(graph.node, nodes)


def _look_up(table: str, rows: str, output: str) -> list[onnx.NodeProto]:
    """Return the nodes that look up rows of a quantized table."""
    return [
        helper.make_node("Gather", [f"{table}_int8", rows], [f"{output}_int8"]),
        helper.make_node("Cast", [f"{output}_int8"], [f"{output}_integers"], to=TensorProto.FLOAT),
        helper.make_node("Gather", [f"{table}_scales", rows], [f"{output}_scales"]),
        helper.make_node("Mul", [f"{output}_integers", f"{output}_scales"], [output]),
    ]


def _by_row(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a table's integers `(rows, width)` and its scales `(rows, 1)`, whose products are its values."""
    largest = np.abs(table).max(axis=1, keepdims=True)
    scales = np.maximum(largest, np.finfo(np.float32).tiny) / 127
    return np.rint(table / scales).astype(np.int8), scales.astype(np.float32)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep onnxruntime from logging its advice to prepare graphs otherwise."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


__all__ = ["quantize"]
