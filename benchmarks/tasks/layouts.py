"""Layouts of benchmark datasets on the Hub or in a folder, and how each becomes rows of one form.

Rows of retrieval are an `image` and its `captions`, `{language: [text, ...]}`. Rows of classification are an
`image` and its `label`, the number of its class, or `labels`, the numbers of several. Every image comes once,
in the order of the files:

    {"image": ..., "captions": {"en": ["a dog", "a brown dog"], "zh": ["一只狗"]}}
    {"image": ..., "label": 3}
    {"image": ..., "labels": [0, 3]}

The layout says where an image's captions or label are:

- `table`: in its row. `captions` is a dict by language, or each language has a column; `label` is a number or
  a text; `labels` is a list.
- `webdataset`: in its row of a tar. `txt` has a caption in each line; `cls` is a number; `npy` has a 1 at
  each of its classes.
- `split_per_language`: in the split named after the language, in the row of the same `id`. The images are
  repeated in each split, and read from one.
- `split_with_images`: in its row of the split named after the language. Languages have images of their own.
- `language_column`: in its rows, one for each caption, whose language a column names. Rows of equal images
  are one image with several captions. Languages have images of their own.
- `frames`: in rows that are frames of videos. The middle one stands for its video.
- `chinese_clip`, `caption_lines`, `coco_json`: in files of their own, see `caption_files`.
- `candidates`: in files of their own, which also have the images that each text chooses among, see
  `candidates`.
"""

from collections import defaultdict
from collections.abc import Callable
from functools import partial

from datasets import (
    ClassLabel,
    Dataset,
    Features,
    Image,
    IterableDataset,
    Json,
    List,
    Value,
    concatenate_datasets,
)

from common.errors import InputError
from common.files.image_folders import refuse_missing, warn_of_images_without_row
from common.files.rows import rename_image
from common.files.table_cells import may_hold_texts, texts_in_cell
from common.images import digest_of, encoded_bytes
from common.languages import check_language
from modeling_altclip.languages_altclip import match_language

from .captions import (
    Rows,
    add_captions,
    captions_by_id,
    captions_of_one,
    captions_of_row,
    first,
    places_of_ones,
    with_column,
)
from .checks import OWN_IMAGES, named_columns
from .source import open_split
from .task import Task


def read_layout(task: Task, languages: list[str] | None, limit: int | None, streaming: bool) -> Rows:
    """Read the first `limit` rows of a task, or all, with captions in `languages`, or in all of the task's.

    Where languages have images of their own, these are the rows of one language after those of another, and
    `limit` is that of each.

    Raises:
        InputError: the data does not exist, cannot be read, or does not have the form that the task says.
    """
    languages = languages or task.languages
    if task.layout in OWN_IMAGES:
        parts = []
        for language in languages:
            parts.append(_read_own_images(task, language, languages, limit, streaming))
        return concatenate_datasets(parts)

    rows = _open_rows(task, task.split, languages, streaming)
    if task.layout == "frames":
        rows = _middle_frames(task, rows)

    if task.kind == "zero_shot":
        return _with_label(task, rows, limit)
    captions_of = _caption_reader(task, rows.features, languages)
    return add_captions(first(rows, limit), captions_of, languages, only_first=task.first_caption)


def _open_rows(task: Task, split: str, languages: list[str], streaming: bool) -> Rows:
    """Open a split whose columns are checked, with its images, still undecoded, in the column `image`."""
    rows = open_split(task, split, streaming)
    _check_columns(task, rows.features)
    if task.has_captions:
        _check_captions(task, rows.features, languages)
    rows = _with_image(task, rows)
    if isinstance(rows, Dataset):
        refuse_missing(rows, task.dataset)
        warn_of_images_without_row(rows, task.dataset)
    return rows


def _read_own_images(
    task: Task, language: str, languages: list[str], limit: int | None, streaming: bool
) -> Rows:
    """Read the first `limit` images of one language, or all, with no captions in the other languages."""
    if task.layout == "split_with_images":
        rows = _open_rows(task, language, languages, streaming)
        captions_of = partial(
            captions_of_one,
            column=task.columns["captions"],
            language=language,
            languages=languages,
            joined=task.join_words,
        )
    else:
        rows, texts = _images_of_language(task, _open_rows(task, task.split, languages, streaming), language)
        captions = {other: {} for other in languages} | {language: texts}
        captions_of = partial(captions_by_id, captions=captions, id=task.columns["id"])
    return add_captions(first(rows, limit), captions_of, languages, only_first=task.first_caption)


def _images_of_language(task: Task, rows: Rows, language: str) -> tuple[Dataset, dict[str, list[str]]]:
    """Select the first row of each image of a language, and collect the texts of all rows of that image.

    Returns:
        The rows, and `{id of the first row: texts}`.

    Raises:
        InputError: the rows are a stream, none is in the language, or an image cannot be read.
    """
    if isinstance(rows, IterableDataset):
        raise InputError(
            f"rows of {task.dataset!r} are captions, and their images follow from all of them: leave out "
            "--streaming"
        )
    column = task.columns["language"]
    value = task.where[language]
    names = rows[column][:]
    places = [place for place, name in enumerate(names) if name == value]
    if not places:
        raise InputError(
            f"column {column!r} of {task.dataset!r} has no {value!r}; it has "
            f"{', '.join(sorted({str(name) for name in names}))}: fix where.{language} of {task.file}"
        )
    of_language = rows.select(places)
    ids = of_language[task.columns["id"]][:]
    captions = of_language[task.columns["captions"]][:]

    # Rows 0, 1 and 2 of images a, b and a -> firsts {a: 0, b: 1}, texts {id of row 0: two texts, ...}
    firsts: dict[str, int] = {}
    texts: dict[str, list[str]] = defaultdict(list)
    undecoded = of_language.select_columns(["image"]).cast_column("image", Image(decode=False))
    for row, image in enumerate(undecoded["image"]):
        digest = _digest_of_image(task, image, places[row])
        first_row = firsts.setdefault(digest, row)
        texts[ids[first_row]] += texts_in_cell(
            captions[row], task.columns["captions"], joined=task.join_words
        )
    return of_language.select(list(firsts.values())), dict(texts)


def _digest_of_image(task: Task, image: dict | None, row: int) -> str:
    """Return the digest of an undecoded image.

    Raises:
        InputError: there is none, or its file cannot be read; the message gives its row.
    """
    if image is None:
        raise InputError(f"row {row} of {task.dataset!r} has no image: leave it out of the dataset")
    try:
        return digest_of(encoded_bytes(image))
    except (OSError, ValueError) as error:
        raise InputError(f"the image of row {row} of {task.dataset!r} cannot be read: {error}") from error


def _caption_reader(task: Task, features: Features, languages: list[str]) -> Callable[[dict], dict]:
    """Return the function that reads the captions of a row in these languages.

    `datasets` caches rows under a hash of its name and arguments, which therefore stay as they are.
    """
    if task.layout == "split_per_language":
        captions = _captions_of_splits(task, languages)
        return partial(captions_by_id, captions=captions, id=task.columns["id"])

    column = task.columns["captions"]
    if isinstance(column, dict):
        keys = {language: column[language] for language in languages}
    elif isinstance(features[column], Json):
        keys = {language: None for language in languages}
    else:
        keys = {language: match_language(language, features[column]) for language in languages}
    lines = task.layout == "webdataset"
    return partial(captions_of_row, column=column, keys=keys, lines=lines, joined=task.join_words)


def _check_columns(task: Task, features: Features) -> None:
    """Check that the rows have every column that the task names."""
    for key, named in task.columns.items():
        for column in named_columns(named):
            if column not in features:
                raise InputError(
                    f"dataset {task.dataset!r}, split {task.split!r} has no column {column!r}; it has "
                    f"{', '.join(features)}: fix columns.{key} of {task.file}"
                )


def _check_captions(task: Task, features: Features, languages: list[str]) -> None:
    """Check that there are captions in each language, and that they are texts.

    Raises:
        InputError: a language is missing, or a column holds something else.
    """
    column = task.columns["captions"]
    if isinstance(column, dict):
        kinds = {name: features[name] for name in column.values()}
    elif task.layout in ("split_per_language", *OWN_IMAGES):
        kinds = {column: features[column]}
    elif isinstance(features[column], Json):
        return  # each row has languages of its own
    elif isinstance(features[column], dict):
        kinds = features[column]
        for language in languages:
            check_language(language, kinds, f"column {column!r} of {task.dataset!r} has no")
    else:
        raise InputError(
            f"column {column!r} of {task.dataset!r} must hold {{language: texts}}, not {features[column]}: "
            f"say which language it is in, `captions: {{en: {column}}}`, in {task.file}"
        )

    for name, kind in kinds.items():
        if not may_hold_texts(kind):
            raise InputError(
                f"column {name!r} of {task.dataset!r} must hold texts, not {kind}: fix columns.captions of "
                f"{task.file}"
            )


def _with_image(task: Task, rows: Rows) -> Rows:
    """Rename the column of images, still undecoded, to `image`.

    Raises:
        InputError: the task names none, and not exactly one column holds images.
    """
    found = [name for name, kind in rows.features.items() if isinstance(kind, Image)]
    if task.columns.get("image"):
        found = [task.columns["image"]]
    if len(found) != 1:
        many = f"no column of images among {', '.join(rows.features)}"
        if found:
            many = f"images in {' and '.join(found)}"
        raise InputError(
            f"dataset {task.dataset!r}, split {task.split!r} has {many}: name one in columns.image of "
            f"{task.file}"
        )
    return rename_image(rows, found[0])


def _with_label(task: Task, rows: Rows, limit: int | None) -> Rows:
    """Return the first rows, of `image` and of numbers of classes in the column `label` or `labels`.

    Raises:
        InputError: the column holds neither numbers nor texts.
    """
    (answer,) = task.columns.keys() & {"label", "labels"}
    column = task.columns[answer]
    kind = rows.features[column]
    rows = rows.select_columns(["image", column])
    if column != answer:
        rows = rows.rename_column(column, answer)

    if answer == "labels" and task.layout == "webdataset":
        features = Features({"labels": List(Value("int64"))})
        return with_column(first(rows, limit), places_of_ones, features)
    if answer == "label" and isinstance(kind, Value) and "string" in kind.dtype:
        # All labels are numbered before the first rows are taken: the numbers must not depend on `limit`.
        rows = rows.cast_column(answer, ClassLabel(names=_names_of_labels(task, rows)))
    elif not _holds_numbers(kind, answer):
        raise InputError(
            f"column {column!r} of {task.dataset!r} must hold numbers of classes, not {kind}: fix columns "
            f"of {task.file}"
        )
    return first(rows, limit).cast_column("image", Image())


def _holds_numbers(kind, answer: str) -> bool:
    """Check that a column holds numbers of classes, or, if it is of `labels`, lists of them."""
    number = kind.feature if answer == "labels" and isinstance(kind, List) else kind
    if isinstance(number, ClassLabel):
        return True
    return isinstance(number, Value) and "int" in number.dtype


def _names_of_labels(task: Task, rows: Rows) -> list[str]:
    """Return all labels that are texts, in alphabetical order, by which they are numbered.

    Raises:
        InputError: the rows are a stream, or a label is None.
    """
    if isinstance(rows, IterableDataset):
        raise InputError(
            f"labels of {task.dataset!r} are texts, and their numbers follow from all of them: leave out "
            "--streaming"
        )
    names = rows.unique("label")
    if None in names:
        row = rows["label"][:].index(None)
        raise InputError(
            f"row {row} of {task.dataset!r} has the label None, which is no class: leave it out of the "
            "dataset"
        )
    return sorted(names)


def _middle_frames(task: Task, rows: Rows) -> Dataset:
    """Select the middle frame of each video, in the order of the rows.

    Raises:
        InputError: the rows are a stream.
    """
    if isinstance(rows, IterableDataset):
        raise InputError(
            f"rows of {task.dataset!r} are frames, and the middle one follows from all of them: leave out "
            "--streaming"
        )
    video = task.columns["video"]  # several columns that name it together
    frame = task.columns["frame"]
    frames = rows.select_columns([*video, frame]).to_pandas().reset_index(names="row")
    frames = frames.sort_values(frame, kind="stable")

    def middle(rows_of_video):
        return rows_of_video.iloc[len(rows_of_video) // 2]

    return rows.select(sorted(frames.groupby(video)["row"].agg(middle)))


def _captions_of_splits(task: Task, languages: list[str]) -> dict[str, dict]:
    """Read `{language: {id: texts}}` from the languages' own splits, whose images are not downloaded."""
    id = task.columns["id"]
    column = task.columns["captions"]
    captions = {}
    for language in languages:
        captions[language] = {}
        for row in open_split(task, language, streaming=True, columns=[id, column]):
            captions[language][row[id]] = texts_in_cell(row[column], column, joined=task.join_words)
    return captions
