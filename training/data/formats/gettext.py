"""Read catalogues of gettext, `.po` and `.mo`, with polib.

The texts to translate are in English, unless the header names another language in `X-Source-Language`. The
language of the translations is that of the header's `Language`, or else of the file's name: `de.po`,
`de/LC_MESSAGES/app.mo`. Marks of the letters that open menus are removed, see `mnemonics`.
"""

import re
import struct
from collections.abc import Iterator

import numpy as np

from common.errors import InputError, one_line
from common.extras import of_extra
from common.languages import language_of_tag

from .documents import Document
from .entries import FUZZY, OBSOLETE, PLURAL, UNTRANSLATED, Entry, as_entry, skip
from .mnemonics import without_mnemonics

with of_extra("formats"):
    import polib

_CHARSET = re.compile(rb"charset=([-\w.:]+)")
_HEADER = 2**16  # bytes within which the header states the encoding
# Lines of one text. polib adds them one at a time, each to a copy of those before.
_MOST_LINES = 10_000
# polib ends a line at these as well. They are replaced by characters of private use while it reads.
_LINE_ENDS = "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
_PRIVATE = "".join(chr(0xF8F0 + place) for place in range(len(_LINE_ENDS)))
_HIDE = str.maketrans(_LINE_ENDS, _PRIVATE)
_SHOW = str.maketrans(_PRIVATE, _LINE_ENDS)
_MAGIC = {b"\xde\x12\x04\x95": "<", b"\x95\x04\x12\xde": ">"}
# What polib raises for what is no catalogue.
_NO_CATALOGUE = (OSError, ValueError, LookupError, AttributeError, TypeError, struct.error)


def entries_of_gettext(document: Document) -> Iterator[Entry]:
    """Yield the entries of a catalogue.

    Raises:
        InputError: it is no catalogue, in another encoding than it states, or does not say its language.
    """
    with document.open() as file:
        content = file.read()
    charset = _CHARSET.search(content[:_HEADER])
    encoding = charset[1].decode() if charset else "utf-8"
    if encoding == "CHARSET":  # as templates have it
        encoding = "utf-8"
    try:
        if document.suffix == ".mo":
            _check_lengths(content, document.name)
            catalogue = polib.mofile(content, encoding=encoding)
        else:
            text = content.decode(encoding).removeprefix("\ufeff")
            _check_lines(text, document.name)
            # polib would open a file if the whole text were its path; no path has the character 0.
            catalogue = polib.pofile("# \0\n" + text.translate(_HIDE))
    except InputError:
        raise
    except UnicodeDecodeError as error:
        raise InputError(f"dataset {document.name!r} is not {encoding}, {error}: save it as UTF-8") from error
    except _NO_CATALOGUE as error:
        raise InputError(
            f"dataset {document.name!r} is no catalogue of gettext that can be read: {one_line(error)}"
        ) from error

    source = catalogue.metadata.get("X-Source-Language") or "en"
    target = _language_of(document, catalogue.metadata.get("Language"))
    for entry in catalogue:
        yield _entry(entry, source, target)


def _entry(entry: "polib.POEntry | polib.MOEntry", source: str, target: str) -> Entry:
    if entry.obsolete:
        return skip(OBSOLETE)
    if "fuzzy" in entry.flags:
        return skip(FUZZY)
    if entry.msgid_plural:
        return skip(PLURAL)
    if not entry.msgstr:
        return skip(UNTRANSLATED)
    text, translation = without_mnemonics(entry.msgid.translate(_SHOW), entry.msgstr.translate(_SHOW))
    return as_entry([(source, text), (target, translation)])


def _language_of(document: Document, stated: str | None) -> str:
    """Return the language that the header states, or else the file's name.

    Some headers state its name in place of its code: `Language: German`.

    Raises:
        InputError: neither does.
    """
    if language_of_tag(stated):
        return stated
    path = document.plain
    if path.parent.name == "LC_MESSAGES":
        return path.parent.parent.name
    name = path.stem.rpartition(".")[2]  # de.po -> de, app.pt_BR.po -> pt_BR
    language = language_of_tag(name) or ""
    # Words of three letters are more often names of programs: app.po.
    if len(language.partition("-")[0]) == 2:
        return name
    raise InputError(
        f"dataset {document.name!r} does not say its language: add 'Language: de' to its header, say, or "
        "name it de.po"
    )


def _check_lines(text: str, name: str) -> None:
    """Refuse a text of more than 10,000 lines.

    Raises:
        InputError: there is one.
    """
    n_lines = 0
    for line in text.split("\n"):
        n_lines = n_lines + 1 if line.lstrip("#~| \t").startswith('"') else 0
        if n_lines > _MOST_LINES:
            raise InputError(f"dataset {name!r} has a text of more than {_MOST_LINES:,} lines: fix it")


def _check_lengths(content: bytes, name: str) -> None:
    """Refuse a `.mo` whose texts overlap, so that they have together more bytes than the file.

    Raises:
        InputError: they do, or it is no `.mo`.
    """
    order = _MAGIC.get(content[:4])
    if order is None or len(content) < 20:
        raise InputError(f"dataset {name!r} is no catalogue of gettext that can be read: it is no .mo")
    n_texts, originals, translations = struct.unpack(f"{order}III", content[8:20])
    n_bytes = 0
    for start in (originals, translations):
        table = content[start : start + 8 * n_texts]  # a length and a place each
        if len(table) < 8 * n_texts:
            raise InputError(f"dataset {name!r} cannot be read: it has fewer texts than it states")
        n_bytes += int(np.frombuffer(table, f"{order}u4")[::2].sum(dtype=np.uint64))
    if n_bytes > len(content):
        raise InputError(f"dataset {name!r} cannot be read: its texts are longer than the file")


__all__ = ["entries_of_gettext"]
