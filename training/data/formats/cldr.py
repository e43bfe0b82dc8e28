"""Read the names of languages, territories, scripts and emoji in CLDR's JSON.

    main/de/languages.json   {"main": {"de": {"localeDisplayNames": {"languages": {"en": "Englisch"}}}}}
    annotations/de/annotations.json   {"annotations": {"annotations": {"🐕": {"tts": ["Hund"]}}}}

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
_EMOJI = re.compile(r"(?:.*/)?annotations/([^/]+)/(annotations)\.json")


def cldr_files(documents: list[Document]) -> list[Document]:
    """Return those of some files that have names of CLDR, by their places in folders."""
    return [document for document in documents if _place_of(document)]


def _place_of(document: Document) -> re.Match | None:
    """Match the locale and the kind of names in a file's path; None if it has no names of CLDR."""
    path = str(document.plain)
    return _FILE.fullmatch(path) or _EMOJI.fullmatch(path)


def entries_of_cldr(documents: list[Document]) -> Iterator[Entry]:
    """Yield the entries of all locales' files: one of each name, and one of each that is missing.

    A name is missing where it is its own code, such as `aa`.

    Raises:
        InputError: a file has another form.
    """
    names: dict[tuple[str, str], list[tuple[str, str]]] = {}  # ("languages", "en") -> [("de", "Englisch")]
    for document in documents:
        locale, kind = _place_of(document).groups()
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
    is_emoji = kind == "annotations"
    keys = (kind, kind) if is_emoji else ("main", locale, "localeDisplayNames", kind)
    for key in keys:
        content = content.get(key) if isinstance(content, dict) else None
    if is_emoji and isinstance(content, dict):
        content = _spoken_names(content)
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content.values()):
        raise InputError(
            f"dataset {document.name!r} has no names in {', '.join(keys)}: give it as CLDR has it"
        )
    return content


def _spoken_names(annotations: dict[str, dict]) -> dict[str, str]:
    """Return the name of each emoji, which is spoken: `{"🐕": {"tts": ["Hund"]}}` -> `{"🐕": "Hund"}`.

    Other annotations are words to search by. Some emoji have these alone, and are left out.
    """
    names = {}
    for emoji, of_emoji in annotations.items():
        spoken = of_emoji.get("tts") if isinstance(of_emoji, dict) else None
        if spoken:
            names[emoji] = spoken[0]
    return names


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
