"""Embeddings by the content of pictures: those that an index has, and new ones, which a killed run leaves."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import Dataset, concatenate_datasets
from tqdm.auto import tqdm
from transformers import PreTrainedModel, ProcessorMixin

from common.embedding_cache import fingerprint
from common.errors import InputError

from ..embed.embedder import as_fixed_lists, embed_readable
from .pictures import Pictures
from .rows import open_parts, write_part

_NEW_LENGTH = 2048  # pictures in a file of new embeddings: the work that a kill costs


@dataclass(frozen=True)
class Embedder:
    """A model, and the form of its embeddings.

    Attributes:
        made_by: of the model, as `describe_model` returns it.
        dtype: in which embeddings are stored, float16 or float32.
        truncate_dim: as for `embed_images`.
        batch_size: number of pictures that are encoded at once.
    """

    model: PreTrainedModel
    processor: ProcessorMixin
    made_by: dict[str, str]
    dtype: str
    truncate_dim: int | None
    batch_size: int

    def fingerprint(self) -> str:
        """Return 32 hexadecimal digits that tell what embeddings depend on beside the pictures."""
        return fingerprint(json.dumps([self.made_by, self.dtype, self.truncate_dim]))


class Contents:
    """Embeddings by the digests of pictures, mapped into memory.

    Args:
        rows: of an index that is there.
        folder: where new embeddings are written, and those that a killed run has left are found.
    """

    def __init__(self, rows: Dataset | None, folder: Path):
        self.folder = folder
        self.n_written = len(list(folder.glob("data/part-*.arrow")))
        tables = [] if rows is None else [rows.remove_columns(["id"])]
        if self.n_written:
            tables.append(open_parts([self._path(number) for number in range(self.n_written)]))
        self._open(tables)

    def _open(self, tables: list[Dataset]) -> None:
        self._rows = concatenate_datasets(tables) if tables else None
        digests = self._rows["digest"] if tables else []
        self._place_of = {digest: place for place, digest in enumerate(digests)}

    def _path(self, number: int) -> Path:
        return self.folder / f"data/part-{number:05d}.arrow"

    def __contains__(self, digest: str) -> bool:
        return digest in self._place_of

    def take(self, digests: list[str]) -> pa.Array:
        """Return the embeddings of some pictures, as lists of fixed size."""
        places = [self._place_of[digest] for digest in digests]
        return self._rows.with_format("arrow")[places]["embedding"].combine_chunks()

    @property
    def dim(self) -> int:
        return self._rows.features["embedding"].length

    def embed(
        self, pictures: Pictures, digests: list[str | None], embedder: Embedder
    ) -> tuple[int, dict[str, str]]:
        """Embed the contents that are not here yet, each once.

        Args:
            digests: of all pictures, None for those that cannot be read.

        Returns:
            The number of contents that were embedded; and why others cannot be decoded, by their digests.

        Raises:
            InputError: an embedding is not finite.
        """
        new = {}  # {digest: number of the first such picture}
        for number, digest in enumerate(digests):
            if digest is not None and digest not in self:
                new.setdefault(digest, number)
        reasons = {}
        tables = [] if self._rows is None else [self._rows]
        with tqdm(total=len(new), desc="Embedding pictures", unit="picture", disable=not new) as bar:
            for part in _in_slices(list(new.items()), _NEW_LENGTH):
                found, embeddings = _embed_part(pictures, part, embedder, reasons, bar)
                if found:
                    path = self._path(self.n_written)
                    write_part(path, {"digest": found, "embedding": embeddings}, self.n_written + 1)
                    self.n_written += 1
                    tables.append(open_parts([path]))
        self._open(tables)
        return len(new) - len(reasons), reasons


def _embed_part(
    pictures: Pictures, part: list[tuple[str, int]], embedder: Embedder, reasons: dict[str, str], bar: tqdm
) -> tuple[list[str], pa.Array]:
    """Embed some contents `(digest, number of the picture)`, batch by batch.

    Args:
        reasons: gets those that cannot be decoded.

    Returns:
        The digests of the others, and their embeddings.
    """
    digests = []
    embeddings = []
    for batch in _in_slices(part, embedder.batch_size):
        readers = [pictures.reader(number, digest) for digest, number in batch]
        try:
            embedded, broken = embed_readable(
                embedder.model, embedder.processor, readers, embedder.truncate_dim
            )
        except ValueError as error:
            raise InputError(error) from error
        for row, (digest, _) in enumerate(batch):
            if row in broken:
                reasons[digest] = broken[row]
            else:
                digests.append(digest)
                embeddings.append(embedded[row])
        bar.update(len(batch))
    stacked = np.stack(embeddings) if embeddings else np.empty((0, 1), np.float32)
    return digests, as_fixed_lists(stacked, embedder.dtype)


def _in_slices(items: list, length: int) -> Iterator[list]:
    for start in range(0, len(items), length):
        yield items[start : start + length]


__all__ = ["Contents", "Embedder"]
