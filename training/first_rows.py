"""The first rows of a dataset, read as a stream: what a dry run looks at, without downloading or preparing
the rest.
"""

from itertools import islice
from pathlib import Path

from datasets import Dataset, IterableDataset

from benchmarks.endings import suffix_of
from benchmarks.loading import READING, check_folder, check_languages, open_rows, what_is_wrong
from benchmarks.picture_folders import source_of
from benchmarks.recipe import InputError
from modeling_altclip.languages_altclip import canonical

from .arguments import StageArguments, TeacherArguments, TeacherLearningArguments
from .captions import find_form, read_captions, with_image
from .parallel_text import BUILDERS, moses_paths, read_sources, with_captions
from .text_tables import TABLES, lines_of, rows_of_table, tables_in

N_ROWS = 8


def first_captions(arguments: StageArguments) -> tuple[list[str], str]:
    """Captions of the first rows in the languages to train on, and a line that says what the rows hold.

    Raises:
        InputError: there is no such data, it lacks a column or a language, or stage 1 finds no English.
    """
    if isinstance(arguments, TeacherLearningArguments):
        return of_parallel_text(arguments)
    asked = ["en"] if isinstance(arguments, TeacherArguments) else arguments.languages
    rows = with_image(stream(arguments.dataset, arguments.split), arguments.dataset)
    form = find_form(rows.features, arguments.dataset, arguments.text_column, asked)
    captions = [read_captions(row, form) for row in first(rows, arguments.dataset)]
    spoken = form.spoken or [canonical(language) for language in asked or []]
    texts, languages = seen_texts(captions, asked, spoken)
    return texts, f"columns {', '.join(rows.features)}; captions in {' '.join(languages)}"


def of_parallel_text(arguments: TeacherLearningArguments) -> tuple[list[str], str]:
    """The same of each source of parallel text."""
    captions, dataset = [], arguments.dataset
    for source in read_sources(dataset):
        if not arguments.kinds or source.get("kind") in arguments.kinds:
            rows = read_head(source["data"], source.get("name"), source.get("split", arguments.split))
            captions += [
                {name: [text] for name, text in row.items()}
                for row in with_captions(rows, source["data"])["captions"]
            ]
    spoken = sorted({language for caption in captions for language in caption})
    if "en" not in spoken:
        raise InputError(
            f"captions of {dataset!r} have no English for the teacher to read: they have "
            f"{' '.join(spoken) or 'none'}"
        )
    asked = arguments.languages
    if asked is not None and arguments.model_name_or_path is not None:
        asked = None if arguments.replay_languages is None else asked + arguments.replay_languages
    texts, languages = seen_texts(captions, asked)
    return texts, f"captions in {' '.join(languages)}"


def seen_texts(
    captions: list[dict[str, list[str]]], asked: list[str] | None, spoken: list[str] | None = None
) -> tuple[list[str], list[str]]:
    """All texts in the languages asked for, or in all there are; and these languages.

    Args:
        spoken: the languages of all rows, where they are known: the first rows may lack some.
    """
    languages = check_languages(
        asked, spoken or list(dict.fromkeys(language for caption in captions for language in caption))
    )
    return [
        text for caption in captions for language in languages for text in caption.get(language, []) if text
    ], languages


def read_head(data: str, name: str | None, split: str) -> Dataset:
    """The first rows of a source of parallel text, of any kind that `parallel_text` reads."""
    if paths := moses_paths(data):
        texts = zip(*map(head, paths.values()))
        return Dataset.from_dict({"captions": [dict(zip(paths, row)) for row in texts]})
    suffix = suffix_of(data)
    if suffix in (*TABLES, *BUILDERS):
        check_folder("dataset", str(Path(data).absolute()))
    tables = [data] if suffix in TABLES else tables_in(data, name, split)
    if tables:
        return Dataset.from_list(list(islice(rows_of_table(tables[0]), N_ROWS)))
    if suffix in BUILDERS:
        rows = stream(BUILDERS[suffix], "train", data_files=data)
    else:
        rows = stream(data, split, name)
    return Dataset.from_list(first(rows, data), rows.features)


def head(path: str) -> list[str]:
    """The first lines of a file."""
    check_folder("dataset", str(Path(path).absolute()))
    return list(islice(lines_of(path), N_ROWS))


def stream(dataset: str, split: str, name: str | None = None, **files) -> IterableDataset:
    """A folder or Hub dataset, of which only the part is fetched that is looked at.

    Raises:
        InputError: there is no such dataset or split.
    """
    if not files:
        check_folder("dataset", dataset)
    try:
        source = {"path": dataset, **files} if files else source_of(dataset, name)
        return open_rows(split, streaming=True, **source)
    except READING as error:
        raise InputError(
            f"dataset {dataset!r}, split {split!r} cannot be read: {what_is_wrong(dataset, error)}"
        ) from error


def first(rows: IterableDataset, dataset: str) -> list[dict]:
    """The first rows.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    try:
        taken = list(rows.take(N_ROWS))
    except READING as error:
        raise InputError(f"dataset {dataset!r} cannot be read: {what_is_wrong(dataset, error)}") from error
    if not taken:
        raise InputError(f"dataset {dataset!r} has no rows")
    return taken


__all__ = ["first_captions"]
