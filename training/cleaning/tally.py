"""Count what becomes of texts, and keep the first examples of each reason."""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from common.files.json_files import read_json
from common.files.whole_files import write_text

KEPT = "kept"
_EXAMPLES = 10


@dataclass
class Tally:
    """What became of the texts of some rows.

    Attributes:
        rows: the number of rows read.
        rows_kept: those of which a text is kept.
        texts: `{(language, reason): texts}`; those that stay have the reason "kept".
        changes: `{(language, step): texts}`, of steps that change a text.
        examples: by reason or step, the first ten texts: their source, row, language, English, the text, and
            what it became, or is a near-duplicate of.
    """

    rows: int = 0
    rows_kept: int = 0
    texts: Counter = field(default_factory=Counter)
    changes: Counter = field(default_factory=Counter)
    examples: dict[str, list[dict]] = field(default_factory=dict)

    def add_example(self, reason: str, example: dict) -> None:
        """Keep an example of a reason, unless there are enough."""
        known = self.examples.setdefault(reason, [])
        if len(known) < _EXAMPLES:
            known.append(example)

    def add(self, other: "Tally") -> None:
        """Add the tally of later rows."""
        self.rows += other.rows
        self.rows_kept += other.rows_kept
        self.texts.update(other.texts)
        self.changes.update(other.changes)
        for reason, examples in other.examples.items():
            for example in examples:
                self.add_example(reason, example)

    def save(self, path: Path) -> None:
        """Write the tally as JSON, whose bytes depend on what it holds alone."""
        content = {
            "rows": self.rows,
            "rows_kept": self.rows_kept,
            "texts": _as_list(self.texts),
            "changes": _as_list(self.changes),
            "examples": self.examples,
        }
        write_text(path, json.dumps(content, ensure_ascii=False, indent=1, sort_keys=True) + "\n")

    @classmethod
    def load(cls, path: Path) -> "Tally":
        """Read what `save` wrote.

        Raises:
            InputError: it is no JSON.
        """
        content = read_json(path, "tally")
        texts = Counter({(language, reason): n for language, reason, n in content["texts"]})
        changes = Counter({(language, step): n for language, step, n in content["changes"]})
        return cls(content["rows"], content["rows_kept"], texts, changes, content["examples"])


def _as_list(counts: Counter) -> list[list]:
    """Return counts as `[language, reason, texts]`, in alphabetical order, without those of none."""
    return [[language, reason, n] for (language, reason), n in sorted(counts.items()) if n]


__all__ = ["KEPT", "Tally"]
