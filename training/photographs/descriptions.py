"""Read the descriptions of Tux Paint's stamps, and divide them so that no test description is trained on.

Beside a picture `crow.png` lies `crow.txt`. Its first line is English:

    A crow.
    de.utf8=Eine Krähe.
    zh_CN.utf8=乌鸦
"""

import hashlib
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from common.languages import language_of_tag
from modeling_altclip.languages_altclip import is_english

_TRANSLATION = re.compile(r"(?P<tag>[\w@]+)\.utf8=(?P<text>.+)")
_ARTICLES = {"a", "an", "some", "the"}
# The Chinese of the mainland is what `zh` stands for elsewhere, as in Unicode's data.
_SHORTER = {"zh-CN": "zh"}
# Letters and numbers have names that are no descriptions.
_LEFT_OUT = "symbols"
_MIRRORED = re.compile(r".*_(mirror|flip)")
_UNTRANSLATED = "texts that repeat the English"


@dataclass(frozen=True)
class Stamp:
    """A picture with its descriptions.

    Attributes:
        file: its path in the folder of stamps: `animals/birds/crow.png`.
        captions: by language, English among them.
    """

    file: str
    captions: dict[str, str]


def read_stamps(folder: Path) -> tuple[list[Stamp], Counter[str]]:
    """Read the stamps that have a description and are pictures of pixels, in the order of their paths.

    Returns:
        The stamps, and how many pictures and texts were left out, by reason.
    """
    stamps = []
    left_out = Counter()
    for path in sorted(folder.rglob("*")):
        if path.suffix not in (".png", ".svg") or _MIRRORED.fullmatch(path.stem):
            continue
        file = path.relative_to(folder).as_posix()
        description = path.with_suffix(".txt")
        if file.startswith(f"{_LEFT_OUT}/"):
            left_out["letters, numbers and symbols"] += 1
        elif not description.is_file():
            left_out["pictures without a description"] += 1
        elif path.suffix == ".svg":
            # Nothing here draws SVG. Some lie beside the same picture in pixels.
            left_out["drawings in SVG"] += not path.with_suffix(".png").is_file()
        else:
            captions, n_untranslated = read_description(description.read_text("utf-8"))
            left_out[_UNTRANSLATED] += n_untranslated
            stamps.append(Stamp(file, captions))
    return stamps, left_out


def read_description(text: str) -> tuple[dict[str, str], int]:
    """Read a file of descriptions as `{language: text}`.

    English of other countries is left out, and so is a text that repeats the English: it is not translated.

    Returns:
        The texts, and the number of those that are not translated.
    """
    english, *lines = text.splitlines()
    captions = {"en": english.strip()}
    n_untranslated = 0
    for line in lines:
        match = _TRANSLATION.fullmatch(line.strip())
        language = language_of_tag(match["tag"]) if match else None
        if language is None or is_english(language):
            continue
        if plain(match["text"]) == plain(english):
            n_untranslated += 1
        elif plain(match["text"]):
            # `ca` comes before `ca@valencia`, whose code is `ca` too.
            captions.setdefault(_SHORTER.get(language, language), match["text"].strip())
    return captions, n_untranslated


def normalize(text: str) -> str:
    """Return what two texts have in common that say the same: "A crow." and "crow" -> "crow"."""
    words = plain(text).split()
    if len(words) > 1 and words[0] in _ARTICLES:
        words = words[1:]
    return " ".join(words)


def plain(text: str) -> str:
    """Return a text in NFKC, without case and punctuation, with single spaces: `"L'Hund!"` -> `"l hund"`.

    Apostrophes are spaces too, so that `l'oiseau` has the word `oiseau`.
    """
    text = unicodedata.normalize("NFKC", text).casefold()
    letters = [" " if unicodedata.category(letter)[0] in "PSZC" else letter for letter in text]
    return " ".join("".join(letters).split())


def group_stamps(stamps: list[Stamp]) -> list[list[Stamp]]:
    """Group stamps of which two that have the same text in any language are in one group.

    Both "An apricot." and "A whole apricot." may be "Eine Aprikose." in German, and go together.

    Returns:
        The groups, in the order of their first stamps.
    """
    first_with: dict[tuple[str, str], int] = {}
    parents = list(range(len(stamps)))

    def find(index: int) -> int:
        while parents[index] != index:
            index = parents[index]
        return index

    for index, stamp in enumerate(stamps):
        for language, text in stamp.captions.items():
            other = first_with.setdefault((language, normalize(text)), index)
            # The smaller index is the root, so that a group is known by its first stamp.
            low, high = sorted((find(index), find(other)))
            parents[high] = low

    groups: dict[int, list[Stamp]] = {}
    for index, stamp in enumerate(stamps):
        groups.setdefault(find(index), []).append(stamp)
    return list(groups.values())


def is_for_test(group: list[Stamp]) -> bool:
    """Return whether a group is tested on, which half of all are: by a hash of its texts alone."""
    key = min(normalize(stamp.captions["en"]) for stamp in group)
    return hashlib.sha256(key.encode()).digest()[0] % 2 == 1


__all__ = [
    "Stamp",
    "group_stamps",
    "is_for_test",
    "normalize",
    "plain",
    "read_description",
    "read_stamps",
]
