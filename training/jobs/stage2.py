"""Stage 2, contrastive learning: the text tower learns from images; the image tower is frozen (paper 3.2)."""

from transformers import PreTrainedModel, ProcessorMixin

from common.models.kinds import width_of_embeddings
from common.models.loading import load_model
from training.arguments import ContrastiveArguments, say
from training.data.examples import CachedCollator, CaptionExamples
from training.data.image_vectors import load_vector_examples
from training.data.images import EpochCallback
from training.data.loading import load_examples
from training.data.tower_cache import image_embeddings, pooled_images, pooled_texts
from training.dry_run import check_room_before_loading, print_plan
from training.freezing import freeze_all_but
from training.guard import load_guard, say_what_was_kept
from training.held_texts import hold_texts
from training.initialization import initialize_image_projection
from training.lifecycle import begin, collator_of, evaluation_of, finish, save_learned, train
from training.logit_bias import fit_to_loss
from training.low_rank import add_low_rank
from training.own_text_tower import fit_trainable, processor_to_save
from training.text_pairs import load_text_pairs
from training.trainers import ContrastiveTrainer
from training.validation import load_validation


def main(arguments: ContrastiveArguments) -> None:
    """Train the model and save it, or an adapter of it."""
    if arguments.dry_run:
        return print_plan(arguments)
    begin(arguments)
    check_room_before_loading(arguments)
    model, processor = load_model(
        arguments.model_name_or_path,
        argument="model_name_or_path",
        attn_implementation=arguments.attn_implementation,
        trust_remote_code=arguments.trust_remote_code,
    )
    changed = fit_to_loss(model, arguments.loss)
    if changed is not None:
        say(arguments, changed)
    fit_trainable(arguments, model)
    freeze_all_but(model, arguments.trainable, arguments.freeze)

    # Frozen towers run once over all images, or images and texts, not in every epoch.
    if arguments.image_embeds_column is None:
        examples = load_examples(arguments, arguments.languages, arguments.image_views)
    else:
        examples = load_vector_examples(arguments, width_of_embeddings(model.config))
    text_pairs = load_text_pairs(arguments)
    collator = collator_of(arguments, model, processor)
    if arguments.cache_towers:
        examples = _cache_towers(arguments, examples, model, processor, collator.max_length)
        collator = CachedCollator()
    elif arguments.cache_image_embeds and arguments.image_embeds_column is None:
        examples = _cache_images(arguments, examples, model, processor)

    # The teacher of validation, the held texts and the guard need the model as it is before training.
    teacher = _load_teacher(arguments) or (model, processor)
    validation = load_validation(arguments, model, processor, examples.languages, teacher)
    held = hold_texts(arguments, model, processor, examples)
    guard = load_guard(arguments, model, processor)

    updates = add_low_rank(arguments, model)
    trainer = ContrastiveTrainer(
        model=model,
        args=arguments,
        train_dataset=examples,
        data_collator=collator,
        processing_class=processor_to_save(arguments.model_name_or_path, model, processor),
        validation=validation,
        held=held,
        text_pairs=text_pairs,
    )
    # After the trainer has noted what the model was before.
    initialize_image_projection(arguments, model, examples)
    if not arguments.streaming:
        trainer.add_callback(EpochCallback(examples.inputs))
    train(trainer, arguments)
    save_learned(trainer, updates, arguments)
    say_what_was_kept(arguments, model, processor, held, guard)
    finish(arguments, "the model", evaluation_of(arguments))


def _load_teacher(arguments: ContrastiveArguments) -> tuple[PreTrainedModel, ProcessorMixin] | None:
    """Load the teacher of validation; None if none is given."""
    if arguments.teacher_name_or_path is None:
        return None
    return load_model(
        arguments.teacher_name_or_path,
        argument="teacher_name_or_path",
        trust_remote_code=arguments.trust_remote_code,
    )


def _cache_images(
    arguments: ContrastiveArguments,
    examples: CaptionExamples,
    model: PreTrainedModel,
    processor: ProcessorMixin,
) -> CaptionExamples:
    """Run the image tower over all images, and return the examples with their embeddings."""
    embeddings = image_embeddings(
        examples.inputs, model, processor, cache_dir=arguments.cache_dir, dtype=arguments.cache_dtype
    )
    say(arguments, f"Cached {embeddings}")
    return examples.with_inputs("image_embeds", embeddings)


def _cache_towers(
    arguments: ContrastiveArguments,
    examples: CaptionExamples,
    model: PreTrainedModel,
    processor: ProcessorMixin,
    max_length: int,
) -> CaptionExamples:
    """Run both towers over all images and texts, and return the examples with their outputs."""
    say(
        arguments,
        f"Only {' '.join(arguments.trainable)} learn: both towers run once, and their outputs are cached.",
    )
    stored = {"cache_dir": arguments.cache_dir, "dtype": arguments.cache_dtype}
    texts = pooled_texts(examples, model, processor.tokenizer, max_length, **stored)
    images = pooled_images(examples.inputs, model, processor, **stored)
    for column in (images, texts):
        say(arguments, f"Cached {column}")
    return examples.with_inputs("image_pooler_output", images).with_texts(texts)


__all__ = ["main"]
