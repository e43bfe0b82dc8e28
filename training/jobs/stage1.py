"""Stage 1, teacher learning: a multilingual text tower learns an English model's embeddings of texts.

See the paper, section 3.1.
"""

from common.commands import command_for
from common.languages import check_languages
from training.arguments import TeacherLearningArguments, say
from training.data.examples import CaptionExamples
from training.dry_run import check_room_before_loading, print_plan
from training.freezing import freeze_all_but
from training.initialization import initialize_text_head
from training.lifecycle import begin, collator_of, finish, save_learned, train
from training.low_rank import add_low_rank
from training.own_text_tower import has_own_tower
from training.student import (
    build_student,
    embed_targets,
    held_embeddings,
    languages_to_replay,
    load_teacher_of_student,
    processors_of_student,
    read_training_text,
    set_attention,
)
from training.teachers import space_of
from training.text_teachers import reference_of
from training.trainers import TeacherLearningTrainer
from training.validation import load_validation


def main(arguments: TeacherLearningArguments) -> None:
    """Train the text side of the student and save the whole model, or an adapter of the finished one."""
    if arguments.dry_run:
        return print_plan(arguments)
    begin(arguments)
    check_room_before_loading(arguments)

    # The targets: the teacher's embeddings of English, and a finished model's own of languages that it keeps.
    teacher = load_teacher_of_student(arguments)
    reference = reference_of(arguments, teacher)
    rows = read_training_text(arguments)
    available = list(rows.features["captions"])
    new = check_languages(arguments.languages, available)
    replayed = languages_to_replay(arguments, available, new)
    arguments.replay_languages = replayed  # by which the trainer draws
    targets = embed_targets(arguments, rows, teacher)
    say(arguments, f"Cached {targets}")
    held = held_embeddings(arguments, rows, replayed)

    # The student. Only what its texts pass learns.
    model, tokenizer = build_student(arguments, rows, new)
    freeze_all_but(model, space_of(model.config).parts, arguments.freeze)
    set_attention(arguments, model)
    languages = new + replayed
    examples = CaptionExamples(
        rows,
        languages,
        "target",
        inputs=targets,
        held=held,
        sift=arguments.sift,
        max_characters=arguments.max_characters,
    )
    examples.check_any(arguments.dataset)
    processor, saved_processor = processors_of_student(
        arguments, model, tokenizer, teacher.processor.image_processor
    )
    collator = collator_of(arguments, model, processor)
    if not has_own_tower(model.config):
        tokenizer.model_max_length = collator.max_length
    initialize_text_head(arguments, model, tokenizer, examples, collator.max_length)
    updates = add_low_rank(arguments, model)
    validation = load_validation(arguments, model, processor, languages, reference)
    trainer = TeacherLearningTrainer(
        model=model,
        args=arguments,
        train_dataset=examples,
        data_collator=collator,
        processing_class=saved_processor,
        validation=validation,
    )
    train(trainer, arguments)
    save_learned(trainer, updates, arguments)
    following = f"{command_for('train stage2')} RECIPE.yaml, with it as model_name_or_path"
    finish(arguments, "the multilingual model", following)


__all__ = ["main"]
