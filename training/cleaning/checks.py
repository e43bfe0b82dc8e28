"""Clean one row of parallel text: change its texts, and name for each the first reason to remove it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from runpy import run_path

from common.errors import InputError, one_line

from . import texts as of_text
from .arguments import CleaningArguments

# Reasons to remove a text. A user's filter adds its own, as "filter: REASON".
_NO_ENGLISH = "no English"
_ENGLISH_REMOVED = "English removed"
NO_TRANSLATION = "no translation left"
NEAR_DUPLICATE = "near-duplicate"
NOT_SIMILAR = "similarity"

_Filter = Callable[[str, str, str], str | None]


@dataclass
class CheckedRow:
    """What became of a row's texts, `{language: text}`.

    Attributes:
        kept: texts as they were changed to, English among them; empty if the row is removed.
        removed: a reason for each of the others.
        changes: by language, the names of the steps that changed the text.
    """

    kept: dict[str, str] = field(default_factory=dict)
    removed: dict[str, str] = field(default_factory=dict)
    changes: dict[str, list[str]] = field(default_factory=dict)


class RowChecker:
    """Cleans rows one by one, by the steps that the arguments name.

    Args:
        languages: all languages of the run.

    Raises:
        InputError: the filter cannot be loaded.
        MissingExtra: languages are to be identified, and lingua is not installed.

    Example:

    ```python
    >>> from training.cleaning.arguments import CleaningArguments
    >>> from training.cleaning.checks import RowChecker

    >>> arguments = CleaningArguments(dataset="pairs.tsv", output_dir="outputs/cleaned")
    >>> checker = RowChecker(arguments, ["en", "fr", "de"])
    >>> row = checker.check({"en": "cats &amp; dogs", "fr": "chats et chiens", "de": "%s Katzen"})
    >>> row.kept
    {'en': 'cats & dogs', 'fr': 'chats et chiens'}
    >>> row.removed, row.changes
    ({'de': 'placeholder'}, {'en': ['entities']})
    ```
    """

    def __init__(self, arguments: CleaningArguments, languages: list[str]):
        self.arguments = arguments
        self.filter = _load_filter(arguments.filter) if arguments.filter else None
        self.identifier = None
        if arguments.identify_languages:
            from .identification import Identifier  # needs the extra `cleaning`

            self.identifier = Identifier(languages)

    def check(self, row: dict[str, str]) -> CheckedRow:
        """Clean one row, in which languages without a text are left out.

        Without its English, a row is removed, and so is English all of whose translations are. A row of
        English alone stays.
        """
        checked = CheckedRow()
        cleaned = {}
        for language, text in row.items():
            cleaned[language], changes = self._change(text)
            if changes:
                checked.changes[language] = changes

        english = cleaned.pop("en", None)
        if english is None:
            checked.removed = dict.fromkeys(cleaned, _NO_ENGLISH)
            return checked
        reason = self._reason_of_text(english, "en")
        if reason is None and not cleaned:
            reason = self._filter(english, english, "en")
        if reason is not None:
            checked.removed = {"en": reason} | dict.fromkeys(cleaned, _ENGLISH_REMOVED)
            return checked

        for language, text in cleaned.items():
            reason = self._reason_of_text(text, language) or self._reason_of_pair(english, text, language)
            if reason is None:
                checked.kept[language] = text
            else:
                checked.removed[language] = reason
        if cleaned and not checked.kept:
            checked.removed["en"] = NO_TRANSLATION
        else:
            checked.kept = {"en": english} | checked.kept
        return checked

    def _change(self, text: str) -> tuple[str, list[str]]:
        """Return a text as the first two steps leave it, and the names of those that changed it."""
        changes = []
        if self.arguments.unescape_entities and "&" in text:
            unescaped = of_text.unescape(text)
            if unescaped != text:
                changes.append("entities")
            text = unescaped
        if self.arguments.normalize_unicode:
            normalized = of_text.normalize(text)
            if normalized != text:
                changes.append("Unicode")
            text = normalized
        return text, changes

    def _reason_of_text(self, text: str, language: str) -> str | None:
        """Return the first reason to remove a text that lies in itself."""
        arguments = self.arguments
        if not text.strip():
            return "empty"
        if arguments.remove_markup and of_text.has_markup(text):
            return "mark-up"
        if arguments.remove_addresses and of_text.has_address(text):
            return "address"
        if arguments.remove_placeholders and of_text.has_placeholder(text):
            return "placeholder"
        if arguments.least_length or arguments.most_length:
            width = of_text.width(text)
            if width < arguments.least_length:
                return "too short"
            if arguments.most_length and width > arguments.most_length:
                return "too long"
        if self.identifier is not None:
            confidence = self.identifier.confidence(text, language)
            if confidence is not None and confidence < arguments.least_confidence:
                return "other language"
        return None

    def _reason_of_pair(self, english: str, text: str, language: str) -> str | None:
        """Return the first reason to remove a text that lies in it and its English."""
        arguments = self.arguments
        if arguments.remove_equal and text.casefold() == english.casefold():
            return "equal to the English"
        if arguments.most_ratio and of_text.length_ratio(english, text) > arguments.most_ratio:
            return "length ratio"
        return self._filter(english, text, language)

    def _filter(self, english: str, text: str, language: str) -> str | None:
        """Ask the user's own filter for a reason.

        Raises:
            InputError: it fails, or returns something else than a reason or None.
        """
        if self.filter is None:
            return None
        name = self.arguments.filter
        try:
            reason = self.filter(english, text, language)
        except Exception as error:
            raise InputError(
                f"filter {name!r} failed at {text!r} in {language}, {type(error).__name__}: "
                f"{one_line(error)}: fix it"
            ) from error
        if reason is None:
            return None
        if not isinstance(reason, str) or not reason.strip():
            raise InputError(
                f"filter {name!r} returned {reason!r} for {text!r} in {language}: return the reason to "
                "remove it as a text, or None to keep it"
            )
        return f"filter: {' '.join(reason.split())}"


@lru_cache(maxsize=1)  # processes that clean one part after another run the file once
def _load_filter(name: str) -> _Filter:
    """Load a user's function from `FILE.py:FUNCTION`, by running the file.

    Raises:
        InputError: there is no such file or function, or the file fails.
    """
    file, _, function = name.rpartition(":")
    if not Path(file).is_file():
        raise InputError(f"filter {name!r}: there is no file {file!r}: give FILE.py:FUNCTION")
    try:
        names = run_path(file)
    except Exception as error:
        raise InputError(
            f"filter {name!r}: {file} fails with {type(error).__name__}: {one_line(error)}: fix it"
        ) from error
    if not callable(names.get(function)):
        raise InputError(f"filter {name!r}: {file} defines no function {function}: name one that it does")
    return names[function]


__all__ = [
    "NEAR_DUPLICATE",
    "NOT_SIMILAR",
    "NO_TRANSLATION",
    "CheckedRow",
    "RowChecker",
]
