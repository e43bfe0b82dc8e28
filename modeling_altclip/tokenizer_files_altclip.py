"""Files of a tokenizer that are kept as they were, byte for byte, where the tokenizer is still the same.

transformers writes `tokenizer.json` anew whenever it saves: indented in its own way, and without the files of
SentencePiece and BPE that lie beside it. What other programs and their checksums know would be gone.
"""

import hashlib
from os import PathLike
from pathlib import Path

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase
from transformers.utils import cached_file

_STATE = "tokenizer.json"
# Where a tokenizer that was loaded carries its files: `{name: bytes}`, and the digest of what they made.
_FILES = "files_as_loaded"
_DIGEST = "digest_as_loaded"


def remember_files(tokenizer: PreTrainedTokenizerBase, name_or_path: str | PathLike, **hub_options) -> None:
    """Read the files of a tokenizer that has just been loaded, and changed in nothing since.

    Every model that is loaded comes by here, and few are saved: what takes time is left to `restore_files`.

    Args:
        name_or_path: the folder or Hub id that it was loaded from.
        hub_options: options of `from_pretrained` that say where the files are.
    """
    files = {}
    for name in sorted({_STATE, *tokenizer.vocab_files_names.values()}):
        path = cached_file(name_or_path, name, _raise_exceptions_for_missing_entries=False, **hub_options)
        if path is not None:
            files[name] = Path(path).read_bytes()
    setattr(tokenizer, _FILES, files)
    setattr(tokenizer, _DIGEST, _digest(tokenizer))


def _is_whole(content: bytes, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Check that a `tokenizer.json` has all tokens of `tokenizer`, and states no padding or truncation."""
    stated = Tokenizer.from_str(content.decode())
    is_called = stated.padding is not None or stated.truncation is not None
    return not is_called and stated.get_vocab(with_added_tokens=True) == tokenizer.get_vocab()


def restore_files(tokenizer: PreTrainedTokenizerBase, folder: str | PathLike) -> list[str]:
    """Write the files of a tokenizer as they were, if it has not changed since `remember_files`.

    A `tokenizer.json` is not kept if it states a padding or a truncation, which would pass for that of the
    model that it is saved with; or if it lacks tokens, which other files of the folder add.

    Args:
        folder: where the tokenizer has been saved.

    Returns:
        The paths of the files; none for a tokenizer that has changed, or whose files are not remembered.
    """
    files = vars(tokenizer).get(_FILES, {})
    if not files or vars(tokenizer)[_DIGEST] != _digest(tokenizer):
        return []
    paths = []
    for name, content in files.items():
        if name == _STATE and not _is_whole(content, tokenizer):
            continue
        path = Path(folder, name)
        path.write_bytes(content)
        paths.append(str(path))
    return paths


def _digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a digest of all that decides on a tokenizer's ids, and not of how it was called."""
    if not tokenizer.is_fast:
        return hashlib.sha256(repr(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()
    state = tokenizer.backend_tokenizer.to_str()
    # Truncation and padding come first. To read 250,000 pieces as JSON would take half a second.
    return hashlib.sha256(state[state.index('"added_tokens"') :].encode()).hexdigest()


__all__ = ["remember_files", "restore_files"]
