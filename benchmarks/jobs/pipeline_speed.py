"""Measure what encoding labels once saves: our zero-shot pipeline against transformers' own.

Both get the same random model, images and labels. We count CPU seconds of one thread, each pipeline called
once after a warm-up; scores have to agree.
"""

import time
from dataclasses import dataclass, field
from string import ascii_letters, digits

import numpy as np
import torch
from PIL import Image
from transformers import CLIPImageProcessor, XLMRobertaTokenizer, ZeroShotImageClassificationPipeline

from modeling_altclip import AltCLIPConfig, AltCLIPModel, AltCLIPZeroShotPipeline

_WORDS = "red green tall small old wooden dog cat house river tree boat bridge child market lamp".split()


@dataclass(kw_only=True)
class _SpeedArguments:
    """Number of images and labels, and the size of the model."""

    images: int = field(default=64, metadata={"help": "Number of images."})
    labels: int = field(default=100, metadata={"help": "Number of labels."})
    width: int = field(
        default=768, metadata={"help": "Width of both towers; 768 and 12 layers are base size."}
    )
    layers: int = field(default=12, metadata={"help": "Number of layers of both towers."})


def main(arguments: _SpeedArguments) -> None:
    torch.set_num_threads(1)
    parts = _build_parts(arguments.width, arguments.layers)
    pixels = np.random.default_rng(0).integers(0, 256, (arguments.images, 256, 320, 3), dtype=np.uint8)
    images = [Image.fromarray(image) for image in pixels]
    labels = [_make_label(number) for number in range(arguments.labels)]
    n_parameters = sum(parameter.numel() for parameter in parts["model"].parameters())
    print(f"{len(images)} images x {len(labels)} labels, {n_parameters / 1e6:.0f} M parameters, one thread")

    ours, our_seconds = _time(AltCLIPZeroShotPipeline(**parts), images, labels)
    print(f"ours               {our_seconds:8.2f} CPU s")
    theirs, their_seconds = _time(ZeroShotImageClassificationPipeline(**parts), images, labels)
    print(f"transformers' own  {their_seconds:8.2f} CPU s")

    ratio = their_seconds / our_seconds
    difference = _largest_difference(ours, theirs)
    print(f"ratio {ratio:.1f}; largest difference of a score {difference:.1e}")


def _make_label(number: int) -> str:
    """Return a label of its own for each number: 0 -> "red red 0", 17 -> "green green 17"."""
    return f"{_WORDS[number % 16]} {_WORDS[number // 16 % 16]} {number}"


def _build_parts(width: int, layers: int) -> dict:
    """Build the parts of a pipeline: a random AltCLIP, a tokenizer and an image processor.

    The towers are of equal size. The vocabulary is as large as XLM-R's, though the tokenizer knows only the
    words of the labels.
    """
    torch.manual_seed(0)
    tower = {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 64,
    }
    config = AltCLIPConfig(
        text_config=tower | {"vocab_size": 250002, "project_dim": 512},
        vision_config=tower | {"patch_size": 32},
        projection_dim=512,
    )
    return {
        "model": AltCLIPModel(config).eval(),
        "tokenizer": _build_tokenizer(),
        "image_processor": CLIPImageProcessor(),
    }


def _build_tokenizer() -> XLMRobertaTokenizer:
    """Build a tokenizer of the words used here, and of letters and digits."""
    # (piece, log-probability): a whole word is likelier than its letters.
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(character, -5.0) for character in f"▁{ascii_letters}{digits}."]
    pieces += [(f"▁{word}", -3.0) for word in _WORDS]
    pieces.append(("<mask>", 0.0))
    return XLMRobertaTokenizer(vocab=pieces, model_max_length=77)


def _time(
    classify: ZeroShotImageClassificationPipeline, images: list, labels: list[str]
) -> tuple[list, float]:
    """Return the answers for all images, and the CPU seconds that they took."""
    classify(images[:1], candidate_labels=labels[:1])  # warms up
    start = time.process_time()
    answers = classify(images, candidate_labels=labels)
    return answers, time.process_time() - start


def _largest_difference(ours: list, theirs: list) -> float:
    """Return the largest difference between two pipelines' scores of one label for one image."""
    largest = 0.0
    # The answer for an image is [{"label": "red red 0", "score": 0.7}, ...], the highest score first.
    for our_answer, their_answer in zip(ours, theirs):
        their_scores = {entry["label"]: entry["score"] for entry in their_answer}
        for entry in our_answer:
            largest = max(largest, abs(entry["score"] - their_scores[entry["label"]]))
    return largest
