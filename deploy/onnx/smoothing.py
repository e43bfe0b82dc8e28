"""Move outliers of a graph's activations into its weights before both become integers (SmoothQuant).

A linear layer computes the same from `input / s` and `weights * s`, whatever the factor `s` of each input
channel is. Rounding differs: with one scale for the whole input, a channel of large values leaves few steps
to all others, as some of every trained encoder do. Factors that divide such channels, and multiply their
weights, make both about as easy to round (Xiao et al. 2023, arXiv 2211.10438).
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.extras import of_extra

from .graphs import linear_layers, replace_content, save_graph
from .runtime import open_session

with of_extra("export"):
    import onnx
    from onnx import TensorProto, helper, numpy_helper

# 0 leaves all of the difficulty with the inputs, 1 gives it to the weights. Of 0.3 to 0.8 this kept the
# embeddings of multilingual-e5-small closest to float32.
_SHARE_OF_WEIGHTS = 0.7
_SMALLEST = 1e-5  # of a channel that no example uses


def smooth(source: Path, examples: Sequence[dict[str, np.ndarray]], scratch: Path) -> onnx.ModelProto:
    """Return a float32 graph whose linear layers divide their inputs by factors and have weights for them.

    Args:
        examples: inputs of the graph, from which the largest value of each channel is taken.
        scratch: path of a file that may be written and is left.
    """
    graph = onnx.load_model(source)
    layers = _layers_by_input(graph)
    if not layers:  # of convolutions alone
        return graph
    largest = _largest_inputs(graph, list(layers), examples, scratch)

    weights = {weight.name: weight for weight in graph.graph.initializer}
    for name, of_input in layers.items():
        plain = {layer.input[1]: numpy_helper.to_array(weights[layer.input[1]]) for layer in of_input}
        factors = _factors(largest[name], list(plain.values()))
        inverse = numpy_helper.from_array(1 / factors, f"{name}_inverse_factors")
        graph.graph.initializer.append(inverse)
        for layer in of_input:
            weight = plain[layer.input[1]] * factors[:, None]
            smoothed = numpy_helper.from_array(weight, f"{name}_{layer.input[1]}_smoothed")
            graph.graph.initializer.append(smoothed)
            layer.input[:] = [f"{name}_smoothed", smoothed.name]
    _divide_inputs(graph, list(layers))
    _remove_unused(graph, weights)
    return graph


def _layers_by_input(graph: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    """Return the linear layers by the name of what they read."""
    layers = {}
    for layer in linear_layers(graph.graph):
        layers.setdefault(layer.input[0], []).append(layer)
    return layers


def _largest_inputs(
    graph: onnx.ModelProto, names: list[str], examples: Sequence[dict[str, np.ndarray]], scratch: Path
) -> dict[str, np.ndarray]:
    """Run a graph, and return the largest absolute value of each channel of some of its tensors."""
    shown = onnx.ModelProto()
    shown.CopyFrom(graph)
    for name in names:
        shown.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    save_graph(shown, scratch)
    session = open_session(scratch, 0, None)
    largest = dict.fromkeys(names, 0.0)
    for example in examples:
        for name, values in zip(names, session.run(names, example), strict=True):
            of_example = np.abs(values).reshape(-1, values.shape[-1]).max(axis=0)
            largest[name] = np.maximum(largest[name], of_example)
    return largest


def _factors(largest: np.ndarray, weights: list[np.ndarray]) -> np.ndarray:
    """Return the factor of each channel of an input `(inputs,)`, float32, about 1 in the geometric mean.

    Args:
        largest: the largest value of each channel `(inputs,)`.
        weights: of all layers that read it, each `(inputs, outputs)`.
    """
    of_weights = np.max([np.abs(weight).max(axis=1) for weight in weights], axis=0)
    of_input = np.maximum(largest, _SMALLEST) ** _SHARE_OF_WEIGHTS
    factors = of_input / np.maximum(of_weights, _SMALLEST) ** (1 - _SHARE_OF_WEIGHTS)
    return (factors / np.exp(np.log(factors).mean())).astype(np.float32)


def _divide_inputs(graph: onnx.ModelProto, names: list[str]) -> None:
    """Add the node that divides each of these tensors, after the one that computes it."""
    divided = set(names)
    nodes = []
    for node in graph.graph.node:
        nodes.append(node)
        for name in node.output:
            if name in divided:
                inputs = [name, f"{name}_inverse_factors"]
                nodes.append(helper.make_node("Mul", inputs, [f"{name}_smoothed"]))
    replace_content(graph.graph.node, nodes)


def _remove_unused(graph: onnx.ModelProto, weights: dict[str, TensorProto]) -> None:
    """Remove weights that no node reads any more."""
    read = {name for node in graph.graph.node for name in node.input}
    for name, weight in weights.items():
        if name not in read:
            graph.graph.initializer.remove(weight)


__all__ = ["smooth"]
