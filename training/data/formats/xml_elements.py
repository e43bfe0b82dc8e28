"""Stream elements of XML, in little memory, from files that anybody may have written.

A document type may refer to a file, as most translation memories do, and nothing opens that file. What such
a type declares inside the document is refused: entities, which may stand for other files or for gigabytes.
Python's parser resolves neither.
"""

from collections.abc import Iterator
from typing import IO
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, ParseError
from xml.parsers import expat

from common.errors import InputError

from .documents import Document

LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"
# What stands for formatting in a segment of TMX or XLIFF; the text inside is mark-up of another format.
_CODES = {"bpt", "bx", "ept", "ex", "it", "ph", "ut", "x"}

_CHUNK = 2**20  # bytes
# Bytes without an element: a comment or a text. A parser reads a comment from its start with each chunk.
_MOST_BYTES = 16 * 2**20
_DEEPEST = 200


def read_elements(document: Document, wanted: set[str]) -> Iterator[tuple[Element, list[Element]]]:
    """Yield each element of the wanted names, with the elements around it from the root inwards.

    Names are without namespace. All that lies outside of wanted elements is forgotten, but for the attributes
    of the elements around them.

    Raises:
        InputError: it is no XML, declares entities, has elements in more than 200 others, or more than 16 MiB
            without an element; or as `Document.open`.
    """
    around: list[Element] = []
    depth_of_wanted = 0  # of the wanted element that is open, if one is
    with document.open() as file:
        for event, element in _events(file, document.name):
            if event == "start":
                around.append(element)
                if len(around) > _DEEPEST:
                    raise InputError(f"dataset {document.name!r} has elements in {_DEEPEST} others: fix it")
                if not depth_of_wanted and local_name(element) in wanted:
                    depth_of_wanted = len(around)
                continue

            around.pop()
            if depth_of_wanted == len(around) + 1:
                depth_of_wanted = 0
                for part in element.iter():
                    part.tag = local_name(part)
                yield element, around
            if not depth_of_wanted and around:
                del around[-1][:]  # what has been read


def _events(file: IO[bytes], name: str) -> Iterator[tuple[str, Element]]:
    """Yield `("start", element)` and `("end", element)` in their order.

    Raises:
        InputError: as `read_elements`.
    """
    parser = ElementTree.XMLPullParser(["start", "end"])
    n_bytes = 0  # since the last element
    try:
        for chunk in _without_declarations(file, name):
            parser.feed(chunk)
            n_bytes += len(chunk)
            for event in parser.read_events():
                n_bytes = 0
                yield event
            if n_bytes > _MOST_BYTES:
                raise InputError(f"dataset {name!r} has {n_bytes:,} bytes without an element: fix it")
        parser.close()
        yield from parser.read_events()
    except InputError:
        raise
    except (ParseError, expat.ExpatError, LookupError, ValueError) as error:
        raise InputError(
            f"dataset {name!r} is no XML that can be read, {error}: is it whole, and in the encoding that it "
            "states?"
        ) from error


def _without_declarations(file: IO[bytes], name: str) -> Iterator[bytes]:
    """Yield the chunks of a document that declares nothing; declarations stand before the root.

    Raises:
        InputError: it declares something.
    """
    before_root = expat.ParserCreate()
    roots = []

    def refuse_declarations(_name, _system, _public, has_declarations):
        if has_declarations:
            raise InputError(
                f"dataset {name!r} declares entities or elements of its own, which are not read: remove what "
                "stands in [ ] after DOCTYPE"
            )

    before_root.StartDoctypeDeclHandler = refuse_declarations
    before_root.StartElementHandler = lambda tag, _attributes: roots.append(tag)
    while chunk := file.read(_CHUNK):
        if not roots:
            before_root.Parse(chunk)
            del roots[1:]
        yield chunk


def local_name(element: Element) -> str:
    """Return the name of an element without its namespace: "{urn:oasis}target" -> "target"."""
    return element.tag.rpartition("}")[2]


def text_of(element: Element | None) -> str:
    """Return the text of an element and those inside it, without the codes of formatting.

    `Press <bpt i="1">&lt;b&gt;</bpt>here<ept i="1">&lt;/b&gt;</ept>.` -> "Press here."
    """
    if element is None:
        return ""
    parts = [element.text or ""]
    for child in element:
        if child.tag not in _CODES:
            parts.append(text_of(child))
        parts.append(child.tail or "")
    return "".join(parts)


__all__ = ["LANGUAGE", "local_name", "read_elements", "text_of"]
