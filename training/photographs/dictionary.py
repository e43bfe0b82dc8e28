"""Translate captions into English by a dictionary: what a student of parallel text has to be better than.

The dictionary of a language is the parallel text that the student learns from. Each of its texts stands for
the English that it is most often paired with:

    {"ein hund": "a dog", "hund": "dog", "und": "and", "katze": "cat"}

A caption is read from its beginning, and the longest phrase that the dictionary has is replaced; a word that
it does not have is kept:

    "Ein Hund und zwei Katzen." -> "a dog and zwei katzen"

Phrases are made of words. In languages that are written without spaces they are made of characters.
"""

import json
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow.compute as pc
from datasets import Dataset, Features, Image, Value

from common.files.rows import load_rows
from common.files.whole_files import write_text
from modeling_altclip.texts_altclip import is_blank

from ..data.examples import caption_slices
from .descriptions import plain

_WITHOUT_SPACES = ("ja", "zh", "th", "km", "lo", "my")
_LONGEST = 24  # words or characters of a phrase: captions are short
BY_DICTIONARY = "by_dictionary"
IN_FOLDERS = "in_folders"
FOUND = "found.json"


class Translation(NamedTuple):
    """A caption in English, as far as a dictionary knows it.

    - `text`: the English, among which unknown words are kept.
    - `n_found`, `n_units`: how many of its words were found, or characters of a language without spaces.
    """

    text: str
    n_found: int
    n_units: int


@dataclass
class Dictionary:
    """Phrases of a language, and their English.

    Attributes:
        language: its code.
        english: `{phrase: English}`, both normalized; see `plain`.
    """

    language: str
    english: dict[str, str]

    @property
    def _separator(self) -> str:
        return "" if self.language in _WITHOUT_SPACES else " "

    def translate(self, text: str) -> Translation:
        """Translate a text by the longest phrases that are known, from its beginning.

        A text of punctuation alone has nothing to translate, and is returned as it is.
        """
        units = units_of(text, self.language)
        if not units:
            return Translation(text, 0, 0)

        pieces = []
        unknown = []  # units since the last known phrase
        n_found = 0
        start = 0
        while start < len(units):
            length = self._longest_phrase(units, start)
            if length == 0:
                unknown.append(units[start])
                start += 1
                continue
            pieces += self._join_unknown(unknown)
            pieces.append(self.english[self._separator.join(units[start : start + length])])
            unknown = []
            n_found += length
            start += length
        pieces += self._join_unknown(unknown)
        return Translation(" ".join(pieces), n_found, len(units))

    def _longest_phrase(self, units: list[str], start: int) -> int:
        """Return the number of units of the longest known phrase that begins here; 0 if there is none."""
        longest = min(_LONGEST, len(units) - start)
        for length in range(longest, 0, -1):
            if self._separator.join(units[start : start + length]) in self.english:
                return length
        return 0

    def _join_unknown(self, units: list[str]) -> list[str]:
        """Join unknown characters to one piece again; words are pieces already."""
        return [self._separator.join(units)] if units else []


def units_of(text: str, language: str) -> list[str]:
    """Split a text into words, or into characters where its language is written without spaces."""
    normalized = plain(text)
    if language in _WITHOUT_SPACES:
        return list(normalized.replace(" ", ""))
    return normalized.split()


def build_dictionaries(rows: Dataset, languages: Iterable[str]) -> dict[str, Dictionary]:
    """Build a dictionary for each language out of parallel text.

    Args:
        rows: have `captions`, `{language: [text, ...]}`. The English of a row is its first one.
        languages: those to translate from; English among them has no dictionary.

    Returns:
        `{language: dictionary}`, empty ones for languages that no row has.
    """
    foreign = [language for language in languages if language != "en"]
    # {language: {phrase: how often it stands beside each English}}
    counts = {language: defaultdict(Counter) for language in foreign}
    for row in rows.select_columns(["captions"]):
        captions = row["captions"]
        english = _lower_case(captions["en"][0])
        for language in foreign:
            for text in captions.get(language) or ():
                units = units_of(text, language)
                if 0 < len(units) <= _LONGEST:
                    separator = "" if language in _WITHOUT_SPACES else " "
                    counts[language][separator.join(units)][english] += 1

    dictionaries = {}
    for language, phrases in counts.items():
        english = {}
        for phrase, beside in phrases.items():
            ((most_frequent, _),) = beside.most_common(1)
            english[phrase] = most_frequent
        dictionaries[language] = Dictionary(language, english)
    return dictionaries


def count_pairs(rows: Dataset, languages: Iterable[str]) -> int:
    """Count the texts of parallel text that stand beside English, in these languages; English is none."""
    n_pairs = 0
    for captions in caption_slices(rows):
        for language in languages:
            if language != "en" and language in captions:
                n_pairs += pc.sum(pc.list_value_length(captions[language])).as_py() or 0
    return n_pairs


def _lower_case(english: str) -> str:
    """Return English without case, so that "A dog" and "a dog" are counted as one."""
    return " ".join(unicodedata.normalize("NFKC", english).casefold().split())


def write_baselines(
    pictures: str, dictionaries: dict[str, Dictionary], languages: list[str], output_dir: str
) -> dict[str, float]:
    """Write what an English model is tested on: the pictures of the test with English in place of captions.

    `by_dictionary` has the same rows and pictures as the test. Where a picture has a caption in a language,
    its `captions` there are the translation by the dictionary, and its `english` there is the picture's own
    English caption: so a result in any language is of the same pictures, whichever texts it is of.
    `found.json` beside the rows has the returned shares.

    `in_folders` has those pictures of the test that are in a class; some are in none.

    Args:
        pictures: the folder of the dataset.
        languages: those of `english`; `captions` are in the languages of the dictionaries.

    Returns:
        `{language: share of the words that its dictionary has}`, from 0 to 1.

    Raises:
        InputError: the dataset cannot be read, or lacks the columns.
    """
    test = load_rows(pictures, "test", ["image", "captions", "label"]).cast_column("image", Image(False))
    n_found = Counter()
    n_units = Counter()
    rows = []
    for row in test:
        captions = row["captions"]
        translated = dict.fromkeys(dictionaries)
        for language, dictionary in dictionaries.items():
            if has_caption(captions, language):
                translation = dictionary.translate(captions[language])
                translated[language] = translation.text
                n_found[language] += translation.n_found
                n_units[language] += translation.n_units
        english = {language: None for language in languages}
        for language in languages:
            if has_caption(captions, language):
                english[language] = captions["en"]
        rows.append({"image": row["image"], "captions": translated, "english": english})

    features = {
        "image": Image(),
        "captions": {language: Value("string") for language in dictionaries},
        "english": {language: Value("string") for language in languages},
    }
    folder = Path(output_dir, BY_DICTIONARY)
    _write_test(Dataset.from_list(rows, features=Features(features)), folder)
    shares = {language: n_found[language] / max(1, n_units[language]) for language in dictionaries}
    write_text(folder / FOUND, json.dumps(shares, indent=1) + "\n")
    _write_folders(test, Path(pictures), Path(output_dir, IN_FOLDERS))
    return shares


def has_caption(captions: dict[str, str | None], language: str) -> bool:
    """Check whether a picture has a caption in a language that retrieval counts."""
    text = captions.get(language)
    return text is not None and not is_blank(text)


def _write_folders(test: Dataset, pictures: Path, folder: Path) -> None:
    """Write the pictures that are in a class: a classification has no row without one."""
    in_class = [row for row, label in enumerate(test["label"]) if label is not None]
    labelled = test.select(in_class).select_columns(["image", "label"])
    _write_test(labelled.cast_column("image", Image()), folder)
    write_text(folder / "class_names.json", (pictures / "class_names.json").read_text("utf-8"))


def _write_test(rows: Dataset, folder: Path) -> None:
    (folder / "data").mkdir(parents=True, exist_ok=True)
    rows.to_parquet(folder / "data/test.parquet")


__all__ = [
    "BY_DICTIONARY",
    "FOUND",
    "IN_FOLDERS",
    "Dictionary",
    "Translation",
    "build_dictionaries",
    "count_pairs",
    "has_caption",
    "units_of",
    "write_baselines",
]
