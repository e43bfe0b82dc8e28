"""Compare how texts are read before and after a vocabulary is trimmed, by language."""

from collections.abc import Iterable
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from common.markdown import markdown_text

from .corpus import Texts, read_batches
from .tokenizer_files import reader_of

_COLUMNS = (
    "language",
    "texts",
    "tokens before",
    "tokens after",
    "mean before",
    "mean after",
    "texts changed",
    "texts with new unknown tokens",
)


@dataclass
class Coverage:
    """How the texts of a language are read before and after.

    Attributes:
        texts: their number.
        tokens_before, tokens_after: tokens of all texts, special ones included.
        changed: texts that are read as other tokens.
        unknown: texts with more unknown tokens than before.
    """

    texts: int = 0
    tokens_before: int = 0
    tokens_after: int = 0
    changed: int = 0
    unknown: int = 0

    def add(self, other: "Coverage") -> None:
        """Add the texts of another one."""
        for name, number in vars(other).items():
            setattr(self, name, getattr(self, name) + number)

    def as_record(self) -> dict[str, int | float]:
        """Return the numbers, and what they are on average, as values of JSON."""
        return vars(self) | {
            "mean_tokens_before": self.tokens_before / self.texts,
            "mean_tokens_after": self.tokens_after / self.texts,
            "changed_share": self.changed / self.texts,
            "unknown_share": self.unknown / self.texts,
        }


class Comparison:
    """Two tokenizers, whose ids of the same texts are compared."""

    def __init__(self, before: PreTrainedTokenizerBase, after: PreTrainedTokenizerBase, rows: list[int]):
        """Prepare the two.

        Args:
            rows: the old id of each token of the tokenizer `after`.
        """
        self._read_before = reader_of(before).read
        self._read_after = reader_of(after).read
        self._unknown = before.unk_token_id
        self._rows = rows

    def cover(self, corpus: Iterable[Texts]) -> dict[str, Coverage]:
        """Compare the texts of a corpus, by language."""
        by_language = {}
        for language, texts in read_batches(corpus, "Comparing tokens"):
            coverage = by_language.setdefault(language, Coverage())
            coverage.add(self._cover_batch(texts))
        return by_language

    def _cover_batch(self, texts: list[str]) -> Coverage:
        coverage = Coverage(texts=len(texts))
        for before, new_ids in zip(self._read_before(texts), self._read_after(texts)):
            after = [self._rows[number] for number in new_ids]
            coverage.tokens_before += len(before)
            coverage.tokens_after += len(after)
            coverage.changed += before != after
            coverage.unknown += after.count(self._unknown) > before.count(self._unknown)
        return coverage


def total_of(by_language: dict[str, Coverage]) -> Coverage:
    """Return the coverage of all languages together."""
    total = Coverage()
    for coverage in by_language.values():
        total.add(coverage)
    return total


def records_of(by_language: dict[str, Coverage]) -> dict[str, dict]:
    """Return the coverage of each language as values of JSON."""
    return {language: coverage.as_record() for language, coverage in by_language.items()}


def table_of(by_language: dict[str, Coverage]) -> str:
    """Return the coverage of each language, and of all of them, as a table of Markdown."""
    lines = [f"| {' | '.join(_COLUMNS)} |", f"|---|{'---:|' * (len(_COLUMNS) - 1)}"]
    for language, coverage in [*by_language.items(), ("all", total_of(by_language))]:
        record = coverage.as_record()
        cells = [
            markdown_text(language),
            f"{coverage.texts:,}",
            f"{coverage.tokens_before:,}",
            f"{coverage.tokens_after:,}",
            f"{record['mean_tokens_before']:.2f}",
            f"{record['mean_tokens_after']:.2f}",
            f"{record['changed_share']:.2%}",
            f"{record['unknown_share']:.2%}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


__all__ = ["Comparison", "Coverage", "records_of", "table_of", "total_of"]
