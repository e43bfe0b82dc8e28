"""Check values that were read from JSON or YAML against the annotations of a dataclass."""

import math
import typing
from types import NoneType, UnionType

from .errors import InputError

_SHOWN = 80  # letters of a value that a message quotes


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
        if name in values and not fits(values[name], hint):
            shown = shorten(values[name])
            raise InputError(f"{where}: {name} is {shown}, which is no {_describe(values[name], hint)}")


def fits(value: object, hint: object) -> bool:
    """Check a value against an annotation: `fits([1], list[int])`, `fits(None, int | None)`."""
    origin = typing.get_origin(hint)
    members = typing.get_args(hint)
    if origin in (UnionType, typing.Union):
        return any(fits(value, member) for member in members)
    if origin is list:
        return isinstance(value, list) and all(fits(item, members[0]) for item in value)
    if origin is dict:
        if not isinstance(value, dict):
            return False
        keys_fit = all(fits(key, members[0]) for key in value)
        return keys_fit and all(fits(item, members[1]) for item in value.values())
    if hint is float:
        return _is_number(value) and math.isfinite(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _is_number(value: object) -> bool:
    # `math.isfinite` raises an error for a whole number that is too large for a float.
    return isinstance(value, float) or fits(value, int) and abs(value) < 2**63


def _describe(value: object, hint: object) -> str:
    """Name the type that a value should have: `list`, or `list[str]` for a list of something else."""
    is_union = typing.get_origin(hint) in (UnionType, typing.Union)
    members = typing.get_args(hint) if is_union else [hint]
    # list[str] | None -> {list: list[str]}
    by_origin = {typing.get_origin(member) or member: member for member in members if member is not NoneType}
    for origin, member in by_origin.items():
        if isinstance(value, origin) and origin in (list, dict):
            return str(member)
    return " or ".join(origin.__name__ for origin in by_origin)


def shorten(value: object) -> str:
    """Return a value as Python writes it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} ..."


__all__ = ["check_types", "fits", "shorten"]
