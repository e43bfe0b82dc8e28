"""Read the texts of a corpus by language, as often as they are needed and a batch at a time.

| a source is | its languages are |
|---|---|
| a file of text, one text a line, also compressed | the one before `=`, as in `fr=captions.txt` |
| a `.parquet` or `.jsonl` file, a folder or Hub dataset with | |
| - a column of dicts, `{"en": "a dog", "fr": "un chien"}` | the keys |
| - columns named by codes, `en` and `fr` | the names |
| - a column of texts, and a column `language` | in `language` |
| - a column of texts | the one before `=`, as in `fr=captions.parquet` |

Wherever there is a text, there may be a list of texts. A language that nothing names is `und`.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from datasets import Dataset
from tqdm.auto import tqdm

from common.errors import InputError
from common.files.contents import contents_of
from common.files.endings import suffix_of
from common.files.rows import load_rows, open_rows, readable_rows
from common.files.table_cells import may_hold_texts, read_texts
from common.files.text_files import lines_of
from common.languages import check_languages
from common.paths import check_folder
from modeling_altclip.languages_altclip import CODE, canonical, name_languages
from modeling_altclip.texts_altclip import is_blank

_UNKNOWN = "und"
_BATCH = 1000  # texts that are read and tokenized at a time
_BUILDERS = {".parquet": "parquet", ".jsonl": "json", ".ndjson": "json", ".json": "json"}
_OTHER_TABLES = (".csv", ".tsv")
_TEXT_COLUMNS = ("captions", "translation", "caption", "text")
# "fr=captions.txt"; a path that has an equals sign elsewhere is no language and a path
_NAMED = re.compile(rf"({CODE.pattern})=(.+)")


@dataclass(frozen=True)
class Texts:
    """Texts of one language from one source.

    Attributes:
        language: its canonical code, or `und`.
        batches: reads the texts from the start, in lists; none is blank.
    """

    language: str
    batches: Callable[[], Iterator[list[str]]]


def open_corpus(
    sources: list[str], split: str, *, text_column: str | None = None, languages: list[str] | None = None
) -> list[Texts]:
    """Find the texts of several sources; they are read when they are asked for.

    Args:
        split: the split of folders and Hub datasets.
        text_column: the column of the texts, if it has none of the usual names.
        languages: the languages to read, all by default.

    Raises:
        InputError: a source is missing or of another form, or no source has a language that is requested.
    """
    texts = [part for source in sources for part in _open_source(source, split, text_column)]
    available = list(dict.fromkeys(part.language for part in texts))
    chosen = check_languages(languages, available)
    return [part for part in texts if part.language in chosen]


def first_texts(corpus: list[Texts], n_texts: int) -> list[str]:
    """Return the first texts of a corpus, as many of each of its parts."""
    each = max(1, n_texts // len(corpus))
    texts = []
    for part in corpus:
        texts += next(part.batches(), [])[:each]
    return texts[:n_texts]


def read_batches(corpus: Iterable[Texts], description: str) -> Iterator[tuple[str, list[str]]]:
    """Yield all texts of a corpus in batches, each with its language, behind a progress bar."""
    with tqdm(desc=description, unit="text", unit_scale=True) as bar:
        for part in corpus:
            for texts in part.batches():
                yield part.language, texts
                bar.update(len(texts))


def _open_source(source: str, split: str, text_column: str | None) -> list[Texts]:
    """Find the texts of one source, `SOURCE` or `LANGUAGE=SOURCE`."""
    named = _NAMED.fullmatch(source)
    language = _UNKNOWN
    if named and not Path(source).exists():
        language = canonical(named[1])
        source = named[2]

    check_folder("corpus", source)
    suffix = suffix_of(source)
    if suffix in _OTHER_TABLES:
        raise InputError(
            f"corpus {source!r} is a table of another form: give a .parquet or .jsonl file, or a file of "
            "text for each language as LANGUAGE=FILE"
        )
    if Path(source).is_file() and suffix not in _BUILDERS:
        return [Texts(language, partial(_batches_of_file, source))]
    return _texts_of_rows(_load(source, split), source, text_column, language)


def _load(source: str, split: str) -> Dataset:
    """Load the rows of a table's file, a folder or a dataset of the Hub."""
    if not Path(source).is_file():
        return load_rows(source, split, [])
    builder = {"path": _BUILDERS[suffix_of(source)], "data_files": source}
    with readable_rows(source, "train"):
        return open_rows(source, "train", allow_outside=True, description=contents_of([source]), **builder)


def _texts_of_rows(rows: Dataset, source: str, text_column: str | None, language: str) -> list[Texts]:
    """Find the texts of a table's rows, in whichever form of the module's table they are.

    Raises:
        InputError: no column has texts.
    """
    column = _find_column(rows, source, text_column)
    if column is None:
        columns = {name: name for name in rows.column_names if CODE.fullmatch(name)}
        return _texts_of_columns(rows, columns, source)
    feature = rows.features[column]
    if isinstance(feature, dict):
        # {"captions": {"en": ..., "fr": ...}} -> columns "captions.en" and "captions.fr"
        flat = rows.select_columns([column]).flatten()
        return _texts_of_columns(flat, {key: f"{column}.{key}" for key in feature}, source)
    if not may_hold_texts(feature):
        raise InputError(
            f"column {column!r} of corpus {source!r} must hold texts or {{language: text}}, not {feature}"
        )
    if "language" not in rows.column_names:
        return [Texts(language, partial(_batches_of_column, rows, column))]
    texts = []
    languages = np.array(rows["language"])
    for code in dict.fromkeys(rows["language"]):
        of_language = rows.select(np.flatnonzero(languages == code))
        texts.append(Texts(canonical(code), partial(_batches_of_column, of_language, column)))
    return texts


def _find_column(rows: Dataset, source: str, text_column: str | None) -> str | None:
    """Return the column of the texts; None if there are columns named by languages in its place.

    Raises:
        InputError: there is neither.
    """
    if text_column is not None and text_column in rows.column_names:
        return text_column
    if text_column is None:
        for column in _TEXT_COLUMNS:
            if column in rows.column_names:
                return column
        if any(CODE.fullmatch(name) and may_hold_texts(rows.features[name]) for name in rows.column_names):
            return None
    raise InputError(
        f"corpus {source!r} has no column {text_column or 'of texts'}: it has "
        f"{', '.join(rows.column_names)}; name the one of the texts by --text_column"
    )


def _texts_of_columns(rows: Dataset, columns: dict[str, str], source: str) -> list[Texts]:
    """Return the texts of columns that each have one language, `{language: column}`.

    Columns whose values can be no texts, such as an `id` of numbers, are left out.

    Raises:
        InputError: a column is named by no language.
    """
    columns = {key: column for key, column in columns.items() if may_hold_texts(rows.features[column])}
    try:
        names = name_languages(columns)
    except ValueError as error:
        raise InputError(f"languages of corpus {source!r}: {error}") from error
    return [Texts(names[key], partial(_batches_of_column, rows, column)) for key, column in columns.items()]


def _batches_of_column(rows: Dataset, column: str) -> Iterator[list[str]]:
    """Yield the texts of a column; cells have one, several or none."""
    for batch in rows.select_columns([column]).iter(_BATCH):
        texts = []
        for cell in batch[column]:
            texts += read_texts(cell, column)
        if texts:
            yield texts


def _batches_of_file(path: str) -> Iterator[list[str]]:
    """Yield the lines of a file that are not blank."""
    lines = (line for line in lines_of(path, "corpus") if not is_blank(line))
    while batch := list(islice(lines, _BATCH)):
        yield batch


__all__ = ["Texts", "first_texts", "open_corpus", "read_batches"]
