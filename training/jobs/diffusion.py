"""AltDiffusion: train Stable Diffusion to read AltCLIP's text embeddings (paper 5.4).

Only keys and values of its cross-attention learn. Needs the extra `diffusion`.
"""

import json
from pathlib import Path

from common.errors import InputError
from common.files.whole_files import write_text
from common.languages import check_languages
from common.models.kinds import load_tokenizer, readable
from common.models.loading import check_model
from common.output import bytes_of_weights
from modeling_altclip import AltCLIPTextModel
from modeling_altclip.checkpoint_altclip import match_modes
from modeling_altclip.checksums_altclip import write_checksums
from modeling_altclip.finite_altclip import check_finite
from training.arguments import DiffusionArguments
from training.data.captions import decoded
from training.data.examples import CaptionExamples
from training.data.loading import load_image_rows
from training.data.sources.origin import find_origins
from training.diffusion_scores import PromptScorer, describe_scores
from training.lifecycle import begin, cut_length, finish, train
from training.output_folder import record_sources, saving


def main(arguments: DiffusionArguments) -> None:
    # Imported here, so that --help works without the extra.
    from training.diffusion import DiffusionCollator, DiffusionTrainer, draw_with, load_pipeline

    begin(arguments)
    if arguments.clip_model_name_or_path is not None:
        check_model(arguments.clip_model_name_or_path, "clip_model_name_or_path")
    with readable("model_name_or_path", arguments.model_name_or_path):
        text_encoder = AltCLIPTextModel.from_pretrained(arguments.model_name_or_path)
        check_finite(text_encoder.named_parameters(), "it")
    tokenizer = load_tokenizer("model_name_or_path", arguments.model_name_or_path)
    tokenizer.model_max_length = cut_length(arguments, text_encoder)  # is saved with the pipeline
    pipeline = load_pipeline(arguments.diffusion_name_or_path, text_encoder, tokenizer)
    rows = load_image_rows(
        arguments.dataset,
        arguments.split,
        arguments.languages,
        allow_outside=arguments.allow_outside_images,
    )
    rows = decoded(rows)
    record_sources(arguments, find_origins(arguments.dataset, list(rows.features["captions"]), len(rows)))
    languages = check_languages(arguments.languages, list(rows.features["captions"]))
    examples = CaptionExamples(rows, languages, "image")
    if examples.weights is not None:
        raise InputError(
            f"sources of {arguments.dataset!r} have weights, which stages 1 and 2 read: leave them out"
        )
    examples.check_any(arguments.dataset)
    # sample_size is that of the latents.
    size = pipeline.unet.config.sample_size * pipeline.vae_scale_factor
    collator = DiffusionCollator(tokenizer, size, tokenizer.model_max_length)
    trainer = DiffusionTrainer(pipeline, args=arguments, train_dataset=examples, data_collator=collator)
    scorer = None
    if arguments.clip_model_name_or_path is not None and trainer.is_world_process_zero():
        scorer = PromptScorer(arguments, rows, languages)
        before = scorer.measure(draw_with(pipeline, arguments.clip_steps))
    train(trainer, arguments)
    if scorer is not None:
        after = scorer.measure(draw_with(pipeline, arguments.clip_steps))
        scores = json.dumps({"before": before, "after": after}, indent=1) + "\n"
        write_text(Path(arguments.output_dir, "clip_scores.json"), scores)
        print(describe_scores(before, after))
    if trainer.is_world_process_zero():
        models = [pipeline.text_encoder, pipeline.unet, pipeline.vae]
        with saving("the pipeline", Path(arguments.output_dir), sum(map(bytes_of_weights, models))):
            pipeline.save_pretrained(arguments.output_dir)
            match_modes(arguments.output_dir)
            write_checksums(arguments.output_dir)
    finish(arguments, "the pipeline", f'StableDiffusionPipeline.from_pretrained("{arguments.output_dir}")')
