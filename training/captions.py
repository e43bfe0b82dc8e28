"""Captions in whatever form they come, as what training reads: `{language: text}`, or `{language: texts}` where there are several.

| a row has | its languages are |
|---|---|
| a dict: `{"en": "a dog", "zh": "狗"}`, with a text or a list of texts a language; or a `Translation` | the keys, of each row its own |
| a list: `[{"language": "en", "text": "a dog"}, ...]`, or `{"language": [...], "text": [...]}` | named beside the texts |
| a text, or a list of texts, beside a column `language` that holds one code, or a list of as many | in `language` |
| a text, or a list of texts | the one that `languages` names |

They stand in the column that `text_column` names, or in the first there is of `captions`, `translation`, `caption`, `text` and
`txt`. The fields of a column `json`, as webdataset has it, count as columns.
"""

from collections.abc import Iterable
from functools import partial
from typing import NamedTuple

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

from benchmarks.cells import may_hold_texts, read_texts
from benchmarks.recipe import InputError
from benchmarks.tars import TEXT_COLUMNS
from modeling_altclip.languages_altclip import canonical, name_languages

NAMED = {"language", "text"}


class Form(NamedTuple):
    """Where the captions stand and how they are read.

    - `column`: the column of the texts.
    - `language`: the language of all of them, where only the recipe says it.
    - `spoken`: the languages, where the columns' types say them.
    - `names`: the canonical code of each language, `{"pt_BR": "pt-BR"}`, where another stands in the data.
    """

    column: str
    language: str | None
    spoken: list[str] | None
    names: dict[str, str] = {}


def find_form(
    features: Features, dataset: str, text_column: str | None = None, languages: list[str] | None = None
) -> Form:
    """See by the columns' types in which form the captions of `dataset` are.

    Raises:
        InputError: there is no such column, it holds no texts, or nothing says in which language they are.
    """
    fields = with_json(features)
    there = [column for column in ([text_column] if text_column else TEXT_COLUMNS) if column in fields]
    if not there:
        wanted = (
            repr(text_column) if text_column else "of captions: name the one of the texts by --text_column"
        )
        raise InputError(f"dataset {dataset!r} has no column {wanted}; it has {', '.join(fields)}")
    column, feature = there[0], fields[there[0]]
    if isinstance(feature, Translation):
        return by_keys(column, feature.languages, dataset)
    if isinstance(feature, dict) and set(feature) != NAMED and all(map(may_hold_texts, feature.values())):
        return by_keys(column, feature, dataset)
    named = feature.feature if isinstance(feature, List) else feature
    if (
        isinstance(named, Json)
        or isinstance(named, dict)
        and set(named) == NAMED
        or is_text(feature)
        and "language" in fields
    ):
        return Form(column, None, None)
    if not is_text(feature):
        raise InputError(
            f"column {column!r} of {dataset!r} must hold texts, {{language: text}} or [{{language, text}}], not {feature}"
        )
    if len(languages or []) != 1:
        raise InputError(
            f"column {column!r} of {dataset!r} is in one language, and no column 'language' says which: "
            f"name it by --languages, which has {' '.join(languages or []) or 'none'}"
        )
    (language,) = named_languages(languages, "--languages").values()
    return Form(column, language, [language])


def by_keys(column: str, languages: Iterable[str], dataset: str) -> Form:
    """The form of a dict whose keys are languages."""
    names = named_languages(languages, dataset)
    return Form(column, None, list(names.values()), names)


def named_languages(languages: Iterable[str], data: str) -> dict[str, str]:
    """The canonical codes of the languages of some data, as `name_languages`; a mistake is an `InputError`."""
    try:
        return name_languages(languages)
    except ValueError as error:
        raise InputError(f"languages of {data!r}: {error}") from error


def with_json(row: dict) -> dict:
    """A row, or its features, with the fields of its column `json` as columns; a column of its own goes before."""
    return {**row["json"], **row} if isinstance(row.get("json"), dict) else dict(row)


def is_text(feature) -> bool:
    """Whether a column holds texts or lists of texts."""
    feature = feature.feature if isinstance(feature, List) else feature
    return isinstance(feature, Value) and "string" in feature.dtype


def read_captions(row: dict, form: Form) -> dict[str, list[str]]:
    """One row's texts by language, in their order; empty ones, and those of white space alone, are left out.

    Raises:
        InputError: the row has something else than texts, or does not say their languages.
    """
    row = with_json(row)
    value = row.get(form.column)  # a tar's row may lack its json
    if not value:
        return {}
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        pairs = [(item.get("language"), item.get("text")) for item in value]
    elif isinstance(value, dict) and set(value) == NAMED:
        pairs = pair(value["language"], value["text"])
    elif isinstance(value, dict):
        pairs = value.items()
    elif form.language is None and "language" not in row:
        raise InputError(
            f"column {form.column!r} has {value!r} in a row, and no {{language: text}} as other rows: mend it"
        )
    else:
        pairs = pair(form.language or row["language"], value)
    captions: dict[str, list[str]] = {}
    for language, texts in pairs:
        texts = read_texts(texts, form.column)
        if language and texts:
            code = canonical(language)
            captions.setdefault(form.names.get(language) or form.names.get(code) or code, []).extend(texts)
    return captions


def pair(languages: str | list[str] | None, texts: str | list[str]) -> list[tuple]:
    """Languages with their texts: one with all of them, or a list with as many."""
    if not isinstance(languages, list):
        return [(languages, texts)]
    if len(languages) != len(texts):
        raise InputError(
            f"a row has {len(languages)} languages, {' '.join(languages)}, and {len(texts)} texts: mend it"
        )
    return list(zip(languages, texts))


def with_captions(rows: Dataset, form: Form) -> Dataset:
    """Rows of `image` and `captions`, `{language: text}` or `{language: texts}`; the images are not read."""
    as_they_are = form.spoken is not None and form.spoken == list(form.names)
    feature = rows.features.get("captions")
    if (
        form.column == "captions"
        and isinstance(feature, dict)
        and all(map(is_text, feature.values()))
        and as_they_are
    ):
        return rows.select_columns(["image", "captions"])
    return concatenate_datasets([rows.select_columns(["image"]), gather_captions(rows, form)], axis=1)


def gather_captions(rows: Dataset, form: Form) -> Dataset:
    """Rows of `captions` alone, `{language: texts}`, with a place for each language that some row has.

    Raises:
        InputError: as `read_captions`; or no row has a text.
    """
    texts = rows.select_columns(
        [column for column in (form.column, "language", "json") if column in rows.features]
    )
    if form.spoken is None:
        form = form._replace(names=named_languages(languages_of(texts, form), form.column))
    languages = form.spoken or list(form.names.values())
    if not languages:
        raise InputError(f"column {form.column!r} has no text in any row")
    return texts.map(
        partial(gather, form=form, languages=languages),
        remove_columns=texts.column_names,
        features=Features({"captions": {language: List(Value("string")) for language in languages}}),
        desc="Reading captions",
    )


def gather(row: dict, form: Form, languages: list[str]) -> dict:
    captions = read_captions(row, form)
    return {"captions": {language: captions.get(language, []) for language in languages}}


def languages_of(texts: Dataset, form: Form) -> list[str]:
    """The languages that the rows themselves name, in the order of the alphabet."""
    found = texts.map(
        partial(languages_in, form=form),
        remove_columns=texts.column_names,
        features=Features({"languages": List(Value("string"))}),
        desc="Finding languages",
    )
    return sorted(pc.unique(pc.list_flatten(found.with_format("arrow")["languages"][:])).to_pylist())


def languages_in(row: dict, form: Form) -> dict:
    return {"languages": list(read_captions(row, form))}


def with_image(rows: Dataset | IterableDataset, dataset: str) -> Dataset | IterableDataset:
    """The same rows with their pictures, undecoded, in the column `image`; webdataset has them in `jpg`, `png` or `webp`.

    Raises:
        InputError: there is none, or more than one.
    """
    pictures = (
        ["image"]
        if "image" in rows.features
        else [name for name, kind in rows.features.items() if isinstance(kind, Image)]
    )
    if len(pictures) != 1:
        many = f"images in {' and '.join(pictures)}: keep one of them" if pictures else "no column image"
        raise InputError(f"dataset {dataset!r} has {many}; its columns are {', '.join(rows.features)}")
    # Before the column is renamed: renaming a stream's column decodes it and encodes it once more.
    rows = rows.cast_column(pictures[0], Image(decode=False))
    return rows if pictures == ["image"] else rows.rename_column(pictures[0], "image")


__all__ = ["Form", "find_form", "gather_captions", "read_captions", "with_captions", "with_image"]
