"""Read bilingual dictionaries in TEI, as FreeDict has them.

    <entry><form><orth>Hund</orth></form>
      <sense><cit type="trans"><quote>dog</quote></cit></sense></entry>

A dictionary without any `<cit>` lists its translations in definitions, `<def>one, a, an</def>`.
The languages stand in the entries' `xml:lang`, or else in the name of the file: `deu-eng.tei`.
"""

import re
from collections.abc import Iterable, Iterator
from xml.etree.ElementTree import Element

from .documents import Document
from .entries import UNTRANSLATED, Entry, as_entry, join_spaces, skip
from .xml_elements import LANGUAGE, local_name, read_elements, text_of

_NAME = re.compile(r"([a-z]{2,3})-([a-z]{2,3})(?![a-z]).*", re.IGNORECASE)
_BETWEEN_TRANSLATIONS = re.compile(r"\s*[,;]\s*")
_TRANSLATIONS = {"trans", "translation", "translationEquivalent"}


def entries_of_tei(document: Document) -> Iterator[Entry]:
    """Yield a dictionary's entries: a headword with one of its translations each, and translated examples."""
    has_citations = any(True for _ in read_elements(document, {"cit"}))  # read up to the first
    named = _NAME.fullmatch(document.plain.stem)
    source_name, target_name = named.groups() if named else (None, None)
    for element, around in read_elements(document, {"entry"}):
        source_tag = element.get(LANGUAGE) or source_name or _stated_around(around)
        find_pairs = _cited_pairs if has_citations else _defined_pairs
        pairs = list(find_pairs(element, source_tag, target_name))
        for pair in pairs:
            yield as_entry(pair)
        if not pairs:
            yield skip(UNTRANSLATED)


def _stated_around(around: Iterable[Element]) -> str | None:
    """Return the language that the elements around an entry state, the inner ones first; None if none does.

    The root states the language of what is said about the dictionary. So does the text of FreeDict's eng-hun,
    which says German: this is why the name of a file goes before.
    """
    tag = None
    for outer in around:
        if local_name(outer) != "TEI":
            tag = outer.get(LANGUAGE, tag)
    return tag


def _cited_pairs(
    entry: Element, source_tag: str | None, target_tag: str | None
) -> Iterator[list[tuple[str | None, str]]]:
    """Yield pairs of two `(tag, text)`, of the language of the headwords and of the other one."""
    headwords = _headwords(entry, source_tag)
    for citation in _descendants(entry, "cit"):
        if citation.get("type") in _TRANSLATIONS:
            originals = headwords
            translations = _texts(citation, target_tag)
        else:  # an example, with its translations inside
            originals = _texts(citation, source_tag)
            translations = []
            for inner in citation.findall("cit"):
                if inner.get("type") in _TRANSLATIONS:
                    translations += _texts(inner, target_tag)
        for original in originals:
            for translation in translations:
                yield [original, translation]


def _defined_pairs(
    entry: Element, source_tag: str | None, target_tag: str | None
) -> Iterator[list[tuple[str | None, str]]]:
    """Yield pairs as `_cited_pairs`, of the translations that definitions list."""
    headwords = _headwords(entry, source_tag)
    for sense in _descendants(entry, "sense"):
        tag_of_sense = sense.get(LANGUAGE, target_tag)
        for definition in sense.findall("def"):
            tag = definition.get(LANGUAGE, tag_of_sense)
            for translation in _BETWEEN_TRANSLATIONS.split(join_spaces(text_of(definition))):
                for headword in headwords:
                    yield [headword, (tag, translation)]


def _headwords(entry: Element, tag: str | None) -> list[tuple[str | None, str]]:
    """Return the headwords of an entry with their tags."""
    headwords = []
    for form in entry.findall("form"):
        for spelled in form.findall("orth"):
            tag_of_word = spelled.get(LANGUAGE) or form.get(LANGUAGE, tag)
            headwords.append((tag_of_word, join_spaces(text_of(spelled))))
    return headwords


def _descendants(element: Element, name: str) -> Iterator[Element]:
    """Yield the elements of a name in an entry, without those inside another one or of a related entry."""
    for child in element:
        if child.tag == name:
            yield child
        elif child.tag != "re":
            yield from _descendants(child, name)


def _texts(citation: Element, tag: str | None) -> list[tuple[str | None, str]]:
    """Return the texts of a citation with their tags."""
    tag = citation.get(LANGUAGE, tag)
    texts = []
    for quote in [*citation.findall("quote"), *citation.findall("form/orth")]:
        texts.append((quote.get(LANGUAGE, tag), join_spaces(text_of(quote))))
    return texts


__all__ = ["entries_of_tei"]
