"""Stage 1, teacher learning: a multilingual text tower learns an English model's embeddings of texts.

See the paper, section 3.1.
"""

from common.commands import command_for
from common.languages import check_languages
from common.models.loading import load_model
from modeling_altclip import AltCLIPProcessor
from training.arguments import TeacherLearningArguments, say
from training.data.examples import CaptionExamples, Collator
from training.data.exclusion.rows import exclude_tests
from training.data.parallel_text import read_parallel_text
from training.dry_run import check_room_before_loading, print_plan
from training.freezing import freeze_all_but
from training.lifecycle import begin, cut_length, finish, train
from training.low_rank import add_low_rank
from training.output_folder import record_sources
from training.student import (
    build_student,
    embed_targets,
    held_embeddings,
    languages_to_replay,
    set_attention,
)
from training.teachers import space_of
from training.trainers import TeacherLearningTrainer
from training.validation import load_validation


def main(arguments: TeacherLearningArguments) -> None:
    """Train the text side of the student and save the whole model."""
    if arguments.dry_run:
        return print_plan(arguments)
    begin(arguments)
    check_room_before_loading(arguments)

    # The targets: the teacher's embeddings of English, and a finished model's own of languages that it keeps.
    teacher, teacher_processor = load_model(
        arguments.teacher_name_or_path,
        argument="teacher_name_or_path",
        trust_remote_code=arguments.trust_remote_code,
    )
    text = read_parallel_text(
        arguments.dataset, arguments.split, arguments.kinds, arguments.languages_to_read
    )
    say(arguments, text.describe_skipped())
    record_sources(arguments, text.origins)
    rows = exclude_tests(arguments, text.rows)
    available = list(rows.features["captions"])
    new = check_languages(arguments.languages, available)
    replayed = languages_to_replay(arguments, available, new)
    arguments.replay_languages = replayed  # by which the trainer draws
    targets = embed_targets(arguments, rows, teacher, teacher_processor.tokenizer)
    say(arguments, f"Cached {targets}")
    held = held_embeddings(arguments, rows, replayed)

    # The student. Only what its texts pass learns.
    model, tokenizer = build_student(arguments, rows, new)
    freeze_all_but(model, space_of(model.config).parts)
    updates = add_low_rank(arguments, model)
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
    tokenizer.model_max_length = cut_length(arguments, model)
    collator = Collator(tokenizer, tokenizer.model_max_length)
    processor = AltCLIPProcessor(teacher_processor.image_processor, tokenizer)
    validation = load_validation(arguments, model, processor, languages, (teacher, teacher_processor))
    trainer = TeacherLearningTrainer(
        model=model,
        args=arguments,
        train_dataset=examples,
        data_collator=collator,
        processing_class=processor,
        validation=validation,
    )
    train(trainer, arguments)
    if updates is not None:
        updates.merge_and_unload()  # the model that is saved is like any other
    trainer.save_model()
    following = f"{command_for('train stage2')} RECIPE.yaml, with it as model_name_or_path"
    finish(arguments, "the multilingual model", following)


__all__ = ["main"]
