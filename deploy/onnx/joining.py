"""Join both towers in one graph, which scores pictures against texts."""

from pathlib import Path

import numpy as np

from common.extras import of_extra

from .graphs import save_graph

with of_extra("export"):
    import onnx
    from onnx import TensorProto, compose, helper, numpy_helper

# Outputs of a tower -> the name of its batch, which is one axis no more once towers are joined.
_BATCHES = {"text_embeds": "texts", "image_embeds": "images"}


def join_towers(text_path: Path, vision_path: Path, target: Path, logit_scale: float) -> None:
    """Write a graph with the inputs of both towers and the outputs of transformers.js' `CLIPModel`.

    These are `logits_per_image` `(images, texts)`, `logits_per_text` `(texts, images)` and the embeddings of
    both towers, as the projections give them.

    Args:
        text_path, vision_path: the graphs of the towers, in one number format.
        logit_scale: what cosines are multiplied with.
    """
    text = load_tower(text_path)
    vision = load_tower(vision_path)
    graph = compose.merge_graphs(text.graph, vision.graph, io_map=[])
    _add_logits(graph, logit_scale)

    opsets = {opset.domain: opset for opset in (*text.opset_import, *vision.opset_import)}
    joint = helper.make_model(
        graph,
        opset_imports=list(opsets.values()),
        ir_version=text.ir_version,
        functions=[*text.functions, *vision.functions],
    )
    save_graph(joint, target)


def load_tower(path: Path) -> onnx.ModelProto:
    """Load a tower whose names are its own: of nodes, of values between them, and of its batch.

    Other nodes can then be added, and the other tower, whose inputs and outputs are named otherwise.
    """
    model = onnx.load_model(path)
    output = model.graph.output[0].name
    model = compose.add_prefix(model, f"{output}/", rename_inputs=False, rename_outputs=False)
    graph = model.graph
    for value in (*graph.input, *graph.output, *graph.value_info):
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param == "batch":
                axis.dim_param = _BATCHES[output]
    return model


def _add_logits(graph: onnx.GraphProto, logit_scale: float) -> None:
    """Add the scaled cosines of all images and all texts."""
    graph.initializer.append(numpy_helper.from_array(np.array(logit_scale, np.float32), "logit_scale"))
    graph.node.extend(
        [
            helper.make_node("LpNormalization", ["text_embeds"], ["text_units"], axis=-1, p=2),
            helper.make_node("LpNormalization", ["image_embeds"], ["image_units"], axis=-1, p=2),
            helper.make_node("Transpose", ["text_units"], ["text_columns"], perm=[1, 0]),
            helper.make_node("MatMul", ["image_units", "text_columns"], ["cosines"]),
            helper.make_node("Mul", ["cosines", "logit_scale"], ["logits_per_image"]),
            helper.make_node("Transpose", ["logits_per_image"], ["logits_per_text"], perm=[1, 0]),
        ]
    )
    shapes = {"logits_per_image": ["images", "texts"], "logits_per_text": ["texts", "images"]}
    for name, shape in shapes.items():
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))


__all__ = ["join_towers", "load_tower"]
