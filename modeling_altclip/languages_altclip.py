"""Spell codes of languages (BCP 47) in one way, and match them to the languages that are available.

Common mistakes are refused with a question, never guessed at.
"""

import re
from collections.abc import Iterable

CODE = re.compile(r"[A-Za-z]{2,3}(?:[-_][A-Za-z]{4})?(?:[-_](?:[A-Za-z]{2}|[0-9]{3}))?")

# Tags of BCP 47, and other words of letters and digits that data sets call their languages.
_TAG = re.compile(r"[A-Za-z0-9]{1,20}(?:[-_][A-Za-z0-9]{1,20}){0,7}")
_SHOWN = 40  # characters of what is no tag, in a message

# Codes with three letters (ISO 639-2 and 639-3), and a former one, of languages that have a code with two.
# They are right in data, and a mistake in a command line.
_SHORTER = dict(
    pair.split(":")
    for pair in """
    eng:en zho:zh chi:zh cmn:zh spa:es fra:fr fre:fr deu:de ger:de rus:ru ara:ar arb:ar jpn:ja
    kor:ko ita:it por:pt hin:hi ben:bn tha:th vie:vi tur:tr ukr:uk pol:pl nld:nl dut:nl ces:cs
    cze:cs ell:el gre:el swe:sv dan:da fin:fi nor:no nob:nb hun:hu ron:ro rum:ro bul:bg heb:he iw:he
    fas:fa per:fa pes:fa urd:ur ind:id msa:ms may:ms zsm:ms swa:sw swh:sw tam:ta tel:te mar:mr
    guj:gu kan:kn mal:ml pan:pa mya:my bur:my khm:km lao:lo kat:ka geo:ka hye:hy arm:hy kaz:kk
    uzb:uz mon:mn nep:ne sin:si amh:am afr:af sqi:sq alb:sq eus:eu baq:eu cat:ca glg:gl hrv:hr
    srp:sr slk:sk slo:sk slv:sl est:et lav:lv lit:lt isl:is ice:is gle:ga cym:cy wel:cy
    aar:aa abk:ab aka:ak arg:an asm:as ava:av ave:ae aym:ay aze:az bak:ba bam:bm bel:be bis:bi
    bod:bo bos:bs bre:br cha:ch che:ce chu:cu chv:cv cor:kw cos:co cre:cr div:dv dzo:dz epo:eo
    ewe:ee fao:fo fij:fj fry:fy ful:ff gla:gd glv:gv grn:gn hat:ht hau:ha her:hz hmo:ho ibo:ig
    ido:io iii:ii iku:iu ile:ie ina:ia ipk:ik jav:jv kal:kl kas:ks kau:kr kik:ki kin:rw kir:ky
    kom:kv kon:kg kua:kj kur:ku lat:la lim:li lin:ln ltz:lb lub:lu lug:lg mac:mk mah:mh mao:mi
    mkd:mk mlg:mg mlt:mt mri:mi nau:na nav:nv nbl:nr nde:nd ndo:ng nno:nn nya:ny oci:oc oji:oj
    ori:or orm:om oss:os pli:pi pus:ps que:qu roh:rm run:rn sag:sg san:sa scc:sr scr:hr sme:se
    smo:sm sna:sn snd:sd som:so sot:st srd:sc ssw:ss sun:su tah:ty tat:tt tgk:tg tgl:tl tib:bo
    tir:ti ton:to tsn:tn tso:ts tuk:tk twi:tw uig:ug ven:ve vol:vo wln:wa wol:wo xho:xh yid:yi
    yor:yo zha:za zul:zu als:sq azj:az ekk:et gaz:om khk:mn kmr:ku lvs:lv npi:ne ory:or pbu:ps
    plt:mg uzn:uz ydd:yi
    """.split()
)
# Countries, and the language that is mostly meant; no language has these codes.
_COUNTRIES = {
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
# Codes of languages too, Kanuri, Northern Sami, Breton and formerly Indonesian, where the country is meant
# more often.
_MISTAKEN = {"kr": "ko", "se": "sv", "br": "pt", "in": "hi"}
_NAMES = {
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
    """Spell a code with the case and hyphens of BCP 47; leave what is no code as it is.

    "zh_hans" -> "zh-Hans", "pt_br" -> "pt-BR"
    """
    if not CODE.fullmatch(code):
        return code
    language, *subtags = re.split("[-_]", code)
    # Scripts have four letters and are in title case, countries in upper case.
    cased = [subtag.title() if len(subtag) == 4 else subtag.upper() for subtag in subtags]
    return "-".join([language.lower(), *cased])


def canonical(code: str) -> str:
    """Return the one code of a language in data: in BCP 47's spelling, with two letters if there are two.

    "eng_Latn" -> "en-Latn"
    """
    language, hyphen, subtags = spell(code).partition("-")
    return _SHORTER.get(language, language) + hyphen + subtags


def check_tag(code: str) -> None:
    """Refuse what cannot be the code of any language, such as a path, an empty text or a sentence.

    Raises:
        ValueError: it has other characters than letters, digits, hyphens and underscores, or is too long.
    """
    if not _TAG.fullmatch(code):
        raise ValueError(
            f"{code[:_SHOWN]!r} is no code of a language: give one of letters, digits and hyphens, such as "
            "'en', 'pt-BR' or 'zh-Hans'"
        )


def is_english(code: str) -> bool:
    """Check that a code is that of English, of any country or script."""
    return _language_of(code) == "en"


def _language_of(code: str) -> str:
    """Return the canonical code of a language without country and script: "zh_CN" -> "zh"."""
    return canonical(code).partition("-")[0]


def name_languages(given: Iterable[str]) -> dict[str, str]:
    """Map the languages in data to their canonical codes.

    English of one country alone is mapped to `en`, the language that a teacher reads: ["en_US", "deu"] ->
    {"en_US": "en", "deu": "de"}

    Raises:
        ValueError: one is no code of a language, or a country's, or two are the same language.
    """
    given = list(given)
    for code in given:
        check_tag(code)
        meant = _COUNTRIES.get(spell(code))
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


def match_language(requested: str, available: Iterable[str]) -> str:
    """Return the available language that is requested, in the spelling under which it is available.

    It is the one of the same code; or else the only one of the same language, if one of the two codes has no
    country or script: `zh` for `zh-CN`, and the other way round.

    Raises:
        ValueError: there is none, or there are several; the message says what may have been meant.
    """
    available = list(available)
    wanted = spell(requested)
    for code in available:
        if spell(code) == wanted:
            return code

    meant = _what_was_meant(requested)
    choices = f"choose from {' '.join(available)}"
    if meant is not None:
        raise ValueError(f"did you mean {meant!r}? If so, {choices}")

    language = _language_of(wanted)
    same = [code for code in available if _language_of(code) == language]
    # `zh-CN` and `zh-TW` do not stand for each other, but `zh` stands for either.
    nearest = [code for code in same if canonical(wanted) == language or canonical(code) == language]
    if len(nearest) == 1:
        return nearest[0]
    if len(nearest) > 1:
        raise ValueError(f"it may be {' or '.join(nearest)}: name one of them")
    if same:
        raise ValueError(f"did you mean {' or '.join(map(repr, same))}? If so, {choices}")
    raise ValueError(choices)


def _what_was_meant(code: str) -> str | None:
    """Return the code that a country's code, three letters or an English name mostly means, else None."""
    language, hyphen, subtags = spell(code).partition("-")
    if language in _SHORTER:
        return _SHORTER[language] + hyphen + subtags
    return _COUNTRIES.get(language) or _MISTAKEN.get(language) or _NAMES.get(code.lower())


__all__ = ["canonical", "check_tag", "is_english", "match_language", "name_languages", "spell"]
