"""Say how much data a road's steps read and make, from what the corpora state of themselves; read no row."""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from common.errors import InputError
from common.languages import check_language, find_language
from common.origins import Origin
from model_cards.licences import is_hub_id
from modeling_altclip.languages_altclip import canonical

from ..data.parallel_text import choose_kinds, read_sources
from ..data.sources.loading import all_source_names, find_source, load_source
from ..data.sources.origin import origins_of_listed
from ..data.sources.reading import check_parallel_text
from ..data.sources.source import IMAGES, Source
from .assumptions import read_assumptions


@dataclass(frozen=True, kw_only=True)
class Amount:
    """How much data there is, as far as it is known.

    - `rows`, `texts` in the requested languages, and `pictures`, without those of `unknown`.
    - `languages`: those of the texts; none where they are not known.
    - `downloads`: `{corpus: bytes}`, what is downloaded of it.
    - `origins`: the public corpora and other data that it is from, with their licences.
    - `unknown`: the names of corpora, and of other data, whose size nobody states.
    """

    rows: int = 0
    texts: int = 0
    pictures: int = 0
    languages: tuple[str, ...] = ()
    downloads: dict[str, int] = field(default_factory=dict)
    origins: tuple[Origin, ...] = ()
    unknown: tuple[str, ...] = ()

    def __add__(self, other: "Amount") -> "Amount":
        """Return the amount of both."""
        return Amount(
            rows=self.rows + other.rows,
            texts=self.texts + other.texts,
            pictures=self.pictures + other.pictures,
            languages=tuple(dict.fromkeys(self.languages + other.languages)),
            downloads=self.downloads | other.downloads,
            origins=self.origins + other.origins,
            unknown=tuple(dict.fromkeys(self.unknown + other.unknown)),
        )

    def describe_rows(self) -> str:
        """Say how many rows there are: `5,160,000, and an unknown number of wikimatrix`."""
        if not self.unknown:
            return f"{self.rows:,}"
        names = " and ".join(self.unknown)
        return f"{self.rows:,}, and an unknown number of {names}" if self.rows else f"unknown, of {names}"


def amount_of(
    dataset: str,
    languages: list[str] | None,
    made: dict[Path, Amount],
    *,
    pictures: bool = False,
    kinds: list[str] | None = None,
    budget: int | None = None,
) -> Amount:
    """Return the amount of a data set in some languages: of corpora by name, and of what earlier steps make.

    Args:
        made: `{output folder: amount}` of the earlier steps.
        pictures: images with captions are read, or their addresses, and no parallel text.
        kinds: the kinds of sources that are read; all by default.
        budget: the most rows that are read of a corpus which gives none of its own.

    Raises:
        InputError: there is no such data; a corpus holds something else, or is refused for training; or none
            of several corpora has a language, or an earlier step does not make it.

    Example:

    ```python
    >>> from training.road.amounts import amount_of

    >>> amount_of("opus-100", ["en", "de", "hi"], made={}).rows
    1534319
    ```
    """
    of_step = _made_in(dataset, made)
    if of_step is not None:
        for language in languages or []:
            if of_step.languages:
                check_language(language, of_step.languages, f"no earlier step makes in {dataset!r} language")
        return of_step
    total = Amount()
    available = {}  # as keys, in the order of the sources
    all_are_named = True
    for given in choose_kinds(read_sources(dataset), kinds, dataset):
        source = _find_corpus(given["data"])
        total += Amount(origins=_origins_of(given, source, languages))
        if source is None:
            all_are_named = False
            total += _unknown(given["data"], made)
            continue
        _check_holds(source, pictures)
        available |= dict.fromkeys(source.languages)
        total += _amount_of_corpus(source, languages, given.get("rows", budget))
    # A corpus whose rows tell their languages may have any.
    if all_are_named and available:
        for language in languages or []:
            check_language(language, available, f"no corpus of {dataset!r} has language")
    return total


def _made_in(dataset: str, made: dict[Path, Amount]) -> Amount | None:
    """Return the amount of an earlier step's folder, or of a file in it; it needs no download."""
    path = Path(dataset)
    for folder in (path, *path.parents):
        if folder in made:
            return replace(made[folder], downloads={})
    return None


def _find_corpus(dataset: str) -> Source | None:
    """Return the source of a name, or of a Hub id that a source has."""
    source = find_source(dataset)
    if source is not None or not is_hub_id(dataset):
        return source
    for name in all_source_names():
        candidate = load_source(name)
        if candidate.dataset == dataset:
            return candidate
    return None


def _origins_of(given: dict, source: Source | None, languages: list[str] | None) -> tuple[Origin, ...]:
    """Return what a source of a list is made of; the Hub id of a corpus stands for the corpus.

    Args:
        given: as `read_sources` returns it.
        source: the corpus that it names; None if it is none.

    Raises:
        InputError: as `origins_of_listed`.
    """
    if source is not None and find_source(given["data"]) is None:
        given = given | {"data": source.name}
    return tuple(origins_of_listed(given, languages))


def _unknown(dataset: str, made: dict[Path, Amount]) -> Amount:
    """Return the amount of data that is no corpus: nothing is known of it.

    Raises:
        InputError: it is no Hub id, not on this machine, and made by no earlier step.
    """
    if not is_hub_id(dataset) and not os.path.exists(dataset) and "{" not in dataset:
        folders = ", ".join(map(str, made)) or "none"
        raise InputError(
            f"dataset {dataset!r} is no corpus, not on this machine, and made by no earlier step, which make "
            f"{folders}: name one of these"
        )
    return Amount(unknown=(dataset,))


def _check_holds(source: Source, pictures: bool) -> None:
    """Check that a corpus holds what is read, and may be trained on.

    Raises:
        InputError: it does not.
    """
    if not pictures:
        return check_parallel_text(source)
    if source.refused:
        raise InputError(f"source {source.name!r} is refused for training: {source.refused}")
    has_pictures = source.layout in (*IMAGES, "addresses") or "url" in source.columns
    if not has_pictures:
        raise InputError(f"source {source.name!r} has texts alone: name one of images, or of their addresses")
    return None


def _amount_of_corpus(source: Source, languages: list[str] | None, budget: int | None) -> Amount:
    """Return the amount of a corpus in some languages and English, with a budget of rows or without."""
    if not source.languages:
        found = [canonical(language) for language in languages or []]
    elif languages:
        found = [find_language(language, source.languages) for language in ["en", *languages]]
        found = list(dict.fromkeys(language for language in found if language is not None))
    else:
        found = source.languages
    rows = _count_rows(source, found)
    if budget is not None and (rows is None or budget < rows):
        rows = budget
    if rows is None:
        return Amount(unknown=(source.name,))

    is_aligned = source.layout in ("columns", "language_lists", *IMAGES)
    texts_per_row = len(found) if is_aligned else 2
    if source.layout == "addresses":
        texts_per_row = 1
    texts = rows * texts_per_row
    n_pictures = rows if source.layout in IMAGES else 0
    n_bytes = source.n_bytes
    if n_bytes is None:
        assumed = read_assumptions()
        n_bytes = texts * assumed.bytes_to_download_a_text + n_pictures * assumed.bytes_of_a_picture
    elif source.n_rows is not None and budget is not None:
        # A budget is taken before the download.
        n_bytes *= min(1, rows / source.n_rows)
    return Amount(
        rows=rows,
        texts=texts,
        pictures=n_pictures,
        languages=tuple(found),
        downloads={source.name: round(n_bytes)},
    )


def _count_rows(source: Source, found: list[str]) -> int | None:
    """Return how many rows of a corpus are in some languages; None where nobody states it."""
    if source.configs:
        others = [language for language in found if language != "en"]
        counts = [source.rows_by_language.get(language) for language in others]
        return None if None in counts else sum(counts)
    if source.n_rows is None or source.layout != "language_column":
        return source.n_rows
    # A row has English and one other language; all are taken for equally frequent.
    n_others = len(set(found) - {"en"})
    return source.n_rows * n_others // (len(source.languages) - 1)


__all__ = ["Amount", "amount_of"]
