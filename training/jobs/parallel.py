"""Parallel multilingual pre-training: two encoders learn from images with captions in several languages.

All captions of an image come in one step (Krasner & Lanuzo).
"""

import modeling_altclip  # noqa: F401  (its settings have to stand before torch is loaded)

# isort: split
from transformers import AutoImageProcessor

from common.models.kinds import load_tokenizer, readable
from modeling_altclip import AltCLIPProcessor
from training.data.loading import load_examples
from training.lifecycle import begin, cut_length, evaluation_of, finish, train
from training.parallel.caption_rows import CaptionRows, RowCollator
from training.parallel.trainer import FreezeEncoders, ParallelArguments, ParallelTrainer, build_dual_encoder
from training.validation import load_validation


def main(arguments: ParallelArguments) -> None:
    """Train both encoders and save them as one model."""
    begin(arguments)
    images = arguments.image_encoder_name_or_path
    texts = arguments.text_encoder_name_or_path
    tokenizer = load_tokenizer("text_encoder_name_or_path", texts)
    with readable("image_encoder_name_or_path", images):
        image_processor = AutoImageProcessor.from_pretrained(images, trust_remote_code=False)
    with readable("image_encoder_name_or_path or text_encoder_name_or_path", images):
        model = build_dual_encoder(arguments)

    processor = AltCLIPProcessor(image_processor, tokenizer)
    rows = CaptionRows(load_examples(arguments, arguments.languages))
    tokenizer.model_max_length = cut_length(arguments, model)
    collator = RowCollator(tokenizer, tokenizer.model_max_length, processor.image_processor)
    validation = load_validation(arguments, model, processor, rows.languages)
    trainer = ParallelTrainer(
        model=model,
        args=arguments,
        train_dataset=rows,
        data_collator=collator,
        processing_class=processor,
        validation=validation,
    )
    trainer.add_callback(FreezeEncoders(model, arguments.freeze_epochs))
    train(trainer, arguments)
    trainer.settle()  # checkpoints keep the scale as it is trained
    trainer.save_model()
    finish(arguments, "the dual encoder", evaluation_of(arguments))


__all__ = ["main"]
