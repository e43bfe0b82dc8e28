"""A file of one value for each sentence, written batch by batch: a run that was killed resumes from it."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import UnionType

from tqdm.auto import tqdm

from common.errors import InputError
from common.files.json_files import parse_json, read_json
from common.files.whole_files import write_text
from common.output import saving
from common.typed import fits


@dataclass(frozen=True)
class SentenceFile:
    """JSON Lines of a sentence and its value, `{"en": "a dog", "es": "un perro"}`, and a record beside them.

    Attributes:
        path: the file.
        made_by: model and settings that make the values. They are recorded in `NAME.made_by.json`, and values
            that were made otherwise are refused.
        sentence: the key of the sentence.
        value: the key of its value.
        kind: the type of the values.
        what: what a value is, for messages.
    """

    path: Path
    made_by: dict
    sentence: str
    value: str
    kind: type | UnionType
    what: str

    def fill(
        self, sentences: list[str], batch_size: int, compute: Callable[[list[str]], list], title: str
    ) -> dict:
        """Compute the values that the file does not hold yet.

        Batches are the same in a run that resumes, so that its bytes are too: a batch that is there in part
        is computed again.

        Args:
            sentences: distinct sentences.
            compute: returns the values of a batch.
            title: of the progress bar.

        Returns:
            `{sentence: value}` in the order of `sentences`.

        Raises:
            InputError: the file was made otherwise, or is damaged; or the disk is full.
        """
        known = self._read(sentences, batch_size)
        missing = [sentence for sentence in sentences if sentence not in known]
        with tqdm(total=len(missing), desc=title) as bar:
            for start in range(0, len(missing), batch_size):
                batch = missing[start : start + batch_size]
                values = dict(zip(batch, compute(batch)))
                self._append(values)
                known |= values
                bar.update(len(batch))
        return {sentence: known[sentence] for sentence in sentences}

    def _append(self, values: dict) -> None:
        """Write a batch behind those that are there, and onto the disk."""
        text = "".join(map(self._line_of, values.items()))
        with (
            saving(f"a batch of {self.path.name}", self.path.parent, len(text.encode())),
            open(self.path, "a", encoding="utf-8") as file,
        ):
            file.write(text)
            # A run that is killed, or a power cut, loses at most one batch.
            file.flush()
            os.fsync(file.fileno())

    def _line_of(self, pair: tuple) -> str:
        sentence, value = pair
        return json.dumps({self.sentence: sentence, self.value: value}, ensure_ascii=False) + "\n"

    def _read(self, sentences: list[str], batch_size: int) -> dict:
        """Read earlier values, without a last batch that a killed run left incomplete.

        Raises:
            InputError: they were made by another model, or with other settings; or a file is damaged.
        """
        record = self.path.with_suffix(".made_by.json")
        # An empty file is of a first run that failed: the next one may have other settings.
        if not self.path.exists() or self.path.stat().st_size == 0:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_text(record, json.dumps(self.made_by, indent=1) + "\n")
            return {}

        before = self._read_record(record)
        if before != self.made_by:
            other = []
            for name, value in self.made_by.items():
                if before.get(name) != value:
                    other.append(f"{name} {before.get(name)!r}")
            raise InputError(
                f"{self.path} was made with {', '.join(other)}: delete it, or give another output_dir"
            )

        complete = self.path.read_bytes()
        # Bytes split at line ends alone; text would also split at separators inside a sentence, as U+2028.
        lines = complete[: complete.rfind(b"\n") + 1].splitlines(keepends=True)
        pairs = [self._pair_of(line, number) for number, line in enumerate(lines, start=1)]
        known = dict(pairs)
        n_kept = len(pairs)
        if any(sentence not in known for sentence in sentences):
            n_kept -= n_kept % batch_size
        # What is incomplete is removed from the file as well, since new lines are appended.
        with open(self.path, "r+b") as file:
            file.truncate(sum(map(len, lines[:n_kept])))
        return dict(pairs[:n_kept])

    def _pair_of(self, line: bytes, number: int) -> tuple:
        """Return the sentence and the value of a line.

        Raises:
            InputError: it is damaged.
        """
        pair = parse_json(line, f"{self.path}, line {number},")
        if not self._is_pair(pair):
            raise InputError(
                f"{self.path}, line {number} is no text in {self.sentence!r} with its {self.what}: delete "
                "the line"
            )
        return pair[self.sentence], pair[self.value]

    def _is_pair(self, pair: object) -> bool:
        """Check that a line has a sentence and a value of the right types, and nothing else."""
        if not isinstance(pair, dict) or pair.keys() != {self.sentence, self.value}:
            return False
        return fits(pair[self.sentence], str) and fits(pair[self.value], self.kind)

    def _read_record(self, record: Path) -> dict:
        """Read what the values were made by.

        Raises:
            InputError: the record is missing or damaged.
        """
        try:
            before = read_json(record, "record")
        except InputError as error:
            raise InputError(f"{error}. Or delete {self.path} to begin anew") from error
        if not isinstance(before, dict):
            raise InputError(
                f"record {str(record)!r} is no mapping of settings: delete {self.path} to begin anew"
            )
        return before


__all__ = ["SentenceFile"]
