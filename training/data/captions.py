"""Convert captions of any form to what training reads: `{language: [text, ...]}`.

| a row has | its languages are |
|---|---|
| a dict `{"en": "a dog", "zh": "狗"}`, with a text or a list of texts each, or a `Translation` | the keys |
| `[{"language": "en", "text": "a dog"}, ...]`, or `{"language": [...], "text": [...]}` | beside the texts |
| a text or a list of texts, and a column `language` of one code or a list of as many | in `language` |
| a text, or a list of texts | the one that `languages` names |

Captions are read from the column that `text_column` names, or else from the first available one of
`captions`, `translation`, `caption`, `text` and `txt`. The fields of a column `json`, as webdataset has it,
count as columns.
"""

from collections.abc import Iterable
from functools import partial
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import (
    Dataset,
    Features,
    Image,
    IterableDataset,
    Json,
    List,
    Translation,
    Value,
    concatenate_datasets,
)

from common.errors import InputError
from common.files.rows import load_rows, rename_image
from common.files.table_cells import may_hold_texts, read_texts
from common.files.tars import TEXT_COLUMNS
from modeling_altclip.languages_altclip import canonical, name_languages

_NAMED = {"language", "text"}


class Form(NamedTuple):
    """The column of the captions, and how to read them.

    - `column`: the column of the texts.
    - `language`: the language of all of them, where only the recipe says it.
    - `available`: the available languages, where the columns' types list them.
    - `names`: the canonical code of each language of the data, `{"pt_BR": "pt-BR"}`.
    """

    column: str
    language: str | None
    available: list[str] | None
    names: dict[str, str] = {}


def find_form(
    features: Features, dataset: str, text_column: str | None = None, languages: list[str] | None = None
) -> Form:
    """Find the form of the captions of `dataset` by the types of its columns.

    Args:
        text_column: the column of the captions, if it has none of the usual names.
        languages: the requested languages; one of them says what texts without a language are in.

    Raises:
        InputError: there is no such column, it holds no texts, or nothing says in which language they are.
    """
    fields = _with_json(features)
    column = _find_column(fields, dataset, text_column)
    feature = fields[column]

    # {"en": "a dog", "zh": "狗"}
    if isinstance(feature, Translation):
        return by_keys(column, feature.languages, dataset)
    if isinstance(feature, dict) and set(feature) != _NAMED:
        if all(map(may_hold_texts, feature.values())):
            return by_keys(column, feature, dataset)

    # [{"language": "en", "text": "a dog"}], or a column `language` beside the texts
    if _names_languages(feature) or (is_text(feature) and "language" in fields):
        return Form(column, None, None)

    # Texts of one language, which the recipe names
    if not is_text(feature):
        raise InputError(
            f"column {column!r} of {dataset!r} must hold texts, {{language: text}} or [{{language, text}}], "
            f"not {feature}"
        )
    languages = languages or []
    if len(languages) != 1:
        raise InputError(
            f"column {column!r} of {dataset!r} is in one language, and no column 'language' says which: "
            f"name it by --languages, which has {' '.join(languages) or 'none'}"
        )
    (language,) = named_languages(languages, "--languages").values()
    return Form(column, language, [language])


def _find_column(fields: dict, dataset: str, text_column: str | None) -> str:
    """Return the column of the captions: `text_column`, or the first available one of the usual names.

    Raises:
        InputError: there is none.
    """
    candidates = [text_column] if text_column else TEXT_COLUMNS
    for column in candidates:
        if column in fields:
            return column
    wanted = repr(text_column) if text_column else "of captions: name the one of the texts by --text_column"
    raise InputError(f"dataset {dataset!r} has no column {wanted}; it has {', '.join(fields)}")


def _names_languages(feature) -> bool:
    """Return whether a column's values name the language of each text beside it."""
    item = feature.feature if isinstance(feature, List) else feature
    if isinstance(item, Json):  # the rows differ, so that each has to be looked at
        return True
    return isinstance(item, dict) and set(item) == _NAMED


def by_keys(column: str, languages: Iterable[str], dataset: str) -> Form:
    """Return the form of a column of dicts whose keys are languages."""
    names = named_languages(languages, dataset)
    return Form(column, None, list(names.values()), names)


def named_languages(languages: Iterable[str], data: str) -> dict[str, str]:
    """Return the canonical code of each language of some data: `["pt_BR"]` -> `{"pt_BR": "pt-BR"}`.

    Raises:
        InputError: a code is no language, or two of them are the same one.
    """
    try:
        return name_languages(languages)
    except ValueError as error:
        raise InputError(f"languages of {data!r}: {error}") from error


def _with_json(row: dict) -> dict:
    """Return a row, or its features, with the fields of its column `json` as columns.

    Its own columns take precedence: of `{"txt": "a", "json": {"txt": "b", "url": "c"}}`, `txt` is "a".
    """
    if not isinstance(row.get("json"), dict):
        return dict(row)
    return {**row["json"], **row}


def is_text(feature) -> bool:
    """Return whether a column holds texts or lists of texts."""
    feature = feature.feature if isinstance(feature, List) else feature
    return isinstance(feature, Value) and "string" in feature.dtype


def read_captions(row: dict, form: Form) -> dict[str, list[str]]:
    """Read one row's texts by language, in their order, without those that are empty or only white space.

    Raises:
        InputError: the row has something else than texts, or does not say their languages.
    """
    row = _with_json(row)
    captions: dict[str, list[str]] = {}
    for language, texts in _pairs_of(row, form):
        texts = read_texts(texts, form.column)
        if language and texts:
            # A row may spell a language in another way than the features, `pt_BR` or `pt-BR`.
            code = canonical(language)
            name = form.names.get(language) or form.names.get(code) or code
            captions.setdefault(name, []).extend(texts)
    return captions


def _pairs_of(row: dict, form: Form) -> Iterable[tuple]:
    """Return pairs of a language and its texts, in whichever form this row has them.

    Raises:
        InputError: the row does not name the languages of its texts.
    """
    value = row.get(form.column)  # a tar's row may lack its json
    if not value:
        return []
    # [{"language": "en", "text": "a dog"}, ...]
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        return [(item.get("language"), item.get("text")) for item in value]
    # {"language": ["en", "zh"], "text": ["a dog", "狗"]}
    if isinstance(value, dict) and set(value) == _NAMED:
        return _pair(value["language"], value["text"])
    # {"en": "a dog", "zh": "狗"}
    if isinstance(value, dict):
        return value.items()
    # "a dog", of one language, or with the languages in a column of their own
    if form.language is None and "language" not in row:
        raise InputError(
            f"column {form.column!r} has {value!r} in a row, and no {{language: text}} as other rows: fix it"
        )
    return _pair(form.language or row["language"], value)


def _pair(languages: str | list[str] | None, texts: str | list[str]) -> list[tuple]:
    """Pair one language with all of the texts, or each of a list of languages with its text."""
    if not isinstance(languages, list):
        return [(languages, texts)]
    if len(languages) != len(texts):
        raise InputError(
            f"a row has {len(languages)} languages, {' '.join(languages)}, and {len(texts)} texts: fix it"
        )
    return list(zip(languages, texts))


def load_captioned(
    dataset: str,
    split: str,
    languages: list[str] | None = None,
    text_column: str | None = None,
    *,
    allow_outside: bool = False,
) -> Dataset:
    """Load rows of undecoded `image` and `captions`, `{language: [text, ...]}`, from captions in any form.

    Args:
        languages: those that are requested, which tell the language of captions that do not name it.
        text_column: the column of the captions; by default the first of the usual names.
        allow_outside: as for `load_rows`.

    Raises:
        InputError: there is no such dataset or split; or as `with_image`, `find_form` and `gather_captions`.
    """
    rows = with_image(load_rows(dataset, split, [], allow_outside=allow_outside), dataset)
    return with_captions(rows, find_form(rows.features, dataset, text_column, languages), dataset)


def decoded(rows: Dataset) -> Dataset:
    """Return rows of undecoded `image` as rows whose images are decoded when they are read."""
    return rows.cast_column("image", Image())


def with_captions(rows: Dataset, form: Form, dataset: str, *, beside: str = "image") -> Dataset:
    """Return rows of `image` and `captions`, `{language: [text, ...]}`. Images are not read.

    Args:
        beside: the column beside the captions, if they do not describe an `image`.

    Raises:
        InputError: as `gather_captions`.
    """
    images = rows.select_columns([beside])
    if _has_canonical_names(rows, form):
        names = {language: language for language in form.available}
        captions = to_lists(rows, "captions", names)
    else:
        captions = gather_captions(rows, form, dataset)
    return concatenate_datasets([images, captions], axis=1)


def _has_canonical_names(rows: Dataset, form: Form) -> bool:
    """Return whether the column `captions` already holds texts by canonical language codes."""
    feature = rows.features.get("captions")
    if form.column != "captions" or not isinstance(feature, dict):
        return False
    has_canonical_names = form.available is not None and form.available == list(form.names)
    return has_canonical_names and all(map(is_text, feature.values()))


def to_lists(rows: Dataset, column: str, names: dict[str, str]) -> Dataset:
    """Return rows of `captions` alone, `{language: [text, ...]}`, from a column of `{key: text or texts}`.

    It is done in Arrow, where Python would make a dict of every row.

    Args:
        names: the language of each key, `{"pt_BR": "pt-BR"}`.
    """
    kinds = rows.features[column]
    are_lists = isinstance(kinds, dict) and all(isinstance(kinds[key], List) for key in names)
    if are_lists and column == "captions" and list(kinds) == list(names) == list(names.values()):
        return rows.select_columns(["captions"])  # nothing to convert

    def convert(batch: pa.Table) -> pa.Table:
        captions = batch[column].combine_chunks()
        lists = [as_lists(pc.struct_field(captions, key)) for key in names]
        return pa.table({"captions": pa.StructArray.from_arrays(lists, names=list(names.values()))})

    return (
        rows.select_columns([column])
        .with_format("arrow")
        .map(
            convert,
            batched=True,
            remove_columns=[column],
            features=features_of(names.values()),
            desc="Reading captions",
        )
        .with_format(None)
    )


def features_of(languages: Iterable[str]) -> Features:
    """Return the features of rows of `captions` alone."""
    return Features({"captions": {language: List(Value("string")) for language in languages}})


def as_lists(texts: pa.Array) -> pa.Array:
    """Return lists of texts; a row with a single text has a list of one, one without text an empty list.

    `["a dog", None]` -> `[["a dog"], []]`. A user's own rows may have either form; readers of captions give
    lists.
    """
    if pa.types.is_list(texts.type) or pa.types.is_large_list(texts.type):
        return texts
    # Row n has the texts from place n to n + 1 among those that are there: ["a", None, "b"] -> 0 1 1 2
    ends = np.cumsum(np.asarray(texts.is_valid()))
    offsets = pa.array(np.concatenate([[0], ends]), pa.int64())
    return pa.LargeListArray.from_arrays(offsets, texts.drop_null())


def gather_captions(rows: Dataset, form: Form, dataset: str) -> Dataset:
    """Return rows of `captions` alone, `{language: texts}`, with a field for each language of any row.

    Raises:
        InputError: as `read_captions`; or no row has a text.
    """
    columns = [column for column in (form.column, "language", "json") if column in rows.features]
    texts = rows.select_columns(columns)
    # Languages that stand beside the texts take one more pass over all rows: a table has fixed fields.
    if form.available is None:
        found = _languages_of(texts, form)
        form = form._replace(names=named_languages(found, form.column))
    languages = form.available or list(form.names.values())
    if not languages:
        raise InputError(
            f"column {form.column!r} of {dataset!r} has no text in any row: give another split, or data"
        )

    kinds = {language: List(Value("string")) for language in languages}
    return texts.map(
        partial(_gather, form=form, languages=languages),
        remove_columns=texts.column_names,
        features=Features({"captions": kinds}),
        desc="Reading captions",
    )


def _gather(row: dict, form: Form, languages: list[str]) -> dict:
    captions = read_captions(row, form)
    return {"captions": {language: captions.get(language, []) for language in languages}}


def _languages_of(texts: Dataset, form: Form) -> list[str]:
    """Return the languages that the rows themselves name, in alphabetical order."""
    found = texts.map(
        partial(_languages_in, form=form),
        remove_columns=texts.column_names,
        features=Features({"languages": List(Value("string"))}),
        desc="Finding languages",
    )
    languages = set()
    for batch in found.with_format("arrow").iter(10_000):
        languages |= set(pc.unique(pc.list_flatten(batch["languages"])).to_pylist())
    return sorted(languages)


def _languages_in(row: dict, form: Form) -> dict:
    return {"languages": list(read_captions(row, form))}


def with_image(rows: Dataset | IterableDataset, dataset: str) -> Dataset | IterableDataset:
    """Return the same rows with their pictures, undecoded, in the column `image`.

    Webdataset has them in `jpg`, `png` or `webp`.

    Raises:
        InputError: there is no column of images, or more than one.
    """
    if "image" in rows.features:
        pictures = ["image"]
    else:
        pictures = [name for name, kind in rows.features.items() if isinstance(kind, Image)]
    if len(pictures) != 1:
        found = "no column image"
        if pictures:
            found = f"images in {' and '.join(pictures)}: keep one of them"
        raise InputError(f"dataset {dataset!r} has {found}; its columns are {', '.join(rows.features)}")
    return rename_image(rows, pictures[0])


__all__ = [
    "Form",
    "as_lists",
    "decoded",
    "features_of",
    "find_form",
    "gather_captions",
    "load_captioned",
    "read_captions",
    "to_lists",
    "with_captions",
    "with_image",
]
