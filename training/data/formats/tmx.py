"""Read translation memories in TMX 1.1 to 1.4.

<tu><tuv xml:lang="en-US"><seg>a dog</seg></tuv><tuv xml:lang="de"><seg>ein Hund</seg></tuv></tu>
"""

from collections.abc import Iterator

from .documents import Document
from .entries import Entry, as_entry, join_spaces
from .xml_elements import LANGUAGE, read_elements, text_of


def entries_of_tmx(document: Document) -> Iterator[Entry]:
    """Yield the entries of a translation memory, one of each unit, in two or more languages."""
    for unit, _ in read_elements(document, {"tu"}):
        tagged = []
        for variant in unit.findall("tuv"):
            # TMX 1.1 has the attribute without a namespace.
            tag = variant.get(LANGUAGE) or variant.get("lang")
            tagged.append((tag, join_spaces(text_of(variant.find("seg")))))
        yield as_entry(tagged)


__all__ = ["entries_of_tmx"]
