"""Read files of translations: the door to all formats, which are told by the names of the files.

| files | module |
|---|---|
| `.po`, `.mo` | `gettext` |
| `.tmx` | `tmx` |
| `.xlf`, `.xliff` | `xliff` |
| `.tei` | `tei` |
| `links.csv` and `sentences.csv` | `tatoeba` |
| `main/LOCALE/languages.json`, `territories.json`, `scripts.json` | `cldr` |
| `annotations/LOCALE/annotations.json` | `cldr` |

They may be compressed as `.gz`, `.bz2`, `.xz` or `.zst`, or stand in a `.zip` or a folder.
"""

import os
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, List, Value

from common.errors import InputError
from common.files.contents import content_digest
from common.files.endings import TEXTS, suffix_of

from ..captions import features_of, named_languages
from ..text_tables import from_lines
from .cldr import cldr_files, entries_of_cldr
from .documents import Document, documents_in
from .entries import Entry
from .tatoeba import entries_of_tatoeba, is_links, tatoeba_files
from .tei import entries_of_tei
from .tmx import entries_of_tmx
from .xliff import entries_of_xliff

_GETTEXT = {".po", ".mo"}
_READERS = {
    ".tmx": entries_of_tmx,
    ".xlf": entries_of_xliff,
    ".xliff": entries_of_xliff,
    ".tei": entries_of_tei,
}
# Files that `datasets` reads. A folder that has some is read by it.
_OF_DATASETS = TEXTS - {".txt"} | {".parquet", ".arrow"}

_ENTRIES = Features(
    {"captions": List({"language": Value("string"), "text": Value("string")}), "skipped": Value("string")}
)


def find_translations(data: str) -> tuple[Document, ...]:
    """Return the files of translations that a file, a zip or a folder is or has; none for other data.

    Raises:
        InputError: a zip cannot be read.
    """
    is_folder = os.path.isdir(data)
    documents = documents_in(data)
    if not is_folder and len(documents) == 1 and is_links(documents[0]):
        # The sentences lie next to the links that are named.
        beside = [Document(str(path)) for path in sorted(Path(data).parent.iterdir()) if path.is_file()]
        documents += [document for document in beside if not is_links(document)]
        return tuple(tatoeba_files(documents))
    if found := tatoeba_files(documents) or cldr_files(documents):
        return tuple(found)

    if is_folder and any(suffix_of(document.path) in _OF_DATASETS for document in documents):
        return ()
    found = [document for document in documents if document.suffix in _GETTEXT or document.suffix in _READERS]
    return tuple(found)


def entries_of(documents: tuple[Document, ...]) -> Iterator[Entry]:
    """Yield the entries of files of translations.

    Raises:
        InputError: a file is damaged or hostile, or polib is not installed.
    """
    documents = list(documents)
    if tatoeba_files(documents):
        yield from entries_of_tatoeba(documents)
        return
    if cldr_files(documents):
        yield from entries_of_cldr(documents)
        return
    for document in documents:
        if document.suffix in _GETTEXT:
            from .gettext import entries_of_gettext  # polib is an extra

            yield from entries_of_gettext(document)
        else:
            yield from _READERS[document.suffix](document)


def read_translations(documents: tuple[Document, ...], data: str) -> Dataset:
    """Read files of translations as rows of `captions`, `{language: [text]}`, and `skipped`.

    A row that is skipped has no texts, and the reason in `skipped`, which is empty in others. `datasets`
    caches the rows on disk by the contents of the files.

    Args:
        data: their name in messages.

    Raises:
        InputError: as `entries_of`, or no entry is translated.
    """
    paths = sorted({document.path for document in documents})
    contents = tuple(map(content_digest, paths))
    rows = from_lines(_rows, _ENTRIES, documents=documents, contents=contents)
    languages = set()
    for batch in rows.with_format("arrow").iter(10_000):
        tags = pc.struct_field(pc.list_flatten(batch["captions"]), "language")
        languages |= set(pc.unique(tags).to_pylist())
    if not languages:
        reasons = ", ".join(f"{count} {reason}" for reason, count in count_skipped(rows).items())
        raise InputError(f"dataset {data!r} has no translated entry, {reasons}: give another")
    names = named_languages(sorted(languages), data)
    features = features_of(names.values())
    features["skipped"] = Value("string")

    def convert(batch: pa.Table) -> pa.Table:
        captions = batch["captions"].combine_chunks()
        lists = [_texts_in(captions, language) for language in names]
        structs = pa.StructArray.from_arrays(lists, names=list(names.values()))
        return pa.table({"captions": structs, "skipped": batch["skipped"]})

    return (
        rows.with_format("arrow")
        .map(convert, batched=True, features=features, desc="Reading translations")
        .with_format(None)
    )


def first_translations(documents: tuple[Document, ...], n_rows: int) -> list[dict[str, str]]:
    """Read the first entries that are not skipped, as `{language: text}`, and no more of the files."""
    entries = (entry.texts for entry in entries_of(documents) if not entry.skipped)
    return list(islice(entries, n_rows))


def count_skipped(rows: Dataset) -> Counter[str]:
    """Count the skipped rows of `read_translations` by reason, the most frequent first."""
    counts = Counter()
    for batch in rows.select_columns(["skipped"]).with_format("arrow").iter(10_000):
        for pair in pc.value_counts(batch["skipped"]).to_pylist():
            counts[pair["values"]] += pair["counts"]
    del counts[""]
    return Counter(dict(counts.most_common()))


def _rows(documents: tuple[Document, ...], contents: tuple[str, ...]) -> Iterator[dict]:
    """Yield entries as rows; `contents` makes `datasets` read changed files anew.

    Raises:
        InputError: as `entries_of`, or there is no entry.
    """
    has_entries = False
    for entry in entries_of(documents):
        has_entries = True
        captions = [{"language": language, "text": text} for language, text in entry.texts.items()]
        yield {"captions": captions, "skipped": entry.skipped}
    if not has_entries:
        raise InputError(f"dataset {documents[0].name!r} has no entries: give a file with translations")


def _texts_in(captions: pa.ListArray, language: str) -> pa.ListArray:
    """Return the texts of one language, a list for each row."""
    pairs = pc.list_flatten(captions)
    is_wanted = pc.equal(pc.struct_field(pairs, "language"), language)
    rows = np.asarray(pc.list_parent_indices(captions).filter(is_wanted))
    # Row n has the texts from place n to n + 1. Rows 0 and 2 of 3 have one each -> 0 1 1 2
    ends = np.bincount(rows, minlength=len(captions)).cumsum()
    offsets = np.concatenate([[0], ends])
    texts = pc.struct_field(pairs, "text").filter(is_wanted)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), texts)


__all__ = ["count_skipped", "entries_of", "find_translations", "first_translations", "read_translations"]
