"""What a single text is changed to, and what it may be removed for."""

import html
import re
import unicodedata

# Invisible characters that words are spelled with: joiners of Persian, Indic scripts and emoji, and signs
# that stand before Arabic, Syriac and Kaithi numbers.
_SPELLED = {"\u200c", "\u200d", *"\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2"}
_SPELLED |= {"\U000110bd", "\U000110cd"}
_DROPPED = {"Cf", "Co", "Cs"}  # format, private use, half of a pair
_SPACES = {"Cc", "Zl", "Zp", "Zs"}  # control, line and paragraph separator, space

# <b>, </p>, <img src="a">, <!-- -->; but not "a < b" or "<3"
_MARKUP = re.compile(r"</?[A-Za-z][^<>]*>|<!--|<!\[CDATA\[")
# Numbers and spaces are bounded, so that the time of a search is linear in the text's length.
_PLACEHOLDERS = (
    # %s %1$s %5.2f %@
    r"%(?:\d{1,3}\$)?[-+0#]{0,3}\d{0,3}(?:\.\d{1,3})?(?:hh?|ll?|z)?[sdiufgxXc@](?![A-Za-z])",
    r"%\(\w+\)[sdif]",  # %(name)s
    r"(?<!\d)%L?\d{1,2}(?!\d)",  # %1, as Qt writes it
    r"\$?\{\{?\s{0,9}\w*\s{0,9}\}?\}",  # {} {0} {name} ${name} {{name}}
    # $1, with which such numbers begin: $5 is a price, and so are $10, $1.5 and $1 million.
    r"\$1(?![\d.,]*\d)(?! ?(?:million|billion|[kKmMbB]\b))",
)
_PLACEHOLDER = re.compile("|".join(_PLACEHOLDERS))
_SIGNS = set("%{$")  # one of which each has
_ADDRESS = re.compile(r"(?:https?|ftp)://\S|\bwww\.\w|[\w.+-]@[\w-]+\.\w", re.IGNORECASE)

# Characters that stand for about three, and about two, letters of an alphabet
_LOGOGRAPHS = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_SYLLABLES = re.compile("[\u3040-\u30ff\uac00-\ud7af]")


def normalize(text: str) -> str:
    """Return a text in Unicode's form NFC, in visible characters and single spaces.

    Control characters and separators become spaces. Format characters (soft hyphens, zero-width spaces, marks
    of direction) and characters for private use are dropped, except for joiners and signs that words are
    spelled with.

    Example:

    ```python
    >>> from training.cleaning.texts import normalize

    >>> normalize("  cafe\\u0301\\u200b\\x07\\tnoir ")
    'café noir'
    ```
    """
    text = unicodedata.normalize("NFC", text)
    if not text.isprintable():  # which is rare, and slower
        text = "".join(map(_visible, text))
    return " ".join(text.split())


def _visible(character: str) -> str:
    """Return a character, a space in place of what separates, or nothing in place of what cannot be seen."""
    category = unicodedata.category(character)
    if category in _SPACES:
        return " "
    if category in _DROPPED and character not in _SPELLED:
        return ""
    return character


def unescape(text: str) -> str:
    """Return a text with characters in place of HTML's entities: "cats &amp; dogs" -> "cats & dogs"."""
    return html.unescape(text)


def has_markup(text: str) -> bool:
    """Return whether a text has tags or comments of HTML or XML."""
    return "<" in text and _MARKUP.search(text) is not None


def has_placeholder(text: str) -> bool:
    """Return whether a text has a place that a program fills, as in "%s files", "{0}" and "$1"."""
    return not _SIGNS.isdisjoint(text) and _PLACEHOLDER.search(text) is not None


def has_address(text: str) -> bool:
    """Return whether a text has an address of the web or of e-mail."""
    may_have = "://" in text or "@" in text or "www." in text.casefold()
    return may_have and _ADDRESS.search(text) is not None


def width(text: str) -> int:
    """Return how many letters of an alphabet say about as much as a text.

    A Chinese character counts as three, a syllable of Japanese kana or Korean Hangul as two.
    """
    if text.isascii():
        return len(text)
    return len(text) + 2 * len(_LOGOGRAPHS.findall(text)) + len(_SYLLABLES.findall(text))


def length_ratio(first: str, second: str) -> float:
    """Return how many times as wide the wider of two texts is, at least 1.

    Five letters are added to both, since the ratios of short texts vary more: "key" and "la clé du bas" have
    (13 + 5) / (3 + 5) = 2.25.
    """
    widths = sorted((width(first) + 5, width(second) + 5))
    return widths[1] / widths[0]


__all__ = ["has_address", "has_markup", "has_placeholder", "length_ratio", "normalize", "unescape", "width"]
