"""SentencePiece vocabularies in XLM-R's form: trained on texts, and extended by scripts that a tokenizer
cannot read yet.
"""

import base64
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator

import sentencepiece
from transformers import PreTrainedTokenizerBase, XLMRobertaTokenizer

from benchmarks.recipe import InputError

COVERAGE = 0.9995
SAMPLE = 1_000_000  # texts that pieces are trained on, of more


def train_pieces(texts: Iterable[str], vocab_size: int, **options) -> tuple[list[tuple[str, float]], bytes]:
    """Train a unigram SentencePiece model; `options` are the trainer's.

    Returns:
        Its pieces with their scores, special ones left out, and its NFKC table.
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
        **options,
    )
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    scored = [(pieces.id_to_piece(i), pieces.get_score(i)) for i in range(3, pieces.get_piece_size())]
    return scored, read_charsmap(model.getvalue())


def extend_tokenizer(
    tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], n_pieces: int
) -> XLMRobertaTokenizer:
    """A tokenizer that also reads the characters of `texts` which are unknown to the given one.

    Only pieces with such a character are added, after all others: whatever could be read before gets the same
    ids as before. The rarest 0.05 % of unknown characters stay unknown.

    Args:
        n_pieces: at most so many pieces, the unknown characters themselves first, then the most frequent.

    Raises:
        InputError: the tokenizer is none of XLM-R's kind, or has tokens beside its pieces; or `n_pieces` are
            too few.
    """
    if not isinstance(tokenizer, XLMRobertaTokenizer):
        raise InputError(
            f"new_pieces extends tokenizers of XLM-R's kind, not a {type(tokenizer).__name__}: leave it out"
        )
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    if state["model"]["type"] != "Unigram":
        raise InputError(
            f"new_pieces extends tokenizers of SentencePiece's unigrams, not of {state['model']['type']}: "
            "leave it out"
        )
    texts = list(texts)
    known = [tuple(piece) for piece in state["model"]["vocab"]]
    added = sorted(set(tokenizer.get_added_vocab()) - {piece for piece, _ in known})
    if added:
        raise InputError(
            f"the tokenizer has tokens beside its pieces, {' '.join(added)}, whose ids new pieces would "
            "take: leave new_pieces out"
        )
    readable = {character for piece, _ in known for character in piece}
    normalize = tokenizer.backend_tokenizer.normalizer.normalize_str
    counts = Counter(
        character
        for text in texts
        for character in normalize(text)
        if character not in readable and character != " "
    )
    if not counts:
        return tokenizer
    unknown = set(frequent(counts))
    if len(unknown) > n_pieces:
        raise InputError(
            f"new_pieces is {n_pieces}, but the texts have {len(unknown)} characters that the tokenizer does "
            "not know"
        )
    sample = {"input_sentence_size": SAMPLE, "shuffle_input_sentence": len(texts) > SAMPLE}
    pieces, _ = train_pieces(texts, len(unknown) + 2 * n_pieces, hard_vocab_limit=False, **sample)
    pieces = [(piece, score) for piece, score in pieces if not unknown.isdisjoint(piece)]
    pieces.sort(key=lambda piece: (piece[0] not in unknown, -piece[1]))
    charsmap = base64.b64decode(find_charsmap(state["normalizer"]))
    return XLMRobertaTokenizer(
        vocab=known + pieces[:n_pieces],
        _spm_precompiled_charsmap=charsmap,
        model_max_length=tokenizer.model_max_length,
    )


def frequent(counts: Counter) -> list[str]:
    """The most frequent characters, that make up 99.95 % of all: as SentencePiece's own default, it leaves
    out what strays in.
    """
    total, seen, kept = sum(counts.values()), 0, []
    for character, count in counts.most_common():
        if seen >= COVERAGE * total:
            break
        kept.append(character)
        seen += count
    return kept


def find_charsmap(normalizer: dict) -> str:
    """The NFKC table among the steps of a normalizer."""
    steps = normalizer.get("normalizers", [normalizer])
    return next(step["precompiled_charsmap"] for step in steps if "precompiled_charsmap" in step)


def read_charsmap(model: bytes) -> bytes:
    """Find the NFKC table in a serialised SentencePiece model: field 2 of its normalizer spec, which is field
    3.
    """
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


__all__ = ["extend_tokenizer", "train_pieces"]
