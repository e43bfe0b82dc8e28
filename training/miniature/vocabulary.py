"""Train the miniature's tokenizers on its captions: SentencePiece as XLM-R's, and BPE as CLIP's."""

import json
import string
from collections.abc import Iterable

from tokenizers.trainers import BpeTrainer
from transformers import CLIPTokenizer, XLMRobertaTokenizer

from training.vocabulary import train_pieces

MAX_LENGTH = 77


def train_multilingual_tokenizer(texts: Iterable[str], vocab_size: int) -> XLMRobertaTokenizer:
    """Train a unigram SentencePiece model with XLM-R's special tokens.

    Their ids are <s> 0, <pad> 1, </s> 2, <unk> 3, and <mask> last.

    The tokenizer is built from the pieces and the model's NFKC table, not from its file: that needs no
    protobuf, and the saved folder loads in transformers 4 as well.
    """
    pieces, charsmap = train_pieces(texts, vocab_size)
    special = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
    return XLMRobertaTokenizer(
        vocab=[*special, *pieces, ("<mask>", 0.0)],
        _spm_precompiled_charsmap=charsmap,
        model_max_length=MAX_LENGTH,
    )


def train_english_tokenizer(texts: Iterable[str], vocab_size: int, **options) -> CLIPTokenizer:
    """Train CLIP's lower-casing byte-pair tokenizer.

    Every ASCII character is in its vocabulary, alone and within words. Characters that end a word get their
    ids first: left to itself, the trainer numbers them in an order that differs from run to run, and breaks
    ties between merges by these numbers.

    Args:
        options: of the tokenizer, such as `model_input_names`, where they are not CLIP's.
    """
    characters = string.ascii_lowercase + string.digits + string.punctuation
    first = ["<|startoftext|>", "<|endoftext|>", *(character + "</w>" for character in characters)]
    # An untrained CLIP tokenizer gives the normaliser and the pre-tokenizer.
    vocab = {token: index for index, token in enumerate(first)}
    tokenizer = CLIPTokenizer(vocab=vocab, merges=[]).backend_tokenizer
    trainer = BpeTrainer(
        vocab_size=vocab_size, special_tokens=first, end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator([*texts, " ".join(characters)], trainer)
    model = json.loads(tokenizer.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    options = {"model_max_length": MAX_LENGTH} | options
    return CLIPTokenizer(vocab=model["vocab"], merges=merges, **options)
