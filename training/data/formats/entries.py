"""An entry of a file of translations: its texts by language, or the reason why it is skipped."""

import re
from collections.abc import Iterable
from typing import NamedTuple

from common.languages import language_of_tag
from modeling_altclip.languages_altclip import is_english
from modeling_altclip.texts_altclip import is_blank

UNTRANSLATED = "untranslated"
_EMPTY = "empty"
FUZZY = "fuzzy"
OBSOLETE = "obsolete"
PLURAL = "plural"
WITHOUT_ENGLISH = "without English"
_OF_NO_LANGUAGE = "in no known language"
_SEVERAL = "with two texts in one language"

_SPACES = re.compile(r"[ \t\r\n]+")


class Entry(NamedTuple):
    """An entry of a file of translations.

    - `texts`: the texts by the canonical codes of their languages; none if the entry is skipped.
    - `skipped`: the reason why it is skipped; empty if it is not.
    """

    texts: dict[str, str]
    skipped: str = ""


def skip(reason: str) -> Entry:
    """Make an entry that is skipped."""
    return Entry({}, reason)


def as_entry(tagged: Iterable[tuple[str | None, str | None]]) -> Entry:
    """Make an entry of texts, each with the tag of its language.

    The only English text of an entry is that of `en`, which a teacher reads, whatever its country is.
    An entry is skipped if it has no text, no translation, two texts in one language, or no known languages.
    """
    texts: dict[str, str] = {}
    n_unknown = 0
    for tag, text in tagged:
        if not text or is_blank(text):
            continue
        language = language_of_tag(tag)
        text = text.strip()
        if language is None:
            n_unknown += 1
        elif texts.setdefault(language, text) != text:
            return skip(_SEVERAL)

    if len(texts) < 2:
        if n_unknown:
            return skip(_OF_NO_LANGUAGE)
        return skip(UNTRANSLATED if texts else _EMPTY)
    english = [language for language in texts if is_english(language)]
    if len(english) == 1:
        texts["en"] = texts.pop(english[0])
    return Entry(texts)


def join_spaces(text: str) -> str:
    """Return a text of XML with one space for all of its spaces, tabs and line ends in a row."""
    return _SPACES.sub(" ", text).strip(" ")


__all__ = [
    "FUZZY",
    "OBSOLETE",
    "PLURAL",
    "UNTRANSLATED",
    "WITHOUT_ENGLISH",
    "Entry",
    "as_entry",
    "join_spaces",
    "skip",
]
