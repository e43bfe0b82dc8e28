"""Texts on their way to a tokenizer: what is refused, where they are padded and cut, and how threads share one tokenizer."""

import math
from collections.abc import Sequence
from unicodedata import category

import torch
from torch import nn
from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.ibert.quant_modules import QuantEmbedding

from .threads_altclip import lock_of_threads

TEXT_LENGTH = 77
ENCODER_LENGTH = 512
# Among a tokenizer's keywords: how an earlier call padded and cut, which tokenizer.json hands on, and how it was loaded.
LEFT_BY_CALLS = (
    "max_length",
    "stride",
    "truncation_strategy",
    "pad_to_multiple_of",
    "is_local",
    "local_files_only",
)
TRAINED_LENGTHS = {"chinese_clip": 52}  # its files state 512 alone

TOKENIZING = lock_of_threads()


def tokenize(tokenizer: PreTrainedTokenizerBase, *texts: str | Sequence[str], **options) -> BatchEncoding:
    """Call `tokenizer` with texts, or texts and what goes with them in pairs, from one thread at a time.

    A fast tokenizer keeps how it pads and cuts in itself, and sets it anew at each call. The call of another thread in between
    would cut these texts at a length of its own, without an error (huggingface/tokenizers#537).
    """
    with TOKENIZING:
        return tokenizer(*texts, **options)


def needed_options(
    tokenizer: PreTrainedTokenizerBase, text: str | list[str], stated: dict
) -> dict[str, bool | str | int]:
    """Tell what a call of `tokenizer` lacks, so that an encoder can read the texts, and tensors can be made of them.

    A text that is longer than `text_length` is cut, unless the call says how texts are cut. Texts of several lengths are padded
    where torch's tensors are asked for, which transformers refuses, unless it says how they are padded; of arrays transformers
    makes an array of arrays. The caller holds `TOKENIZING`.

    Args:
        stated: the options of the call, and those that the tokenizer's files state.
    """
    truncation, max_length = stated.get("truncation"), stated.get("max_length")
    if truncation == "do_not_truncate":
        truncation = False
    if truncation is None and max_length is not None and "padding" not in stated:
        truncation = True  # as tokenizers take a max_length alone
    may_be_too_long = truncation is None or (truncation and max_length is None)
    is_stacked = stated.get("return_tensors") == "pt" and "padding" not in stated
    if not may_be_too_long and not is_stacked:
        return {}

    # To cut shorter texts, or to pad texts of one length, would then change more than their lengths: tokens have to be counted first.
    is_padded_by_number = stated.get("padding") == "max_length" or bool(stated.get("pad_to_multiple_of"))
    ignores_max_length = may_be_too_long and max_length is not None
    cannot_pad = is_stacked and tokenizer.pad_token is None
    if is_padded_by_number or ignores_max_length or cannot_pad:
        return needed_for_lengths(tokenizer, text, stated, truncation, may_be_too_long, is_stacked)

    needed = {"padding": True} if is_stacked else {}
    if may_be_too_long:
        needed |= {"truncation": truncation or True, "max_length": text_length(tokenizer)}
    elif truncation:
        needed |= {"truncation": truncation, "max_length": max_length}
    return needed


def needed_for_lengths(
    tokenizer: PreTrainedTokenizerBase,
    text: str | list[str],
    stated: dict,
    truncation: bool | str | None,
    may_be_too_long: bool,
    is_stacked: bool,
) -> dict[str, bool | str | int]:
    """Tell the same where it depends on the number of tokens of each text, by tokenizing them once more."""
    max_length = stated.get("max_length")
    lengths, longest = lengths_of(tokenizer, text, stated), text_length(tokenizer)
    # Tokenizers refuse to cut at one number and to pad to multiples of another.
    limit = max_length or longest - longest % (stated.get("pad_to_multiple_of") or 1)
    needed = {}
    if may_be_too_long and max(lengths) > longest:
        truncation = truncation or True
        needed = {"truncation": truncation, "max_length": limit}
    if truncation:
        lengths = [min(length, limit) for length in lengths]
    if is_stacked and len(set(lengths)) > 1:
        needed["padding"] = True
        if truncation:
            needed |= {"truncation": truncation, "max_length": limit}
    return needed


def lengths_of(tokenizer: PreTrainedTokenizerBase, text: str | list[str], stated: dict) -> list[int]:
    """Count the tokens of each text, or pair of texts, before it is cut or padded. The caller holds `TOKENIZING`."""
    options = {
        name: stated[name]
        for name in ("text_pair", "add_special_tokens", "is_split_into_words")
        if name in stated
    }
    ids = tokenizer(text, **options, padding=False, truncation=False, verbose=False)["input_ids"]
    rows = ids if ids and isinstance(ids[0], list) else [ids]  # one text gives one list
    return [len(row) for row in rows]


def forget_calls(tokenizer: PreTrainedTokenizerBase) -> None:
    """Take out of a tokenizer how calls have padded and cut, and how it was loaded, so that its files do not say so.

    Read back, the length of some call would be taken for a length that the tokenizer states, by transformers' processors too.
    """
    with TOKENIZING:
        for name in LEFT_BY_CALLS:
            tokenizer.init_kwargs.pop(name, None)
        if tokenizer.is_fast:
            tokenizer.backend_tokenizer.no_padding()
            tokenizer.backend_tokenizer.no_truncation()


def text_options(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> dict[str, str | bool | int]:
    """How `tokenizer` has to pad and cut texts for `model`, as options of its call.

    They are padded on the right, whatever the tokenizer states: many encoders number positions from the left, padding included.
    SigLIP was trained with padding that it attends to, on the side that its tokenizer states. Canine reads characters by fours.
    """
    options = {"truncation": True, "max_length": text_length(tokenizer, model)}
    if "siglip" in model.config.model_type:
        return options | {"padding": "max_length"}
    options |= {"padding": True, "padding_side": "right"}
    read_at_once = getattr(model.config.get_text_config(), "downsampling_rate", None)
    if read_at_once is not None:
        options["pad_to_multiple_of"] = read_at_once
        options["max_length"] -= options["max_length"] % read_at_once
    return options


def text_length(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel | None = None) -> int:
    """Give the number of tokens that texts are cut at: the least that tokenizer and `model` state, or 77 as in the paper.

    512, as XLM-R's tokenizers state, is as good as nothing: it is what the encoder can read, not what a CLIP was trained with.
    SigLIP 2's tokenizers state nothing, but the model has 64 positions. Encoders with relative positions have no number of them.

    Args:
        model: tells how many tokens it reads. Without it, what a tokenizer of XLM-R's kind states, unless it is the paper's 77,
            is taken for the number of the encoder's positions, of which two are never read (see `readable_tokens`).
    """
    stated = tokenizer.model_max_length
    if model is None:
        if stated >= ENCODER_LENGTH:
            return TEXT_LENGTH
        return stated if stated == TEXT_LENGTH else stated - positions_by_tokenizer(tokenizer)
    lengths = [stated] if stated < ENCODER_LENGTH else []
    if number_of_positions(model) < ENCODER_LENGTH:
        lengths.append(readable_tokens(model))
    return min(lengths, default=TRAINED_LENGTHS.get(model.config.model_type, TEXT_LENGTH))


def number_of_positions(model: PreTrainedModel) -> float:
    """Give how many positions the text tower has, as its configuration states; infinite where they are relative."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", math.inf)


def readable_tokens(model: PreTrainedModel) -> float:
    """Give how many tokens the text tower can read; infinite where its positions are relative.

    XLM-R and its kin (RoBERTa, CamemBERT, MPNet, Xmod, I-BERT) number positions from the one behind their padding's, so that they read
    two tokens fewer than they have positions (huggingface/transformers#14243). That padding is a row of the position embeddings.
    """
    return number_of_positions(model) - positions_before_texts(model)


def positions_before_texts(model: nn.Module) -> int:
    """Give how many positions an encoder keeps for padding, and never numbers a token with; 0 for most."""
    for name, module in model.named_modules():
        is_of_positions = name.endswith("position_embeddings") and isinstance(
            module, nn.Embedding | QuantEmbedding
        )
        if is_of_positions and module.padding_idx is not None:
            return module.padding_idx + 1
    return 0


def positions_by_tokenizer(tokenizer: PreTrainedTokenizerBase) -> int:
    """The same by a tokenizer: 2 for encoders of XLM-R's kind, and 0 for all others.

    Vocabularies of this kind begin with `<s> <pad> </s>`.
    """
    return 2 if (tokenizer.pad_token, tokenizer.pad_token_id) == ("<pad>", 1) else 0


def is_blank(text: str) -> bool:
    """Tell whether a text shows nothing: white space, control signs and characters without width, such as U+200B, alone."""
    return all(character.isspace() or category(character) in ("Cc", "Cf") for character in text)


def vocabulary_size(model: PreTrainedModel) -> float:
    """Give how many tokens the text tower has embeddings of; infinite where it needs none, as Canine, which hashes characters."""
    return getattr(model.config.get_text_config(), "vocab_size", math.inf)


def check_tokens(
    inputs: dict[str, torch.Tensor], names: Sequence[str], n_tokens: float, n_ids: float
) -> None:
    """Refuse tokens that a model cannot read: torch would end with an index of its own, or give a vector of padding.

    Args:
        inputs: `input_ids`, and mostly `attention_mask`, both `(texts, tokens)`, as the tokenizer gives them.
        names: what each text is called in messages.
        n_tokens: how many tokens of a text the model reads.
        n_ids: the size of its vocabulary.

    Raises:
        ValueError: a text has no token, too many, or one that the model does not know.
    """
    if "attention_mask" in inputs:
        lengths = inputs["attention_mask"].sum(dim=1).tolist()
        for name, length in zip(names, lengths):
            if length == 0:
                raise ValueError(
                    f"{name} has no token, and so no vector: drop it, or take a tokenizer that adds special tokens"
                )
            if length > n_tokens:
                raise ValueError(
                    f"{name} has {length} tokens, but the model reads {n_tokens} at most: let texts be cut at these"
                )
    for row, place in (inputs["input_ids"] >= n_ids).nonzero().tolist():
        raise ValueError(
            f"{names[row]} has the token {inputs['input_ids'][row, place]}, but the model's vocabulary ends before {n_ids}: take the "
            "tokenizer that it was trained with, or call model.resize_token_embeddings(len(tokenizer)) and train the new embeddings"
        )


def check_texts(texts: Sequence[str], name: str, start: int = 0) -> None:
    """Refuse what no tokenizer reads; `start` is the index of the first text.

    Raises:
        ValueError: it is no list of strings, or is empty, or a text holds half of a surrogate pair, as text that was cut
            within an escape such as `\\ud83d\\ude00` does. The message gives the index.
    """
    if not isinstance(texts, list | tuple):
        raise ValueError(f"{name} is a {type(texts).__name__}: give a list of strings")
    if not texts:
        raise ValueError(f"{name} is empty: give at least one string")
    for index, text in enumerate(texts, start):
        if not isinstance(text, str):
            raise ValueError(f"{name}[{index}] is {text!r}, not a string: drop it or write it out")
        check_text(text, f"{name}[{index}]")


def check_text(text: str, name: str) -> None:
    """Refuse a text with half of a surrogate pair, which has no bytes in UTF-8; see `check_texts`."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        half = text[error.start]
        raise ValueError(
            f"{name} is {text!r}: {half!r} is half of a character. Read the text anew from its source, or drop it"
        ) from None


__all__ = [
    "check_text",
    "check_texts",
    "check_tokens",
    "forget_calls",
    "is_blank",
    "readable_tokens",
    "text_length",
    "tokenize",
    "vocabulary_size",
]
