"""Record what data and models something was made of, in one form for all folders of data and all trainings.

A folder of data has it in `origins.yaml`, a training in `sources` of its `run.json`:

    - {name: laion-coco-nllb, dataset: visheratin/laion-coco-nllb, rows: 878978, languages: [en, de],
       licence: CC-BY-NC-4.0, terms: [attribution, non-commercial]}
    - {name: facebook/nllb-200-distilled-600M, role: model, licence: CC-BY-NC-4.0, terms: [...]}
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from .errors import InputError
from .files.whole_files import write_text
from .files.yaml_files import read_yaml
from .licences import TERMS, Licensed
from .typed import check_types

# `datasets` takes no such file for data.
_ORIGINS = "origins.yaml"
_ROLES = ("data", "model")
_DEEPEST_PART = 2  # folders: data/source-001


@dataclass(frozen=True, kw_only=True)
class Origin(Licensed):
    """A source of data, or a model, that something was made of.

    Attributes:
        role: `data`, or `model` as a translator or the model that a training began with.
        dataset: the Hub id of data; None where they are not on the Hub.
        revision: its commit.
        rows: the number of rows that were taken of it; None where that is not known, as of a stream.
        languages: those that were taken.
        stage: the training that it went into; None in the record of that training itself, and of data.
        part: the folder inside a folder of data that has its rows, as `data/source-001`; None if all has.
    """

    role: str = "data"
    dataset: str | None = None
    revision: str | None = None
    rows: int | None = None
    languages: list[str] | None = None
    stage: str | None = None
    part: str | None = None


def as_records(origins: Iterable[Origin]) -> list[dict]:
    """Return origins as values of JSON, equal ones once, without what is None; `from_records` reads them."""
    records = []
    for origin in origins:
        record = {name: value for name, value in asdict(origin).items() if value is not None}
        if record not in records:
            records.append(record)
    return records


def from_records(records: object, where: str) -> list[Origin]:
    """Return the origins that `as_records` wrote.

    Args:
        where: the beginning of messages, such as the file.

    Raises:
        InputError: they are none; the message names the key and the value.
    """
    known = [field.name for field in fields(Origin)]
    origins = []
    for record in records if isinstance(records, list) else [records]:
        unknown = sorted(set(record) - set(known)) if isinstance(record, dict) else [repr(record)]
        if unknown or not isinstance(record.get("name"), str):
            raise InputError(
                f"{where} must list origins with a name and the keys {' '.join(known)}; it has {record!r}"
            )
        check_types(record, Origin, where)
        if record.get("role", "data") not in _ROLES:
            raise InputError(f"{where}: role is {record['role']!r}; choose from {', '.join(_ROLES)}")
        strange = [term for term in record.get("terms") or [] if term not in TERMS]
        if strange:
            raise InputError(f"{where}: terms has {strange[0]!r}; choose from {', '.join(TERMS)}")
        origins.append(Origin(**record))
    return origins


def write_origins(folder: str | Path, origins: Iterable[Origin]) -> None:
    """Write `origins.yaml` into a folder of data or of a model, a line for each origin."""
    # Each origin is an object of JSON, which is YAML too.
    lines = [f"- {json.dumps(record, ensure_ascii=False)}\n" for record in as_records(origins)]
    write_text(Path(folder) / _ORIGINS, "".join(lines) or "[]\n")


def read_origins(folder: str | Path) -> list[Origin] | None:
    """Read what a folder of data, or of a model, was made of; None where it does not say.

    A part of a folder of data is described by the `origins.yaml` of the whole.

    Raises:
        InputError: its `origins.yaml` cannot be read, or is not what `write_origins` writes.
    """
    folder = Path(folder).resolve()
    origins = _read(folder)
    for parent in folder.parents[:_DEEPEST_PART]:
        if origins is not None:
            break
        part = folder.relative_to(parent).as_posix()
        of_part = [origin for origin in _read(parent) or [] if origin.part == part]
        origins = of_part or None
    if origins is None:
        return None
    return [replace(origin, part=None) for origin in origins]


def _read(folder: Path) -> list[Origin] | None:
    """Read the `origins.yaml` of a folder; None if it has none."""
    path = folder / _ORIGINS
    if not path.is_file():
        return None
    return from_records(read_yaml(path, "origins"), f"origins {str(path)!r}")


__all__ = ["Origin", "as_records", "from_records", "read_origins", "write_origins"]
