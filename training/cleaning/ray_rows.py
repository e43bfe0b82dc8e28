"""The steps on single rows as callables for Ray Data, for text that outgrows one machine (extra `ray`).

Near-duplicates are not looked for: they need all rows, see `duplicates`.
"""

from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc

from .arguments import CleaningArguments
from .checks import RowChecker
from .tally import KEPT

_OUTCOMES = pa.list_(pa.struct([("language", pa.string()), ("outcome", pa.string())]))


class CleanRows:
    """Cleans batches of rows with a column for each language, as `run_clean.py` does.

    Ray makes one of these in each of its processes, which need this package.

    Args:
        arguments: the steps to take. Those on several rows, and what concerns files, are not read.
        languages: the columns with texts, English `en` among them. Other columns stay as they are.

    Raises:
        InputError, MissingExtra: as `RowChecker`.

    Example:

    ```python
    >>> import pyarrow as pa
    >>> from training.cleaning.arguments import CleaningArguments
    >>> from training.cleaning.ray_rows import CleanRows, count_outcomes, kept_rows

    >>> clean = CleanRows(CleaningArguments(dataset="", output_dir=""), ["en", "fr"])
    >>> rows = pa.table({"en": ["cats &amp; dogs", "a dog"], "fr": ["chats et chiens", "<b>"]})
    >>> cleaned = clean(rows)
    >>> kept_rows(cleaned).to_pylist()
    [{'en': 'cats & dogs', 'fr': 'chats et chiens'}]
    >>> count_outcomes(cleaned).to_pylist()[0]
    {'language': 'en', 'outcome': 'kept', 'texts': 1}
    ```

    On a cluster:

    ```python
    import ray

    rows = ray.data.read_parquet("corpus")
    arrow = {"batch_format": "pyarrow"}
    cleaned = rows.map_batches(
        CleanRows, fn_constructor_args=[arguments, ["en", "fr"]], concurrency=8, **arrow
    ).materialize()
    cleaned.map_batches(kept_rows, **arrow).write_parquet("cleaned")
    counts = cleaned.map_batches(count_outcomes, **arrow).groupby(["language", "outcome"]).sum("texts")
    ```
    """

    def __init__(self, arguments: CleaningArguments, languages: list[str]):
        self.languages = languages
        self.checker = RowChecker(arguments, languages)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return the rows with texts as the steps leave them, null where one is removed, and `outcomes`.

        Args:
            batch: strings or nulls in the columns of the languages.

        Returns:
            as many rows, in their order. `outcomes` is a list of `{language, outcome}`, one for each text;
            the outcome is "kept" or a reason.
        """
        texts = {language: [] for language in self.languages}
        outcomes = []
        for row in batch.select(self.languages).to_pylist():
            present = {language: text for language, text in row.items() if text is not None}
            checked = self.checker.check(present)
            for language in self.languages:
                texts[language].append(checked.kept.get(language))
            became = dict.fromkeys(checked.kept, KEPT) | checked.removed
            outcomes.append([{"language": name, "outcome": outcome} for name, outcome in became.items()])
        for language in self.languages:
            place = batch.schema.get_field_index(language)
            batch = batch.set_column(place, language, pa.array(texts[language], pa.string()))
        return batch.append_column("outcomes", pa.array(outcomes, _OUTCOMES))


def kept_rows(batch: pa.Table) -> pa.Table:
    """Return the rows that `CleanRows` leaves a text of, without the column `outcomes`."""
    return batch.filter(pc.is_valid(batch["en"])).drop_columns(["outcomes"])


def count_outcomes(batch: pa.Table) -> pa.Table:
    """Count the texts of a batch from `CleanRows`, as `counts.csv` does.

    Returns:
        `language`, `outcome` and `texts`, a number. The counts of all batches are still to be added up.
    """
    counts = Counter()
    for outcomes in batch["outcomes"].to_pylist():
        for text in outcomes:
            counts[text["language"], text["outcome"]] += 1
    rows = []
    for (language, outcome), n_texts in sorted(counts.items()):
        rows.append({"language": language, "outcome": outcome, "texts": n_texts})
    kind = pa.schema([("language", pa.string()), ("outcome", pa.string()), ("texts", pa.int64())])
    return pa.Table.from_pylist(rows, kind)


__all__ = ["CleanRows", "count_outcomes", "kept_rows"]
