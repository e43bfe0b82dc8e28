"""Stage 1, teacher learning: a multilingual text tower learns an English CLIP's embeddings of texts.

See the paper, section 3.1.
"""

from benchmarks.commands import command_for
from benchmarks.loading import check_languages, load_model
from modeling_altclip import AltCLIPProcessor
from training.arguments import TeacherLearningArguments
from training.data.examples import CaptionCells, Collator
from training.dry_run import report
from training.freezing import freeze_all_but
from training.frozen import teacher_vectors
from training.parallel_text import load_parallel_text
from training.session import begin, cut_length, finish, say, train
from training.student import build_student, held_vectors, languages_to_replay
from training.trainers import TeacherLearningTrainer
from training.validation import load_validation


def main(arguments: TeacherLearningArguments) -> None:
    """Train the text tower and save the whole model."""
    if arguments.dry_run:
        return report(arguments)
    begin(arguments)

    # The targets: the teacher's embeddings of English, and a finished model's own of languages that it keeps.
    teacher, teacher_processor = load_model(arguments.teacher_name_or_path, argument="teacher_name_or_path")
    rows, n_without_english = load_parallel_text(arguments.dataset, arguments.split, arguments.kinds)
    say(arguments, f"Skipped {n_without_english} rows without English, which the teacher cannot read.")
    available = list(rows.features["captions"])
    new = check_languages(arguments.languages, available)
    replayed = languages_to_replay(arguments, available, new)
    arguments.replay_languages = replayed  # by which the trainer draws
    targets = teacher_vectors(
        rows, teacher, teacher_processor.tokenizer, cache_dir=arguments.cache_dir, dtype=arguments.cache_dtype
    )
    say(arguments, f"Cached {targets}")
    held = held_vectors(arguments, rows, replayed)

    # The student. Only its text tower learns.
    model, tokenizer = build_student(arguments, rows, new)
    freeze_all_but(model, ["text_model"])
    model.set_attn_implementation(arguments.attn_implementation or model.config._attn_implementation)
    languages = new + replayed
    cells = CaptionCells(
        rows,
        languages,
        "target",
        inputs=targets,
        held=held,
        sift=arguments.sift,
        max_characters=arguments.max_characters,
    )
    tokenizer.model_max_length = cut_length(arguments, model)
    collator = Collator(tokenizer, tokenizer.model_max_length)
    processor = AltCLIPProcessor(teacher_processor.image_processor, tokenizer)
    validation = load_validation(arguments, model, processor, languages, (teacher, teacher_processor))
    trainer = TeacherLearningTrainer(
        model=model,
        args=arguments,
        train_dataset=cells,
        data_collator=collator,
        processing_class=processor,
        validation=validation,
    )
    train(trainer, arguments)
    trainer.save_model()
    following = f"{command_for('train stage2')} RECIPE.yaml, with it as model_name_or_path"
    finish(arguments, "the multilingual model", following)


__all__ = ["main"]
