"""Say what a data set is made of: a public corpus, what a folder says of itself, or data of one's own."""

import os
from dataclasses import replace
from pathlib import Path

from common.errors import InputError
from common.languages import find_language
from common.licences import TERMS, terms_of
from common.origins import Origin, read_origins
from common.typed import fits
from model_cards.licences import find_licence, is_hub_id
from model_cards.paths import public_path

from .loading import find_source
from .source import Source


def find_origins(data: str, languages: list[str] | None = None, rows: int | None = None) -> list[Origin]:
    """Return what a data set is made of, with licences; no row of it is read, and nothing downloaded.

    Args:
        data: the name of a public corpus, or its YAML file; a Hub id; or a folder or file. A folder that was
            cleaned, translated or downloaded says in `origins.yaml` what it was made of.
        languages: those that are taken. By default all are.
        rows: the number of rows that are taken of it.

    Raises:
        InputError: `origins.yaml` or the data set's card cannot be read, or as `find_source`.

    Example:

    ```python
    >>> from training.data.sources.origin import find_origins

    >>> origin = find_origins("tatoeba", ["de"], rows=1000)[0]
    >>> origin.dataset, origin.licence, origin.languages
    ('sentence-transformers/parallel-sentences-tatoeba', 'CC-BY-2.0-FR', ['en', 'de'])
    ```
    """
    source = find_source(data)
    folder = data
    if source is not None:
        folder = str(Path(source.file).parent)
    recorded = read_origins(folder)
    if recorded is not None:
        return with_rows(recorded, rows)
    if source is not None:
        return [_origin_of_source(source, languages, rows)]

    licence = find_licence(data)
    dataset = data if is_hub_id(data) else None
    name = public_path(os.path.normpath(data))  # a list in a folder names others as lists/../mine.tsv
    taken = {"rows": rows, "languages": languages}
    return [Origin(name=name, dataset=dataset, licence=licence, terms=terms_of(licence), **taken)]


def origins_of_listed(source: dict, languages: list[str] | None, rows: int | None = None) -> list[Origin]:
    """Return what a source of a list is made of, with the `licence` and the `terms` that the list may state.

    Args:
        source: as `read_sources` returns it.
        languages, rows: as for `find_origins`.

    Raises:
        InputError: the list states a licence, and the source states its own; or as `find_origins`.
    """
    origins = find_origins(source["data"], languages, rows)
    if not {"licence", "terms"} & set(source):
        return origins
    first = origins[0] if origins else None
    if len(origins) != 1 or first.licence is not None:
        raise InputError(
            f"the list states a licence of {source['data']!r}, which states its own: leave out `licence` and "
            "`terms`"
        )
    licence = source.get("licence")
    terms = source.get("terms", terms_of(licence))
    return [replace(first, licence=licence, terms=terms)]


def check_licence(source: dict, dataset: str) -> None:
    """Check what a list of sources states of the licence of one of them.

    Raises:
        InputError: the licence is no text, or a term is unknown.
    """
    where = f"of {source['data']!r} in {dataset!r}"
    if not fits(source.get("licence", ""), str):
        raise InputError(f"licence {where} is {source['licence']!r}: give a text, as CC-BY-4.0")
    terms = source.get("terms", [])
    if not fits(terms, list[str]) or not set(terms) <= set(TERMS):
        raise InputError(f"terms {where} are {terms!r}: give a list of some of {', '.join(TERMS)}")


def with_rows(origins: list[Origin], rows: int | None) -> list[Origin]:
    """Return origins of which `rows` rows are taken: where several are mixed, their own numbers stay."""
    of_data = [origin for origin in origins if origin.role == "data"]
    if rows is None or len(of_data) != 1:
        return origins
    counted = []
    for origin in origins:
        counted.append(replace(origin, rows=rows) if origin.role == "data" else origin)
    return counted


def _origin_of_source(source: Source, languages: list[str] | None, rows: int | None) -> Origin:
    """Return the origin of a public corpus, in those of its languages that are taken."""
    taken = source.languages
    if languages:
        requested = [find_language(language, source.languages) for language in ["en", *languages]]
        taken = list(dict.fromkeys(language for language in requested if language is not None))
    return Origin(
        name=source.name,
        dataset=source.dataset if is_hub_id(source.dataset) else None,
        revision=source.revision,
        licence=source.licence,
        terms=source.terms,
        rows=rows,
        languages=taken or languages,
    )


__all__ = ["check_licence", "find_origins", "origins_of_listed", "with_rows"]
