"""Load a checkpoint by `AltCLIPModel.from_pretrained`, ours and transformers' own.

The file has been read before, so that it comes from the system's cache on both sides. A few of the loaded
weights are compared.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

Repeats = Iterator[Callable[[], dict]]


def inputs(folder: Path, shape: dict) -> None:
    """Save a random AltCLIP; at full size it has 0.9 billion parameters and takes 3.5 GB."""
    from benchmarks.speed.inputs import draw_texts, save_model, train_tokenizer

    save_model(folder / "model", train_tokenizer(draw_texts(100, ["en"], 5)), shape)


def ours(folder: Path, shape: dict) -> Repeats:
    from modeling_altclip import AltCLIPModel

    return _repeats(folder, AltCLIPModel)


def transformers(folder: Path, shape: dict) -> Repeats:
    from transformers import AltCLIPModel

    return _repeats(folder, AltCLIPModel)


def _repeats(folder: Path, model_class: type) -> Repeats:
    def load() -> dict:
        model = model_class.from_pretrained(folder / "model")
        weights = (model.text_projection.weight, model.visual_projection.weight, model.logit_scale)
        return {str(number): weight.detach().numpy().copy() for number, weight in enumerate(weights)}

    while True:
        yield load
