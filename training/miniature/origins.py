"""Say what the emoji scenes are made of, with the licences of `asset/ATTRIBUTION.md`."""

from collections.abc import Iterable

from common.licences import terms_of
from common.origins import Origin

from .scenes import STYLES, read_concepts

_NAMES = ("Unicode CLDR", "Unicode-3.0")
# Name and licence of the drawings of each style.
_DRAWINGS = {
    "noto": ("Noto Emoji", "Apache-2.0"),
    "noto-v1": ("Noto Emoji (v1)", "Apache-2.0"),
    "twemoji": ("Twitter Emoji", "CC-BY-4.0"),
    "fluent-emoji-flat": ("Fluent Emoji Flat", "MIT"),
    "emojione": ("Emoji One (Colored)", "CC-BY-4.0"),
    "fxemoji": ("Firefox OS Emoji", "Apache-2.0"),
    "openmoji": ("OpenMoji", "CC-BY-SA-4.0"),
}


def origins_of_scenes(styles: Iterable[str] = STYLES, languages: Iterable[str] | None = None) -> list[Origin]:
    """Return the drawings that scenes are made of, and the names in their captions.

    Args:
        styles: those of the drawings; by default those of the training splits, which lack OpenMoji's.
        languages: those of the captions; by default all.
    """
    origins = []
    for style in styles:
        name, licence = _DRAWINGS[style]
        origins.append(Origin(name=name, licence=licence, terms=terms_of(licence)))
    name, licence = _NAMES
    languages = list(languages or read_concepts()["languages"])
    return [*origins, Origin(name=name, licence=licence, terms=terms_of(licence), languages=languages)]


__all__ = ["origins_of_scenes"]
