"""What further languages cost a step of parallel training, at the sizes of the paper: XLM-R large beside ViT-B/16, with random weights.

python training/run_parallel_cost.py --images 8 --repeats 3

An image is encoded once however many captions it has. Prints forward and backward of the image tower, of the captions of one language and
of all, and the ratio of their sums. Nothing is downloaded; the optimizer, whose work does not depend on the captions, is left out.
"""

import time
from dataclasses import dataclass, field

import torch
from transformers import ViTConfig, XLMRobertaConfig

from benchmarks.recipe import launch
from benchmarks.results import format_table
from modeling_altclip import AltCLIPDualEncoderConfig, AltCLIPDualEncoderModel
from training.losses import contrastive_loss
from training.trainers import by_length


@dataclass(kw_only=True)
class CostArguments:
    """What to measure."""

    images: int = field(default=32, metadata={"help": "Images in a batch; the paper has 32."})
    n_languages: int = field(default=4, metadata={"help": "Captions of an image."})
    tokens: list[int] = field(
        default_factory=lambda: [9, 18],
        metadata={"help": "Least and most tokens of a caption, all lengths equally often."},
    )
    length_groups: int = field(
        default=4, metadata={"help": "As in the recipe: captions of like length are encoded together."}
    )
    repeats: int = field(default=5, metadata={"help": "Rounds, of which the fastest counts for each part."})
    device: str = field(default="cpu", metadata={"help": "cpu or cuda."})
    dtype: str = field(default="float32", metadata={"help": "float32, or bfloat16 by autocast."})


def main(arguments: CostArguments) -> None:
    torch.manual_seed(0)
    text = XLMRobertaConfig(
        vocab_size=250002,
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        intermediate_size=4096,
    )
    text.max_position_embeddings, text.type_vocab_size = 514, 1
    model = AltCLIPDualEncoderModel(
        AltCLIPDualEncoderConfig(text_config=text, vision_config=ViTConfig(), projection_bias=True)
    )
    model.to(arguments.device).train()
    pixels = torch.randn(arguments.images, 3, 224, 224, device=arguments.device)
    captions = {n: draw_captions(n * arguments.images, arguments) for n in (1, arguments.n_languages)}

    def images() -> torch.Tensor:
        return model.get_image_features(pixels).pooler_output

    def texts(n: int) -> torch.Tensor:
        groups, rows = by_length(captions[n], arguments.length_groups)
        return torch.cat([model.get_text_features(**group).pooler_output for group in groups])[rows]

    def step(n: int) -> torch.Tensor:
        owners = torch.arange(arguments.images, device=arguments.device).repeat(n)
        return contrastive_loss(images(), texts(n), model.logit_scale.exp(), text_to_image=owners)

    n = arguments.n_languages
    parts = {
        "images": lambda: images().sum(),
        "captions, 1 language": lambda: texts(1).sum(),
        f"captions, {n} languages": lambda: texts(n).sum(),
    }
    parts |= {"step, 1 language": lambda: step(1), f"step, {n} languages": lambda: step(n)}
    seconds = measure(parts, model, arguments)
    rows = [
        [part, f"{1000 * min(wall):.0f}", f"{1000 * min(cpu):.0f}"] for part, (wall, cpu) in seconds.items()
    ]
    print(format_table(["forward and backward", "ms", "ms of CPU"], rows))
    wall, cpu = (
        min(seconds[f"step, {n} languages"][kind]) / min(seconds["step, 1 language"][kind]) for kind in (0, 1)
    )
    lengths = {
        name: batch["attention_mask"].sum().item() / len(batch["attention_mask"])
        for name, batch in captions.items()
    }
    print(
        f"{n} languages take {wall:.2f} times the step of one ({cpu:.2f} of its CPU time), "
        f"at {lengths[1]:.1f} and {lengths[n]:.1f} tokens a caption."
    )


def draw_captions(n_captions: int, arguments: CostArguments) -> dict[str, torch.Tensor]:
    """Random texts of ragged lengths, padded on the right."""
    least, most = arguments.tokens
    of_language = torch.linspace(least, most, arguments.images).round()
    lengths = of_language.repeat(n_captions // arguments.images)[torch.randperm(n_captions), None]
    mask = (torch.arange(most) < lengths).long()
    ids = torch.where(mask.bool(), torch.randint(4, 250000, mask.shape), 1)
    return {"input_ids": ids.to(arguments.device), "attention_mask": mask.to(arguments.device)}


def measure(
    parts: dict, model: torch.nn.Module, arguments: CostArguments
) -> dict[str, tuple[list[float], list[float]]]:
    """Seconds of wall and of CPU, a figure a round: `{part: (wall, cpu)}`. Parts take turns, so that a busy machine slows all alike."""
    seconds = {part: ([], []) for part in parts}
    for _ in range(arguments.repeats + 1):
        for part, work in parts.items():
            model.zero_grad(set_to_none=True)
            began, cpu = time.perf_counter(), time.process_time()
            with torch.autocast(
                arguments.device, getattr(torch, arguments.dtype), enabled=arguments.dtype != "float32"
            ):
                loss = work()
            loss.backward()
            if arguments.device == "cuda":
                torch.cuda.synchronize()
            seconds[part][0].append(time.perf_counter() - began)
            seconds[part][1].append(time.process_time() - cpu)
    return {part: (wall[1:], cpu[1:]) for part, (wall, cpu) in seconds.items()}  # the first round warms up


if __name__ == "__main__":
    launch(main, CostArguments, one_process=True)
