"""Make names of files: from names of tasks, models, languages and columns; and names that are still free."""

import re
from hashlib import blake2b
from pathlib import Path

# Bytes in UTF-8. File systems take 255 in one name, and an ending such as `.partial.npz` is to follow.
_LONGEST = 180
# Names of devices in Windows, with any ending: `con.json` too.
_DEVICES = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?", re.IGNORECASE)
# Separators of paths, and what else Windows keeps out of names.
_RESERVED = '/\\<>:"|?*'
_ENCODED = re.compile(r".*~[0-9a-f]{16}", re.DOTALL)


def file_name(text: str) -> str:
    """Return a name for a file or folder that is part of a path and never more than one part of it.

    Ordinary names are returned as they are: "flickr30k" -> "flickr30k". Of others, characters that a name
    must not have become `_`, the end of a long one is cut, and the digest of the whole text follows:
    "../pwned" -> ".._pwned~3ee170c68263a184". Two texts have two names, since a text that looks like such a
    name is encoded too.

    A name has at most 180 bytes and no separator, control or other invisible character. It is not empty, not
    `.` or `..`, no device of Windows, and ends in neither a dot nor a space.
    """
    shown = "".join(_shown(character) for character in text)
    is_ordinary = (
        shown == text
        and 0 < len(text.encode()) <= _LONGEST
        and text[-1] not in ". "
        and not _DEVICES.fullmatch(text)
        and not _ENCODED.fullmatch(text)
    )
    if is_ordinary:
        return text

    # "surrogatepass": half of a surrogate pair has no bytes in UTF-8 otherwise.
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    suffix = f"~{digest}"
    # A character of several bytes is not cut in two.
    start = shown.encode()[: _LONGEST - len(suffix) - 1].decode("utf-8", "ignore")
    if _DEVICES.fullmatch(start):
        start = f"_{start}"  # con.json~... would still be the device
    return start + suffix


def _shown(character: str) -> str:
    """Return a character as a name may have it: `_` for those that are reserved or cannot be seen."""
    is_allowed = character.isprintable() and character not in _RESERVED
    return character if is_allowed else "_"


def free_path(path: Path) -> Path:
    """Return a path that nothing has: the given one, else with the first free number behind its name.

    `stage2.replaced` becomes `stage2.replaced.2`, and if that is taken, `stage2.replaced.3`.
    """
    free = path
    number = 1
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}.{number}")
    return free


__all__ = ["file_name", "free_path"]
