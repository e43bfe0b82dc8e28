"""Which translations are skipped, and why: those that say nothing, repeat themselves, or say something else.

The similarity of a sentence and its translation is measured by a text encoder that knows both languages. It
is kept, whether a translation is skipped or not, so that another threshold needs no new computation. A
translation back would say less for more: it takes another model as slow as the first, and counts the
mistakes of both.
"""

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from common.files.names import file_name
from modeling_altclip.texts_altclip import is_blank

from ..text_similarity import TextEncoder, text_similarities
from .sentence_files import SentenceFile
from .translating import TranslationArguments

_EMPTY = "empty"
_REPETITION = "repetition"
# A piece of 2 to 40 characters that comes four times in a row.
_REPEATED = re.compile(r"(.{2,40}?)\1{3,}", re.DOTALL)
_LONGEST = 10_000  # characters
_DIGITS = 4  # of a similarity, more than differ from one machine to another
_BATCHES = 16  # of texts that are encoded between two writes
_N_EXAMPLES = 10


@dataclass
class Checked:
    """The translations of one language.

    Attributes:
        made_by: the model and settings that made them.
        kept: `{sentence: translation}` without those that are skipped.
        counts: the number of those that are skipped, by reason.
        examples: by reason, the first ten sentences and their translations.
        similarities: `{sentence: similarity}`, of those that are skipped too; None without an encoder.
    """

    made_by: dict
    kept: dict[str, str] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    similarities: dict[str, float] | None = None

    @property
    def n_sentences(self) -> int:
        return len(self.kept) + self.counts.total()


def check_translations(
    translations: dict[str, str],
    made_by: dict,
    similarities: dict[str, float] | None,
    arguments: TranslationArguments,
) -> Checked:
    """Skip translations that are no good, and count them by reason.

    Args:
        translations: `{sentence: translation}`.
        made_by: what made them.
        similarities: of the sentences whose translations are not empty; None without an encoder.
    """
    checked = Checked(made_by, similarities=similarities)
    for sentence, translation in translations.items():
        reason = _reason_of_text(sentence, translation, arguments)
        if reason is None and arguments.least_similarity is not None:
            if similarities[sentence] < arguments.least_similarity:
                reason = f"similarity below {arguments.least_similarity:g}"
        if reason is None:
            checked.kept[sentence] = translation
            continue
        checked.counts[reason] += 1
        examples = checked.examples.setdefault(reason, [])
        if len(examples) < _N_EXAMPLES:
            examples.append((sentence, translation))
    return checked


def _reason_of_text(sentence: str, translation: str, arguments: TranslationArguments) -> str | None:
    """Return the reason to skip a translation that can be seen in the texts, or None."""
    if is_blank(translation):
        return _EMPTY
    if arguments.skip_copied and _folded(translation) == _folded(sentence):
        return f"equal to the text in {arguments.source_language}"
    if arguments.skip_repetition and _repeats(translation) and not _repeats(sentence):
        return _REPETITION
    return None


def _folded(text: str) -> str:
    """Return a text without capitals and spaces, and without a full stop at its end."""
    return "".join(text.casefold().split()).rstrip(".")


def _repeats(text: str) -> bool:
    """Check that a piece of a text comes four times in a row, as where a model does not find an end.

    `"dog dog dog dog"` does: the space behind the last word counts. Of a text that is far too long to be
    translated as a whole, the beginning is looked at.
    """
    return _REPEATED.search(f"{text[:_LONGEST]} ") is not None


def similarities_of(
    translations: dict[str, str],
    language: str,
    encoder: TextEncoder,
    made_by: dict,
    arguments: TranslationArguments,
) -> dict[str, float]:
    """Return the similarity of each sentence and its translation that is not empty.

    `translations/LANGUAGE.similarity.jsonl` holds those that are computed, rounded to four digits.

    Args:
        made_by: what made the translations.

    Raises:
        InputError: the file is of another encoder or of other translations, or is damaged; or as
            `text_similarities`.
    """
    of_encoder = {"model": encoder.name, "weights": encoder.weights, "prefix": arguments.similarity_prefix}
    file = SentenceFile(
        path=Path(arguments.output_dir, "translations", f"{file_name(language)}.similarity.jsonl"),
        made_by=of_encoder | {"translations": made_by},
        sentence=arguments.source_language,
        value="similarity",
        kind=float,
        what="similarity",
    )

    def compare(batch: list[str]) -> list[float]:
        targets = [translations[sentence] for sentence in batch]
        found = text_similarities(encoder, batch, targets, arguments.batch_size)
        return [round(float(similarity), _DIGITS) for similarity in found]

    sentences = [sentence for sentence, translation in translations.items() if not is_blank(translation)]
    return file.fill(sentences, _BATCHES * arguments.batch_size, compare, f"Comparing with {language}")


__all__ = ["Checked", "check_translations", "similarities_of"]
