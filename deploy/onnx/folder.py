"""Write the folder of an exported model, in the layout of transformers.js."""

import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm
from transformers import ProcessorMixin

from common.errors import InputError
from common.files.whole_files import write_text
from common.fingerprints import hash_weights
from modeling_altclip import AltCLIPModel
from modeling_altclip.texts_altclip import forget_calls, text_length

from .graphs import EXTERNAL, OPSET, external_files, towers_of, write_graph
from .joining import join_towers
from .quantizing import quantize
from .runtime import RECORD, TOWERS, path_of

_LIBRARIES = ("torch", "transformers", "onnx", "onnxruntime")


def write_settings(folder: Path, model: AltCLIPModel, processor: ProcessorMixin) -> None:
    """Write the configuration, and the files of the tokenizer and the image processor.

    Both state what `embed_texts` does with texts: tokenizers of XLM-R state 512 tokens, where CLIPs read 77.

    Raises:
        InputError: the tokenizer has no `tokenizer.json`.
    """
    tokenizer = processor.tokenizer
    if not tokenizer.is_fast:
        raise InputError(
            f"a {type(tokenizer).__name__} is written in Python and has no tokenizer.json: it cannot be "
            "exported"
        )
    forget_calls(tokenizer)
    tokenizer.save_pretrained(folder)
    # Loaded from the files of the Hub, a tokenizer may do other steps than those of their tokenizer.json.
    write_text(folder / "tokenizer.json", tokenizer.backend_tokenizer.to_str())
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text("utf-8")) | {"model_max_length": text_length(tokenizer, model)}
    write_json(path, settings)

    processor.image_processor.save_pretrained(folder)
    path = folder / "preprocessor_config.json"
    settings = json.loads(path.read_text("utf-8"))
    settings.pop("auto_map", None)
    write_json(path, settings)
    configuration = json.loads(model.config.to_json_string())
    configuration.pop("auto_map", None)
    write_json(folder / "config.json", configuration)


def begin_record(name: str, model: AltCLIPModel, processor: ProcessorMixin) -> dict:
    """Return what `altclip_export.json` says before anything is measured: what `runtime` reads, and versions.

    Args:
        name: of the model.
    """
    tokenizer = processor.tokenizer
    bias = model.logit_bias
    return {
        "model": name,
        "weights": hash_weights(model),
        "opset": OPSET,
        "versions": {library: version(library) for library in _LIBRARIES},
        "projection_dim": model.config.projection_dim,
        "logit_scale": model.logit_scale.exp().item(),
        "logit_bias": None if bias is None else bias.item(),
        "text_length": text_length(tokenizer, model),
        "truncation_side": tokenizer.truncation_side,
        "pad_token": tokenizer.pad_token,
    }


def write_record(folder: Path, record: dict) -> None:
    """Write `altclip_export.json`."""
    write_json(folder / RECORD, record)


def write_towers(
    folder: Path,
    model: AltCLIPModel,
    processor: ProcessorMixin,
    dtypes: Sequence[str],
    examples: dict[str, list[dict[str, np.ndarray]]],
) -> None:
    """Write both towers in float32 and in the other formats.

    Args:
        examples: inputs by tower, see `examples_of`, which `int8` alone needs.

    Raises:
        InputError: the image tower reads more than pixels.
    """
    (folder / "onnx").mkdir()
    towers = towers_of(model, _example_pixels(processor), text_length(processor.tokenizer, model))
    others = [dtype for dtype in dtypes if dtype != "fp32"]
    with tqdm(total=len(towers) * (1 + len(others)), desc="Exporting", unit="graph") as bar:
        for tower in towers:
            source = path_of(folder, tower.name, "fp32")
            write_graph(tower, source)
            bar.update()
            for dtype in others:
                target = path_of(folder, tower.name, dtype)
                if dtype == "fp16":
                    write_graph(tower, target, half=True)
                else:
                    _quantize_elsewhere(source, target, dtype, examples.get(tower.name, []))
                bar.update()
    _tell_of_external_files(folder)


def write_joint_graphs(folder: Path, dtypes: Sequence[str], logit_scale: float) -> None:
    """Write both towers as one graph in each format, `onnx/model.onnx` and so on."""
    for dtype in dtypes:
        text_path, vision_path = [path_of(folder, tower, dtype) for tower in TOWERS]
        join_towers(text_path, vision_path, path_of(folder, "model", dtype), logit_scale)
    _tell_of_external_files(folder)


def remove_towers(folder: Path, dtype: str) -> None:
    """Remove a format, with its files of weights, that was made to derive others from."""
    for tower in TOWERS:
        path = path_of(folder, tower, dtype)
        path.unlink()
        path.with_name(path.name + EXTERNAL).unlink(missing_ok=True)
    _tell_of_external_files(folder)


def _quantize_elsewhere(
    source: Path, target: Path, dtype: str, examples: Sequence[dict[str, np.ndarray]]
) -> None:
    """Quantize a graph through a folder of its own: onnxruntime leaves files of steps between there."""
    with TemporaryDirectory(dir=target.parent.parent) as folder:
        made = Path(folder, target.name)
        quantize(source, made, dtype, examples)
        for path in made.parent.glob(f"{made.name}*"):
            path.replace(target.with_name(path.name))


def _example_pixels(processor: ProcessorMixin) -> torch.Tensor:
    """Prepare one image.

    Raises:
        InputError: the image processor returns more than pixel values.
    """
    image = Image.fromarray(np.full((64, 64, 3), 128, np.uint8))
    inputs = processor.image_processor(images=[image], return_tensors="pt")
    if list(inputs) != ["pixel_values"]:
        raise InputError(
            f"the image tower reads {', '.join(inputs)}, and transformers.js' CLIP pixel_values alone: a "
            "model whose images keep their shape (NaFlex) cannot be exported"
        )
    return inputs["pixel_values"]


def _tell_of_external_files(folder: Path) -> None:
    """Write into config.json which graphs have a file of weights, which transformers.js does not look for."""
    files = external_files(folder / "onnx")
    path = folder / "config.json"
    configuration = json.loads(path.read_text("utf-8"))
    configuration.pop("transformers.js_config", None)
    if files:
        number_of_files = {file.name.removesuffix(EXTERNAL): 1 for file in files}
        configuration["transformers.js_config"] = {"use_external_data_format": number_of_files}
    write_json(path, configuration)


def write_json(path: Path, content: dict) -> None:
    """Write a file of settings."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


__all__ = [
    "begin_record",
    "remove_towers",
    "write_joint_graphs",
    "write_json",
    "write_record",
    "write_settings",
    "write_towers",
]
