"""Alignment in closed form: fit the projection of an image tower, or the head of a text encoder, by ridge."""

import time

from accelerate import PartialState
from transformers import PreTrainedModel, ProcessorMixin

from common.commands import command_for
from common.languages import check_languages
from common.models.loading import save_model
from common.output import bytes_of_weights
from training.alignment import Alignment
from training.arguments import AlignmentArguments, say
from training.data.examples import CaptionExamples
from training.data.preview import first_captions
from training.dry_run import check_room_before_loading
from training.image_alignment import align_images
from training.initialization import fit_text_head
from training.lifecycle import begin, collator_of, evaluation_of, finish
from training.model_checks import check_models, check_tokenizers
from training.output_folder import saving
from training.student import (
    build_student,
    embed_targets,
    load_teacher_of_student,
    processors_of_student,
    read_training_text,
    set_attention,
)


def main(arguments: AlignmentArguments) -> None:
    """Fit a projection in closed form, and save the whole model."""
    if arguments.dry_run:
        return _print_plan(arguments)
    begin(arguments, has_steps=False)
    started = time.perf_counter()
    align = align_images if arguments.aligns_images else _align_texts
    model, processor, alignment = align(arguments)
    seconds = time.perf_counter() - started
    say(arguments, f"Fitted in {seconds:.0f} seconds, towers included: {alignment.describe()}.")
    _save(arguments, model, processor)
    following = evaluation_of(arguments)
    if arguments.aligns_images:
        stage1 = f"{command_for('train stage1')} RECIPE.yaml, with it as teacher_name_or_path"
        following = f"{stage1}, for more languages; or {following}"
    finish(arguments, "the aligned model", following)


def _align_texts(arguments: AlignmentArguments) -> tuple[PreTrainedModel, ProcessorMixin, Alignment]:
    """Fit the last layer of a new student's text head to the teacher's targets, in all languages."""
    check_room_before_loading(arguments)
    teacher = load_teacher_of_student(arguments)
    rows = read_training_text(arguments)
    languages = check_languages(arguments.languages, list(rows.features["captions"]))
    targets = embed_targets(arguments, rows, teacher)
    say(arguments, f"Cached {targets}")
    model, tokenizer = build_student(arguments, rows, languages)
    set_attention(arguments, model)
    examples = CaptionExamples(
        rows,
        languages,
        "target",
        inputs=targets,
        sift=arguments.sift,
        max_characters=arguments.max_characters,
    )
    examples.check_any(arguments.dataset)
    processor, _ = processors_of_student(arguments, model, tokenizer, teacher.processor.image_processor)
    max_length = collator_of(arguments, model, processor).max_length
    tokenizer.model_max_length = max_length
    alignment = fit_text_head(
        arguments, model, tokenizer, examples, max_length, arguments.max_pairs, arguments.n_folds
    )
    return model, processor, alignment


def _save(arguments: AlignmentArguments, model: PreTrainedModel, processor: ProcessorMixin) -> None:
    """Save the model on the main process, and let the others wait for it."""
    if arguments.process_index == 0:
        with saving("the aligned model", arguments.output_dir, bytes_of_weights(model)):
            save_model(model, processor, arguments.output_dir)
    PartialState().wait_for_everyone()


def _print_plan(arguments: AlignmentArguments) -> None:
    """Print what would be fitted, and load no weights.

    Raises:
        InputError: data, model or tokenizer are missing or do not fit.
    """
    check_models(arguments)
    check_tokenizers(arguments)
    _, described = first_captions(arguments)
    fitted = f"the last layer of the text head of {arguments.text_encoder_name_or_path}"
    if arguments.aligns_images:
        fitted = f"the projection of {arguments.image_model_name_or_path}"
    pairs = "all" if arguments.max_pairs is None else f"at most {arguments.max_pairs:,}"
    lines = [
        ("data", f"{arguments.dataset}, split {arguments.split}: {described}"),
        ("teacher", arguments.teacher_name_or_path),
        ("fitted", f"{fitted}, by ridge regression in {arguments.n_folds} folds"),
        ("pairs", f"{pairs}; each image and text passes its frozen tower once"),
    ]
    for name, value in lines:
        say(arguments, f"{name:<22}{value}")
    say(arguments, "Dry run: nothing was fitted. Next: the same command without --dry_run.")


__all__ = ["main"]
