"""Translate captions: from rows in one language to rows in several, which say what they are made of."""

import shlex

from common.commands import command_for
from common.models.kinds import TRANSLATOR, check_kind
from training.text_similarity import load_text_encoder
from training.translation.output import describe, find_all_origins, unknown_licences, write_record
from training.translation.quality import Checked, check_translations, similarities_of
from training.translation.rows import (
    distinct_sentences,
    read_split,
    refuse_written,
    save,
    with_translations,
)
from training.translation.translating import TranslationArguments, translate_all


def main(arguments: TranslationArguments) -> None:
    """Translate the captions, check them, and write them with their images.

    Raises:
        InputError: the data, a model or a card cannot be read, a setting is wrong, or the output folder holds
            a dataset or cannot be written.
    """
    refuse_written(arguments)
    for name_or_path in arguments.all_models:
        check_kind("model", name_or_path, TRANSLATOR)

    # "train[:100]" is saved as "train"
    splits = {split.partition("[")[0]: read_split(arguments, split) for split in arguments.splits}
    origins = find_all_origins(arguments, sum(map(len, splits.values())))
    sentences = distinct_sentences(list(splits.values()), arguments.source_language, arguments.dataset)
    checked = _translate(sentences, arguments)

    kept = {language: translations.kept for language, translations in checked.items()}
    similarities = None
    if arguments.similarity_model_name_or_path is not None:
        similarities = {language: translations.similarities for language, translations in checked.items()}
    for split, rows in splits.items():
        splits[split] = with_translations(rows, kept, arguments.source_language, similarities)
    write_record(splits, checked, origins, arguments)
    save(splits, arguments.output_dir)

    skipped = [f"in {language}: {describe(translations)}" for language, translations in checked.items()]
    print(f"Translated {len(sentences)} distinct texts; skipped {'; '.join(skipped)}.")
    if unknown := unknown_licences(origins):
        print(unknown)
    has_images = all("image" in rows.column_names for rows in splits.values())
    following = command_for("train parallel" if has_images else "train stage1")
    print(
        f"Saved {sum(map(len, splits.values()))} rows to {arguments.output_dir}. "
        f"Next: {following} RECIPE.yaml --dataset {shlex.quote(arguments.output_dir)}"
    )


def _translate(sentences: list[str], arguments: TranslationArguments) -> dict[str, Checked]:
    """Translate the sentences into all languages, and check the translations; return these by language."""
    encoder = None
    if arguments.similarity_model_name_or_path is not None:
        encoder = load_text_encoder(
            arguments.similarity_model_name_or_path,
            "similarity_model_name_or_path",
            arguments.similarity_prefix,
        )
    checked = {}
    for language in arguments.target_languages:
        translations, made_by = translate_all(sentences, language, arguments)
        similarities = None
        if encoder is not None:
            similarities = similarities_of(translations, language, encoder, made_by, arguments)
        checked[language] = check_translations(translations, made_by, similarities, arguments)
    return checked


__all__ = ["main"]
