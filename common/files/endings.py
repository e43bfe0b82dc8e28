"""Tell what a file holds by the ending of its name."""

from pathlib import Path, PurePath

from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

# Both with the dot: {".jpg", ".png", ...}.
PICTURES = {ending.lower() for ending in ImageFolder.EXTENSIONS}
JSON = {".jsonl", ".ndjson", ".json"}
TEXTS = JSON | {".csv", ".tsv", ".txt"}
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")  # as `open_bounded` unpacks them


def suffix_of(path: str | Path) -> str:
    """Return the ending that says what a file holds, in lower case: "a.JSON.gz" -> ".json"."""
    return plain(path).suffix.lower()


def plain(path: str | Path) -> Path:
    """Return the path without the ending of a compressed file: "a.json.gz" -> "a.json"."""
    path = Path(path)
    # with_suffix("") drops the last ending alone: "a.json.gz" keeps ".json".
    return path.with_suffix("") if path.suffix.lower() in COMPRESSED else path


def is_hidden(path: PurePath) -> bool:
    """Check that `datasets` skips a file for its own name or that of a folder above it."""
    return any(part.startswith((".", "__")) for part in path.parts)


def files_below(folder: Path, endings: set[str]) -> list[Path]:
    """List the files with one of these endings in a folder and its subfolders, sorted.

    Hidden files are skipped, as `datasets` does.
    """
    found = []
    for path in sorted(folder.rglob("*")):
        # Only below `folder`, which may itself lie in a hidden one: ~/.cache/images/a.jpg.
        if suffix_of(path) not in endings or is_hidden(path.relative_to(folder)):
            continue
        if path.is_file():  # a folder may be named "a.json"
            found.append(path)
    return found


__all__ = ["COMPRESSED", "JSON", "PICTURES", "TEXTS", "files_below", "is_hidden", "plain", "suffix_of"]
