"""Translate captions of images, to make the data of parallel pre-training (Krasner & Lanuzo).

python training/run_translation.py training/recipes/parallel/coco_translations.yaml
python training/run_translation.py --dataset my/captions --splits train --target_languages de \\
    --output_dir outputs/de --models '{"de": "Helsinki-NLP/opus-mt-en-de"}'

It runs in one process: for several GPUs start it once for each, with some of the target_languages and an
output_dir of its own.
"""

import shlex
from collections import Counter

from common.models.kinds import TRANSLATOR, check_kind
from common.recipe import launch
from training.parallel.translation import (
    TranslationArguments,
    distinct_sentences,
    read_split,
    refuse_written,
    save,
    translate_all,
    with_translations,
    write_card,
)


def main(arguments: TranslationArguments) -> None:
    refuse_written(arguments)
    models = arguments.models.values() if arguments.models else [arguments.model_name_or_path]
    for name_or_path in models:
        check_kind("model", name_or_path, TRANSLATOR)

    # "train[:100]" is saved as "train"
    splits = {split.partition("[")[0]: read_split(arguments, split) for split in arguments.splits}
    sentences = distinct_sentences(list(splits.values()), arguments.source_language, arguments.dataset)
    translations = {}
    made_by = {}
    for language in arguments.target_languages:
        translations[language], made_by[language] = translate_all(sentences, language, arguments)
    for split, rows in splits.items():
        splits[split] = with_translations(rows, translations, arguments.source_language)
    write_card(splits, translations, made_by, arguments)
    save(splits, arguments.output_dir)

    empty = []
    for language, of_sentence in translations.items():
        n_empty = Counter(of_sentence.values())[""]
        empty.append(f"{n_empty} in {language}")
    print(f"Translated {len(sentences)} distinct texts; skipped as empty: {', '.join(empty)}.")
    print(
        f"Saved {sum(map(len, splits.values()))} rows to {arguments.output_dir}. "
        "Next: accelerate launch --quiet training/run_parallel.py RECIPE.yaml "
        f"--dataset {shlex.quote(arguments.output_dir)}"
    )


if __name__ == "__main__":
    launch(main, TranslationArguments, one_process=True)
