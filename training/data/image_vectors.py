"""Ready image vectors to train on: a column of the dataset has them, and no image tower runs.

A vector stands for the image of its row as an embedding does: it is used at unit length.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset, Features, LargeList, List, Value
from torch.nn.functional import normalize
from xxhash import xxh3_128_hexdigest

from common.errors import InputError
from common.languages import check_languages

from ..arguments import ContrastiveArguments, PairArguments, say
from ..output_folder import record_sources
from .budgets import Budget
from .captions import find_form, with_captions
from .examples import CaptionExamples
from .exclusion.rows import exclude_tests, number_rows
from .images import check_policy, write_bad_rows
from .loading import load_parts
from .mixtures import mix_rows
from .parallel_text import open_dataset
from .sources.loading import find_source
from .sources.origin import find_origins
from .stored_columns import StoredColumn

_SLICE_ROWS = 10_000  # vectors that are checked at once: 30 MB of 768 values
_SAME_TYPE = List(Value("float32"))  # to which the columns of several sources are converted


class StoredVectors:
    """Vectors of a dataset's rows, read where they are stored.

    `vectors[[5, 0]]` is `{"image_embeds": float32 array (2, width)}`, of unit length.

    Args:
        rows: the dataset, all of whose rows have a vector of `width` finite values, not all of them zero.
        column: the column of the vectors.
        width: number of values of each.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> from training.data.image_vectors import StoredVectors

    >>> rows = Dataset.from_dict({"vector": [[3.0, 4.0], [0.0, 2.0]]})
    >>> StoredVectors(rows, "vector", width=2)[[1, 0]]["image_embeds"].tolist()
    [[0.0, 1.0], [0.6000000238418579, 0.800000011920929]]
    ```
    """

    def __init__(self, rows: Dataset, column: str, width: int):
        self.rows = rows.select_columns([column]).with_format("arrow")
        self.column = column
        self.width = width

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: Sequence[int]) -> dict[str, np.ndarray]:
        vectors = _values_of(self.rows[rows][self.column].combine_chunks(), self.width)
        return {"image_embeds": normalize(torch.from_numpy(vectors), dim=-1).numpy()}

    def set_epoch(self, epoch: int) -> None:
        """Do nothing: each epoch shows the same vectors."""


def _values_of(vectors: pa.Array, width: int) -> np.ndarray:
    """Return vectors of equal width, none of them missing, as float32 `(vectors, width)`.

    A missing value is NaN, and one that float32 cannot hold infinite.
    """
    values = pc.list_flatten(vectors).to_numpy(zero_copy_only=False)
    with np.errstate(over="ignore"):
        return values.astype(np.float32).reshape(-1, width)


def load_vector_examples(arguments: ContrastiveArguments, width: int) -> CaptionExamples:
    """Load captions with the vectors of `image_embeds_column`, without the rows that have none.

    Prints how many rows are set aside and excluded, and where they are listed. Rows of one vector count as
    alike, as rows of one picture do.

    Args:
        width: that of the model's embeddings.

    Raises:
        InputError: as `read_sources`, `open_dataset`, `find_form` and `keep_vectors`; or the dataset is a
            public corpus, which has no vectors.
    """
    # The other processes then read what the first has written to datasets' cache.
    with arguments.main_process_first(desc="reading captions"):
        rows = _load_rows(arguments)
    if arguments.exclude_tasks:
        rows = number_rows(rows)
    column = arguments.image_embeds_column
    with arguments.main_process_first(desc="reading vectors"):
        rows, n_skipped = keep_vectors(rows, column, width, arguments.bad_rows, arguments.output_dir)
    if n_skipped:
        say(
            arguments,
            f"Skipped {n_skipped} rows without a vector, listed in {arguments.output_dir}/bad_rows.jsonl.",
        )
    record_sources(arguments, find_origins(arguments.dataset, list(rows.features["captions"]), len(rows)))
    rows = exclude_tests(arguments, rows)
    languages = check_languages(arguments.languages, list(rows.features["captions"]))
    vectors = StoredVectors(rows, column, width)
    examples = CaptionExamples(
        rows, languages, "image_embeds", inputs=vectors, same=_digests_of(rows, column)
    )
    examples.check_any(arguments.dataset)
    say(
        arguments,
        f"Images are the {len(vectors)} vectors of {width} values in column {column!r}: no image tower runs.",
    )
    return examples


def _load_rows(arguments: ContrastiveArguments) -> Dataset:
    """Load the vectors and the captions of each source, and join them."""
    column = arguments.image_embeds_column

    def read(data: str, split: str, budget: Budget) -> Dataset:
        if find_source(data) is not None:
            refuse_vectors(arguments, data)
        rows = open_dataset(data, split, budget.n_rows, allow_outside=arguments.allow_outside_images)
        check_vector_column(rows.features, column, data)
        form = find_form(rows.features, data, arguments.text_column, arguments.languages)
        return with_captions(rows, form, data, beside=column)

    listed, parts = load_parts(arguments.dataset, arguments.split, read)
    if len(parts) == 1:
        return mix_rows(parts, listed)
    alike = []
    for part in parts:
        is_alike = part.features[column] == _SAME_TYPE
        alike.append(part if is_alike else part.cast_column(column, _SAME_TYPE))
    return mix_rows(alike, listed)


def refuse_vectors(arguments: PairArguments, corpus: str) -> None:
    """Refuse `image_embeds_column` for a public corpus, which has no vectors.

    Raises:
        InputError: it is given.
    """
    if isinstance(arguments, ContrastiveArguments) and arguments.image_embeds_column is not None:
        raise InputError(
            f"image_embeds_column is {arguments.image_embeds_column!r}, and {corpus!r} is a public corpus, "
            "which has no vectors: give a dataset of your own"
        )


def check_vector_column(features: Features, column: str, dataset: str) -> None:
    """Check that a dataset has a column of lists of numbers.

    Raises:
        InputError: it has not.
    """
    if column not in features:
        raise InputError(
            f"image_embeds_column: dataset {dataset!r} has no column {column!r}; it has {', '.join(features)}"
        )
    kind = features[column]
    item = kind.feature if isinstance(kind, List | LargeList) else None
    if not isinstance(item, Value) or not item.dtype.startswith("float"):
        raise InputError(
            f"image_embeds_column: column {column!r} of {dataset!r} must hold lists of floats, not {kind}"
        )


def keep_vectors(rows: Dataset, column: str, width: int, policy: str, output_dir: str) -> tuple[Dataset, int]:
    """Keep the rows whose vector can be trained on: it is there, finite, and not zero.

    Args:
        policy: `set_aside` skips other rows, `error` refuses them.
        output_dir: gets `bad_rows.jsonl`, one line per row that is skipped: its number and the problem.

    Returns:
        The good rows, and the number of those that are skipped.

    Raises:
        InputError: the policy is unknown; a vector has another width; or there is a bad row and the policy is
            `error`; or there is no good row.
    """
    check_policy(policy)
    problems = _find_problems(rows, column, width)
    bad = [number for number, problem in enumerate(problems) if problem]
    if not bad:
        return rows, 0
    lines = [{"row": number, "path": None, "problem": problems[number]} for number in bad]
    report = write_bad_rows(lines, output_dir)
    if policy == "error" or len(bad) == len(rows):
        raise InputError(
            f"image_embeds_column {column!r}: {len(bad)} of {len(rows)} rows have no vector to train on, row "
            f"{bad[0]} first: {problems[bad[0]]}. All are in {report}"
        )
    good = [number for number, problem in enumerate(problems) if not problem]
    return rows.select(good), len(bad)


def _find_problems(rows: Dataset, column: str, width: int) -> list[str]:
    """Return the problem of each row's vector, an empty string for a good one.

    Raises:
        InputError: a vector has another width, and so is of another model.
    """
    problems = []
    for vectors in StoredColumn(rows, column).slices(_SLICE_ROWS):
        lengths = np.asarray(pc.fill_null(pc.list_value_length(vectors), 0))
        others = np.flatnonzero((lengths != 0) & (lengths != width))
        if len(others):
            raise _of_another_width(column, len(problems) + others[0], lengths[others[0]], width)
        of_slice = np.where(lengths == 0, "there is no vector", "").astype(object)
        present = np.flatnonzero(lengths)
        values = _values_of(vectors.take(pa.array(present)), width)
        of_slice[present[(values == 0).all(axis=1)]] = "all values are zero"
        of_slice[present[~np.isfinite(values).all(axis=1)]] = "a value is not finite"
        problems += of_slice.tolist()
    return problems


def check_first_vectors(rows: list[dict], column: str, width: int) -> None:
    """Check the width of the vectors of a dataset's first rows.

    Raises:
        InputError: one has another.
    """
    for number, row in enumerate(rows):
        vector = row[column]
        if vector and len(vector) != width:
            raise _of_another_width(column, number, len(vector), width)


def _of_another_width(column: str, row: int, found: int, needed: int) -> InputError:
    """Return the error of a vector that is of another model."""
    return InputError(
        f"image_embeds_column {column!r}: row {row} has a vector of {found} values, and the model's "
        f"embeddings have {needed}: give vectors of the space that the model was made for"
    )


def _digests_of(rows: Dataset, column: str) -> list[str]:
    """Return the XXH3-128 of each row's vector, by which rows of one vector are known."""
    digests = []
    for vectors in StoredColumn(rows, column).slices(_SLICE_ROWS):
        width = len(pc.list_flatten(vectors)) // len(vectors)
        digests += [xxh3_128_hexdigest(vector.tobytes()) for vector in _values_of(vectors, width)]
    return digests


__all__ = [
    "StoredVectors",
    "check_first_vectors",
    "check_vector_column",
    "keep_vectors",
    "load_vector_examples",
    "refuse_vectors",
]
