"""Folders of models and checkpoints: damaged, with code, with weights that are no numbers."""

import builtins
import json
import math
import shutil
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import pipeline

from common.models.loading import load_model
from modeling_altclip import AltCLIPModel
from modeling_altclip.checksums_altclip import write_checksums

from ..conftest import ROOT
from ..newest_checkpoint import newest_undamaged
from ..test_checksums import flip, halve
from ..test_not_finite import spoil_file
from ..test_pipeline import without_a_weight
from ..test_remote_code import AUTO_MAP, CODE
from .place import Place, Row

MODEL = ROOT / "tests/fixtures/v0.1.0/model"
WEIGHTS = "model.safetensors"


def rows(place: Place) -> list[Row]:
    return [*_damaged(place), *_with_code(place), *_not_finite(place), *_checkpoints(place)]


def _copy(place: Place) -> Path:
    return Path(shutil.copytree(MODEL, place.new_folder() / "model"))


def _damaged(place: Place) -> list[Row]:
    half = _copy(place)
    halve(half / WEIGHTS)
    flipped = _copy(place)
    write_checksums(flipped)
    flip(flipped / WEIGHTS)
    lacking = _copy(place)
    without_a_weight(lacking)
    serve = partial(pipeline, "zero-shot-image-classification", model=str(lacking))
    return [
        Row("half of the weights' file", partial(load_model, str(half)), "cannot be loaded"),
        Row("a bit flipped in the weights", partial(load_model, str(flipped)), "is not as it was saved"),
        Row("a weight is missing", partial(load_model, str(lacking)), "missing: text_projection.weight"),
        Row("a weight is missing, in a pipeline", serve, "missing: text_projection.weight"),
    ]


class _Intruder:
    """Pickle calls what `__reduce__` names."""

    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self):
        return self.canary.write_text, ("pwned",)


def _with_code(place: Place) -> list[Row]:
    pickled = _copy(place)
    weights = load_file(pickled / WEIGHTS) | {"intruder": _Intruder(place.canary)}
    (pickled / WEIGHTS).unlink()
    torch.save(weights, pickled / "pytorch_model.bin")

    custom = place.new_folder()
    (custom / "evil.py").write_text(CODE.format(canary=str(place.canary)))
    config = {"model_type": "evil", "auto_map": AUTO_MAP, "architectures": ["Evil"]}
    for name in ("config", "tokenizer_config", "processor_config", "preprocessor_config"):
        (custom / f"{name}.json").write_text(json.dumps(config))
    return [
        Row("pickled weights with code", partial(load_model, str(pickled)), "Weights only load failed"),
        Row("code of its own, and `yes |`", partial(_load_with_yes, custom), "trust_remote_code"),
    ]


def _load_with_yes(folder: Path) -> object:
    builtins.input = lambda *question: "yes"
    return load_model(str(folder))


def _not_finite(place: Place) -> list[Row]:
    nan = _copy(place)
    spoil_file(nan / WEIGHTS, "text_projection.weight", math.nan, place=0)
    infinite = _copy(place)
    spoil_file(infinite / WEIGHTS, "logit_scale", 89.0)
    return [
        Row("a weight of NaN", partial(load_model, str(nan)), "NaN or infinite"),
        Row("an infinite scale", partial(load_model, str(infinite)), "whose exponential is infinite"),
    ]


def _checkpoints(place: Place) -> list[Row]:
    empty = _copy(place)
    (empty / WEIGHTS).unlink()
    torch.save({}, empty / "pytorch_model.bin")
    output_dir = place.new_folder()
    shutil.copytree(MODEL, output_dir / "checkpoint-2")
    (output_dir / "checkpoint-2/trainer_state.json").write_text("{}")
    return [
        Row("weights of {}", partial(AltCLIPModel.from_pretrained, str(empty)), "not a whole checkpoint"),
        Row("a checkpoint's state of {}", partial(newest_undamaged, output_dir), "None"),
    ]
