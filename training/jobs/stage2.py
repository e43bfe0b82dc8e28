"""Stage 2, contrastive learning: the text tower learns from images; the image tower is frozen (paper 3.2)."""

import shlex

from common.commands import command_for
from common.models.loading import load_model
from training.arguments import ContrastiveArguments, say
from training.data.images import EpochCallback
from training.data.loading import load_examples
from training.data.tower_cache import image_embeddings
from training.dry_run import check_room_before_loading, print_plan
from training.freezing import freeze_all_but
from training.guard import load_guard, say_what_was_kept
from training.held_texts import hold_texts
from training.lifecycle import begin, collator_of, finish, train
from training.logit_bias import fit_to_loss
from training.trainers import ContrastiveTrainer
from training.validation import load_validation


def main(arguments: ContrastiveArguments) -> None:
    """Train the model and save it."""
    if arguments.dry_run:
        return print_plan(arguments)
    begin(arguments)
    check_room_before_loading(arguments)
    model, processor = load_model(
        arguments.model_name_or_path,
        argument="model_name_or_path",
        attn_implementation=arguments.attn_implementation,
    )
    changed = fit_to_loss(model, arguments.loss)
    if changed is not None:
        say(arguments, changed)
    freeze_all_but(model, arguments.trainable)

    # A frozen image tower runs once over all images, not in every epoch.
    examples = load_examples(arguments, arguments.languages, arguments.image_views)
    if arguments.cache_image_embeds:
        embeddings = image_embeddings(
            examples.inputs, model, processor, cache_dir=arguments.cache_dir, dtype=arguments.cache_dtype
        )
        examples = examples.with_inputs("image_embeds", embeddings)
        say(arguments, f"Cached {embeddings}")
    collator = collator_of(arguments, model, processor)

    # The teacher of validation, the held texts and the guard need the model as it is before training.
    teacher = (model, processor)
    if arguments.teacher_name_or_path is not None:
        teacher = load_model(arguments.teacher_name_or_path, argument="teacher_name_or_path")
    validation = load_validation(arguments, model, processor, examples.languages, teacher)
    held = hold_texts(arguments, model, processor, examples)
    guard = load_guard(arguments, model, processor)

    trainer = ContrastiveTrainer(
        model=model,
        args=arguments,
        train_dataset=examples,
        data_collator=collator,
        processing_class=processor,
        validation=validation,
        held=held,
    )
    if not arguments.streaming:
        trainer.add_callback(EpochCallback(examples.inputs))
    train(trainer, arguments)
    trainer.save_model()
    say_what_was_kept(arguments, model, processor, held, guard)
    evaluate = f"{command_for('evaluate retrieval')} --tasks my/task.yaml --models"
    finish(arguments, "the model", f"{evaluate} {shlex.quote(arguments.output_dir)}")


__all__ = ["main"]
