"""Check, pad, truncate and tokenize texts; threads may share a tokenizer."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from unicodedata import category

import torch
from torch import nn
from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

from .reading_altclip import text_reading
from .threads_altclip import lock_of_threads

_TEXT_LENGTH = 77  # tokens, in the paper
ENCODER_LENGTH = 512  # tokens that XLM-R's tokenizers state
# Keywords of a tokenizer that are left from an earlier call, through tokenizer.json too, and from loading it.
LEFT_BY_CALLS = (
    "max_length",
    "stride",
    "truncation_strategy",
    "pad_to_multiple_of",
    "is_local",
    "local_files_only",
)
# Characters for each token that is kept: only longer texts are cut, and cut further behind if so many
# characters have too few tokens. English has four characters a token, and no text that says something 64.
CHARACTERS_PER_TOKEN = (64, 512, 4096)

# Texts whose tokens are held at once while they are counted.
_COUNTED_AT_ONCE = 4096

TOKENIZING = lock_of_threads()


def tokenize(tokenizer: PreTrainedTokenizerBase, *texts: str | Sequence[str], **options) -> BatchEncoding:
    """Call `tokenizer` with texts, or with texts and their pairs, from one thread at a time.

    A fast tokenizer holds its padding and truncation as state, which each call sets anew. A call of another
    thread in between would truncate these texts at its own length, without an error
    (huggingface/tokenizers#537).

    Texts that are truncated are cut in characters first, see `cut_texts`.
    """
    with TOKENIZING:
        # Tokenizers that are no class of transformers read texts in a way of their own.
        if options.get("truncation") and isinstance(tokenizer, PreTrainedTokenizerBase):
            n_tokens = kept_tokens(tokenizer, options)
            texts = [cut_texts(tokenizer, of_call, n_tokens) for of_call in texts]
        return tokenizer(*texts, **options)


def count_tokens(tokenizer: PreTrainedTokenizerBase, texts: list[str], options: dict) -> list[int]:
    """Count the tokens of each text as `tokenize` returns it, before a batch is padded to one length.

    Args:
        options: those of `tokenize`.

    Returns:
        The numbers of tokens, special ones included. Of a tokenizer that is no class of transformers, which
        pads in a way of its own, the numbers of characters.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        return [len(text) for text in texts]
    if options.get("padding") == "max_length":
        return [options["max_length"]] * len(texts)

    unpadded = options | {"padding": False, "pad_to_multiple_of": None}
    lengths = []
    for start in range(0, len(texts), _COUNTED_AT_ONCE):
        some = texts[start : start + _COUNTED_AT_ONCE]
        lengths += [len(ids) for ids in tokenize(tokenizer, some, **unpadded)["input_ids"]]
    return lengths


def cut_texts(
    tokenizer: PreTrainedTokenizerBase, texts: str | Sequence[str], n_tokens: int | None
) -> str | Sequence[str]:
    """Cut texts that are far too long for `n_tokens`, so that 10 MB are not tokenized for 77 tokens.

    A text of up to 64 characters for each token stays as it is. Of a longer one so many characters are kept,
    up to their last white space if there is any in their second half. If these have less than twice
    `n_tokens` tokens, as white space and characters that the vocabulary lacks may have, it is 512 characters
    for each token, and in the end 4,096, whatever their tokens.

    The first `n_tokens` tokens are those of the whole text: the tokens near the cut are others, and those are
    never read. There are two exceptions: a text that has not enough tokens within 4,096 characters for each,
    and a single word of thousands of equal letters, whose first tokens depend on where it ends.

    Args:
        texts: one text, or several, or lists of words, which are not cut. A tokenizer that truncates on the
            left keeps the last tokens, and so the last characters.
        n_tokens: the most tokens that are kept of a text; None if all are, and then texts stay as they are.

    The caller holds `TOKENIZING`.
    """
    if n_tokens is None:
        return texts
    if isinstance(texts, str):
        return _cut_text(tokenizer, texts, n_tokens)
    if all(isinstance(text, str) for text in texts):
        return [_cut_text(tokenizer, text, n_tokens) for text in texts]
    return texts


def _cut_text(tokenizer: PreTrainedTokenizerBase, text: str, n_tokens: int) -> str:
    """Cut one text, see `cut_texts`."""
    keeps_end = tokenizer.truncation_side == "left"
    for per_token in CHARACTERS_PER_TOKEN:
        length = per_token * n_tokens
        if len(text) <= length:
            return text
        cut = _last_characters(text, length) if keeps_end else _first_characters(text, length)
        ids = tokenizer(cut, add_special_tokens=False, padding=False, truncation=False, verbose=False)
        if len(ids["input_ids"]) >= 2 * n_tokens:
            break
    return cut


def _first_characters(text: str, length: int) -> str:
    """Return the first `length` characters, without the word that is cut in two if others are before it."""
    cut = text[:length]
    parts = cut.rsplit(maxsplit=1)  # the words, and the last of them
    if len(parts) == 2 and len(parts[0]) >= length // 2:
        return parts[0]
    return cut


def _last_characters(text: str, length: int) -> str:
    """Return the last `length` characters, without the word that is cut in two if others are behind it."""
    cut = text[-length:]
    parts = cut.split(maxsplit=1)
    if len(parts) == 2 and len(parts[1]) >= length // 2:
        return parts[1]
    return cut


def kept_tokens(tokenizer: PreTrainedTokenizerBase, stated: dict) -> int | None:
    """Return the most tokens that a call keeps of a text, or None if it may keep all.

    Args:
        stated: the options of the call, and those that the tokenizer's files state.
    """
    is_cut = stated.get("truncation") not in (False, "do_not_truncate")
    if not is_cut or stated.get("return_overflowing_tokens"):
        return None
    return max(stated.get("max_length") or 0, text_length(tokenizer))


def longest_cut(tokenizer: PreTrainedTokenizerBase, stated: dict) -> int | None:
    """Return the characters that `cut_texts` keeps of a text at most, from its start; None if it keeps all.

    Args:
        stated: the options of the call, and those that the tokenizer's files state.
    """
    n_tokens = kept_tokens(tokenizer, stated)
    if n_tokens is None or tokenizer.truncation_side == "left":
        return None
    return CHARACTERS_PER_TOKEN[-1] * n_tokens


@dataclass
class _TextCall:
    """The parts of a tokenizer's call that decide how texts have to be padded and truncated.

    Args:
        stated: the options of the call, and those that the tokenizer's files state.
        truncation: the option `truncation`, or what it is by default.
        may_be_too_long: whether a text may be longer than the model reads.
        is_stacked: whether texts become one tensor, without an option that says how they are padded.
    """

    stated: dict
    truncation: bool | str | None
    may_be_too_long: bool
    is_stacked: bool

    @classmethod
    def of(cls, stated: dict) -> "_TextCall":
        """Read the options of a call."""
        truncation = stated.get("truncation")
        max_length = stated.get("max_length")
        if truncation == "do_not_truncate":
            truncation = False
        if truncation is None and max_length is not None and "padding" not in stated:
            truncation = True  # as tokenizers take a max_length alone
        may_be_too_long = truncation is None or (truncation and max_length is None)
        is_stacked = stated.get("return_tensors") == "pt" and "padding" not in stated
        return cls(stated, truncation, may_be_too_long, is_stacked)

    @property
    def max_length(self) -> int | None:
        return self.stated.get("max_length")


def needed_options(
    tokenizer: PreTrainedTokenizerBase, text: str | list[str], stated: dict
) -> dict[str, bool | str | int]:
    """Return the options that a call of `tokenizer` lacks for an encoder to read the texts as tensors.

    A text longer than `text_length` is truncated, unless the call says how texts are truncated. Texts of
    several lengths are padded if torch's tensors are asked for, which transformers refuses, unless the call
    says how they are padded; as arrays transformers makes an array of arrays. The caller holds `TOKENIZING`.

    Args:
        stated: the options of the call, and those that the tokenizer's files state.
    """
    call = _TextCall.of(stated)
    if not call.may_be_too_long and not call.is_stacked:
        return {}

    # In these cases truncating short texts, or padding texts of one length, would change more than their
    # lengths: tokens have to be counted first.
    is_padded_by_number = stated.get("padding") == "max_length" or bool(stated.get("pad_to_multiple_of"))
    ignores_max_length = call.may_be_too_long and call.max_length is not None
    cannot_pad = call.is_stacked and tokenizer.pad_token is None
    if is_padded_by_number or ignores_max_length or cannot_pad:
        return _needed_for_lengths(tokenizer, text, call)

    needed = {"padding": True} if call.is_stacked else {}
    if call.may_be_too_long:
        needed |= {"truncation": call.truncation or True, "max_length": text_length(tokenizer)}
    elif call.truncation:
        needed |= {"truncation": call.truncation, "max_length": call.max_length}
    return needed


def _needed_for_lengths(
    tokenizer: PreTrainedTokenizerBase, text: str | list[str], call: _TextCall
) -> dict[str, bool | str | int]:
    """Return the options that depend on each text's number of tokens, by tokenizing the texts once more."""
    truncation = call.truncation
    lengths = _lengths_of(tokenizer, text, call.stated)
    longest = text_length(tokenizer)
    # Tokenizers refuse to truncate at one number and to pad to multiples of another: 77 by eights -> 72
    limit = call.max_length or longest - longest % (call.stated.get("pad_to_multiple_of") or 1)

    needed = {}
    if call.may_be_too_long and max(lengths) > longest:
        truncation = truncation or True
        needed = {"truncation": truncation, "max_length": limit}
    if truncation:
        lengths = [min(length, limit) for length in lengths]

    has_several_lengths = len(set(lengths)) > 1
    if call.is_stacked and has_several_lengths:
        needed["padding"] = True
        if truncation:
            needed |= {"truncation": truncation, "max_length": limit}
    return needed


def _lengths_of(tokenizer: PreTrainedTokenizerBase, text: str | list[str], stated: dict) -> list[int]:
    """Count the tokens of each text, or pair of texts, without padding or truncation.

    The caller holds `TOKENIZING`.
    """
    options = {}
    for name in ("text_pair", "add_special_tokens", "is_split_into_words"):
        if name in stated:
            options[name] = stated[name]
    ids = tokenizer(text, **options, padding=False, truncation=False, verbose=False)["input_ids"]
    rows = ids if ids and isinstance(ids[0], list) else [ids]  # one text gives one list
    return [len(row) for row in rows]


def forget_calls(tokenizer: PreTrainedTokenizerBase) -> None:
    """Remove from a tokenizer how it was called and loaded, so that its files do not state it.

    When the files are read back, the length of some call would pass for a length that the tokenizer states,
    in transformers' processors too.
    """
    with TOKENIZING:
        for name in LEFT_BY_CALLS:
            tokenizer.init_kwargs.pop(name, None)
        if tokenizer.is_fast:
            tokenizer.backend_tokenizer.no_padding()
            tokenizer.backend_tokenizer.no_truncation()


def text_options(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> dict[str, str | bool | int]:
    """Return the options with which `tokenizer` pads and truncates texts as `model` reads them.

    Texts are padded on the right, whatever the tokenizer states: many encoders number positions from the
    left, padding included. A model that attends to its padding (`TextReading`) gets texts of the full length
    and no mask. The texts themselves may have to be canonicalized first: `text_reading` says so.
    """
    options = {"truncation": True, "max_length": text_length(tokenizer, model)}
    if text_reading(model).attends_to_padding:
        return options | {"padding": "max_length", "return_attention_mask": False}

    options |= {"padding": True, "padding_side": "right"}
    # Canine reads four characters at once.
    read_at_once = getattr(model.config.get_text_config(), "downsampling_rate", None)
    if read_at_once is not None:
        options["pad_to_multiple_of"] = read_at_once
        options["max_length"] -= options["max_length"] % read_at_once
    return options


def text_length(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel | None = None) -> int:
    """Return the number of tokens that texts are truncated at.

    It is the least that tokenizer and `model` state, or 77 as in the paper. A stated length of 512, as in
    XLM-R's tokenizers, is ignored: the encoder can read as much, but no CLIP was trained with it. SigLIP 2's
    tokenizers state nothing, but the model has 64 positions. Encoders with relative positions have no number
    of them.

    Args:
        model: gives the number of tokens that it reads. Without it, the length that a tokenizer of XLM-R's
            kind states, unless it is the paper's 77, is taken for the number of the encoder's positions, of
            which two are never read (see `readable_tokens`).
    """
    stated = tokenizer.model_max_length
    if model is None:
        if stated >= ENCODER_LENGTH:
            return _TEXT_LENGTH
        return stated if stated == _TEXT_LENGTH else stated - _positions_by_tokenizer(tokenizer)

    lengths = []
    if stated < ENCODER_LENGTH:
        lengths.append(stated)
    if _number_of_positions(model) < ENCODER_LENGTH:
        lengths.append(readable_tokens(model))
    return min(lengths, default=text_reading(model).length or _TEXT_LENGTH)


def _number_of_positions(model: PreTrainedModel) -> float:
    """Return the number of positions in the text tower's configuration; infinity if they are relative."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", math.inf)


def readable_tokens(model: PreTrainedModel) -> float:
    """Return the number of tokens that the text tower can read; infinity if its positions are relative.

    XLM-R and its relatives (RoBERTa, CamemBERT, MPNet, Xmod, I-BERT) number positions from the one after
    their padding's, which is a row of the position embeddings. They read two tokens fewer than they have
    positions (huggingface/transformers#14243).
    """
    return _number_of_positions(model) - positions_before_texts(model)


def positions_before_texts(model: nn.Module) -> int:
    """Return the number of positions that an encoder keeps for padding and gives to no token; 0 for most."""
    # Imported here, since nothing else needs I-BERT's modules.
    from transformers.models.ibert.quant_modules import QuantEmbedding

    for name, module in model.named_modules():
        is_embedding = isinstance(module, nn.Embedding | QuantEmbedding)
        if name.endswith("position_embeddings") and is_embedding and module.padding_idx is not None:
            return module.padding_idx + 1
    return 0


def _positions_by_tokenizer(tokenizer: PreTrainedTokenizerBase) -> int:
    """Infer `positions_before_texts` from a tokenizer: 2 for encoders of XLM-R's kind, 0 for all others."""
    # Vocabularies of XLM-R's kind begin with `<s> <pad> </s>`.
    return 2 if (tokenizer.pad_token, tokenizer.pad_token_id) == ("<pad>", 1) else 0


def is_blank(text: str) -> bool:
    """Check that a text shows nothing: only white space, control and zero-width characters (U+200B)."""
    return all(character.isspace() or category(character) in ("Cc", "Cf") for character in text)


def vocabulary_size(model: PreTrainedModel) -> float:
    """Return the number of tokens that the text tower has embeddings for.

    It is infinity for Canine, which hashes characters and has no vocabulary.
    """
    return getattr(model.config.get_text_config(), "vocab_size", math.inf)


def check_tokens(
    inputs: dict[str, torch.Tensor], names: Sequence[str], n_tokens: float, n_ids: float
) -> None:
    """Refuse tokens that a model cannot read.

    Without this check torch would fail with an index of its own, or padding alone would get an embedding.

    Args:
        inputs: `input_ids`, and mostly `attention_mask`, both `(texts, tokens)`, from the tokenizer.
        names: names of the texts in messages.
        n_tokens: the number of tokens of a text that the model reads.
        n_ids: the size of its vocabulary.

    Raises:
        ValueError: a text has no token, too many, or one that the model does not know.
    """
    if "attention_mask" in inputs:
        lengths = inputs["attention_mask"].sum(dim=1).tolist()
        for name, length in zip(names, lengths):
            if length == 0:
                raise ValueError(
                    f"{name} has no token, and so no vector: drop it, "
                    "or take a tokenizer that adds special tokens"
                )
            if length > n_tokens:
                raise ValueError(
                    f"{name} has {length} tokens, but the model reads {n_tokens} at most: "
                    "let texts be cut at these"
                )

    for row, place in (inputs["input_ids"] >= n_ids).nonzero().tolist():
        token = inputs["input_ids"][row, place]
        raise ValueError(
            f"{names[row]} has the token {token}, but the model's vocabulary ends before {n_ids}: "
            "take the tokenizer that it was trained with, "
            "or call model.resize_token_embeddings(len(tokenizer)) and train the new embeddings"
        )


def check_texts(texts: Sequence[str], name: str, start: int = 0) -> None:
    """Refuse texts that no tokenizer reads.

    Args:
        name: name of the argument in messages.
        start: index of the first text.

    Raises:
        ValueError: `texts` is no list of strings, or is empty; or a text holds half of a surrogate pair, as
            one that was truncated within an escape such as `\\ud83d\\ude00` does. The message gives the
            index.
    """
    if not isinstance(texts, list | tuple):
        raise ValueError(f"{name} is a {type(texts).__name__}: give a list of strings")
    if not texts:
        raise ValueError(f"{name} is empty: give at least one string")
    for index, text in enumerate(texts, start):
        if not isinstance(text, str):
            raise ValueError(f"{name}[{index}] is {text!r}, not a string: drop it or write it out")
        _check_text(text, f"{name}[{index}]")


def _check_text(text: str, name: str) -> None:
    """Refuse a text with half of a surrogate pair, which has no bytes in UTF-8; see `check_texts`."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        half = text[error.start]
        raise ValueError(
            f"{name} is {text!r}: {half!r} is half of a character. "
            "Read the text anew from its source, or drop it"
        ) from None


__all__ = [
    "CHARACTERS_PER_TOKEN",
    "check_texts",
    "check_tokens",
    "count_tokens",
    "cut_texts",
    "forget_calls",
    "is_blank",
    "kept_tokens",
    "longest_cut",
    "readable_tokens",
    "text_length",
    "text_options",
    "tokenize",
    "vocabulary_size",
]
