"""Captioned rows to training batches.

A dataset's rows hold `captions`, `{language: text}`, and what the captions describe: an `image`, or vectors that a frozen
tower made of it. One example is one cell, a row in one of its languages. On parallel text of two languages this gives the
paper's recipe, every sentence once in English and once in the other language.
"""

from collections.abc import Callable, Iterator, Sequence
from copy import copy

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset, List
from PIL import Image
from torch.utils.data import Dataset as TorchDataset
from transformers import CLIPImageProcessor, PreTrainedTokenizerBase, SiglipImageProcessor, ViTImageProcessor
from transformers.image_processing_utils import BaseImageProcessor

from benchmarks.column_cache import CachedColumn
from modeling_altclip.images_altclip import background_of, read_images
from modeling_altclip.texts_altclip import tokenize

from .views import ImageViews

# They resize, crop, scale and normalise, and no more: others zoom in before they crop, or normalise twice.
PLAIN_PROCESSORS = (CLIPImageProcessor, SiglipImageProcessor, ViTImageProcessor)
SHOWN = r"[^\s\pZ\p{Cc}\p{Cf}]"  # a character that is neither white space nor without width
SAMPLE = 1000  # texts of a language that tell how many tokens its characters make


def caption_columns(rows: Dataset) -> pa.StructArray:
    """The captions of all rows, one field a language, of texts or of lists of texts.

    Large strings, since more than 2 GB of a language's text fit no others.
    """
    kinds = {True: pa.large_list(pa.large_string()), False: pa.large_string()}
    fields = [
        (language, kinds[isinstance(feature, List)])
        for language, feature in rows.features["captions"].items()
    ]
    return rows.with_format("arrow")["captions"][:].cast(pa.struct(fields)).combine_chunks()


def in_turn(texts: pa.Array) -> list[pa.Array]:
    """The texts of a language as they are; of lists of texts the first of each row, the second of each row, and so on."""
    if not pa.types.is_large_list(texts.type):
        return [texts]
    n_texts = pc.max(pc.list_value_length(texts)).as_py() or 1
    padded = pc.list_slice(texts, 0, n_texts, return_fixed_size_list=True)
    return [pc.list_element(padded, number) for number in range(n_texts)]


def texts_of(rows: Dataset, languages: list[str]) -> Iterator[str]:
    """All texts in some languages."""
    captions = caption_columns(rows)
    return (
        text
        for language in languages
        for texts in in_turn(captions.field(language))
        for text in texts.to_pylist()
        if text
    )


def has_text(texts: pa.Array) -> np.ndarray:
    """Which of the texts are there and not blank, as `is_blank` has it."""
    return np.asarray(pc.fill_null(pc.match_substring_regex(texts, SHOWN), False))


def join(row_ids: np.ndarray, others: Sequence) -> np.ndarray:
    """Numbers of rows that are equal where either `row_ids` or `others` are, and whatever hangs together by these."""
    joined = pd.Series(row_ids)
    while True:
        lowest = joined.groupby(others).transform("min").groupby(row_ids).transform("min")
        if (lowest == joined).all():
            return joined.to_numpy()
        joined = lowest


class CaptionCells(TorchDataset):
    """Every non-empty (row, language) cell of a captioned dataset, as `{"text", "row_id", column: the row's value in it}`.

    `row_id` is equal for rows that show the same thing: those of one picture, and those whose captions in English are equal, or, where
    a row has none, in the first of `languages` that it has. `set_aside` counts, by reason, the cells that
    are left out: those without text, and with `sift` more. `weights` `(cells,)` are those of the rows, where they have any.

    Args:
        rows: has `captions`, `{language: text}` or `{language: texts}`.
        languages: those to make cells of.
        column: what goes with a text: `image`, or a column of vectors.
        inputs: gives `{column: values}` of a list of row numbers; by default `rows`, which then has the column.
        held: the languages whose texts have values of their own, given in the same way.
        same: something of each row that is equal where rows have one picture, such as its digest.
        sift: for parallel text: leave out what is too long, what was left in English, and all but the first of equal pairs.
        max_characters: what is too long.
    """

    def __init__(
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
        self.languages, self.column, self.inputs, self.held = languages, column, inputs, held or {}
        if inputs is None:
            self.inputs = rows.select_columns([column]).with_format(None if column == "image" else "numpy")
        captions = caption_columns(rows)
        columns = [(language, texts) for language in languages for texts in in_turn(captions.field(language))]
        self.columns, self.texts = zip(*columns)  # the language, and the texts, of each column of cells
        self.english = in_turn(captions.field("en"))[0] if "en" in rows.features["captions"] else None
        references = [*([] if self.english is None else [self.english]), *self.texts]
        references = [pc.if_else(has_text(texts), texts, pa.scalar(None, texts.type)) for texts in references]
        reference = np.asarray(pc.fill_null(pc.coalesce(*references), ""))
        self.row_ids = np.unique(reference, return_inverse=True)[1]
        self.row_ids[reference == ""] = len(rows) + np.flatnonzero(reference == "")
        if same is not None:
            self.row_ids = join(self.row_ids, same)
        kept = np.stack([has_text(texts) for texts in self.texts], axis=1)
        firsts = [self.columns.index(language) for language in languages]
        self.set_aside = {"empty": int((~kept[:, firsts]).sum())}
        if sift:
            for reason, refused in self._reasons(max_characters):
                self.set_aside[reason] = int((kept & refused).sum())
                kept &= ~refused
        self.cells = np.argwhere(kept)
        self.weights = np.asarray(rows["weight"])[self.cells[:, 0]] if "weight" in rows.column_names else None

    def _reasons(self, max_characters: int) -> Iterator[tuple[str, np.ndarray]]:
        """Why cells are no good, and which `(rows, languages)`; the first reason counts."""

        def columns(test: Callable[[str, pa.Array], pa.Array]) -> np.ndarray:
            tested = [
                pc.fill_null(test(language, texts), False)
                for language, texts in zip(self.columns, self.texts)
            ]
            return np.stack([np.asarray(column) for column in tested], axis=1)

        yield "too long", columns(lambda _, texts: pc.greater(pc.utf8_length(texts), max_characters))
        if self.english is not None:
            english, trim = pc.utf8_trim_whitespace(self.english), pc.utf8_trim_whitespace
            yield (
                "left in English",
                columns(lambda language, texts: pc.and_(pc.equal(trim(texts), english), language != "en")),
            )
        pairs = [pd.DataFrame({"row_id": self.row_ids, "text": np.asarray(texts)}) for texts in self.texts]
        yield "repeated", np.stack([pair.duplicated().to_numpy() for pair in pairs], axis=1)

    def __len__(self) -> int:
        return len(self.cells)

    def with_inputs(self, column: str, inputs: CachedColumn) -> "CaptionCells":
        """The same cells with something else in the place of what went with the texts."""
        cells = copy(self)
        cells.column, cells.inputs = column, inputs
        return cells

    def lengths(self, tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
        """About how many tokens each cell's text has, `(cells,)`: its characters, at the rate of its language's first texts.

        Characters alone would not do: one of Chinese has as many tokens as two or three of English.
        """
        of_column = []
        for texts in self.texts:
            present = np.flatnonzero(has_text(texts))[
                :SAMPLE
            ]  # where sources lie end to end, the first rows may speak other languages
            sample = texts.take(pa.array(present)).to_pylist() or [" "]
            n_tokens = sum(map(len, tokenize(tokenizer, sample, add_special_tokens=False)["input_ids"]))
            of_column.append(
                np.asarray(pc.fill_null(pc.utf8_length(texts), 0)) * (n_tokens / sum(map(len, sample)))
            )
        return np.stack(of_column, axis=1)[tuple(self.cells.T)]

    def summary(self) -> str:
        set_aside = (
            ", ".join(f"{count} {reason}" for reason, count in self.set_aside.items() if count) or "nothing"
        )
        return f"{len(self)} examples from {len(self.row_ids)} rows; set aside: {set_aside}"

    def __getitem__(self, index: int) -> dict:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict]:
        """Read a whole batch at once: `datasets` then decodes its rows together."""
        rows, columns = self.cells[indices].T.tolist()
        values = self.inputs[rows][self.column]
        for language, inputs in self.held.items():
            its = [place for place, column in enumerate(columns) if self.columns[column] == language]
            values[its] = inputs[[rows[place] for place in its]][self.column]
        return [
            {"text": self.texts[column][row].as_py(), "row_id": int(self.row_ids[row]), self.column: value}
            for row, column, value in zip(rows, columns, values)
        ]


class Collator:
    """Cells to tensors: texts padded to the longest and cut at `max_length` tokens, images through `image_processor`.

    Equal texts are encoded once: `input_ids` and `attention_mask` `(distinct texts, tokens)` hold each of them once, and
    `text_rows` `(cells,)` says which is a cell's. Beside them: `row_ids` `(cells,)`, and `pixel_values` or the column of vectors.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        image_processor: BaseImageProcessor | None = None,
    ):
        self.tokenizer, self.max_length, self.image_processor = tokenizer, max_length, image_processor

    def __call__(self, cells: list[dict]) -> dict[str, torch.Tensor]:
        return self.encode([cell.pop("text") for cell in cells]) | self.described(cells)

    def encode(self, texts: list[str]) -> dict[str, torch.Tensor]:
        distinct, text_rows = np.unique(texts, return_inverse=True)
        padding = {"padding": True, "padding_side": "right"}
        encoded = tokenize(
            self.tokenizer,
            distinct.tolist(),
            truncation=True,
            max_length=self.max_length,
            return_tensors="pt",
            **padding,
        )
        return {name: encoded[name] for name in ("input_ids", "attention_mask")} | {
            "text_rows": torch.from_numpy(text_rows)
        }

    def described(self, examples: list[dict]) -> dict[str, torch.Tensor]:
        """What the texts describe: `row_id`, and an image or a vector."""
        row_ids = torch.tensor([example.pop("row_id") for example in examples])
        (column,) = examples[0]
        values = [example[column] for example in examples]
        if column == "image":
            return {"row_ids": row_ids, "pixel_values": prepare_images(values, self.image_processor)}
        return {"row_ids": row_ids, column: torch.from_numpy(np.stack(values))}


def prepare_images(images: list[Image.Image], image_processor: BaseImageProcessor) -> torch.Tensor:
    """What `image_processor` makes of the images, on its background: `(images, channels, height, width)`.

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
    """Width and height of images that a processor only scales and normalises, or None."""
    scales_and_normalizes = image_processor.do_rescale and image_processor.do_normalize
    if type(image_processor) not in PLAIN_PROCESSORS or not scales_and_normalizes or image_processor.do_pad:
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
