"""The record of an index: what it was made of, by which weights, and where its rows are.

It is written last. Whatever a killed run leaves is not named in it, and the next run removes it.
"""

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from transformers import PreTrainedModel, ProcessorMixin

from common.embedding_cache import fingerprint
from common.errors import InputError
from common.files.json_files import read_json
from common.files.whole_files import write_text
from common.fingerprints import hash_weights, prepared_images, prepared_texts, settings
from common.typed import check_types

from .pictures import Source

_FILE = "index.json"
_ROWS = re.compile(r"rows-\d{5,}")


@dataclass(frozen=True)
class Record:
    """What `index.json` states.

    Attributes:
        rows: the folder of the rows below that of the index, such as `rows-00002`.
        pictures: number of its rows.
        broken: why other pictures cannot be read, by their ids.
        dim: of an embedding, with `truncate_dim` that number.
        source: path, split and name of the pictures.
        model: as it was named when the index was made.
        made_by: digests of all that embeddings depend on beside the pictures, see `describe_model`.
        compressed: the digest of the compressed index, if there is one.
        recall: its recall@10 against exact search.
    """

    rows: str
    pictures: int
    broken: dict[str, str]
    dim: int
    dtype: str
    truncate_dim: int | None
    source: dict[str, str | None]
    model: str
    made_by: dict[str, str]
    compressed: str | None = None
    recall: float | None = None

    @property
    def opened_source(self) -> Source:
        return Source(**self.source)

    def check_model(self, name: str, made_by: dict[str, str], folder: Path) -> None:
        """Refuse a model whose embeddings cannot be compared with those of the index.

        Args:
            name: of the model, for the message.
            made_by: of it, as `describe_model` returns it.

        Raises:
            InputError: something differs; the message says what.
        """
        differing = [part for part, digest in self.made_by.items() if made_by[part] != digest]
        if differing:
            raise InputError(
                f"model_name_or_path {name!r} does not fit the index {str(folder)!r}, which was made by "
                f"{self.model!r}: their {' and '.join(differing)} differ. Give the model that made it, or "
                "make a new index"
            )


def describe_model(model: PreTrainedModel, processor: ProcessorMixin) -> dict[str, str]:
    """Return the digests of all that an embedding depends on: weights, settings, and how inputs are read.

    `weights` is the SHA-256 that results state too.
    """
    return {
        "weights": hash_weights(model),
        "configuration": fingerprint(settings(model)),
        "image preparation": fingerprint(prepared_images(model, processor)),
        "text preparation": fingerprint(prepared_texts(model, processor)),
    }


def is_index(folder: Path) -> bool:
    """Return whether a folder holds a complete index."""
    return (folder / _FILE).is_file()


def read_record(folder: Path) -> Record:
    """Read the record of an index.

    Raises:
        InputError: there is none, or it is damaged.
    """
    if not is_index(folder):
        raise InputError(
            f"index {str(folder)!r} is no index: make one with `altclip index FOLDER --model_name_or_path "
            f"MODEL --output_dir {folder}`"
        )
    values = read_json(folder / _FILE, "index")
    where = f"index {str(folder / _FILE)!r}"
    if not isinstance(values, dict) or values.keys() != Record.__dataclass_fields__.keys():
        raise InputError(f"{where} was written by another version, or is damaged: make a new index")
    check_types(values, Record, where)
    if not _ROWS.fullmatch(values["rows"]):
        raise InputError(f"{where}: rows is {values['rows']!r}, no folder of an index: make a new index")
    return Record(**values)


def write_record(folder: Path, record: Record) -> None:
    """Write the record, which makes the rows that it names those of the index."""
    write_text(folder / _FILE, json.dumps(asdict(record), indent=1, ensure_ascii=False) + "\n")


__all__ = ["Record", "describe_model", "is_index", "read_record", "write_record"]
