"""Cosine similarity of translations and their English: a column of the output, and a reason to remove.

One process encodes, part by part, on the accelerator where there is one: the bytes of the output do not
depend on the number of processes.
"""

import numpy as np
from datasets import Dataset

from common.errors import InputError
from common.files.whole_files import written_whole

from ..text_similarity import TextEncoder, text_similarities
from .checking import column_of, open_checked
from .plan import Plan


def measure_part(plan: Plan, encoder: TextEncoder, number: int) -> None:
    """Write the similarities of one part's pairs, float32 `(pairs,)`; unless it is done already.

    Those of English alone are NaN.

    Raises:
        InputError: a part is damaged, the folder cannot be written, or an embedding is not finite.
    """
    path = plan.similarities_path(number)
    if path.exists():
        return
    table = open_checked(plan.checked_path(number))
    languages = column_of(table, "language").to_pylist()
    is_translated = np.array([language != "en" for language in languages], bool)
    english = column_of(table, "english").filter(is_translated).to_pylist()
    texts = column_of(table, "text").filter(is_translated).to_pylist()

    similarities = np.full(len(languages), np.nan, np.float32)
    similarities[is_translated] = text_similarities(encoder, english, texts)
    with written_whole(path) as file:
        np.save(file, similarities)


def keep_similar(rows: Dataset, least: float) -> Dataset:
    """Return cleaned rows without translations whose similarity is less than a threshold.

    So a threshold is moved without computing similarities again. Rows all of whose translations are removed
    go; rows of English alone stay.

    Args:
        rows: of `captions` and `similarity`, as a cleaning writes them with a
            `similarity_model_name_or_path`.
        least: from -1 to 1.

    Raises:
        InputError: the rows have no similarities.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> from training.cleaning.similarity import keep_similar

    >>> captions = [{"en": ["a dog"], "fr": ["un chien"]}, {"en": ["a cat"], "fr": ["hier"]}]
    >>> similarity = [{"fr": 0.9}, {"fr": 0.1}]
    >>> rows = Dataset.from_dict({"captions": captions, "similarity": similarity})
    >>> keep_similar(rows, 0.5)["captions"][:]
    [{'en': ['a dog'], 'fr': ['un chien']}]
    ```
    """
    if "similarity" not in rows.column_names:
        raise InputError(
            f"the rows have no column similarity, but {', '.join(rows.column_names)}: clean them with a "
            "similarity_model_name_or_path"
        )

    def remove(row: dict) -> dict:
        removed = {}
        for language, similarity in row["similarity"].items():
            if similarity is not None and similarity < least:
                removed[language] = []
        return {"captions": row["captions"] | removed}

    def is_kept(row: dict) -> bool:
        was_translated = any(similarity is not None for similarity in row["similarity"].values())
        is_translated = any(texts for language, texts in row["captions"].items() if language != "en")
        return is_translated or not was_translated

    return rows.map(remove).filter(is_kept)


__all__ = ["keep_similar", "measure_part"]
