"""Leave out the rows of a stream that are in a test, one by one, and list them."""

import json
from pathlib import Path

from PIL.Image import Image as PillowImage

from common.files.json_files import parse_json
from common.files.text_files import lines_of

from .rows import line_of
from .tasks import Found, TaskIndex


class StreamExclusion:
    """Tells which rows of a stream are in a test, and lists each once, whatever the pass.

    Args:
        index: what is looked for.
        report: the file that gets a line per row that is found; a run that resumes adds to it.
    """

    def __init__(self, index: TaskIndex, report: Path):
        self._index = index
        self._report = report
        self._listed = None

    def has_captions(self, captions: dict[str, list[str]], file: str, row: int) -> bool:
        """Return whether a row has a caption that is in a test, in any language."""
        texts = [text for of_language in captions.values() for text in of_language]
        matches = self._index.find_captions(texts)
        if not matches:
            return False
        best = max(matches, key=lambda match: match.closeness)
        self._list(best, file, row, language=best.language, text=texts[best.number])
        return True

    def has_picture(self, picture: PillowImage, file: str, row: int) -> bool:
        """Return whether a row's decoded picture is in a test."""
        # Imported here, since the extra is needed for pictures alone.
        from .pictures import hash_picture

        hash = hash_picture(picture)
        matches = self._index.find_pictures([hash]) if hash is not None else []
        for match in matches:
            self._list(match, file, row)
        return bool(matches)

    def _list(self, found: Found, file: str, row: int, **more: str) -> None:
        """Add a line to the report, unless an earlier run or pass has done so."""
        if self._listed is None:
            self._listed = self._read_report()
        if (file, row) not in self._listed:
            self._listed.add((file, row))
            line = {"file": file, "row": row} | line_of(found) | more
            with self._report.open("a", encoding="utf-8") as report:
                report.write(json.dumps(line, ensure_ascii=False) + "\n")

    def _read_report(self) -> set[tuple[str, int]]:
        """Return the file and number of each row that the report lists."""
        if not self._report.exists():
            return set()
        listed = set()
        for number, line in enumerate(lines_of(self._report), start=1):
            row = parse_json(line, f"{self._report}, line {number},")
            listed.add((row["file"], row["row"]))
        return listed


__all__ = ["StreamExclusion"]
