"""Codes of languages (BCP 47), in one spelling, and matched to those that there are; common mistakes are asked about, never guessed at."""

import re
from collections.abc import Iterable

CODE = re.compile(r"[A-Za-z]{2,3}(?:[-_][A-Za-z]{4})?(?:[-_](?:[A-Za-z]{2}|[0-9]{3}))?")

# Three letters (ISO 639-2 and 639-3) and a former code of languages that have two: right in data, a slip in a flag.
SHORTER = dict(
    pair.split(":")
    for pair in """
    eng:en zho:zh chi:zh cmn:zh spa:es fra:fr fre:fr deu:de ger:de rus:ru ara:ar arb:ar jpn:ja kor:ko ita:it por:pt hin:hi ben:bn
    tha:th vie:vi tur:tr ukr:uk pol:pl nld:nl dut:nl ces:cs cze:cs ell:el gre:el swe:sv dan:da fin:fi nor:no nob:nb hun:hu ron:ro
    rum:ro bul:bg heb:he iw:he fas:fa per:fa pes:fa urd:ur ind:id msa:ms may:ms zsm:ms swa:sw swh:sw tam:ta tel:te mar:mr guj:gu
    kan:kn mal:ml pan:pa mya:my bur:my khm:km lao:lo kat:ka geo:ka hye:hy arm:hy kaz:kk uzb:uz mon:mn nep:ne sin:si amh:am afr:af
    sqi:sq alb:sq eus:eu baq:eu cat:ca glg:gl hrv:hr srp:sr slk:sk slo:sk slv:sl est:et lav:lv lit:lt isl:is ice:is gle:ga cym:cy
    wel:cy
    """.split()
)
# Countries, with what is spoken there; no language has these codes.
COUNTRIES = {
    "cn": "zh",
    "tw": "zh-TW",
    "hk": "zh-HK",
    "jp": "ja",
    "cz": "cs",
    "ua": "uk",
    "gr": "el",
    "dk": "da",
    "vn": "vi",
    "us": "en",
    "gb": "en",
    "mx": "es",
    "il": "he",
    "ir": "fa",
    "pk": "ur",
}
# Codes of languages too, Kanuri, Northern Sami, Breton and formerly Indonesian, where the country is meant more often.
MISTAKEN = {"kr": "ko", "se": "sv", "br": "pt", "in": "hi"}
NAMES = {
    "arabic": "ar",
    "bengali": "bn",
    "bulgarian": "bg",
    "cantonese": "yue",
    "chinese": "zh",
    "czech": "cs",
    "danish": "da",
    "dutch": "nl",
    "english": "en",
    "farsi": "fa",
    "finnish": "fi",
    "french": "fr",
    "german": "de",
    "greek": "el",
    "hebrew": "he",
    "hindi": "hi",
    "hungarian": "hu",
    "indonesian": "id",
    "italian": "it",
    "japanese": "ja",
    "korean": "ko",
    "malay": "ms",
    "mandarin": "zh",
    "norwegian": "no",
    "persian": "fa",
    "polish": "pl",
    "portuguese": "pt",
    "romanian": "ro",
    "russian": "ru",
    "spanish": "es",
    "swahili": "sw",
    "swedish": "sv",
    "tamil": "ta",
    "telugu": "te",
    "thai": "th",
    "turkish": "tr",
    "ukrainian": "uk",
    "urdu": "ur",
    "vietnamese": "vi",
}


def spell(code: str) -> str:
    """A code with the case and hyphens of BCP 47: `zh_hans` is `zh-Hans`, `pt_br` is `pt-BR`. What is no code stays as it is."""
    if not CODE.fullmatch(code):
        return code
    language, *subtags = re.split("[-_]", code)
    cased = [subtag.title() if len(subtag) == 4 else subtag.upper() for subtag in subtags]
    return "-".join([language.lower(), *cased])


def canonical(code: str) -> str:
    """The one code that data in a language is kept under: as `spell`, and `eng_Latn` is `en-Latn`."""
    language, hyphen, subtags = spell(code).partition("-")
    return SHORTER.get(language, language) + hyphen + subtags


def is_english(code: str) -> bool:
    """Whether it is the code of English, of whatever country or script."""
    return canonical(code).partition("-")[0] == "en"


def name_languages(given: Iterable[str]) -> dict[str, str]:
    """The canonical code of each of the languages that data has. English of one country alone is `en`, which a teacher reads.

    Raises:
        ValueError: one is a country's code, or two are the same language.
    """
    given = list(given)
    for code in given:
        meant = COUNTRIES.get(spell(code))
        if meant is not None:
            raise ValueError(
                f"{code!r} is a country's code and no language's: did you mean {meant!r}? Rename it"
            )
    names = {code: canonical(code) for code in given}
    english = [code for code in given if is_english(code)]
    if len(english) == 1:
        names[english[0]] = "en"
    for name in names.values():
        alike = [other for other in given if names[other] == name]
        if len(alike) > 1:
            raise ValueError(f"{' and '.join(map(repr, alike))} are both {name!r}: keep one of them")
    return names


def match_language(asked: str, available: Iterable[str]) -> str:
    """The one of the languages that is asked for, in its own spelling.

    It is the one of the same code; or else the only one of the same language, where one of the two says no country or script:
    `zh` for `zh-CN`, and the other way round.

    Raises:
        ValueError: there is none, or there are several; the message says what may have been meant.
    """
    available = list(available)
    wanted = spell(asked)
    for code in available:
        if spell(code) == wanted:
            return code
    meant = what_was_meant(asked)
    choices = f"choose from {' '.join(available)}"
    if meant is not None:
        raise ValueError(f"did you mean {meant!r}? If so, {choices}")
    language = canonical(wanted).partition("-")[0]
    same = [code for code in available if canonical(code).partition("-")[0] == language]
    nearest = [code for code in same if canonical(wanted) == language or canonical(code) == language]
    if len(nearest) == 1:
        return nearest[0]
    if len(nearest) > 1:
        raise ValueError(f"it may be {' or '.join(nearest)}: name one of them")
    if same:
        raise ValueError(f"did you mean {' or '.join(map(repr, same))}? If so, {choices}")
    raise ValueError(choices)


def what_was_meant(code: str) -> str | None:
    """The code that somebody who writes a country's code, three letters or an English name most often means; None of others."""
    language, hyphen, subtags = spell(code).partition("-")
    if language in SHORTER:
        return SHORTER[language] + hyphen + subtags
    return COUNTRIES.get(language) or MISTAKEN.get(language) or NAMES.get(code.lower())


__all__ = ["canonical", "is_english", "match_language", "name_languages", "spell"]
