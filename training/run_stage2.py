"""Stage 2, contrastive learning: the text tower learns from images in many languages, the image tower stays (paper 3.2).

accelerate launch training/run_stage2.py training/recipes/altclip/stage2.yaml
accelerate launch training/run_stage2.py training/recipes/miniature/stage2.yaml
"""

from benchmarks.loading import check_languages, load_model
from benchmarks.recipe import launch
from training.arguments import ContrastiveArguments
from training.data import CaptionCells, Collator
from training.frozen import image_vectors
from training.session import begin, finish, load_pictures, say, train
from training.trainers import ContrastiveTrainer, freeze_all_but
from training.validation import load_validation
from training.views import ImageViews, TurnViews


def main(arguments: ContrastiveArguments) -> None:
    begin(arguments)
    model, processor = load_model(arguments.model_name_or_path, attn_implementation=arguments.attn_implementation)
    freeze_all_but(model, arguments.trainable)
    rows = load_pictures(arguments)
    languages = check_languages(arguments.languages, list(rows.features["captions"]))
    column, inputs = "image", ImageViews(rows, arguments.image_views)
    if arguments.cache_image_embeds:
        column, inputs = "image_embeds", image_vectors(inputs, model, processor, cache_dir=arguments.cache_dir, dtype=arguments.cache_dtype)
        say(arguments, f"Cached {inputs}")

    cells = CaptionCells(rows, languages, column, inputs=inputs)
    collator = Collator(processor.tokenizer, arguments.max_text_length, processor.image_processor)
    teacher = load_model(arguments.teacher_name_or_path) if arguments.teacher_name_or_path else (model, processor)
    validation = load_validation(arguments, model, processor, languages, teacher)
    trainer = ContrastiveTrainer(
        model=model, args=arguments, train_dataset=cells, data_collator=collator, processing_class=processor, validation=validation
    )
    trainer.add_callback(TurnViews(inputs))
    train(trainer, arguments)
    trainer.save_model()
    finish(arguments, "the model", "python benchmarks/run_retrieval.py RECIPE.yaml --models " + arguments.output_dir)


if __name__ == "__main__":
    launch(main, ContrastiveArguments)
