"""How text towers were trained to read texts, where their files do not say it.

SigLIP reads lower case without punctuation, in 64 tokens whose padding it attends to. With other texts its
embeddings are worse, without an error: capitals alone (google-research/big_vision#187), punctuation alone
(NVlabs/RADIO#142: 12 points of zero-shot accuracy), or padding to the longest text
(google-research/big_vision#186).
"""

import json
import re
from dataclasses import dataclass
from unicodedata import normalize

from tokenizers import Regex
from tokenizers.normalizers import NFC, Lowercase, Prepend, Replace, Sequence, Strip
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TokenizersBackend


@dataclass(frozen=True)
class TextReading:
    """How a model was trained to read texts, beyond what its tokenizer and its positions state.

    Args:
        length: tokens that texts had in training. None if the tokenizer or the number of positions says it.
        is_canonical: texts are canonicalized, see `canonicalize`.
        attends_to_padding: every text is padded to the full length, on the side that the tokenizer states,
            and the padding is not masked.
    """

    length: int | None = None
    is_canonical: bool = False
    attends_to_padding: bool = False


_SIGLIP = TextReading(is_canonical=True, attends_to_padding=True)

# By the type of a model with two towers, or of its text tower alone. ChineseCLIP's files state 512 tokens.
_READINGS = {
    "siglip": _SIGLIP,
    "siglip_text_model": _SIGLIP,
    "siglip2": _SIGLIP,
    "siglip2_text_model": _SIGLIP,
    "chinese_clip": TextReading(length=52),
    "chinese_clip_text_model": TextReading(length=52),
}


def text_reading(model: PreTrainedModel) -> TextReading:
    """Return how `model` was trained to read texts.

    Example:

    ```python
    >>> from transformers import SiglipTextConfig, SiglipTextModel
    >>> from modeling_altclip.reading_altclip import text_reading

    >>> text_reading(SiglipTextModel(SiglipTextConfig(vocab_size=9, hidden_size=12, num_hidden_layers=1)))
    TextReading(length=None, is_canonical=True, attends_to_padding=True)
    ```
    """
    return _READINGS.get(model.config.model_type, TextReading())


# Characters that open_clip writes as others, through ftfy: ligatures, and letters of half and full width.
_LIGATURES = "ĲĳŉǄǅǆǇǈǉǊǋǌǱǲǳﬀﬁﬂﬃﬄﬅﬆ"
_WIDTHS = "".join(map(chr, range(0xFF01, 0xFFEF)))
_HAS_FORMS = re.compile(f"[{_LIGATURES}{_WIDTHS[0]}-{_WIDTHS[-1]}]")
# White space of Python's `str.split`, without control characters, which are removed before.
_WHITE_SPACE = r"[\t\n\f\r \x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}]+"
_CONTROL = r"[\x{0}-\x{8}\x{b}\x{e}-\x{1f}\x{7f}\x{206a}-\x{206f}\x{feff}\x{fff9}-\x{fffc}]"
_CURLY_QUOTES = r"[\x{2bc}\x{2018}-\x{201f}]"
_PUNCTUATION = r"[!-/:-@\[-`{-~]"  # `string.punctuation`
# Σ at the end of a word: after a letter and before none. Accents and their like do not count as letters.
_LETTER = r"[\p{Cased}&&[^\p{Case_Ignorable}]]"
_FINAL_SIGMA = rf"(?<={_LETTER}\p{{Case_Ignorable}}*)Σ(?!\p{{Case_Ignorable}}*{_LETTER})"


def _written_out(character: str) -> str:
    """Return the letters that open_clip writes for a character of `_LIGATURES` or `_WIDTHS`."""
    return "ſt" if character == "ﬅ" else normalize("NFKC", character)


# Ｔ -> T, ﬁ -> fi. They are 250 steps, and most texts need none of them.
_FORMS = [Replace(character, _written_out(character)) for character in _LIGATURES + _WIDTHS]
# The rest, in open_clip's order. Python's `str.lower` knows the final sigma, and `Lowercase` does not.
_COMMON = [
    Replace(Regex(_CURLY_QUOTES), "'"),
    Replace(Regex(_CONTROL), ""),
    NFC(),
    Replace("_", " "),
    Replace(Regex(_PUNCTUATION), ""),
    Replace(Regex(_FINAL_SIGMA), "ς"),
    Lowercase(),
    Replace(Regex(_WHITE_SPACE), " "),
    Strip(),
]
_CANONICAL = Sequence([*_FORMS, *_COMMON])
_WITHOUT_FORMS = Sequence(_COMMON)


def canonicalize(text: str) -> str:
    """Return a text as SigLIP reads it: in lower case, without ASCII punctuation, with single spaces.

    An underscore becomes a space. Curly quotes and the full-width forms of ASCII count as ASCII, and
    characters are composed (NFC). Punctuation of other scripts stays: `。`, `،`, `«`.

    These are the strings of open_clip's `clean="canonicalize"`, which all of its SigLIP models state, with
    four exceptions: HTML entities (`&eacute;`), text decoded with a wrong encoding (`cafÃ©`), terminal colors
    and the control characters U+0080 to U+009F are not repaired. big_vision, whose models these are, does so
    with class names and prompt templates (`prompt_engineering.canonicalize_text`), but only lowers captions,
    in the demo of SigLIP 2.

    Example:

    ```python
    >>> from modeling_altclip.reading_altclip import canonicalize

    >>> canonicalize("A photo of a “Red_Apple”,  Ｔシャツ!")
    'a photo of a red apple tシャツ'
    ```
    """
    steps = _CANONICAL if _HAS_FORMS.search(text) else _WITHOUT_FORMS
    return steps.normalize_str(text)


def canonical_tokenizer(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Return a tokenizer with the ids of `tokenizer` that canonicalizes its texts by itself.

    It is of transformers' general class, which keeps the steps in `tokenizer.json`: the classes of Gemma's
    tokenizers build their own anew when they are loaded. Special tokens that a text spells out, as `<eos>`,
    are still found in it: `canonicalize` texts first where that matters, as `embed_texts` does.

    `SiglipTokenizer`, of SigLIP's first version, is written in Python and canonicalizes by itself, but for
    underscores, which it removes. It is returned as it is.

    Args:
        tokenizer: stays as it is.
    """
    if not tokenizer.is_fast or _is_canonical(tokenizer):
        return tokenizer
    return _with_steps(tokenizer, [*_FORMS, *_COMMON])


def prompted_tokenizer(tokenizer: PreTrainedTokenizerBase, prompt: str) -> PreTrainedTokenizerBase:
    """Return a tokenizer that writes a prompt before every text by itself, such as mE5's "query: ".

    It is of transformers' general class, which keeps the prompt in `tokenizer.json`, so that embedding,
    pipelines and plain transformers read it alike.

    Args:
        tokenizer: stays as it is.

    Raises:
        ValueError: the tokenizer is written in Python, and has no steps that could be added to.

    Example:

    ```python
    >>> from transformers import AutoTokenizer
    >>> from modeling_altclip.reading_altclip import prompted_tokenizer

    >>> tokenizer = AutoTokenizer.from_pretrained("outputs/miniature/altclip")
    >>> prompted = prompted_tokenizer(tokenizer, "dog ")
    >>> prompted("cat")["input_ids"] == tokenizer("dog cat")["input_ids"]
    True
    ```
    """
    if not tokenizer.is_fast:
        raise ValueError(f"a {type(tokenizer).__name__} cannot be given the prompt {prompt!r}: leave it out")
    return _with_steps(tokenizer, [Prepend(prompt)])


def _with_steps(tokenizer: PreTrainedTokenizerBase, steps: list) -> TokenizersBackend:
    """Return a tokenizer that normalizes texts by `steps` before the steps of `tokenizer`."""
    changed = TokenizersBackend(
        tokenizer_object=tokenizer.backend_tokenizer,
        model_max_length=tokenizer.model_max_length,
        model_input_names=tokenizer.model_input_names,
        padding_side=tokenizer.padding_side,
        truncation_side=tokenizer.truncation_side,
        **tokenizer.special_tokens_map,
    )
    backend = changed.backend_tokenizer
    own_steps = [] if backend.normalizer is None else [backend.normalizer]
    backend.normalizer = Sequence([*steps, *own_steps])
    return changed


def _is_canonical(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Check that a tokenizer begins with the steps of `canonicalize`."""
    normalizer = tokenizer.backend_tokenizer.normalizer
    return isinstance(normalizer, Sequence) and _steps_of(normalizer)[: len(_STEPS)] == _STEPS


def _steps_of(normalizer: Sequence) -> list[dict]:
    """Return the steps of a sequence as `tokenizer.json` has them."""
    return json.loads(normalizer.__getstate__())["normalizers"]


_STEPS = _steps_of(_CANONICAL)

__all__ = ["TextReading", "canonical_tokenizer", "canonicalize", "prompted_tokenizer", "text_reading"]
