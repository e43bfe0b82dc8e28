"""Captioned rows to training batches.

A dataset's rows have `captions`, `{language: [text, ...]}`, and what the captions describe: an `image`, or
embeddings that a frozen tower made of it. One example is a row in one of its languages. On parallel
text of two languages this is the paper's recipe, in which every sentence is seen once in English and once in
the other language.

    rows      {"captions": {"en": ["a dog"], "zh": ["狗"]}, "image": picture}
    examples  {"text": "a dog", "row_id": 0, "image": picture}, {"text": "狗", "row_id": 0, "image": picture}
    a batch   input_ids, attention_mask (distinct texts, tokens); text_rows, row_ids (examples,); pixel_values
"""

from collections.abc import Iterator, Sequence
from copy import copy

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset
from PIL import Image
from torch.utils.data import Dataset as TorchDataset
from transformers import CLIPImageProcessor, PreTrainedTokenizerBase, SiglipImageProcessor, ViTImageProcessor
from transformers.image_processing_utils import BaseImageProcessor
from xxhash import xxh3_128

from common.embedding_cache import CachedColumn, fingerprint
from common.errors import InputError
from modeling_altclip.images_altclip import background_of, read_images
from modeling_altclip.texts_altclip import tokenize

from .captions import as_lists
from .images import ImageViews
from .stored_columns import SLICE_ROWS, StoredCaptions, StoredColumn, first_equal, hash_texts

# They resize, crop, scale and normalise, and no more: others zoom in before they crop, or normalise twice.
_PLAIN_PROCESSORS = (CLIPImageProcessor, SiglipImageProcessor, ViTImageProcessor)
_SHOWN = r"[^\s\pZ\p{Cc}\p{Cf}]"  # a character that is neither white space nor without width
SAMPLE = 1000  # texts per language from which the number of tokens per character is estimated
_LONGEST_SAMPLE = 10_000  # characters of such a text


def caption_columns(rows: Dataset) -> dict[str, pa.Array]:
    """Return the captions of all rows by language, as lists of texts.

    The texts are large strings, because more than 2 GB of text in one language fit no others.
    """
    captions = rows.with_format("arrow")["captions"][:].combine_chunks()
    return _columns_of(captions, list(rows.features["captions"]))


def caption_slices(rows: Dataset, n_rows: int = SLICE_ROWS) -> Iterator[dict[str, pa.Array]]:
    """Yield the captions of consecutive rows as `caption_columns` returns those of all.

    No more than `n_rows` rows are in memory at once.
    """
    languages = list(rows.features["captions"])
    for captions in StoredColumn(rows, "captions").slices(n_rows):
        yield _columns_of(captions, languages)


def _columns_of(captions: pa.Array, languages: list[str]) -> dict[str, pa.Array]:
    columns = {}
    for language in languages:
        texts = as_lists(pc.struct_field(captions, language))
        columns[language] = texts.cast(pa.large_list(pa.large_string()))
    return columns


def split_lists(texts: pa.Array, n_texts: int | None = None) -> list[pa.Array]:
    """Split a language's lists into a column of each row's first text, one of each second text, and so on.

    `[["a", "b"], ["c"]]` -> `["a", "c"], ["b", None]`

    Args:
        n_texts: number of columns to make. By default the texts of the row that has most.
    """
    if n_texts is None:
        n_texts = pc.max(pc.list_value_length(texts)).as_py() or 1
    padded = pc.list_slice(texts, 0, n_texts, return_fixed_size_list=True)
    return [pc.list_element(padded, number) for number in range(n_texts)]


def all_texts(rows: Dataset, languages: list[str]) -> Iterator[str]:
    """Yield all texts in the given languages."""
    captions = caption_columns(rows)
    for language in languages:
        for texts in split_lists(captions[language]):
            for text in texts.to_pylist():
                if text:
                    yield text


def fingerprint_captions(languages: Sequence[str], texts: Sequence[pa.Array]) -> dict[str, str]:
    """Identify all captions by language: `{"captions in en": 32 hexadecimal digits, ...}`.

    Args:
        languages: that of each column of `texts`, as in `["en", "en", "zh"]`.
        texts: columns as `split_lists` returns them.
    """
    return _by_language(languages, [fingerprint(pc.fill_null(column, "")) for column in texts])


def _by_language(languages: Sequence[str], prints: Sequence[str]) -> dict[str, str]:
    """Return one fingerprint of each language, from those of its columns."""
    of_languages = {}
    for language, of_column in zip(languages, prints):
        of_languages.setdefault(f"captions in {language}", []).append(of_column)
    return {name: fingerprint(" ".join(of_columns)) for name, of_columns in of_languages.items()}


def has_text(texts: pa.Array) -> np.ndarray:
    """Return a mask of the texts that are present and not blank, as `is_blank` defines it."""
    return np.asarray(pc.fill_null(pc.match_substring_regex(texts, _SHOWN), False))


def _join(row_ids: np.ndarray, others: Sequence) -> np.ndarray:
    """Renumber rows: two are equal if a chain of equal `row_ids` or equal `others` connects them.

    In each round a row takes the lowest number of its group in `others`, then of its group in `row_ids`:

        row_ids 0 1 1 2, others p p q r  ->  0 0 1 2 by `others`  ->  0 0 0 2 by `row_ids`, which is stable
    """
    joined = pd.Series(row_ids)
    while True:
        lowest = joined.groupby(others).transform("min").groupby(row_ids).transform("min")
        if (lowest == joined).all():
            return joined.to_numpy()
        joined = lowest


def _english_of(captions: dict[str, pa.Array]) -> pa.Array:
    """Return the first English caption of each row."""
    return split_lists(captions["en"], 1)[0]


def _hash_cells(columns: list[pa.Array], chosen: np.ndarray) -> np.ndarray:
    """Return the hashes of the chosen texts of a slice, row by row.

    Args:
        chosen: mask `(rows, columns)` of texts that are there.
    """
    hashes = np.empty((*chosen.shape, 2), np.uint64)
    for number, texts in enumerate(columns):
        of_column = chosen[:, number]
        hashes[of_column, number] = hash_texts(texts.filter(pa.array(of_column)))
    return hashes[chosen]


def _tokens_per_character(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> float:
    """Return the tokens of texts for each of their characters; without texts those of a space."""
    texts = texts or [" "]
    encoded = tokenize(tokenizer, texts, add_special_tokens=False)["input_ids"]
    return sum(map(len, encoded)) / sum(map(len, texts))


class CaptionExamples(TorchDataset):
    """Dataset of every (row, language) pair that has a text.

    An example is `{"text", "row_id", column: the row's value in it}`.

    `row_id` is equal for rows that show the same thing: rows of one picture, and rows whose English captions
    are equal. A row without English is compared by its caption in the first of `languages` that it has.

    `skipped` counts the skipped examples by reason: examples without text, and with `sift` more. `weights`
    `(examples,)` are the weights of the rows, if they have any. `places` `(examples, 2)` are the row and the
    column of each example.

    Texts stay in the dataset, on the disk as a rule, and are read by slices of rows. In memory are numbers
    alone, about 30 bytes of an example, and 50 while it is built. Captions are therefore compared by
    hashes, as `hash_texts` describes.

    Args:
        rows: have `captions`, `{language: text}` or `{language: texts}`.
        languages: languages to make examples of.
        column: what goes with a text: `image`, or a column of embeddings.
        inputs: gives `{column: values}` for a list of row numbers. By default `rows`, which then have the
            column.
        held: languages whose texts have values of their own, given in the same way as `inputs`.
        same: a value per row that is equal where rows have one picture, such as the picture's digest.
        sift: for parallel text: skip texts that are too long or were left in English, and deduplicate equal
            pairs.
        max_characters: length above which `sift` skips a text.

    Raises:
        KeyError: the rows have no captions in one of the languages.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> from training import CaptionExamples

    >>> captions = [{"en": "a dog", "zh": "狗"}, {"en": "a cat", "zh": None}]
    >>> rows = Dataset.from_dict({"captions": captions, "target": [[0.0, 1.0], [1.0, 0.0]]})
    >>> examples = CaptionExamples(rows, ["en", "zh"], "target")
    >>> [example["text"] for example in examples]
    ['a dog', '狗', 'a cat']
    >>> examples.skipped
    {'empty': 1}
    ```
    """

    def __init__(  # noqa: PLR0913  (its options are public, all but the first three by keyword)
        self,
        rows: Dataset,
        languages: list[str],
        column: str,
        *,
        inputs: CachedColumn | ImageViews | None = None,
        held: dict[str, CachedColumn] | None = None,
        same: Sequence | None = None,
        sift: bool = False,
        max_characters: int = 1000,
    ):
        self.languages = languages
        self.column = column
        self.held = held or {}
        if inputs is None:
            inputs = rows.select_columns([column]).with_format(None if column == "image" else "numpy")
        self.inputs = inputs
        self.texts = None

        self._captions = StoredCaptions(rows)
        self.captions = self._captions.rows
        self._has_english = "en" in rows.features["captions"]
        self.row_ids, self._n_texts = self._number_rows()
        self.same = same
        if same is not None:
            self.row_ids = _join(self.row_ids, same)

        # `places` below index these columns. A language with several captions a row has several of them:
        # {"en": ["a", "b"], "zh": "c"} -> columns ["en", "en", "zh"], and 0 1 0 among those of their language
        self.columns = []
        self._numbers = []
        for language in languages:
            n_texts = self._n_texts[language]
            self.columns += [language] * n_texts
            self._numbers += range(n_texts)

        self.skipped, self.places = self._find_examples(max_characters if sift else None)
        self.weights = None
        if "weight" in rows.column_names:
            slices = StoredColumn(rows, "weight").slices()
            weights = np.concatenate([np.empty(0), *(np.asarray(part.to_pylist()) for part in slices)])
            self.weights = weights[self.places[:, 0]]

    def _slices(self) -> Iterator[dict[str, pa.Array]]:
        """Yield the captions of consecutive rows by language, as `caption_slices` does."""
        return caption_slices(self.captions)

    def _split(self, captions: dict[str, pa.Array]) -> list[pa.Array]:
        """Return the columns of a slice of rows: of each row's texts those that `columns` names."""
        texts = []
        for language in self.languages:
            texts += split_lists(captions[language], self._n_texts[language])
        return texts

    def _number_rows(self) -> tuple[np.ndarray, dict[str, int]]:
        """Return a number per row, and the most texts that a row has in each language.

        The number is equal where rows have the same reference caption, the English one, or the first caption
        that is not blank; it is that of the first such row: `["a", "b", "a"]` -> `[0, 1, 0]`. Rows without
        any caption are not alike.
        """
        captioned = []
        hashes = []
        n_texts = dict.fromkeys(self.languages, 1)
        for captions in self._slices():
            candidates = [_english_of(captions)] if self._has_english else []
            for language in self.languages:
                texts = split_lists(captions[language])
                n_texts[language] = max(n_texts[language], len(texts))
                candidates += texts
            without_blanks = [
                pc.if_else(has_text(texts), texts, pa.scalar(None, texts.type)) for texts in candidates
            ]
            reference = pc.coalesce(*without_blanks)
            captioned.append(np.asarray(reference.is_valid()))
            hashes.append(hash_texts(reference.drop_null()))

        numbers = np.arange(len(self._captions))
        with_caption = numbers[np.concatenate([np.empty(0, bool), *captioned])]
        of_references = np.concatenate([np.empty((0, 2), np.uint64), *hashes])
        numbers[with_caption] = with_caption[first_equal(*of_references.T)]
        return numbers, n_texts

    def _find_examples(self, max_characters: int | None) -> tuple[dict[str, int], np.ndarray]:
        """Return how many examples are skipped by reason, and the places of the others.

        Args:
            max_characters: length above which a text is skipped. `None` does not sift.
        """
        skipped = {"empty": 0}
        # Only a row that is like another can have a text that comes again.
        is_like_another = np.bincount(self.row_ids)[self.row_ids] > 1
        places = [np.empty((0, 2), np.int32)]
        kept_of_places = [np.empty(0, bool)]
        hashes = [np.empty((0, 2), np.uint64)]
        start = 0
        for captions in self._slices():
            columns = self._split(captions)
            present = np.stack([has_text(texts) for texts in columns], axis=1)
            skipped["empty"] += self._count_empty(present)
            kept = present.copy()
            if max_characters is not None:
                for reason, refused in self._find_refused(captions, columns, max_characters):
                    skipped[reason] = skipped.get(reason, 0) + int((kept & refused).sum())
                    kept &= ~refused
                of_rows = is_like_another[start : start + len(present)]
                hashes.append(_hash_cells(columns, present & of_rows[:, None]))
            of_slice = np.argwhere(present)
            places.append((of_slice + [start, 0]).astype(np.int32))
            kept_of_places.append(kept[present])
            start += len(present)

        places = np.concatenate(places)
        is_kept = np.concatenate(kept_of_places)
        if max_characters is not None:
            hashed = np.flatnonzero(is_like_another[places[:, 0]])
            rows, columns = places[hashed].T
            firsts = first_equal(columns, self.row_ids[rows], *np.concatenate(hashes).T)
            repeated = hashed[firsts != np.arange(len(firsts))]
            skipped["repeated"] = int(is_kept[repeated].sum())
            is_kept[repeated] = False
        return skipped, places[is_kept]

    def _count_empty(self, present: np.ndarray) -> int:
        """Count rows without text by language.

        A row with fewer captions than others is not missing any: only each language's first column counts.
        """
        firsts = [self.columns.index(language) for language in self.languages]
        return int((~present[:, firsts]).sum())

    def _find_refused(
        self, captions: dict[str, pa.Array], columns: list[pa.Array], max_characters: int
    ) -> Iterator[tuple[str, np.ndarray]]:
        """Yield each reason to skip examples of a slice with its mask `(rows, columns)`.

        An example counts under its first reason.
        """

        def stack(masks: list[pa.Array]) -> np.ndarray:
            return np.stack([np.asarray(pc.fill_null(mask, False)) for mask in masks], axis=1)

        yield "too long", stack([pc.greater(pc.utf8_length(texts), max_characters) for texts in columns])

        if self._has_english:
            english = pc.utf8_trim_whitespace(_english_of(captions))
            untranslated = []
            for language, texts in zip(self.columns, columns):
                same = pc.equal(pc.utf8_trim_whitespace(texts), english)
                untranslated.append(pc.and_(same, language != "en"))
            yield "left in English", stack(untranslated)

    def __len__(self) -> int:
        return len(self.places)

    def with_inputs(self, column: str, inputs: CachedColumn) -> "CaptionExamples":
        """Return the same examples with another column, and its inputs, beside the texts."""
        examples = copy(self)
        examples.column = column
        examples.inputs = inputs
        return examples

    def text_slices(self) -> Iterator[pa.Array]:
        """Yield the texts of all examples in their order, those of some consecutive rows at a time."""
        rows, columns = self.places.T
        start = 0
        for captions in self._slices():
            texts = self._split(captions)
            n_rows = len(texts[0])
            # The examples of the slice: places are sorted by row.
            first, last = np.searchsorted(rows, [start, start + n_rows])
            # The columns are joined: of 100 rows, the text of row 7 in column 2 is at 207.
            numbers = columns[first:last] * n_rows + rows[first:last] - start
            yield pa.concat_arrays(texts).take(pa.array(numbers))
            start += n_rows

    def with_texts(self, texts: CachedColumn) -> "CaptionExamples":
        """Return the same examples with the cached embeddings of their texts in place of the texts.

        An example is then `{texts.name: the embedding, "text_id", "row_id", column: the row's value in it}`,
        for `CachedCollator`. Equal texts have equal `text_id`. No text is read.

        Args:
            texts: a row for each example, as of `TextOfExamples`.
        """
        examples = copy(self)
        examples.texts = texts
        return examples

    def lengths(self, tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
        """Estimate how many tokens each example's text has, `(examples,)`.

        The estimate is the text's characters times its language's tokens per character.

        Characters alone would not do: one of Chinese has as many tokens as two or three of English.
        """
        samples = [[] for _ in self.columns]
        of_slices = [np.empty(0, np.int64)]
        rows, columns = self.places.T
        start = 0
        for captions in self._slices():
            n_characters = []
            for sample, texts in zip(samples, self._split(captions)):
                # Where sources are concatenated, the first rows may have no text in this language.
                present = np.flatnonzero(has_text(texts))[: SAMPLE - len(sample)]
                sample += [text[:_LONGEST_SAMPLE] for text in texts.take(pa.array(present)).to_pylist()]
                n_characters.append(np.asarray(pc.fill_null(pc.utf8_length(texts), 0)))
            n_characters = np.stack(n_characters, axis=1)

            # The examples of the slice: places are sorted by row.
            first, last = np.searchsorted(rows, [start, start + len(n_characters)])
            of_slices.append(n_characters[rows[first:last] - start, columns[first:last]])
            start += len(n_characters)

        tokens_per_character = np.array([_tokens_per_character(tokenizer, sample) for sample in samples])
        return np.concatenate(of_slices) * tokens_per_character[columns]

    def check_any(self, dataset: str) -> None:
        """Check, before anything is made of them, that there are examples.

        Raises:
            InputError: no row has a text that can be trained on.
        """
        if not len(self):
            raise InputError(
                f"dataset {dataset!r} has no text in {' '.join(dict.fromkeys(self.columns))} to train on, "
                f"{self.summary()}: name other languages, or give other data"
            )

    def fingerprints(self) -> dict[str, str]:
        """Identify what a training reads: captions by language, images by `same`, and weights of rows.

        Returns:
            `{"captions in en": 32 hexadecimal digits, "images": ...}`. Equal in all processes; nothing is
            decoded.
        """
        prints = self._fingerprint_captions()
        if self.same is not None:
            prints["images"] = fingerprint(" ".join(map(str, self.same)))
        if self.weights is not None:
            prints["weights of rows"] = fingerprint(torch.from_numpy(self.weights))
        return prints

    def _fingerprint_captions(self) -> dict[str, str]:
        """Return what `fingerprint_captions` does, of slices."""
        languages = list(self.columns)
        if self._has_english and "en" not in languages:
            languages.append("en")  # which the teacher reads
        digests = [xxh3_128() for _ in languages]

        def columns_of_slices() -> Iterator[list[pa.Array]]:
            for captions in self._slices():
                columns = self._split(captions)
                if len(languages) > len(columns):
                    columns.append(_english_of(captions))
                yield [pc.fill_null(texts, "") for texts in columns]

        # As `fingerprint` does: the lengths of all texts come first, and then the texts.
        for columns in columns_of_slices():
            for digest, texts in zip(digests, columns):
                digest.update(np.asarray(pc.binary_length(texts)))
        for columns in columns_of_slices():
            for digest, texts in zip(digests, columns):
                digest.update("".join(texts.to_pylist()).encode())
        return _by_language(languages, [digest.hexdigest() for digest in digests])

    def read_texts(self, rows: Sequence[int], columns: Sequence[int]) -> list[str]:
        """Read texts where they are stored: of each row that in one of `columns`."""
        languages = [self.columns[column] for column in columns]
        texts = []
        for column, of_row in zip(columns, self._captions.read(rows, languages)):
            # A user's own rows may have one text a language, and no list.
            is_alone = isinstance(of_row, str)
            texts.append(of_row if is_alone else of_row[self._numbers[column]])
        return texts

    def summary(self) -> str:
        skipped = ", ".join(f"{count} {reason}" for reason, count in self.skipped.items() if count)
        return f"{len(self)} examples from {len(self.row_ids)} rows; skipped: {skipped or 'none'}"

    def __getitem__(self, index: int) -> dict:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict]:
        """Read a whole batch at once, so that `datasets` decodes its rows together."""
        rows, columns = self.places[indices].T.tolist()
        values = self.inputs[rows][self.column]
        for language, inputs in self.held.items():
            # The batch's texts in this language get values of their own instead.
            positions = [
                position for position, column in enumerate(columns) if self.columns[column] == language
            ]
            values[positions] = inputs[[rows[position] for position in positions]][self.column]

        if self.texts is None:
            texts = [{"text": text} for text in self.read_texts(rows, columns)]
        else:
            texts = self._read_cached_texts(indices)
        examples = []
        for row, text, value in zip(rows, texts, values):
            examples.append(text | {"row_id": int(self.row_ids[row]), self.column: value})
        return examples

    def _read_cached_texts(self, indices: list[int]) -> list[dict]:
        """Read the embeddings of the examples' texts, with a number that equal texts share."""
        name = self.texts.name
        embeddings = self.texts[indices][name]
        text_ids = self.texts.item_of_row[indices].tolist()
        return [{name: values, "text_id": text_id} for values, text_id in zip(embeddings, text_ids)]


class TextOfExamples:
    """The text of each example, read as it is needed.

    It is the `RowKeys` of the cache.
    """

    def __init__(self, examples: CaptionExamples):
        self._examples = examples

    def __len__(self) -> int:
        return len(self._examples)

    def take(self, rows: np.ndarray) -> pa.Array:
        places = self._examples.places[rows].T.tolist()
        return pa.array(self._examples.read_texts(*places), pa.large_string())

    def slices(self) -> Iterator[pa.Array]:
        return self._examples.text_slices()


class Collator:
    """Collator of the examples of `CaptionExamples` into a batch of tensors.

    Texts are padded to the longest and truncated to `max_length` tokens, and images go through
    `image_processor`. With `padding="max_length"` all are padded to `max_length`, and the mask is of ones, as
    SigLIP was trained: it attends to padding, and pools the last token.

    Equal texts are encoded once: `input_ids` and `attention_mask` `(distinct texts, tokens)` hold each of
    them once, and `text_rows` `(examples,)` gives the place of an example's text among them. Beside them:
    `row_ids` `(examples,)`, and all that the image processor returns or the column of embeddings. Most image
    processors return `pixel_values` `(examples, channels, height, width)` alone. That of SigLIP 2 NaFlex,
    whose images have patches of their own number, pads these: `pixel_values` `(examples, patches, values)`,
    `pixel_attention_mask` `(examples, patches)`, and `spatial_shapes` `(examples, 2)`.

        texts ["狗", "a dog", "狗"]  ->  input_ids of "a dog", "狗"; text_rows [1, 0, 1]

    Example:

    ```python
    >>> from datasets import load_dataset
    >>> from transformers import AutoProcessor
    >>> from training import CaptionExamples, Collator

    >>> processor = AutoProcessor.from_pretrained("outputs/miniature/altclip")
    >>> rows = load_dataset("outputs/miniature/dataset", split="validation")
    >>> examples = CaptionExamples(rows, ["en", "zh"], "image")
    >>> collator = Collator(processor.tokenizer, max_length=77, image_processor=processor.image_processor)
    >>> collator([examples[0], examples[1]])["pixel_values"].shape
    torch.Size([2, 3, 32, 32])
    ```
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        image_processor: BaseImageProcessor | None = None,
        *,
        padding: bool | str = True,
    ):
        self.tokenizer = tokenizer
        self.padding = padding
        self.max_length = max_length
        self.image_processor = image_processor

    def __call__(self, examples: list[dict]) -> dict[str, torch.Tensor]:
        return self.encode([example.pop("text") for example in examples]) | self.described(examples)

    def encode(self, texts: list[str]) -> dict[str, torch.Tensor]:
        """Tokenize each distinct text once."""
        distinct, text_rows = np.unique(texts, return_inverse=True)
        padding = {"padding": True, "padding_side": "right"}
        if self.padding == "max_length":
            padding = {"padding": "max_length"}  # on the side that the tokenizer states
        encoded = tokenize(
            self.tokenizer,
            distinct.tolist(),
            truncation=True,
            max_length=self.max_length,
            return_tensors="pt",
            return_attention_mask=True,
            **padding,
        )
        attention_mask = encoded["attention_mask"]
        if self.padding == "max_length":
            attention_mask = torch.ones_like(attention_mask)
        return {
            "input_ids": encoded["input_ids"],
            "attention_mask": attention_mask,
            "text_rows": torch.from_numpy(text_rows),
        }

    def described(self, examples: list[dict]) -> dict[str, torch.Tensor]:
        """Return what the texts describe: the row ids, and the images or the embeddings."""
        row_ids = torch.tensor([example.pop("row_id") for example in examples])
        (column,) = examples[0]  # all that is left
        values = [example[column] for example in examples]
        if column == "image":
            return {"row_ids": row_ids} | prepare_images(values, self.image_processor)
        return {"row_ids": row_ids, column: torch.from_numpy(np.stack(values))}


class CachedCollator:
    """Collator of examples whose image and text are cached embeddings: no tokenizer, no image processor.

    As with `Collator`, equal texts of a batch are there once: `text_pooler_output` `(distinct texts, width)`,
    and `text_rows` `(examples,)` gives the place of an example's text among them. Beside them:
    `image_pooler_output` `(examples, width)` and `row_ids` `(examples,)`.

    Example:

    ```python
    >>> import numpy as np
    >>> from training import CachedCollator

    >>> dog, cat = np.float32([[1, 0], [0, 1]])
    >>> examples = []
    >>> for row, (text_id, text) in enumerate([(7, dog), (3, cat), (7, dog)]):
    ...     example = {"text_pooler_output": text, "text_id": text_id, "image_pooler_output": dog}
    ...     examples.append(example | {"row_id": row})
    >>> batch = CachedCollator()(examples)
    >>> batch["text_pooler_output"].tolist(), batch["text_rows"].tolist()
    ([[0.0, 1.0], [1.0, 0.0]], [1, 0, 1])
    ```
    """

    def __call__(self, examples: list[dict]) -> dict[str, torch.Tensor]:
        # text_id [7, 3, 7] -> the first examples of 3 and 7 are 1 and 0; text_rows [1, 0, 1]
        text_ids = [example["text_id"] for example in examples]
        _, firsts, text_rows = np.unique(text_ids, return_index=True, return_inverse=True)
        texts = [examples[first]["text_pooler_output"] for first in firsts]
        images = [example["image_pooler_output"] for example in examples]
        return {
            "text_pooler_output": torch.from_numpy(np.stack(texts)),
            "text_rows": torch.from_numpy(text_rows),
            "row_ids": torch.tensor([example["row_id"] for example in examples]),
            "image_pooler_output": torch.from_numpy(np.stack(images)),
        }


def prepare_images(images: list[Image.Image], image_processor: BaseImageProcessor) -> dict[str, torch.Tensor]:
    """Process images, on the processor's background, to the inputs of an image tower.

    They are what the processor returns: see `Collator`. Where all have the size that it makes, so that only
    scaling and normalising is left, it is done for all at once: on 32-pixel images the processor took 2.4
    times as long.
    """
    images = read_images(images, background=background_of(image_processor))
    size = unchanged_size(image_processor)
    if size is None or any(image.size != size for image in images):
        return dict(image_processor(images=images, return_tensors="pt"))

    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2)
    mean = torch.tensor(image_processor.image_mean).view(-1, 1, 1)  # one for each channel, or one for all
    std = torch.tensor(image_processor.image_std).view(-1, 1, 1)
    return {"pixel_values": (pixels.float() * image_processor.rescale_factor - mean) / std}


def unchanged_size(image_processor: BaseImageProcessor) -> tuple[int, int] | None:
    """Return the width and height of images that a processor only scales and normalises, or None."""
    scales_and_normalizes = image_processor.do_rescale and image_processor.do_normalize
    if type(image_processor) not in _PLAIN_PROCESSORS or not scales_and_normalizes or image_processor.do_pad:
        return None

    sizes = set()
    if image_processor.do_resize:
        resized = image_processor.size
        if resized.get("longest_edge"):
            return None
        edge = resized.get("shortest_edge")
        sizes.add((edge, edge) if edge else (resized["width"], resized["height"]))
    if image_processor.do_center_crop:
        cropped = image_processor.crop_size
        sizes.add((cropped["width"], cropped["height"]))
    return sizes.pop() if len(sizes) == 1 else None
