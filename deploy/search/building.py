"""Make an index, or bring one up to date: only contents that it does not have are embedded.

1. Every picture is read, and known by the XXH3-128 of its bytes.
2. New contents are embedded, 2,048 at a time, into files of the folder `unfinished-...`. A run that was
   killed resumes from them.
3. The rows of all pictures are written to a new folder, and the compressed index beside them.
4. `index.json` names that folder. Until then a reader finds the old rows, whole.
"""

import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from datasets import Dataset
from tqdm.auto import tqdm

from common.embedding_cache import part_paths
from common.errors import InputError
from common.files.contents import content_digest
from common.output import saving

from ..embed.embedder import DTYPES
from .contents import Contents, Embedder
from .nearest import compress, measure_recall
from .pictures import Source
from .record import Record, is_index, read_record, write_record
from .rows import PART_LENGTH, open_rows, write_part

COMPRESSED = "compressed.faiss"


@dataclass(frozen=True)
class Changes:
    """What an index gained and lost.

    Attributes:
        added, changed, removed: ids of pictures.
        n_embedded: number of contents that were embedded; equal pictures share one.
    """

    added: list[str]
    changed: list[str]
    removed: list[str]
    n_embedded: int

    @property
    def none(self) -> bool:
        """Whether all pictures are those of before."""
        return not (self.added or self.changed or self.removed)


def update_index(
    folder: Path, source: Source, model: str, embedder: Embedder, *, compressed: bool
) -> tuple[Record, Changes]:
    """Make the index in a folder that of all pictures of a source.

    Args:
        model: the name of the embedder's model.
        compressed: make a compressed index too.

    Returns:
        The record of the index, and what has changed in it.

    Raises:
        InputError: there is no picture or none can be read, or too few for a compressed index; an embedding
            is not finite; a file of the old index is damaged; or the disk is full.
    """
    pictures = source.open()
    old = read_record(folder) if is_index(folder) else None
    old_rows = None if old is None else open_rows(folder / old.rows, old.pictures)
    unfinished = folder / f"unfinished-{embedder.fingerprint()}"
    _remove_all_but(folder, [unfinished.name, *([old.rows] if old else [])])

    digests, broken = pictures.read_digests()
    contents = Contents(old_rows, unfinished)
    n_embedded, reasons = contents.embed(pictures, digests, embedder)
    for name, digest in zip(pictures.ids, digests):
        if digest in reasons:
            broken[name] = reasons[digest]
    digest_of = {name: digest for name, digest in zip(pictures.ids, digests) if name not in broken}
    if not digest_of:
        name, reason = next(iter(broken.items()))
        raise InputError(f"source: none of {len(broken)} pictures can be read, {name!r} first: {reason}")
    changes = _compare(old_rows, digest_of, n_embedded)

    record = Record(
        rows="rows-00001" if old is None else _next_name(old.rows),
        pictures=len(digest_of),
        broken=broken,
        dim=contents.dim,
        dtype=embedder.dtype,
        truncate_dim=embedder.truncate_dim,
        source=asdict(source),
        model=model,
        made_by=embedder.made_by,
    )
    if old is not None and changes.none and compressed == (old.compressed is not None):
        # The rows are as they were; what cannot be read, or the names of source and model, may not be.
        record = replace(record, rows=old.rows, compressed=old.compressed, recall=old.recall)
        write_record(folder, record)
    else:
        _write_rows(folder, record, digest_of, contents, compressed)
    _remove_all_but(folder, [record.rows])
    return read_record(folder), changes


def _write_rows(
    folder: Path, record: Record, digest_of: dict[str, str], contents: Contents, compressed: bool
) -> None:
    """Write rows, compressed index and record.

    Args:
        digest_of: the digest of each picture, by its id.
    """
    rows_folder = folder / record.rows
    ids = list(digest_of)
    n_bytes = record.pictures * record.dim * np.dtype(DTYPES[record.dtype]).itemsize
    with saving("the index", rows_folder, n_bytes, is_new=True):
        paths = part_paths(rows_folder, len(ids), PART_LENGTH)
        for number, path in enumerate(tqdm(paths, desc="Writing rows", unit="file")):
            part = ids[number * PART_LENGTH : (number + 1) * PART_LENGTH]
            digests = [digest_of[name] for name in part]
            write_part(path, {"id": part, "digest": digests, "embedding": contents.take(digests)}, len(paths))
        if compressed:
            rows = open_rows(rows_folder, len(ids))
            compress(rows, rows_folder / COMPRESSED)
            digest = content_digest(rows_folder / COMPRESSED)
            record = replace(record, compressed=digest, recall=measure_recall(rows))
        write_record(folder, record)


def _compare(old_rows: Dataset | None, digest_of: dict[str, str], n_embedded: int) -> Changes:
    """Compare the pictures of an index with those of before."""
    before = {} if old_rows is None else dict(zip(old_rows["id"], old_rows["digest"]))
    added = [name for name in digest_of if name not in before]
    changed = [name for name, digest in digest_of.items() if before.get(name, digest) != digest]
    removed = [name for name in before if name not in digest_of]
    return Changes(added, changed, removed, n_embedded)


def _next_name(rows: str) -> str:
    """Return the name of the next folder of rows: rows-00001 -> rows-00002."""
    number = int(rows.removeprefix("rows-")) + 1
    return f"rows-{number:05d}"


def _remove_all_but(folder: Path, names: list[str]) -> None:
    """Remove folders that an older run has left."""
    for pattern in ("rows-*", "unfinished-*"):
        for path in folder.glob(pattern):
            if path.name not in names:
                # Windows keeps files that are mapped; the next run removes them.
                shutil.rmtree(path, ignore_errors=True)


__all__ = ["COMPRESSED", "Changes", "update_index"]
