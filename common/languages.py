"""Read tags of languages, and match those that a user requests with those that a model or a dataset has."""

import re
from collections.abc import Iterable

from modeling_altclip.languages_altclip import canonical, match_language

from .errors import InputError

# A tag of BCP 47: a language, an extended one (zh-yue), a script, a region, variants, extensions.
_TAG = re.compile(
    r"(?P<language>[a-z]{2,3})(?:-(?P<extended>[a-z]{3}))?"
    r"(?P<script>-[a-z]{4})?(?P<region>-(?:[a-z]{2}|[0-9]{3}))?"
    r"(?:-(?:[a-z0-9]{5,8}|[0-9][a-z0-9]{3}))*(?:-[a-z0-9](?:-[a-z0-9]{1,8})+)*",
    re.IGNORECASE,
)
_LONGEST_TAG = 100  # characters
# Tags of former registrations, and of several languages, none, or one that is not known.
_FORMER = {"zh-min-nan": "nan", "zh-guoyu": "zh", "zh-xiang": "hsn", "zh-hakka": "hak", "no-bok": "nb"}
_FORMER |= {"no-nyn": "nn"}
_NO_LANGUAGES = {"mis", "mul", "und", "zxx"}
# Scripts in the names of locales: sr@latin.
_SCRIPTS = {"latin": "-Latn", "cyrillic": "-Cyrl", "devanagari": "-Deva", "arabic": "-Arab"}


def language_of_tag(tag: str | None) -> str | None:
    """Return the canonical code of the language that a tag of a file names, or None if it names none.

    Tags of BCP 47 and names of POSIX locales are read. Of a tag, the language, the script and the region
    are kept, and variants and extensions are dropped. A code has two letters where there are two.

    Example:

    ```python
    >>> from common.languages import language_of_tag

    >>> [language_of_tag(tag) for tag in ("en-US", "cmn", "deu", "zh-yue-Hant", "sr_RS@latin", "de-1996")]
    ['en-US', 'zh', 'de', 'yue-Hant', 'sr-Latn-RS', 'de']
    >>> language_of_tag("und") is None
    True
    ```
    """
    tag = (tag or "").strip()[:_LONGEST_TAG]
    # pt_BR.UTF-8@euro -> pt-BR, and what follows @
    locale, _, modifier = tag.partition("@")
    locale = locale.partition(".")[0].replace("_", "-")
    locale = _FORMER.get(locale.lower(), locale)
    match = _TAG.fullmatch(locale)
    if not match:
        return None
    language = match["extended"] or match["language"]
    if language.lower() in _NO_LANGUAGES:
        return None
    script = match["script"] or _SCRIPTS.get(modifier.lower(), "")
    return canonical(language + script + (match["region"] or ""))


def check_languages(requested: list[str] | None, available: list[str]) -> list[str]:
    """Return the requested languages, or all available ones, in the spelling under which they are available.

    Args:
        requested: the requested languages, which are deduplicated; None or an empty list for all.
        available: the available languages.

    Raises:
        InputError: one is not available, may be one of several, or is a country's code, say; the message asks
            what was meant.
    """
    if not requested:
        return available
    found = [check_language(language, available) for language in requested]
    return list(dict.fromkeys(found))


def check_language(requested: str, available: Iterable[str], lacking: str = "no text in language") -> str:
    """Return the available language that matches the requested one; see `match_language`.

    Args:
        requested: the requested language.
        available: the available languages.
        lacking: the beginning of the error message.

    Raises:
        InputError: none matches, or several do.
    """
    try:
        return match_language(requested, available)
    except ValueError as error:
        raise InputError(f"{lacking} {requested}: {error}") from error


def find_language(requested: str, available: Iterable[str]) -> str | None:
    """Return the available language that matches the requested one, or None; see `check_language`."""
    try:
        return match_language(requested, available)
    except ValueError:
        return None


__all__ = ["check_language", "check_languages", "find_language", "language_of_tag"]
