"""Read Tatoeba's exports: sentences, and links between those that translate each other.

    sentences.csv, sentences_detailed.csv   1 <tab> cmn <tab> 我們試試看！ (<tab> user, dates)
    links.csv                               1 <tab> 1276

Exports of one language and of a pair of languages, `eng_sentences.tsv` and `eng-fra_links.tsv`, have the same
columns. There is no line of names.
"""

import re
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv

from common.errors import InputError, one_line
from common.languages import language_of_tag
from modeling_altclip.languages_altclip import is_english

from .documents import Document
from .entries import WITHOUT_ENGLISH, Entry, as_entry, skip

_SENTENCES = re.compile(r"((?:[a-z]{2,4}_)?sentences)(_detailed|_CC0)?(\.[ct]sv)")
_LINKS = re.compile(r"(?:[a-z]{2,4}-[a-z]{2,4}_)?links\.[ct]sv")
_WITHOUT_SENTENCE = "of a sentence that is not there"
_MOST_ID = 2**31
_AT_ONCE = 10_000  # links


def tatoeba_files(documents: list[Document]) -> list[Document]:
    """Return the sentences and links among some files by their names; none if one of both is missing.

    Where the same sentences are there with and without details, those without are taken.
    """
    names = {document.plain.name for document in documents}
    links = list(filter(is_links, documents))
    sentences = []
    for document in documents:
        match = _SENTENCES.fullmatch(document.plain.name)
        if match and (match[2] is None or match[1] + match[3] not in names):
            sentences.append(document)
    return sentences + links if sentences and links else []


def is_links(document: Document) -> bool:
    """Check by its name that a file has links between sentences."""
    return _LINKS.fullmatch(document.plain.name) is not None


def entries_of_tatoeba(documents: list[Document]) -> Iterator[Entry]:
    """Yield an entry of each link between two sentences, of which one is in English.

    Links that are there in both directions count once. All sentences are held in memory, and all
    links, with about 40 bytes each.

    Raises:
        InputError: a file is no table of such columns, or a sentence is there twice.
    """
    links = list(filter(is_links, documents))
    sentences = [document for document in documents if document not in links]
    table = pa.concat_tables(map(_read_sentences, sentences)).combine_chunks()
    ids = table["id"].to_numpy()
    by_id = ids.argsort(kind="stable")
    ids = ids[by_id]
    if (ids[1:] == ids[:-1]).any():
        twice = ids[1:][ids[1:] == ids[:-1]][0]
        raise InputError(f"sentence {twice} is twice in {' and '.join(_names(sentences))}: keep one of them")

    tags = table["language"].combine_chunks().dictionary_encode()
    languages = [tag.as_py() for tag in tags.dictionary]
    english = np.array([is_english(language_of_tag(language) or "") for language in languages], bool)
    language_ids = tags.indices.to_numpy()
    texts = table["text"].combine_chunks()

    pairs = _read_links(links)
    for start in range(0, len(pairs), _AT_ONCE):
        part = pairs[start : start + _AT_ONCE]
        # The places of both sentences in the order of their ids: ids [2, 5, 9], link 9 2 -> places 2 0
        places = ids.searchsorted(part).clip(max=max(0, len(ids) - 1))
        is_found = (ids[places] == part).all(axis=1) if len(ids) else np.zeros(len(part), bool)
        for _ in range(int((~is_found).sum())):
            yield skip(_WITHOUT_SENTENCE)
        rows = by_id[places[is_found]]
        has_english = english[language_ids[rows]].any(axis=1)
        for _ in range(int((~has_english).sum())):
            yield skip(WITHOUT_ENGLISH)
        rows = rows[has_english]
        first, second = (texts.take(pa.array(column)).to_pylist() for column in rows.T)
        for pair, *of_pair in zip(language_ids[rows], first, second):
            yield as_entry([(languages[language], text) for language, text in zip(pair, of_pair)])


def _names(documents: list[Document]) -> list[str]:
    return [document.name for document in documents]


def _read_sentences(document: Document) -> pa.Table:
    """Read the columns `id`, `language` and `text`.

    Raises:
        InputError: it is no such table.
    """
    columns = {"id": pa.int64(), "language": pa.string(), "text": pa.large_string()}
    return _read_table(document, columns)


def _read_links(documents: list[Document]) -> np.ndarray:
    """Read distinct pairs of ids, the smaller first, as an array `(links, 2)`.

    Raises:
        InputError: a file is no such table, or an id is out of range.
    """
    keys = []
    for document in documents:
        table = _read_table(document, {"id": pa.int64(), "other": pa.int64()})
        first, second = table["id"].to_numpy(), table["other"].to_numpy()
        smaller = np.minimum(first, second)
        larger = np.maximum(first, second)
        if len(table) and (smaller.min() < 0 or larger.max() >= _MOST_ID):
            raise InputError(f"dataset {document.name!r} has an id out of range: give links as exported")
        keys.append(smaller * _MOST_ID + larger)
    distinct = np.unique(np.concatenate(keys))
    return np.stack([distinct // _MOST_ID, distinct % _MOST_ID], axis=1)


def _read_table(document: Document, columns: dict[str, pa.DataType]) -> pa.Table:
    """Read the first columns of a table without a line of names; quotes are part of texts.

    Raises:
        InputError: a line has another number of columns or a value of another type, or is not UTF-8.
    """
    first_line = next(document.lines(), "")
    if not first_line:
        raise InputError(f"dataset {document.name!r} is empty: give sentences and links as exported")
    names = [*columns, *map(str, range(len(columns), first_line.count("\t") + 1))]
    try:
        with document.open() as file:
            return pa_csv.read_csv(
                file,
                pa_csv.ReadOptions(column_names=names),
                pa_csv.ParseOptions(delimiter="\t", quote_char=False),
                pa_csv.ConvertOptions(column_types=columns, include_columns=list(columns)),
            )
    except InputError as error:
        # What `Document.open` says of a damaged file is said of a wrong line too.
        raise InputError(
            f"{one_line(error)} It must have the columns {', '.join(columns)}, separated by tabs"
        ) from error


__all__ = ["entries_of_tatoeba", "is_links", "tatoeba_files"]
