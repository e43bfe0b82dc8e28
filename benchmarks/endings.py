"""What a file holds, by the ending of its name."""

from pathlib import Path, PurePath

from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

PICTURES = {ending.lower() for ending in ImageFolder.EXTENSIONS}
JSON = {".jsonl", ".ndjson", ".json"}
COMPRESSED = (".gz", ".bz2")


def suffix_of(path: str | Path) -> str:
    """The ending that says what a file holds, in small letters: of a compressed file, the one before its last."""
    return plain(path).suffix.lower()


def plain(path: str | Path) -> Path:
    """The path without the ending that says how a file is compressed."""
    path = Path(path)
    return path.with_suffix("") if path.suffix in COMPRESSED else path


def is_hidden(path: PurePath) -> bool:
    """Whether a file, or a folder that it lies in, is one that `datasets` passes over."""
    return any(part.startswith((".", "__")) for part in path.parts)


def files_below(folder: Path, endings: set[str]) -> list[Path]:
    """All files of a folder, and of the folders in it, with one of these endings; hidden ones aside, as `datasets` has it."""
    found = []
    for path in sorted(folder.rglob("*")):
        if suffix_of(path) in endings and not is_hidden(path.relative_to(folder)) and path.is_file():
            found.append(path)
    return found


__all__ = ["JSON", "PICTURES", "files_below", "is_hidden", "plain", "suffix_of"]
