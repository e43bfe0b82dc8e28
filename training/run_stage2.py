"""Stage 2, contrastive learning: the text tower learns from images in many languages, the image tower stays (paper 3.2).

accelerate launch training/run_stage2.py training/recipes/altclip/stage2.yaml
accelerate launch training/run_stage2.py training/recipes/miniature/stage2.yaml
"""

from benchmarks.loading import check_languages, load_model
from benchmarks.recipe import launch
from training.arguments import ContrastiveArguments
from training.data import CaptionCells, Collator
from training.estimate import report
from training.frozen import add_image_vectors
from training.session import begin, finish, load_pictures, train
from training.trainers import ContrastiveTrainer, freeze_all_but


def main(arguments: ContrastiveArguments) -> None:
    if arguments.dry_run:
        return report(arguments)
    begin(arguments)
    model, processor = load_model(arguments.model_name_or_path, attn_implementation=arguments.attn_implementation)
    freeze_all_but(model, arguments.trainable)
    rows = load_pictures(arguments)
    languages = check_languages(arguments.languages, list(rows.features["captions"]))
    if arguments.cache_image_embeds:
        rows = add_image_vectors(rows, model, processor)

    cells = CaptionCells(rows, languages, "image_embeds" if arguments.cache_image_embeds else "image")
    collator = Collator(processor.tokenizer, arguments.max_text_length, processor.image_processor)
    trainer = ContrastiveTrainer(model=model, args=arguments, train_dataset=cells, data_collator=collator, processing_class=processor)
    train(trainer, arguments)
    trainer.save_model()
    finish(arguments, "the model", "python benchmarks/run_retrieval.py RECIPE.yaml --models " + arguments.output_dir)


if __name__ == "__main__":
    launch(main, ContrastiveArguments)
