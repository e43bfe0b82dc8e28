"""Identify languages by lingua, whose models come with the package: no network is needed.

Only the languages of a run are told apart, in lingua's mode of low accuracy, which takes about 1 MB of memory
a language. Texts of languages that it does not know are not checked.
"""

from functools import lru_cache

from common.extras import of_extra

with of_extra("cleaning"):
    from lingua import IsoCode639_1, Language, LanguageDetector, LanguageDetectorBuilder

# Codes that lingua has under another one: of Norwegian it knows Bokmål and Nynorsk, of Filipino Tagalog.
_OTHER_CODES = {"no": "nb", "fil": "tl"}


class Identifier:
    """Tells how likely a text is in the language that its column names.

    Args:
        languages: all languages of the run, in any order.
    """

    def __init__(self, languages: list[str]):
        known = {}
        for language in sorted(languages):
            code = _code_of(language)
            if code is not None:
                known[language] = code
        self.languages = known
        self._detector = _build_detector(tuple(sorted(set(known.values()))))

    def confidence(self, text: str, language: str) -> float | None:
        """Return how likely a text is in a language, 0 to 1, among the languages of the run.

        Returns:
            None if nothing can be said: of a language that lingua does not know, of a run with no second
            language to tell it from, or of a text without words, as of numbers.
        """
        if language not in self.languages or self._detector is None:
            return None
        expected = self.languages[language]
        # In descending order
        values = self._detector.compute_language_confidence_values(text)
        if values[0].value == 0:
            return None
        of_code = {value.language.iso_code_639_1.name.lower(): value.value for value in values}
        return of_code[expected]


def _code_of(language: str) -> str | None:
    """Return lingua's code of a language, "pt" of "pt-BR"; None if it has none."""
    base = language.partition("-")[0]
    base = _OTHER_CODES.get(base, base)
    return base if base in _known_codes() else None


@lru_cache
def _known_codes() -> frozenset[str]:
    return frozenset(language.iso_code_639_1.name.lower() for language in Language.all())


@lru_cache(maxsize=1)  # processes that clean one part after another load the models once
def _build_detector(codes: tuple[str, ...]) -> LanguageDetector | None:
    """Build a detector of some languages; None if there are not two to tell apart."""
    if len(codes) < 2:
        return None
    names = [getattr(IsoCode639_1, code.upper()) for code in codes]
    return LanguageDetectorBuilder.from_iso_codes_639_1(*names).with_low_accuracy_mode().build()


__all__ = ["Identifier"]
