"""Texts in the cells of tables: which columns may hold them, and which texts count as none."""

from datasets import Json, List, Value

from modeling_altclip.texts_altclip import is_blank

from ..errors import InputError


def may_hold_texts(kind) -> bool:
    """Check that the type of a column allows a text or a list of texts in each cell, or nothing."""
    text = kind.feature if isinstance(kind, List) else kind
    if isinstance(text, Json):
        return True  # the rows have several forms, and `read_texts` looks at each
    return isinstance(text, Value) and ("string" in text.dtype or text.dtype == "null")


def read_texts(cell: str | list[str | None] | None, column: str) -> list[str]:
    """Return the texts of a cell that holds one or several; blank ones are left out.

    Args:
        column: its name, for messages.

    Raises:
        InputError: the cell holds something else.
    """
    texts = [cell] if isinstance(cell, str) else cell or []
    are_texts = isinstance(texts, list) and all(isinstance(text, str | None) for text in texts)
    if not are_texts:
        raise InputError(f"column {column!r} has {cell!r} in a row, which is no text: fix it")
    return [text for text in texts if text and not is_blank(text)]


def texts_in_cell(
    cell: str | list[str | None] | None, column: str, *, lines: bool = False, joined: bool = False
) -> list[str]:
    """Return the texts of a cell, as `read_texts`, without surrounding white space.

    Args:
        lines: each line is a text, as `clip_benchmark` writes them; a newline inside a text is a backslash
            and an n.
        joined: remove spaces, which some Chinese captions have between words.
    """
    texts = read_texts(cell, column)
    if lines:
        # Split first: a newline inside a text becomes one only afterwards.
        texts = [line for text in texts for line in text.split("\n")]
        texts = [text.replace("\\n", "\n") for text in texts]
    if joined:
        texts = [text.replace(" ", "") for text in texts]
    else:
        texts = [text.strip() for text in texts]
    return [text for text in texts if not is_blank(text)]


__all__ = ["may_hold_texts", "read_texts", "texts_in_cell"]
