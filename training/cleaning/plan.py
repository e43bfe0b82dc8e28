"""Divide the rows of all sources into parts, which processes take one by one."""

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

from datasets import Dataset
from tqdm.auto import tqdm
from xxhash import xxh3_128

from common.errors import InputError
from common.files.contents import content_digest
from common.files.json_files import read_json
from common.files.whole_files import write_text
from common.languages import check_language
from common.origins import Origin

from ..data.parallel_text import check_english, choose_kinds, read_ready, read_sources
from ..data.sources.origin import origins_of_listed
from .arguments import CleaningArguments

# Settings that the output does not depend on
_INCIDENTAL = ("output_dir", "processes")
_READ_ROWS = 20_000  # at a time, to compute a digest


@dataclass(frozen=True)
class Source:
    """Rows of `captions`, `{language: [text]}`, mapped into memory, and what is said of them.

    `kind` and `weight` are those of a `.yaml` file. `origins` are what the rows are made of. `not_ready`
    counts the entries of files of translations that are not ready, by reason.
    """

    data: str
    rows: Dataset
    kind: str | None = None
    weight: float | None = None
    origins: list[Origin] = field(default_factory=list)
    not_ready: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Part:
    """The rows from `start` to `stop` of a source, both by number; parts are numbered through."""

    number: int
    source: int
    start: int
    stop: int


@dataclass
class Plan:
    """All that a process needs to know to clean a part.

    Attributes:
        languages: those of all sources, in the order in which the sources have them.
        folder: holds what is not complete yet.
        similarity_weights: hash of the model that compares translations with their English, if one does.
    """

    arguments: CleaningArguments
    sources: list[Source]
    languages: list[str]
    folder: Path
    similarity_weights: str | None = None

    @cached_property
    def parts(self) -> list[Part]:
        """All parts, `part_rows` rows long at most."""
        parts = []
        for number, source in enumerate(self.sources):
            for start in range(0, len(source.rows), self.arguments.part_rows):
                stop = min(start + self.arguments.part_rows, len(source.rows))
                parts.append(Part(len(parts), number, start, stop))
        return parts

    def checked_path(self, part: int) -> Path:
        """Return the file of a part's texts that passed all checks of single rows."""
        return self.folder / "checked" / f"part-{part:05d}.arrow"

    def candidates_path(self, band: int, share: int) -> Path:
        """Return the file of a share of the pairs that one band of hashes finds."""
        return self.folder / "candidates" / f"band-{band:02d}-{share:05d}.npy"

    def similarities_path(self, part: int) -> Path:
        """Return the file of the similarities of a part's pairs."""
        return self.folder / "similarities" / f"part-{part:05d}.npy"

    def data_path(self, part: Part) -> Path:
        """Return the file of a part's rows that are kept."""
        return self.folder / "data" / source_name(part.source) / f"part-{part.number:05d}.parquet"

    def tally_path(self, part: int) -> Path:
        """Return the file that says what became of a part's texts in the end; it marks the part complete."""
        return self.folder / "tallies" / f"part-{part:05d}.json"


def source_name(number: int) -> str:
    """Return the name of a source's folder: 3 -> "source-003"."""
    return f"source-{number:03d}"


def read_plan(arguments: CleaningArguments, folder: Path) -> Plan:
    """Read all sources, and divide their rows.

    Args:
        folder: see `Plan`.

    Raises:
        InputError: as `load_parallel_text`, for which rows without English are counted later; or no source
            has one of the requested languages.
    """
    listed = choose_kinds(read_sources(arguments.dataset), arguments.kinds, arguments.dataset)
    sources = []
    languages = {}  # as keys, in the order in which the sources have them
    for source in listed:
        rows, not_ready = read_ready(source, arguments.split, arguments.languages)
        languages |= dict.fromkeys(rows.features["captions"])
        label = source["data"]
        if "name" in source:
            label += f" {source['name']}"
        origins = origins_of_listed(source, list(rows.features["captions"]))
        sources.append(Source(label, rows, source.get("kind"), source.get("weight"), origins, not_ready))
    check_english(list(languages), arguments.dataset)
    for language in arguments.languages or []:
        check_language(language, languages, f"no source of {arguments.dataset!r} has language")
    return Plan(arguments, sources, list(languages), folder)


def begin_or_resume(plan: Plan) -> bool:
    """Make the folder of what is not complete yet, or check that it is of the same data and settings.

    Returns:
        Whether an earlier run left parts of it.

    Raises:
        InputError: the folder is of other settings, or of other data.
    """
    path = plan.folder / "settings.json"
    made_by = _settings(plan)
    if path.exists():
        before = read_json(path, "settings")
        other = [name for name in made_by if before.get(name) != made_by[name]]
        if other:
            raise InputError(
                f"output_dir {plan.arguments.output_dir!r} holds an unfinished cleaning with other "
                f"{', '.join(other)}: give the same ones, delete {str(plan.folder)!r}, or give another folder"
            )
    for name in ("checked", "candidates", "similarities", "tallies"):
        (plan.folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(len(plan.sources)):
        (plan.folder / "data" / source_name(number)).mkdir(parents=True, exist_ok=True)
    if path.exists():
        return True
    write_text(path, json.dumps(made_by, ensure_ascii=False, indent=1) + "\n")
    return False


def _settings(plan: Plan) -> dict:
    """Return all that the output depends on: settings, and digests of the filter's file and the data."""
    settings = asdict(plan.arguments)
    for name in _INCIDENTAL:
        del settings[name]
    if plan.arguments.filter:
        settings["file of the filter"] = content_digest(plan.arguments.filter.rpartition(":")[0])
    if plan.similarity_weights:
        settings["weights of the model of similarities"] = plan.similarity_weights
    n_rows = sum(len(source.rows) for source in plan.sources)
    with tqdm(total=n_rows, desc="Reading", unit="row") as bar:
        for number, source in enumerate(plan.sources):
            settings[f"data of {source_name(number)}"] = f"{source.data} {_digest(source.rows, bar)}"
    return settings


def _digest(rows: Dataset, bar: tqdm) -> str:
    """Return the XXH3-128 of all texts, a batch of rows at a time."""
    digest = xxh3_128()
    for batch in rows.with_format("arrow").iter(_READ_ROWS):
        for piece in batch.combine_chunks().to_batches():
            digest.update(piece.serialize())
        bar.update(len(batch))
    return digest.hexdigest()


__all__ = ["Part", "Plan", "Source", "begin_or_resume", "read_plan", "source_name"]
