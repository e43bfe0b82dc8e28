"""Read what the stages of a training left behind: their logs, base models, data and licences."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from common.errors import InputError
from common.files.yaml_files import read_yaml
from common.licences import terms_of
from common.models.libraries import source_of
from common.models.low_rank import base_of, is_low_rank
from common.origins import Origin, from_records, read_origins
from common.typed import check_types, fits, shorten

from .licences import find_licence, is_hub_id, origin_of_model
from .paths import public_path

# The settings in a training's record that name the models that the new one is made of. If there is a
# `model_name_or_path`, it alone counts: a teacher beside it is only learned from.
_TOWERS = (
    "teacher_name_or_path",
    "image_model_name_or_path",
    "text_encoder_name_or_path",
    "image_encoder_name_or_path",
)


@dataclass(kw_only=True)
class Lineage:
    """Base models and training data of a model, as far as they are known.

    Attributes:
        base_model: Hub ids.
        languages: those of the last training.
        origins: the data and models that it was made of, each with its stage, the oldest first.
        excluded: of each training that searched its data for tests, `stage1: flickr30k, xm3600 (12 rows)`.
    """

    base_model: list[str] = field(default_factory=list)
    languages: list[str] = field(default_factory=list)
    origins: list[Origin] = field(default_factory=list)
    excluded: list[str] = field(default_factory=list)


@dataclass
class _Excluded:
    """What a training's record says of the tests that were removed from its data, with their types.

    The rows of a stream are not counted beforehand.
    """

    tasks: list[str]
    rows: int | None


@dataclass
class _Recorded:
    """The settings in a training's record that are read here, with their types."""

    model_name_or_path: str | None
    teacher_name_or_path: str | None
    image_model_name_or_path: str | None
    text_encoder_name_or_path: str | None
    image_encoder_name_or_path: str | None
    dataset: str | None
    languages: list[str] | None
    replay_languages: list[str] | None


@dataclass
class _Record:
    """What is read here of a training's record.

    - `settings`; empty without a record.
    - `excluded`: the tests that were removed from its data, as `_Excluded`; empty if none was looked for.
    - `sources`: its data and models; None where an earlier version recorded none.
    """

    settings: dict = field(default_factory=dict)
    excluded: dict = field(default_factory=dict)
    sources: list[Origin] | None = None


def label_stages(names: list[str]) -> list[str]:
    """Return a label for each stage: a Hub id as it is, a folder by as few of its last parts as are unique.

    `["one/stage1", "two/stage1", "two/stage2"]` -> `["one/stage1", "two/stage1", "stage2"]`

    Raises:
        InputError: there is no stage, or one is named twice.
    """
    if not names:
        raise InputError(
            "stages is empty: give the model's folder, and before it those of the stages that led to it"
        )
    parts = [_split_name(name) for name in names]
    n_parts = [1] * len(names)  # how many of its last parts make each label
    longest = max(len(all_parts) for all_parts in parts)
    for _ in range(longest):
        labels = ["/".join(all_parts[-n:]) for all_parts, n in zip(parts, n_parts)]
        if len(set(labels)) == len(labels):
            return labels
        # Lengthen the labels that are not unique yet.
        for index, label in enumerate(labels):
            if labels.count(label) > 1:
                n_parts[index] += 1

    twice = next(name for name, label in zip(names, labels) if labels.count(label) > 1)
    raise InputError(f"stages names {twice!r} twice: name each stage once, in training order")


def _split_name(name: str) -> tuple[str, ...]:
    """Split a folder into the parts of its full path; leave a Hub id whole."""
    if Path(name).exists():
        return Path(name).resolve().parts[1:]
    return (public_path(name),)


def read_log(stage: str) -> list[dict]:
    """Return the entries of a stage's log from its `trainer_state.json`; none if there is no such file.

    Raises:
        InputError: the file is not what training writes.
    """
    path = Path(stage, "trainer_state.json")
    if not path.is_file():
        return []
    try:
        log = json.loads(path.read_text("utf-8"))["log_history"]
        for number, entry in enumerate(log):
            _check_entry(entry, number)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path} is not a training's log ({error}): delete it, or train again") from error
    return log


def _check_entry(entry: object, number: int) -> None:
    """Check an entry of a log: a step and the numbers that were logged there, of which some may be NaN.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(entry, dict) or not fits(entry.get("step"), int):
        raise ValueError(f"entry {number} is {shorten(entry)}, which has no step")
    for name, value in entry.items():
        if not isinstance(value, float) and not fits(value, int | None):
            raise ValueError(f"{name!r} of entry {number} is {shorten(value)}, which is no number")


def find_lineage(
    stages: list[str], base_model: list[str] | None = None, datasets: list[str] | None = None
) -> Lineage:
    """Return the lineage of the last stage, from the records of all stages and of the models before them.

    Args:
        base_model: Hub ids to state instead of those that training recorded.
        datasets: datasets to state instead of those that training recorded, each `NAME` or `NAME=LICENCE`.

    Raises:
        InputError: a record is not what training writes.
    """
    ancestors = list(dict.fromkeys(name for stage in stages for name in _ancestry(stage, [])))
    if base_model is None:
        base_model = [name for name in ancestors if is_hub_id(name)]

    # A stage without a record says nothing of itself; as a parent of another it is one of its origins.
    recorded = [name for name in ancestors if name not in stages or _recorded_origins(name) is not None]
    origins = _origins_of_all(recorded)
    if datasets is not None:
        given = [_origin_of_data(*dataset.partition("=")[::2]) for dataset in datasets]
        origins = [origin for origin in origins if origin.role == "model"] + given

    last = _settings(stages[-1])
    languages = last.get("languages") or []
    replay_languages = last.get("replay_languages") or []
    return Lineage(
        base_model=base_model,
        languages=languages + replay_languages,
        origins=origins,
        excluded=_describe_all_excluded(ancestors),
    )


def _origins_of_all(names: list[str]) -> list[Origin]:
    """Return the data and models that several models were made of.

    Args:
        names: the models, each after those that it was made of.
    """
    origins = []
    # The record of a training has what was recorded of the models that it began with: those may be gone by
    # now, or trained anew.
    for name in reversed(names):
        stage = _stage_name(name)
        if not any(stage in (origin.stage, origin.name) for origin in origins):
            origins = origins_of_model(name) + origins
    distinct = []
    for origin in origins:
        if origin not in distinct:
            distinct.append(origin)
    return distinct


def origins_of_model(name: str) -> list[Origin]:
    """Return the data and models that a model was made of, with the stage that each went into.

    They are those that its training recorded, or the folder in `origins.yaml`. Another model is its own
    origin.

    Args:
        name: a folder or a Hub id.

    Raises:
        InputError: a record is not what training writes.
    """
    recorded = None
    if not is_hub_id(name):
        recorded = _recorded_origins(name)
    if recorded is None and is_low_rank(name):
        return origins_of_model(base_of(name, "stages"))
    if recorded is None:
        return [replace(origin_of_model(name), name=_stage_name(name))]
    return [origin if origin.stage else replace(origin, stage=_stage_name(name)) for origin in recorded]


def _recorded_origins(folder: str) -> list[Origin] | None:
    """Return what the training recorded that wrote a folder, or the folder itself; None without a record."""
    record = _read_record(folder)
    if record.sources is not None:
        return record.sources
    of_folder = read_origins(folder)
    if of_folder is not None or not record.settings:
        return of_folder
    # Earlier versions recorded the data by their names alone.
    return [_origin_of_data(dataset) for dataset in datasets_of(record.settings)]


def _origin_of_data(dataset: str, licence: str | None = None) -> Origin:
    """Return data as an origin, by its name and the licence that is given, or that its card states."""
    licence = licence or find_licence(dataset)
    hub_id = dataset if is_hub_id(dataset) else None
    return Origin(name=public_path(dataset), dataset=hub_id, licence=licence, terms=terms_of(licence))


def _stage_name(name: str) -> str:
    """Return the name of a model's folder, without where it lies; another name as it is."""
    path = Path(name)
    if path.exists() or path.is_absolute():
        return path.resolve().name
    return public_path(name)


def _ancestry(name: str, descendants: list[str]) -> Iterator[str]:
    """Yield the names of all models that a model was made of, the oldest first, and then its own.

    Args:
        descendants: the names on the way to this one, since a model may have been trained in its own folder.
    """
    if name in descendants:
        return
    for parent in _parents(name):
        yield from _ancestry(parent, [*descendants, name])
    yield name


def _parents(name: str) -> list[str]:
    """Return the models that a model was made of: a LoRA's base, the model it started from, or its towers."""
    return [base_of(name, "stages")] if is_low_rank(name) else parents_in(_settings(name))


def parents_in(settings: dict) -> list[str]:
    """Return the models that the settings of a training begin with: the one to go on with, or the towers."""
    if settings.get("model_name_or_path"):
        return [settings["model_name_or_path"]]
    return [source_of(settings[tower]) for tower in _TOWERS if settings.get(tower)]


def _settings(stage: str) -> dict:
    """Return the settings of the training that wrote a folder, from its `run.json`; empty without one.

    Raises:
        InputError: the file is not what training writes.
    """
    return _read_record(stage).settings


def _describe_all_excluded(names: list[str]) -> list[str]:
    """Return a line for each stage whose data were searched for tests, as `_describe_excluded`."""
    lines = [line for line in map(_describe_excluded, names) if line]
    # A stage may be given by a relative path, and be recorded by an absolute one as the parent of another.
    return list(dict.fromkeys(lines))


def _describe_excluded(stage: str) -> str:
    """Return the tests that were removed from a stage's data; an empty string if none was looked for.

    Raises:
        InputError: its record is not what training writes.
    """
    excluded = _read_record(stage).excluded
    if not excluded:
        return ""
    described = f"{public_path(stage)}: {', '.join(excluded['tasks'])}"
    if excluded["rows"] is not None:
        described += f" ({excluded['rows']} rows)"
    return described


def _read_record(stage: str) -> _Record:
    """Read a stage's `run.json`; empty without one.

    Raises:
        InputError: the file is not what training writes.
    """
    path = Path(stage, "run.json")
    if not path.is_file():
        return _Record()
    try:
        record = json.loads(path.read_text("utf-8"))
        settings = dict(record["settings"])
        check_types(settings, _Recorded, "settings")
        excluded = dict(record.get("excluded", {}))
        if excluded:
            check_types(excluded, _Excluded, "excluded")
            excluded = {"tasks": excluded["tasks"], "rows": excluded["rows"]}
        sources = None
        if "sources" in record:
            sources = from_records(record["sources"], "sources")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path} is not a training's record ({error}): delete it, or train again") from error
    return _Record(settings, excluded, sources)


def datasets_of(settings: dict) -> list[str]:
    """Return the datasets of a training: each source that a YAML file lists, or the one dataset itself."""
    dataset = settings.get("dataset")
    if not dataset:
        return []
    path = Path(dataset)
    if path.suffix not in (".yaml", ".yml") or not path.is_file():
        return [dataset]

    datasets = []
    for source in read_yaml(path, "dataset"):
        local = path.parent / source["data"]  # folders are relative to the YAML file
        datasets.append(str(local) if local.exists() else source["data"])
    return datasets


__all__ = [
    "Lineage",
    "datasets_of",
    "find_lineage",
    "label_stages",
    "origins_of_model",
    "parents_in",
    "read_log",
]
