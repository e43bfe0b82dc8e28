"""Check values that were read from JSON or YAML against the annotations of a dataclass."""

import math
import typing
from types import NoneType, UnionType

from .errors import InputError

_SHOWN = 80  # letters of a value that a message quotes
LARGEST = 2**63 - 1  # of whole numbers that torch and datasets take


def check_types(values: dict[str, object], kind: type, where: str) -> None:
    """Check values against the annotations of a dataclass, with the contents of lists and dicts.

    A whole number is also a float; a boolean is no number, and NaN is none either.

    Args:
        values: by the names of fields; others are not checked.
        where: the beginning of messages, such as `task 'a.yaml'`.

    Raises:
        InputError: a value is of another type; the message names the field, the value and the type.
    """
    for name, hint in typing.get_type_hints(kind).items():
        if name in values:
            misfit = _find_misfit(values[name], hint, name)
            if misfit is not None:
                place, value, wanted = misfit
                raise InputError(f"{where}: {place} is {shorten(value)}, which is no {wanted}")


def fits(value: object, hint: object) -> bool:
    """Check a value against an annotation: `fits([1], list[int])`, `fits(None, int | None)`."""
    return _find_misfit(value, hint, "") is None


def _find_misfit(value: object, hint: object, place: str) -> tuple[str, object, str] | None:
    """Return where a value does not fit an annotation, what is there, and what should be; None if it fits.

    `{"a": [1, None]}` does not fit `dict[str, list[int]]` at `place['a'][1]`, where None should be an int.
    """
    members = _members(hint)
    if any(_is_of(value, member) for member in members):
        # A list or dict, whose contents are checked too; there is one such type in an annotation at most.
        for member in members:
            if typing.get_origin(member) is not None and _is_of(value, member):
                return _find_misfit_within(value, member, place)
        return None
    names = [_origin(member).__name__ for member in members if member is not NoneType]
    return place, value, " or ".join(names)


def _find_misfit_within(value: list | dict, hint: object, place: str) -> tuple[str, object, str] | None:
    """Return the first misfit of a list's items, or of a dict's keys and values."""
    *of_keys, of_items = typing.get_args(hint)
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        for of_key in of_keys:
            misfit = _find_misfit(key, of_key, f"a key of {place}")
            if misfit is not None:
                return misfit
        misfit = _find_misfit(item, of_items, f"{place}[{key!r}]")
        if misfit is not None:
            return misfit
    return None


def _members(hint: object) -> tuple:
    """Return the types of a union, or the only one: `str | None` -> `(str, NoneType)`."""
    is_union = typing.get_origin(hint) in (UnionType, typing.Union)
    return typing.get_args(hint) if is_union else (hint,)


def _origin(hint: object) -> type:
    """Return a type without its parameters: `list[str]` -> `list`."""
    return typing.get_origin(hint) or hint


def _is_of(value: object, hint: object) -> bool:
    """Check a value against one type, without the contents of a list or dict."""
    kind = _origin(hint)
    if isinstance(value, bool):
        return kind is bool or kind is object
    if isinstance(value, int) and kind in (int, float):
        return abs(value) <= LARGEST
    if kind is float:
        return isinstance(value, float) and math.isfinite(value)
    return isinstance(value, kind)


def shorten(value: object) -> str:
    """Return a value as Python writes it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} ..."


__all__ = ["LARGEST", "check_types", "fits", "shorten"]
