"""Pre-train an encoder on text alone: it predicts masked tokens of many languages, before it sees an image.

Single texts give masked language modelling (Devlin et al. 2019; XLM-R). A text and its translation in one
sequence give translation language modelling (Conneau & Lample 2019, 3.3): a token that is masked in one
language can be read off the other. That aligns languages for which there are no images.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

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
from transformers.trainer_utils import HubStrategy

from common.errors import InputError
from common.models.kinds import MASKED, check_kind, load_tokenizer, readable
from modeling_altclip.checkpoint_altclip import match_modes
from modeling_altclip.checksums_altclip import checked_files, write_checksums
from modeling_altclip.finite_altclip import check_finite
from modeling_altclip.linear_altclip import use_onednn
from modeling_altclip.texts_altclip import tokenize

from ..arguments import StageArguments
from ..data.examples import caption_columns, fingerprint_captions, has_text, split_lists
from ..output_folder import saving


@dataclass(kw_only=True)
class TextPretrainingArguments(StageArguments):
    """Arguments of masked language modelling in many languages.

    `dataset` may be any parallel text (`parallel_text.py`).
    """

    text_encoder_name_or_path: str = field(
        metadata={"help": "An encoder that `AutoModelForMaskedLM` knows, untrained or pre-trained."}
    )
    pairs: float = field(
        default=1.0,
        metadata={"help": "Fraction of sequences that hold two translations; the others hold one text."},
    )
    mask_probability: float = field(
        default=0.15, metadata={"help": "Share of tokens to predict (0.15 in BERT, XLM and XLM-R)."}
    )
    max_characters: int = field(default=1000, metadata={"help": "Longer texts are skipped."})
    dropout: float | None = field(
        default=None, metadata={"help": "New dropout of the encoder; its own by default."}
    )

    def __post_init__(self):
        super().__post_init__()
        for name in ("dry_run", "validation_split", "trust_remote_code"):
            if getattr(self, name):
                raise InputError(
                    f"{name} is {getattr(self, name)}, which text pre-training lacks: leave it out"
                )
        if self.push_to_hub and self.hub_strategy != HubStrategy.END:
            raise InputError(
                f"hub_strategy is {self.hub_strategy.value}, and its checkpoints have a head "
                "that no text tower has: set hub_strategy to end"
            )
        if not 0 <= self.pairs <= 1:
            raise InputError(f"pairs is {self.pairs}: give a share between 0 and 1")
        if not 0 < self.mask_probability < 1:
            raise InputError(
                f"mask_probability is {self.mask_probability}: give a share between 0 and 1, such as 0.15"
            )


class TranslationPairs(TorchDataset):
    """Every text of parallel rows, alone or with one of its translations.

    An example is `{"texts": ["a dog", "狗"], "languages": ["en", "zh"], "seed": 123}`; the collator draws the
    masks from its `seed`. The translation and the order of the two are drawn anew in each epoch. They depend
    on nothing but `seed`, the epoch and the index of the text: runs resume exactly, with any number of
    processes and workers. `n_empty` counts the rows without a text that is short enough.

    Args:
        rows: have `captions`, `{language: text}`.
        languages: those to draw from, each equally often where rows have them all.
        pairs: the share of texts that come with a translation, of those that have one.
        seed: of all epochs.
        max_characters: longer texts are skipped, and rows that have no other.

    Raises:
        InputError: a row has several texts in a language, which do not say what translates what; or no row
            has a text.
    """

    def __init__(
        self, rows: Dataset, languages: list[str], pairs: float, seed: int, max_characters: int = 1000
    ):
        self.languages = languages
        self.pairs = pairs
        self.seed = seed
        self.epoch = 0

        captions = caption_columns(rows)
        self.texts = []
        for language in languages:
            texts, *others = split_lists(captions[language])
            if others:
                raise InputError(
                    f"a row has several captions in {language}, which do not say what translates what: give "
                    "one text a language"
                )
            self.texts.append(texts)

        # available[row, language]: whether the row has a text in the language that is short enough
        available = [has_text(texts) & ~_is_longer(texts, max_characters) for texts in self.texts]
        self.available = np.stack(available, axis=1)
        self.n_empty = int((~self.available.any(axis=1)).sum())
        # [[True, False], [True, True]] -> [[0, 0], [1, 0], [1, 1]], (row, language) of each text
        self.places = np.argwhere(self.available)
        if not len(self.places):
            raise InputError(
                f"no row has a text in {' '.join(languages)} of up to {max_characters} characters: name "
                "other languages, or allow more"
            )

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that translations are drawn for; `EpochCallback` calls it at the start of each."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> dict:
        random = np.random.default_rng([self.seed, self.epoch, index])
        row, language = self.places[index].tolist()
        others = np.setdiff1d(np.flatnonzero(self.available[row]), language)
        drawn = [language]
        if len(others) and random.random() < self.pairs:
            drawn = random.permutation([language, random.choice(others)]).tolist()
        return {
            "texts": [self.texts[language][row].as_py() for language in drawn],
            "languages": [self.languages[language] for language in drawn],
            "seed": int(random.integers(2**63)),
        }

    def fingerprints(self) -> dict[str, str]:
        """Identify all captions by language, as `CaptionExamples.fingerprints` does."""
        return fingerprint_captions(self.languages, self.texts)

    def summary(self) -> str:
        n_rows = len(self.available) - self.n_empty
        counts = f"{len(self)} texts of {n_rows} rows in {len(self.languages)} languages"
        return f"{counts}; skipped: {self.n_empty} rows, empty or too long"


def _is_longer(texts: pa.Array, max_characters: int) -> np.ndarray:
    """Return whether each text has more characters, as booleans `(texts,)`; a missing one has not."""
    is_longer = pc.greater(pc.utf8_length(texts), max_characters)
    return np.asarray(pc.fill_null(is_longer, False))


class MaskingCollator:
    """Collates examples of `texts` and `seed`, and masks some of their tokens.

    A batch has `input_ids`, `attention_mask` and `labels` `(examples, tokens)`; labels are -100 where nothing
    is masked. Two texts form one sequence as the tokenizer joins them, `<s> a </s></s> b </s>` in XLM-R,
    truncated so that both fit in `max_length`. Of the masked tokens 80 % become the mask token, 10 % a random
    token, and 10 % stay as they are (BERT).
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int, mask_probability: float):
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.mask = DataCollatorForLanguageModeling(tokenizer, mlm_probability=mask_probability)

    def __call__(self, examples: Sequence[dict]) -> dict[str, torch.Tensor]:
        # `longest_first` takes tokens from the longer of two texts, so that none is cut off entirely.
        options = {"truncation": "longest_first", "max_length": self.max_length}
        encoded = []
        for example in examples:
            tokens = tokenize(self.tokenizer, *example["texts"], **options, return_special_tokens_mask=True)
            encoded.append(tokens)
        # By default it would draw from the global random numbers. A loader fetches batches ahead, so that a
        # resumed run would have used up other ones.
        self.mask.generator = torch.Generator().manual_seed(examples[0]["seed"])
        return self.mask(encoded)


def load_for_masking(name_or_path: str, **config) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load an encoder in float32 with a language modelling head, and its tokenizer.

    The head is new where the checkpoint has none. `config` are options of the model's configuration.

    Raises:
        InputError: the folder is missing, `AutoModelForMaskedLM` does not know the encoder, some of its
            weights are missing, or its tokenizer has no mask token.
    """
    check_kind("text_encoder_name_or_path", name_or_path, MASKED)
    tokenizer = load_tokenizer("text_encoder_name_or_path", name_or_path)
    with readable("text_encoder_name_or_path", name_or_path), checked_files(name_or_path):
        model, info = AutoModelForMaskedLM.from_pretrained(
            name_or_path,
            dtype=torch.float32,
            output_loading_info=True,
            trust_remote_code=False,
            **config,
        )
        check_finite(model.named_parameters(), "it")
    # The head may be missing; the encoder's own weights, such as `roberta.encoder...`, may not.
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
    use_onednn(model)
    return model, tokenizer


def save_encoder(trainer: Trainer, tokenizer: PreTrainedTokenizerBase, folder: str) -> None:
    """Save the encoder without the head, which no text tower has, and the tokenizer, with checksums.

    Every process has to call it, since weights may be sharded.
    """
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if trainer.is_world_process_zero():
        prefix = f"{trainer.model.base_model_prefix}."
        # {"roberta.encoder...": ..., "lm_head...": ...} -> {"encoder...": ...}
        of_encoder = {}
        for name, value in weights.items():
            if name.startswith(prefix):
                of_encoder[name.removeprefix(prefix)] = value
        n_bytes = sum(value.nbytes for value in of_encoder.values())
        with saving("the text encoder", Path(folder), n_bytes):
            trainer.model.base_model.save_pretrained(folder, state_dict=of_encoder)
            match_modes(folder)
            tokenizer.save_pretrained(folder)
            write_checksums(folder)


__all__ = [
    "TextPretrainingArguments",
    "MaskingCollator",
    "TranslationPairs",
    "load_for_masking",
    "save_encoder",
]
