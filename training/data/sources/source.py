"""A corpus to train on, as data: the keys that a source's YAML file may have, and what they mean.

source = load_source("opus-100")               # training/data/sources/opus-100.yaml
source = load_source("my/corpus.yaml")         # a source of your own
rows = read_texts(source, ["en", "de"])
"""

from dataclasses import dataclass, field

# Layouts of parallel text, and of images with captions.
TEXTS = ("pairs", "translation", "columns", "language_column", "language_lists", "joined")
IMAGES = ("images", "image_lists")
# Layouts whose rows have English each, which their languages do not list.
_WITH_ENGLISH = ("pairs", "translation", "language_column", "language_lists")


@dataclass(kw_only=True)
class Source:
    """A corpus as its YAML file describes it; all fields but `name` and `file` are keys of that file.

    `dataset` is read from beside the YAML file if it exists there.

    - `name`: the file's stem. `file`: the file.
    - `layout`: where texts and languages lie; `columns` names the columns by their contents:

      | layout | a row has | `columns` | languages |
      |---|---|---|---|
      | `pairs` | English and another language | `english`, `translation` | `configs` |
      | `translation` | `{language: text}` of two languages | `translation` | `configs` |
      | `columns` | one column a language | `captions: {language: column}` | `captions` |
      | `language_column` | English, and another text | `english`, `translation`, `language` | `codes` |
      | `language_lists` | English, and a list of `[language, text]` | `english`, `translations` | `codes` |
      | `joined` | one language, and an id, by which rows are joined | `id`, `text` | `configs` |
      | `images` | an image, and one column a language | `captions: {...}`, `image` | `captions` |
      | `image_lists` | an image, lists of texts and languages | `captions`, `language`, `image` | `codes` |
      | `addresses` | an image's address, and captions | `url`, `captions`, `language` | `captions`, `codes` |

      `image` may be left out where only one column holds images. `captions` of `addresses` is one column
      where `language` is another. A column may be a field in another: `annotations.caption`.
    - `dataset`: a Hub id or a folder. `revision`, `config`, `data_files`: as in `datasets.load_dataset`.
    - `splits`: `{train: name}`, and `validation` and `test` where there are such splits.
    - `configs`: `{language: configuration}`. `codes`: `{language: its code in the data}`.
    - `kind`: `human`, written or translated by people; `mined`, found to be alike; `machine`, translated.
    - `n_rows`: the number of rows in the first of `splits`, where one configuration has all.
      `rows_by_language`: those of each configuration, as far as they are known. `size`: of the whole.
      `n_bytes`: of all its files.
    - `licence`, and `terms`, what it asks for, see `common.licences.TERMS`; None where that is not known.
      `gated`: the Hub asks to accept the terms. `notes`.
    - `refused`: why nobody should train on it.
    - `unverified`: fields whose values were never compared with the Hub.
    """

    name: str
    file: str
    layout: str
    dataset: str
    splits: dict[str, str]
    columns: dict
    kind: str
    revision: str | None = None
    config: str | None = None
    data_files: dict[str, str] | None = None
    configs: dict[str, str] = field(default_factory=dict)
    codes: dict[str, str] = field(default_factory=dict)
    n_rows: int | None = None
    n_bytes: int | None = None
    rows_by_language: dict[str, int] = field(default_factory=dict)
    size: str | None = None
    licence: str | None = None
    terms: list[str] | None = None
    gated: bool = False
    refused: str | None = None
    notes: str | None = None
    unverified: list[str] = field(default_factory=list)

    @property
    def languages(self) -> list[str]:
        """Return the languages of the texts; none where only the rows tell them."""
        captions = self.columns.get("captions")
        if isinstance(captions, dict):
            return list(captions)
        named = list(self.configs or self.codes)
        return ["en", *named] if self.layout in _WITH_ENGLISH else named


__all__ = ["IMAGES", "TEXTS", "Source"]
