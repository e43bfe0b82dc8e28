"""Arrange an exported folder as immich reads a model of open_clip.

What immich expects is in its sources (`machine-learning/immich_ml/models/clip/textual.py` and `visual.py`):

- `textual/model.onnx` is given `text`, int32 `(1, context_length)`, padded; `visual/model.onnx` is given
  `image`, float32 `(1, 3, size, size)`. The first output of both is the embedding, `(1, dim)`.
- `textual/tokenizer.json` is loaded by tokenizers; `tokenizer_config.json` beside it has the `pad_token`, and
  `config.json` above both the `context_length` in `text_cfg`.
- `visual/preprocess_cfg.json` has `size`, `interpolation`, `mean` and `std`: pictures are resized by their
  shortest edge and cropped in the middle.
"""

import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image
from tokenizers import Tokenizer

from common.errors import InputError
from common.extras import of_extra

from .folder import write_json
from .graphs import replace_content, save_graph
from .joining import load_tower
from .runtime import path_of

with of_extra("export"):
    import onnx
    from onnx import TensorProto, helper, numpy_helper

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
_PREPARATION = "preprocessor_config.json"


def check_readable(folder: Path, record: dict) -> None:
    """See that immich prepares texts and pictures as a folder's files state it, before towers are written.

    Args:
        folder: has the files of tokenizer and image processor.
        record: what `begin_record` returns.

    Raises:
        InputError: it does not.
    """
    _read_preparation(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    if _pad_id(tokenizer, record) in tokenizer.encode("a").ids:
        raise InputError(
            f"the tokenizer pads with {record['pad_token']!r}, which is in texts too: immich gives no "
            "attention mask, from which the model could tell the two apart"
        )
    if record["truncation_side"] != "right":
        raise InputError("the tokenizer truncates on the left, and immich on the right: set truncation_side")


def arrange(folder: Path, dtype: str, record: dict) -> None:
    """Turn an exported folder into one that immich reads.

    Args:
        folder: in the layout of transformers.js, with this number format.
        record: what `begin_record` returns.
    """
    textual = folder / "textual"
    visual = folder / "visual"
    textual.mkdir()
    visual.mkdir()
    preparation = _read_preparation(folder)
    pad_id = _pad_id(Tokenizer.from_file(str(folder / "tokenizer.json")), record)
    _write_textual(path_of(folder, "text_model", dtype), textual / "model.onnx", pad_id)
    _write_visual(path_of(folder, "vision_model", dtype), visual / "model.onnx")

    for name in _TOKENIZER_FILES:
        (folder / name).replace(textual / name)
    write_json(visual / "preprocess_cfg.json", preparation)
    configuration = {
        "embed_dim": record["projection_dim"],
        "vision_cfg": {"image_size": preparation["size"][0]},
        "text_cfg": {"context_length": record["text_length"]},
    }
    write_json(folder / "config.json", configuration)
    (folder / _PREPARATION).unlink()
    shutil.rmtree(folder / "onnx")


def _read_preparation(folder: Path) -> dict:
    """Return the content of `preprocess_cfg.json` from the settings of an image processor.

    Raises:
        InputError: immich has no such steps.
    """
    settings = json.loads((folder / _PREPARATION).read_text("utf-8"))
    crop = settings.get("crop_size") or {}
    sizes = {settings["size"].get("shortest_edge"), crop.get("height"), crop.get("width")}
    does = all(settings.get(f"do_{step}") for step in ("resize", "center_crop", "rescale", "normalize"))
    if not does or len(sizes) > 1 or not np.isclose(settings["rescale_factor"], 1 / 255):
        raise InputError(
            f"the image processor has size {settings['size']} and crop_size {crop or None}: immich resizes "
            "pictures by their shortest edge to the size of the model, and crops them in the middle, as CLIP"
        )
    return {
        "size": [crop["height"], crop["width"]],
        "mode": "RGB",
        "mean": settings["image_mean"],
        "std": settings["image_std"],
        "interpolation": Image.Resampling(settings["resample"]).name.lower(),
        "resize_mode": "shortest",
    }


def _pad_id(tokenizer: Tokenizer, record: dict) -> int:
    return tokenizer.token_to_id(record["pad_token"])


def _write_textual(source: Path, target: Path, pad_id: int) -> None:
    """Write the text tower with int32 token ids as its input, from which it finds its attention mask."""
    model = load_tower(source)
    graph = model.graph
    tokens = helper.make_tensor_value_info("text", TensorProto.INT32, ["texts", "tokens"])
    graph.initializer.append(numpy_helper.from_array(np.array(pad_id, np.int64), "pad_id"))
    nodes = [
        helper.make_node("Cast", ["text"], ["input_ids"], to=TensorProto.INT64),
        helper.make_node("Equal", ["input_ids", "pad_id"], ["is_padding"]),
        helper.make_node("Not", ["is_padding"], ["is_token"]),
        helper.make_node("Cast", ["is_token"], ["attention_mask"], to=TensorProto.INT64),
        *graph.node,
    ]
    replace_content(graph.node, nodes)
    replace_content(graph.input, [tokens])
    _add_unit_output(graph)
    save_graph(model, target)


def _write_visual(source: Path, target: Path) -> None:
    """Write the image tower with `image` as its input."""
    model = load_tower(source)
    graph = model.graph
    (pixels,) = graph.input
    graph.node.insert(0, helper.make_node("Identity", ["image"], [pixels.name]))
    pixels.name = "image"
    _add_unit_output(graph)
    save_graph(model, target)


def _add_unit_output(graph: onnx.GraphProto) -> None:
    """Scale the embedding to unit length, as immich's own models do, under the name of their output."""
    (output,) = graph.output
    graph.node.append(helper.make_node("LpNormalization", [output.name], ["embedding"], axis=-1, p=2))
    output.name = "embedding"


__all__ = ["arrange", "check_readable"]
