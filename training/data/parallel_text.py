"""Read parallel text of many forms as rows of `captions`, `{language: text}`, with English for the teacher.

A source is a public corpus by its name, see `training/data/sources`; a folder or Hub id; a `.parquet`,
`.jsonl`, `.tsv` or `.csv` file; or a Moses pair, one file per language, as `corpus.{en,fr}`. Text files
may be compressed as `.gz`, `.bz2`, `.xz` or `.zst`, and a `.zip` may hold one of these. A `.yaml` file lists
several sources:

    - {data: ted.tsv, kind: human}
    - {data: "web.{en,fr}", kind: machine}
    - {data: Helsinki-NLP/opus-100, name: en-fr, split: train, kind: human, weight: 2}
    - {data: ccmatrix, rows: 1000000}
    - {data: mine.tsv, licence: CC-BY-4.0}

Rows of weight 2 are drawn twice as often as those of weight 1, the default. `rows` is a budget: of a larger
source so many rows are taken, which `temperature` shares among its languages; see `budgets.py`. A corpus that
is named needs no `kind`, which its own file states. `licence` states that of data of your own, and `terms`
what it asks for, where it is none that `common/licences.py` knows.

Files of translations, such as `.po`, `.tmx`, `.xliff` and `.tei`, are listed in `formats/reading.py`.

A table has its texts in `captions` or `translation`, as `{language: text}`, or in columns that are named by
language codes.
"""

import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset, Json, Translation, Value, concatenate_datasets
from datasets.exceptions import DatasetGenerationError
from datasets.table import CastError

from common.errors import InputError
from common.files.contents import content_digest, contents_of
from common.files.endings import suffix_of
from common.files.json_files import refuse_repeated_keys
from common.files.rows import load_rows, open_rows, readable_rows
from common.files.table_cells import may_hold_texts
from common.files.text_files import lines_of
from common.files.yaml_files import read_yaml
from common.languages import check_language
from common.origins import Origin
from common.paths import check_folder
from modeling_altclip.languages_altclip import CODE, is_english

from .budgets import Budget, check_temperature, download_rows, is_remote, take_budget
from .captions import Form, by_keys, features_of, gather_captions, is_text, named_languages, to_lists
from .examples import SLICE_ROWS, caption_slices, has_text, split_lists
from .formats.entries import WITHOUT_ENGLISH
from .formats.reading import count_skipped, find_translations, read_translations
from .formats.unpacking import unpack
from .mixtures import languages_of, mix_rows
from .sources.loading import find_source
from .sources.origin import check_licence, origins_of_listed
from .sources.reading import check_parallel_text, read_texts
from .text_tables import TABLES, from_lines, read_table, tables_in

BUILDERS = {".parquet": "parquet", ".jsonl": "json", ".ndjson": "json", ".json": "json"}
_SOURCE_KEYS = {"data", "name", "split", "kind", "weight", "rows", "temperature", "licence", "terms"}
_OF_ROWS = {"id", "no"}  # Indonesian and Norwegian; or the number or name of a row
# Values of such a column: "17", "img_7", "ted/2012", but no sentence.
_ROW_NAME = re.compile(r".*\d.*|\S+[_/.]\S+", re.DOTALL)
# Values that are no language's texts: "3.5", "2012-05-01", "true".
_NUMBER = re.compile(r"[\s.,:/+-]*\d[\d\s.,:/+-]*|true|false", re.IGNORECASE)
# Names of columns that look like codes.
_NO_LANGUAGES = {*"url uri key src tgt ref doc idx row num len set tag pos cat cls lbl img sha uid".split()}


class ParallelText(NamedTuple):
    """Parallel text, and what was skipped.

    - `rows`: rows of `captions` with English, and of `weight` where a source has one.
    - `skipped`: the number of rows skipped for each reason, `without English` among them.
    - `origins`: what the rows are made of, with the number of rows of each source.
    """

    rows: Dataset
    skipped: Counter[str]
    origins: list[Origin]

    def describe_skipped(self) -> str:
        """Count the skipped rows by reason in a sentence: `Skipped 3 rows without English, 2 fuzzy.`"""
        others = {reason: count for reason, count in self.skipped.items() if reason != WITHOUT_ENGLISH}
        return describe_skipped({f"rows {WITHOUT_ENGLISH}": self.skipped[WITHOUT_ENGLISH], **others})


def describe_skipped(skipped: Mapping[str, int]) -> str:
    """Count skipped rows by reason in a sentence: `Skipped 2 fuzzy, 1 plural.`"""
    return f"Skipped {', '.join(f'{count} {reason}' for reason, count in skipped.items())}."


def load_parallel_text(
    dataset: str, split: str, kinds: list[str] | None = None, languages: list[str] | None = None
) -> tuple[Dataset, int]:
    """Read one source, or all that a `.yaml` file lists.

    Args:
        split: The split of folders and Hub datasets that state none of their own.
        kinds: Read only sources of these kinds, such as `human`, which the paper's ablation compares.
        languages: Read named corpora in these languages and in English. By default all are read, which most
            corpora refuse. Other sources are read in all of their languages.

    Returns:
        Rows of `captions` with English, and of `weight` where a source has one, and the number of rows
        skipped because they have no English or, in files of translations, no translation that is ready.

    Raises:
        InputError: a source is missing, of unknown form, or has no English; no row has an English text; or
            no source is of the kinds.

    Example:

    ```python
    >>> from training import load_parallel_text

    >>> rows, n_skipped = load_parallel_text("outputs/miniature/dataset", split="validation")
    >>> len(rows), n_skipped
    (250, 0)
    ```
    """
    text = read_parallel_text(dataset, split, kinds, languages)
    return text.rows, text.skipped.total()


def read_parallel_text(
    dataset: str, split: str, kinds: list[str] | None = None, languages: list[str] | None = None
) -> ParallelText:
    """Read parallel text as `load_parallel_text`, and count what is skipped by reason.

    Raises:
        InputError: as `load_parallel_text`.
    """
    sources = read_sources(dataset)
    chosen = choose_kinds(sources, kinds, dataset)
    _check_requested(chosen, languages, dataset)
    parts = []
    skipped = Counter()
    origins = []
    for source in chosen:
        part, not_ready = read_ready(source, split, languages)
        skipped += not_ready
        origins += origins_of_listed(source, list(part.features["captions"]), len(part))
        parts.append(part)
    check_english(languages_of(parts), dataset)
    rows = mix_rows(parts, chosen)

    has_english = _have_english(rows)
    n_without_english = int((~has_english).sum())
    if n_without_english == len(rows):
        raise InputError(f"dataset {dataset!r} has no English text in any row: give other rows")
    if n_without_english:
        rows = rows.select(has_english.nonzero()[0])
    skipped[WITHOUT_ENGLISH] += n_without_english
    return ParallelText(rows, skipped, origins)


def _have_english(rows: Dataset) -> np.ndarray:
    """Return a mask of the rows whose first English text is not blank, reading a slice of them at a time."""
    masks = [np.zeros(0, bool)]
    for captions in caption_slices(rows):
        masks.append(has_text(split_lists(captions["en"])[0]))
    return np.concatenate(masks)


def _check_requested(sources: list[dict], languages: list[str] | None, dataset: str) -> None:
    """Check, before anything is downloaded, that corpora hold texts, and that one has each language.

    Raises:
        InputError: one does not; or none has a requested language, where all sources are corpora.
    """
    available = {}  # as keys, in the order of the sources
    all_are_named = True
    for source in sources:
        named = find_source(source["data"])
        if named is None:
            all_are_named = False
        else:
            check_parallel_text(named)
            available |= dict.fromkeys(named.languages)
    if not languages or not all_are_named:
        return
    for language in languages:
        check_language(language, available, f"no corpus of {dataset!r} has language")


def _read_part(source: dict, split: str, languages: list[str] | None) -> Dataset:
    """Read one of the sources that a list has.

    Raises:
        InputError: as `read_texts` or `read_source`; or a corpus has a `name`.
    """
    named = find_source(source["data"])
    if named is None:
        return _read_utf8(source["data"], source.get("name"), source.get("split", split), source.get("rows"))
    if "name" in source:
        raise InputError(
            f"name is {source['name']!r}: source {named.name!r} finds its configurations by the languages, "
            "leave it out"
        )
    return read_texts(named, languages, source.get("split", split), budget=budget_of(source))


def budget_of(source: dict) -> Budget:
    """Return the budget of one of the sources that a list has."""
    return Budget(source.get("rows"), float(source.get("temperature", 1)))


def choose_kinds(sources: list[dict], kinds: list[str] | None, dataset: str) -> list[dict]:
    """Return the sources of the requested kinds; all by default.

    Raises:
        InputError: no source is of one of the kinds.
    """
    if not kinds:
        return sources
    available = {source.get("kind") for source in sources} - {None}
    unknown = set(kinds) - available
    if unknown:
        raise InputError(
            f"kinds {' '.join(sorted(unknown))} name no source of {dataset!r}: it has "
            f"{' '.join(sorted(available)) or 'none'}"
        )
    return [source for source in sources if source.get("kind") in kinds]


def check_english(languages: list[str], dataset: str) -> None:
    """Check that one of the languages is plain English, `en`, for the teacher.

    Raises:
        InputError: none is; the message lists variants of English, such as `en-GB`, that could be renamed.
    """
    if "en" in languages:
        return
    variants = [language for language in languages if is_english(language)]
    remedy = ""
    if variants:
        remedy = f"; name one of {' and '.join(variants)} en"
    raise InputError(
        f"captions of {dataset!r} have no English for the teacher to read: they have "
        f"{' '.join(languages)}{remedy}"
    )


def read_sources(dataset: str) -> list[dict]:
    """Return the sources that a `.yaml` file lists, with paths relative to it; or the only source.

    A source is `{"data": "ted.tsv", "kind": "human", "weight": 2, "rows": 1000}`, of which only `data` is
    required. Named corpora get the kind of their own file.

    Raises:
        InputError: the file is no list of sources, a weight or a number of rows is not positive, a
            temperature is below 1 or stands without `rows`, or as `check_licence`.
    """
    if not dataset.endswith((".yaml", ".yml")) or find_source(dataset) is not None:
        return [{"data": dataset}]
    sources = read_yaml(Path(dataset), "dataset")
    for source in sources if isinstance(sources, list) else [None]:
        is_mapping = isinstance(source, dict) and isinstance(source.get("data"), str)
        if not is_mapping or set(source) - _SOURCE_KEYS:
            raise InputError(
                f"{dataset!r} must list sources with the keys {' '.join(sorted(_SOURCE_KEYS))}, data at "
                f"least; it has {source!r}"
            )
        _check_numbers(source, dataset)
        check_licence(source, dataset)

    beside = Path(dataset).parent
    located = []
    for source in sources:
        if _is_here(beside, source["data"]):
            source = source | {"data": str(beside / source["data"])}
        located.append(_with_own_kind(source))
    return located


def _check_numbers(source: dict, dataset: str) -> None:
    """Check the weight and the budget of a source of a list.

    Raises:
        InputError: one is out of range; or there is a temperature, and no rows to share.
    """
    weight = source.get("weight", 1)
    if not (isinstance(weight, int | float) and weight > 0):
        raise InputError(f"weight of {source['data']!r} in {dataset!r} is {weight!r}: give a positive number")
    budget = source.get("rows", 1)
    if type(budget) is not int or budget < 1:
        raise InputError(
            f"rows of {source['data']!r} in {dataset!r} is {budget!r}: give a whole number from 1"
        )
    check_temperature(source.get("temperature", 1), f"temperature of {source['data']!r} in {dataset!r}")
    if "temperature" in source and "rows" not in source:
        raise InputError(
            f"temperature of {source['data']!r} in {dataset!r} shares a budget among languages: give `rows` "
            "too, or draw all rows by --temperature of the training"
        )


def _with_own_kind(source: dict) -> dict:
    """Return a source of a list, with the kind that a named corpus states where the list states none."""
    named = find_source(source["data"])
    return source if named is None else {"kind": named.kind, **source}


def _is_here(folder: Path, data: str) -> bool:
    """Return whether a source lies in the folder of the file that names it; a Hub id does not."""
    if Path(data).is_absolute():
        return False
    pattern = re.sub(r"\{.*\}", "*", data)  # web.{en,fr} -> web.*
    return any(folder.glob(pattern))


def read_ready(source: dict, split: str, languages: list[str] | None = None) -> tuple[Dataset, Counter[str]]:
    """Read the rows of a source that `read_sources` lists, and count those that are not ready by reason.

    Args:
        languages: of a named corpus, as for `load_parallel_text`.

    Raises:
        InputError: it cannot be read, or a named corpus has a `name`.
    """
    rows = _read_part(source, split, languages)
    skipped = Counter()
    if "skipped" in rows.column_names:
        skipped = count_skipped(rows)
        rows = rows.select(np.flatnonzero(_are_ready(rows))).select_columns(["captions"])
    return take_budget(rows, budget_of(source)), skipped


def _are_ready(rows: Dataset) -> np.ndarray:
    """Return a mask of the rows of `read_translations` that are not skipped."""
    masks = []
    for batch in rows.select_columns(["skipped"]).with_format("arrow").iter(SLICE_ROWS):
        masks.append(np.asarray(pc.equal(batch["skipped"], "")))
    return np.concatenate(masks)


def _read_utf8(data: str, name: str | None, split: str, n_rows: int | None) -> Dataset:
    """Read a source, and turn the errors of damaged files into `InputError`.

    Raises:
        InputError: as `read_source` or `readable_texts`.
    """
    with readable_texts(data):
        return read_source(data, name, split, n_rows)


@contextmanager
def readable_texts(data: str) -> Iterator[None]:
    """Turn the errors of damaged files into `InputError`.

    Raises:
        InputError: a source is in another encoding, as Excel writes it, is incomplete, or has rows of
            different types.
    """
    try:
        yield
    except UnicodeDecodeError as error:
        raise InputError(f"dataset {data!r} is not UTF-8, {error}: save it as UTF-8") from error
    except DatasetGenerationError as error:
        cause = error.__cause__
        # `datasets` infers columns and languages from the first 10 MB; later rows may have others.
        if isinstance(cause, TypeError | CastError):
            raise InputError(
                f"dataset {data!r}: later rows differ from earlier ones, {cause}: write null where a text is "
                "missing"
            ) from error
        raise InputError(f"dataset {data!r} cannot be read, {cause}: is it whole, and UTF-8?") from error
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(
            f"dataset {data!r} cannot be read, {error}: is it whole, and does it have rows?"
        ) from error


def read_source(data: str, name: str | None, split: str, n_rows: int | None = None) -> Dataset:
    """Read one source as rows of `captions` alone; of files of translations, as `read_translations`.

    Args:
        n_rows: of a dataset on the Hub, download no more rows, see `download_rows`.

    Raises:
        InputError: it is missing, empty or of unknown form.
    """
    if translations := find_translations(data):
        return read_translations(translations, data)
    data = unpack(data)
    if paths := moses_paths(data):
        return _read_moses(paths)
    rows = open_tables(data, name, split)
    if rows is None:
        rows = open_dataset(data, split, n_rows, name=name)
    if len(rows) == 0:
        raise InputError(f"dataset {data!r} has no rows: give one with texts")
    return only_captions(rows, data)


def open_dataset(
    data: str, split: str, n_rows: int | None, name: str | None = None, *, allow_outside: bool = False
) -> Dataset:
    """Open a folder or a dataset on the Hub, of which no more rows than these are downloaded.

    Args:
        n_rows: as for `read_source`.
        name, allow_outside: as for `load_rows`.

    Raises:
        InputError: as `load_rows`.
    """
    if n_rows is None or not is_remote(data):
        return load_rows(data, split, [], name, allow_outside=allow_outside)
    check_folder("dataset", data)
    with readable_rows(data, split):
        return download_rows(data, split, n_rows, path=data, name=name, allow_outside=allow_outside)


def open_tables(data: str, name: str | None, split: str) -> Dataset | None:
    """Open a table, a file of parquet or JSON, or a folder of tables as rows of its columns.

    Returns:
        The rows; None if it is something else.

    Raises:
        InputError: it is missing, empty or damaged.
    """
    suffix = suffix_of(data)
    if suffix in (*TABLES, *BUILDERS):
        check_folder("dataset", str(Path(data).absolute()))
        if Path(data).stat().st_size == 0:
            raise InputError(f"dataset {data!r} is empty: give a file with texts")
    if suffix in TABLES:
        return read_table(data)
    if suffix in BUILDERS:
        refuse_repeated_keys([data])
        contents = contents_of([data])
        file = {"path": BUILDERS[suffix], "data_files": data, "description": contents}
        return open_rows(data, "train", allow_outside=True, **file)
    tables = tables_in(data, name, split)
    return concatenate_datasets([read_table(table) for table in tables]) if tables else None


def moses_paths(data: str) -> dict[str, str]:
    """Return the files of a Moses pair: `corpus.{en,fr}` -> `{"en": "corpus.en", "fr": "corpus.fr"}`.

    A name without braces has none.
    """
    pair = re.fullmatch(r"(.*)\{([^{}]+)\}(.*)", data)
    if not pair:
        return {}
    before, languages, after = pair.groups()
    paths = {}
    for language in languages.split(","):
        language = language.strip()
        paths[language] = before + language + after
    return paths


def _read_moses(paths: dict[str, str]) -> Dataset:
    """Read one file per language; line n of each is a translation of line n of the others.

    Raises:
        InputError: a file is missing, or they have different numbers of lines.
    """
    for path in paths.values():
        check_folder("dataset", str(Path(path).absolute()))
    lengths = {path: _count_lines(path) for path in paths.values()}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{path} has {n_lines}" for path, n_lines in lengths.items())
        raise InputError(f"files of one corpus must have equally many lines: {counts}")

    def rows(paths: dict[str, str], contents: tuple[str, ...]) -> Iterator[dict]:
        for texts in zip(*(lines_of(path, "dataset") for path in paths.values())):
            yield {"captions": {language: [text] for language, text in zip(paths, texts)}}

    # A changed file has to be read anew, so that its contents are part of the cache key.
    contents = tuple(content_digest(path) for path in paths.values())
    rows = from_lines(rows, features_of(paths), paths=paths, contents=contents)
    return only_captions(rows, ", ".join(paths.values()))


def _count_lines(path: str) -> int:
    return sum(1 for _ in lines_of(path, "dataset"))


def only_captions(rows: Dataset, name: str) -> Dataset:
    """Return rows of `captions` alone, made of the columns that hold the texts.

    Args:
        name: the source's name in error messages.

    Raises:
        InputError: no column holds texts, or a value is no text.
    """
    for column in ("captions", "translation"):
        if isinstance(rows.features.get(column), Json | Translation | dict):
            return _from_captions(rows, column, name)
    return _from_language_columns(rows, name)


def _from_captions(rows: Dataset, column: str, name: str) -> Dataset:
    """Return rows of `captions` from a column of `{language: text}`."""
    feature = rows.features[column]
    if isinstance(feature, Json):  # each row has keys of its own
        return _refuse_several(gather_captions(rows, Form(column, None, None), name), name)
    if isinstance(feature, Translation):
        return to_lists(rows, column, named_languages(feature.languages, name))
    if all(isinstance(kind, Value) and is_text(kind) for kind in feature.values()):
        return to_lists(rows, column, named_languages(feature, name))
    if all(map(is_text, feature.values())):  # some of them are lists
        return _refuse_several(to_lists(rows, column, named_languages(feature, name)), name)
    return _refuse_several(gather_captions(rows, by_keys(column, feature, name), name), name)


def _from_language_columns(rows: Dataset, name: str) -> Dataset:
    """Return rows of `captions` from columns of texts that are named by language codes."""
    languages = []
    for column in rows.column_names:
        is_code = CODE.fullmatch(column) and column.lower() not in _NO_LANGUAGES
        if is_code and _is_column_of_texts(rows, column):
            languages.append(column)
    languages = _without_numbers(rows, languages, name)
    if not languages:
        raise InputError(
            f"{name!r} has no texts: name its columns by language codes, en among them; it has "
            f"{', '.join(rows.column_names)}"
        )
    names = named_languages(languages, name)

    def gather(batch: dict) -> dict:
        # {"en": ["a dog", "a cat"], "fr": ["un chien", None]} -> {"en": ["a dog"], "fr": ["un chien"]}, ...
        columns = [batch[language] for language in names]
        for language, values in zip(names, columns):
            strange = [value for value in values if not isinstance(value, str | None)]
            if strange:
                raise InputError(
                    f"column {language!r} of {name!r} has {strange[0]!r} in a row, which is no text: fix it"
                )
        captions = []
        for texts in zip(*columns):
            lists = [[] if text is None else [text] for text in texts]
            captions.append(dict(zip(names.values(), lists)))
        return {"captions": captions}

    return rows.map(
        gather,
        batched=True,
        remove_columns=rows.column_names,
        features=features_of(names.values()),
        desc="Reading captions",
    )


def _refuse_several(rows: Dataset, name: str) -> Dataset:
    """Return rows of `captions` as they are, if none has several texts in one language.

    Raises:
        InputError: one has.
    """
    for captions in caption_slices(rows):
        for language, texts in captions.items():
            if (pc.max(pc.list_value_length(texts)).as_py() or 0) > 1:
                raise InputError(
                    f"{name!r} has several texts in {language} in a row: of parallel text give one in each "
                    "language"
                )
    return rows


def _is_column_of_texts(rows: Dataset, column: str) -> bool:
    """Return whether a column may hold one text per row.

    `datasets` keeps a column as JSON where the types of its rows differ; it then needs at least one text.
    """
    feature = rows.features[column]
    if isinstance(feature, Json):
        return _has_any_text(rows, column)
    return isinstance(feature, Value) and may_hold_texts(feature)


def _has_any_text(rows: Dataset, column: str) -> bool:
    """Return whether a column has a text in any row, reading no further than the first."""
    for batch in rows.select_columns([column]).iter(1000):
        if any(isinstance(value, str) for value in batch[column]):
            return True
    return False


def _without_numbers(rows: Dataset, columns: list[str], name: str) -> list[str]:
    """Return the columns that may be languages, without those that number the rows.

    Examples are `id` with "img_7", or `it` with 0 and 1 beside columns of sentences.
    """
    kept = []
    for column in columns:
        is_ambiguous = column.lower() in _OF_ROWS
        if not (is_ambiguous and _all_match(_ROW_NAME, rows, column)):
            kept.append(column)
    columns = kept

    of_numbers = [column for column in columns if _all_match(_NUMBER, rows, column)]
    if len(of_numbers) == len(columns):
        return columns  # numbers may be what is translated
    for column in of_numbers:
        warnings.warn(
            f"column {column!r} of {name!r} contains only numbers and is not read as a language", stacklevel=2
        )
    return [column for column in columns if column not in of_numbers]


def _all_match(pattern: re.Pattern, rows: Dataset, column: str) -> bool:
    """Return whether a column has values, and all of them match a pattern."""
    has_values = False
    for batch in rows.select_columns([column]).iter(1000):
        values = [str(value).strip() for value in batch[column] if value]
        if not all(map(pattern.fullmatch, values)):
            return False
        has_values = has_values or bool(values)
    return has_values


__all__ = ["load_parallel_text", "read_parallel_text"]
