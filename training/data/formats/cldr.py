"""Read the names of languages, territories and scripts in CLDR's JSON.

    main/de/languages.json   {"main": {"de": {"localeDisplayNames": {"languages": {"en": "Englisch"}}}}}

Names of one thing in all locales make one entry: `{"en": "English", "de": "Englisch"}`.
"""

import re
from collections.abc import Iterator

from common.errors import InputError
from common.files.json_files import parse_json
from common.languages import language_of_tag

from .documents import Document
from .entries import UNTRANSLATED, Entry, as_entry, skip

_FILE = re.compile(r"(?:.*/)?main/([^/]+)/(languages|territories|scripts)\.json")


def cldr_files(documents: list[Document]) -> list[Document]:
    """Return those of some files that have names of CLDR, by their places in folders."""
    return [document for document in documents if _FILE.fullmatch(str(document.plain))]


def entries_of_cldr(documents: list[Document]) -> Iterator[Entry]:
    """Yield the entries of all locales' files: one of each name, and one of each that is missing.

    A name is missing where it is its own code, such as `aa`.

    Raises:
        InputError: a file has another form.
    """
    names: dict[tuple[str, str], list[tuple[str, str]]] = {}  # ("languages", "en") -> [("de", "Englisch")]
    for document in documents:
        locale, kind = _FILE.fullmatch(str(document.plain)).groups()
        for code, name in _read(document, locale, kind).items():
            # "az-alt-short" is another name of "az".
            if name == code.partition("-alt-")[0]:
                yield skip(UNTRANSLATED)
            else:
                names.setdefault((kind, code), []).append((locale, name))
    for tagged in names.values():
        yield as_entry(_of_one_locale_each(tagged))


def _read(document: Document, locale: str, kind: str) -> dict[str, str]:
    """Return the names in a file by code.

    Raises:
        InputError: it has another form.
    """
    with document.open() as file:
        content = parse_json(file.read(), f"dataset {document.name!r}")
    for key in ("main", locale, "localeDisplayNames", kind):
        content = content.get(key) if isinstance(content, dict) else None
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content.values()):
        raise InputError(
            f"dataset {document.name!r} has no names in main, {locale}, localeDisplayNames, {kind}: give it "
            "as CLDR has it"
        )
    return content


def _of_one_locale_each(tagged: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the names of one locale for each language: that of `ca` and not of `ca-ES-valencia`."""
    locales: dict[str | None, str] = {}
    for locale, _ in tagged:
        language = language_of_tag(locale)
        if language not in locales or len(locale) < len(locales[language]):
            locales[language] = locale
    kept = set(locales.values())
    return [(locale, name) for locale, name in tagged if locale in kept]


__all__ = ["cldr_files", "entries_of_cldr"]
