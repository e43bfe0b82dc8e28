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

from common.embedding_cache import CachedColumn, fingerprint
from common.errors import InputError
from modeling_altclip.images_altclip import background_of, read_images
from modeling_altclip.texts_altclip import tokenize

from .captions import as_lists
from .images import ImageViews

# They resize, crop, scale and normalise, and no more: others zoom in before they crop, or normalise twice.
_PLAIN_PROCESSORS = (CLIPImageProcessor, SiglipImageProcessor, ViTImageProcessor)
_SHOWN = r"[^\s\pZ\p{Cc}\p{Cf}]"  # a character that is neither white space nor without width
SLICE_ROWS = 100_000  # rows whose captions `caption_slices` holds at once
SAMPLE = 1000  # texts per language from which the number of tokens per character is estimated
_LONGEST_SAMPLE = 10_000  # characters of such a text


def caption_columns(rows: Dataset) -> dict[str, pa.Array]:
    """Return the captions of all rows by language, as lists of texts.

    The texts are large strings, because more than 2 GB of text in one language fit no others.
    """
    return _columns_of(rows.with_format("arrow")["captions"][:], list(rows.features["captions"]))


def caption_slices(rows: Dataset, n_rows: int = SLICE_ROWS) -> Iterator[dict[str, pa.Array]]:
    """Yield the captions of consecutive rows as `caption_columns` returns those of all.

    No more than `n_rows` rows are in memory at once.
    """
    captions = rows.with_format("arrow")["captions"]
    languages = list(rows.features["captions"])
    for start in range(0, len(rows), n_rows):
        yield _columns_of(captions[start : start + n_rows], languages)


def _columns_of(captions: pa.ChunkedArray, languages: list[str]) -> dict[str, pa.Array]:
    captions = captions.combine_chunks()
    columns = {}
    for language in languages:
        texts = as_lists(pc.struct_field(captions, language))
        columns[language] = texts.cast(pa.large_list(pa.large_string()))
    return columns


def split_lists(texts: pa.Array) -> list[pa.Array]:
    """Split a language's lists into a column of each row's first text, one of each second text, and so on.

    `[["a", "b"], ["c"]]` -> `["a", "c"], ["b", None]`
    """
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
    of_columns = {}
    for language, column in zip(languages, texts):
        prints = of_columns.setdefault(f"captions in {language}", [])
        prints.append(fingerprint(pc.fill_null(column, "")))
    return {name: fingerprint(" ".join(prints)) for name, prints in of_columns.items()}


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


class CaptionExamples(TorchDataset):
    """Dataset of every (row, language) pair that has a text.

    An example is `{"text", "row_id", column: the row's value in it}`.

    `row_id` is equal for rows that show the same thing: rows of one picture, and rows whose English captions
    are equal. A row without English is compared by its caption in the first of `languages` that it has.

    `skipped` counts the skipped examples by reason: examples without text, and with `sift` more. `weights`
    `(examples,)` are the weights of the rows, if they have any.

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

        # `places` below index these columns. A language with several captions a row has several of them:
        # {"en": ["a", "b"], "zh": "c"} -> columns ["en", "en", "zh"], texts [["a"], ["b"], ["c"]]
        captions = caption_columns(rows)
        self.columns = []
        self.texts = []
        for language in languages:
            for texts in split_lists(captions[language]):
                self.columns.append(language)
                self.texts.append(texts)
        has_english = "en" in rows.features["captions"]
        self.english = split_lists(captions["en"])[0] if has_english else None

        self.row_ids = self._number_rows()
        self.same = same
        if same is not None:
            self.row_ids = _join(self.row_ids, same)

        # A row with fewer captions than others is not missing any: "empty" counts only each language's first
        # column.
        kept = np.stack([has_text(texts) for texts in self.texts], axis=1)
        firsts = [self.columns.index(language) for language in languages]
        self.skipped = {"empty": int((~kept[:, firsts]).sum())}
        if sift:
            for reason, refused in self._find_refused(max_characters):
                self.skipped[reason] = int((kept & refused).sum())
                kept &= ~refused

        self.places = np.argwhere(kept)  # (examples, 2): the row and the column of each
        self.weights = (
            np.asarray(rows["weight"])[self.places[:, 0]] if "weight" in rows.column_names else None
        )

    def _number_rows(self) -> np.ndarray:
        """Return a number per row that is equal where rows have the same reference caption.

        The reference is the English caption, or the first caption that is not blank: `["a", "b", "a"]` ->
        `[0, 1, 0]`.
        """
        candidates = self.texts if self.english is None else [self.english, *self.texts]
        without_blanks = [
            pc.if_else(has_text(texts), texts, pa.scalar(None, texts.type)) for texts in candidates
        ]
        reference = np.asarray(pc.fill_null(pc.coalesce(*without_blanks), ""))
        row_ids = np.unique(reference, return_inverse=True)[1]

        # Rows without any caption are not alike: each gets a number that no other row has.
        bare_rows = np.flatnonzero(reference == "")
        row_ids[bare_rows] = len(reference) + bare_rows
        return row_ids

    def _find_refused(self, max_characters: int) -> Iterator[tuple[str, np.ndarray]]:
        """Yield each reason to skip examples with its mask `(rows, columns)`.

        An example counts under its first reason.
        """

        def stack(masks: list[pa.Array]) -> np.ndarray:
            return np.stack([np.asarray(pc.fill_null(mask, False)) for mask in masks], axis=1)

        yield "too long", stack([pc.greater(pc.utf8_length(texts), max_characters) for texts in self.texts])

        if self.english is not None:
            english = pc.utf8_trim_whitespace(self.english)
            untranslated = []
            for language, texts in zip(self.columns, self.texts):
                same = pc.equal(pc.utf8_trim_whitespace(texts), english)
                untranslated.append(pc.and_(same, language != "en"))
            yield "left in English", stack(untranslated)

        repeated = []
        for texts in self.texts:
            pairs = pd.DataFrame({"row_id": self.row_ids, "text": np.asarray(texts)})
            repeated.append(pairs.duplicated().to_numpy())
        yield "repeated", np.stack(repeated, axis=1)

    def __len__(self) -> int:
        return len(self.places)

    def with_inputs(self, column: str, inputs: CachedColumn) -> "CaptionExamples":
        """Return the same examples with another column, and its inputs, beside the texts."""
        examples = copy(self)
        examples.column = column
        examples.inputs = inputs
        return examples

    def lengths(self, tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
        """Estimate how many tokens each example's text has, `(examples,)`.

        The estimate is the text's characters times its language's tokens per character.

        Characters alone would not do: one of Chinese has as many tokens as two or three of English.
        """
        of_columns = []
        for texts in self.texts:
            # Where sources are concatenated, the first rows may have no text in this language.
            present = np.flatnonzero(has_text(texts))[:SAMPLE]
            sample = texts.take(pa.array(present)).to_pylist() or [" "]
            sample = [text[:_LONGEST_SAMPLE] for text in sample]
            encoded = tokenize(tokenizer, sample, add_special_tokens=False)["input_ids"]
            n_tokens = sum(map(len, encoded))
            n_characters = sum(map(len, sample))

            characters = np.asarray(pc.fill_null(pc.utf8_length(texts), 0))
            of_columns.append(characters * (n_tokens / n_characters))
        rows, columns = self.places.T
        return np.stack(of_columns, axis=1)[rows, columns]

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
        prints = fingerprint_captions(self.columns, self.texts)
        if self.english is not None and "en" not in self.columns:
            prints |= fingerprint_captions(["en"], [self.english])  # which the teacher reads
        if self.same is not None:
            prints["images"] = fingerprint(" ".join(map(str, self.same)))
        if self.weights is not None:
            prints["weights of rows"] = fingerprint(torch.from_numpy(self.weights))
        return prints

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

        examples = []
        for row, column, value in zip(rows, columns, values):
            text = self.texts[column][row].as_py()
            examples.append({"text": text, "row_id": int(self.row_ids[row]), self.column: value})
        return examples


class Collator:
    """Collator of the examples of `CaptionExamples` into a batch of tensors.

    Texts are padded to the longest and truncated to `max_length` tokens, and images go through
    `image_processor`.

    Equal texts are encoded once: `input_ids` and `attention_mask` `(distinct texts, tokens)` hold each of
    them once, and `text_rows` `(examples,)` gives the place of an example's text among them. Beside them:
    `row_ids` `(examples,)`, and `pixel_values` `(examples, channels, height, width)` or the column of
    embeddings.

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
    ):
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.image_processor = image_processor

    def __call__(self, examples: list[dict]) -> dict[str, torch.Tensor]:
        return self.encode([example.pop("text") for example in examples]) | self.described(examples)

    def encode(self, texts: list[str]) -> dict[str, torch.Tensor]:
        """Tokenize each distinct text once."""
        distinct, text_rows = np.unique(texts, return_inverse=True)
        encoded = tokenize(
            self.tokenizer,
            distinct.tolist(),
            padding=True,
            padding_side="right",
            truncation=True,
            max_length=self.max_length,
            return_tensors="pt",
        )
        return {
            "input_ids": encoded["input_ids"],
            "attention_mask": encoded["attention_mask"],
            "text_rows": torch.from_numpy(text_rows),
        }

    def described(self, examples: list[dict]) -> dict[str, torch.Tensor]:
        """Return what the texts describe: the row ids, and the images or the embeddings."""
        row_ids = torch.tensor([example.pop("row_id") for example in examples])
        (column,) = examples[0]  # all that is left
        values = [example[column] for example in examples]
        if column == "image":
            return {"row_ids": row_ids, "pixel_values": prepare_images(values, self.image_processor)}
        return {"row_ids": row_ids, column: torch.from_numpy(np.stack(values))}


def prepare_images(images: list[Image.Image], image_processor: BaseImageProcessor) -> torch.Tensor:
    """Process images, on the processor's background, to pixel values `(images, channels, height, width)`.

    Where all have the size that it makes, so that only scaling and normalising is left, it is done for all at
    once: on 32-pixel images the processor took 2.4 times as long.
    """
    images = read_images(images, background=background_of(image_processor))
    size = unchanged_size(image_processor)
    if size is None or any(image.size != size for image in images):
        return image_processor(images=images, return_tensors="pt")["pixel_values"]

    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2)
    mean = torch.tensor(image_processor.image_mean).view(-1, 1, 1)  # one for each channel, or one for all
    std = torch.tensor(image_processor.image_std).view(-1, 1, 1)
    return (pixels.float() * image_processor.rescale_factor - mean) / std


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
