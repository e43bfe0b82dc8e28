"""Stage 1, teacher learning: a multilingual text tower learns to give an English CLIP's text vectors (paper 3.1).

accelerate launch training/run_stage1.py training/recipes/altclip/stage1.yaml
accelerate launch training/run_stage1.py training/recipes/miniature/stage1.yaml
"""

from transformers import AutoTokenizer

from benchmarks.loading import check_languages, load_model
from benchmarks.recipe import launch
from modeling_altclip import AltCLIPModel, AltCLIPProcessor
from training.arguments import TeacherLearningArguments
from training.data import CaptionCells, Collator
from training.estimate import report
from training.frozen import add_teacher_vectors
from training.parallel_text import load_parallel_text
from training.session import begin, finish, say, train
from training.trainers import TeacherLearningTrainer


def main(arguments: TeacherLearningArguments) -> None:
    if arguments.dry_run:
        return report(arguments)
    begin(arguments)
    teacher, teacher_processor = load_model(arguments.teacher_name_or_path)
    rows, n_without_english = load_parallel_text(arguments.dataset, arguments.split, arguments.kinds)
    say(arguments, f"Set aside {n_without_english} rows without English, which the teacher cannot read.")
    languages = check_languages(arguments.languages, list(rows.features["captions"]))
    rows = add_teacher_vectors(rows, teacher, teacher_processor.tokenizer)

    model = AltCLIPModel.from_teacher(arguments.teacher_name_or_path, arguments.text_encoder_name_or_path, dropout=arguments.dropout)
    model.set_attn_implementation(arguments.attn_implementation or model.config._attn_implementation)
    tokenizer = AutoTokenizer.from_pretrained(arguments.text_encoder_name_or_path, model_max_length=arguments.max_text_length)
    cells = CaptionCells(rows, languages, "target", sift=arguments.sift, max_characters=arguments.max_characters)
    collator = Collator(tokenizer, arguments.max_text_length)
    trainer = TeacherLearningTrainer(model=model.text_model, args=arguments, train_dataset=cells, data_collator=collator)
    train(trainer, arguments)
    trained = {f"text_model.{name}": value for name, value in trainer.accelerator.get_state_dict(trainer.model_wrapped).items()}
    if trainer.is_world_process_zero():
        model.save_pretrained(arguments.output_dir, state_dict=model.state_dict() | trained)
        AltCLIPProcessor(teacher_processor.image_processor, tokenizer).save_pretrained(arguments.output_dir)
    finish(arguments, "the multilingual model", "accelerate launch training/run_stage2.py RECIPE.yaml, with it as model_name_or_path")


if __name__ == "__main__":
    launch(main, TeacherLearningArguments)
