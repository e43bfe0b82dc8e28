"""Stage 2, contrastive learning: the text tower learns from images in many languages, the image tower stays (paper 3.2).

accelerate launch training/run_stage2.py training/recipes/altclip/stage2.yaml
accelerate launch training/run_stage2.py training/recipes/miniature/stage2.yaml
accelerate launch training/run_stage2.py RECIPE.yaml --dataset FOLDER_OF_TARS --streaming --cache_image_embeds false --shuffle_buffer 1000
"""

from transformers import PreTrainedModel, ProcessorMixin

from benchmarks.loading import check_languages, load_model
from benchmarks.recipe import launch
from training.arguments import ContrastiveArguments
from training.data import CaptionCells, Collator
from training.estimate import report
from training.frozen import image_vectors
from training.session import begin, finish, load_pictures, say, stream_pictures, train
from training.streaming import CellStream
from training.trainers import ContrastiveTrainer, freeze_all_but
from training.validation import load_validation
from training.views import ImageViews, TurnViews


def main(arguments: ContrastiveArguments) -> None:
    if arguments.dry_run:
        return report(arguments)
    begin(arguments)
    model, processor = load_model(arguments.model_name_or_path, attn_implementation=arguments.attn_implementation)
    freeze_all_but(model, arguments.trainable)
    cells = load_cells(arguments, model, processor)
    collator = Collator(processor.tokenizer, arguments.max_text_length, processor.image_processor)
    teacher = load_model(arguments.teacher_name_or_path) if arguments.teacher_name_or_path else (model, processor)
    validation = load_validation(arguments, model, processor, cells.languages, teacher)
    trainer = ContrastiveTrainer(
        model=model, args=arguments, train_dataset=cells, data_collator=collator, processing_class=processor, validation=validation
    )
    if not arguments.streaming:
        trainer.add_callback(TurnViews(cells.inputs))
    train(trainer, arguments)
    trainer.save_model()
    finish(arguments, "the model", "python benchmarks/run_retrieval.py RECIPE.yaml --models " + arguments.output_dir)


def load_cells(arguments: ContrastiveArguments, model: PreTrainedModel, processor: ProcessorMixin) -> CaptionCells | CellStream:
    """Captions with their pictures, or with what the frozen image tower made of these."""
    if arguments.streaming:
        return stream_pictures(arguments, arguments.languages)
    rows = load_pictures(arguments, arguments.languages)
    languages = check_languages(arguments.languages, list(rows.features["captions"]))
    views = ImageViews(rows, arguments.image_views)
    if not arguments.cache_image_embeds:
        return CaptionCells(rows, languages, "image", inputs=views)
    vectors = image_vectors(views, model, processor, cache_dir=arguments.cache_dir, dtype=arguments.cache_dtype)
    say(arguments, f"Cached {vectors}")
    return CaptionCells(rows, languages, "image_embeds", inputs=vectors)


if __name__ == "__main__":
    launch(main, ContrastiveArguments)
