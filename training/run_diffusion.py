"""AltDiffusion: lead Stable Diffusion by AltCLIP's text tower, training only keys and values of cross-attention (paper 5.4).

accelerate launch --quiet training/run_diffusion.py training/recipes/altdiffusion/diffusion.yaml

Needs the extra `diffusion`.
"""

from benchmarks.kinds import load_tokenizer, readable
from benchmarks.loading import check_languages, load_captions
from benchmarks.recipe import launch
from modeling_altclip import AltCLIPTextModel
from training.arguments import DiffusionArguments
from training.data import CaptionCells
from training.session import begin, cut_length, finish, train


def main(arguments: DiffusionArguments) -> None:
    from training.diffusion import (
        DiffusionCollator,
        DiffusionTrainer,
        load_pipeline,
    )  # which --help does without

    begin(arguments)
    with readable("model_name_or_path", arguments.model_name_or_path):
        text_encoder = AltCLIPTextModel.from_pretrained(arguments.model_name_or_path)
    tokenizer = load_tokenizer("model_name_or_path", arguments.model_name_or_path)
    tokenizer.model_max_length = cut_length(arguments, text_encoder)
    pipeline = load_pipeline(arguments.diffusion_name_or_path, text_encoder, tokenizer)
    rows = load_captions(arguments.dataset, arguments.split)
    cells = CaptionCells(rows, check_languages(arguments.languages, list(rows.features["captions"])), "image")
    size = pipeline.unet.config.sample_size * pipeline.vae_scale_factor
    collator = DiffusionCollator(tokenizer, size, tokenizer.model_max_length)
    train(DiffusionTrainer(pipeline, args=arguments, train_dataset=cells, data_collator=collator), arguments)
    pipeline.save_pretrained(arguments.output_dir)
    finish(arguments, "the pipeline", f'StableDiffusionPipeline.from_pretrained("{arguments.output_dir}")')


if __name__ == "__main__":
    launch(main, DiffusionArguments)
