"""Read texts that each choose among a few images, as mteb's tasks of reranking hold them.

Such a dataset has its images in one file, each with an `id`. Each language has three more: `queries` (`id`,
`text`), `qrels` (`query-id`, the `corpus-id` of its image, and a `score`) and `top_ranked` (`query-id`, and
the `corpus-ids` to choose from). `data_files` names the four, with `{}` where the task's `where` gives what
stands for the language:

    data_files: {corpus: corpus.parquet, queries: "{}/queries.parquet", qrels: ..., top_ranked: ...}
    where: {en: eng_Latn}
"""

from collections import defaultdict
from dataclasses import replace
from functools import partial

from datasets import Features, List, Value

from common.errors import InputError
from modeling_altclip.texts_altclip import is_blank

from .captions import Rows, first, with_column
from .source import open_split
from .task import Task

# {image: texts}, and {image: for each text the rows of the other images to choose from}
_Texts = dict[str, list[str]]
_Rivals = dict[str, list[list[int]]]


def read_candidates(task: Task, languages: list[str] | None, limit: int | None, streaming: bool) -> Rows:
    """Read the first `limit` images, or all, with the texts that choose among these alone.

    Rows are an `image`, its `captions`, `{language: [text, ...]}`, and their `rivals`, `{language: [rows,
    ...]}`: for each text the rows of the other images that it chooses from.

    Raises:
        InputError: a file cannot be read, or two of them do not fit together.
    """
    languages = languages or task.languages
    ids = [row["id"] for row in _open_file(task, "corpus", "", ["id"])]
    captions: dict[str, _Texts] = {}
    rivals: dict[str, _Rivals] = {}
    for language in languages:
        captions[language], rivals[language] = _read_choices(task, language, ids, limit)

    images = open_split(_with_file(task, "corpus", ""), task.split, streaming)
    features = {
        "captions": {language: List(Value("string")) for language in languages},
        "rivals": {language: List(List(Value("int64"))) for language in languages},
    }
    choices_of = partial(_choices_by_id, captions=captions, rivals=rivals)
    return with_column(first(images, limit), choices_of, Features(features))


def _choices_by_id(row: dict, captions: dict[str, _Texts], rivals: dict[str, _Rivals]) -> dict:
    """Look up the texts of an image, and the images that each of them chooses from."""
    image = row["id"]
    return {
        "captions": {language: texts.get(image, []) for language, texts in captions.items()},
        "rivals": {language: rows.get(image, []) for language, rows in rivals.items()},
    }


def _read_choices(task: Task, language: str, ids: list[str], limit: int | None) -> tuple[_Texts, _Rivals]:
    """Read one language's texts and their rivals, by the image that each text is of.

    Args:
        ids: of all images; texts that choose among others than the first `limit` are left out.
    """
    name = task.where[language]
    texts = {row["id"]: row["text"] for row in _open_file(task, "queries", name, ["id", "text"])}
    right = {}
    for row in _open_file(task, "qrels", name, ["query-id", "corpus-id", "score"]):
        if row["score"] > 0:
            right[row["query-id"]] = row["corpus-id"]

    rows_of = {image: row for row, image in enumerate(ids)}
    captions: _Texts = defaultdict(list)
    rivals: _Rivals = defaultdict(list)
    counts = set()
    for choice in _open_file(task, "top_ranked", name, ["query-id", "corpus-ids"]):
        query = choice["query-id"]
        candidates = choice["corpus-ids"]
        answer = right.get(query)
        _check_choice(task, query, texts.get(query), answer, candidates, rows_of)
        counts.add(len(candidates))
        rows = [rows_of[image] for image in candidates]
        if limit is None or max(rows) < limit:
            captions[answer].append(texts[query].strip())
            rivals[answer].append([row for row in rows if row != rows_of[answer]])
    if len(counts) > 1:
        raise InputError(
            f"dataset {task.dataset!r}: texts in {language} choose among {min(counts)} to {max(counts)} "
            "images: give each as many"
        )
    return dict(captions), dict(rivals)


def _check_choice(
    task: Task,
    query: str,
    text: str | None,
    answer: str | None,
    candidates: list[str],
    rows_of: dict[str, int],
) -> None:
    """Check that a query has a text, an image, and others that it is chosen among.

    Raises:
        InputError: one of these is missing; the message names the query.
    """
    what = f"dataset {task.dataset!r}: query {query!r}"
    if text is None or is_blank(text):
        raise InputError(f"{what} has no text in `queries`: see {task.file}")
    unknown = [image for image in candidates if image not in rows_of]
    if unknown:
        raise InputError(f"{what} chooses {unknown[0]!r}, which `corpus` lacks: see {task.file}")
    if answer not in candidates or len(candidates) < 2:
        raise InputError(
            f"{what} is of image {answer!r} in `qrels` and chooses among {', '.join(candidates)}: its image "
            "and another one have to be among these"
        )


def _open_file(task: Task, key: str, language: str, columns: list[str]) -> Rows:
    """Open one of the four files as a stream of these columns."""
    return open_split(_with_file(task, key, language), task.split, streaming=True, columns=columns)


def _with_file(task: Task, key: str, language: str) -> Task:
    """Return the task of one of its files alone; `{}` in its name is the language."""
    return replace(task, data_files={task.split: task.data_files[key].replace("{}", language)})
