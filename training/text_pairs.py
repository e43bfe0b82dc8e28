"""Train on translation pairs beside images: a sentence chooses its translation among those of its batch.

MURAL (Jain et al. 2021, arXiv 2109.05125) trains a dual encoder on two tasks at once, and adds a contrastive
loss of a sentence and its translation to that of images and texts. Languages with few or no captions then
learn from parallel text, of which there is more.
"""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset

from common.errors import InputError
from common.languages import check_languages

from .arguments import ContrastiveArguments, say
from .data.examples import caption_slices, has_text, split_lists
from .data.parallel_text import read_parallel_text
from .data.stored_columns import StoredCaptions, StoredColumn, hash_texts
from .output_folder import record_sources


class _DrawnPairs(NamedTuple):
    """Translation pairs of one process, for one part of a step.

    - `first`, `second`: the texts of each pair, in two different languages.
    - `ids`: int64 `(pairs of all processes,)`, equal where pairs share a text, so that the texts of one are
      translations of the other's.
    """

    first: list[str]
    second: list[str]
    ids: torch.Tensor


class TextPairs:
    """Rows of parallel text of which pairs in two different languages are drawn.

    The texts stay where `datasets` stores them; memory holds 16 bytes of each. Of several texts that a row
    has in one language, the first counts.

    Args:
        rows: of `captions`, and of `weight` where some are drawn more often, as `read_parallel_text` returns
            them.
        languages: two or more of the languages of `captions`.
        seed: of what is drawn at each step.

    Attributes:
        n_rows: the number of rows that have a text in two of the languages.
        n_set_aside: the number of other rows. A text that is blank counts as missing.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> from training.text_pairs import TextPairs

    >>> captions = [{"en": "a dog", "zh": "狗"}, {"en": "a cat", "zh": "猫"}, {"en": "a fox", "zh": " "}]
    >>> pairs = TextPairs(Dataset.from_dict({"captions": captions}), ["en", "zh"], seed=0)
    >>> pairs.n_rows, pairs.n_set_aside
    (2, 1)
    >>> drawn = pairs.draw(2, step=0)
    >>> sorted(drawn.first + drawn.second)
    ['a cat', 'a dog', '猫', '狗']
    ```
    """

    def __init__(self, rows: Dataset, languages: list[str], seed: int):
        self.languages = languages
        self.seed = seed
        self._captions = StoredCaptions(rows)
        self._places, self._hashes = self._find_texts(rows)

        # A row's texts stand side by side: where they start, and how many there are.
        rows_with_pairs, self._starts, self._counts = np.unique(
            self._places[:, 0], return_index=True, return_counts=True
        )
        self.n_rows = len(rows_with_pairs)
        self.n_set_aside = len(rows) - self.n_rows
        self._cumulative = None
        if "weight" in rows.column_names:
            slices = StoredColumn(rows, "weight").slices()
            weights = np.concatenate([np.empty(0), *(np.asarray(part.to_pylist()) for part in slices)])
            self._cumulative = np.cumsum(weights[rows_with_pairs])

    def _find_texts(self, rows: Dataset) -> tuple[np.ndarray, np.ndarray]:
        """Find the texts of the rows that have two or more.

        Returns:
            The row and the number of the language of each text, int32 `(texts, 2)`, and its hash, uint64
            `(texts,)`. In one batch no two different texts have one hash of 64 bits by chance.
        """
        places = [np.empty((0, 2), np.int32)]
        hashes = [np.empty(0, np.uint64)]
        start = 0
        for captions in caption_slices(rows):
            texts = [split_lists(captions[language], 1)[0] for language in self.languages]
            present = np.stack([has_text(of_language) for of_language in texts], axis=1)
            has_pair = present.sum(axis=1) >= 2
            of_slice = np.argwhere(present & has_pair[:, None])
            places.append((of_slice + [start, 0]).astype(np.int32))

            # The languages are joined: of 100 rows, the text of row 7 in language 2 is at 207.
            numbers = of_slice[:, 1] * len(present) + of_slice[:, 0]
            hashes.append(hash_texts(pa.concat_arrays(texts).take(pa.array(numbers)))[:, 0])
            start += len(present)
        return np.concatenate(places), np.concatenate(hashes)

    def draw(
        self, n_pairs: int, step: int, part: int = 0, *, process: int = 0, n_processes: int = 1
    ) -> _DrawnPairs:
        """Draw `n_pairs` pairs for each of `n_processes`, and return those of one.

        All processes draw the same for all, and each takes a share of its own: two processes with 8 pairs
        have together what one with 16 has. After a resume the same step draws the same ones again.

        Args:
            step: number of the step.
            part: of the step, where it accumulates gradients of several batches.
        """
        random = np.random.default_rng((self.seed, step, part))
        rows = self._choose_rows(random, n_pairs * n_processes)

        # Two different texts of each row. Of four, for example, the second is one to three after the first,
        # in a circle.
        counts = self._counts[rows]
        first = np.floor(random.random(len(rows)) * counts).astype(np.int64)
        further = 1 + np.floor(random.random(len(rows)) * (counts - 1)).astype(np.int64)
        second = (first + further) % counts
        pairs = self._starts[rows][:, None] + np.stack([first, second], axis=1)

        own = pairs[n_pairs * process : n_pairs * (process + 1)]
        ids = number_pairs(self._hashes[pairs])
        return _DrawnPairs(self._read(own[:, 0]), self._read(own[:, 1]), torch.from_numpy(ids))

    def _choose_rows(self, random: np.random.Generator, n_rows: int) -> np.ndarray:
        """Choose rows that have pairs: different ones, but where they have weights."""
        if self._cumulative is None:
            return random.choice(self.n_rows, n_rows, replace=False)
        # A row of a large weight may come twice in a batch: equal texts are positives of one another.
        drawn = random.random(n_rows) * self._cumulative[-1]
        return np.searchsorted(self._cumulative, drawn, side="right")

    def _read(self, numbers: np.ndarray) -> list[str]:
        rows, languages = self._places[numbers].T
        names = [self.languages[language] for language in languages]
        texts = []
        for of_row in self._captions.read(rows, names):
            texts.append(of_row if isinstance(of_row, str) else of_row[0])
        return texts


def number_pairs(texts: np.ndarray) -> np.ndarray:
    """Number pairs of texts, so that two have one number if a chain of pairs with equal texts connects them.

    Without it, a sentence that is the first of one pair and the second of another would be pushed away from
    itself.

    Args:
        texts: a number for each text `(pairs, 2)`; equal texts have equal numbers, whichever their language.

    Returns:
        int64 `(pairs,)`: the number of the first pair of each group.

    Example:

    ```python
    >>> import numpy as np
    >>> from training.text_pairs import number_pairs

    >>> number_pairs(np.array([[7, 1], [8, 2], [3, 7], [5, 6], [3, 9]]))
    array([0, 1, 0, 3, 0])
    ```
    """
    distinct, numbers = np.unique(texts, return_inverse=True)
    numbers = numbers.reshape(texts.shape)
    ids = np.arange(len(texts))
    while True:
        # A text takes the lowest number of its pairs, and then a pair that of its texts.
        lowest = np.full(len(distinct), len(texts))
        np.minimum.at(lowest, numbers, ids[:, None])
        joined = lowest[numbers].min(axis=1)
        if (joined == ids).all():
            return ids
        ids = joined


def load_text_pairs(arguments: ContrastiveArguments) -> TextPairs | None:
    """Read the translation pairs of `text_pairs_dataset`, and print how many rows have one.

    Returns:
        None if the recipe's `text_pairs_weight` is 0.

    Raises:
        InputError: it cannot be read, has none of the languages, or has fewer rows than a step draws.
    """
    if arguments.text_pairs_weight == 0:
        return None
    text = read_parallel_text(
        arguments.text_pairs_dataset,
        arguments.text_pairs_split,
        languages=arguments.text_pairs_languages,
    )
    record_sources(arguments, text.origins)
    languages = check_languages(arguments.text_pairs_languages, list(text.rows.features["captions"]))
    if len(languages) < 2:
        raise InputError(
            f"text_pairs_dataset {arguments.text_pairs_dataset!r} is read in {' '.join(languages)} alone, "
            "and a pair is of two languages: give others by text_pairs_languages, or give other data"
        )
    pairs = TextPairs(text.rows, languages, arguments.seed)
    say(
        arguments,
        f"Translation pairs: {pairs.n_rows} rows in two or more of {' '.join(languages)}; set aside "
        f"{pairs.n_set_aside} with a text in one or none of these. {text.describe_skipped()}",
    )
    n_drawn = arguments.text_pairs_batch_size * arguments.world_size
    if pairs.n_rows < n_drawn:
        raise InputError(
            f"text_pairs_dataset {arguments.text_pairs_dataset!r} has {pairs.n_rows} rows with a pair, and a "
            f"step draws {n_drawn}, text_pairs_batch_size in each process: give more texts, or a lower "
            "text_pairs_batch_size"
        )
    return pairs


def text_pairs_scale(arguments: ContrastiveArguments, logit_scale: torch.Tensor) -> torch.Tensor:
    """Return what cosines of translation pairs are multiplied by, a scalar without a gradient.

    It is the inverse of `text_pairs_temperature`, or else the scale that the model compares images and texts
    with. The pairs do not train that one: cosines of two texts are far above those of an image and a text.

    Args:
        logit_scale: the logarithm of the model's scale.
    """
    if arguments.text_pairs_temperature is None:
        return logit_scale.detach().exp()
    return torch.full_like(logit_scale, 1 / arguments.text_pairs_temperature, requires_grad=False)


__all__ = ["TextPairs", "load_text_pairs", "number_pairs", "text_pairs_scale"]
