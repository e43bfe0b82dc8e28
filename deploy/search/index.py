"""An index that is there: opened, and asked."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from torch.nn.functional import normalize
from transformers import PreTrainedModel, ProcessorMixin

from common.errors import InputError
from common.files.contents import content_digest
from modeling_altclip import embed_images, embed_texts

from .building import COMPRESSED
from .nearest import find_compressed, find_exact, load_compressed, prepare_exact
from .record import Record, describe_model, read_record
from .rows import open_rows


@dataclass(frozen=True)
class Found:
    """A picture that a query finds.

    Attributes:
        id: its path below the folder, or its row in the dataset.
        score: the cosine similarity to the query.
        digest: the XXH3-128 of its encoded bytes, when it was embedded.
    """

    id: str
    score: float
    digest: str


class ImageIndex:
    """An index of pictures, as `altclip index` makes it.

    Args:
        folder: of the index.

    Raises:
        InputError: it is no index, or a file of it is missing or damaged.

    Example:

    ```python
    from benchmarks import load_model
    from deploy.search.index import ImageIndex, embed_query

    index = ImageIndex("outputs/index")
    model, processor = load_model(index.record.model)
    index.check_model(model, processor, index.record.model)
    query = embed_query(model, processor, text="红苹果", truncate_dim=index.record.truncate_dim)
    for found in index.search(query, k=3):
        print(found.score, found.id)
    ```
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.record: Record = read_record(self.folder)
        rows_folder = self.folder / self.record.rows
        self.rows: Dataset = open_rows(rows_folder, self.record.pictures)
        if self.record.compressed is None:
            prepare_exact(self.rows)
        else:
            file = rows_folder / COMPRESSED
            if not file.is_file() or content_digest(file) != self.record.compressed:
                raise InputError(f"{file} is missing or damaged: make the index again, its rows are whole")
            load_compressed(self.rows, file)

    def __len__(self) -> int:
        return len(self.rows)

    def check_model(self, model: PreTrainedModel, processor: ProcessorMixin, name: str) -> None:
        """Refuse a model other than that by which the index was made.

        Args:
            name: of the model, for the message.

        Raises:
            InputError: its weights, configuration or preparation differ.
        """
        self.record.check_model(name, describe_model(model, processor), self.folder)

    def search(self, query: torch.Tensor, k: int = 10) -> list[Found]:
        """Find the `k` nearest pictures, or all if there are fewer.

        A compressed index may miss some, and finds fewer than `k` where the lists that it visits hold fewer.

        Args:
            query: a unit embedding `(dim,)`.

        Raises:
            ValueError: it has another number of dimensions.
        """
        if query.shape != (self.record.dim,):
            raise ValueError(f"query has the shape {tuple(query.shape)}: give ({self.record.dim},)")
        find = find_exact if self.record.compressed is None else find_compressed
        queries = query.numpy()[None].astype(np.float32)
        scores, numbers = find(self.rows, queries, min(k, len(self)))
        found = []
        for score, number in zip(scores[0].tolist(), numbers[0].tolist()):
            if number >= 0:
                row = self.rows[number]
                found.append(Found(row["id"], score, row["digest"]))
        return found


def embed_query(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    *,
    text: str | None = None,
    image: object = None,
    text_weight: float = 0.5,
    truncate_dim: int | None = None,
) -> torch.Tensor:
    """Embed a text, a picture, or both as the weighted mean of their unit embeddings.

    Args:
        text: in any language that the model reads.
        image: anything that `embed_images` reads.
        text_weight: of both, the share of the text, from 0 to 1.

    Returns:
        A unit embedding `(dim,)`.

    Raises:
        ValueError: there is neither, or one cannot be embedded.
    """
    if text is None and image is None:
        raise ValueError("text and image are None: give one of them, or both")
    weighted = []
    if text is not None:
        weight = 1 if image is None else text_weight
        weighted.append(weight * embed_texts(model, processor, [text], truncate_dim=truncate_dim)[0])
    if image is not None:
        weight = 1 if text is None else 1 - text_weight
        weighted.append(weight * embed_images(model, processor, [image], truncate_dim=truncate_dim)[0])
    return normalize(sum(weighted), dim=-1)


__all__ = ["Found", "ImageIndex", "embed_query"]
