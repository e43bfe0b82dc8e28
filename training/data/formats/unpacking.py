"""Unpack what no reader unpacks itself: zips of tables, JSON lines and Moses pairs, and `.jsonl.zst`.

`datasets` reads JSON by itself, and unpacks Zstandard only with another library. What is unpacked here lies
in its cache, under a digest of the packed file, and is unpacked once, within the bounds of `archives`.
"""

import os
import shutil
from pathlib import Path, PurePosixPath

from datasets import config

from common.errors import InputError
from common.files.contents import content_digest
from common.files.endings import JSON, suffix_of
from common.files.whole_files import written_whole
from common.languages import language_of_tag

from .documents import Document, documents_in

_FILES = {".tsv", ".csv", ".parquet", *JSON}
_ZSTANDARD = ".zst"
# OPUS puts these beside the texts: en-fr.en, en-fr.fr, en-fr.ids; some are codes of languages.
_BESIDE_TEXTS = {"ids", "scores", "xml", "txt"}
_SHOWN = 6  # members that a message names


def unpack(data: str) -> str:
    """Return where a source of parallel text can be read; itself, if nothing is to be unpacked.

    A zip has one table or file of JSON, or the files of one Moses pair, for which the pair's name is
    returned: `FOLDER/corpus.{en,fr}`.

    Raises:
        InputError: a zip has none of these, or several; or it is damaged, or unpacks to far more than it is.
    """
    if data.lower().endswith(_ZSTANDARD) and suffix_of(data) in JSON:
        return str(_unpack_one(Document(data), Path(data).stem))
    if not data.lower().endswith(".zip") or not os.path.isfile(data):
        return data
    documents = documents_in(data)
    files = [document for document in documents if document.suffix in _FILES]
    pairs = _moses_pairs(documents)
    if len(files) + len(pairs) != 1:
        names = [document.member for document in documents[:_SHOWN]] or ["nothing"]
        more = ", ..." if len(documents) > _SHOWN else ""
        raise InputError(
            f"dataset {data!r} must have one table, file of JSON or Moses pair, or files of translations; it "
            f"has {', '.join(names)}{more}: unpack it, and name what is to be read"
        )
    if files:
        return str(_unpack_one(files[0], f"{Path(data).name}/{files[0].member}"))
    ((stem, members),) = pairs.items()
    for document in members.values():
        path = _unpack_one(document, f"{Path(data).name}/{document.member}")
    return f"{path.parent / PurePosixPath(stem).name}.{{{','.join(members)}}}"


def _moses_pairs(documents: list[Document]) -> dict[str, dict[str, Document]]:
    """Return the files that differ in the code of a language alone: `{"corpus": {"en": ..., "fr": ...}}`."""
    found = {}
    for document in documents:
        stem, _, code = document.member.rpartition(".")
        if stem and code not in _BESIDE_TEXTS and language_of_tag(code):
            found.setdefault(stem, {})[code] = document
    return {stem: members for stem, members in found.items() if len(members) > 1}


def _unpack_one(document: Document, name: str) -> Path:
    """Unpack a file into the cache of `datasets`, and return its path there.

    Args:
        name: the last parts of the path, by which messages name the file. `documents_in` lists no member of
            a zip that leads out of a folder, as ../a.tsv does.

    Raises:
        InputError: as `Document.open`.
    """
    folder = Path(config.EXTRACTED_DATASETS_PATH) / content_digest(document.path)
    path = folder / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with document.open() as packed, written_whole(path) as unpacked:
            shutil.copyfileobj(packed, unpacked)
    return path


__all__ = ["unpack"]
