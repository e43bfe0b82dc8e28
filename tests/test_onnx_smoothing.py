"""Outliers that are moved into weights before both are rounded, on a graph of two layers."""

import numpy as np
import pytest
from onnx import TensorProto, helper, load_model, numpy_helper, save_model
from onnxruntime import InferenceSession

from deploy.onnx.smoothing import smooth

WIDTH = 16
OUTLIER = 3


@pytest.fixture
def random():
    return np.random.default_rng(0)


@pytest.fixture
def weights(random):
    return {name: random.normal(size=(WIDTH, WIDTH)).astype(np.float32) for name in ("first", "second")}


@pytest.fixture
def inputs(random):
    """Return examples whose channel `OUTLIER` is a hundred times as large as the others."""
    values = random.normal(size=(5, 4, WIDTH)).astype(np.float32)
    values[..., OUTLIER] *= 100
    return [{"states": example} for example in values]


@pytest.fixture
def path(weights, tmp_path):
    """Return the path of a graph of two linear layers that read the same states."""
    nodes = [
        helper.make_node("Identity", ["states"], ["normed"]),
        helper.make_node("MatMul", ["normed", "first"], ["one"], name="one"),
        helper.make_node("MatMul", ["normed", "second"], ["two"], name="two"),
        helper.make_node("Add", ["one", "two"], ["sum"]),
    ]
    shape = ["rows", WIDTH]
    graph = helper.make_graph(
        nodes,
        "two layers",
        [helper.make_tensor_value_info("states", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("sum", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    save_model(model, tmp_path / "plain.onnx")
    return tmp_path / "plain.onnx"


def run(path, example):
    return InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, example)[0]


def rounded(states, weights):
    """Multiply in integers of 8 bits: one scale for the states, and one for each column of the weights."""
    scale = np.abs(states).max() / 127
    scales = np.abs(weights).max(axis=0) / 127
    return (np.rint(states / scale) * scale) @ (np.rint(weights / scales) * scales)


def test_a_smoothed_graph_computes_the_same(path, inputs, tmp_path):
    save_model(smooth(path, inputs, tmp_path / "scratch.onnx"), tmp_path / "smoothed.onnx")
    for example in inputs:
        expected = run(path, example)
        found = run(tmp_path / "smoothed.onnx", example)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    # Plain weights are not kept beside those that are read.
    names = {weight.name for weight in load_model(tmp_path / "smoothed.onnx").graph.initializer}
    assert names.isdisjoint({"first", "second"})


def test_smoothed_layers_lose_less_in_integers(path, inputs, weights, tmp_path):
    graph = smooth(path, inputs, tmp_path / "scratch.onnx").graph
    smoothed = {weight.name: numpy_helper.to_array(weight) for weight in graph.initializer}
    inverse = smoothed["normed_inverse_factors"]
    for name, weight in weights.items():
        plain_error = smoothed_error = 0
        for example in inputs:
            states = example["states"]
            expected = states @ weight
            plain_error += np.square(rounded(states, weight) - expected).sum()
            found = rounded(states * inverse, smoothed[f"normed_{name}_smoothed"])
            smoothed_error += np.square(found - expected).sum()
        assert smoothed_error < plain_error / 4, name


def test_a_channel_that_no_example_uses_stays_finite(path, inputs, tmp_path):
    for example in inputs:
        example["states"][:, 0] = 0
    graph = smooth(path, inputs, tmp_path / "scratch.onnx").graph
    for weight in graph.initializer:
        assert np.isfinite(numpy_helper.to_array(weight)).all(), weight.name


def test_a_graph_without_linear_layers_is_left_as_it_is(path, inputs, tmp_path):
    plain = load_model(path)
    del plain.graph.node[1:]
    plain.graph.node.append(helper.make_node("Relu", ["normed"], ["sum"]))
    save_model(plain, tmp_path / "relu.onnx")
    assert smooth(tmp_path / "relu.onnx", inputs, tmp_path / "scratch.onnx") == plain
