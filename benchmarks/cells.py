"""The texts in a cell of a table: what a column may hold, and what is no text or shows nothing."""

from datasets import Json, List, Value

from modeling_altclip.texts_altclip import is_blank

from .recipe import InputError


def may_hold_texts(kind) -> bool:
    """Return whether a column's cells hold a text, a list of texts, or nothing.

    Or, as JSON of several forms, what each row says.
    """
    text = kind.feature if isinstance(kind, List) else kind
    return (
        isinstance(text, Json) or isinstance(text, Value) and ("string" in text.dtype or text.dtype == "null")
    )


def read_texts(cell: str | list[str | None] | None, column: str) -> list[str]:
    """Give the texts of a cell that holds one or several; blank ones are left out.

    Raises:
        InputError: the cell has something else than texts.
    """
    texts = [cell] if isinstance(cell, str) else cell or []
    if not (isinstance(texts, list) and all(isinstance(text, str | None) for text in texts)):
        raise InputError(f"column {column!r} has {cell!r} in a row, which is no text: mend it")
    return [text for text in texts if text and not is_blank(text)]


def texts_of(
    cell: str | list[str | None] | None, column: str, *, lines: bool = False, joined: bool = False
) -> list[str]:
    """Give the texts of a cell, as `read_texts`, without white space around them.

    Args:
        lines: each line is a text, as `clip_benchmark` writes them, with a newline inside of one as a
            backslash and an n.
        joined: spaces are taken out, which some Chinese captions have between words.
    """
    texts = read_texts(cell, column)
    if lines:
        texts = [line.replace("\\n", "\n") for text in texts for line in text.split("\n")]
    texts = [text.replace(" ", "") if joined else text.strip() for text in texts]
    return [text for text in texts if not is_blank(text)]


__all__ = ["may_hold_texts", "read_texts", "texts_of"]
