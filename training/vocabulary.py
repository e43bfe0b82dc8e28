"""Train SentencePiece vocabularies in XLM-R's form, and extend them by scripts that a tokenizer lacks."""

import base64
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator

import sentencepiece
from transformers import PreTrainedTokenizerBase, XLMRobertaTokenizer

from common.errors import InputError, one_line

_COVERAGE = 0.9995
_SAMPLE = 1_000_000  # the most texts that pieces are trained on


def train_pieces(texts: Iterable[str], vocab_size: int, **options) -> tuple[list[tuple[str, float]], bytes]:
    """Train a unigram SentencePiece model (Kudo 2018).

    Args:
        options: further options of `SentencePieceTrainer`.

    Returns:
        Its pieces with their scores, `("▁dog", -5.2)`, without the special ones, and its NFKC table.

    Raises:
        InputError: the texts are too few for a vocabulary of this size, or cannot be read.
    """
    model = io.BytesIO()
    try:
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
    except (RuntimeError, ValueError) as error:  # SentencePiece has no errors of its own
        raise InputError(
            f"a vocabulary of {vocab_size} pieces cannot be trained on these texts ({one_line(error)}): give "
            "more texts, or another size"
        ) from error
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    # The first three are <unk>, <s> and </s>.
    scored = [(pieces.id_to_piece(i), pieces.get_score(i)) for i in range(3, pieces.get_piece_size())]
    return scored, _read_charsmap(model.getvalue())


def extend_tokenizer(
    tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], n_pieces: int
) -> XLMRobertaTokenizer:
    """Extend a tokenizer by the characters of `texts` that are unknown to it.

    Only pieces with such a character are added, after all others, so that all other texts get the same ids as
    before. The rarest 0.05 % of unknown characters stay unknown.

    Args:
        n_pieces: the most pieces to add: first the unknown characters themselves, then the most frequent.

    Raises:
        InputError: the tokenizer is none of XLM-R's kind, or has tokens beside its pieces; or `n_pieces` are
            too few.
    """
    state = _read_state(tokenizer)
    known = [tuple(piece) for piece in state["model"]["vocab"]]
    added = sorted(set(tokenizer.get_added_vocab()) - {piece for piece, _ in known})
    if added:
        raise InputError(
            f"the tokenizer has tokens beside its pieces, {' '.join(added)}, whose ids new pieces would "
            "take: leave new_pieces out"
        )

    texts = list(texts)
    known_characters = set()
    for piece, _ in known:
        known_characters.update(piece)
    charsmap = base64.b64decode(_find_charsmap(state["normalizer"]))
    normalize = tokenizer.backend_tokenizer.normalizer.normalize_str
    counts = Counter()  # of characters that no piece contains
    for text in texts:
        for character in normalize(text):
            # Spaces are part of pieces as "▁", and so are not unknown.
            if character not in known_characters and character != " ":
                counts[character] += 1
    if not counts:
        return tokenizer
    unknown = set(frequent(counts))
    if len(unknown) > n_pieces:
        raise InputError(
            f"new_pieces is {n_pieces}, but the texts have {len(unknown)} characters that the tokenizer does "
            "not know"
        )
    pieces = _train_new_pieces(texts, unknown, n_pieces)
    return XLMRobertaTokenizer(
        vocab=known + pieces[:n_pieces],  # new ids come last, so that no old one changes
        _spm_precompiled_charsmap=charsmap,
        model_max_length=tokenizer.model_max_length,
    )


def _read_state(tokenizer: PreTrainedTokenizerBase) -> dict:
    """Return the state of the tokenizer's backend, `{"model": {"vocab": ...}, "normalizer": ..., ...}`.

    Raises:
        InputError: the tokenizer is none of XLM-R's kind, with a unigram model.
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
    return state


def _train_new_pieces(texts: list[str], unknown: set[str], n_pieces: int) -> list[tuple[str, float]]:
    """Train pieces on `texts` and return those with an unknown character, in the order in which to take them.

    Single unknown characters come first, so that each of them can be read; then come the best scores.
    """
    # Pieces of known characters alone are trained as well and dropped: hence twice as many as wanted.
    pieces, _ = train_pieces(
        texts,
        len(unknown) + 2 * n_pieces,
        hard_vocab_limit=False,
        input_sentence_size=_SAMPLE,
        shuffle_input_sentence=len(texts) > _SAMPLE,
    )
    new = [(piece, score) for piece, score in pieces if not unknown.isdisjoint(piece)]

    def rank(scored: tuple[str, float]) -> tuple[bool, float]:
        piece, score = scored
        is_longer = piece not in unknown  # False, of a single character, sorts first
        return is_longer, -score

    return sorted(new, key=rank)


def frequent(counts: Counter) -> list[str]:
    """Return the most frequent characters, which make up 99.95 % of all.

    As with SentencePiece's own default, stray characters are left out.
    """
    total = sum(counts.values())
    seen = 0
    kept = []
    for character, count in counts.most_common():
        if seen >= _COVERAGE * total:
            break
        kept.append(character)
        seen += count
    return kept


def _find_charsmap(normalizer: dict | None) -> str:
    """Return the NFKC table, in base64, among the steps of a tokenizer's normalizer.

    Raises:
        InputError: it has none.
    """
    steps = normalizer.get("normalizers", [normalizer]) if normalizer else []
    for step in steps:
        if step.get("precompiled_charsmap"):
            return step["precompiled_charsmap"]
    raise InputError(
        "new_pieces extends tokenizers with SentencePiece's NFKC table, which this has not: leave it out"
    )


def _read_charsmap(model: bytes) -> bytes:
    """Read the NFKC table from a serialised SentencePiece model.

    It is field 2 of the normalizer spec, which is field 3 of the model (sentencepiece_model.proto).
    """
    normalizer = next(value for field, value in _protobuf_fields(model) if field == 3)
    return next(value for field, value in _protobuf_fields(normalizer) if field == 2)


def _protobuf_fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield number and value of each field of a protobuf message.

    Only the wire types that SentencePiece uses are read: 0 is a varint, 1 has 8 bytes, 2 a length before its
    bytes, 5 has 4 bytes. A value of type 0 is a number, all others are bytes.
    """
    position = 0

    def read_varint() -> int:
        # Seven bits a byte, the lowest first; the eighth bit says that another byte follows.
        nonlocal position
        value = 0
        shift = 0
        while True:
            byte = message[position]
            position += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while position < len(message):
        key = read_varint()
        number = key >> 3
        wire_type = key & 7
        if wire_type == 0:
            yield number, read_varint()
        else:
            length = read_varint() if wire_type == 2 else {1: 8, 5: 4}[wire_type]
            yield number, message[position : position + length]
            position += length


__all__ = ["extend_tokenizer", "train_pieces"]
