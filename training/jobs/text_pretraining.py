"""Pre-train a text encoder on text alone, in many languages (Conneau & Lample 2019)."""

from common.languages import check_languages
from modeling_altclip.texts_altclip import forget_calls
from training.arguments import say
from training.data.images import EpochCallback
from training.data.parallel_text import read_parallel_text
from training.lifecycle import begin, cut_length, finish, train
from training.output_folder import record_sources
from training.parallel.pretraining import (
    MaskingCollator,
    TextPretrainingArguments,
    TranslationPairs,
    load_for_masking,
    save_encoder,
)
from training.trainers import AltCLIPTrainer


def main(arguments: TextPretrainingArguments) -> None:
    """Train the encoder with a head that predicts masked tokens, and save it without the head."""
    begin(arguments)
    config = {"attn_implementation": arguments.attn_implementation}
    if arguments.dropout is not None:
        config |= {
            "hidden_dropout_prob": arguments.dropout,
            "attention_probs_dropout_prob": arguments.dropout,
        }
    model, tokenizer = load_for_masking(arguments.text_encoder_name_or_path, **config)
    text = read_parallel_text(arguments.dataset, arguments.split, languages=arguments.languages)
    rows = text.rows
    say(arguments, text.describe_skipped())
    record_sources(arguments, text.origins)
    languages = check_languages(arguments.languages, list(rows.features["captions"]))

    translations = TranslationPairs(
        rows, languages, arguments.pairs, arguments.seed, arguments.max_characters
    )
    collator = MaskingCollator(tokenizer, cut_length(arguments, model), arguments.mask_probability)
    trainer = AltCLIPTrainer(
        model=model,
        args=arguments,
        train_dataset=translations,
        data_collator=collator,
        callbacks=[EpochCallback(translations)],  # pairs are drawn anew in each epoch
    )
    train(trainer, arguments)
    # A run that resumes after its last step has called the tokenizer less often.
    forget_calls(tokenizer)
    save_encoder(trainer, tokenizer, arguments.output_dir)
    if arguments.push_to_hub:
        trainer.push_saved()
    finish(
        arguments,
        "the text encoder",
        "use it as text_encoder_name_or_path, or as text tower of AltCLIPDualEncoderModel.from_towers",
    )


__all__ = ["main"]
