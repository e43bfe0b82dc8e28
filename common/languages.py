"""Match the languages that a user requests with those that a model or a dataset has."""

from collections.abc import Iterable

from modeling_altclip.languages_altclip import match_language

from .errors import InputError


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


__all__ = ["check_language", "check_languages", "find_language"]
