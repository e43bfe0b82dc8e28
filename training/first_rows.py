"""The first rows of a dataset, read as a stream: what a dry run looks at, without downloading or preparing the rest."""

from itertools import islice
from pathlib import Path

import pandas as pd
from datasets import Dataset, load_dataset
from datasets.exceptions import DatasetGenerationError

from benchmarks.loading import check_folder, check_languages
from benchmarks.recipe import InputError

from .arguments import StageArguments, TeacherArguments, TeacherLearningArguments
from .parallel_text import BUILDERS, lines_of, read_sources, with_captions

N_ROWS = 8


def first_captions(arguments: StageArguments) -> tuple[list[str], str]:
    """Captions of the first rows in the languages to train on, and a line that says what the rows hold.

    Raises:
        InputError: there is no such data, it lacks a column or a language, or stage 1 finds no English.
    """
    if isinstance(arguments, TeacherLearningArguments):
        return of_parallel_text(arguments)
    rows = stream(arguments.dataset, arguments.split)
    missing = [column for column in ("captions", "image") if column not in rows[0]]
    if missing:
        raise InputError(f"dataset {arguments.dataset!r} has no column {', '.join(missing)}: it has {', '.join(rows[0])}")
    if not isinstance(rows[0]["captions"], dict):
        raise InputError(f"column 'captions' of {arguments.dataset!r} must hold {{language: text}}, not {rows[0]['captions']!r}")
    asked = ["en"] if isinstance(arguments, TeacherArguments) else arguments.languages
    texts, languages = texts_of([row["captions"] for row in rows], asked)
    return texts, f"columns {', '.join(rows[0])}; captions in {' '.join(languages)}"


def of_parallel_text(arguments: TeacherLearningArguments) -> tuple[list[str], str]:
    """The same of each source of parallel text."""
    captions, dataset = [], arguments.dataset
    for source in read_sources(dataset):
        if not arguments.kinds or source.get("kind") in arguments.kinds:
            rows = read_head(source["data"], source.get("name"), source.get("split", arguments.split))
            captions += with_captions(rows, source["data"])["captions"]
    spoken = sorted({language for caption in captions for language in caption})
    if "en" not in spoken:
        raise InputError(f"captions of {dataset!r} have no English for the teacher to read: they have {' '.join(spoken) or 'none'}")
    texts, languages = texts_of(captions, arguments.languages)
    return texts, f"captions in {' '.join(languages)}"


def texts_of(captions: list[dict], asked: list[str] | None) -> tuple[list[str], list[str]]:
    """All texts in the languages asked for, or in all there are; and these languages."""
    languages = check_languages(asked, list(dict.fromkeys(language for caption in captions for language in caption)))
    return [caption[language] for caption in captions for language in languages if caption.get(language)], languages


def read_head(data: str, name: str | None, split: str) -> Dataset:
    """The first rows of a source of parallel text, of any kind that `parallel_text` reads."""
    suffix = Path(data).suffix
    if "{" in data:
        before, languages, after = data.replace("}", "{").split("{")
        texts = {language: head(before + language + after) for language in languages.split(",")}
        return Dataset.from_dict(texts)
    if suffix == ".tsv":
        columns, *lines = [line.split("\t") for line in head(data)]
        return Dataset.from_list([dict(zip(columns, line)) for line in lines])
    if suffix == ".csv":
        return Dataset.from_pandas(pd.read_csv(data, dtype=str, keep_default_na=False, nrows=N_ROWS))
    if suffix in BUILDERS:
        check_folder("dataset", str(Path(data).absolute()))
        return Dataset.from_list(stream(BUILDERS[suffix], "train", data_files=data))
    return Dataset.from_list(stream(data, split, name))


def head(path: str) -> list[str]:
    """The first lines of a file."""
    check_folder("dataset", str(Path(path).absolute()))
    return list(islice(lines_of(path), N_ROWS))


def stream(dataset: str, split: str, name: str | None = None, **files) -> list[dict]:
    """The first rows of a folder or Hub dataset, and only the part of its files that they lie in.

    Raises:
        InputError: there is no such dataset or split, or it is empty.
    """
    if not files:
        check_folder("dataset", dataset)
    try:
        rows = list(load_dataset(dataset, name, split=split, streaming=True, **files).take(N_ROWS))
    except (OSError, ValueError, DatasetGenerationError) as error:
        raise InputError(f"dataset {dataset!r}, split {split!r} cannot be read: {error}") from error
    if not rows:
        raise InputError(f"dataset {dataset!r}, split {split!r} has no rows")
    return rows


__all__ = ["first_captions"]
