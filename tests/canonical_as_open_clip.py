"""Compare our canonical texts with open_clip's, and the ids that a tokenizer gives for both.

    python tests/canonical_as_open_clip.py FOLDER

FOLDER has a tokenizer. open_clip, ftfy and Babel have to be installed; torchvision does not. The texts are
names of countries and regions from the Unicode CLDR, as Babel has them: for each of 50 languages the 8 with
the most punctuation, one in capitals, and three in a line. It exits with 1 if any text differs.
"""

import sys
import unicodedata
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec

from babel import Locale
from transformers import AutoTokenizer

from modeling_altclip.reading_altclip import canonical_tokenizer, canonicalize

LANGUAGES = (
    "am ar as az be bg bn bo chr ckb cs de el en es fa fr gu he hi hu hy ja ka km kn ko ky lo ml mn my or pa "
    "pt ru sd si ta te th ti tr uk ur vi yue zh zh_Hant zgh"
).split()
PER_LANGUAGE = 10
# What ftfy and `html.unescape` repair, and normalizers of a tokenizer cannot.
UNREPAIRED = ["caf&eacute;", "salt &amp; pepper", "cafÃ©", "\x1b[36mblue\x1b[0m", "one\x85two"]


def open_clip_tokenizers():
    """Import open_clip's module of tokenizers alone: the package itself imports torchvision."""
    spec = find_spec("open_clip")
    package = ModuleSpec("open_clip", None, is_package=True)
    package.submodule_search_locations = spec.submodule_search_locations
    sys.modules["open_clip"] = module_from_spec(package)
    from open_clip import tokenizer

    return tokenizer


def texts_of(language: str) -> list[str]:
    """Return the texts of a language."""
    names = sorted(set(Locale.parse(language).territories.values()))
    names.sort(key=lambda name: -sum(unicodedata.category(character)[0] == "P" for character in name))
    names = names[: PER_LANGUAGE - 2]
    return [*names, names[0].upper(), f"“{names[1]}”: {names[2]} & {names[3]}…"]


def script_of(text: str) -> str:
    """Return the script of a text's first letter, the first word of its name in Unicode."""
    letter = next(character for character in text if character.isalpha())
    return unicodedata.name(letter).split()[0]


def main(folder: str) -> int:
    peer = open_clip_tokenizers()
    clean = peer.get_clean_fn("canonicalize")
    own = canonical_tokenizer(AutoTokenizer.from_pretrained(folder))
    theirs = peer.HFTokenizer(folder, context_length=64, clean="canonicalize")

    texts = [text for language in LANGUAGES for text in texts_of(language)]
    scripts = {script_of(text) for text in texts}
    ids = own(texts, padding="max_length", truncation=True, max_length=64)["input_ids"]
    their_ids = theirs(texts).tolist()
    other_texts = [text for text in texts if canonicalize(text) != clean(text)]
    other_ids = [text for text, mine, their in zip(texts, ids, their_ids) if mine != their]
    print(f"{len(texts)} texts in {len(LANGUAGES)} languages and {len(scripts)} scripts")
    print(f"{len(texts) - len(other_texts)} of {len(texts)} strings are equal to open_clip's")
    print(f"{len(texts) - len(other_ids)} of {len(texts)} lists of ids are equal to open_clip's")

    characters = [chr(code) for code in range(sys.maxunicode + 1)]
    # Neither those that Python does not know, nor halves of surrogate pairs
    known = [character for character in characters if unicodedata.category(character) not in ("Cn", "Cs")]
    other = [character for character in known if canonicalize(f"x{character}x") != clean(f"x{character}x")]
    version = unicodedata.unidata_version
    print(f"{len(known) - len(other)} of {len(known)} characters of Unicode {version} are equal in a word")
    print("All but", " ".join(f"U+{ord(character):04X}" for character in other))
    for text in [*other_texts, *UNREPAIRED]:
        print(f"{text!r}: ours {canonicalize(text)!r}, open_clip's {clean(text)!r}")
    return 1 if other_texts or other_ids else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
