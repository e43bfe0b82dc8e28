"""Unpack parallel text: catalogues of programs, dictionaries, and names of emoji, languages and territories.

gettext/gimp-data/de/LC_MESSAGES/gimp20.mo
freedict/eng-fra/eng-fra.tei
cldr-annotations/annotations/de/annotations.json
cldr-names/main/de/languages.json
"""

from pathlib import Path, PurePosixPath

from common.languages import language_of_tag
from common.origins import write_origins

from .packages import Package
from .unpack import unpack

# Languages whose texts are unpacked, and those of their variants that catalogues and Unicode tell apart.
LANGUAGES = "en de fr es it nl pt pl ru uk cs sv da hu tr el ja ko zh ar he hi vi id fi".split()
# Dictionaries of FreeDict with English in trained languages. Those of German are 400 MB each, and left out.
DICTIONARIES = (
    "eng-ara eng-ces eng-fra eng-hun eng-ita eng-nld eng-por eng-rus eng-spa eng-swe eng-tur jpn-eng"
).split()
_VARIANTS = ("pt-BR", "zh-CN", "zh-TW", "zh-Hant")
# Where the packages of npm have their names, and the folder that the reader of CLDR knows them by.
_NAMES = {
    "cldr-annotations-full": ("package/annotations/", "cldr-annotations/annotations"),
    "cldr-localenames-full": ("package/main/", "cldr-names/main"),
}


def write_texts(files: dict[str, Path], packages: dict[str, Package], folder: Path) -> None:
    """Unpack the parallel text of all packages that have some, in 25 languages.

    Args:
        files: the packages' archives, by name.
        packages: by name.
        folder: of all texts.
    """
    origins = []
    for name, package in packages.items():
        if name in _NAMES:
            below, target = _NAMES[name]
            endings = {".json"}
            is_wanted = _is_in_a_language
        elif package.holds.startswith("catalogues"):
            below, target = "usr/share/locale/", f"gettext/{name}"
            endings = {".mo"}
            is_wanted = _is_in_a_language
        elif package.holds.startswith("dictionaries"):
            below, target = f"freedict-{package.version}.orig/", "freedict"
            endings = {".tei"}
            is_wanted = _is_dictionary
        else:
            continue
        unpack(files[name], folder / target, below=below, endings=endings, is_wanted=is_wanted)
        origins.append(package.origin(languages=LANGUAGES))
    write_origins(folder, origins)


def _is_in_a_language(path: str) -> bool:
    """Check that a file lies in the folder of a language that is wanted: `pt_BR/LC_MESSAGES/gimp20.mo`.

    English of a hundred countries and territories is left out, which differs in a few words.
    """
    locale = path.partition("/")[0]
    return language_of_tag(locale) in (*LANGUAGES, *_VARIANTS)


def _is_dictionary(path: str) -> bool:
    """Check that a file is one of `DICTIONARIES`: `eng-fra/eng-fra.tei`."""
    return PurePosixPath(path).stem in DICTIONARIES


__all__ = ["DICTIONARIES", "LANGUAGES", "write_texts"]
