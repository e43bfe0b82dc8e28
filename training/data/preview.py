"""Read the first rows of a dataset as a stream, for a dry run.

The rest is neither downloaded nor prepared.
"""

from itertools import islice
from pathlib import Path

from datasets import Dataset, IterableDataset
from transformers import AutoConfig

from common.errors import InputError
from common.files.endings import suffix_of
from common.files.image_folders import source_of
from common.files.rows import open_rows, readable_rows
from common.files.text_files import lines_of
from common.languages import check_languages
from common.models.kinds import width_of_embeddings
from common.paths import check_folder
from modeling_altclip.languages_altclip import canonical

from ..arguments import (
    AlignmentArguments,
    ContrastiveArguments,
    PairArguments,
    StageArguments,
    TeacherArguments,
    TeacherLearningArguments,
)
from .captions import find_form, read_captions, with_image
from .formats.reading import find_translations, first_translations
from .formats.unpacking import unpack
from .image_vectors import check_first_vectors, check_vector_column, refuse_vectors
from .loading import refuse_text_column
from .parallel_text import BUILDERS, moses_paths, only_captions, read_sources
from .sources.loading import find_source
from .sources.reading import read_images, read_texts
from .text_tables import TABLES, rows_of_table, tables_in

N_ROWS = 8  # few enough to read at once, enough to estimate the length of texts


def first_captions(arguments: StageArguments) -> tuple[list[str], str]:
    """Read the captions of the first rows in the languages to train on.

    Returns:
        The texts, and a description of the rows: `columns image, captions; captions in en zh`.

    Raises:
        InputError: there is no such data, it lacks a column or a language, or stage 1 finds no English.
    """
    aligns_images = isinstance(arguments, AlignmentArguments) and arguments.aligns_images
    if isinstance(arguments, TeacherLearningArguments) and not aligns_images:
        return _of_parallel_text(arguments)
    # Stage 0 trains the teacher, which reads English alone.
    requested = ["en"] if isinstance(arguments, TeacherArguments) else arguments.languages
    captions = []
    columns = {}  # as keys, in the order of the sources
    available = {}
    for source in read_sources(arguments.dataset):
        head, names, known = _head_of_images(arguments, source, requested)
        captions += head
        columns |= dict.fromkeys(names)
        available |= dict.fromkeys(known)
    languages = check_languages(requested, list(available))
    described = f"columns {', '.join(columns)}; captions in {' '.join(languages)}"
    return _texts_of(captions, languages), described


def _head_of_images(
    arguments: PairArguments, source: dict, requested: list[str] | None
) -> tuple[list[dict[str, list[str]]], list[str], list[str]]:
    """Return the captions of a source's first rows, its columns, and the languages that it may have."""
    data = source["data"]
    split = source.get("split", arguments.split)
    outside = {"allow_outside": arguments.allow_outside_images}
    named = find_source(data)
    if named is not None:
        refuse_vectors(arguments, data)
        refuse_text_column(named, arguments.text_column)
        head = read_images(named, requested, split, N_ROWS, **outside)
        return head["captions"][:], list(head.features), list(head.features["captions"])

    check_folder("dataset", data)
    rows = _stream(data, split, source_of(data) | outside)
    column = arguments.image_embeds_column if isinstance(arguments, ContrastiveArguments) else None
    if column is None:
        rows = with_image(rows, data)
    else:
        check_vector_column(rows.features, column, data)
    form = find_form(rows.features, data, arguments.text_column, requested)
    taken = _take_first(rows, data, split)
    if column is not None:
        config = AutoConfig.from_pretrained(arguments.model_name_or_path, trust_remote_code=False)
        check_first_vectors(taken, column, width_of_embeddings(config))
    captions = [read_captions(row, form) for row in taken]
    # Where the columns do not list the languages, a few rows may lack some: the requested ones are trusted.
    available = form.available or [canonical(language) for language in requested or []]
    return captions, list(rows.features), available or _languages_of(captions)


def _of_parallel_text(arguments: TeacherLearningArguments) -> tuple[list[str], str]:
    """Read the first texts of each source of parallel text, as `first_captions`."""
    captions = []
    for source in read_sources(arguments.dataset):
        if arguments.kinds and source.get("kind") not in arguments.kinds:
            continue
        split = source.get("split", arguments.split)
        named = find_source(source["data"])
        if named is not None:
            captions += read_texts(named, arguments.languages_to_read, split, N_ROWS)["captions"][:]
        else:
            rows = read_head(source["data"], source.get("name"), split)
            captions += only_captions(rows, source["data"])["captions"][:]

    available = sorted(_languages_of(captions))
    if "en" not in available:
        raise InputError(
            f"captions of {arguments.dataset!r} have no English for the teacher to read: they have "
            f"{' '.join(available) or 'none'}"
        )
    requested = arguments.languages
    if requested is not None and arguments.model_name_or_path is not None:
        # A finished model also replays languages that it knows; by default all.
        replayed = arguments.replay_languages
        requested = None if replayed is None else requested + replayed
    languages = check_languages(requested, _languages_of(captions))
    return _texts_of(captions, languages), f"captions in {' '.join(languages)}"


def _languages_of(captions: list[dict[str, list[str]]]) -> list[str]:
    """Return the languages of some captions, in the order in which they appear."""
    languages = {}
    for caption in captions:
        languages |= dict.fromkeys(caption)
    return list(languages)


def _texts_of(captions: list[dict[str, list[str]]], languages: list[str]) -> list[str]:
    """Return all texts of some captions in the given languages."""
    texts = []
    for caption in captions:
        for language in languages:
            texts += [text for text in caption.get(language, []) if text]
    return texts


def read_head(data: str, name: str | None, split: str) -> Dataset:
    """Read the first rows of a source of parallel text, of any kind that `parallel_text` reads."""
    if translations := find_translations(data):
        texts = first_translations(translations, N_ROWS)
        if not texts:
            raise InputError(f"dataset {data!r} has no translated entry: give another")
        return Dataset.from_dict({"captions": texts})
    data = unpack(data)
    if paths := moses_paths(data):
        texts = zip(*map(_first_lines, paths.values()))
        return Dataset.from_dict({"captions": [dict(zip(paths, row)) for row in texts]})
    suffix = suffix_of(data)
    if suffix in (*TABLES, *BUILDERS):
        check_folder("dataset", str(Path(data).absolute()))
    tables = [data] if suffix in TABLES else tables_in(data, name, split)
    if tables:
        return Dataset.from_list(list(islice(rows_of_table(tables[0]), N_ROWS)))
    if suffix in BUILDERS:
        rows = _stream(str(Path(data).parent), "train", {"path": BUILDERS[suffix], "data_files": data})
    else:
        check_folder("dataset", data)
        rows = _stream(data, split, source_of(data, name))
    return Dataset.from_list(_take_first(rows, data, split), rows.features)


def _first_lines(path: str) -> list[str]:
    check_folder("dataset", str(Path(path).absolute()))
    return list(islice(lines_of(path, "dataset"), N_ROWS))


def _stream(dataset: str, split: str, source: dict) -> IterableDataset:
    """Open a folder or Hub dataset as a stream, which fetches only what is read.

    Args:
        source: arguments of `open_rows`.

    Raises:
        InputError: there is no such split, or as `open_rows`.
    """
    with readable_rows(dataset, split):
        return open_rows(dataset, split, streaming=True, **source)


def _take_first(rows: IterableDataset, dataset: str, split: str) -> list[dict]:
    """Read the first rows.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    with readable_rows(dataset, split):
        taken = list(rows.take(N_ROWS))
    if not taken:
        raise InputError(f"dataset {dataset!r} has no rows: give another split, or data")
    return taken


__all__ = ["first_captions"]
