"""`altclip draw`: one prompt in many languages through a diffusion pipeline, as one picture of all.

Every language begins with the same noise, so that pictures of one column differ by the prompts' embeddings
alone.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

import torch
from accelerate import PartialState
from PIL import Image
from tqdm.auto import tqdm

from benchmarks.clip_scores import clip_scores
from benchmarks.results import format_table
from common.arguments import DTYPES, check_dtype
from common.errors import InputError
from common.files.whole_files import write_text
from common.models.diffusion import load_diffusion_pipeline
from common.models.loading import check_model, load_model
from common.output import check_new_output_dir
from model_cards.folder import whole_folder
from model_cards.paths import public_path

from .grid import draw_grid
from .prompts import read_prompts

if TYPE_CHECKING:  # else needs the extra `diffusion`, which --help does without
    from diffusers import StableDiffusionPipeline


@dataclass(kw_only=True)
class DrawArguments:
    """A diffusion pipeline, prompts, and how pictures are drawn."""

    pipeline: str = field(
        metadata={
            "help": "Folder or Hub id of a StableDiffusionPipeline whose text encoder reads the languages, "
            "such as run_diffusion.py saves. It may also stand first without the flag."
        }
    )
    prompts: list[str] = field(
        metadata={
            "help": 'One prompt in several languages, such as en="a red apple" zh=红苹果 fr="une pomme"'
        }
    )
    output_dir: str = field(metadata={"help": "Folder to create, for the pictures, grid.png and drawn.json."})
    clip_model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Folder or Hub id of a CLIP, an AltCLIP or another model of images and texts, by which "
            "each picture is scored against the English prompt. By default none is."
        },
    )
    pictures: int = field(default=4, metadata={"help": "Number of pictures of each language."})
    steps: int = field(default=50, metadata={"help": "Number of denoising steps of a picture."})
    guidance_scale: float = field(
        default=7.5, metadata={"help": "Weight of the prompt (classifier-free guidance)."}
    )
    dtype: str = field(
        default="float32", metadata={"help": "Type of the weights: float32, or bfloat16 or float16 on a GPU."}
    )
    seed: int = field(default=0, metadata={"help": "Seed of the first picture's noise; the next add 1 each."})

    def __post_init__(self):
        for name in ("pictures", "steps"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}: give a number of at least 1")
        check_dtype(self.dtype)
        has_english = "en" in read_prompts(self.prompts)
        if self.clip_model_name_or_path is not None and not has_english:
            raise InputError(
                "clip_model_name_or_path is given, and prompts has no en, which pictures are scored against: "
                'add en="..."'
            )


def main(arguments: DrawArguments) -> None:
    """Draw pictures by each prompt, score them if a model is given, and save them with a grid of all.

    Raises:
        InputError: the pipeline or the model cannot be loaded, or the output folder has files.
    """
    check_new_output_dir(arguments.output_dir)
    if arguments.clip_model_name_or_path is not None:
        check_model(arguments.clip_model_name_or_path, "clip_model_name_or_path")
    prompts = read_prompts(arguments.prompts)
    pipeline = _load_pipeline(arguments)
    pictures = {}
    for language, prompt in tqdm(prompts.items(), "Drawing", unit="language"):
        pictures[language] = list(_draw(pipeline, prompt, arguments))
    scores = {}
    if arguments.clip_model_name_or_path is not None:
        scores = _score(pictures, prompts["en"], arguments.clip_model_name_or_path)
    _save(arguments, prompts, pictures, scores)
    _tell(arguments, prompts, scores)


def _load_pipeline(arguments: DrawArguments) -> "StableDiffusionPipeline":
    """Load a pipeline onto the device of this process.

    Raises:
        InputError: there is none, or it is damaged or incomplete.
    """
    dtype = DTYPES[arguments.dtype]
    pipeline = load_diffusion_pipeline("pipeline", arguments.pipeline, torch_dtype=dtype)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(PartialState().device)


def _draw(
    pipeline: "StableDiffusionPipeline", prompt: str, arguments: DrawArguments
) -> Iterator[Image.Image]:
    """Draw the pictures of a prompt, one after another."""
    for number in range(arguments.pictures):
        # Noise of the CPU is the same on every device.
        noise = torch.Generator().manual_seed(arguments.seed + number)
        yield pipeline(
            prompt,
            num_inference_steps=arguments.steps,
            guidance_scale=arguments.guidance_scale,
            generator=noise,
        ).images[0]


def _score(pictures: dict[str, list[Image.Image]], english: str, name: str) -> dict[str, list[float]]:
    """Return the CLIP score of each picture by language."""
    model, processor = load_model(name, argument="clip_model_name_or_path")
    model.to(PartialState().device)
    scores = {}
    for language, of_language in pictures.items():
        texts = [english] * len(of_language)
        scores[language] = clip_scores(model, processor, of_language, texts).tolist()
    return scores


def _save(
    arguments: DrawArguments,
    prompts: dict[str, str],
    pictures: dict[str, list[Image.Image]],
    scores: dict[str, list[float]],
) -> None:
    """Write the folder: a file for each picture, the grid, and what they were drawn by."""
    record = {
        "pipeline": public_path(arguments.pipeline),
        "clip_model": None,
        "steps": arguments.steps,
        "guidance_scale": arguments.guidance_scale,
        "seed": arguments.seed,
        "languages": {},
    }
    if arguments.clip_model_name_or_path is not None:
        record["clip_model"] = public_path(arguments.clip_model_name_or_path)
    with whole_folder(arguments.output_dir) as folder:
        for language, of_language in pictures.items():
            files = []
            for number, picture in enumerate(of_language, start=1):
                files.append(f"{language}-{number}.png")
                picture.save(Path(folder, files[-1]))
            drawn = {"prompt": prompts[language], "files": files}
            if language in scores:
                drawn["clip_scores"] = scores[language]
            record["languages"][language] = drawn
        draw_grid(pictures, {name: mean(values) for name, values in scores.items()}, Path(folder, "grid.png"))
        write_text(Path(folder, "drawn.json"), json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def _tell(arguments: DrawArguments, prompts: dict[str, str], scores: dict[str, list[float]]) -> None:
    """Print a table of prompts and scores, and where the pictures are."""
    rows = []
    for language, prompt in prompts.items():
        score = f"{mean(scores[language]):.1f}" if language in scores else "–"
        rows.append([language, prompt, score])
    print(format_table(["language", "prompt", "CLIP score against English"], rows))
    print(f"Saved the pictures to {arguments.output_dir}. Next: open {arguments.output_dir}/grid.png")


__all__ = ["DrawArguments", "main"]
