"""Stage 0: train an English CLIP, the teacher. Skip this stage where a trained CLIP is at hand."""

from common.commands import command_for
from common.models.loading import load_model
from modeling_altclip.texts_altclip import forget_calls
from training.arguments import TeacherArguments, say
from training.data.loading import load_examples
from training.dry_run import check_room_before_loading, print_plan
from training.lifecycle import begin, collator_of, finish, train
from training.logit_bias import fit_to_loss
from training.trainers import ContrastiveTrainer
from training.validation import load_validation


def main(arguments: TeacherArguments) -> None:
    """Train the teacher and save it."""
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

    examples = load_examples(arguments, ["en"])
    collator = collator_of(arguments, model, processor)
    validation = load_validation(arguments, model, processor, ["en"])
    trainer = ContrastiveTrainer(
        model=model,
        args=arguments,
        train_dataset=examples,
        data_collator=collator,
        processing_class=processor,
        validation=validation,
    )

    train(trainer, arguments)
    # A run that resumes after its last step has called the tokenizer less often.
    forget_calls(processor.tokenizer)
    trainer.save_model()
    following = f"{command_for('train stage1')} RECIPE.yaml, with it as teacher_name_or_path"
    finish(arguments, "the English teacher", following)


__all__ = ["main"]
