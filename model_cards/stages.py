"""The stages that a model went through: what the card calls them, what they came of, and what they left
behind.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import DatasetCard, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from benchmarks.low_rank import base_of, is_low_rank
from benchmarks.recipe import InputError, read_yaml

from .paths import public_path

# What a training's record calls the models that the new one is made of. `model_name_or_path` alone counts
# where there is one: a teacher beside it is only learned from.
TOWERS = ("teacher_name_or_path", "text_encoder_name_or_path", "image_encoder_name_or_path")


@dataclass(kw_only=True)
class Origin:
    """What a model came of, as far as that is known.

    `base_model` are Hub ids of models, `languages` those of its last training, `datasets` what it was trained
    on, by names that others may read, with their licences; `hub_datasets` those of them that are on the Hub.
    """

    base_model: list[str] = field(default_factory=list)
    languages: list[str] = field(default_factory=list)
    datasets: dict[str, str | None] = field(default_factory=dict)
    hub_datasets: list[str] = field(default_factory=list)


def label_stages(names: list[str]) -> list[str]:
    """Return what the card calls each stage: a Hub id as it is, a folder by as few of its last parts as tell
    it from the others.

    Raises:
        InputError: there is no stage, or one is named twice.
    """
    if not names:
        raise InputError(
            "stages is empty: give the model's folder, and before it those of the stages that led to it"
        )
    parts = [
        Path(name).resolve().parts[1:] if Path(name).exists() else (public_path(name),) for name in names
    ]
    depths = [1] * len(names)
    for _ in range(max(map(len, parts))):
        labels = ["/".join(those[-depth:]) for those, depth in zip(parts, depths)]
        if len(set(labels)) == len(labels):
            return labels
        depths = [depth + (labels.count(label) > 1) for depth, label in zip(depths, labels)]
    twice = next(name for name, label in zip(names, labels) if labels.count(label) > 1)
    raise InputError(f"stages names {twice!r} twice: name each stage once, in training order")


def read_log(stage: str) -> list[dict]:
    """Return a stage's log, a dict an entry, from the `trainer_state.json` that training left; nothing where
    there is none.

    Raises:
        InputError: the file is not what training writes.
    """
    path = Path(stage, "trainer_state.json")
    if not path.is_file():
        return []
    try:
        return list(json.loads(path.read_text("utf-8"))["log_history"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not a training's log ({error}): delete it, or train again") from error


def find_origin(
    stages: list[str], base_model: list[str] | None = None, datasets: list[str] | None = None
) -> Origin:
    """Return what the last of the stages came of, by the records that training left in the folders of all and
    of those before them.

    Args:
        base_model, datasets: what is known better, in place of what the records say; a dataset as `NAME` or
            `NAME=LICENCE`.
    """
    ancestors = list(dict.fromkeys(name for stage in stages for name in _ancestry(stage, [])))
    if datasets is None:
        recorded = dict.fromkeys(dataset for name in ancestors for dataset in _datasets_of(_settings(name)))
        licences = {dataset: licence_of(dataset) for dataset in recorded}
    else:
        given = [dataset.partition("=") for dataset in datasets]
        licences = {name: licence or licence_of(name) for name, _, licence in given}
    of_last = _settings(stages[-1])
    return Origin(
        base_model=[name for name in ancestors if is_hub_id(name)] if base_model is None else base_model,
        languages=(of_last.get("languages") or []) + (of_last.get("replay_languages") or []),
        datasets={public_path(dataset): licence for dataset, licence in licences.items()},
        hub_datasets=[dataset for dataset in licences if is_hub_id(dataset)],
    )


def is_hub_id(name: str) -> bool:
    """Return whether this is the name of a repository on the Hub, and of no folder here."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return not Path(name).exists()


def licence_of(dataset: str) -> str | None:
    """Return the licence that a dataset's own card states, in its folder or in the Hub's cache; None where
    that is not known.
    """
    card = Path(dataset, "README.md")
    if is_hub_id(dataset):
        cached = try_to_load_from_cache(dataset, "README.md", repo_type="dataset")
        card = Path(cached) if isinstance(cached, str) else card
    if not card.is_file():
        return None
    stated = DatasetCard.load(card, ignore_metadata_errors=True).data.license
    return ", ".join(stated) if isinstance(stated, list) else stated


def _ancestry(name: str, below: list[str]) -> Iterator[str]:
    """Give a model's name behind those of all that it was made of, the oldest first; `below` are the names on
    the way to it.
    """
    if name in below:
        return
    settings = _settings(name)
    if is_low_rank(name):
        parents = [base_of(name, "stages")]
    elif settings.get("model_name_or_path"):
        parents = [settings["model_name_or_path"]]
    else:
        parents = [settings[tower] for tower in TOWERS if settings.get(tower)]
    for parent in parents:
        yield from _ancestry(parent, [*below, name])
    yield name


def _settings(stage: str) -> dict:
    """Return the settings of the training that wrote a folder, from its `run.json`; nothing where there is
    none.
    """
    path = Path(stage, "run.json")
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text("utf-8"))["settings"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not a training's record ({error}): delete it, or train again") from error


def _datasets_of(settings: dict) -> list[str]:
    """Return the data of a training; where a YAML file lists several sources, each of them."""
    dataset = settings.get("dataset")
    if not dataset:
        return []
    path = Path(dataset)
    if path.suffix not in (".yaml", ".yml") or not path.is_file():
        return [dataset]
    sources = [source["data"] for source in read_yaml(path, "dataset")]
    return [str(path.parent / source) if (path.parent / source).exists() else source for source in sources]


__all__ = ["Origin", "find_origin", "is_hub_id", "label_stages", "licence_of", "read_log"]
