"""Read the rows of a source: parallel text, or images with captions, in the languages that a run asks for.

Whichever its layout, a row becomes `captions`, `{language: [text, ...]}`, with an empty list for each
language that it lacks. A language bears the code by which it is requested: texts of `zh-CN` are `zh` if `zh`
is requested and the source has no other Chinese.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, IterableDataset, Translation, concatenate_datasets

from common.commands import command_for
from common.errors import InputError
from common.files.contents import contents_of
from common.files.image_folders import source_of
from common.files.rows import find_builder, open_rows, readable_rows, rename_image
from common.files.table_cells import read_texts as read_texts_of_cell
from common.files.tars import name_pictures
from common.languages import find_language
from modeling_altclip.languages_altclip import canonical

from ..budgets import ALL_ROWS, Budget, count_rows, download_rows, is_remote, share_budget
from ..captions import as_lists, features_of, is_text, with_image
from ..examples import caption_slices
from .source import IMAGES, TEXTS, Source

# Layouts in which English has no rows of its own, but those of each other language.
_OF_PAIRS = ("pairs", "translation")
_SHOWN = 20  # codes of languages that a message lists
# Layouts in which the first rows of each file are as good as others. In the others those of one language may
# be anywhere, or belong to a row of another file.
_ANY_ROWS = ("pairs", "translation", "columns", "language_lists", "images", "image_lists")


def read_texts(
    source: Source,
    languages: list[str] | None,
    split: str = "train",
    n_first: int | None = None,
    budget: Budget = ALL_ROWS,
) -> Dataset:
    """Read parallel text in the requested languages, and in English, as rows of `captions`.

    Args:
        languages: the requested languages. Those that the source lacks are left out. English alone can be
            requested where it is not spread over pairs with each other language.
        split: one of `train`, `validation` and `test`, whatever the source calls it.
        n_first: read so many rows of each configuration as a stream, for a preview. By default all are read.
        budget: of a corpus on the Hub, download no more rows than these, see `download_rows`. Corpora in a
            folder, and those whose rows of a language may be anywhere (`joined`, `language_column`), are read
            whole.

    Raises:
        InputError: the source is refused for training, holds no parallel text, or lacks the split; no
            languages are requested where each is a download of its own; the source has none of them; a column
            is missing or holds no texts; a language has no text in any row; or a budget is to be shared by
            numbers of rows that the card does not state.

    Example: see `load_source`.
    """
    check_parallel_text(source)
    wanted = _requested_languages(source, languages)
    asks_for_english = languages == ["en"] and source.layout not in _OF_PAIRS
    if list(wanted) == ["en"] and not asks_for_english:
        raise InputError(
            f"source {source.name!r} has none of the languages {' '.join(languages)} beside English: it has "
            f"{' '.join(source.languages)}"
        )
    quotas = None
    if n_first is None:
        quotas = _share_downloads(source, split, wanted, budget)
    open_config = partial(_open_source, source, split, n_first=n_first, quotas=quotas)
    if source.layout == "pairs":
        return _read_configs(source, wanted, open_config, _from_pair)
    if source.layout == "translation":
        return _read_configs(source, wanted, open_config, _from_translation)
    if source.layout == "joined":
        return _read_joined(source, wanted, open_config)

    rows = open_config(source.config)
    if source.layout == "columns":
        return _read_columns(source, rows, wanted)
    convert = _from_language_column if source.layout == "language_column" else _from_language_lists
    captions = convert(source, rows, wanted)
    if n_first is None:
        _check_found(source, rows, captions)
    return captions


def _requested_languages(source: Source, languages: list[str] | None) -> dict[str, str]:
    """Match the requested languages with those of a source: `["en", "zh"]` -> `{"en": "en", "zh": "zh-CN"}`.

    English is always requested if the source has it. Languages that it lacks are left out.

    Raises:
        InputError: none is requested, and each is a download of its own; or one may be several of the source.
    """
    available = source.languages
    if not languages:
        if source.configs:
            raise InputError(
                f"source {source.name!r} has {len(available)} languages, each a download of its own: name "
                "those to train on, as --languages en de"
            )
        return {language: language for language in available}

    wanted = {"en": "en"} if "en" in available else {}
    for language in languages:
        code = canonical(language)
        variants = [other for other in available if other.startswith(f"{code}-")]
        if code not in available and len(variants) > 1:
            raise InputError(
                f"source {source.name!r} has {code} as {' and '.join(variants)}: name one of them"
            )
        found = find_language(language, available)
        if found is not None and found not in wanted.values():
            wanted[code] = found
    return wanted


def _share_downloads(
    source: Source, split: str, wanted: dict[str, str], budget: Budget
) -> dict[str | None, int] | None:
    """Share a budget among the configurations of a corpus on the Hub, before they are downloaded.

    Returns:
        The number of rows of each configuration; None where a source is read whole.

    Raises:
        InputError: the card of one does not state its number of rows, by which the budget is to be shared.
    """
    if budget.n_rows is None or not is_remote(source.dataset) or source.layout not in _ANY_ROWS:
        return None
    configs = [source.configs[language] for code, language in wanted.items() if code != "en"]
    if not source.configs or len(configs) == 1:
        return dict.fromkeys(configs if source.configs else [source.config], budget.n_rows)

    sizes = []
    for config in configs:
        options = source_options(source, split, config)
        with _named(source), readable_rows(source.dataset, source.splits[split]):
            n_rows = count_rows(source.dataset, source.splits[split], **options)
        if n_rows is None and budget.temperature != math.inf:
            raise InputError(
                f"source {source.name!r}: the card of {source.dataset} does not state how many rows {config} "
                f"has, by which rows: {budget.n_rows} would be shared: add `temperature: inf`, by which all "
                "languages get equally many"
            )
        sizes.append(budget.n_rows if n_rows is None else n_rows)
    return dict(zip(configs, share_budget(budget, sizes)))


def _open_source(  # noqa: PLR0913  (the first three say what, the others how much of it)
    source: Source,
    split: str,
    config: str | None,
    n_first: int | None = None,
    quotas: dict[str | None, int] | None = None,
    *,
    allow_outside: bool = False,
) -> Dataset:
    """Open one configuration of a source, with undecoded images.

    Args:
        split: as for `read_texts`.
        n_first: as for `read_texts`.
        quotas: download so many rows of each configuration, as `_share_downloads` returns them.
        allow_outside: as for `load_rows`.

    Raises:
        InputError: it cannot be opened, or the source has no such split.
    """
    options = source_options(source, split, config, allow_outside=allow_outside)
    name = source.splits[split]
    opening = {"image": source.columns.get("image", "image"), "allow_outside": allow_outside}
    with _named(source), readable_rows(source.dataset, name):
        if quotas is not None:
            return download_rows(source.dataset, name, quotas[config], **opening, **options)
        if n_first is None:
            return open_rows(source.dataset, name, **opening, **options)
        stream = open_rows(source.dataset, name, streaming=True, **opening, **options)
        return Dataset.from_list(list(stream.take(n_first)), stream.features)


def source_options(source: Source, split: str, config: str | None, *, allow_outside: bool = False) -> dict:
    """Return the arguments by which `open_rows` finds a configuration of a source, on the Hub or in a folder.

    Args:
        split: as for `read_texts`.

    Raises:
        InputError: the source has no such split, or its files cannot be found.
    """
    if split not in source.splits:
        raise InputError(
            f"source {source.name!r} has no split {split!r}: choose from {', '.join(source.splits)}"
        )
    options = source_of(source.dataset, config)
    if source.revision is not None:
        options["revision"] = source.revision
    if source.data_files is not None:
        options["data_files"] = source.data_files
    if not Path(source.dataset).is_dir():
        return options

    # A folder's rows are cached by its card alone, unless its files and what is in them are told as well.
    name = source.splits[split]
    with _named(source), readable_rows(source.dataset, name):
        builder = find_builder(source.dataset, allow_outside=allow_outside, **options)
    files = {str(key): list(paths) for key, paths in builder.config.data_files.items()}
    if name in files:
        files = {name: files[name]}
    return options | {"data_files": files, "description": contents_of(chain(*files.values()))}


@contextmanager
def _named(source: Source) -> Iterator[None]:
    """Name the source in an error about its data set."""
    try:
        yield
    except InputError as error:
        raise InputError(f"source {source.name!r}: {error}") from error


def check_parallel_text(source: Source) -> None:
    """Check that a source holds parallel text that may be trained on.

    Raises:
        InputError: it does not.
    """
    _check_use(source, TEXTS, "parallel text")


def _check_use(source: Source, layouts: tuple[str, ...], what: str) -> None:
    """Check that a source holds what is trained on.

    Raises:
        InputError: it is refused for training, or holds something else.
    """
    if source.refused:
        raise InputError(f"source {source.name!r} is refused for training: {source.refused}")
    if source.layout in layouts:
        return
    remedy = "choose another source"
    if "url" in source.columns:
        remedy = (
            f"it has addresses of images: {command_for('download')} --dataset {source.name} downloads them"
        )
    raise InputError(f"source {source.name!r} is no {what}, but of layout {source.layout}: {remedy}")


def _check_column(source: Source, rows: Dataset | IterableDataset, column: str, config: str | None) -> None:
    """Check that a column is there.

    Raises:
        InputError: it is not; the message names the source, the column, and the columns that are there.
    """
    if _feature_at(rows.features, column) is None:
        place = source.dataset if config is None else f"{source.dataset}, configuration {config}"
        raise InputError(
            f"source {source.name!r} has no column {column!r} in {place}: it has {', '.join(rows.features)}. "
            f"Correct `columns` of {source.file}, or pin an earlier `revision`"
        )


def _check_texts(source: Source, rows: Dataset | IterableDataset, column: str, config: str | None) -> None:
    """Check that a column is there, and holds texts.

    Raises:
        InputError: it does not.
    """
    _check_column(source, rows, column, config)
    kind = _feature_at(rows.features, column)
    if not is_text(kind):
        raise InputError(f"source {source.name!r}: column {column!r} holds {kind}, and no texts")


def _feature_at(features: Features, column: str):
    """Return the kind of a column, or of a field in one, `annotations.caption`; None if it is not there."""
    if column in features:
        return features[column]
    outer, _, field = column.partition(".")
    fields = features.get(outer)
    return fields.get(field) if isinstance(fields, dict) else None


def _outer(features: Features, columns: list[str]) -> list[str]:
    """Return the columns that hold some columns or fields, each once."""
    return list(dict.fromkeys(name if name in features else name.partition(".")[0] for name in columns))


def _array_at(batch: pa.Table, column: str) -> pa.Array:
    """Return a column of a batch, or a field in one."""
    if column in batch.column_names:
        return batch[column].combine_chunks()
    outer, _, field = column.partition(".")
    return pc.struct_field(batch[outer].combine_chunks(), field)


def value_at(row: dict, column: str):
    """Return a value of a row, or a field in one; None if there is none."""
    if column in row:
        return row[column]
    outer, _, field = column.partition(".")
    return (row[outer] or {}).get(field)


# ---- One configuration a language ----


def _read_configs(
    source: Source, wanted: dict[str, str], open_config: Callable[[str], Dataset], convert: Callable
) -> Dataset:
    """Read the configuration of each wanted language, one after the other.

    Args:
        convert: makes rows of `captions` of those of one configuration.
    """
    parts = []
    for code, language in wanted.items():
        if code != "en":
            config = source.configs[language]
            rows = open_config(config)
            parts.append(convert(source, rows, config, code, list(wanted)))
    return concatenate_datasets(parts)


def _from_pair(source: Source, rows: Dataset, config: str, code: str, languages: list[str]) -> Dataset:
    """`{"english": "a dog", "non_english": "un chien"}` -> `{"captions": {"en": [...], "fr": [...]}}`."""
    columns = {"en": source.columns["english"], code: source.columns["translation"]}
    for column in columns.values():
        _check_texts(source, rows, column, config)
    return _map_arrow(rows, list(columns.values()), languages, partial(_columns_of, columns=columns))


def _columns_of(batch: pa.Table, columns: dict[str, str]) -> dict[str, pa.Array]:
    return {language: _array_at(batch, column) for language, column in columns.items()}


def _from_translation(source: Source, rows: Dataset, config: str, code: str, languages: list[str]) -> Dataset:
    """`{"translation": {"en": "a dog", "fr": "un chien"}}` -> `{"captions": {"en": [...], "fr": [...]}}`."""
    column = source.columns["translation"]
    _check_column(source, rows, column, config)
    kind = rows.features[column]
    if not isinstance(kind, Translation | dict):
        raise InputError(f"source {source.name!r}: column {column!r} holds {kind}, and no {{language: text}}")
    keys = list(kind.languages if isinstance(kind, Translation) else kind)

    # The key of a language is that of its configuration: `zh` of `en-zh`.
    key = config.removeprefix("en-").removesuffix("-en")
    for needed in ("en", key):
        if needed not in keys:
            raise InputError(
                f"source {source.name!r}: column {column!r} of configuration {config} has no {needed!r}: it "
                f"has {', '.join(keys)}"
            )
    return _map_arrow(
        rows, [column], languages, partial(_fields_of, column=column, keys={"en": "en", code: key})
    )


def _fields_of(batch: pa.Table, column: str, keys: dict[str, str]) -> dict[str, pa.Array]:
    translations = batch[column].combine_chunks()
    return {language: pc.struct_field(translations, key) for language, key in keys.items()}


def _read_joined(source: Source, wanted: dict[str, str], open_config: Callable[[str], Dataset]) -> Dataset:
    """Read one configuration a language, and join their rows by id, in the order of the first language.

    Raises:
        InputError: a language has an id twice.
    """
    id_column = source.columns["id"]
    text_column = source.columns["text"]
    by_language = {}
    for code, language in wanted.items():
        config = source.configs[language]
        rows = open_config(config)
        _check_column(source, rows, id_column, config)
        _check_texts(source, rows, text_column, config)
        ids = rows[id_column][:]
        texts = dict(zip(ids, rows[text_column][:]))
        if len(texts) < len(ids):
            raise InputError(
                f"source {source.name!r}: configuration {config} has a value of {id_column!r} twice"
            )
        by_language[code] = texts

    # Ids that a later language adds come after those of the earlier ones.
    captions = []
    for row_id in dict.fromkeys(chain(*by_language.values())):
        texts_of_row = {}
        for code, texts in by_language.items():
            text = texts.get(row_id)
            texts_of_row[code] = [] if text is None else [text]
        captions.append(texts_of_row)
    return Dataset.from_dict({"captions": captions}, features_of(wanted))


# ---- One configuration for all languages ----


def _read_columns(source: Source, rows: Dataset, wanted: dict[str, str]) -> Dataset:
    """Make rows of `captions` of one column a language, which may hold a text or several."""
    columns = {code: source.columns["captions"][language] for code, language in wanted.items()}
    for column in columns.values():
        _check_texts(source, rows, column, source.config)
    return _map_arrow(rows, list(columns.values()), list(columns), partial(_columns_of, columns=columns))


def _from_language_column(source: Source, rows: Dataset, wanted: dict[str, str]) -> Dataset:
    """`{"en": "a dog", "text": "un chien", "language": "fr"}` -> `{"captions": {"en": [...], "fr": [...]}}`.

    Rows of other languages are left out.
    """
    english = source.columns["english"]
    translation = source.columns["translation"]
    language = source.columns["language"]
    for column in (english, translation, language):
        _check_texts(source, rows, column, source.config)
    codes = {code: source.codes[name] for code, name in wanted.items() if code != "en"}

    def arrays(batch: pa.Table) -> dict[str, pa.Array]:
        of_rows = batch[language].combine_chunks()
        texts = batch[translation].combine_chunks()
        found = {"en": batch[english].combine_chunks()}
        for name, code in codes.items():
            found[name] = pc.if_else(pc.equal(of_rows, code), texts, pa.scalar(None, texts.type))
        return found

    def is_wanted(batch: pa.Table) -> pa.Array:
        if not codes:  # English alone, which each row has
            return pa.repeat(True, len(batch))
        return pc.is_in(batch[language].combine_chunks(), pa.array(list(codes.values())))

    return _map_arrow(rows, [english, translation, language], list(wanted), arrays, is_wanted)


def _from_language_lists(source: Source, rows: Dataset, wanted: dict[str, str]) -> Dataset:
    """`{"en": "a dog", "list": [["fra_Latn", "un chien"], ...]}` -> `{"captions": {"en": [...], ...}}`.

    Raises:
        InputError: an item is no pair of a language and a text.
    """
    english = source.columns["english"]
    translations = source.columns["translations"]
    _check_texts(source, rows, english, source.config)
    _check_column(source, rows, translations, source.config)
    names = {source.codes[language]: name for name, language in wanted.items() if name != "en"}

    def gather(row: dict) -> dict:
        texts = {language: [] for language in wanted}
        if row[english] is not None:
            texts["en"].append(row[english])
        for item in row[translations] or []:
            if not isinstance(item, list) or len(item) != 2:
                raise InputError(
                    f"source {source.name!r}: column {translations!r} has {item!r} in a row, which is no "
                    "pair of a language and a text"
                )
            code, text = item
            if code in names:
                texts[names[code]].append(text)
        return {"captions": texts}

    return rows.select_columns([english, translations]).map(
        gather,
        remove_columns=[english, translations],
        features=features_of(wanted),
        desc=f"Reading {source.name}",
    )


def _map_arrow(
    rows: Dataset,
    columns: list[str],
    languages: list[str],
    arrays: Callable[[pa.Table], dict[str, pa.Array]],
    is_wanted: Callable[[pa.Table], pa.Array] | None = None,
) -> Dataset:
    """Make rows of `captions` in Arrow, where Python would make a dict of every row.

    Args:
        columns: the columns that are read.
        languages: of the captions; those that `arrays` lacks get empty lists.
        arrays: returns the texts of a batch by language, null where a row has none.
        is_wanted: returns which rows of a batch are kept; by default all are.
    """

    def convert(batch: pa.Table) -> pa.Table:
        found = arrays(batch)
        nothing = pa.nulls(len(batch), pa.string())
        lists = [as_lists(found.get(language, nothing)) for language in languages]
        captions = pa.table({"captions": pa.StructArray.from_arrays(lists, names=languages)})
        return captions if is_wanted is None else captions.filter(is_wanted(batch))

    # Fields such as `captions.en` and `captions.de` lie in one column.
    outer = _outer(rows.features, columns)
    return (
        rows.select_columns(outer)
        .with_format("arrow")
        .map(
            convert,
            batched=True,
            remove_columns=outer,
            features=features_of(languages),
            desc="Reading captions",
        )
        .with_format(None)
    )


def _check_found(source: Source, rows: Dataset, captions: Dataset) -> None:
    """Check that each language has a text, since a code that has changed would lose a language silently.

    Raises:
        InputError: one has none; the message lists the codes of the first rows.
    """
    not_found = list(captions.features["captions"])
    for columns in caption_slices(captions):
        not_found = [language for language in not_found if not _count_texts(columns[language])]
        if not not_found:
            return
    raise InputError(
        f"source {source.name!r} has no text in {not_found[0]} in any row. The first rows have the codes "
        f"{' '.join(_first_codes(source, rows))}: correct `codes` of {source.file}"
    )


def _count_texts(lists: pa.Array) -> int:
    return pc.sum(pc.list_value_length(lists)).as_py() or 0


def _first_codes(source: Source, rows: Dataset) -> list[str]:
    """Return the codes of languages in the first rows, as many as a message may list."""
    head = rows.select(range(min(len(rows), 1000)))
    if source.layout == "language_column":
        codes = head[source.columns["language"]][:]
    else:
        lists = head[source.columns["translations"]][:]
        codes = [item[0] for item in chain(*filter(None, lists))]
    return list(dict.fromkeys(map(str, codes)))[:_SHOWN]


# ---- Images with captions ----


def read_images(
    source: Source,
    languages: list[str] | None,
    split: str = "train",
    n_first: int | None = None,
    budget: Budget = ALL_ROWS,
    *,
    allow_outside: bool = False,
) -> Dataset:
    """Read rows of undecoded `image` and `captions` in the requested languages.

    Args:
        languages: the requested languages; those that the source lacks are left out.
        split: as for `read_texts`.
        n_first, budget: as for `read_texts`.
        allow_outside: as for `load_rows`.

    Raises:
        InputError: the source is refused for training, holds no images, or lacks the split or all of the
            languages; or a column is missing.
    """
    wanted = languages_of_images(source, languages)
    quotas = None
    if n_first is None:
        quotas = _share_downloads(source, split, wanted, budget)
    rows = _open_source(source, split, source.config, n_first, quotas, allow_outside=allow_outside)
    images = with_image_column(source, rows).select_columns(["image"])
    if source.layout == "image_lists":
        captions = _from_lists_beside_images(source, rows, wanted)
    else:
        captions = _read_columns(source, rows, wanted)
    return concatenate_datasets([images, captions], axis=1)


def _from_lists_beside_images(source: Source, rows: Dataset, wanted: dict[str, str]) -> Dataset:
    """`{"language": ["iw", "fr"], "text": ["כלב", None]}` -> `{"captions": {"he": ["כלב"], "fr": []}}`."""
    outer = _outer(rows.features, _check_lists(source, rows))
    return rows.select_columns(outer).map(
        partial(_gather_lists, columns=source.columns, names=_names_of(source, wanted)),
        remove_columns=outer,
        features=features_of(wanted),
        desc="Reading captions",
    )


def _check_lists(source: Source, rows: Dataset | IterableDataset) -> list[str]:
    """Return the columns of languages and texts of layout `image_lists`.

    Raises:
        InputError: one is missing, or holds no texts.
    """
    columns = [source.columns["language"], source.columns["captions"]]
    for column in columns:
        _check_texts(source, rows, column, source.config)
    return columns


def _names_of(source: Source, wanted: dict[str, str]) -> dict[str, str]:
    """Return the requested language of each code of the data: `{"iw": "he"}`."""
    return {source.codes[language]: name for name, language in wanted.items()}


def _gather_lists(row: dict, columns: dict[str, str], names: dict[str, str]) -> dict:
    captions = {name: [] for name in names.values()}
    codes = value_at(row, columns["language"]) or []
    texts = value_at(row, columns["captions"]) or []
    for code, text in zip(codes, texts):
        if code in names and text:
            captions[names[code]].append(text)
    return {"captions": captions}


def languages_of_images(source: Source, languages: list[str] | None) -> dict[str, str]:
    """Match the requested languages with those of a source of images, as `_requested_languages`.

    English is not added where it is not requested.

    Raises:
        InputError: the source is refused for training, holds no images, or has none of the languages.
    """
    _check_use(source, IMAGES, "source of images")
    wanted = _requested_languages(source, languages)
    if languages and find_language("en", languages) is None:
        wanted.pop("en", None)
    if not wanted:
        raise InputError(
            f"source {source.name!r} has none of the languages {' '.join(languages)}: it has "
            f"{' '.join(source.languages)}"
        )
    return wanted


def with_image_column(source: Source, rows: Dataset | IterableDataset) -> Dataset | IterableDataset:
    """Return the same rows with their images, undecoded, in the column `image`.

    Raises:
        InputError: there is no such column, or, where the source names none, not exactly one of images.
    """
    column = source.columns.get("image")
    # A tar's images are in one column, which the first image's ending names: `jpg`, or `png`.
    rows = name_pictures(rows, column)
    if column is None:
        return with_image(rows, source.dataset)
    _check_column(source, rows, column, source.config)
    return rename_image(rows, column)


def stream_with_captions(source: Source, rows: IterableDataset, wanted: dict[str, str]) -> IterableDataset:
    """Return a stream with a column `captions` of those by language, next to its other columns.

    Args:
        wanted: as `languages_of_images` returns it.

    Raises:
        InputError: a column is missing, or holds no texts.
    """
    features = Features({**rows.features, **features_of(wanted)})
    if source.layout == "image_lists":
        _check_lists(source, rows)
        gather = partial(_gather_lists, columns=source.columns, names=_names_of(source, wanted))
        return rows.map(gather, features=features)

    columns = {code: source.columns["captions"][language] for code, language in wanted.items()}
    for column in columns.values():
        _check_texts(source, rows, column, source.config)
    return rows.map(partial(_add_captions, columns=columns), features=features)


def _add_captions(row: dict, columns: dict[str, str]) -> dict:
    captions = {}
    for language, column in columns.items():
        captions[language] = read_texts_of_cell(value_at(row, column), column)
    return {"captions": captions}


__all__ = [
    "check_parallel_text",
    "languages_of_images",
    "read_images",
    "read_texts",
    "source_options",
    "stream_with_captions",
    "value_at",
    "with_image_column",
]
