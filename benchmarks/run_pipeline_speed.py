"""What encoding labels once saves: our zero-shot pipeline against transformers' own, on the same random model, images and labels.

python benchmarks/run_pipeline_speed.py
python benchmarks/run_pipeline_speed.py --images 8 --labels 10 --width 64 --layers 2

CPU seconds of one thread, each pipeline called once after a warm-up; scores have to agree.
"""

import time
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image
from transformers import CLIPImageProcessor, XLMRobertaTokenizer, ZeroShotImageClassificationPipeline

from benchmarks.recipe import launch
from modeling_altclip import AltCLIPConfig, AltCLIPModel, AltCLIPZeroShotPipeline

WORDS = "red green tall small old wooden dog cat house river tree boat bridge child market lamp".split()


@dataclass(kw_only=True)
class SpeedArguments:
    """What to measure."""

    images: int = field(default=64, metadata={"help": "Number of images."})
    labels: int = field(default=100, metadata={"help": "Number of labels."})
    width: int = field(default=768, metadata={"help": "Of both towers; 768 and 12 layers are base size."})
    layers: int = field(default=12, metadata={"help": "Of both towers."})


def main(arguments: SpeedArguments) -> None:
    torch.set_num_threads(1)
    parts = build(arguments.width, arguments.layers)
    pixels = np.random.default_rng(0).integers(0, 256, (arguments.images, 256, 320, 3), dtype=np.uint8)
    images = [Image.fromarray(image) for image in pixels]
    labels = [
        f"{WORDS[number % 16]} {WORDS[number // 16 % 16]} {number}" for number in range(arguments.labels)
    ]
    n_parameters = sum(parameter.numel() for parameter in parts["model"].parameters())
    print(f"{len(images)} images x {len(labels)} labels, {n_parameters / 1e6:.0f} M parameters, one thread")

    ours, our_seconds = timed(AltCLIPZeroShotPipeline(**parts), images, labels)
    print(f"ours               {our_seconds:8.2f} CPU s")
    theirs, their_seconds = timed(ZeroShotImageClassificationPipeline(**parts), images, labels)
    print(f"transformers' own  {their_seconds:8.2f} CPU s")
    print(
        f"ratio {their_seconds / our_seconds:.1f}; largest difference of a score {difference(ours, theirs):.1e}"
    )


def build(width: int, layers: int) -> dict:
    """A random AltCLIP with two towers of equal size, XLM-R's vocabulary size, and a tokenizer of the words used here."""
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
    letters = [
        (letter, -5.0) for letter in "▁abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789."
    ]
    pieces = [
        ("<s>", 0.0),
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        *letters,
        *((f"▁{word}", -3.0) for word in WORDS),
    ]
    tokenizer = XLMRobertaTokenizer(vocab=[*pieces, ("<mask>", 0.0)], model_max_length=77)
    return {
        "model": AltCLIPModel(config).eval(),
        "tokenizer": tokenizer,
        "image_processor": CLIPImageProcessor(),
    }


def timed(
    classify: ZeroShotImageClassificationPipeline, images: list, labels: list[str]
) -> tuple[list, float]:
    """Answers for all images, and the CPU seconds they took."""
    classify(images[:1], candidate_labels=labels[:1])
    start = time.process_time()
    return classify(images, candidate_labels=labels), time.process_time() - start


def difference(ours: list, theirs: list) -> float:
    """The largest difference between two pipelines' scores of one label for one image."""
    by_label = [
        [{entry["label"]: entry["score"] for entry in answer} for answer in answers]
        for answers in (ours, theirs)
    ]
    return max(abs(one[label] - other[label]) for one, other in zip(*by_label) for label in one)


if __name__ == "__main__":
    launch(main, SpeedArguments, one_process=True)
