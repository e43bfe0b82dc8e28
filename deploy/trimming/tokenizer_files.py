"""Write the files of a tokenizer without the pieces that are removed, and read texts by each of them.

A folder may have two files with the same pieces: `tokenizer.json`, which transformers reads, and
SentencePiece's own, such as `sentencepiece.bpe.model`. Their ids differ: fairseq, which trained XLM-R, gave
its own special tokens the first ids and `<mask>` the last one, so that `,` is 3 in one file and 4 in the
other. Pieces are therefore known by their names, and keep their order: the ids differ as before.
"""

import json
from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass
from pathlib import Path

from sentencepiece import SentencePieceProcessor
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import import_protobuf

from common.errors import InputError
from common.extras import of_extra
from common.files.whole_files import write_text, written_whole
from modeling_altclip.texts_altclip import tokenize
from modeling_altclip.tokenizer_files_altclip import remember_files, restore_files

_STATE = "tokenizer.json"


@dataclass(frozen=True)
class _Reader:
    """One of the libraries that read texts by a tokenizer's files.

    Attributes:
        read: returns the ids of each text, without padding and of any length.
        piece_of: returns the piece of an id.
    """

    read: Callable[[list[str]], list[list[int]]]
    piece_of: Callable[[int], str]


class TokenizerFiles:
    """The files of a Unigram tokenizer in a folder that may be written to.

    Attributes:
        scores: the score of each piece, without special tokens, in the order of their ids.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, folder: Path):
        """Write the files of a tokenizer into a folder, byte for byte as they were loaded.

        Raises:
            InputError: the tokenizer is of another kind, or its two files have other pieces.
        """
        self._tokenizer = tokenizer
        self._folder = folder
        tokenizer.save_pretrained(folder)
        restore_files(tokenizer, folder)
        self._state = _read_state(tokenizer, folder / _STATE)
        special = {token["content"] for token in self._state["added_tokens"]}
        self.scores = {piece: score for piece, score in self._state["model"]["vocab"] if piece not in special}
        self._sentencepiece = _find_sentencepiece(tokenizer, folder)
        if self._sentencepiece is not None:
            self._check_sentencepiece()

    def pieces_of(self, batches: Iterable[list[str]]) -> set[str]:
        """Return all pieces that texts are read as, by any library that may read these files.

        The libraries agree but for odd white space and characters, and equal scores, which are rare.
        """
        readers = [reader_of(self._tokenizer), _reader_of_library(self._folder / _STATE)]
        if self._sentencepiece is not None:
            readers.append(_reader_of_sentencepiece(self._sentencepiece))
        found = [set() for _ in readers]
        for texts in batches:
            for reader, ids in zip(readers, found):
                ids.update(*reader.read(texts))
        pieces = set()
        for reader, ids in zip(readers, found):
            pieces.update(map(reader.piece_of, ids))
        return pieces

    def trim(self, kept: Set[str]) -> PreTrainedTokenizerBase:
        """Remove all pieces but `kept` from the files, and load the tokenizer anew.

        Special tokens stay.
        """
        self._trim_state(kept)
        if self._sentencepiece is not None:
            self._trim_sentencepiece(kept)
        tokenizer = type(self._tokenizer).from_pretrained(self._folder)
        remember_files(tokenizer, self._folder)
        return tokenizer

    def _trim_state(self, kept: Set[str]) -> None:
        """Write `tokenizer.json` anew: its pieces, and the ids of its special tokens wherever they stand."""
        model = self._state["model"]
        old_vocabulary = model["vocab"]
        removed = self.scores.keys() - kept
        model["vocab"] = [entry for entry in old_vocabulary if entry[0] not in removed]

        # Special tokens have ids among those of the pieces or after them.
        tokens = {number: piece for number, (piece, _) in enumerate(old_vocabulary)}
        tokens |= {token["id"]: token["content"] for token in self._state["added_tokens"]}
        staying = [number for number, token in sorted(tokens.items()) if token not in removed]
        new_ids = {old: new for new, old in enumerate(staying)}

        model["unk_id"] = new_ids[model["unk_id"]]
        for token in self._state["added_tokens"]:
            token["id"] = new_ids[token["id"]]
        _renumber(self._state["post_processor"], new_ids)
        if self._state["padding"] is not None:
            self._state["padding"]["pad_id"] = new_ids[self._state["padding"]["pad_id"]]
        write_text(self._folder / _STATE, json.dumps(self._state, ensure_ascii=False))

    def _trim_sentencepiece(self, kept: Set[str]) -> None:
        """Write SentencePiece's file anew, with all pieces that are no plain ones."""
        model = _read_sentencepiece(self._sentencepiece)
        staying = [piece for piece in model.pieces if piece.type != piece.NORMAL or piece.piece in kept]
        del model.pieces[:]
        model.pieces.extend(staying)
        model.trainer_spec.vocab_size = len(staying)
        with written_whole(self._sentencepiece) as file:
            file.write(model.SerializeToString())

    def _check_sentencepiece(self) -> None:
        """Refuse SentencePiece's file if its pieces are not those of `tokenizer.json`, in the same order."""
        model = _read_sentencepiece(self._sentencepiece)
        pieces = [piece.piece for piece in model.pieces if piece.type == piece.NORMAL]
        if pieces != list(self.scores):
            raise InputError(
                f"the tokenizer's files {_STATE} and {self._sentencepiece.name} have other pieces: remove "
                "the one that the model was not trained with"
            )


def reader_of(tokenizer: PreTrainedTokenizerBase) -> _Reader:
    """Return the reader of a tokenizer of transformers."""

    def read(texts: list[str]) -> list[list[int]]:
        return tokenize(tokenizer, texts, padding=False, truncation=False, verbose=False)["input_ids"]

    return _Reader(read, tokenizer.convert_ids_to_tokens)


def _reader_of_library(path: Path) -> _Reader:
    """Return the reader of a `tokenizer.json` by the library tokenizers, as other programs use it."""
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.no_truncation()

    def read(texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in tokenizer.encode_batch(texts)]

    return _Reader(read, tokenizer.id_to_token)


def _reader_of_sentencepiece(path: Path) -> _Reader:
    """Return the reader of SentencePiece's file."""
    processor = SentencePieceProcessor(model_file=str(path))
    return _Reader(processor.encode, processor.id_to_piece)


def _read_state(tokenizer: PreTrainedTokenizerBase, path: Path) -> dict:
    """Read a `tokenizer.json`.

    Raises:
        InputError: there is none, since the tokenizer is written in Python; or it has no Unigram model.
    """
    name = type(tokenizer).__name__
    if not tokenizer.is_fast:
        raise InputError(f"the tokenizer is a {name}, which has no {_STATE}: save a fast one in the folder")
    state = json.loads(path.read_text("utf-8"))
    kind = state["model"].get("type")
    if kind != "Unigram":
        raise InputError(
            f"the tokenizer is a {name}, a {kind} model: only Unigram vocabularies, such as those of XLM-R "
            "and mE5, can be trimmed. WordPiece takes the longest piece first and BPE merges pieces in an "
            "order, so that texts could be read in other ways"
        )
    return state


def _find_sentencepiece(tokenizer: PreTrainedTokenizerBase, folder: Path) -> Path | None:
    """Return SentencePiece's file, which not every folder has."""
    name = tokenizer.vocab_files_names.get("vocab_file", "")
    path = folder / name
    return path if name.endswith(".model") and path.is_file() else None


def _read_sentencepiece(path: Path):
    """Read SentencePiece's file as the message of protobuf that it is."""
    with of_extra("trimming"):
        import google.protobuf  # noqa: F401  (transformers names another remedy)
    return import_protobuf().ModelProto.FromString(path.read_bytes())


def _renumber(post_processor: dict | None, new_ids: dict[int, int]) -> None:
    """Renumber the special tokens that a post-processor writes around texts.

    {"sep": ["</s>", 2]}, {"special_tokens": {"</s>": {"ids": [2], ...}}}, or several of them in a sequence
    """
    if post_processor is None:
        return
    for step in post_processor.get("processors", []):
        _renumber(step, new_ids)
    for name in ("sep", "cls"):
        if name in post_processor:
            token, number = post_processor[name]
            post_processor[name] = [token, new_ids[number]]
    for token in post_processor.get("special_tokens", {}).values():
        token["ids"] = [new_ids[number] for number in token["ids"]]


__all__ = ["TokenizerFiles", "reader_of"]
