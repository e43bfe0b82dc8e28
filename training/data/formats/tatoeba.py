"""Read Tatoeba's exports: sentences, and links between those that translate each other.

    sentences.csv, sentences_detailed.csv   1 <tab> cmn <tab> 我們試試看！ (<tab> user, dates)
    links.csv                               1 <tab> 1276

Exports of one language and of a pair of languages, `eng_sentences.tsv` and `eng-fra_links.tsv`, have the same
columns. There is no line of names.
"""

import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from common.errors import InputError, one_line
from common.files.whole_files import written_whole
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


class _Sentences(NamedTuple):
    """All sentences, in the order of their ids.

    - `ids`: `(sentences,)`. `languages`: the number of each one's language in `tags`, `(sentences,)`.
    - `places`: that of each one in `texts`, which are on the disk.
    - `tags`: the languages, as they are written.
    """

    ids: np.ndarray
    languages: np.ndarray
    places: np.ndarray
    texts: pa.LargeStringArray
    tags: list[str]


def entries_of_tatoeba(documents: list[Document]) -> Iterator[Entry]:
    """Yield an entry of each link between two sentences, of which one is in English.

    Links that are there in both directions count once. Texts lie on the disk meanwhile. Memory holds about 30
    bytes of each sentence and of each link.

    Raises:
        InputError: a file is no table of such columns, or a sentence is there twice.
    """
    links = list(filter(is_links, documents))
    sentences = [document for document in documents if document not in links]
    with TemporaryDirectory(prefix="altclip-tatoeba-") as folder:
        yield from _entries(_read_sentences(sentences, Path(folder)), _read_links(links))


def _entries(sentences: _Sentences, pairs: np.ndarray) -> Iterator[Entry]:
    """Yield the entry of each pair of ids `(links, 2)`."""
    ids = sentences.ids
    english = np.array([is_english(language_of_tag(tag) or "") for tag in sentences.tags], bool)
    for start in range(0, len(pairs), _AT_ONCE):
        part = pairs[start : start + _AT_ONCE]
        # The numbers of both sentences in the order of their ids: ids [2, 5, 9], link 9 2 -> 2 0
        numbers = ids.searchsorted(part).clip(max=max(0, len(ids) - 1))
        is_found = (ids[numbers] == part).all(axis=1) if len(ids) else np.zeros(len(part), bool)
        for _ in range(int((~is_found).sum())):
            yield skip(_WITHOUT_SENTENCE)
        numbers = numbers[is_found]
        languages = sentences.languages[numbers]
        has_english = english[languages].any(axis=1)
        for _ in range(int((~has_english).sum())):
            yield skip(WITHOUT_ENGLISH)
        places = sentences.places[numbers[has_english]]
        first, second = (sentences.texts.take(pa.array(column)).to_pylist() for column in places.T)
        for pair, *of_pair in zip(languages[has_english], first, second):
            yield as_entry([(sentences.tags[language], text) for language, text in zip(pair, of_pair)])


def _names(documents: list[Document]) -> list[str]:
    return [document.name for document in documents]


def _read_sentences(documents: list[Document], folder: Path) -> _Sentences:
    """Read the columns `id`, `language` and `text`; the texts go to two files in the folder.

    Raises:
        InputError: a file is no such table, or a sentence is there twice.
    """
    columns = {"id": pa.int64(), "language": pa.string(), "text": pa.large_string()}
    ids, languages = [], []
    numbers: dict[str, int] = {}  # of the languages, in the order in which they come
    end = 0  # of the texts so far, in bytes
    with written_whole(folder / "texts") as texts, written_whole(folder / "offsets") as offsets:
        offsets.write(np.array([0], np.int64))
        for batch in chain.from_iterable(_read_table(document, columns) for document in documents):
            ids.append(batch["id"].to_numpy())
            encoded = batch["language"].dictionary_encode()
            known = [numbers.setdefault(tag, len(numbers)) for tag in encoded.dictionary.to_pylist()]
            languages.append(np.array(known, np.int32)[encoded.indices.to_numpy()])
            # Offsets of all texts: those of lengths 3 and 4 after 10 bytes are 13 and 17.
            ends = end + pc.binary_length(batch["text"]).to_numpy().cumsum()
            offsets.write(ends.astype(np.int64))
            texts.write(b"".join(batch["text"].cast(pa.large_binary()).to_pylist()))
            end = int(ends[-1]) if len(ends) else end

    ids = np.concatenate(ids)
    places = ids.argsort(kind="stable")
    ids = ids[places]
    if (ids[1:] == ids[:-1]).any():
        twice = ids[1:][ids[1:] == ids[:-1]][0]
        raise InputError(f"sentence {twice} is twice in {' and '.join(_names(documents))}: keep one of them")
    buffers = [pa.memory_map(str(folder / name)).read_buffer() for name in ("offsets", "texts")]
    return _Sentences(
        ids,
        np.concatenate(languages)[places],
        places,
        pa.LargeStringArray.from_buffers(len(ids), *buffers),
        list(numbers),
    )


def _read_links(documents: list[Document]) -> np.ndarray:
    """Read distinct pairs of ids, the smaller first, as an array `(links, 2)`.

    Raises:
        InputError: a file is no such table, or an id is out of range.
    """
    keys = []
    for document in documents:
        for batch in _read_table(document, {"id": pa.int64(), "other": pa.int64()}):
            first, second = batch["id"].to_numpy(), batch["other"].to_numpy()
            smaller = np.minimum(first, second)
            larger = np.maximum(first, second)
            if len(batch) and (smaller.min() < 0 or larger.max() >= _MOST_ID):
                raise InputError(f"dataset {document.name!r} has an id out of range: give links as exported")
            keys.append(smaller * _MOST_ID + larger)
    distinct = np.unique(np.concatenate(keys))
    return np.stack([distinct // _MOST_ID, distinct % _MOST_ID], axis=1)


def _read_table(document: Document, columns: dict[str, pa.DataType]) -> Iterator[pa.RecordBatch]:
    """Yield the first columns of a table without a line of names, in batches; quotes are part of texts.

    Raises:
        InputError: a line has another number of columns or a value of another type, or is not UTF-8.
    """
    first_line = next(document.lines(), "")
    if not first_line:
        raise InputError(f"dataset {document.name!r} is empty: give sentences and links as exported")
    names = [*columns, *map(str, range(len(columns), first_line.count("\t") + 1))]
    try:
        with document.open() as file:
            yield from pa_csv.open_csv(
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
