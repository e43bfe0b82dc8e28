"""Measure what further languages cost a step of parallel training, at the paper's sizes.

The towers are XLM-R large and ViT-B/16, with random weights. An image is encoded once however many captions
it has. Prints forward and backward of the image tower, of the captions of one language and of all, and the
ratio of their sums. Nothing is downloaded; the optimizer, whose work does not depend on the captions, is left
out.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn
from transformers import ViTConfig, XLMRobertaConfig

from benchmarks.results import format_table
from modeling_altclip import AltCLIPDualEncoderConfig, AltCLIPDualEncoderModel
from training.losses import contrastive_loss
from training.trainers import by_length


@dataclass(kw_only=True)
class _CostArguments:
    """What to measure."""

    images: int = field(default=32, metadata={"help": "Number of images in a batch; the paper has 32."})
    n_languages: int = field(
        default=4, metadata={"help": "Number of languages, and so of captions of an image."}
    )
    tokens: list[int] = field(
        default_factory=lambda: [9, 18],
        metadata={"help": "Least and most tokens of a caption, all lengths equally often."},
    )
    length_groups: int = field(
        default=4, metadata={"help": "Groups of captions of similar length, as in the recipe."}
    )
    repeats: int = field(
        default=5, metadata={"help": "Number of rounds, of which the fastest counts for each part."}
    )
    device: str = field(default="cpu", metadata={"help": "Device to measure on: cpu or cuda."})
    dtype: str = field(
        default="float32", metadata={"help": "Type of the forward pass: float32, or bfloat16 by autocast."}
    )


class _Step:
    """The parts of a step of parallel training, on random images and captions."""

    def __init__(self, arguments: _CostArguments):
        self.arguments = arguments
        self.model = _build_model().to(arguments.device).train()
        self.pixels = torch.randn(arguments.images, 3, 224, 224, device=arguments.device)
        # By the number of languages.
        self.captions = {
            n: _draw_captions(n * arguments.images, arguments) for n in (1, arguments.n_languages)
        }

    def image_embeds(self) -> torch.Tensor:
        return self.model.get_image_features(self.pixels).pooler_output

    def text_embeds(self, n_languages: int) -> torch.Tensor:
        groups, rows = by_length(self.captions[n_languages], self.arguments.length_groups)
        parts = [self.model.get_text_features(**group).pooler_output for group in groups]
        return torch.cat(parts)[rows]

    def loss(self, n_languages: int) -> torch.Tensor:
        n_images = self.arguments.images
        owners = torch.arange(n_images, device=self.arguments.device).repeat(n_languages)
        scale = self.model.logit_scale.exp()
        return contrastive_loss(
            self.image_embeds(), self.text_embeds(n_languages), scale, text_to_image=owners
        )


def main(arguments: _CostArguments) -> None:
    torch.manual_seed(0)
    step = _Step(arguments)
    n = arguments.n_languages
    parts = {
        "images": lambda: step.image_embeds().sum(),
        "captions, 1 language": lambda: step.text_embeds(1).sum(),
        f"captions, {n} languages": lambda: step.text_embeds(n).sum(),
        "step, 1 language": lambda: step.loss(1),
        f"step, {n} languages": lambda: step.loss(n),
    }
    seconds = _measure(parts, step.model, arguments)

    rows = []
    for part, of_part in seconds.items():
        rows.append([part, f"{1000 * min(of_part.wall):.0f}", f"{1000 * min(of_part.cpu):.0f}"])
    print(format_table(["forward and backward", "ms", "ms of CPU"], rows))

    one = seconds["step, 1 language"]
    several = seconds[f"step, {n} languages"]
    wall = min(several.wall) / min(one.wall)
    cpu = min(several.cpu) / min(one.cpu)
    print(
        f"{n} languages take {wall:.2f} times the step of one ({cpu:.2f} of its CPU time), "
        f"at {_mean_length(step.captions[1]):.1f} and {_mean_length(step.captions[n]):.1f} tokens a caption."
    )


def _build_model() -> AltCLIPDualEncoderModel:
    """Build XLM-R large beside ViT-B/16, with random weights."""
    text = XLMRobertaConfig(
        vocab_size=250002,
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        intermediate_size=4096,
    )
    text.max_position_embeddings = 514
    text.type_vocab_size = 1
    config = AltCLIPDualEncoderConfig(text_config=text, vision_config=ViTConfig(), projection_bias=True)
    return AltCLIPDualEncoderModel(config)


def _draw_captions(n_captions: int, arguments: _CostArguments) -> dict[str, torch.Tensor]:
    """Draw random texts of ragged lengths, padded on the right."""
    least, most = arguments.tokens
    # Lengths are evenly spaced, the same for each language, and shuffled over all captions.
    of_language = torch.linspace(least, most, arguments.images).round()
    n_languages = n_captions // arguments.images
    lengths = of_language.repeat(n_languages)[torch.randperm(n_captions), None]
    mask = (torch.arange(most) < lengths).long()
    ids = torch.where(mask.bool(), torch.randint(4, 250000, mask.shape), 1)  # below 4 are special tokens
    return {"input_ids": ids.to(arguments.device), "attention_mask": mask.to(arguments.device)}


def _mean_length(captions: dict[str, torch.Tensor]) -> float:
    """Return the mean number of tokens, padding aside."""
    mask = captions["attention_mask"]
    return mask.sum().item() / len(mask)


@dataclass
class _Seconds:
    """The time of a part, one figure a round."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def _measure(
    parts: dict[str, Callable[[], torch.Tensor]], model: nn.Module, arguments: _CostArguments
) -> dict[str, _Seconds]:
    """Measure forward and backward of each part. Parts take turns, so that a busy machine slows all alike."""
    seconds = {part: _Seconds() for part in parts}
    dtype = getattr(torch, arguments.dtype)
    for number in range(arguments.repeats + 1):
        for part, work in parts.items():
            model.zero_grad(set_to_none=True)
            wall_before = time.perf_counter()
            cpu_before = time.process_time()
            with torch.autocast(arguments.device, dtype, enabled=arguments.dtype != "float32"):
                loss = work()
            loss.backward()
            if arguments.device == "cuda":
                torch.cuda.synchronize()
            if number > 0:  # the first round warms up
                seconds[part].wall.append(time.perf_counter() - wall_before)
                seconds[part].cpu.append(time.process_time() - cpu_before)
    return seconds
