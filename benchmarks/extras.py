"""Libraries that only some of our modules need: one that is missing is named with the extra that brings it."""

from collections.abc import Iterator
from contextlib import contextmanager

from .recipe import InputError


class MissingExtra(InputError, ImportError):
    """A library that one of our extras brings is not installed."""


@contextmanager
def of_extra(extra: str) -> Iterator[None]:
    """Let a failing import say which extra of ours to install.

    Raises:
        MissingExtra: a library is not there.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        library = error.name.partition(".")[0]
        raise MissingExtra(f'{library} is not installed: pip install "altclip[{extra}]"') from error


__all__ = ["MissingExtra", "of_extra"]
