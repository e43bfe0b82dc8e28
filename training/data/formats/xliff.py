"""Read XLIFF 1.2 and 2.0 or later.

<file source-language="en" target-language="de"><body>
  <trans-unit id="1"><source>a dog</source><target state="translated">ein Hund</target></trans-unit>

<xliff version="2.0" srcLang="en" trgLang="de"><file id="1"><unit id="1">
  <segment state="final"><source>a dog</source><target>ein Hund</target></segment>
"""

from collections.abc import Iterator
from xml.etree.ElementTree import Element

from .documents import Document
from .entries import FUZZY, PLURAL, UNTRANSLATED, Entry, as_entry, join_spaces, skip
from .xml_elements import LANGUAGE, read_elements, text_of

# States of a translation that nobody has made yet; `initial` is that of XLIFF 2.
_NOT_MADE = {"new", "needs-translation", "initial"}
_NOT_TO_TRANSLATE = "not to be translated"


def entries_of_xliff(document: Document) -> Iterator[Entry]:
    """Yield the entries of an XLIFF file, one of each unit or segment."""
    for unit, around in read_elements(document, {"trans-unit", "segment"}):
        yield _entry(unit, [*around, unit])


def _entry(unit: Element, path: list[Element]) -> Entry:
    """Make the entry of a unit.

    Args:
        path: the elements from the root to the unit.
    """
    source = unit.find("source")
    target = unit.find("target")
    if _innermost(path, "translate") == "no":
        return skip(_NOT_TO_TRANSLATE)
    # Gettext's plurals, as its converters write them.
    if (_innermost(path, "restype") or "").endswith("plurals"):
        return skip(PLURAL)
    if source is None or target is None:
        return skip(UNTRANSLATED)

    # XLIFF 1.2 has the state at the target, XLIFF 2 at the segment.
    state = target.get("state") or unit.get("state") or ""
    if state in _NOT_MADE:
        return skip(UNTRANSLATED)
    if state.startswith("needs-"):
        return skip(FUZZY)
    source_tag = source.get(LANGUAGE) or _innermost(path, "source-language") or _innermost(path, "srcLang")
    target_tag = target.get(LANGUAGE) or _innermost(path, "target-language") or _innermost(path, "trgLang")
    return as_entry([(source_tag, join_spaces(text_of(source))), (target_tag, join_spaces(text_of(target)))])


def _innermost(path: list[Element], attribute: str) -> str | None:
    """Return the value of an attribute for the last element of a path: its own, or that around it."""
    for element in reversed(path):
        if attribute in element.attrib:
            return element.get(attribute)
    return None


__all__ = ["entries_of_xliff"]
