"""Text-only pre-training: an encoder fills in masked tokens of many languages, before it sees an image.

With two translations in one sequence a token that is masked in one language can be read off the other:
translation language modelling (Conneau & Lample 2019, 3.3), beside masked language modelling of single texts
(Devlin et al. 2019; XLM-R). That brings languages together that no image will ever go with.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset
from torch.utils.data import Dataset as TorchDataset
from transformers import (
    AutoModelForMaskedLM,
    DataCollatorForLanguageModeling,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
)

from benchmarks.kinds import MASKED, check_kind, load_tokenizer, readable
from benchmarks.recipe import InputError
from modeling_altclip.texts_altclip import tokenize

from .arguments import StageArguments
from .data import caption_columns, has_text


@dataclass(kw_only=True)
class TextPretrainingArguments(StageArguments):
    """Masked language modelling in many languages, before any image. `dataset` may be any parallel text
    (`parallel_text.py`).
    """

    text_encoder_name_or_path: str = field(
        metadata={"help": "An encoder that `AutoModelForMaskedLM` knows; untrained, or to go on from."}
    )
    pairs: float = field(
        default=1.0, metadata={"help": "Share of sequences that hold two translations; others hold one text."}
    )
    mask_probability: float = field(
        default=0.15, metadata={"help": "Share of tokens to be named (0.15 in BERT, XLM and XLM-R)."}
    )
    max_characters: int = field(default=1000, metadata={"help": "Longer texts are set aside."})
    dropout: float | None = field(
        default=None, metadata={"help": "Of the encoder, from now on; its own by default."}
    )

    def __post_init__(self):
        super().__post_init__()
        for name in ("dry_run", "validation_split"):
            if getattr(self, name):
                raise InputError(
                    f"{name} is {getattr(self, name)}, and text pre-training knows none: leave it out"
                )
        if not 0 <= self.pairs <= 1:
            raise InputError(f"pairs is {self.pairs}: give a share between 0 and 1")
        if not 0 < self.mask_probability < 1:
            raise InputError(
                f"mask_probability is {self.mask_probability}: give a share between 0 and 1, such as 0.15"
            )


class Translations(TorchDataset):
    """Every text of parallel rows, alone or with a translation of it, `{"texts", "languages", "seed"}`.

    Which translation goes with a text is drawn anew each epoch, and so is their order, from nothing but
    `seed`, the epoch and the text's number: runs resume exactly, and however many processes and workers read.
    `seed` of an example is there for the masks to be drawn from. `n_empty` counts the rows that are left out
    since they have no text, or none that is short enough.

    Args:
        rows: have `captions`, `{language: text}`.
        languages: those to draw from, each equally often where rows have them all.
        pairs: the share of texts that come with a translation, of those that have one.
        seed: of all epochs.
        max_characters: longer texts are left out, and rows that have no other.

    Raises:
        InputError: a language's texts are lists, which do not say what translates what; or no row has a text.
    """

    def __init__(
        self, rows: Dataset, languages: list[str], pairs: float, seed: int, max_characters: int = 1000
    ):
        self.languages, self.pairs, self.seed, self.epoch = languages, pairs, seed, 0
        captions = caption_columns(rows)
        self.texts = [captions.field(language) for language in languages]
        for language, texts in zip(languages, self.texts):
            if not pa.types.is_large_string(texts.type):
                raise InputError(
                    f"captions in {language} are lists, which do not say what translates what: give one text "
                    "a language"
                )
        there = np.stack([has_text(texts) & ~longer(texts, max_characters) for texts in self.texts], axis=1)
        self.there, self.n_empty = there, int((~there.any(axis=1)).sum())
        self.cells = np.argwhere(there)
        if not len(self.cells):
            raise InputError(
                f"no row has a text in {' '.join(languages)} of up to {max_characters} characters: name "
                "other languages, or allow more"
            )

    def set_epoch(self, epoch: int) -> None:
        """Told at the beginning of each epoch, by `views.TellEpoch`."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.cells)

    def __getitem__(self, index: int) -> dict:
        random = np.random.default_rng([self.seed, self.epoch, index])
        row, language = self.cells[index].tolist()
        others = np.setdiff1d(np.flatnonzero(self.there[row]), language)
        drawn = [language]
        if len(others) and random.random() < self.pairs:
            drawn = random.permutation([language, random.choice(others)]).tolist()
        return {
            "texts": [self.texts[language][row].as_py() for language in drawn],
            "languages": [self.languages[language] for language in drawn],
            "seed": int(random.integers(2**63)),
        }

    def summary(self) -> str:
        n_rows = len(self.there) - self.n_empty
        counts = f"{len(self)} texts of {n_rows} rows in {len(self.languages)} languages"
        return f"{counts}; set aside: {self.n_empty} rows, empty or too long"


def longer(texts: pa.Array, max_characters: int) -> np.ndarray:
    """Which of the texts have more characters."""
    return np.asarray(pc.fill_null(pc.greater(pc.utf8_length(texts), max_characters), False))


class MaskingCollator:
    """Texts to `input_ids`, `attention_mask` and `labels` `(examples, tokens)`; labels are -100 where nothing
    is masked.

    Two texts stand in one sequence as the tokenizer puts them, `<s> a </s></s> b </s>` in XLM-R, each cut so
    that both fit in `max_length`. Of what is masked, 80 % shows the mask, 10 % another piece and 10 % itself,
    as in BERT.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int, mask_probability: float):
        self.tokenizer, self.max_length = tokenizer, max_length
        self.mask = DataCollatorForLanguageModeling(tokenizer, mlm_probability=mask_probability)

    def __call__(self, examples: Sequence[dict]) -> dict[str, torch.Tensor]:
        cut = {"truncation": "longest_first", "max_length": self.max_length}
        encoded = [
            tokenize(self.tokenizer, *example["texts"], **cut, return_special_tokens_mask=True)
            for example in examples
        ]
        # Left to itself, it would draw from random numbers that a resumed run has used up already: a batch is
        # fetched ahead.
        self.mask.generator = torch.Generator().manual_seed(examples[0]["seed"])
        return self.mask(encoded)


def load_for_masking(name_or_path: str, **config) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load an encoder in float32 with a head that names masked tokens, new where the checkpoint has none, and
    its tokenizer.

    Raises:
        InputError: the folder is missing, it is no encoder that `AutoModelForMaskedLM` knows, or the
            encoder's weights are not all there.
    """
    check_kind("text_encoder_name_or_path", name_or_path, MASKED)
    tokenizer = load_tokenizer("text_encoder_name_or_path", name_or_path)
    with readable("text_encoder_name_or_path", name_or_path):
        model, info = AutoModelForMaskedLM.from_pretrained(
            name_or_path, dtype=torch.float32, output_loading_info=True, **config
        )
    missing = sorted(name for name in info["missing_keys"] if name.startswith(f"{model.base_model_prefix}."))
    if missing:
        raise InputError(
            f"text encoder {name_or_path!r} lacks weights of {type(model.base_model).__name__}: "
            f"{', '.join(missing)}"
        )
    if tokenizer.mask_token is None:
        raise InputError(
            f"the tokenizer of {name_or_path!r} has no mask token: take an encoder that was made for masked "
            "texts"
        )
    return model, tokenizer


def save_encoder(trainer: Trainer, folder: str) -> None:
    """Write the encoder without the head, which no text tower has; every process calls it, since weights may
    be sharded.
    """
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if trainer.is_world_process_zero():
        prefix = f"{trainer.model.base_model_prefix}."
        of_encoder = {
            name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)
        }
        trainer.model.base_model.save_pretrained(folder, state_dict=of_encoder)


__all__ = ["TextPretrainingArguments", "MaskingCollator", "Translations", "load_for_masking", "save_encoder"]
