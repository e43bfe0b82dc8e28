"""Read the rows whose captions are translated, and write them with the translations.

With images a row stays as it is and gets captions in more languages. Without, rows are parallel text, as
stage 1 reads it: one text in each language.
"""

import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow.compute as pc
from datasets import Dataset, Features, Image, List, Value, concatenate_datasets
from datasets.table import embed_table_storage
from tqdm.auto import tqdm

from common.errors import InputError
from common.files.contents import content_digest
from common.files.endings import suffix_of
from common.files.names import file_name
from common.files.tars import TEXT_COLUMNS
from common.files.text_files import lines_of
from common.languages import check_language
from common.output import check_not_input, check_output_dir, saving
from modeling_altclip.languages_altclip import canonical
from modeling_altclip.texts_altclip import is_blank

from ..data.budgets import Budget, take_budget
from ..data.captions import features_of, find_form, gather_captions, with_captions, with_image
from ..data.examples import caption_slices
from ..data.formats.reading import find_translations
from ..data.formats.unpacking import unpack
from ..data.loading import refuse_text_column
from ..data.parallel_text import (
    moses_paths,
    only_captions,
    open_dataset,
    open_tables,
    read_parallel_text,
    read_ready,
    readable_texts,
)
from ..data.sources.loading import find_source
from ..data.sources.reading import read_images, read_texts
from ..data.sources.source import IMAGES, Source
from ..data.text_tables import from_lines
from .translating import TranslationArguments

# Some 300 MB of COCO's images, and some 30 MB of captions.
_SHARD_ROWS = 2000
_SHARD_TEXTS = 100_000


def read_split(arguments: TranslationArguments, split: str) -> Dataset:
    """Read a split as rows of `captions` by language, and of undecoded `image` and all else beside images.

    It replaces `arguments.source_language` by the name that the captions have for it.

    Raises:
        InputError: as `find_form`, `read_texts` or `read_images`; there are no captions to translate; or
            captions in a target language exist already.
    """
    rows = _open_split(arguments, split)
    if not arguments.keep_images or "image" not in rows.column_names:
        rows = rows.select_columns(["captions"])
    rows = take_budget(rows, Budget(arguments.rows))

    available = list(rows.features["captions"])
    existing = [language for language in arguments.target_languages if canonical(language) in available]
    # `en` may stand for `en-GB`, if the captions have no other English.
    arguments.source_language = check_language(
        arguments.source_language, available, f"captions of {arguments.dataset!r} have no"
    )
    if existing:
        raise InputError(
            f"captions of {arguments.dataset!r} have {' '.join(existing)} already: take it out of "
            "target_languages"
        )
    if arguments.split_lines or arguments.captions_per_image:
        rows = _with_cut_captions(rows, available, arguments)
    return rows if "image" in rows.column_names else _one_text_each(rows, arguments)


def _open_split(arguments: TranslationArguments, split: str) -> Dataset:
    """Open a split of whichever form, see `read_split`."""
    dataset = arguments.dataset
    source = find_source(dataset)
    if source is not None:
        return _read_corpus(source, split, arguments)
    if dataset.endswith((".yaml", ".yml")):  # a list of sources
        return read_parallel_text(dataset, split, languages=arguments.languages).rows
    if suffix_of(dataset) == ".txt":
        return _read_lines(dataset, arguments.source_language)
    if find_translations(dataset) or moses_paths(unpack(dataset)):
        rows, _ = read_ready({"data": dataset}, split)
        return rows
    with readable_texts(dataset):
        rows = open_tables(unpack(dataset), None, split)
        if rows is not None:
            return _read_table(rows, arguments)
    rows = open_dataset(dataset, split, arguments.rows, allow_outside=arguments.allow_outside_images)
    return _read_dataset(rows, arguments)


def _read_corpus(source: Source, split: str, arguments: TranslationArguments) -> Dataset:
    """Read a split of a public corpus, in the source language and those of `languages`.

    Raises:
        InputError: as `read_texts` or `read_images`; or a column is named, which the corpus names itself.
    """
    refuse_text_column(source, arguments.text_column)
    budget = Budget(arguments.rows)
    languages = arguments.languages
    if languages:
        languages = list(dict.fromkeys([arguments.source_language, *languages]))
    if source.layout in IMAGES:
        allow_outside = arguments.allow_outside_images
        return read_images(source, languages, split, budget=budget, allow_outside=allow_outside)
    return read_texts(source, languages, split, budget=budget)


def _read_lines(path: str, language: str) -> Dataset:
    """Read a text file with a caption in each line; blank lines are left out."""

    def rows(path: str, contents: str) -> Iterator[dict]:
        for line in lines_of(path, "dataset"):
            if not is_blank(line):
                yield {"captions": {language: [line.strip()]}}

    # A changed file has to be read anew, so that its contents are part of the cache key.
    return from_lines(rows, features_of([language]), path=path, contents=content_digest(path))


def _read_table(rows: Dataset, arguments: TranslationArguments) -> Dataset:
    """Read the captions of a table, without images.

    Raises:
        InputError: it has images, which only folders and Hub datasets may have; or as `_read_texts`.
    """
    pictures = [name for name, kind in rows.features.items() if isinstance(kind, Image)]
    if pictures and arguments.keep_images:
        raise InputError(
            f"dataset {arguments.dataset!r} is a file with images in {pictures[0]}: give its folder, or "
            "keep_images false for its texts"
        )
    return _read_texts(rows, arguments)


def _read_texts(rows: Dataset, arguments: TranslationArguments) -> Dataset:
    """Read the captions of rows without images, from a column of captions or columns named by languages.

    Raises:
        InputError: as `find_form` or `only_captions`.
    """
    has_captions = bool({*TEXT_COLUMNS, "json"} & set(rows.features)) or arguments.text_column is not None
    if arguments.source_language in rows.features or not has_captions:
        return only_captions(rows, arguments.dataset)
    form = find_form(rows.features, arguments.dataset, arguments.text_column, [arguments.source_language])
    return gather_captions(rows, form, arguments.dataset)


def _read_dataset(rows: Dataset, arguments: TranslationArguments) -> Dataset:
    """Read the captions of a folder or Hub dataset, with images and all other columns if it has images.

    Raises:
        InputError: it has several columns of images; or as `find_form`.
    """
    dataset = arguments.dataset
    has_images = "image" in rows.features or any(isinstance(kind, Image) for kind in rows.features.values())
    if not has_images:
        return _read_texts(rows, arguments)
    rows = with_image(rows, dataset)
    form = find_form(rows.features, dataset, arguments.text_column, [arguments.source_language])
    captions = with_captions(rows, form, dataset).select_columns(["captions"])
    of_captions = sorted({form.column, "captions"} & set(rows.column_names))
    return concatenate_datasets([rows.remove_columns(of_captions), captions], axis=1)


def _with_cut_captions(rows: Dataset, available: list[str], arguments: TranslationArguments) -> Dataset:
    """Return the same rows with captions that are split into lines and limited as the arguments say."""

    def cut_row(row: dict) -> dict:
        cut = {language: _cut(texts, arguments) for language, texts in row["captions"].items()}
        return {"captions": cut}

    captions = rows.select_columns(["captions"]).map(
        cut_row, features=features_of(available), desc="Cutting captions"
    )
    return _beside_others(rows, captions)


def _beside_others(rows: Dataset, captions: Dataset) -> Dataset:
    """Return `rows` with new captions in place of theirs."""
    others = rows.remove_columns("captions")
    return concatenate_datasets([others, captions], axis=1) if others.column_names else captions


def _cut(texts: list[str], arguments: TranslationArguments) -> list[str]:
    """Return a row's texts in one language, split into lines and limited as the arguments say.

    With `split_lines`: `"a dog\\n a cat \\n"` -> `["a dog", "a cat"]`.
    """
    if arguments.split_lines:
        lines = []
        for text in texts:
            lines += [line.strip() for line in (text or "").splitlines() if not is_blank(line)]
        texts = lines
    return texts[: arguments.captions_per_image]


def _most_texts(rows: Dataset) -> int:
    """Return the number of texts that any row has in one language at most."""
    most = 0
    for captions in caption_slices(rows):
        for texts in captions.values():
            most = max(most, pc.max(pc.list_value_length(texts)).as_py() or 0)
    return most


def _one_text_each(rows: Dataset, arguments: TranslationArguments) -> Dataset:
    """Return rows of `captions` with one text in each language, as parallel text has them.

    `{"en": ["a dog", "a cat"], "zh": []}` becomes two rows.

    Raises:
        InputError: a row has several texts, and another number of them in another language.
    """
    if _most_texts(rows) <= 1:
        return rows
    source = arguments.source_language

    def split_rows(batch: dict) -> dict:
        split = []
        for captions in batch["captions"]:
            n_texts = len(captions[source])
            for language, texts in captions.items():
                if len(texts) not in (0, n_texts):
                    raise InputError(
                        f"a row of {arguments.dataset!r} has {n_texts} texts in {source} and {len(texts)} in "
                        f"{language}, which are no pairs: give as many, or none"
                    )
            for number in range(n_texts):
                split.append({language: texts[number : number + 1] for language, texts in captions.items()})
        return {"captions": split}

    return rows.map(split_rows, batched=True, features=rows.features, desc="Splitting rows")


def distinct_sentences(splits: list[Dataset], language: str, dataset: str) -> list[str]:
    """Return each distinct sentence once, the longest first.

    Batches then hold texts of similar length, and the first one is the largest: if the memory is too small,
    the run fails at once.

    Raises:
        InputError: there is no sentence in the language.
    """
    sentences = set()
    for rows in splits:
        for captions in rows.select_columns(["captions"])["captions"]:
            for text in captions[language]:
                if text and not is_blank(text):
                    sentences.add(text)
    if not sentences:
        raise InputError(
            f"dataset {dataset!r} has no caption in {language} to translate: give other splits, or another "
            "source_language"
        )
    # Equal lengths in alphabetical order: a set has another order in each run.
    return sorted(sentences, key=lambda text: (-len(text), text))


def with_translations(
    rows: Dataset,
    translations: dict[str, dict[str, str]],
    source: str,
    similarities: dict[str, dict[str, float]] | None = None,
) -> Dataset:
    """Return the same rows with captions in the languages of `translations` as well.

    A caption is None where it has no translation, `["perro", None]` of two captions; without images its list
    is empty.

    Args:
        similarities: by language, of sentences and their translations. They become a column `similarity`,
            `{language: [0.83, 0.41]}`, a value for each caption in the source language.
    """
    captions = rows.features["captions"]
    is_text = "image" not in rows.column_names

    def add(row: dict) -> dict:
        sentences = row["captions"][source]
        for language, of_sentence in translations.items():
            found = [of_sentence.get(sentence) or None for sentence in sentences]
            row["captions"][language] = [text for text in found if text] if is_text else found
        added = {"captions": row["captions"]}
        if similarities is not None:
            added["similarity"] = {}
            for language, of_sentence in similarities.items():
                added["similarity"][language] = [of_sentence.get(sentence) for sentence in sentences]
        return added

    of_translations = {language: captions[source] for language in translations}
    features = Features({"captions": captions | of_translations})
    if similarities is not None:
        features["similarity"] = {language: List(Value("float32")) for language in similarities}
    translated = rows.select_columns(["captions"]).map(add, features=features, desc="Adding translations")
    return _beside_others(rows, translated)


def refuse_written(arguments: TranslationArguments) -> None:
    """Check that the output folder can be written, and that no dataset would be overwritten.

    Raises:
        InputError: the output folder cannot be written, holds a dataset, or is the one that is translated.
    """
    check_output_dir(arguments.output_dir)
    check_not_input(arguments.output_dir, {"dataset": arguments.dataset})
    if Path(arguments.output_dir, "data").exists():
        raise InputError(
            f"output_dir {arguments.output_dir} holds a dataset already: delete its folder data, or give "
            "another"
        )


def save(splits: dict[str, Dataset], output_dir: str) -> None:
    """Write the splits as parquet files, which contain the images' bytes.

    The folder `data` gets its name when it is complete.
    """
    partial = Path(output_dir, "data.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for split, rows in splits.items():
        name = file_name(split)
        n_in_shard = _SHARD_TEXTS
        if "image" in rows.column_names:
            n_in_shard = _SHARD_ROWS
            rows = rows.cast_column("image", Image())
        n_shards = math.ceil(len(rows) / n_in_shard)
        rows = rows.with_format("arrow")
        for number in tqdm(range(n_shards), desc=f"Writing {split}", unit="file"):
            # Images that lie in files of their own are read into the table here.
            shard = rows.shard(n_shards, number).map(
                embed_table_storage, batched=True, batch_size=100, keep_in_memory=True
            )
            path = partial / f"{name}-{number:05d}-of-{n_shards:05d}.parquet"
            with saving(path.name, partial, shard.data.nbytes):
                shard.to_parquet(path)
    partial.rename(partial.with_suffix(""))


__all__ = ["distinct_sentences", "read_split", "refuse_written", "save", "with_translations"]
