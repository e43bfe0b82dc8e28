"""The miniature's two tokenizers, both trained on its captions: a SentencePiece one as XLM-R's, and a BPE one as CLIP's."""

import io
import json
import string
from collections.abc import Iterable, Iterator

import sentencepiece
from tokenizers.trainers import BpeTrainer
from transformers import CLIPTokenizer, XLMRobertaTokenizer

MAX_LENGTH = 77


def train_multilingual_tokenizer(texts: Iterable[str], vocab_size: int) -> XLMRobertaTokenizer:
    """Train a unigram SentencePiece model and give it XLM-R's special tokens: <s> 0, <pad> 1, </s> 2, <unk> 3, <mask> last.

    The tokenizer is built from the pieces and the model's NFKC table, not from its file: that needs no protobuf, and the
    saved folder loads in transformers 4 as well.
    """
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        vocab_size=vocab_size,
        model_type="unigram",
        character_coverage=1.0,
        normalization_rule_name="nmt_nfkc",
        minloglevel=2,
    )
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    vocab = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocab += [(pieces.id_to_piece(i), pieces.get_score(i)) for i in range(3, pieces.get_piece_size())]
    vocab += [("<mask>", 0.0)]
    return XLMRobertaTokenizer(vocab=vocab, _spm_precompiled_charsmap=read_charsmap(model.getvalue()), model_max_length=MAX_LENGTH)


def train_english_tokenizer(texts: Iterable[str], vocab_size: int) -> CLIPTokenizer:
    """Train CLIP's lower-casing byte-pair tokenizer; every ASCII character is in its vocabulary, alone and within words.

    Characters that end a word get their ids first: left to itself, the trainer numbers them in an order that differs from
    run to run, and breaks ties between merges by these numbers.
    """
    characters = string.ascii_lowercase + string.digits + string.punctuation
    first = ["<|startoftext|>", "<|endoftext|>", *(character + "</w>" for character in characters)]
    tokenizer = CLIPTokenizer(vocab={token: index for index, token in enumerate(first)}, merges=[]).backend_tokenizer
    trainer = BpeTrainer(vocab_size=vocab_size, special_tokens=first, end_of_word_suffix="</w>", show_progress=False)
    tokenizer.train_from_iterator([*texts, " ".join(characters)], trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return CLIPTokenizer(vocab=model["vocab"], merges=[tuple(merge) for merge in model["merges"]], model_max_length=MAX_LENGTH)


def read_charsmap(model: bytes) -> bytes:
    """Find the NFKC table in a serialised SentencePiece model: field 2 of its normalizer spec, which is field 3."""
    normalizer = next(value for field, value in _protobuf_fields(model) if field == 3)
    return next(value for field, value in _protobuf_fields(normalizer) if field == 2)


def _protobuf_fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield number and value of each field of a protobuf message, whose wire format has four types here."""
    position = 0

    def read_varint() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = message[position]
            position += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while position < len(message):
        key = read_varint()
        if key & 7 == 0:
            yield key >> 3, read_varint()
            continue
        length = {1: 8, 2: None, 5: 4}[key & 7]
        length = read_varint() if length is None else length
        yield key >> 3, message[position : position + length]
        position += length
