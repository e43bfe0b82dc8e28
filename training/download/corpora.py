"""Read a public corpus as a table of addresses by its name: `--dataset laion-coco-nllb --languages de`."""

from dataclasses import replace

from datasets import Dataset, concatenate_datasets

from common.errors import InputError
from common.files.rows import open_rows, readable_rows

from ..data.sources.reading import read_texts, source_options
from ..data.sources.source import TEXTS, Source
from .arguments import DownloadArguments


def open_corpus(source: Source, arguments: DownloadArguments) -> tuple[Dataset, DownloadArguments]:
    """Open the addresses of a corpus, with captions in the requested languages.

    Of `arguments.rows` rows no more than these are downloaded from the Hub.

    Returns:
        The rows; and the arguments, in which the columns are named.

    Raises:
        InputError: the corpus is refused for training, or has no addresses; a flag names a column; a column
            is missing; or as `read_texts`.
    """
    _check(source, arguments)
    url_column = source.columns["url"]
    captions = source.columns.get("captions")
    if source.layout in TEXTS:
        # Rows of `{language: [text, ...]}`, in the order of the corpus.
        texts = read_texts(source, arguments.languages, arguments.split, arguments.rows)
        addresses = _open(source, arguments, [url_column])
        return concatenate_datasets([addresses, texts], axis=1), replace(arguments, url_column=url_column)
    if isinstance(captions, dict):
        rows = _open(source, arguments, [url_column, *captions.values()])
        return rows, replace(arguments, url_column=url_column, caption_columns=captions)

    language_column = source.columns["language"]
    rows = _open(source, arguments, [url_column, captions, language_column])
    if source.codes:
        languages = {code: language for language, code in source.codes.items()}
        rows = rows.map(_name_language, fn_kwargs={"column": language_column, "languages": languages})
    columns = {"url_column": url_column, "text_column": captions, "language_column": language_column}
    return rows, replace(arguments, **columns)


def _check(source: Source, arguments: DownloadArguments) -> None:
    """Check that a corpus has addresses to train on, and that no flag names its columns.

    Raises:
        InputError: it has none, is refused for training, or a flag does.
    """
    if source.refused:
        raise InputError(f"source {source.name!r} is refused for training: {source.refused}")
    if source.layout != "addresses" and not (source.layout in TEXTS and "url" in source.columns):
        remedy = "train on it by its name" if source.layout == "images" else "choose another source"
        raise InputError(f"source {source.name!r} has no addresses of images: {remedy}")
    for name in ("text_column", "language_column", "caption_columns"):
        value = getattr(arguments, name)
        if value is not None:
            raise InputError(f"{name} is {value!r}: source {source.name!r} names its columns itself")


def _open(source: Source, arguments: DownloadArguments, columns: list[str]) -> Dataset:
    """Open some columns of a corpus.

    Raises:
        InputError: the corpus cannot be opened, or lacks one of them.
    """
    options = source_options(source, arguments.split, source.config)
    split = source.splits[arguments.split]
    with readable_rows(source.dataset, split):
        rows = open_rows(source.dataset, split, streaming=arguments.rows is not None, **options)
    missing = [column for column in columns if column not in rows.column_names]
    if missing:
        raise InputError(
            f"source {source.name!r} has no column {', '.join(missing)} in {source.dataset}: it "
            f"has {', '.join(rows.column_names)}. Correct `columns` of {source.file}, or pin an earlier "
            "`revision`"
        )
    rows = rows.select_columns(columns)
    if arguments.rows is None:
        return rows
    with readable_rows(source.dataset, split):
        return Dataset.from_list(list(rows.take(arguments.rows)), rows.features)


def _name_language(row: dict, column: str, languages: dict[str, str]) -> dict:
    return {column: languages.get(row[column], row[column])}


__all__ = ["open_corpus"]
