"""Read bilingual dictionaries in TEI, as FreeDict has them.

    <entry><form><orth>Hund</orth></form>
      <sense><cit type="trans"><quote>dog</quote></cit></sense></entry>

The languages stand in `xml:lang`, or else in the name of the file: `deu-eng.tei`.
"""

import re
from collections.abc import Iterator
from xml.etree.ElementTree import Element

from .documents import Document
from .entries import UNTRANSLATED, Entry, as_entry, join_spaces, skip
from .xml_elements import LANGUAGE, local_name, read_elements, text_of

_NAME = re.compile(r"([a-z]{2,3})-([a-z]{2,3})(?![a-z]).*", re.IGNORECASE)
_TRANSLATIONS = {"trans", "translation", "translationEquivalent"}


def entries_of_tei(document: Document) -> Iterator[Entry]:
    """Yield a dictionary's entries: a headword with one of its translations each, and translated examples."""
    named = _NAME.fullmatch(document.plain.stem)
    source_name, target_name = named.groups() if named else (None, None)
    for element, around in read_elements(document, {"entry"}):
        # The root states the language of what is said about the dictionary.
        inside_text = [outer for outer in around if local_name(outer) != "TEI"]
        source_tag = source_name
        for outer in [*inside_text, element]:
            source_tag = outer.get(LANGUAGE, source_tag)
        pairs = list(_pairs(element, source_tag, target_name))
        for pair in pairs:
            yield as_entry(pair)
        if not pairs:
            yield skip(UNTRANSLATED)


def _pairs(entry: Element, source_tag: str | None, target_tag: str | None) -> Iterator[list[tuple]]:
    """Yield pairs of two `(tag, text)`, of the language of the headwords and of the other one."""
    headwords = []
    for form in entry.findall("form"):
        for spelled in form.findall("orth"):
            tag = spelled.get(LANGUAGE) or form.get(LANGUAGE, source_tag)
            headwords.append((tag, join_spaces(text_of(spelled))))

    for citation in _citations(entry):
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


def _citations(element: Element) -> Iterator[Element]:
    """Yield the citations of an entry, without those inside another one or of a related entry."""
    for child in element:
        if child.tag == "cit":
            yield child
        elif child.tag != "re":
            yield from _citations(child)


def _texts(citation: Element, tag: str | None) -> list[tuple[str | None, str]]:
    """Return the texts of a citation with their tags."""
    tag = citation.get(LANGUAGE, tag)
    texts = []
    for quote in [*citation.findall("quote"), *citation.findall("form/orth")]:
        texts.append((quote.get(LANGUAGE, tag), join_spaces(text_of(quote))))
    return texts


__all__ = ["entries_of_tei"]
